"""The kernel of transposed convolution for few pixels and many weights, which are read where they stand."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.gemm_tile import brgemm
from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import vpick
from fastconv.kernels.packing import move
from fastconv.kernels.simd import item_bytes, load, vadd, vload_tail, vstore, words, zero_bytes
from fastconv.kernels.transpose import transpose_block

Task = Callable[[int, int, int], None]


@task_factory
def spread(mr: int, nv: int, lanes: int, dtype: str, nhwc: int) -> Task:
    """Return the task that computes a vector of output channels of all images.

    Pixels times weights are the windows that each pixel is spread over; these are added up while in cache.

    Shapes   x (N, K, H, W) or (N, H, W, K), `pixels` of them an image; w: `depth` rows of a group, `w_row` bytes apart,
             each (c, taps); y (N, C, OH, OW) or (N, OH, OW, C); rows (OH, 1 + KH), columns (OW, 1 + KW): count, then
             byte offsets of what is added up; places: byte offset of each lane; none: NR zeros; full: store segments
    Assumes  pixels >= MR; scratch holds windows, then a vector a pixel of the output, then the weights of the task
    Touches  writes its channels of y, and scratch
    Source   arXiv:1603.07285, section 4
    """
    size = item_bytes(dtype)
    width = nv * lanes
    vector = lanes * size

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, w, table, full, none, rows, columns, places, images = words(ctx, 10)
        pixels, depth, taps, c_per_group, blocks, oh, ow, kh, kw, window = words(ctx + 80, 10)
        sums, panel, w_row, w_group, x_image, x_pixel, x_channel, x_group, y_image, y_pixel = words(
            ctx + 160, 10
        )
        y_channel, y_group = words(ctx + 240, 2)
        group, block = i // blocks, i % blocks
        live = min(lanes, c_per_group - block * lanes)
        used = live * taps
        source = w + group * w_group + block * lanes * taps * size
        for k in range(depth):
            for first in range(0, used, width):
                to = scratch + panel + (first * depth + k * width) * size
                here = min(width, used - first)
                move(to, source + k * w_row + first * size, here * size)
                if here < width:
                    zero_bytes(to + here * size, (width - here) * size)
        for image in range(images):
            given = x + image * x_image + group * x_group
            for first in range(0, used, width):
                for tile in range(0, pixels, mr):
                    start = min(tile, pixels - mr)
                    brgemm(
                        mr, nv, lanes, dtype, "n", "none",
                        given + start * x_pixel, x_pixel, x_channel,
                        scratch + panel + first * depth * size, width * size, table, 1, depth,
                        scratch + start * window + first * size, 0, window, mr, full, none, 0, 0,
                    )  # fmt: skip
            for row in range(oh):
                row_list = rows + row * (1 + kh) * 8
                for column in range(ow):
                    col_list = columns + column * (1 + kw) * 8
                    total = vload_tail(dtype, lanes, scratch, 0)
                    for r in range(load("int64", row_list)):
                        at = scratch + load("int64", row_list + 8 + 8 * r)
                        for s in range(load("int64", col_list)):
                            here = at + load("int64", col_list + 8 + 8 * s)
                            total = vadd(total, vpick(dtype, lanes, 0, here, places))
                    vstore(scratch + sums + (row * ow + column) * vector, total)
            out = y + image * y_image + group * y_group + block * lanes * y_channel
            for pixel in range(0, oh * ow, lanes):
                count = min(lanes, oh * ow - pixel)
                at = scratch + sums + pixel * vector
                if nhwc != 0:
                    for k in range(count):
                        move(out + (pixel + k) * y_pixel, at + k * vector, live * size)
                else:
                    transpose_block(
                        dtype, lanes, "none", at, vector, out + pixel * size, y_channel, 0, count, live, count
                    )

    return task
