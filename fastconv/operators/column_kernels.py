"""Kernels between images and the matrix of their windows, in both layouts."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import vload_between, vpick
from fastconv.kernels.packing import move, pack_row
from fastconv.kernels.simd import (
    item_bytes,
    load,
    vadd,
    vload,
    vload_tail,
    vstore,
    vstore_tail,
    words,
    zero_bytes,
)

Task = Callable[[int, int, int], None]


@task_factory
def unfold_planes(dtype: str) -> Task:
    """Return the task that writes some rows of the matrix of windows of NCHW images.

    Shapes   x (planes, H, W); y (planes, KH, KW, OH, OW); row_map, col_map: input row and column at each padded place
    Assumes  padded columns left ... left + W - 1 are the input columns 0 ... W - 1; -1 in a map means zero
    Touches  writes its rows of y
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, row_map, col_map, units, per_task, kh, kw, oh = words(ctx, 10)
        ow, w, x_plane, left, sh, sw, dh, dw = words(ctx + 80, 8)
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            s, rest = unit % kw, unit // kw
            r, plane = rest % kh, rest // kh
            for row in range(oh):
                to = y + (unit * oh + row) * ow * size
                from_row = load("int64", row_map + 8 * (row * sh + r * dh))
                if from_row < 0:
                    zero_bytes(to, ow * size)
                else:
                    start = x + plane * x_plane + from_row * w * size
                    pack_row(start, to, s * dw, ow, sw, col_map, left, w, size)

    return task


@task_factory
def unfold_pixels(dtype: str) -> Task:
    """Return the task that writes the windows of some output rows of NHWC images, a row of the matrix each.

    Shapes   x (N, H, W, C); y (N, OH, OW, KH, KW, C); maps as of `unfold_planes`
    Assumes  as `unfold_planes`
    Touches  writes its rows of y
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, row_map, col_map, units, per_task, kh, kw, oh = words(ctx, 10)
        ow, w, x_image, left, sh, sw, dh, dw, channels = words(ctx + 80, 9)
        pixel = channels * size
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            image, row = unit // oh, unit % oh
            to = y + unit * ow * kh * kw * pixel
            for column in range(ow):
                first = column * sw - left
                for r in range(kh):
                    from_row = load("int64", row_map + 8 * (row * sh + r * dh))
                    start = x + image * x_image + from_row * w * pixel
                    if from_row < 0:
                        zero_bytes(to, kw * pixel)
                    elif dw == 1 and first >= 0 and first + kw <= w:
                        move(to, start + first * pixel, kw * pixel)
                    else:
                        for s in range(kw):
                            under = load("int64", col_map + 8 * (column * sw + s * dw))
                            if under < 0:
                                zero_bytes(to + s * pixel, pixel)
                            else:
                                move(to + s * pixel, start + under * pixel, pixel)
                    to += kw * pixel

    return task


@task_factory
def fold_planes(lanes: int, dtype: str) -> Task:
    """Return the task that adds the windows over some rows of NCHW images.

    Shapes   x (planes, KH * KW, OH * OW); y (planes, H, W); rows (H, 1 + KH): count, then byte offset of each row of
             the matrix that falls on a row of the image; taps (SW, 1 + 2 * KW): count of numbers, then byte offset
             and first column of each tap that falls on every SW-th column; places (W padded): byte offset of each
             column in scratch
    Assumes  scratch holds SW strips of `pitch` elements, a multiple of the lanes
    Touches  writes its rows of y, and scratch
    Source   gathered, not scattered: each output is summed in a register, in the order of the taps
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, taps, places, units, per_task, kh, kw = words(ctx, 10)
        h, w, ow, sw, left, pitch, x_plane = words(ctx + 80, 7)
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            plane, row_list = x + unit // h * x_plane, rows + unit % h * (1 + kh) * 8
            row_count = load("int64", row_list)
            for phase in range(sw):
                tap_list = taps + phase * (1 + 2 * kw) * 8
                tap_count = load("int64", tap_list) // 2
                for start in range(0, pitch, lanes):
                    total = vload_between(dtype, lanes, x, 0, 0)
                    for r in range(row_count):
                        row = plane + load("int64", row_list + 8 + 8 * r)
                        for s in range(tap_count):
                            j = start - load("int64", tap_list + 16 + 16 * s)
                            source = row + load("int64", tap_list + 8 + 16 * s) + j * size
                            if j >= 0 and j + lanes <= ow:
                                total = vadd(total, vload(dtype, lanes, source))
                            elif j + lanes > 0 and j < ow:
                                total = vadd(total, vload_between(dtype, lanes, source, -j, ow - j))
                    vstore(scratch + (phase * pitch + start) * size, total)
            to = y + unit * w * size
            if sw == 1:
                move(to, scratch + left * size, w * size)
            else:
                for q in range(0, w, lanes):
                    vstore_tail(to + q * size, vpick(dtype, lanes, 0, scratch, places + 8 * q), w - q)

    return task


@task_factory
def fold_pixels(lanes: int, dtype: str) -> Task:
    """Return the task that adds the windows over some rows of NHWC images.

    Shapes   x (N, OH * OW, KH * KW * C); y (N, H, W, C); rows (H, 1 + KH), cols (W, 1 + KW): count, then byte offset
             of each window and tap that falls on a row, a column of the image
    Touches  writes its rows of y
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, cols, units, per_task, kh, kw, h = words(ctx, 10)
        w, channels, x_image = words(ctx + 80, 3)
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            image, row_list = x + unit // h * x_image, rows + unit % h * (1 + kh) * 8
            row_count = load("int64", row_list)
            for column in range(w):
                col_list = cols + column * (1 + kw) * 8
                col_count = load("int64", col_list)
                to = y + (unit * w + column) * channels * size
                for c in range(0, channels, lanes):
                    live = channels - c
                    total = vload_tail(dtype, lanes, x, 0)
                    for r in range(row_count):
                        row = image + load("int64", row_list + 8 + 8 * r) + c * size
                        for s in range(col_count):
                            source = row + load("int64", col_list + 8 + 8 * s)
                            if live >= lanes:
                                total = vadd(total, vload(dtype, lanes, source))
                            else:
                                total = vadd(total, vload_tail(dtype, lanes, source, live))
                    vstore_tail(to + c * size, total, live)

    return task
