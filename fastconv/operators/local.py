"""Locally connected layers: convolution whose kernel differs from output pixel to output pixel, or region to region."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from fastconv import api, arguments, arrays, runtime
from fastconv.algorithms.geometry import column_segments
from fastconv.arguments import PaddingArgument, Step
from fastconv.machine import Machine
from fastconv.operators import local_kernels, running
from fastconv.operators.running import Result, Sizes
from fastconv.planning import routes
from fastconv.problem import Pair, Problem, one_of
from fastconv.runtime import Work

Array = npt.NDArray[Any]

#: Where output rows and columns (or regions), kernel rows and columns, input and output channels stand.
WEIGHT_LAYOUTS = {"OIHWPQ": (4, 5, 2, 3, 1, 0), "PQHWIO": (0, 1, 2, 3, 4, 5)}
#: The images that read each layout of weights in order; others are turned.
IMAGES = {"OIHWPQ": "NCHW", "PQHWIO": "NHWC"}
#: Axes where the taps of a kernel are one axis with its channels, as Keras and JAX have them.
FUSED_AXES = {"OIHWPQ": 4, "PQHWIO": 3}
#: Bytes per second at which weights are read from beyond L2, for estimates.
WEIGHT_RATE = 3.4e10


def locally_connected2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    regions: Step | None = None,
    kernel_size: Step | None = None,
    layout: str = "NCHW",
    weight_layout: str = "OIHWPQ",
    accuracy: str = "standard",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Cross-correlate images with kernels that differ from place to place.

    ``y[n, o, i, j] = bias + sum(x[n, c, i*sh - top + r*dh, j*sw - left + s*dw] * w[o, c, r, s, i, j])`` over c, r, s:
    as `conv2d`, but each output pixel has kernels of its own; or, with `regions`, each part of the image has. Taps on
    padding are skipped, not multiplied.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        As for `conv2d`; the axis N may be missing.
    w : array, shape (O, C, kh, kw, P, Q), or (P, Q, kh, kw, C, O) with ``weight_layout="PQHWIO"``
        Kernels, of the dtype of `x`; P and Q are the rows and columns of the output, or of `regions`. With
        `kernel_size`, taps and channels may be one axis: (O, C * kh * kw, P, Q) as in JAX, and
        (P * Q, kh * kw * C, O) as in Keras.
    bias : array, shape (O,), (O, P, Q), or (P, Q, O) with ``weight_layout="PQHWIO"``, optional
        Of the dtype of `x`, or of that in which sums are kept.
    stride, padding, dilation
        As for `conv2d`.
    regions : int or (rows, columns), optional
        Into how many parts the output is divided; region p of P begins at output row ``p * oh // P``. Default: each
        output pixel is one.
    kernel_size : int or (rows, columns), optional
        Needed when taps and channels are one axis of `w`.
    layout : {"NCHW", "NHWC"}
        Axes of `x`, `out` and the result.
    weight_layout : {"OIHWPQ", "PQHWIO"}
        Axes of `w` and `bias`; fastest are "OIHWPQ" with NCHW and "PQHWIO" with NHWC.
    accuracy : {"strict", "standard", "fast"}
        As for `conv2d`. Kernels of single pixels are always summed plainly, as "strict" asks for.
    threads : int, optional
        Default: ``fastconv.get_num_threads()``. The result does not depend on it.
    out : array, optional
        Where to put the result: of its shape and dtype, writeable, sharing no memory with the other arrays.

    Returns
    -------
    array, shape (N, O, oh, ow) or (N, oh, ow, O)
        `out` if given, else a new array of the kind of `x`; shape and dtype as of `conv2d`.

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
    >>> x = np.ones((1, 1, 3, 3))
    >>> w = np.arange(4.0).reshape(1, 1, 1, 1, 2, 2) * np.ones((1, 1, 2, 2, 1, 1))
    >>> fastconv.locally_connected2d(x, w)[0, 0].tolist()
    [[0.0, 4.0], [8.0, 12.0]]
    """
    source, kernels = arrays.view("x", x), arrays.view("w", w)
    biases = None if bias is None else arrays.view("bias", bias)
    call = running.remembered(
        _checked, source, kernels.shape, kernels.dtype, layout, weight_layout, accuracy,
        *running.hashable(kernel_size, regions, stride, padding, dilation),
    )  # fmt: skip
    problem, sizes = call.problem, call.sizes
    _check_bias(biases, call)
    workers = routes.thread_count(threads)
    compute = np.dtype(problem.compute_dtype)
    shape = sizes.result(problem.o, problem.oh, problem.ow)
    result = Result(shape, compute, np.dtype(problem.result_dtype))
    inputs = {"x": source, "w": kernels, "bias": biases}
    target = None if out is None else running.target_of("out", out, result, inputs)
    six = kernels.reshape(call.shape)
    images = source if sizes.batched else source[None]
    if regions is not None:
        y = _by_regions(images, six, biases, call, workers)
    else:
        y = _by_pixels(images, six, biases, call, workers)
    y = y if sizes.batched else y[0]
    if target is None:
        return running.delivered(np.ascontiguousarray(y), None, result, x, None)
    target[...] = arrays.rounded(y, result.dtype)
    return out


@dataclass(frozen=True, slots=True)
class _Call:
    """What the arguments of a call mean: the convolution of one kernel, and for which places there are kernels."""

    problem: Problem
    sizes: Sizes
    weight_layout: str
    grid: Pair
    shape: tuple[int, ...]


def _checked(
    x_shape: tuple[int, ...],
    x_dtype: np.dtype[Any],
    w_shape: tuple[int, ...],
    w_dtype: np.dtype[Any],
    layout: object,
    weight_layout: object,
    accuracy: object,
    kernel_size: object,
    regions: object,
    stride: object,
    padding: object,
    dilation: object,
) -> _Call:
    if x_dtype.name != w_dtype.name:
        raise ValueError(f"x and w must have the same dtype, got {x_dtype.name} and {w_dtype.name}")
    sizes = running.sizes(x_shape, layout)
    word = one_of("weight_layout", weight_layout, tuple(WEIGHT_LAYOUTS))
    given = None if kernel_size is None else arguments.pair("kernel_size", kernel_size)
    parts = None if regions is None else arguments.pair("regions", regions)
    kernel, i, o = _kernel(w_shape, word, given)
    if i != sizes.c:
        raise ValueError(
            f"w must have C = {sizes.c} input channels, got {i} (x has C={sizes.c} with layout={layout!r}; w, of "
            f"shape {w_shape}, is read with weight_layout={word!r})"
        )
    problem = arguments.problem(
        (sizes.n, sizes.c, sizes.h, sizes.w), (o, i, *kernel), stride=stride, padding=padding, dilation=dilation,
        dtype=x_dtype.name, accuracy=accuracy,
    )  # fmt: skip
    grid = _grid(w_shape, word, parts, problem)
    six = (*grid, *kernel, i, o) if word == "PQHWIO" else (o, i, *kernel, *grid)
    return _Call(problem, sizes, word, grid, six)


def _kernel(shape: tuple[int, ...], word: str, given: Pair | None) -> tuple[Pair, int, int]:
    """Return rows and columns, input and output channels of the kernels."""
    fused = FUSED_AXES[word]
    if len(shape) not in (6, fused):
        raise ValueError(
            f"w must have 6 axes, or {fused} with kernel_size, for weight_layout={word!r}, got {len(shape)}: {shape}"
        )
    if 0 in shape:
        raise ValueError(f"w must have at least one of each, got shape {shape}")
    if len(shape) == 6:
        _, _, kh, kw, i, o = (shape[axis] for axis in WEIGHT_LAYOUTS[word])
        if given is not None and given != (kh, kw):
            raise ValueError(f"kernel_size must be that of w, {(kh, kw)} in shape {shape}, got {given}")
        return (kh, kw), i, o
    if given is None:
        raise ValueError(
            f"kernel_size must be given when w has {fused} axes, for taps and channels are one of them: {shape}"
        )
    joined, o = (shape[1], shape[0]) if word == "OIHWPQ" else (shape[1], shape[2])
    if joined % (given[0] * given[1]):
        raise ValueError(
            f"w must have C * kh * kw values per kernel, a multiple of {given[0]} * {given[1]}, got {joined} in "
            f"shape {shape}"
        )
    return given, joined // (given[0] * given[1]), o


def _grid(shape: tuple[int, ...], word: str, regions: Pair | None, problem: Problem) -> Pair:
    """Return for how many rows and columns of places there are kernels."""
    pixels = (problem.oh, problem.ow)
    wanted, what = (pixels, "output pixel") if regions is None else (regions, "region")
    if regions is not None and (regions[0] > pixels[0] or regions[1] > pixels[1]):
        raise ValueError(f"regions must be at most one for each output pixel, {pixels}, got {regions}")
    joined = word == "PQHWIO" and len(shape) == 3
    found = shape[:1] if joined else shape[-2:] if word == "OIHWPQ" else shape[:2]
    if found != ((wanted[0] * wanted[1],) if joined else wanted):
        hint = "" if regions else "; one kernel for several pixels needs regions=(rows, columns)"
        raise ValueError(
            f"w must have one kernel for each {what}, {wanted[0]} x {wanted[1]}, got "
            f"{' x '.join(map(str, found))} in shape {shape} with weight_layout={word!r}{hint}"
        )
    return wanted


def _check_bias(bias: Array | None, call: _Call) -> None:
    if bias is None:
        return
    o, word = call.problem.o, call.weight_layout
    whole = (*call.grid, o) if word == "PQHWIO" else (o, *call.grid)
    if bias.shape not in ((o,), whole):
        raise ValueError(
            f"bias must have one value per output channel, shape ({o},), or per place too, shape {whole} with "
            f"weight_layout={word!r}, got {bias.shape}"
        )
    arguments.check_bias((o,), bias.dtype.name, call.problem)


def _per_place(bias: Array, call: _Call) -> Array:
    """Return the bias of every place, (O, P, Q) or (P, Q, O)."""
    o = call.problem.o
    if call.weight_layout == "PQHWIO":
        return np.broadcast_to(bias, (*call.grid, o))
    return np.broadcast_to(bias.reshape(o, 1, 1) if bias.ndim == 1 else bias, (o, *call.grid))


def _by_regions(x: Array, w: Array, bias: Array | None, call: _Call, threads: int) -> Array:
    """Convolve each region with its kernels: what it sees of the image, and the padding that is left there."""
    problem, sizes = call.problem, call.sizes
    nhwc, pixel_first = sizes.layout == "NHWC", call.weight_layout == "PQHWIO"
    shape = (sizes.n, problem.oh, problem.ow, problem.o) if nhwc else problem.y_shape
    y = np.zeros(shape, problem.result_dtype)
    biases = None if bias is None else _per_place(bias, call)
    for p in range(call.grid[0]):
        rows = _seen(p, call.grid[0], problem.oh, problem.h, problem.kh, 0, problem)
        for q in range(call.grid[1]):
            cols = _seen(q, call.grid[1], problem.ow, problem.w, problem.kw, 1, problem)
            place = (slice(None), rows[0], cols[0]) if nhwc else (slice(None), slice(None), rows[0], cols[0])
            seen = (slice(None), rows[1], cols[1]) if nhwc else (slice(None), slice(None), rows[1], cols[1])
            b = None if biases is None else biases[p, q] if pixel_first else biases[:, p, q]
            if x[seen].size:
                y[place] = api.conv2d(
                    x[seen], w[p, q] if pixel_first else w[..., p, q], b, problem.stride, (rows[2], cols[2]),
                    problem.dilation, layout=sizes.layout, weight_layout="HWIO" if pixel_first else "OIHW",
                    accuracy=problem.accuracy, threads=threads,
                )  # fmt: skip
            elif b is not None:
                y[place] = b if nhwc else b.reshape(-1, 1, 1)
    return y


def _seen(
    index: int, count: int, out: int, size: int, taps: int, axis: int, problem: Problem
) -> tuple[slice, slice, Pair]:
    """Return of one region the output pixels, the input pixels under them, and the padding around those."""
    first, end = index * out // count, (index + 1) * out // count
    start = first * problem.stride[axis] - problem.padding[2 * axis]
    stop = start + (end - first - 1) * problem.stride[axis] + problem.dilation[axis] * (taps - 1) + 1
    inside = slice(min(max(start, 0), size), max(min(stop, size), 0))
    return slice(first, end), inside, (max(-start, 0), max(stop - size, 0))


def _by_pixels(x: Array, w: Array, bias: Array | None, call: _Call, threads: int) -> Array:
    """Compute with the kernels of single pixels, in the layout that reads them in order."""
    problem, layout = call.problem, IMAGES[call.weight_layout]
    dtype = np.dtype(problem.compute_dtype)
    if call.sizes.layout != layout:
        x = x.transpose((0, 2, 3, 1) if layout == "NHWC" else (0, 3, 1, 2))
    x, weights = arrays.ready(x, dtype), arrays.ready(w, dtype)
    biases = np.zeros(problem.o, dtype) if bias is None else arrays.ready(bias, dtype)
    pixels = (problem.oh, problem.ow)
    y = arrays.fresh(
        (problem.n, *pixels, problem.o) if layout == "NHWC" else (problem.n, problem.o, *pixels), dtype
    )
    if problem.n:
        if layout == "NCHW":
            x = _columns(x, problem)
        work = (_planes if layout == "NCHW" else _pixels)(problem, biases.ndim > 1)
        context = work.context.copy()
        context[3], context[4] = arrays.address(weights), arrays.address(biases)
        ready = Work(
            work.kernel, context, work.tasks, work.scratch_bytes, work.seconds, (work, weights, biases)
        )
        runtime.run(ready, arrays.address(x), arrays.address(y), 0, threads)
    if call.sizes.layout == layout:
        return y
    return y.transpose((0, 3, 1, 2) if layout == "NHWC" else (0, 2, 3, 1))


def _columns(x: Array, p: Problem) -> Array:
    """Return NCHW images as `local_planes` reads them: under each tap of a row its columns, rows a stride apart."""
    (sh, sw), (top, _, left, _), rows = p.stride, p.padding, _rows(p)
    padded = np.zeros((p.n, p.c, max(top + p.h, sh * rows), max(left + p.w, _reach(p))), x.dtype)
    padded[:, :, top : top + p.h, left : left + p.w] = x
    size = p.n * p.c * p.kw * sh * rows * p.ow
    # A vector that begins in the last row may end behind it.
    found = np.empty(size + Machine.host().lanes(p.compute_dtype), x.dtype)
    found[size:] = 0
    columns = found[:size].reshape(p.n, p.c, p.kw, sh, rows, p.ow)
    image, channel, row, column = padded.strides
    under = as_strided(
        padded,
        columns.shape,
        (image, channel, p.dilation[1] * column, row, sh * row, sw * column),
        writeable=False,
    )
    columns[...] = under
    return found


def _rows(p: Problem) -> int:
    """Return how many rows a stride apart `local_planes` reads."""
    return p.oh + (p.kh - 1) * p.dilation[0] // p.stride[0]


def _reach(p: Problem) -> int:
    """Return the columns of the padded image that are read."""
    return (p.kw - 1) * p.dilation[1] + (p.ow - 1) * p.stride[1] + 1


@lru_cache(maxsize=256)
def _pixels(p: Problem, per_place: bool) -> Work:
    """Return the work on NHWC images, but for the weights; biases are per place, or one for each output channel."""
    dtype = np.dtype(p.compute_dtype)
    size, lanes = dtype.itemsize, Machine.host().lanes(dtype)
    units, cycles = p.oh * p.ow, _cycles(p) / (p.oh * p.ow)
    per_task, tasks = running.chunks(units, cycles)
    # Rows of weights are read whole, where registers allow: 1.4 times as fast with four vectors of float64 as with two.
    nv = max(1, min(4, p.o // lanes))
    full = column_segments(nv * lanes, nv, lanes, size)
    return running.work(
        local_kernels.local_pixels(nv, lanes, dtype.name), [0, 0, full, units, per_task, p.n, p.h, p.w, p.c, p.o, p.ow],
        [p.kh, p.kw, *p.stride, *p.dilation, p.padding[0], p.padding[2]],
        [p.h * p.w * p.c * size, p.oh * p.ow * p.o * size, per_place * p.o * size],
        tasks=tasks, scratch=16 * p.taps, cycles=_cycles(p),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _planes(p: Problem, per_place: bool) -> Work:
    """Return the work on NCHW images, but for the weights; biases as in `_pixels`."""
    dtype = np.dtype(p.compute_dtype)
    size, lanes = dtype.itemsize, Machine.host().lanes(dtype)
    pixels, sh, rows = p.oh * p.ow, p.stride[0], _rows(p)
    down, across = np.arange(p.kh)[:, None] * p.dilation[0], np.arange(p.kw) * p.dilation[1]
    taps = ((np.arange(p.kw) * sh + down % sh) * rows + down // sh) * p.ow * size
    under = (
        np.arange(p.oh) * sh + down - p.padding[0],
        np.arange(p.ow) * p.stride[1] + across[:, None] - p.padding[2],
    )
    inside = [(0 <= place) & (place < end) for place, end in zip(under, (p.h, p.w), strict=True)]
    vectors = -(-pixels // lanes)
    bits = np.zeros((p.taps, vectors * lanes), np.int64)
    bits[:, :pixels] = (inside[0][:, None, :, None] & inside[1][:, None]).reshape(p.taps, pixels)
    masks = (bits.reshape(p.taps, vectors, lanes) << np.arange(lanes)).sum(axis=2).T
    blocks = min(vectors, -(-8 // p.o))
    per_block = -(-vectors // blocks)
    blocks = -(-vectors // per_block)
    some = local_kernels.local_planes_3x3 if p.kh == p.kw == 3 else local_kernels.local_planes
    return running.work(
        some(lanes, dtype.name), [0, 0, taps, masks, blocks, per_block, p.n, p.c, p.o, pixels, p.taps],
        [p.kw * sh * rows * p.ow * size, per_place * pixels * size],
        tasks=p.o * blocks, scratch=0, cycles=_cycles(p),
    )  # fmt: skip


def _cycles(p: Problem) -> float:
    """Return the estimated cycles: reading the weights, or the products where there are many images."""
    weights = p.oh * p.ow * p.o * p.c * p.taps * np.dtype(p.compute_dtype).itemsize
    return weights * max(running.CLOCK / WEIGHT_RATE, p.n / 32)
