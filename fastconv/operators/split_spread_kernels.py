"""The kernel of transposed convolution of few pixels on a matrix unit: weights are cut where they stand."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import vpick
from fastconv.kernels.matrix_tile import matrix_products, tile_configure, tile_release
from fastconv.kernels.simd import load, prefetch_far, vadd, vload_tail, vstore, vstore_tail, words, zero_bytes
from fastconv.kernels.split_tile import split_pairs, split_rows
from fastconv.kernels.transpose import transpose_block

Task = Callable[[int, int, int], None]


@task_factory
def split_spread(products: int, cuts: int, nhwc: int) -> Task:
    """Return the task that computes some blocks of 32 output channels of all images.

    Pixels times weights are the windows that each pixel is spread over; they are added up while in cache.

    Shapes   x (N, K, H, W) or (N, H, W, K); y (N, C, OH, OW) or (N, OH, OW, C); given: address of the weights, of which
             a group is (K, C / groups, taps), and a flag; rows (OH, 1 + 2 KH), columns (OW, 1 + 2 KW): count, then
             bytes in `lanes` and in `pixels_at` of what is added up; lanes (taps, 2, 16): bytes of a channel's window
             in those of a pixel, which begin `pixels_at` bytes on; table: bytes of 32 of the depth in A and in B
    Assumes  scratch as `fastconv.operators.split_spread` lays it out; pitch is a multiple of 64
    Touches  writes its channels of y, scratch, and 1 at the flag when a value is not finite: then y is of no use
    Source   arXiv:1603.07285, section 4; arXiv:1904.06376
    """
    ahead = 16

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, given, shape, table, rows, columns, pixels_at, lanes, images = words(ctx, 10)
        pixels, depth, taps, per_group, blocks, each, splits, oh, ow, kh = words(ctx + 80, 10)
        kw, items, tiles, pitch, a_image, b_at, windows_at, room_at, zeros_at, w_row = words(ctx + 160, 10)
        x_image, x_pixel, x_channel, y_image, y_pixel, y_channel = words(ctx + 240, 6)
        w, flag = load("int64", given), given + 8
        group, split = i // splits, i % splits
        a_tile, b_part = items * cuts * 1024, 16 * pitch
        panel, windows, room, zeros = (
            scratch + b_at,
            scratch + windows_at,
            scratch + room_at,
            scratch + zeros_at,
        )
        zero_bytes(zeros, pitch)
        for image in range(images):
            source = x + image * x_image + group * depth * x_channel
            for tile in range(0, pixels, 16):
                live = min(16, pixels - tile)
                for item in range(items):
                    to = scratch + image * a_image + tile // 16 * a_tile + item * cuts * 1024
                    some = min(32, depth - item * 32)
                    if nhwc != 0:
                        at = source + tile * x_pixel + item * 128
                        split_rows(cuts, at, x_pixel, to, 64, 1024, live, some, flag)
                        continue
                    for k in range(0, some, 16):
                        transpose_block(
                            "float32", 16, "none", source + (item * 32 + k) * x_channel + tile * 4, x_channel,
                            room + k * 4, 128, 0, min(16, some - k), live, min(16, some - k),
                        )  # fmt: skip
                    split_rows(cuts, room, 128, to, 64, 1024, live, some, flag)
        tile_configure(shape)
        for block in range(split * each, min((split + 1) * each, blocks)):
            live = min(32, per_group - block * 32)
            used = live * taps
            corner = w + group * depth * w_row + block * 32 * taps * 4
            for pair in range(items * 16):
                to = panel + pair // 16 * cuts * b_part + pair % 16 * pitch
                if 2 * pair < depth:
                    at = corner + 2 * pair * w_row
                    # Every row begins a page that nothing fetches ahead.
                    if 2 * pair + ahead < depth:
                        for line in range(0, used * 4, 64):
                            prefetch_far(at + ahead * w_row + line)
                            prefetch_far(at + (ahead - 1) * w_row + line)
                    other = w_row if 2 * pair + 1 < depth else zeros - at
                    split_pairs(cuts, 1, at, other, to, b_part, used, flag)
                else:
                    for p in range(cuts):
                        zero_bytes(to + p * b_part, pitch)
            for image in range(images):
                for column in range(0, used, 32):
                    for tile in range(0, tiles, 2):
                        one, two = scratch + image * a_image + tile * a_tile, panel + column * 4
                        matrix_products(
                            products, 2, 2, one, one + a_tile, 64, 1024, two, two + 64, pitch, b_part, table, items,
                            windows + (tile // 2 * taps + column // 32) * 4096,
                        )  # fmt: skip
                out = y + image * y_image + (group * per_group + block * 32) * y_channel
                for pixel in range(oh * ow):
                    row_list = rows + pixel // ow * (1 + 2 * kh) * 8
                    col_list = columns + pixel % ow * (1 + 2 * kw) * 8
                    down, across = load("int64", row_list), load("int64", col_list)
                    for half in range(0, live, 16):
                        total = vload_tail("float32", 16, windows, 0)
                        for r in range(down):
                            for s in range(across):
                                tap = load("int64", row_list + 8 + 16 * r) + load(
                                    "int64", col_list + 8 + 16 * s
                                )
                                from_pixel = load("int64", row_list + 16 + 16 * r) + load(
                                    "int64", col_list + 16 + 16 * s
                                )
                                at = windows + load("int64", pixels_at + from_pixel)
                                total = vadd(total, vpick("float32", 16, 0, at, lanes + tap + half * 8))
                        if nhwc != 0:
                            vstore_tail(out + pixel * y_pixel + half * 4, total, min(16, live - half))
                        else:
                            vstore(room + pixel * 128 + half * 4, total)
                if nhwc == 0:
                    for pixel in range(0, oh * ow, 16):
                        some = min(16, oh * ow - pixel)
                        for half in range(0, live, 16):
                            transpose_block(
                                "float32", 16, "none", room + pixel * 128 + half * 4, 128,
                                out + half * y_channel + pixel * 4, y_channel, 0, some, min(16, live - half), some,
                            )  # fmt: skip
        tile_release()

    return task
