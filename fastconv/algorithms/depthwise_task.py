"""The tasks of depthwise convolution: some planes, and rows of pixels under a kernel taken in pieces."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.depthwise_planes_tile import NOTHING, READS, SUMS, planes_tile
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import row_pointers
from fastconv.kernels.simd import item_bytes, store, words
from fastconv.kernels.strips_tile import strips_tile

Task = Callable[[int, int, int], None]


@task_factory
def depthwise_planes(
    vectors: int,
    outputs: int,
    grouped: int,
    kh: int,
    kw: int,
    sh: int,
    sw: int,
    beside: int,
    last_vector: int,
    lanes: int,
    dtype: str,
    activation: str,
) -> Task:
    """Return the task that computes a block of rows of some output planes, NCHW.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [group][block][g][kh][kw][outputs]; bias [group][block][outputs]
    Assumes  context as `layout` writes it
    Touches  writes its rows of y
    Source   none
    """
    size = item_bytes(dtype)
    width = vectors * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, pieces, per_task, blocks, rows, oh = words(ctx, 10)
        ow, w, h, g, per_group, top, left, x_row, x_plane, y_row = words(ctx + 80, 10)
        y_plane, k_bytes, of_image, side_by_side, x_end = words(ctx + 160, 5)
        first = i % blocks * rows
        last = min(first + rows, oh)
        high_row, low_row = min((last - 1) * sh - top + kh, h), max(first * sh - top, 0)
        piece = i // blocks * per_task
        end = min(piece + per_task, pieces)
        while piece < end:
            place = piece % of_image
            count = min(end - piece, side_by_side, of_image - place)
            source = x + piece // per_group * g * x_plane
            target = y + piece * outputs * y_plane
            held = residual + (target - y) if residual != 0 else 0
            kernels, biases = weights + place * k_bytes, bias + place * outputs * size
            for column in range(0, ow, width):
                begin = column * sw - left
                low, high = -begin, w - begin
                at = source + begin * size
                beyond = at + (count * g - 1) * x_plane + (high_row - 1) * x_row + (width * sw + kw) * size
                to = target + column * size
                at_residual = held + column * size if held != 0 else 0
                if at + low_row * x_row < x or beyond > x + x_end:
                    planes_tile(
                        vectors, outputs, grouped, kh, kw, sh, sw, beside, last_vector, READS, lanes, dtype,
                        activation, at, x_row, x_plane, low, high, kernels, to, y_row, y_plane, at_residual, biases,
                        first, last, top, h, g, ow - column, count,
                    )  # fmt: skip
                elif low <= 0 and high >= width * sw + kw - 1 and ow - column >= width:
                    planes_tile(
                        vectors, outputs, grouped, kh, kw, sh, sw, beside, last_vector, NOTHING, lanes, dtype,
                        activation, at, x_row, x_plane, low, high, kernels, to, y_row, y_plane, at_residual, biases,
                        first, last, top, h, g, ow - column, count,
                    )  # fmt: skip
                else:
                    planes_tile(
                        vectors, outputs, grouped, kh, kw, sh, sw, beside, last_vector, SUMS, lanes, dtype,
                        activation, at, x_row, x_plane, low, high, kernels, to, y_row, y_plane, at_residual, biases,
                        first, last, top, h, g, ow - column, count,
                    )  # fmt: skip
            piece += count

    return task


@task_factory
def depthwise_pieces(
    tile_rows: int, tall: int, low: int, wide: int, narrow: int, kw: int, sh: int, sw: int, full: int, lanes: int,
    dtype: str, activation: str,
) -> Task:  # fmt: skip
    """Return the task that computes a block of output rows of all channels of one image, NHWC, piece by piece.

    The kernel is cut into pieces of `tall` and then `low` rows, of `wide` and then `narrow` columns. Each adds its sums
    to the outputs, which wait in L1; pieces whose rows are all beside the image are left out.

    Shapes   x (N, H, W, C); y (N, OH, OW, C); weights [vector][kh][kw][lanes]
    Assumes  scratch holds the addresses of the rows under a tile and of its own; `outside` is a row of zeros, `nothing`
             a vector of them; `full` where no lane is dead
    Touches  writes its rows of y, and scratch
    Source   none
    """
    size = item_bytes(dtype)
    step = lanes * size
    none = "none"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, rows_in, outside, blocks, rows, oh = words(ctx, 10)
        ow, w, c, kh, left, x_image, x_row, pixel, y_row, k_bytes = words(ctx + 80, 10)
        nothing, tall_end, wide_end, top, h = words(ctx + 160, 5)
        block, image = i % blocks, i // blocks
        for row in range(block * rows, min((block + 1) * rows, oh), tile_rows):
            under = (tile_rows - 1) * sh + kh
            row_pointers(rows_in, row * sh, under, x + image * x_image, x_row, outside, scratch)
            live = min(tile_rows, oh - row)
            y_rows = scratch + 8 * under
            for t in range(tile_rows):
                store("int64", y_rows + 8 * t, y + (image * oh + row + t) * y_row)
            for v in range(-(-c // lanes)):
                to = y + (image * oh + row) * y_row + v * step
                held, start = residual + (to - y) if residual != 0 else 0, bias + v * step
                r = 0
                while r < kh:
                    height = tall if r < tall_end else low
                    above = row * sh + r - top
                    far = above >= h or above + (tile_rows - 1) * sh + height <= 0
                    s = 0
                    while s < kw:
                        width = wide if s < wide_end else narrow
                        kernel = weights + v * k_bytes + (r * kw + s) * step
                        pointers, before, channels = scratch + 8 * r, left - s, min(c - v * lanes, lanes)
                        if r + height == kh and s + width == kw:
                            strips_tile(
                                tile_rows, low, narrow, kw, sh, sw, 1, 0, 0, full, lanes, dtype, activation,
                                pointers, v * step, pixel, kernel, to, y_rows, held, start, 0, 0, 0, ow, before, w,
                                live, channels, 1,
                            )  # fmt: skip
                        elif far and r + s > 0:
                            pass
                        elif r < tall_end and s < wide_end:
                            strips_tile(
                                tile_rows, tall, wide, kw, sh, sw, 1, 0, 0, full, lanes, dtype, none,
                                pointers, v * step, pixel, kernel, to, y_rows, held, start, 0, 0, 0, ow, before, w,
                                live, channels, 1,
                            )  # fmt: skip
                        elif r < tall_end:
                            strips_tile(
                                tile_rows, tall, narrow, kw, sh, sw, 1, 0, 0, full, lanes, dtype, none,
                                pointers, v * step, pixel, kernel, to, y_rows, held, start, 0, 0, 0, ow, before, w,
                                live, channels, 1,
                            )  # fmt: skip
                        elif s < wide_end:
                            strips_tile(
                                tile_rows, low, wide, kw, sh, sw, 1, 0, 0, full, lanes, dtype, none,
                                pointers, v * step, pixel, kernel, to, y_rows, held, start, 0, 0, 0, ow, before, w,
                                live, channels, 1,
                            )  # fmt: skip
                        else:
                            strips_tile(
                                tile_rows, low, narrow, kw, sh, sw, 1, 0, 0, full, lanes, dtype, none,
                                pointers, v * step, pixel, kernel, to, y_rows, held, start, 0, 0, 0, ow, before, w,
                                live, channels, 1,
                            )  # fmt: skip
                        held, start = to, nothing
                        s += width
                    r += height

    return task
