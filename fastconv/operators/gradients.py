"""The gradients of convolution: by its images a transposed convolution, by its kernels a product of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import api, arguments, arrays
from fastconv.arguments import PaddingArgument, Step
from fastconv.operators import running, unfolding
from fastconv.operators.transposed import check_same_dtype, conv_transpose2d, floats
from fastconv.problem import Problem

Array = npt.NDArray[Any]


def conv2d_input_grad(
    x_shape: tuple[int, ...],
    w: Any,
    grad_out: Any,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    accuracy: str = "standard",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Return the gradient of a loss by the images of a `conv2d`, from that by its result.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints
        Shape of the images.
    w : array, shape (O, C / groups, kh, kw)
        Kernels of the convolution; float32 or float64.
    grad_out : array
        Of the shape of its result and the dtype of `w`.
    stride, padding, dilation, groups, layout
        Of the convolution; padding with zeros.
    accuracy, threads, out
        As for `conv2d`.

    Returns
    -------
    array, shape `x_shape`

    Raises
    ------
    TypeError, ValueError
        When an argument is of a wrong kind or breaks a rule.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> w = np.array([[[[1.0, 2.0]]]])
    >>> fastconv.conv2d_input_grad((1, 1, 1, 3), w, np.array([[[[10.0, 100.0]]]]))[0, 0].tolist()
    [[10.0, 120.0, 200.0]]
    """
    problem = _forward(x_shape, w, grad_out, stride, padding, dilation, groups, layout)
    top, bottom, left, right = problem.padding
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    # Rows beyond the last window got no share of the result: their gradient is zero.
    rest = (
        problem.h - ((problem.oh - 1) * sh - top - bottom + dh * (problem.kh - 1) + 1),
        problem.w - ((problem.ow - 1) * sw - left - right + dw * (problem.kw - 1) + 1),
    )
    return conv_transpose2d(
        grad_out,
        w,
        None,
        problem.stride,
        ((top, bottom), (left, right)),
        rest,
        groups,
        problem.dilation,
        layout=layout,
        accuracy=accuracy,
        threads=threads,
        out=out,
    )


def conv2d_weight_grad(
    x: Any,
    w_shape: tuple[int, ...],
    grad_out: Any,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    accuracy: str = "standard",
    threads: int | None = None,
) -> Any:
    """Return the gradient of a loss by the kernels of a `conv2d`, from that by its result.

    For each group it is one product of matrices: gradients by outputs times the windows of the images.

    Parameters
    ----------
    x : array
        Images of the convolution; float32 or float64.
    w_shape : tuple of 4 ints
        (O, C / groups, kh, kw).
    grad_out : array
        Of the shape of its result and the dtype of `x`.
    stride, padding, dilation, groups, layout, accuracy, threads
        As for `conv2d`; padding with zeros.

    Returns
    -------
    array, shape `w_shape`

    Raises
    ------
    TypeError, ValueError
        When an argument is of a wrong kind or breaks a rule.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 2.0, 3.0]]]])
    >>> fastconv.conv2d_weight_grad(x, (1, 1, 1, 2), np.array([[[[10.0, 100.0]]]]))[0, 0].tolist()
    [[210.0, 320.0]]
    """
    source = floats("x", x)
    empty = np.empty(arguments.shape("w_shape", w_shape, (4,)), source.dtype)
    problem = _forward(source.shape, empty, grad_out, stride, padding, dilation, groups, layout)
    images = _as_nchw(source, layout)
    pixels = problem.oh * problem.ow
    gradient = _as_nchw(floats("grad_out", grad_out), layout).reshape(problem.n, problem.groups, -1, pixels)
    top, bottom, left, right = problem.padding
    kernel = (problem.kh, problem.kw)
    pads = ((top, bottom), (left, right))
    columns = unfolding.im2col(images, kernel, problem.stride, pads, problem.dilation, threads=threads)
    windows = columns.reshape(problem.n, problem.groups, -1, pixels)
    per_group = problem.o // problem.groups
    result = np.zeros((problem.groups, per_group, windows.shape[2]), source.dtype)
    for group in range(problem.groups):
        # Images side by side in the depth of the product.
        rows = np.ascontiguousarray(gradient[:, group].swapaxes(0, 1)).reshape(1, 1, per_group, -1)
        depth = np.ascontiguousarray(windows[:, group].swapaxes(0, 1)).reshape(windows.shape[2], -1, 1, 1)
        if depth.shape[1]:
            result[group] = api.conv2d(rows, depth, layout="NHWC", accuracy=accuracy, threads=threads)[0, 0]
    whole = result.reshape(problem.w_shape)
    return whole if type(x) is np.ndarray else arrays.give_back(whole, x)


def conv2d_bias_grad(grad_out: Any, *, layout: str = "NCHW") -> Any:
    """Return the gradient of a loss by the bias of a `conv2d`, from that by its result: its sum over all pixels.

    Parameters
    ----------
    grad_out : array, shape (N, O, oh, ow), or (N, oh, ow, O) with ``layout="NHWC"``
        float32 or float64; the axis N may be missing.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape (O,)

    Raises
    ------
    TypeError, ValueError
        When an argument is of a wrong kind or breaks a rule.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.conv2d_bias_grad(np.ones((2, 3, 4, 5))).tolist()
    [40.0, 40.0, 40.0]
    """
    source = floats("grad_out", grad_out)
    running.sizes(source.shape, layout)
    # In float64: a sum of a million pixels loses three digits of a float32.
    sums = _as_nchw(source, layout).sum(axis=(0, 2, 3), dtype=np.float64).astype(source.dtype)
    return sums if type(grad_out) is np.ndarray else arrays.give_back(sums, grad_out)


def _forward(
    x_shape: tuple[int, ...],
    w: Any,
    grad_out: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    layout: Any,
) -> Problem:
    """Return the Problem of the convolution whose gradient is asked for."""
    weights, gradient = floats("w", w), floats("grad_out", grad_out)
    check_same_dtype("grad_out", gradient, weights)
    sizes = running.sizes(arguments.shape("x_shape", x_shape, (3, 4)), layout)
    problem = arguments.problem(
        x_shape, weights.shape, stride=stride, padding=padding, dilation=dilation, groups=groups, layout=layout,
        dtype=weights.dtype.name,
    )  # fmt: skip
    shape = sizes.result(problem.o, problem.oh, problem.ow)
    if gradient.shape != shape:
        raise ValueError(
            f"grad_out must have the shape of the convolution's result, {shape}, got {gradient.shape}"
        )
    return problem


def _as_nchw(array: Array, layout: str) -> Array:
    whole = array if array.ndim == 4 else array[None]
    return whole if layout == "NCHW" else whole.transpose(0, 3, 1, 2)
