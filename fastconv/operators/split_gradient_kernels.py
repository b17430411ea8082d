"""The kernel of the gradient by the kernels on a matrix unit: float32 as sums of bfloat16 parts, deep as the pixels."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import device, task_factory
from fastconv.kernels.matrix_tile import matrix_products, tile_configure, tile_release
from fastconv.kernels.simd import load, vadd, vload, vstore, words, zero_bytes
from fastconv.kernels.split_tile import split_every, split_pairs, split_rows
from fastconv.kernels.transpose import transpose_block

Task = Callable[[int, int, int], None]

#: Bytes from the sums of one tap to those of the next: four tiles, and a line so that taps fall on different sets.
SUMS_BYTES = 4160


@device
def _image_planes(
    cuts: int, every: int, source: int, x_row: int, x_channel: int, row: int, phase: int, wide: int, pitch: int,
    channels: int, target: int, plane: int, part: int, flag: int,
) -> None:  # fmt: skip
    """Cut one row of every channel, columns `phase`, `phase` + `every`, ...; zeros behind them, or if row < 0."""
    count = (wide - phase + every - 1) // every if row >= 0 else 0
    at = source + max(row, 0) * x_row
    for start in range(0, pitch, 32):
        live = min(max(count - start, 0), 32)
        here = at + (phase + start * every) * 4 if live > 0 else at
        split_every(cuts, every, here, x_channel, target + start * 2, plane, part, channels, live, flag)


@device
def _image_pixels(
    cuts: int, every: int, source: int, x_row: int, x_pixel: int, row: int, phase: int, wide: int, pitch: int,
    channels: int, target: int, plane: int, part: int, zeros: int, room: int, flag: int,
) -> None:  # fmt: skip
    """Do the same from pixels: two of them are words side by side, 16 pairs of 16 channels are turned round."""
    count = (wide - phase + every - 1) // every if row >= 0 else 0
    at = source + max(row, 0) * x_row + phase * x_pixel
    step = every * x_pixel
    for start in range(0, pitch, 32):
        live = min(max(count - start, 0), 32)
        for first in range(0, channels, 64):
            some = min(64, channels - first)
            for pair in range((live + 1) // 2):
                here = at + (start + 2 * pair) * step + first * 4
                other = step if 2 * pair + 1 < live else zeros - here
                split_pairs(cuts, 1, here, other, room + pair * 256, 4096, some, flag)
            for p in range(cuts):
                for c in range(0, some, 16):
                    to = target + start * 2 + p * part + (first + c) * plane
                    # Pairs that are not there are stored as zeros.
                    rows = max((live + 1) // 2, 1)
                    if live > 0:
                        transpose_block(
                            "int32", 16, "none", room + p * 4096 + c * 4, 256, to, plane, 0, rows, min(16, some - c), 16
                        )  # fmt: skip
                    else:
                        for k in range(min(16, some - c)):
                            zero_bytes(to + k * plane, 64)


@device
def _gradient_pixels(
    cuts: int, source: int, g_pixel: int, columns: int, first: int, pitch: int, live: int, target: int, zeros: int,
    flag: int,
) -> None:  # fmt: skip
    """Cut one row of pixels of 16 output channels from position `first` on: pairs of pixels side by side."""
    for j in range(0, pitch, 2):
        q = first + j
        place = target + q // 32 * cuts * 1024 + q % 32 * 32
        if j < columns:
            at = source + j * g_pixel
            split_pairs(cuts, 1, at, g_pixel if j + 1 < columns else zeros - at, place, 1024, live, flag)
        else:
            for p in range(cuts):
                zero_bytes(place + p * 1024, 64)


@task_factory
def split_gradient(products: int, cuts: int, every: int, nhwc: int) -> Task:
    """Return the task that computes the gradients of some output channels by some input channels of one group.

    Images are cut into planes of positions, rows `pitch` apart, so that one number of positions leads to the input of
    any tap; gradients into pairs of the same positions, with zeros where there is no output. For each tap and 32 x 32
    channels the sums over all positions of a band are products of tiles.

    Shapes   x (N, C, H, W) or (N, H, W, C); y (O, C / groups, KH, KW); given: address of the gradients, (N, O, OH, OW)
             or (N, OH, OW, O), then a flag; lines: row of the image behind the band's first, phase, position;
             offsets: bytes to the positions of each tap; table: bytes of 32 positions in the planes, in the pairs
    Assumes  columns have stride `every`, 1 or 2; scratch as `fastconv.operators.split_gradient` lays it out
    Touches  writes its part of y, scratch, and 1 at the flag when a value is not finite: then y is of no use
    Source   arXiv:1904.06376
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, given, shape, table, offsets, lines, line_count, images, height = words(ctx, 10)
        wide, oh, ow, taps, per_group, c_per_group, rows, bands, pitch, sh = words(ctx + 80, 10)
        c_blocks, c_each, c_splits, o_blocks, o_each, o_splits, lead, end, total, items = words(ctx + 160, 10)
        plane, part, g_tile, pairs_at, room_at, sums_at, kept_at, kept_bytes, pair_plane, zeros_at = words(
            ctx + 240, 10
        )
        x_image, x_row, x_pixel, x_channel, g_image, g_row, g_pixel, g_channel = words(ctx + 320, 8)
        gradients, flag = load("int64", given), given + 8
        o_split, rest = i % o_splits, i // o_splits
        c_split, group = rest % c_splits, rest // c_splits
        c_from, c_to = c_split * c_each, min((c_split + 1) * c_each, c_blocks)
        o_from, o_to = o_split * o_each, min((o_split + 1) * o_each, o_blocks)
        channels = min(c_to * 32, c_per_group) - c_from * 32
        zeros, room, sums = scratch + zeros_at, scratch + room_at, scratch + sums_at
        zero_bytes(zeros, 256)
        tile_configure(shape)
        for step in range(images * bands):
            image, first = step // bands, step % bands * rows
            source = x + image * x_image + (group * c_per_group + c_from * 32) * x_channel
            for start in range(0, lead, 32):
                split_rows(cuts, source, 0, scratch + start * 2, plane, part, channels, 0, flag)
            for line in range(line_count):
                row = first * sh + load("int64", lines + 24 * line)
                row = row if 0 <= row < height else -1
                phase = load("int64", lines + 24 * line + 8)
                target = scratch + load("int64", lines + 24 * line + 16) * 2
                if nhwc != 0:
                    _image_pixels(
                        cuts, every, source, x_row, x_pixel, row, phase, wide, pitch, channels, target, plane, part,
                        zeros, room, flag,
                    )  # fmt: skip
                else:
                    _image_planes(
                        cuts, every, source, x_row, x_channel, row, phase, wide, pitch, channels, target, plane, part,
                        flag,
                    )  # fmt: skip
            for start in range(end, total, 32):
                split_rows(cuts, source, 0, scratch + start * 2, plane, part, channels, 0, flag)
            for tile in range(2 * (o_to - o_from)):
                o = o_from * 32 + tile * 16
                live = min(16, per_group - o)
                to = scratch + pairs_at + tile * g_tile
                at = gradients + image * g_image + (group * per_group + o) * g_channel
                if live <= 0:
                    continue
                for t in range(rows):
                    there = first + t < oh
                    here = at + (first + t) * g_row if there else at
                    columns = ow if there else 0
                    if nhwc != 0:
                        _gradient_pixels(
                            cuts, here, g_pixel, columns, t * pitch, pitch, live, to, zeros, flag
                        )
                    else:
                        for start in range(0, pitch, 32):
                            some = min(max(columns - start, 0), 32)
                            split_rows(
                                cuts, here + start * 4 if some > 0 else here, g_channel,
                                room + (t * pitch + start) * 2, pair_plane, 16 * pair_plane, live, some, flag,
                            )  # fmt: skip
                if nhwc != 0:
                    left = items * 32 - rows * pitch
                    _gradient_pixels(cuts, at, g_pixel, 0, rows * pitch, left, live, to, zeros, flag)
                else:
                    last = room + rows * pitch * 2
                    split_rows(cuts, at, 0, last, pair_plane, 16 * pair_plane, live, 0, flag)
                    for item in range(items):
                        for p in range(cuts):
                            transpose_block(
                                "int32", 16, "none", room + p * 16 * pair_plane + item * 64, pair_plane,
                                to + (item * cuts + p) * 1024, 64, 0, live, 16, 16,
                            )  # fmt: skip
            for block in range((c_to - c_from) * (o_to - o_from)):
                c_block, o_block = block // (o_to - o_from), block % (o_to - o_from)
                one = scratch + c_block * 32 * plane
                two = scratch + pairs_at + 2 * o_block * g_tile
                kept = scratch + kept_at + block * kept_bytes
                for tap in range(taps):
                    at, total_at = one + load("int64", offsets + 8 * tap), kept + tap * SUMS_BYTES
                    fresh = step == 0
                    to = total_at if fresh else sums
                    matrix_products(
                        products, 2, 2, at, at + 16 * plane, plane, part, two, two + g_tile, 64, 1024, table, items,
                        to,
                    )  # fmt: skip
                    if not fresh:
                        for k in range(0, 4096, 64):
                            both = vadd(vload("float32", 16, total_at + k), vload("float32", 16, sums + k))
                            vstore(total_at + k, both)
                if step < images * bands - 1:
                    continue
                # Tile (m, n) of a tap: rows are input channels, columns output channels.
                c_first, o_first = (c_from + c_block) * 32, (o_from + o_block) * 32
                for n in range(2):
                    live = min(16, per_group - o_first - 16 * n)
                    for c in range(min(32, c_per_group - c_first) if live > 0 else 0):
                        sum_at = kept + (c // 16 * 2 + n) * 1024 + c % 16 * 64
                        o = group * per_group + o_first + 16 * n
                        out = y + (o * c_per_group + c_first + c) * taps * 4
                        for tap in range(0, taps, 16):
                            some = min(16, taps - tap)
                            transpose_block(
                                "float32", 16, "none", sum_at + tap * SUMS_BYTES, SUMS_BYTES, out + tap * 4,
                                c_per_group * taps * 4, 0, some, live, some,
                            )  # fmt: skip
        tile_release()

    return task
