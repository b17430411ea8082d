"""The kernel of transposed convolution by Winograd's transforms, with weights that are transformed as they are read."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import device, task_factory
from fastconv.kernels.packing import move
from fastconv.kernels.phase_tile import transform_phases
from fastconv.kernels.phase_weights_tile import transform_weights
from fastconv.kernels.points_tile import multiply_points
from fastconv.kernels.simd import item_bytes, load, words, zero_bytes
from fastconv.kernels.transpose import transpose_block
from fastconv.kernels.winograd_matrices import phase_matrices

Task = Callable[[int, int, int], None]


@device
def _window(
    dtype: str, lanes: int, size: int, nhwc: int, image: int, row: int, column: int, high: int, wide: int,
    h: int, w: int, x_row: int, x_pixel: int, x_channel: int, depth: int, patch: int, patch_pixel: int,
) -> None:  # fmt: skip
    """Write the pixels of a window side by side, in whole vectors of channels; zeros beside the image.

    Shapes   image: first channel and pixel; window from (`row`, `column`) on; patch (high, wide) pixels
    Touches  writes patch
    """
    start, stop = max(-column, 0), max(min(w - column, wide), 0)
    for r in range(high):
        to = patch + r * wide * patch_pixel
        if row + r < 0 or row + r >= h or stop <= start:
            zero_bytes(to, wide * patch_pixel)
            continue
        zero_bytes(to, start * patch_pixel)
        zero_bytes(to + stop * patch_pixel, (wide - stop) * patch_pixel)
        line = image + (row + r) * x_row + column * x_pixel
        if nhwc != 0:
            for q in range(start, stop):
                move(to + q * patch_pixel, line + q * x_pixel, depth * size)
                zero_bytes(to + q * patch_pixel + depth * size, patch_pixel - depth * size)
            continue
        for c in range(0, depth, lanes):
            for q in range(start, stop, lanes):
                transpose_block(
                    dtype, lanes, "none", line + c * x_channel + q * x_pixel, x_channel,
                    to + q * patch_pixel + c * size, patch_pixel, 0, min(lanes, depth - c), min(lanes, stop - q), lanes,
                )  # fmt: skip


@device
def _placed(
    dtype: str, lanes: int, size: int, nhwc: int, patch: int, patch_row: int, patch_pixel: int,
    y: int, y_row: int, y_pixel: int, y_channel: int, rows: int, columns: int, channels: int,
) -> None:  # fmt: skip
    """Store `rows` x `columns` outputs of a tile, of pixels with their channels side by side.

    Touches  writes `channels` channels of them
    """
    for r in range(rows):
        at, to = patch + r * patch_row, y + r * y_row
        if nhwc != 0:
            for q in range(columns):
                move(to + q * y_pixel, at + q * patch_pixel, channels * size)
            continue
        for c in range(0, channels, lanes):
            for q in range(0, columns, lanes):
                some = min(lanes, columns - q)
                transpose_block(
                    dtype, lanes, "none", at + q * patch_pixel + c * size, patch_pixel,
                    to + q * y_pixel + c * y_channel, y_channel, 0, some, min(lanes, channels - c), some,
                )  # fmt: skip


@task_factory
def winograd_spread(
    m: int, kh: int, kw: int, sh: int, sw: int, top: int, left: int, most: int, held: int, lanes: int, dtype: str,
    nhwc: int,
) -> Task:  # fmt: skip
    """Return the task that computes some vectors of output channels of a block of tiles, of any images.

    It transforms the windows of its tiles (V). Of each vector of output channels it transforms the columns of the
    weights of a few input channels, in L1, multiplies them by V, goes on to the next few, adding up, and transforms the
    sums back.

    Shapes   x (N, K, H, W) or (N, H, W, K); y (N, C, OH, OW) or (N, OH, OW, C); given: address of the weights, of which
             a group is (K, C / groups, taps), and a flag; V (vectors of K, rows, lanes); sums (rows) vectors; tables of
             `transform_phases`
    Touches  writes its outputs and scratch; 1 at the flag when an output is not finite
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    vector = lanes * size
    row_matrices, col_matrices = phase_matrices(m, kh, sh, top), phase_matrices(m, kw, sw, left)
    high, wide = len(row_matrices.inputs[0]), len(col_matrices.inputs[0])
    rows_out, cols_out = sh * m, sw * m
    kernel = kh * kw * size

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, given, pixels, to_rows, from_rows, outputs, tiles, blocks, splits = words(ctx, 10)
        each, o_vectors, depth, per_group, h, w, oh, ow, th, tw = words(ctx + 80, 10)
        above, before, v_block, x_image, x_row, x_pixel, x_channel, y_image, y_row, y_pixel = words(
            ctx + 160, 10
        )
        y_channel, patch_pixel, w_row, v_at, half_at, sums_at, sums_bytes = words(ctx + 240, 7)
        split, rest = i % splits, i // splits
        group, number = rest // blocks, rest % blocks
        weights, flag = load("int64", given), given + 8
        v, half, sums = scratch + v_at, scratch + half_at, scratch + sums_at
        start = number * most
        count = min(most, tiles - start)
        vectors = (depth + lanes - 1) // lanes
        if count < most:
            # Rows that belong to no tile are multiplied too, and must not be what an earlier task left: see `packing`.
            zero_bytes(v, vectors * v_block)
        for tile in range(count):
            place = start + tile
            image, ty, tx = place // (th * tw), place // tw % th, place % tw
            _window(
                dtype, lanes, size, nhwc, x + image * x_image + group * depth * x_channel, ty * m + above,
                tx * m + before, high, wide, h, w, x_row, x_pixel, x_channel, depth, scratch, patch_pixel,
            )  # fmt: skip
            transform_phases(
                "scaled_inputs", m, kh, sh, top, m, kw, sw, left, dtype, lanes, scratch, pixels, v + tile * vector,
                to_rows, vector, v_block, vectors, flag,
            )  # fmt: skip
        for o in range(split * each * lanes, min((split + 1) * each, o_vectors) * lanes, lanes):
            source = weights + (group * depth * per_group + o) * kernel
            used = min(lanes, per_group - o)
            zero_bytes(sums, sums_bytes)
            for k in range(0, depth, lanes):
                some = min(lanes, depth - k)
                transform_weights(
                    m, kh, sh, top, kw, dtype, lanes, source + k * w_row, half, w_row, some, used
                )
                # Weights that are read next come while these are multiplied.
                ahead = (k + lanes) * w_row if k + lanes < depth else kernel * lanes
                multiply_points(
                    m, kh, sh, top, kw, sw, left, most, held, lanes, lanes, dtype, v + k // lanes * v_block, half, sums,
                    some, source + ahead, w_row,
                )  # fmt: skip
            for tile in range(count):
                place = start + tile
                image, ty, tx = place // (th * tw), place // tw % th * rows_out, place % tw * cols_out
                transform_phases(
                    "outputs", m, kh, sh, top, m, kw, sw, left, dtype, lanes, sums + tile * vector, from_rows, scratch,
                    outputs, 0, 0, 1, flag,
                )  # fmt: skip
                _placed(
                    dtype, lanes, size, nhwc, scratch, cols_out * vector, vector,
                    y + image * y_image + (group * per_group + o) * y_channel + ty * y_row + tx * y_pixel, y_row,
                    y_pixel, y_channel, min(rows_out, oh - ty), min(cols_out, ow - tx), used,
                )  # fmt: skip

    return task
