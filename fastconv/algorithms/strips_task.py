"""The task of small groups in NHWC: strips of some output rows, one vector of channels after the other."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import row_pointers
from fastconv.kernels.simd import item_bytes, load, store, words, zero_bytes
from fastconv.kernels.strips_tile import strips_tile

Task = Callable[[int, int, int], None]


@task_factory
def pixel_strips(
    tile_rows: int, kh: int, kw: int, sh: int, sw: int, group: int, points: int, far: int, tail: int,
    lanes: int, dtype: str, activation: str,
) -> Task:  # fmt: skip
    """Return the task that computes a block of output rows of all channels of one image, NHWC.

    With `points` a strip that meets a value which is not finite, and would spread it over its rows, is computed once
    more by the definition.

    Shapes   x (N, H, W, C); y (N, OH, OW, C); weights [vector][kh][kw][group][lanes], and with `points` before them
             [vector][points][kw][group][lanes]
    Assumes  `tail` where the last vector is not full; scratch: one vector, then the addresses of the rows under a
             strip and of its own; `outside` is a row of zeros
    Touches  writes its rows of y, and scratch
    Source   with `points` arXiv:1509.09308
    """
    size = item_bytes(dtype)
    step = lanes * size
    count = (tile_rows - 1) * sh + kh
    tap_bytes = kw * group * step
    height = (tile_rows + kh - 1) * tap_bytes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, rows_in, outside, blocks, rows, oh = words(ctx, 10)
        ow, w, whole, rest, left, x_image, x_row, pixel, y_row, plain = words(ctx + 80, 10)
        block, image = i % blocks, i // blocks
        pointers = scratch + step
        y_rows = pointers + 8 * count
        shift = whole * step
        for row in range(block * rows, min((block + 1) * rows, oh), tile_rows):
            row_pointers(rows_in, row * sh, count, x + image * x_image, x_row, outside, pointers)
            target = y + (image * oh + row) * y_row
            held = residual + (target - y) if residual != 0 else 0
            live = min(tile_rows, oh - row)
            for t in range(tile_rows):
                store("int64", y_rows + 8 * t, target + t * y_row)
            x_ahead = load("int64", pointers + 8 * (count - 1)) + x_row
            y_ahead = target + tile_rows * y_row
            held_rest = held + shift if held != 0 else 0
            if points != 0:
                zero_bytes(scratch, step)
                if whole > 0:
                    strips_tile(
                        tile_rows, kh, kw, kw, sh, sw, group, 1, far, 1, lanes, dtype, activation,
                        pointers, 0, pixel, weights, target, y_rows, held, bias, scratch, x_ahead, y_ahead,
                        ow, left, w, live, lanes, whole,
                    )  # fmt: skip
                if tail != 0:
                    strips_tile(
                        tile_rows, kh, kw, kw, sh, sw, group, 1, far, 0, lanes, dtype, activation,
                        pointers, shift, pixel, weights + whole * height, target + shift, y_rows, held_rest,
                        bias + shift, scratch, x_ahead, y_ahead, ow, left, w, live, rest, 1,
                    )  # fmt: skip
                finite = True
                for lane in range(lanes):
                    finite = finite and load(dtype, scratch + lane * size) == 0
                if finite:
                    continue
            kernel = weights + plain
            if whole > 0:
                strips_tile(
                    tile_rows, kh, kw, kw, sh, sw, group, 0, far, 1, lanes, dtype, activation,
                    pointers, 0, pixel, kernel, target, y_rows, held, bias, scratch, x_ahead, y_ahead,
                    ow, left, w, live, lanes, whole,
                )  # fmt: skip
            if tail != 0:
                strips_tile(
                    tile_rows, kh, kw, kw, sh, sw, group, 0, far, 0, lanes, dtype, activation,
                    pointers, shift, pixel, kernel + whole * kh * tap_bytes, target + shift, y_rows, held_rest,
                    bias + shift, scratch, x_ahead, y_ahead, ow, left, w, live, rest, 1,
                )  # fmt: skip

    return task
