"""The matrix of an image's windows, and back: `im2col` and `col2im`, PyTorch's unfold and fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays
from fastconv.algorithms.geometry import aligned_up, column_map, row_map
from fastconv.arguments import PaddingArgument, Step
from fastconv.machine import Machine
from fastconv.operators import column_kernels, running
from fastconv.operators.running import Prepared, Result, Sizes
from fastconv.problem import LAYOUTS, Problem, one_of
from fastconv.runtime import Work

Array = npt.NDArray[Any]


def im2col(
    x: Any,
    kernel_size: Step,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    layout: str = "NCHW",
    padding_mode: str = "zeros",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Write the windows of images as a matrix, so that convolution becomes a product of matrices.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        As for `conv2d`; the axis N may be missing.
    kernel_size : int or (rows, columns)
        Of a window.
    stride, padding, dilation, padding_mode
        As for `conv2d`.
    layout : {"NCHW", "NHWC"}
        Axes of `x`; and order of the matrix, see below.
    threads : int, optional
        Default: ``fastconv.get_num_threads()``.
    out : array, optional
        Where to put the result: of its shape and dtype, writeable, sharing no memory with `x`.

    Returns
    -------
    array, shape (N, C * kh * kw, oh * ow), or (N, oh * ow, kh * kw * C) with ``layout="NHWC"``
        Of the kind and dtype of `x`. NCHW gives what PyTorch calls unfold: column i * ow + j holds the window of
        output pixel (i, j), in the order of ``w[o].ravel()``, w being "OIHW". NHWC gives a row for each window, in
        the order of ``w[..., o].ravel()``, w being "HWIO".

    Raises
    ------
    TypeError
        When an argument is of a wrong kind.
    ValueError
        When a value breaks a rule; the message gives the rule and the numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> fastconv.im2col(x, 2)[0].tolist()
    [[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0], [3.0, 4.0, 6.0, 7.0], [4.0, 5.0, 7.0, 8.0]]
    """
    source = arrays.view("x", x)
    settings = running.hashable(kernel_size, stride, padding, dilation)
    ready = running.remembered(_unfold, source, *settings, layout, padding_mode)
    return running.run(ready, x, source, out, threads)


def col2im(
    columns: Any,
    output_size: Step,
    kernel_size: Step,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    layout: str = "NCHW",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Add the windows of a matrix up to images: the transpose of `im2col`, PyTorch's fold, ONNX's Col2Im.

    Pixels that several windows cover get the sum; those that none covers get zero; what falls on padding is dropped.

    Parameters
    ----------
    columns : array, shape (N, C * kh * kw, oh * ow), or (N, oh * ow, kh * kw * C) with ``layout="NHWC"``
        As `im2col` returns it; the axis N may be missing. dtype as of `conv2d`'s arrays.
    output_size : int or (rows, columns)
        Of the images.
    kernel_size, stride, padding, dilation
        As for `im2col`; zeros are what was in the padding.
    layout : {"NCHW", "NHWC"}
        Of the matrix and of the result.
    threads : int, optional
        Default: ``fastconv.get_num_threads()``. The result does not depend on it.
    out : array, optional
        Where to put the result: of its shape and dtype, writeable, sharing no memory with `columns`.

    Returns
    -------
    array, shape (N, C, H, W) or (N, H, W, C)
        Of the kind of `columns`; of its dtype, or for integers of that of the sums: int32 for int8 and uint8, else
        int64.

    Raises
    ------
    TypeError
        When an argument is of a wrong kind.
    ValueError
        When a value breaks a rule; the message gives the rule and the numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.col2im(np.ones((1, 4, 4)), 3, 2)[0, 0].tolist()
    [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    """
    source = arrays.view("columns", columns)
    settings = running.hashable(output_size, kernel_size, stride, padding, dilation)
    ready = running.remembered(_fold, source, *settings, layout)
    return running.run(ready, columns, source, out, threads, "columns")


def _problem(sizes: Sizes, dtype: np.dtype[Any], kernel: tuple[int, int], **words: object) -> Problem:
    """Return the convolution with those windows, every argument checked."""
    shape = (sizes.n, sizes.c, sizes.h, sizes.w)
    return arguments.problem(shape, (1, sizes.c, *kernel), dtype=dtype.name, **words)  # type: ignore[arg-type]


def _unfold(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    layout: object,
    padding_mode: object,
) -> Prepared:
    sizes = running.sizes(shape, layout)
    kernel = arguments.pair("kernel_size", kernel_size)
    problem = _problem(
        sizes, dtype, kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=padding_mode
    )
    taps, pixels = problem.c * problem.taps, problem.oh * problem.ow
    matrix = (taps, pixels) if sizes.layout == "NCHW" else (pixels, taps)
    running.check_bytes((sizes.n, *matrix))
    compute = np.dtype(problem.compute_dtype)
    result = Result((sizes.n, *matrix)[0 if sizes.batched else 1 :], compute, dtype.newbyteorder("="))
    work = _unfold_work(problem, sizes.layout, compute) if sizes.n else None
    return Prepared(work, compute, (result,))


def _unfold_work(problem: Problem, layout: str, dtype: np.dtype[Any]) -> Work:
    p, size = problem, dtype.itemsize
    maps = [row_map(p), column_map(p)]
    last = [p.ow, p.w, p.h * p.w * size, p.padding[2], *p.stride, *p.dilation]
    if layout == "NCHW":
        kernel = column_kernels.unfold_planes(dtype.name)
        units, cycles = p.n * p.c * p.taps, p.oh * (40.0 + p.ow * size / 12)
    else:
        kernel = column_kernels.unfold_pixels(dtype.name)
        last = [p.ow, p.w, p.h * p.w * p.c * size, *last[3:], p.c]
        units, cycles = p.n * p.oh, p.ow * p.kh * (20.0 + p.kw * p.c * size / 12)
    per_task, tasks = running.chunks(units, cycles)
    return running.work(
        kernel,
        maps,
        [units, per_task, p.kh, p.kw, p.oh],
        last,
        tasks=tasks,
        scratch=0,
        cycles=cycles * units,
        moved=p.x_bytes + p.n * p.c * p.taps * p.oh * p.ow * size,
    )


def _fold(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    output_size: object,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    layout: object,
) -> Prepared:
    order = one_of("layout", layout, LAYOUTS)
    whole = arguments.shape("columns.shape", shape, (2, 3))
    h, w = arguments.pair("output_size", output_size)
    kernel = arguments.pair("kernel_size", kernel_size)
    n, first, second = whole if len(whole) == 3 else (1, *whole)
    rows, pixels = (first, second) if order == "NCHW" else (second, first)
    taps = kernel[0] * kernel[1]
    if rows % taps or rows == 0:
        raise ValueError(
            f"columns must have C * kh * kw {'rows' if order == 'NCHW' else 'columns'}, a multiple of "
            f"{kernel[0]} * {kernel[1]}, got {rows} in shape {whole} with layout={order!r}"
        )
    sizes = Sizes(n, rows // taps, h, w, order, len(whole) == 3)
    problem = _problem(sizes, dtype, kernel, stride=stride, padding=padding, dilation=dilation)
    if problem.oh * problem.ow != pixels:
        raise ValueError(
            f"columns must have one {'column' if order == 'NCHW' else 'row'} for each window, {problem.oh} * "
            f"{problem.ow} = {problem.oh * problem.ow} for images of {h} x {w}, got {pixels} in shape {whole} with "
            f"layout={order!r}"
        )
    compute = np.dtype(problem.compute_dtype)
    result = Result(sizes.result(sizes.c, h, w), compute, np.dtype(problem.result_dtype))
    make = _fold_planes if order == "NCHW" else _fold_pixels
    return Prepared(make(problem, compute) if n else None, compute, (result,))


def covering(
    size: int, taps: int, out: int, stride: int, before: int, dilation: int
) -> list[list[tuple[int, int]]]:
    """Return for each pixel of an axis the pairs (tap, window) that fall on it, in the order of the taps."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for tap in range(taps):
        for window in range(out):
            pixel = window * stride + tap * dilation - before
            if 0 <= pixel < size:
                found[pixel].append((tap, window))
    return found


def lists(values: list[list[int]], most: int) -> Array:
    """Return a table of rows: how many values, then the values."""
    table = np.zeros((len(values), 1 + most), np.int64)
    for row, listed in zip(table, values, strict=True):
        row[0] = len(listed)
        row[1 : 1 + len(listed)] = listed
    return table


def _fold_planes(p: Problem, dtype: np.dtype[Any]) -> Work:
    lanes, size = Machine.host().lanes(dtype), dtype.itemsize
    (top, _, left, _), (sh, sw), (dh, dw) = p.padding, p.stride, p.dilation
    pixels = p.oh * p.ow
    rows = [
        [(r * p.kw * pixels + i * p.ow) * size for r, i in pairs]
        for pairs in covering(p.h, p.kh, p.oh, sh, top, dh)
    ]
    taps: list[list[int]] = [[] for _ in range(sw)]
    for s in range(p.kw):
        taps[s * dw % sw] += [s * pixels * size, s * dw // sw]
    pitch = aligned_up((left + p.w - 1) // sw + 1, lanes)
    padded = np.arange(left, left + aligned_up(p.w, lanes)).clip(max=left + p.w - 1)
    places = (padded % sw * pitch + padded // sw) * size
    reads = sum(map(len, rows)) / p.h * p.kw * pitch / lanes
    units, cycles = p.n * p.c * p.h, 3.0 * reads + 8.0 * p.w / lanes + 40
    per_task, tasks = running.chunks(units, cycles)
    return running.work(
        column_kernels.fold_planes(lanes, dtype.name), [lists(rows, p.kh), lists(taps, 2 * p.kw), places],
        [units, per_task, p.kh, p.kw, p.h, p.w, p.ow, sw, left, pitch, p.taps * pixels * size],
        tasks=tasks, scratch=sw * pitch * size, cycles=cycles * units,
        moved=p.x_bytes + p.n * p.c * p.taps * pixels * size,
    )  # fmt: skip


def _fold_pixels(p: Problem, dtype: np.dtype[Any]) -> Work:
    lanes, size = Machine.host().lanes(dtype), dtype.itemsize
    (top, _, left, _), (sh, sw), (dh, dw) = p.padding, p.stride, p.dilation
    window = p.taps * p.c * size
    rows = [
        [i * p.ow * window + r * p.kw * p.c * size for r, i in pairs]
        for pairs in covering(p.h, p.kh, p.oh, sh, top, dh)
    ]
    cols = [
        [j * window + s * p.c * size for s, j in pairs] for pairs in covering(p.w, p.kw, p.ow, sw, left, dw)
    ]
    reads = sum(map(len, rows)) / p.h * sum(map(len, cols)) / p.w * -(-p.c // lanes)
    units, cycles = p.n * p.h, p.w * (3.0 * reads + 20)
    per_task, tasks = running.chunks(units, cycles)
    return running.work(
        column_kernels.fold_pixels(lanes, dtype.name), [lists(rows, p.kh), lists(cols, p.kw)],
        [units, per_task, p.kh, p.kw, p.h, p.w, p.c, p.oh * p.ow * window],
        tasks=tasks, scratch=0, cycles=cycles * units, moved=p.x_bytes + p.n * p.oh * p.ow * window,
    )  # fmt: skip
