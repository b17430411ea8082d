"""Kernels of locally connected layers: each weight is used once per image, so memory sets the pace, not arithmetic.

All read the weights in the order in which they lie, once for all images. One image of 32 to 32 channels at 28x28,
3x3, float32: `local_pixels` takes 0.80 ms, as long as to read 29 MB and do nothing else (36 GB/s), `local_planes_3x3`
0.93 ms.
"""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.gemm_tile import ONCE, brgemm
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
    zero_bytes,
)

Task = Callable[[int, int, int], None]


#: Images that are the rows of one register tile, by its vectors.
IMAGES = {1: 8, 2: 8, 3: 4, 4: 4}


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
                    brgemm(
                        1, nv, lanes, dtype, "n", "none", x + image * x_image, x_image, size, start, line,
                        scratch, items, channels, out + image * y_image, 0, y_image, 1, full, b, 0, ONCE,
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
    """Return the task that computes some rows of one output channel: columns lie in the lanes.

    Shapes   x (N, C, H, SW, pitch): padded column q of a row stands at (q % SW, q // SW), zeros around the image and
             to the end of the last vector; y (N, O, OH, OW); w (O, C, KH, KW, OH, OW); bias (O), or (O, OH, OW) when
             `bias_step` is not 0; taps (KW): byte offset in a row of x of column 0 under the tap; masks (vectors, KW):
             a bit for each column of a vector where the tap is in the image
    Assumes  context as `local._planes` writes it
    Touches  writes its rows of y in all images; partial sums stand there meanwhile
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, taps, masks, blocks, per_block, n = words(ctx, 10)
        channels, o, oh, ow, h, kh, kw, sh, dh, top = words(ctx + 80, 10)
        x_row, bias_step = words(ctx + 160, 2)
        channel, block = i // blocks, i % blocks
        first, end = block * per_block, min((block + 1) * per_block, oh)
        plane = oh * ow * size
        one_bias = vsplat(dtype, lanes, load(dtype, bias + channel * size))
        for c in range(channels):
            kernels = weights + (channel * channels + c) * kh * kw * plane
            for image in range(n):
                source = x + (image * channels + c) * h * x_row
                to = y + (image * o + channel) * plane
                for row in range(first, end):
                    for j in range(0, ow, lanes):
                        place, listed = (row * ow + j) * size, masks + j // lanes * kw * 8
                        total = one_bias
                        if c > 0:
                            total = vload_tail(dtype, lanes, to + place, ow - j)
                        elif bias_step != 0:
                            total = vload_tail(dtype, lanes, bias + channel * bias_step + place, ow - j)
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


@task_factory
def local_planes_3x3(lanes: int, dtype: str) -> Task:
    """Return the task of `local_planes` for 3x3 kernels, whose weights stay in registers for all images.

    Eight images of 32 to 32 channels at 28x28: 3.5 ms, 5.7 by the general task.

    Shapes   as `local_planes`; scratch: a row of x, zeros
    Assumes  as `local_planes`
    Touches  as `local_planes`, and scratch
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, weights, bias, taps, masks, blocks, per_block, n = words(ctx, 10)
        channels, o, oh, ow, h, _, _, sh, dh, top = words(ctx + 80, 10)
        x_row, bias_step = words(ctx + 160, 2)
        channel, block = i // blocks, i % blocks
        first, end = block * per_block, min((block + 1) * per_block, oh)
        plane, x_image, y_image = oh * ow * size, channels * h * x_row, o * oh * ow * size
        t0, t1, t2 = words(taps, 3)
        one_bias = vsplat(dtype, lanes, load(dtype, bias + channel * size))
        zero_bytes(scratch, x_row)
        for c in range(channels):
            kernels = weights + (channel * channels + c) * 9 * plane
            source = x + c * h * x_row
            for row in range(first, end):
                # Rows in the padding are zeros elsewhere, the same for all images, and their weights are not read.
                u0 = row * sh - top
                u1, u2 = u0 + dh, u0 + 2 * dh
                in0, in1, in2 = u0 >= 0 and u0 < h, u1 >= 0 and u1 < h, u2 >= 0 and u2 < h
                p0, p1, p2 = scratch, scratch, scratch
                step0, step1, step2 = 0, 0, 0
                some0, some1, some2 = 0, 0, 0
                if in0:
                    p0, step0, some0 = source + u0 * x_row, x_image, -1
                if in1:
                    p1, step1, some1 = source + u1 * x_row, x_image, -1
                if in2:
                    p2, step2, some2 = source + u2 * x_row, x_image, -1
                for j in range(0, ow, lanes):
                    at, live = j * size, ow - j
                    place = kernels + row * ow * size + at
                    b0, b1, b2 = words(masks + j // lanes * 24, 3)
                    w0 = vload_bits(dtype, lanes, place, b0 & some0)
                    w1 = vload_bits(dtype, lanes, place + plane, b1 & some0)
                    w2 = vload_bits(dtype, lanes, place + 2 * plane, b2 & some0)
                    w3 = vload_bits(dtype, lanes, place + 3 * plane, b0 & some1)
                    w4 = vload_bits(dtype, lanes, place + 4 * plane, b1 & some1)
                    w5 = vload_bits(dtype, lanes, place + 5 * plane, b2 & some1)
                    w6 = vload_bits(dtype, lanes, place + 6 * plane, b0 & some2)
                    w7 = vload_bits(dtype, lanes, place + 7 * plane, b1 & some2)
                    w8 = vload_bits(dtype, lanes, place + 8 * plane, b2 & some2)
                    # The same place of the next input channel: streams too short to be foreseen by the machine.
                    for tap in range(9, 18):
                        prefetch_far(place + tap * plane)
                    to = y + channel * plane + row * ow * size + at
                    q0, q1, q2 = p0 + at, p1 + at, p2 + at
                    start = one_bias
                    if bias_step != 0:
                        start = vload_tail(
                            dtype, lanes, bias + channel * bias_step + row * ow * size + at, live
                        )
                    for _ in range(n):
                        total = start
                        if c > 0:
                            total = vload_tail(dtype, lanes, to, live)
                        total = vfma(vload(dtype, lanes, q0 + t0), w0, total)
                        total = vfma(vload(dtype, lanes, q0 + t1), w1, total)
                        total = vfma(vload(dtype, lanes, q0 + t2), w2, total)
                        total = vfma(vload(dtype, lanes, q1 + t0), w3, total)
                        total = vfma(vload(dtype, lanes, q1 + t1), w4, total)
                        total = vfma(vload(dtype, lanes, q1 + t2), w5, total)
                        total = vfma(vload(dtype, lanes, q2 + t0), w6, total)
                        total = vfma(vload(dtype, lanes, q2 + t1), w7, total)
                        total = vfma(vload(dtype, lanes, q2 + t2), w8, total)
                        vstore_tail(to, total, live)
                        to += y_image
                        q0 += step0
                        q1 += step1
                        q2 += step2

    return task
