"""Kernels of locally connected layers: each weight is used once per image, so memory sets the pace, not arithmetic.

Both read the weights in the order in which they lie, once for all images.
"""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.gemm_tile import brgemm
from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import vload_bits
from fastconv.kernels.simd import (
    item_bytes,
    load,
    prefetch_far,
    store,
    vfma,
    vload,
    vload_tail,
    vsplat,
    vstore_tail,
    words,
)

Task = Callable[[int, int, int], None]


@task_factory
def local_pixels(lanes: int, dtype: str) -> Task:
    """Return the task that computes all channels of some output pixels: images are the rows of a register tile.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); w (OH, OW, KH, KW, C, O); bias (OH, OW, O); scratch: an item (offset in
             x, offset in w) for each tap
    Assumes  full holds the store segments of a tile; context as `local._pixels` writes it
    Touches  writes its pixels of y in all images, and scratch
    """
    size = item_bytes(dtype)
    width = 2 * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, full, units, per_task, n, h = words(ctx, 10)
        w, channels, o, ow, kh, kw, sh, sw, dh, dw = words(ctx + 80, 10)
        top, left, x_image, y_image = words(ctx + 160, 4)
        line = o * size
        tap_bytes = channels * line
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            row, column = unit // ow * sh - top, unit % ow * sw - left
            items = 0
            for tap in range(kh * kw):
                r, s = row + tap // kw * dh, column + tap % kw * dw
                if r >= 0 and r < h and s >= 0 and s < w:
                    store("int64", scratch + 16 * items, (r * w + s) * channels * size)
                    store("int64", scratch + 16 * items + 8, tap * tap_bytes)
                    items += 1
            kernel = weights + unit * kh * kw * tap_bytes
            block = 0
            while items > 0 and block + width <= o:
                out, start, b = (
                    y + unit * line + block * size,
                    kernel + block * size,
                    bias + unit * line + block * size,
                )
                image = 0
                while image + 4 <= n:
                    brgemm(
                        4, 2, lanes, dtype, "n", "none", x + image * x_image, x_image, size, start, line,
                        scratch, items, channels, out + image * y_image, 0, y_image, 4, full, b, 0, 0,
                    )  # fmt: skip
                    image += 4
                while image < n:
                    brgemm(
                        1, 2, lanes, dtype, "n", "none", x + image * x_image, x_image, size, start, line,
                        scratch, items, channels, out + image * y_image, 0, y_image, 1, full, b, 0, 0,
                    )  # fmt: skip
                    image += 1
                block += width
            # The rest, narrower than a tile: the tile would read weights that are not there.
            for c in range(block, o, lanes):
                live = o - c
                for image in range(n):
                    total = vload_tail(dtype, lanes, bias + unit * line + c * size, live)
                    for item in range(items):
                        pixel = x + image * x_image + load("int64", scratch + 16 * item)
                        weight = kernel + load("int64", scratch + 16 * item + 8) + c * size
                        for k in range(channels):
                            value = vsplat(dtype, lanes, load(dtype, pixel + k * size))
                            total = vfma(value, vload_tail(dtype, lanes, weight + k * line, live), total)
                    vstore_tail(y + image * y_image + unit * line + c * size, total, live)

    return task


@task_factory
def local_planes(side: int, lanes: int, dtype: str) -> Task:
    """Return the task that computes some rows of one output channel: columns lie in the lanes.

    Shapes   x (N, C, H, SW, pitch): padded column q of a row stands at (q % SW, q // SW), zeros around the image and
             to the end of the last vector; y (N, O, OH, OW); w (O, C, KH, KW, OH, OW); bias (O, OH, OW);
             taps (KW): byte offset in a row of x of column 0 under the tap; masks (vectors, KW): a bit for each column
             of a vector where the tap is in the image
    Assumes  context as `local._planes` writes it
    Touches  writes its rows of y in all images; partial sums stand there meanwhile
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, taps, masks, blocks, per_block, n = words(ctx, 10)
        channels, o, oh, ow, h, any_kh, any_kw, sh, dh, top = words(ctx + 80, 10)
        kh, kw = side if side else any_kh, side if side else any_kw
        (x_row,) = words(ctx + 160, 1)
        channel, block = i // blocks, i % blocks
        first, end = block * per_block, min((block + 1) * per_block, oh)
        plane = oh * ow * size
        for image in range(n):
            for p in range(first * ow, end * ow, lanes):
                start = vload_tail(dtype, lanes, bias + channel * plane + p * size, end * ow - p)
                vstore_tail(y + (image * o + channel) * plane + p * size, start, end * ow - p)
        for c in range(channels):
            kernels = weights + (channel * channels + c) * kh * kw * plane
            for image in range(n):
                source = x + (image * channels + c) * h * x_row
                to = y + (image * o + channel) * plane
                for row in range(first, end):
                    for j in range(0, ow, lanes):
                        place, listed = (row * ow + j) * size, masks + j // lanes * kw * 8
                        total = vload_tail(dtype, lanes, to + place, ow - j)
                        for r in range(kh):
                            under = row * sh + r * dh - top
                            if under >= 0 and under < h:
                                for s in range(kw):
                                    p = source + under * x_row + load("int64", taps + 8 * s) + j * size
                                    bits = load("int64", listed + 8 * s)
                                    weight = kernels + (r * kw + s) * plane + place
                                    # Padding is a zero in x; its weights, which may be infinite, are not read.
                                    w = vload_bits(dtype, lanes, weight, bits)
                                    # The same place of the next input channel: its streams are too short to be
                                    # foreseen by the machine.
                                    prefetch_far(weight + kh * kw * plane)
                                    total = vfma(vload(dtype, lanes, p), w, total)
                        vstore_tail(to + place, total, ow - j)

    return task
