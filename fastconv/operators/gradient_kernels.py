"""The kernel of the gradient by the kernels: products of matrices whose long side is the pixels."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.gemm_tile import brgemm
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import move
from fastconv.kernels.simd import item_bytes, load, vload_tail, vstore_tail, words, zero_bytes
from fastconv.kernels.transpose import transpose_block

Task = Callable[[int, int, int], None]


@task_factory
def weight_gradient(mr: int, nv: int, lanes: int, dtype: str, nhwc: int) -> Task:
    """Return the task that computes the gradients of some output channels by one block of NR input channels.

    Shapes   x (N, C, H, W) or (N, H, W, C); gradients g (N, O, OH, OW) or (N, OH, OW, O); y (O, C / groups, KH, KW);
             rows (KH, 3), columns (KW, 3): first output, end of the outputs, and input place of output 0, whose tap is
             inside the image; table: bytes between output rows in g and, a stride apart, in the packed image
    Assumes  outputs per group >= MR; scratch holds one band of the image, NR channels a pixel, in NHWC one of the
             gradients, MR channels a pixel, then the sums of all taps of MR x NR for each tile of output channels
    Touches  writes its part of y, and scratch
    Source   arXiv:1906.06440 (batch-reduce GEMM): output rows are the batch, so no padding is multiplied
    """
    size = item_bytes(dtype)
    width = nv * lanes
    cell = mr * width * size

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, g, table, rows, columns, images, height, wide, kh = words(ctx, 10)
        kw, oh, per_group, c_per_group, c_blocks, splits, tiles_each, band, reach, sh = words(ctx + 80, 10)
        sw, top, x_image, x_row, x_unit, g_image, g_row, g_channel, g_pixel, x_group = words(ctx + 160, 10)
        g_group, sums, a_row, a_channel, a_pixel, wide_out = words(ctx + 240, 6)
        split, rest = i % splits, i // splits
        block, group = rest % c_blocks, rest // c_blocks
        live = min(width, c_per_group - block * width)
        tiles = (per_group + mr - 1) // mr
        first_tile, end_tile = split * tiles_each, min((split + 1) * tiles_each, tiles)
        taps = kh * kw
        acc = scratch + sums
        pixel, y_row = width * size, c_per_group * taps * size
        for image in range(images):
            source = x + image * x_image + group * x_group + block * width * (size if nhwc != 0 else x_unit)
            given = g + image * g_image + group * g_group
            for first in range(0, oh, band):
                last = min(first + band, oh)
                start = max(first * sh - top, 0)
                stop = min((last - 1) * sh + reach - top, height)
                for row in range(start, stop):
                    to = scratch + (row - start) * wide * pixel
                    if nhwc != 0:
                        for column in range(wide):
                            at = to + column * pixel
                            move(at, source + row * x_row + column * x_unit, live * size)
                            if live < width:
                                zero_bytes(at + live * size, pixel - live * size)
                    else:
                        for c in range(0, width, lanes):
                            here = min(lanes, live - c)
                            for column in range(0, wide, lanes):
                                at = to + column * pixel + c * size
                                count = min(lanes, wide - column)
                                if here > 0:
                                    transpose_block(
                                        dtype, lanes, "none", source + c * x_unit + row * x_row + column * size, x_unit,
                                        at, pixel, 0, here, count, lanes,
                                    )  # fmt: skip
                                else:
                                    for k in range(count):
                                        zero_bytes(at + k * pixel, lanes * size)
                for tile in range(first_tile, end_tile):
                    a = given + min(tile * mr, per_group - mr) * g_channel
                    if nhwc != 0:
                        # Pixels are often a power of two apart, and then on few sets of L1: they are brought together.
                        packed = scratch + sums - band * a_row
                        for row in range(first, last):
                            for column in range(wide_out):
                                at, to = (
                                    a + row * g_row + column * g_pixel,
                                    packed + (row - first) * a_row + column * a_pixel,
                                )
                                for m in range(0, mr, lanes):
                                    some = min(lanes, mr - m)
                                    vstore_tail(
                                        to + m * size, vload_tail(dtype, lanes, at + m * size, some), some
                                    )
                        a = packed - first * a_row
                    # Each tap asks for its share of the lines that are written in the end.
                    out = (
                        y
                        + (group * per_group + min(tile * mr, per_group - mr)) * y_row
                        + block * width * taps * size
                    )
                    for r in range(kh):
                        begin = max(first, load("int64", rows + 24 * r))
                        items = min(last, load("int64", rows + 24 * r + 8)) - begin
                        from_row = begin * sh + load("int64", rows + 24 * r + 16) - start
                        for s in range(kw):
                            left = load("int64", columns + 24 * s)
                            k = load("int64", columns + 24 * s + 8) - left
                            total = acc + ((tile - first_tile) * taps + r * kw + s) * cell
                            if items <= 0 or k <= 0:
                                if image + first == 0:
                                    zero_bytes(total, cell)
                                continue
                            from_column = left * sw + load("int64", columns + 24 * s + 16)
                            brgemm(
                                mr, nv, lanes, dtype, "n", "none",
                                a + begin * a_row + left * a_pixel, a_channel, a_pixel,
                                scratch + (from_row * wide + from_column) * pixel, sw * pixel, table, items, k,
                                out + (r * kw + s) * pixel, 0, y_row, mr, table, total, total,
                                3 if image + first > 0 else 2,
                            )  # fmt: skip
        for tile in range(first_tile, end_tile):
            o = min(tile * mr, per_group - mr)
            for m in range(tile * mr - o, mr):
                out = y + ((group * per_group + o + m) * c_per_group + block * width) * taps * size
                for c in range(0, live, lanes):
                    for tap in range(0, taps, lanes):
                        total = acc + ((tile - first_tile) * taps + tap) * cell + (m * width + c) * size
                        count = min(lanes, taps - tap)
                        transpose_block(
                            dtype, lanes, "none", total, cell, out + (c * taps + tap) * size, taps * size, 0,
                            count, min(lanes, live - c), count,
                        )  # fmt: skip

    return task
