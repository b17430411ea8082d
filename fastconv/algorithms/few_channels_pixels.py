"""Few channels in NHWC: pixels are taken apart into planes, computed like planes, and put together at the store."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import split_columns
from fastconv.kernels.pixels_tile import merge_pixels, split_pixels
from fastconv.kernels.rows_tile import rows_tile
from fastconv.kernels.simd import item_bytes, load, words, zero_bytes

Task = Callable[[int, int, int], None]


@task_factory
def few_channels_pixels(
    tile_rows: int, nv: int, kh: int, kw: int, c: int, o: int, lanes: int, dtype: str, activation: str
) -> Task:
    """Return the task that computes a block of output rows of one image, all groups.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); weights [O][C/g][kh][kw]; bias [O]
    Assumes  column stride 1; context as `fastconv.algorithms.few_channels` writes it; scratch holds the strip of the
             block as planes, then one tile of every output channel
    Touches  writes its rows of y, and scratch
    Source   none
    """
    size = item_bytes(dtype)
    width = nv * lanes
    tile_bytes = tile_rows * width * size
    at_tile = activation if o == 1 else "none"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, items, rows_in, cols_in, blocks = words(ctx, 10)
        rows, oh, ow, w, channels, per_group, sh, left, apart, k_bytes = words(ctx + 80, 10)
        w_row, w_step, x_step, x_row, x_image, y_row, pitch, plane, down, strip_rows = words(ctx + 160, 10)
        (outputs_at,) = words(ctx + 240, 1)
        block, image = i % blocks, i // blocks
        first = block * rows
        live_rows = min(rows, oh - first)
        for r in range(strip_rows):
            line = scratch + r * pitch * size
            row = load("int64", rows_in + 8 * (first * sh + r))
            if row < 0:
                for channel in range(c):
                    zero_bytes(line + channel * plane, pitch * size)
                continue
            source = x + image * x_image + row * x_row
            # Columns of the image in whole vectors, the last of them overlapping the one before; the rest one by one.
            count = min(left + w, pitch) - left
            count = count if count >= lanes else 0
            if count > 0:
                split_pixels(c, lanes, dtype, source, line + left * size, plane, count // lanes)
                last = count - lanes
                split_pixels(c, lanes, dtype, source + last * c * size, line + (left + last) * size, plane, 1)
            split_columns(source, line, plane, c, 0, left, cols_in, size)
            split_columns(source, line, plane, c, left + count, pitch, cols_in, size)
        outputs = scratch + outputs_at
        for residue in range(apart):
            for t in range(residue, live_rows, tile_rows * apart):
                mr = min(tile_rows, (live_rows - t + apart - 1) // apart)
                for column in range(0, ow, width):
                    live = min(width, ow - column)
                    to = y + (image * oh + first + t) * y_row + column * o * size
                    held = residual + (to - y) if residual != 0 else 0
                    for channel in range(o):
                        source = scratch + channel // per_group * channels * plane
                        rows_tile(
                            tile_rows, nv, kh, kw, lanes, dtype, at_tile,
                            source + (t * sh * pitch + column) * size, down, x_step, table, items,
                            weights + channel * k_bytes, w_row, w_step,
                            to if o == 1 else outputs + channel * tile_bytes,
                            apart * y_row if o == 1 else width * size, held if o == 1 else 0,
                            mr, live if o == 1 else width, bias + channel * size, 0,
                        )  # fmt: skip
                    if o > 1:
                        for r in range(mr):
                            for v in range(0, live, lanes):
                                shift = r * apart * y_row + v * o * size
                                merge_pixels(
                                    o, lanes, dtype, activation, outputs + (r * width + v) * size, tile_bytes,
                                    to + shift, held + shift if held != 0 else 0, min(lanes, live - v),
                                )  # fmt: skip

    return task
