"""Maxima and means of windows: sliding, adaptive and global pooling of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays
from fastconv.arguments import PaddingArgument, Step
from fastconv.operators import running
from fastconv.operators.pool_work import prepared
from fastconv.operators.running import Prepared
from fastconv.operators.windows import Windows, dividing, sliding

Array = npt.NDArray[Any]
AxisSize = int | None


def max_pool2d(
    x: Any,
    kernel_size: Step,
    stride: Step | None = None,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    ceil_mode: bool = False,
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Take the largest number of each window of each channel.

    ``y[n, c, i, j] = max(x[n, c, i*sh - top + r*dh, j*sw - left + s*dw])`` over the r < kh and s < kw for which
    that is a pixel of the image; padding never wins. A window with a NaN gives NaN.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        As for `conv2d`: any memory layout, any array with ``__dlpack__`` in the memory of the CPU; the axis N may
        be missing. dtype float32, float64, float16, or an integer type up to 32 bits unsigned, 64 bits signed.
    kernel_size : int or (rows, columns)
        Taps of a window.
    stride : int or (rows, columns), optional
        Distance of neighbouring windows. Default: `kernel_size`.
    padding : int, (rows, columns), ((top, bottom), (left, right)), or str
        As for `conv2d`; on each side less than ``dilation * (kernel_size - 1) + 1``.
    dilation : int or (rows, columns)
        Distance of neighbouring taps.
    ceil_mode : bool
        Whether one more window is taken that hangs over the end, if it begins before the end of the image.
    return_indices : bool
        Whether to say where the maxima are, too.
    layout : {"NCHW", "NHWC"}
        Axes of `x`, `out` and the result.
    threads : int, optional
        Default: ``fastconv.get_num_threads()``. The result does not depend on it.
    out : array, or pair of arrays with `return_indices`, optional
        Where to put the result: of its shape and dtype, writeable, sharing no memory with `x`.

    Returns
    -------
    y : array, shape (N, C, oh, ow) or (N, oh, ow, C)
        `out` if given, else a new array of the kind and dtype of `x`, with
        ``oh = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1``; rounded up with `ceil_mode`.
    indices : array of int64, of the shape of `y`
        With `return_indices`: ``h * W + w`` of each maximum in the plane of its channel; of several the first, of
        several NaN the last, as in PyTorch.

    Raises
    ------
    TypeError
        When an argument is of a wrong kind.
    ValueError
        When a value breaks a rule; the message gives the rule and the numbers.

    References
    ----------
    V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    >>> fastconv.max_pool2d(x, 2)[0, 0].tolist()
    [[6.0, 8.0], [14.0, 16.0]]
    >>> fastconv.max_pool2d(x, 3, stride=1, return_indices=True)[1].ravel().tolist()
    [10, 11, 14, 15]
    """
    source = arrays.view("x", x)
    operation = "argmax" if arguments.flag("return_indices", return_indices) else "max"
    ready = running.remembered(
        _slide, source, operation, layout, *running.hashable(kernel_size, stride, padding, dilation), ceil_mode
    )  # fmt: skip
    return running.run(ready, x, source, out, threads)


def avg_pool2d(
    x: Any,
    kernel_size: Step,
    stride: Step | None = None,
    padding: PaddingArgument = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Step = 1,
    layout: str = "NCHW",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Take the mean of each window of each channel.

    Parameters
    ----------
    x, kernel_size, stride, padding, dilation, ceil_mode, layout, threads, out
        As for `max_pool2d`; the dtype is a floating one.
    count_include_pad : bool
        Whether taps on the padding count as zeros, or not at all. What a window of `ceil_mode` covers beyond the
        padding never counts.
    divisor_override : int, optional
        What to divide the sums by instead of the number of taps; not 0.

    Returns
    -------
    array, shape (N, C, oh, ow) or (N, oh, ow, C)
        As of `max_pool2d`.

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d` does.

    Notes
    -----
    Each row of a window, or each column, is summed in the dtype of `x` (float16: float32), then their sums are;
    the error is that of a sum of kh + kw numbers and one division.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    >>> fastconv.avg_pool2d(x, 2)[0, 0].tolist()
    [[3.5, 5.5], [11.5, 13.5]]
    """
    source = _floating("avg_pool2d", x)
    ready = running.remembered(
        _slide, source, "mean", layout, *running.hashable(kernel_size, stride, padding, dilation), ceil_mode,
        count_include_pad, divisor_override,
    )  # fmt: skip
    return running.run(ready, x, source, out, threads)


def adaptive_max_pool2d(
    x: Any,
    output_size: int | tuple[AxisSize, AxisSize],
    *,
    return_indices: bool = False,
    layout: str = "NCHW",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Divide images of any size into `output_size` windows and take the maximum of each.

    Window i of an axis goes from ``floor(i * size / output_size)`` to ``ceil((i + 1) * size / output_size)``, so that
    neighbours may share a pixel.

    Parameters
    ----------
    x, return_indices, layout, threads, out
        As for `max_pool2d`.
    output_size : int or (rows, columns)
        Of the result; None stands for the size of `x`.

    Returns
    -------
    y, indices
        As of `max_pool2d`.

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    >>> fastconv.adaptive_max_pool2d(x, (1, 2)).ravel().tolist()
    [14.0, 16.0]
    """
    source = arrays.view("x", x)
    operation = "argmax" if arguments.flag("return_indices", return_indices) else "max"
    ready = running.remembered(_divide, source, operation, layout, _listed(output_size))
    return running.run(ready, x, source, out, threads)


def adaptive_avg_pool2d(
    x: Any,
    output_size: int | tuple[AxisSize, AxisSize],
    *,
    layout: str = "NCHW",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Divide images of any size into `output_size` windows and take the mean of each.

    Parameters
    ----------
    x, layout, threads, out
        As for `avg_pool2d`.
    output_size : int or (rows, columns)
        As for `adaptive_max_pool2d`.

    Returns
    -------
    array
        As of `avg_pool2d`.

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    >>> fastconv.adaptive_avg_pool2d(x, (1, 2)).ravel().tolist()
    [7.5, 9.5]
    """
    source = _floating("adaptive_avg_pool2d", x)
    ready = running.remembered(_divide, source, "mean", layout, _listed(output_size))
    return running.run(ready, x, source, out, threads)


def global_max_pool2d(x: Any, *, layout: str = "NCHW", threads: int | None = None, out: Any = None) -> Any:
    """Take the maximum of each channel of each image; rows and columns stay as axes of length 1.

    Parameters
    ----------
    x, layout, threads, out
        As for `max_pool2d`.

    Returns
    -------
    array, shape (N, C, 1, 1) or (N, 1, 1, C)

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.global_max_pool2d(np.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[[[3.0]], [[7.0]]]]
    """
    source = arrays.view("x", x)
    return running.run(running.remembered(_divide, source, "max", layout, 1), x, source, out, threads)


def global_avg_pool2d(x: Any, *, layout: str = "NCHW", threads: int | None = None, out: Any = None) -> Any:
    """Take the mean of each channel of each image; rows and columns stay as axes of length 1.

    Parameters
    ----------
    x, layout, threads, out
        As for `avg_pool2d`.

    Returns
    -------
    array, shape (N, C, 1, 1) or (N, 1, 1, C)

    Raises
    ------
    TypeError, ValueError
        As `avg_pool2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.global_avg_pool2d(np.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[[[1.5]], [[5.5]]]]
    """
    source = _floating("global_avg_pool2d", x)
    return running.run(running.remembered(_divide, source, "mean", layout, 1), x, source, out, threads)


def _floating(operator: str, x: Any) -> Array:
    source = arrays.view("x", x)
    if source.dtype.kind != "f":
        raise TypeError(
            f"x must have a floating dtype, for the mean of integers seldom is one, got {source.dtype.name}; "
            f"convert it, for example with {operator}(x.astype(numpy.float32), ...)"
        )
    return source


def _listed(output_size: object) -> object:
    return tuple(output_size) if isinstance(output_size, list) else output_size


def _slide(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    operation: str,
    layout: object,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: object,
    count_include_pad: object = True,
    divisor_override: object = None,
) -> Prepared:
    """Return sliding pooling, every argument checked."""
    sizes = running.sizes(shape, layout)
    kernel = arguments.pair("kernel_size", kernel_size)
    steps = kernel if stride is None else arguments.pair("stride", stride)
    gaps = arguments.pair("dilation", dilation)
    gaps = (gaps[0] if kernel[0] > 1 else 1, gaps[1] if kernel[1] > 1 else 1)
    ceil = arguments.flag("ceil_mode", ceil_mode)
    top, bottom, left, right = arguments.pads(padding, (sizes.h, sizes.w), kernel, steps, gaps)
    rows = sliding("rows", sizes.h, kernel[0], steps[0], top, bottom, gaps[0], ceil)
    cols = sliding("columns", sizes.w, kernel[1], steps[1], left, right, gaps[1], ceil)
    return prepared(
        operation, sizes, dtype, rows, cols, _divisors(rows, cols, count_include_pad, divisor_override)
    )


def _divisors(rows: Windows, cols: Windows, include: object, override: object) -> tuple[Array, Array]:
    """Return the factors of each window's divisor, by rows and by columns."""
    counted = arguments.flag("count_include_pad", include)
    if override is not None:
        value = arguments.integer("divisor_override", override)
        if value == 0:
            raise ValueError("divisor_override must not be 0, for sums are divided by it")
        return np.full(rows.out, float(value)), np.ones(cols.out)
    if counted:
        return rows.covered, cols.covered
    return rows.count, cols.count


def _divide(
    shape: tuple[int, ...], dtype: np.dtype[Any], operation: str, layout: object, output_size: object
) -> Prepared:
    """Return adaptive pooling, every argument checked."""
    sizes = running.sizes(shape, layout)
    wanted = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    if len(wanted) != 2:
        raise ValueError(
            f"output_size must be an int or a pair (rows, columns), got {len(wanted)} values: {wanted}"
        )
    oh, ow = (
        size if value is None else arguments.integer("output_size", value, 1)
        for value, size in zip(wanted, (sizes.h, sizes.w), strict=True)
    )
    running.check_bytes(sizes.result(sizes.c, oh, ow))
    rows, cols = dividing(sizes.h, oh), dividing(sizes.w, ow)
    return prepared(operation, sizes, dtype, rows, cols, (rows.count, cols.count))
