"""The gradients of convolution: by its images a transposed convolution, by its kernels a product of matrices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays, runtime
from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import aligned_up
from fastconv.arguments import PaddingArgument, Step
from fastconv.machine import Machine
from fastconv.operators import gradient_kernels, running, split_gradient, winograd_gradient
from fastconv.operators.running import Result
from fastconv.operators.transposed import check_float, check_same_dtype, conv_transpose2d, floats
from fastconv.planning import routes
from fastconv.problem import Problem
from fastconv.runtime import Work

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
    weights, gradient = floats("w", w), floats("grad_out", grad_out)
    check_same_dtype("grad_out", gradient, weights)
    problem = _forward(x_shape, weights.shape, gradient, stride, padding, dilation, groups, layout, accuracy)
    return conv_transpose2d(
        grad_out, w, *transposed_words(problem), layout=layout, accuracy=accuracy, threads=threads, out=out
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
    out: Any = None,
) -> Any:
    """Return the gradient of a loss by the kernels of a `conv2d`, from that by its result.

    For each tap it is one product of matrices, whose long side are the pixels: gradients by outputs times images.
    Where that is faster, Winograd takes fewer products for 3x3 kernels of stride 1 or 2, except in class "strict".

    Parameters
    ----------
    x : array
        Images of the convolution; float32 or float64.
    w_shape : tuple of 4 ints
        (O, C / groups, kh, kw).
    grad_out : array
        Of the shape of its result and the dtype of `x`.
    stride, padding, dilation, groups, layout, accuracy, threads, out
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
    source, gradient = floats("x", x), floats("grad_out", grad_out)
    check_same_dtype("grad_out", gradient, source)
    kernels = arguments.shape("w_shape", w_shape, (4,))
    problem = _forward(source.shape, kernels, gradient, stride, padding, dilation, groups, layout, accuracy)
    workers = routes.thread_count(threads)
    dtype = np.dtype(problem.dtype)
    result = Result(problem.w_shape, dtype, dtype)
    target = (
        None if out is None else running.target_of("out", out, result, {"x": source, "grad_out": gradient})
    )
    y = running.written_to(target, result)
    if problem.n:
        images, given = arrays.ready(source, dtype), arrays.ready(gradient, dtype)
        if not (
            _on_matrix_unit(problem, images, given, y, workers)
            or _by_winograd(problem, images, given, y, workers)
        ):
            work = weight_gradient(problem)
            runtime.run(work, arrays.address(images), arrays.address(y), arrays.address(given), workers)
    else:
        y[...] = 0
    return running.delivered(y, target, result, x, out)


def _on_matrix_unit(p: Problem, images: Array, given: Array, y: Array, workers: int) -> bool:
    """Compute y on the matrix unit; return False when the layer is none for it, or a value was not finite."""
    if not split_gradient.works(p, Machine.host()):
        return False
    # The gradients, and a flag that any task may set: parts of a value that is not finite mean nothing.
    words = np.array([arrays.address(given), 0], np.int64)
    work = split_gradient.work(p, 1 if workers == 1 else 2 * workers)
    runtime.run(work, arrays.address(images), arrays.address(y), arrays.address(words), workers)
    return not words[1]


def _by_winograd(p: Problem, images: Array, given: Array, y: Array, workers: int) -> bool:
    """Compute y by Winograd; return False when products of each tap are faster, or a value was not finite."""
    way = winograd_way(p)
    return way is not None and winograd_gradient.run(way, images, given, y, workers)


@lru_cache(maxsize=256)
def winograd_way(p: Problem) -> winograd_gradient.Way | None:
    """Return how Winograd computes the gradient by kernels; None where products for each tap are faster."""
    if not winograd_gradient.works(p):
        return None
    way = winograd_gradient.best(p)
    return way if way.seconds < weight_gradient(p).seconds else None


#: Bytes of an image that are packed at a time, as a share of L2; of the sums of all taps and outputs of a task.
BAND_SHARE, SUMS_SHARE = 4, 4
#: Cycles in which a block of sums, a vector of channels by one of taps, is turned and stored.
TURN_CYCLES = 35.0


@lru_cache(maxsize=256)
def weight_gradient(p: Problem) -> Work:
    """Return the work on images, gradients as a third array, and the gradient by the kernels."""
    machine, dtype = Machine.host(), np.dtype(p.dtype)
    lanes, size, nhwc = machine.lanes(p.dtype), dtype.itemsize, p.layout == "NHWC"
    tile = _tile(p, machine)
    width, cell = tile.nv * lanes, tile.mr * tile.nv * lanes * size
    (sh, sw), (dh, dw), (top, _, left, _) = p.stride, p.dilation, p.padding
    reach = dh * (p.kh - 1) + 1
    row_bytes = p.w * width * size
    band = max(1, min(p.oh, (machine.l2_bytes // BAND_SHARE // row_bytes - reach) // sh + 1))
    band_bytes = aligned_up(min(p.h, (band - 1) * sh + reach) * row_bytes, 64)
    count = -(-p.o_per_group // tile.mr)
    each = max(1, min(count, machine.l2_bytes // SUMS_SHARE // (p.taps * cell)))
    c_blocks = -(-p.c_per_group // width)
    if c_blocks * p.groups < 4:
        each = min(each, -(-count * c_blocks * p.groups // 4))
    splits = -(-count // each)
    unit = (p.c if nhwc else p.h * p.w) * size
    g_channel, g_pixel = (size, p.o * size) if nhwc else (p.oh * p.ow * size, size)
    g_row = p.ow * g_pixel
    a_pixel, a_channel = (tile.mr * size, size) if nhwc else (g_pixel, g_channel)
    a_row = p.ow * a_pixel
    sums = band_bytes + (aligned_up(band * a_row, 64) if nhwc else 0)
    steps = np.arange(band, dtype=np.int64)[:, None] * np.array([a_row, sh * row_bytes])
    pixels = p.n * p.oh * p.ow
    cycles = (
        tiles.tiled_cycles(tile, machine, p.o_per_group, p.c_per_group, pixels, lanes) * p.taps * p.groups
    )
    cycles += TURN_CYCLES * p.o * -(-p.c_per_group // lanes) * -(-p.taps // lanes)
    return running.work(
        gradient_kernels.weight_gradient(tile.mr, tile.nv, lanes, p.dtype, int(nhwc)),
        [steps, _inside(p.kh, dh, top, sh, p.h, p.oh), _inside(p.kw, dw, left, sw, p.w, p.ow)],
        [p.n, p.h, p.w, p.kh, p.kw, p.oh, p.o_per_group, p.c_per_group, c_blocks, splits, each, band, reach],
        [sh, sw, top, p.c * p.h * p.w * size, p.w * (unit if nhwc else size), unit],
        [p.o * p.oh * p.ow * size, g_row, g_channel, g_pixel],
        [p.c_per_group * (size if nhwc else unit), p.o_per_group * g_channel, sums, a_row, a_channel, a_pixel, p.ow],
        tasks=p.groups * c_blocks * splits, scratch=sums + each * p.taps * cell, cycles=cycles,
    )  # fmt: skip


def _tile(p: Problem, machine: Machine) -> tiles.Tile:
    """Return the register tile: few different ones, for each is a kernel to compile.

    13 rows cover 64, 128, 256 and 512 output channels with one or two to spare.
    """
    fitting = [tile for tile in tiles.tiles(machine) if tile.nv == 2 and tile.mr in (1, 2, 4, 6, 8, 13)]
    return max(tile for tile in fitting if tile.mr <= p.o_per_group)


def _inside(taps: int, dilation: int, before: int, stride: int, size: int, out: int) -> npt.NDArray[np.int64]:
    """Return of each tap the first output and the end of the outputs whose tap is inside; its place for output 0."""
    shift = np.arange(taps, dtype=np.int64) * dilation - before
    first = np.clip(-(shift // stride), 0, out)
    end = np.clip((size - 1 - shift) // stride + 1, first, out)
    return np.ascontiguousarray(np.stack([first, end, shift], axis=1))


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


def transposed_words(problem: Problem) -> tuple[Any, ...]:
    """Return what `conv_transpose2d` is called with, from the bias on, for the gradient by the images."""
    top, bottom, left, right = problem.padding
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    # Rows beyond the last window got no share of the result: their gradient is zero.
    rest = (
        problem.h - ((problem.oh - 1) * sh - top - bottom + dh * (problem.kh - 1) + 1),
        problem.w - ((problem.ow - 1) * sw - left - right + dw * (problem.kw - 1) + 1),
    )
    pads = ((top, bottom), (left, right))
    return None, problem.stride, pads, rest, problem.groups, problem.dilation


def convolution(
    sizes: tuple[int, ...],
    w_sizes: tuple[int, ...],
    dtype: np.dtype[Any],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    layout: Any,
    accuracy: Any,
) -> Problem:
    """Return the Problem of a convolution whose gradient is asked for."""
    check_float("dtype", dtype)
    return arguments.problem(
        sizes, w_sizes, stride=stride, padding=padding, dilation=dilation, groups=groups, layout=layout,
        dtype=dtype.name, accuracy=accuracy,
    )  # fmt: skip


def _forward(x_shape: object, w_shape: tuple[int, ...], gradient: Array, *words: Any) -> Problem:
    """Return the Problem of the convolution whose gradient is asked for, from memory when it was asked for before.

    `words` are stride, padding, dilation, groups, layout and accuracy.
    """
    x_sizes, *steps = running.hashable(x_shape, *words[:3])
    return running.remembered(_checked, gradient, x_sizes, w_shape, *steps, *words[3:])


def _checked(
    given: tuple[int, ...],
    dtype: np.dtype[Any],
    x_shape: Any,
    w_shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    layout: Any,
    accuracy: Any,
) -> Problem:
    """Check the arguments of a gradient and return the Problem of the convolution."""
    sizes = running.sizes(arguments.shape("x_shape", x_shape, (3, 4)), layout)
    problem = convolution(x_shape, w_shape, dtype, stride, padding, dilation, groups, layout, accuracy)
    shape = sizes.result(problem.o, problem.oh, problem.ow)
    if given != shape:
        raise ValueError(f"grad_out must have the shape of the convolution's result, {shape}, got {given}")
    return problem


def _as_nchw(array: Array, layout: str) -> Array:
    whole = array if array.ndim == 4 else array[None]
    return whole if layout == "NCHW" else whole.transpose(0, 3, 1, 2)
