"""Kernels that are a column times a row, in one sweep over the image: pixels in, pixels out, nothing between in memory.

A task takes a block of columns of a band of rows, few rows at a time: sums down the columns, into a strip that stays
in L1, then sums along its rows, which are stored as pixels. Channels stay side by side. What stands around the image
is looked up, by row in a table of addresses, by column by gathering the few pixels that are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arrays, runtime
from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.interface import WeightsDoNotFitError, WeightsNotFiniteError
from fastconv.algorithms.separable import column_and_row
from fastconv.image.borders import Border, sources
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import copy_bytes, item_bytes, load, store, words, zero_bytes
from fastconv.kernels.sweep_tile import LINE, PIXELS, VECTORS, column_sums, gather_pixels, row_sums
from fastconv.machine import Machine
from fastconv.operators import running
from fastconv.runtime import Work

Array = npt.NDArray[Any]
Task = Callable[[int, int, int], None]

#: Output rows that share the rows they are summed from, by vector registers: their sums must leave some of them free.
MOST_ROWS = {32: 4, 16: 2}
#: Numbers of a block of columns: its strip of sums stays in L1.
BLOCK = 1024
#: Bytes of the rows around a task: they stay in L2 until they are done with.
ROWS_BYTES = 1 << 20
#: Rows of a task, so many that reading the rows around it again costs little.
BAND = 64
#: Sweeps to remember.
SWEEPS = 64


@task_factory
def sweep(kernels: int, rows: int, lanes: int, pixel: str, dtype: str, result: str) -> Task:
    """Return the task that filters a block of columns of a band of rows of one image with one kernel, or with two.

    Shapes   x (N, H, W * C) of `pixel`, y (N, OH, OW * C) of `result`; weights (kernels, kh + kw): columns, then rows;
             lines: the row of x behind each padded row, columns: likewise, -1 for pixels such as those at `outside`
    Assumes  kh >= rows; the rest as `_work` writes it
    Touches  writes its rows and columns of y, and scratch
    """
    size, pixel_size, result_size = item_bytes(dtype), PIXELS[pixel][1], PIXELS[result][1]
    tile = VECTORS * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, lines, columns, outside, kh, kw, channels = words(ctx, 10)
        across, down, band, block, oh, line, before, width = words(ctx + 80, 8)
        x_row, x_image, y_row, y_image = words(ctx + 144, 4)
        packed_at, packed_pitch, sums_at, pitch, spare_at, scratch_end, blocks = words(ctx + 176, 7)
        rest = i // across
        image, first = rest // down, rest % down * band
        window, per_kernel, gap = kh + rows - 1, (kh + kw) * size, rows * pitch
        entries = window + rows
        table, packed_table, packed, sums = (
            scratch,
            scratch + 8 * entries,
            scratch + packed_at,
            scratch + sums_at,
        )
        zero_bytes(packed, scratch_end - packed_at)
        for p in range(entries):
            store("int64", packed_table + 8 * p, packed + p * packed_pitch)
        begin = i % across * blocks * block
        for t in range(first, min(first + band, oh), rows):
            for p in range(entries):
                row = load("int64", lines + 8 * (t + p))
                store("int64", table + 8 * p, outside if row < 0 else x + image * x_image + row * x_row)
            for start in range(begin, min(begin + blocks * block, line), block):
                stop = min(start + block, line)
                # Padded columns that are read, and those of them inside the image.
                end = stop + (kw - 1) * channels
                inner, inner_end = max(start, before), min(end, before + width)
                if inner_end - inner < tile:
                    inner = inner_end = end
                for side in range(2):
                    left, right = (start, inner) if side == 0 else (inner_end, end)
                    if left < right:
                        listed = columns + 8 * (left // channels)
                        for p in range(window):
                            gather_pixels(
                                pixel, load("int64", table + 8 * p), outside, listed, (right - left) // channels,
                                channels, packed + p * packed_pitch,
                            )  # fmt: skip
                        for k in range(kernels):
                            column_sums(
                                rows, lanes, pixel, dtype, packed_table, 0, max(right - left, tile), kh,
                                weights + k * per_kernel, sums + k * gap + (left - start) * size, pitch,
                            )  # fmt: skip
                    if side == 0 and inner < inner_end:
                        for k in range(kernels):
                            column_sums(
                                rows, lanes, pixel, dtype, table, (inner - before) * pixel_size, inner_end - inner,
                                kh, weights + k * per_kernel, sums + k * gap + (inner - start) * size, pitch,
                            )  # fmt: skip
                for r in range(min(rows, oh - t)):
                    to = y + image * y_image + (t + r) * y_row + start * result_size
                    wide = stop - start >= tile
                    row_sums(
                        kernels, lanes, dtype, result, sums + r * pitch, stop - start if wide else tile, kw,
                        channels * size, weights + kh * size, to if wide else scratch + spare_at, gap, per_kernel,
                        rows * y_row,
                    )  # fmt: skip
                    if not wide:
                        copy_bytes(to, scratch + spare_at, (stop - start) * result_size)

    return task


def swept(
    images: Array, kernels: Array, border: Border, dtype: np.dtype[Any], out: Array | None, threads: int
) -> Array | None:
    """Correlate images with one kernel; or with two, for the root of the sum of the squares of both.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
    kernels : ndarray, shape (1 or 2, kh, kw)
        Of float32 or float64, in which sums are computed.
    border : Border
    dtype : dtype
        Of the result, if kernels store it.
    out : ndarray, optional
        Where to put it then; C-contiguous.
    threads : int
        As `effective_threads` gave it.

    Returns
    -------
    ndarray, shape (N, OH, OW, C), or None
        None where a kernel is no column times a row. Of the dtype of the kernels where they do not store `dtype`.
    """
    factors = columns_and_rows(kernels)
    if factors is None:
        return None
    compute = kernels.dtype
    pixels = _ready(images, border, compute)
    count, height, width, channels = pixels.shape
    kh, kw = kernels.shape[1:]
    oh, ow = height + border.top + border.bottom - kh + 1, width + border.left + border.right - kw + 1
    result = dtype if stores(dtype, compute) else compute
    y = out if out is not None and result == dtype else np.empty((count, oh, ow, channels), result)
    if y.size:
        settings = (pixels.shape, pixels.strides[:2], pixels.dtype, factors.tobytes(), (kh, kw))
        work = _work(*settings, compute, result, border)
        runtime.run(work, arrays.address(pixels), arrays.address(y), 0, threads)
    return y


def columns_and_rows(kernels: Array) -> Array | None:
    """Return the column and the row that each kernel (kh, kw) is a product of, side by side; None if one is not."""
    try:
        return column_and_row(kernels[:, None])
    except (WeightsDoNotFitError, WeightsNotFiniteError):
        return None


def stores(dtype: np.dtype[Any], compute: np.dtype[Any]) -> bool:
    """Return whether the kernels store sums computed in `compute` as `dtype`: float32 cannot hold all of 32 bits."""
    return dtype.name in PIXELS and not (dtype.kind in "iu" and dtype.itemsize > 2 and compute.itemsize == 4)


def _ready(images: Array, border: Border, compute: np.dtype[Any]) -> Array:
    """Return images as kernels read them: rows of pixels side by side, of a kind that holds the border's value too."""
    kind, (_, _, width, channels), (_, _, pixel, channel) = images.dtype, images.shape, images.strides
    beside = (channels == 1 or channel == kind.itemsize) and (width == 1 or pixel == channels * kind.itemsize)
    native = kind.name in PIXELS and kind.isnative and images.flags.aligned
    if native and beside and (border.word != "zeros" or _holds(kind, border.value)):
        return images
    return np.ascontiguousarray(images, compute)


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max and value == int(value))


@lru_cache(maxsize=SWEEPS)
def _work(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pixel: np.dtype[Any],
    factors: bytes,
    taps: tuple[int, int],
    compute: np.dtype[Any],
    result: np.dtype[Any],
    border: Border,
) -> Work:
    """Return what is to be done for images of one shape, whose images and rows lie `strides` bytes apart."""
    count, height, width, channels = shape
    kh, kw = taps
    weights = np.frombuffer(factors, compute).reshape(-1, kh + kw)
    lines = sources(border.word, height, border.top, border.bottom)
    columns = sources(border.word, width, border.left, border.right)
    oh, line = len(lines) - kh + 1, (len(columns) - kw + 1) * channels
    outside = np.full(width * channels, border.value if border.word == "zeros" else 0).astype(pixel)
    machine, size = Machine.host(), compute.itemsize
    lanes, rows = machine.lanes(compute), min(MOST_ROWS[machine.vector_registers], kh)
    tile, window, halo = VECTORS * lanes, kh + rows - 1, (kw - 1) * channels
    # Blocks of about one size, which begin with a pixel and, where rows do, with a line of memory.
    block = aligned_up(-(-line // max(1, round(line / BLOCK))), math.lcm(channels, LINE))
    blocks = max(1, ROWS_BYTES // (window * block * pixel.itemsize))
    across = -(-line // (blocks * block))
    down = -(-oh // BAND)
    lines = np.append(lines, np.repeat(lines[-1:], down * BAND + window + rows - len(lines)))
    left, inside = border.left * channels, width * channels
    gathered = max(
        _most_gathered(start, min(start + block, line) + halo, left, left + inside, tile)
        for start in range(0, line, block)
    )
    packed_pitch = aligned_up(max(gathered, tile) * pixel.itemsize, 64)
    # An odd number of lines of memory apart, so that rows do not fall into one set of L1.
    pitch = (aligned_up((max(block, tile) + halo + tile) * size, 64) // 64 | 1) * 64
    packed_at = aligned_up(16 * (window + rows), 64)
    sums_at = packed_at + window * packed_pitch
    spare_at = sums_at + len(weights) * rows * pitch
    scratch = spare_at + tile * result.itemsize
    kernel = sweep(len(weights), rows, lanes, pixel.name, compute.name, result.name)
    out_row = line * result.itemsize
    vectors = count * oh * line / lanes
    return running.work(
        kernel,
        (weights, lines.astype(np.int64), columns.astype(np.int64), outside),
        (kh, kw, channels, across, down, BAND, block, oh, line, left, inside),
        (strides[1], strides[0], out_row, oh * out_row),
        (packed_at, packed_pitch, sums_at, pitch, spare_at, scratch, blocks),
        tasks=count * down * across,
        scratch=scratch,
        cycles=vectors * len(weights) * (kh + kw + 4),
        moved=count * (height * width * channels * pixel.itemsize + oh * out_row),
    )


def _most_gathered(start: int, end: int, inner: int, inner_end: int, tile: int) -> int:
    """Return the most columns in one piece that a block gathers, as the task does."""
    first, last = max(start, inner), min(end, inner_end)
    return end - start if last - first < tile else max(first - start, end - last)
