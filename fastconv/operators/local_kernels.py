"""Kernels of locally connected layers: each weight is used once per image, so memory sets the pace, not arithmetic.

All read the weights in the order in which they lie, once for all images. One image of 32 to 32 channels at 28x28,
3x3, float32: to read 29 MB and do nothing else takes 0.84 ms (34.5 GB/s) and, asked for as `local_pixels` does it,
0.76 ms, which is what that task takes; `local_planes_3x3` takes 0.85 ms.
"""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.gemm_tile import ONCE, brgemm, brgemm_once
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


#: Images that are the rows of one register tile, by its vectors.
IMAGES = {1: 8, 2: 8, 3: 4, 4: 4}
#: Bytes ahead of a single image's products at which weights are asked for: more than a page, so that it comes before
#: what the machine foresees (a page less: 0.83 ms instead of 0.76).
AHEAD = 6144


@task_factory
def local_pixels(nv: int, lanes: int, dtype: str) -> Task:
    """Return the task that computes all channels of some output pixels: images are the rows of a register tile.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); w (OH, OW, KH, KW, C, O); bias (O), or (OH, OW, O) when `bias_step` is
             not 0; scratch: an item (offset in x, offset in w) for each tap
    Assumes  full holds the store segments of a tile; context as `local._pixels` writes it
    Touches  writes its pixels of y in all images, and scratch
    """
    size = item_bytes(dtype)
    width = nv * lanes
    together = IMAGES[nv]

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, full, units, per_task, n, h = words(ctx, 10)
        w, channels, o, ow, kh, kw, sh, sw, dh, dw = words(ctx + 80, 10)
        top, left, x_image, y_image, bias_step = words(ctx + 160, 5)
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
            kernel, start_bias = weights + unit * kh * kw * tap_bytes, bias + unit * bias_step
            block = 0
            while items > 0 and block + width <= o:
                out, start, b = (
                    y + unit * line + block * size,
                    kernel + block * size,
                    start_bias + block * size,
                )
                image = 0
                while image + together <= n:
                    brgemm(
                        together, nv, lanes, dtype, "n", "none", x + image * x_image, x_image, size, start, line,
                        scratch, items, channels, out + image * y_image, 0, y_image, together, full, b, 0, ONCE,
                    )  # fmt: skip
                    image += together
                while image < n:
                    brgemm_once(
                        1, nv, lanes, dtype, "n", "none", x + image * x_image, x_image, size, start, line,
                        scratch, items, channels, out + image * y_image, 0, y_image, 1, full, b, 0, ONCE, AHEAD,
                    )  # fmt: skip
                    image += 1
                block += width
            # The rest, narrower than a tile: the tile would read weights that are not there.
            for c in range(block, o, lanes):
                live = o - c
                for image in range(n):
                    total = vload_tail(dtype, lanes, start_bias + c * size, live)
                    for item in range(items):
                        pixel = x + image * x_image + load("int64", scratch + 16 * item)
                        weight = kernel + load("int64", scratch + 16 * item + 8) + c * size
                        for k in range(channels):
                            value = vsplat(dtype, lanes, load(dtype, pixel + k * size))
                            total = vfma(value, vload_tail(dtype, lanes, weight + k * line, live), total)
                    vstore_tail(y + image * y_image + unit * line + c * size, total, live)

    return task


@task_factory
def local_planes(lanes: int, dtype: str) -> Task:
    """Return the task that computes some vectors of pixels of one output channel: a plane is one row of pixels.

    Shapes   x (N, C, KW, SH, rows, OW): the columns under each tap, rows a stride apart behind one another, zeros
             around the image and a vector of anything at the end; y (N, O, OH * OW); w (O, C, taps, OH * OW); bias (O),
             or (O, OH * OW) when `bias_step` is not 0; taps: where in a channel of x each tap's first pixel is; masks
             (vectors, taps): a bit for each pixel of a vector where the tap is in the image
    Assumes  context as `local._planes` writes it
    Touches  writes its pixels of y in all images; partial sums stand there meanwhile
    """
    size = item_bytes(dtype)
    step = lanes * size

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, taps, masks, blocks, per_block, n = words(ctx, 10)
        channels, o, pixels, count, x_channel, bias_step = words(ctx + 80, 6)
        channel, first = i // blocks, i % blocks * per_block
        end = min(first + per_block, (pixels + lanes - 1) // lanes)
        plane = pixels * size
        one_bias = vsplat(dtype, lanes, load(dtype, bias + channel * size))
        for c in range(channels):
            kernels = weights + (channel * channels + c) * count * plane
            for image in range(n):
                source, to = x + (image * channels + c) * x_channel, y + (image * o + channel) * plane
                for v in range(first, end):
                    at, live, listed = v * step, pixels - v * lanes, masks + v * count * 8
                    total = one_bias
                    if c > 0:
                        total = vload_tail(dtype, lanes, to + at, live)
                    elif bias_step != 0:
                        total = vload_tail(dtype, lanes, bias + channel * bias_step + at, live)
                    weight = kernels + at
                    for tap in range(count):
                        # Padding is a zero in x; its weights, which may be infinite, are not read.
                        w = vload_bits(dtype, lanes, weight, load("int64", listed + 8 * tap))
                        # The same place of the next input channel: its streams are too short to be foreseen.
                        prefetch_far(weight + count * plane)
                        total = vfma(
                            vload(dtype, lanes, source + load("int64", taps + 8 * tap) + at), w, total
                        )
                        weight += plane
                    vstore_tail(to + at, total, live)

    return task


@task_factory
def local_planes_3x3(lanes: int, dtype: str) -> Task:
    """Return the task of `local_planes` for 3x3 kernels, whose weights stay in registers for all images.

    Shapes   as `local_planes`
    Assumes  as `local_planes`
    Touches  as `local_planes`
    """
    size = item_bytes(dtype)
    step = lanes * size

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, taps, masks, blocks, per_block, n = words(ctx, 10)
        channels, o, pixels, _, x_channel, bias_step = words(ctx + 80, 6)
        channel, first = i // blocks, i % blocks * per_block
        end = min(first + per_block, (pixels + lanes - 1) // lanes)
        plane = pixels * size
        t0, t1, t2, t3, t4, t5, t6, t7, t8 = words(taps, 9)
        one_bias = vsplat(dtype, lanes, load(dtype, bias + channel * size))
        for c in range(channels):
            kernels = weights + (channel * channels + c) * 9 * plane
            for v in range(first, end):
                at, live = v * step, pixels - v * lanes
                b0, b1, b2, b3, b4, b5, b6, b7, b8 = words(masks + v * 72, 9)
                place = kernels + at
                w0 = vload_bits(dtype, lanes, place, b0)
                w1 = vload_bits(dtype, lanes, place + plane, b1)
                w2 = vload_bits(dtype, lanes, place + 2 * plane, b2)
                w3 = vload_bits(dtype, lanes, place + 3 * plane, b3)
                w4 = vload_bits(dtype, lanes, place + 4 * plane, b4)
                w5 = vload_bits(dtype, lanes, place + 5 * plane, b5)
                w6 = vload_bits(dtype, lanes, place + 6 * plane, b6)
                w7 = vload_bits(dtype, lanes, place + 7 * plane, b7)
                w8 = vload_bits(dtype, lanes, place + 8 * plane, b8)
                # The same place of the next input channel: streams too short to be foreseen by the machine.
                for tap in range(9, 18):
                    prefetch_far(place + tap * plane)
                p, to = x + c * x_channel + at, y + channel * plane + at
                start = one_bias
                if bias_step != 0:
                    start = vload_tail(dtype, lanes, bias + channel * bias_step + at, live)
                for _ in range(n):
                    total = start
                    if c > 0:
                        total = vload_tail(dtype, lanes, to, live)
                    total = vfma(vload(dtype, lanes, p + t0), w0, total)
                    total = vfma(vload(dtype, lanes, p + t1), w1, total)
                    total = vfma(vload(dtype, lanes, p + t2), w2, total)
                    total = vfma(vload(dtype, lanes, p + t3), w3, total)
                    total = vfma(vload(dtype, lanes, p + t4), w4, total)
                    total = vfma(vload(dtype, lanes, p + t5), w5, total)
                    total = vfma(vload(dtype, lanes, p + t6), w6, total)
                    total = vfma(vload(dtype, lanes, p + t7), w7, total)
                    total = vfma(vload(dtype, lanes, p + t8), w8, total)
                    vstore_tail(to, total, live)
                    to += o * plane
                    p += channels * x_channel

    return task
