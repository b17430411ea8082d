"""Small kernels, and those that are a column times a row, in one sweep over the image: pixels in, pixels out.

Nothing between is written to memory. A task takes a block of columns of a band of rows, few rows at a time: sums down
the columns, into a strip that stays in L1, then sums along its rows, which are stored as pixels. Where the kernel is no
column times a row, the strip holds the rows themselves, made floats, and sums go over whole windows. Channels stay
side by side. What stands around the image is looked up, by row in a table of addresses, by column by gathering the few
pixels that are needed.
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
from fastconv.kernels.sweep_tile import (
    LINE,
    PIXELS,
    VECTORS,
    column_sums,
    gather_pixels,
    row_sums,
    window_sums,
)
from fastconv.machine import Machine
from fastconv.operators import running
from fastconv.runtime import Work

Array = npt.NDArray[Any]
Task = Callable[[int, int, int], None]

#: Output rows that share the rows they are summed from, by vector registers: their sums must leave some of them free.
MOST_ROWS = {32: 4, 16: 2}
#: Bytes of what is kept between the stages, for a block of columns: it stays in L1.
KEPT_BYTES = 1 << 14
#: Bytes of the rows around a task: they stay in L2 until they are done with.
ROWS_BYTES = 1 << 20
#: Rows of a task, so many that reading the rows around it again costs little.
BAND = 64
#: Taps up to which kernels that are no column times a row are faster here than through the engine.
WINDOW_TAPS = 169
#: Share of the columns from which borders are copied into the image first: gathered anew for each row, they would take
#: most of the time.
WIDE_BORDERS = 0.25
_WAYS = {1: "separable", 2: "magnitude"}
#: Sweeps to remember.
SWEEPS = 64


@task_factory
def sweep(way: str, rows: int, lanes: int, pixel: str, dtype: str, result: str) -> Task:
    """Return the task that filters a block of columns of a band of rows of one image.

    Ways are "separable": sums down columns, then along rows; "magnitude": likewise of two kernels, for the root of
    the sum of the squares of both; "window": all taps at once.

    Shapes   x (N, H, W * C) of `pixel`, y (N, OH, OW * C) of `result`; weights (kernels, kh + kw): columns, then rows;
             of "window" (kh, kw) and a 1; lines: the row of x behind each padded row, columns: likewise, -1 for
             pixels such as those at `outside`
    Assumes  kh >= rows; the rest as `_work` writes it
    Touches  writes its rows and columns of y, and scratch
    """
    size, pixel_size, result_size = item_bytes(dtype), PIXELS[pixel][1], PIXELS[result][1]
    tile = VECTORS * lanes
    window_way = way == "window"
    in_place = window_way and pixel == dtype
    kernels = 2 if way == "magnitude" else 1
    # Output rows of a step of the first stage: windows want rows of pixels made floats, each a sum of one.
    stage_rows = 1 if window_way else rows

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, lines, columns, outside, kh, kw, channels = words(ctx, 10)
        across, down, band, block, oh, line, before, width = words(ctx + 80, 8)
        x_row, x_image, y_row, y_image = words(ctx + 144, 4)
        packed_at, packed_pitch, sums_at, pitch, spare_at, scratch_end, blocks = words(ctx + 176, 7)
        steps, stage_kh, stage_weights, next_weights, next_rows, next_sums, ahead = words(ctx + 232, 7)
        rest = i // across
        image, first = rest // down, rest % down * band
        window = kh + rows - 1
        entries = window + rows
        table, packed_table, sums_table = scratch, scratch + 8 * entries, scratch + 16 * entries
        packed, sums, spare = scratch + packed_at, scratch + sums_at, scratch + spare_at
        zero_bytes(packed, scratch_end - packed_at)
        for p in range(entries):
            store("int64", packed_table + 8 * p, packed + p * packed_pitch)
            store("int64", sums_table + 8 * p, sums + p * pitch)
        begin = i % across * blocks * block
        for t in range(first, min(first + band, oh), rows):
            for p in range(entries):
                row = load("int64", lines + 8 * (t + p))
                store("int64", table + 8 * p, outside if row < 0 else x + image * x_image + row * x_row)
            live = min(rows, oh - t)
            for start in range(begin, min(begin + blocks * block, line), block):
                stop = min(start + block, line)
                # Padded columns that are read, and those of them inside the image.
                end = stop + (kw - 1) * channels
                inner, inner_end = max(start, before), min(end, before + width)
                if inner_end - inner < tile:
                    inner = inner_end = end
                here = in_place and inner == start and inner_end == end and stop - start >= tile
                for part in range(0 if here else 3):
                    # Columns beside the image first: whole tiles are written, and what is too much is written over.
                    left, right = (start, inner) if part == 0 else (inner_end, end)
                    source, shift = packed_table, 0
                    if part == 1:
                        left, right, source, shift = inner, inner_end, table, (inner - before) * pixel_size
                    if left < right:
                        for p in range(0 if part == 1 else window):
                            gather_pixels(
                                pixel, load("int64", table + 8 * p), outside, columns + 8 * (left // channels),
                                (right - left) // channels, channels, packed + p * packed_pitch,
                            )  # fmt: skip
                        for k in range(steps):
                            column_sums(
                                stage_rows, lanes, pixel, dtype, source + k * next_rows, shift,
                                max(right - left, tile), stage_kh, weights + stage_weights + k * next_weights,
                                sums + k * next_sums + (left - start) * size, pitch, ahead,
                            )  # fmt: skip
                to, to_row = y + image * y_image + t * y_row + start * result_size, y_row
                wide = stop - start
                if wide < tile:
                    to, to_row, wide = spare, tile * result_size, tile
                if window_way:
                    window_sums(
                        rows, lanes, dtype, result, table if here else sums_table,
                        (start - before) * size if here else 0, wide, kh, kw, channels * size, weights, to, to_row,
                        live, 8 * window, rows * y_row,
                    )  # fmt: skip
                else:
                    for r in range(live):
                        row_sums(
                            kernels, lanes, dtype, result, sums + r * pitch, wide, kw, channels * size,
                            weights + kh * size, to + r * to_row, next_sums, next_weights, rows * y_row,
                        )  # fmt: skip
                if to == spare:
                    to = y + image * y_image + t * y_row + start * result_size
                    for r in range(live):
                        copy_bytes(to + r * y_row, spare + r * to_row, (stop - start) * result_size)

    return task


def swept(
    images: Array,
    kernels: Array,
    border: Border,
    dtype: np.dtype[Any],
    out: Array | None,
    threads: int,
    *,
    strict: bool = False,
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
    strict : bool
        Take no kernel apart.

    Returns
    -------
    ndarray, shape (N, OH, OW, C), or None
        None where the kernel is neither small nor a column times a row. Of the dtype of the kernels where they do not
        store `dtype`.
    """
    kh, kw = kernels.shape[1:]
    factors = None if strict else columns_and_rows(kernels)
    if factors is not None:
        way, weights = _WAYS[len(kernels)], factors
    elif len(kernels) == 1 and kh * kw <= WINDOW_TAPS:
        way, weights = "window", np.append(kernels, kernels.dtype.type(1))
    else:
        return None
    compute = kernels.dtype
    pixels, border = _ready(images, border, compute)
    count, height, width, channels = pixels.shape
    oh, ow = height + border.top + border.bottom - kh + 1, width + border.left + border.right - kw + 1
    result = dtype if stores(dtype, compute) else compute
    y = out if out is not None and result == dtype else np.empty((count, oh, ow, channels), result)
    if y.size:
        settings = (pixels.shape, pixels.strides[:2], pixels.dtype, weights.tobytes(), (kh, kw))
        work = _work(way, *settings, compute, result, border)
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


def _ready(images: Array, border: Border, compute: np.dtype[Any]) -> tuple[Array, Border]:
    """Return images as kernels read them: rows of pixels side by side, of a kind that holds the border's value too."""
    kind, (_, _, width, channels), (_, _, pixel, channel) = images.dtype, images.shape, images.strides
    beside = (channels == 1 or channel == kind.itemsize) and (width == 1 or pixel == channels * kind.itemsize)
    native = kind.name in PIXELS and kind.isnative and images.flags.aligned
    filled = border.word == "zeros"
    if not (native and beside and (not filled or _holds(kind, border.value))):
        images = np.ascontiguousarray(images, compute)
    if border.left + border.right <= WIDE_BORDERS * width:
        return images, border
    columns = sources(border.word, width, border.left, border.right)
    images = np.take(images, columns, axis=2)
    if filled:
        images[:, :, columns < 0] = border.value
    return images, border._replace(left=0, right=0)


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max and value == int(value))


@lru_cache(maxsize=SWEEPS)
def _work(
    way: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pixel: np.dtype[Any],
    values: bytes,
    taps: tuple[int, int],
    compute: np.dtype[Any],
    result: np.dtype[Any],
    border: Border,
) -> Work:
    """Return what is to be done for images of one shape, whose images and rows lie `strides` bytes apart."""
    count, height, width, channels = shape
    kh, kw = taps
    weights = np.frombuffer(values, compute)
    lines = sources(border.word, height, border.top, border.bottom)
    columns = sources(border.word, width, border.left, border.right)
    oh, line = len(lines) - kh + 1, (len(columns) - kw + 1) * channels
    outside = np.full(width * channels, border.value if border.word == "zeros" else 0).astype(pixel)
    machine, size = Machine.host(), compute.itemsize
    lanes, rows = machine.lanes(compute), min(MOST_ROWS[machine.vector_registers], kh)
    tile, window, halo = VECTORS * lanes, kh + rows - 1, (kw - 1) * channels
    # What is kept between the stages: sums of each kernel for each output row, or all rows under the windows.
    steps = {"separable": 1, "magnitude": 2, "window": window}[way]
    kept = window if way == "window" else steps * rows
    # Blocks of about one size, which begin with a pixel and, where rows do, with a line of memory.
    wanted = max(4 * tile, KEPT_BYTES // (kept * size))
    block = aligned_up(-(-line // max(1, round(line / wanted))), math.lcm(channels, LINE))
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
    packed_at = aligned_up(24 * (window + rows), 64)
    sums_at = packed_at + window * packed_pitch
    spare_at = sums_at + kept * pitch
    scratch = spare_at + rows * tile * result.itemsize
    kernel = sweep(way, rows, lanes, pixel.name, compute.name, result.name)
    if way == "window":
        stages = (steps, 1, kh * kw * size, 0, 8, pitch, 8 * rows)
    else:
        stages = (steps, kh, 0, (kh + kw) * size, 0, rows * pitch, 8 * window)
    out_row = line * result.itemsize
    vectors = count * oh * line / lanes
    return running.work(
        kernel,
        (weights, lines.astype(np.int64), columns.astype(np.int64), outside),
        (kh, kw, channels, across, down, BAND, block, oh, line, left, inside),
        (strides[1], strides[0], out_row, oh * out_row),
        (packed_at, packed_pitch, sums_at, pitch, spare_at, scratch, blocks),
        stages,
        tasks=count * down * across,
        scratch=scratch,
        cycles=vectors * (weights.size + 4),
        moved=count * (height * width * channels * pixel.itemsize + oh * out_row),
    )


def _most_gathered(start: int, end: int, inner: int, inner_end: int, tile: int) -> int:
    """Return the most columns in one piece that a block gathers, as the task does."""
    first, last = max(start, inner), min(end, inner_end)
    return end - start if last - first < tile else max(first - start, end - last)
