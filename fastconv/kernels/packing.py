"""Moving data into the order in which the micro-kernel reads it: weights, strips of rows, store segments.

Packing costs about 4 cycles per vector moved, against ``taps * o / 2`` cycles of arithmetic on it: 1-3 % at 64 output
channels and 3x3 taps. It buys reads with unit stride, every padding mode for the price of none (a map says which
input row or column stands at a padded place), and tiles that may read past the edge of the image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.kernels.jit import device, task_factory
from fastconv.kernels.simd import copy_bytes, item_bytes, load, store, vload_even, vstore, words, zero_bytes
from fastconv.kernels.weight_rows import SOURCE_WORDS, weight_rows

Task = Callable[[int, int, int], None]


@task_factory
def pack_weights_task(dtype: str, lanes: int) -> Task:
    """Return the task that packs one block of output channels, and its biases.

    Shapes   w: as `weight_rows`; target [block][rows][width]: weight kk of output channel o, in the order (channel,
             tap), goes to row index[kk], column o of its block
    Assumes  index is a permutation into [0, rows)
    Touches  writes its block of target, its biases and its word of flags: 1 when a weight is not finite
    Source   Goto & van de Geijn, ACM TOMS 34(3), 2008 (packed panels)
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        w, target, bias_in, _, _, _, taps = words(ctx, 7)
        index, k, rows, width, per_group, blocks, bias_offset, flags_offset = words(
            ctx + 24 + 8 * SOURCE_WORDS, 8
        )
        bias_out, flags = target + bias_offset, target + flags_offset
        group, block = i // blocks, i % blocks
        live = min(width, per_group - block * width)
        first = group * per_group + block * width
        base = target + i * rows * width * size
        if rows > k or live < width:
            zero_bytes(base, rows * width * size)
        store("int64", flags + 8 * i, 0)
        weight_rows(
            dtype,
            lanes,
            size,
            w,
            ctx + 24,
            first,
            live,
            0,
            k // taps,
            base,
            width * size,
            index,
            flags + 8 * i,
        )
        zero_bytes(bias_out + i * width * size, width * size)
        if bias_in != 0:
            copy_bytes(bias_out + i * width * size, bias_in + first * size, live * size)

    return task


@device
def move(target: int, source: int, count: int) -> None:
    """Copy `count` bytes, a multiple of 4, without a library call: rows here are often shorter than its start-up.

    The last block overlaps the one before it instead of going on element by element.
    Touches  writes target only; reads and writes no byte outside [0, count)
    """
    done = 0
    if count >= 64:
        while done + 64 <= count:
            copy_bytes(target + done, source + done, 64)
            done += 64
        if done < count:
            copy_bytes(target + count - 64, source + count - 64, 64)
        return
    if count >= 16:
        while done + 16 <= count:
            copy_bytes(target + done, source + done, 16)
            done += 16
        if done < count:
            copy_bytes(target + count - 16, source + count - 16, 16)
        return
    while done < count:
        copy_bytes(target + done, source + done, 4)
        done += 4


@device
def pack_pixels(
    source: int,
    target: int,
    rows: int,
    row_map: int,
    col_map: int,
    cols: int,
    left: int,
    inner: int,
    source_row: int,
    source_pixel: int,
    pixel_bytes: int,
    target_row: int,
    target_pixel: int,
) -> None:
    """Copy a strip of an NHWC image: `rows` padded rows of `cols` padded columns.

    Shapes   source: row map[r], pixel map[c], pixel_bytes bytes; target (rows, cols) pixels of target_pixel bytes
    Assumes  columns left ... left + inner - 1 are the input columns 0 ... inner - 1; -1 in a map means zeros
    Touches  writes target only; bytes between pixel_bytes and target_pixel become zero
    """
    gap = target_pixel - pixel_bytes
    solid = gap == 0 and source_pixel == pixel_bytes and inner > 0
    for r in range(rows):
        to = target + r * target_row
        row = load("int64", row_map + 8 * r)
        if row < 0:
            zero_bytes(to, cols * target_pixel)
            continue
        start = source + row * source_row
        c = 0
        while c < cols:
            place = to + c * target_pixel
            if solid and c == left:
                move(place, start, inner * pixel_bytes)
                c += inner
                continue
            column = load("int64", col_map + 8 * c)
            if column < 0:
                zero_bytes(place, target_pixel)
            else:
                move(place, start + column * source_pixel, pixel_bytes)
                if gap > 0:
                    zero_bytes(place + pixel_bytes, gap)
            c += 1


@device
def _pick(source: int, target: int, start: int, stop: int, step: int, col_map: int, size: int) -> None:
    """Copy padded columns `start` ... `stop` - 1 of `col_map`, each `step` further, element by element."""
    for c in range(start, stop):
        column = load("int64", col_map + 8 * c * step)
        if size == 4:
            store("int32", target + 4 * c, load("int32", source + 4 * column) if column >= 0 else np.int32(0))
        else:
            store("int64", target + 8 * c, load("int64", source + 8 * column) if column >= 0 else np.int64(0))


@device
def pack_row(
    source: int,
    target: int,
    first: int,
    count: int,
    step: int,
    col_map: int,
    left: int,
    inner: int,
    size: int,
) -> None:
    """Copy `count` padded columns of one row: `first`, `first` + `step`, ...

    Shapes   source: one input row of elements of `size` bytes; target: `count` elements side by side
    Assumes  padded columns left ... left + inner - 1 are the input columns 0 ... inner - 1; -1 in the map means zero
    Touches  writes target only
    """
    # The columns from `start` to `stop` are those of the input that need no map.
    start, stop = count, count
    if step == 1:
        start = min(max(left - first, 0), count)
        stop = min(max(left + inner - first, start), count)
        move(target + start * size, source + (first + start - left) * size, (stop - start) * size)
    elif step == 2:
        start = min(max((left - first + 1) // 2, 0), count)
        stop = start
        # Both columns of a pair are read, so the last pair must end inside the row.
        while stop + 16 <= count and first + 2 * stop - left + 32 <= inner:
            source_pair = source + (first + 2 * stop - left) * size
            if size == 4:
                vstore(target + stop * 4, vload_even("int32", 16, source_pair))
            else:
                vstore(target + stop * 8, vload_even("int64", 16, source_pair))
            stop += 16
    _pick(source, target, 0, start, step, col_map + 8 * first, size)
    _pick(source, target, stop, count, step, col_map + 8 * first, size)


@device
def fill_columns(line: int, start: int, stop: int, col_map: int, left: int, size: int) -> None:
    """Fill padded columns `start` ... `stop` - 1 of a padded row from its inner columns, which begin at `left`.

    Shapes   line: one padded row of elements of `size` bytes
    Assumes  -1 in the map means zero
    Touches  writes those columns
    """
    _pick(line + left * size, line + start * size, 0, stop - start, 1, col_map + 8 * start, size)


@device
def pack_planes(
    source: int,
    target: int,
    channels: int,
    padded_channels: int,
    rows: int,
    row_map: int,
    col_map: int,
    left: int,
    inner: int,
    source_row: int,
    source_plane: int,
    sh: int,
    sw: int,
    phase_rows: int,
    pitch: int,
    target_plane: int,
    slack: int,
    size: int,
) -> None:
    """Copy a strip of an NCHW image, taken apart into sh x sw phases so that strided columns lie side by side.

    Shapes   source: plane c, row map[r], column map[q]; target [channel][row phase][column phase][phase_rows][pitch]
    Assumes  as `pack_row`
    Touches  writes target only; planes from `channels` on, gaps and the `slack` bytes at the end become zero
    """
    for c in range(padded_channels):
        plane = target + c * target_plane
        if c >= channels:
            zero_bytes(plane, target_plane)
            continue
        for r in range(rows):
            row = load("int64", row_map + 8 * r)
            for phase in range(sw):
                to = plane + (((r % sh) * sw + phase) * phase_rows + r // sh) * pitch * size
                if row < 0:
                    zero_bytes(to, pitch * size)
                else:
                    start = source + c * source_plane + row * source_row
                    pack_row(start, to, phase, pitch, sw, col_map, left, inner, size)
        # What lies between the last row and the next plane is multiplied in lanes that are masked away: it must not
        # be what an earlier task left, for denormal numbers take a hundred times as long.
        for phase in range(sh * sw):
            filled = max((rows - phase // sw + sh - 1) // sh, 0)
            gap = plane + (phase * phase_rows + filled) * pitch * size
            zero_bytes(gap, (phase_rows - filled) * pitch * size)
        end = sh * sw * phase_rows * pitch * size
        zero_bytes(plane + end, target_plane - end)
    zero_bytes(target + padded_channels * target_plane, slack)


@device
def split_columns(
    source: int, line: int, plane: int, channels: int, start: int, stop: int, col_map: int, size: int
) -> None:
    """Take padded columns `start` ... `stop` - 1 of one row of an NHWC image apart into planes, one by one.

    Shapes   source: pixels of `channels` elements of `size` bytes; line: the padded row of the first channel, the
             others `plane` bytes on
    Assumes  -1 in the map means zero
    Touches  writes those columns
    """
    for q in range(start, stop):
        place = load("int64", col_map + 8 * q)
        for c in range(channels):
            to, at = line + c * plane + q * size, source + (place * channels + c) * size
            if size == 4:
                store("int32", to, load("int32", at) if place >= 0 else np.int32(0))
            else:
                store("int64", to, load("int64", at) if place >= 0 else np.int64(0))


@device
def write_segments(
    target: int, position: int, lanes: int, pitch: int, width: int, rows: int, y_row: int, size: int
) -> int:
    """Write where the lanes of one vector of flat positions are stored; return the end of the list.

    Flat position p stands for output row ``p // pitch``, column ``p % pitch``; columns from `width` on and rows from
    `rows` on are computed for nothing and masked away.

    Shapes   target: count, then (byte offset, lane mask) int64 pairs
    Touches  writes target only
    """
    lane, count = 0, 0
    end = target + 8
    while lane < lanes:
        row = (position + lane) // pitch
        column = (position + lane) % pitch
        if row >= rows:
            break
        stop = min(lanes, lane + max(width - column, 0))
        if stop > lane:
            store("int64", end, row * y_row + (column - lane) * size)
            store("int64", end + 8, ((1 << (stop - lane)) - 1) << lane)
            end += 16
            count += 1
        lane += pitch - column
    store("int64", target, count)
    return end


@device
def row_pointers(
    rows_in: int, first: int, count: int, base: int, x_row: int, outside: int, pointers: int
) -> None:
    """Write where `count` input rows begin, from padded row `first` on: `outside` for those beside the image."""
    for r in range(count):
        h = load("int64", rows_in + 8 * (first + r))
        store("int64", pointers + 8 * r, base + h * x_row if h >= 0 else outside)
