"""The kernels of the gradient by the kernels by Winograd: tiles to points, products for each point, points to taps."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.gemm_tile import multiply_turned
from fastconv.kernels.jit import task_factory
from fastconv.kernels.phase_tile import axis_matrix, transform_phases
from fastconv.kernels.simd import item_bytes, load, vload_tail, vstore, words, zero_bytes
from fastconv.kernels.taps_tile import store_taps
from fastconv.kernels.transpose import transpose_block

Task = Callable[[int, int, int], None]


@task_factory
def tile_points(
    kind: str, mh: int, kh: int, sh: int, top: int, mw: int, kw: int, sw: int, left: int,
    nv: int, lanes: int, dtype: str, nhwc: int,
) -> Task:  # fmt: skip
    """Return the task that transforms some rows of tiles of one block of NV vectors of channels.

    Shapes   x (N, C, H, W) or (N, H, W, C); y [group][block][row][NV vectors]; places: bytes from the first pixel of a
             tile to each; targets (rows of tiles, 2, points): bytes in a block to the row of a point of the first tile
             across, those of the next tiles follow it, and of the last tile
    Assumes  scratch holds one row of tiles, NV vectors a pixel
    Touches  writes its rows of y, and scratch; pixels beside the image are zeros
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    vector = lanes * size
    pixel = nv * vector
    high = len(axis_matrix(kind, mh, kh, sh, top)[0])
    wide = len(axis_matrix(kind, mw, kw, sw, left)[0])
    points = len(axis_matrix(kind, mh, kh, sh, top)) * len(axis_matrix(kind, mw, kw, sw, left))

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, places, targets, first, rows, each, pieces, th = words(ctx, 10)
        tw, height, columns, row_step, row_begin, column_step, column_begin, channels, blocks = words(
            ctx + 80, 9
        )
        x_image, x_row, x_unit, x_group, block_bytes = words(ctx + 152, 5)
        piece, rest = i % pieces, i // pieces
        block, group = rest % blocks, rest // blocks
        live = min(nv * lanes, channels - block * nv * lanes)
        corner = x + group * x_group + block * nv * lanes * (size if nhwc != 0 else x_unit)
        target = y + rest * block_bytes
        strip = (tw - 1) * column_step + wide
        # Columns of the strip that are in the image.
        start = min(max(-column_begin, 0), strip)
        stop = max(min(columns - column_begin, strip), start)
        for q in range(piece * each, min((piece + 1) * each, rows)):
            image, tile_row = (first + q) // th, (first + q) % th
            for r in range(high):
                row = tile_row * row_step + row_begin + r
                to = scratch + r * strip * pixel
                if row < 0 or row >= height:
                    zero_bytes(to, strip * pixel)
                    continue
                zero_bytes(to, start * pixel)
                zero_bytes(to + stop * pixel, (strip - stop) * pixel)
                line = corner + image * x_image + row * x_row
                for c in range(0, nv * lanes, lanes):
                    here = min(lanes, live - c)
                    if nhwc != 0:
                        at = line + (start + column_begin) * x_unit + c * size if here > 0 else line
                        for column in range(start, stop):
                            vstore(to + column * pixel + c * size, vload_tail(dtype, lanes, at, here))
                            at += x_unit if here > 0 else 0
                    else:
                        for column in range(start, stop, lanes):
                            count = min(lanes, stop - column)
                            put = to + column * pixel + c * size
                            if here > 0:
                                transpose_block(
                                    dtype, lanes, "none", line + c * x_unit + (column + column_begin) * size, x_unit,
                                    put, pixel, 0, here, count, lanes,
                                )  # fmt: skip
                            else:
                                for k in range(count):
                                    zero_bytes(put + k * pixel, vector)
            table = targets + 16 * q * points
            for v in range(nv):
                if tw > 1:
                    transform_phases(
                        kind, mh, kh, sh, top, mw, kw, sw, left, dtype, lanes, scratch + v * vector, places,
                        target + v * vector, table, column_step * pixel, pixel, tw - 1, scratch,
                    )  # fmt: skip
                transform_phases(
                    kind, mh, kh, sh, top, mw, kw, sw, left, dtype, lanes,
                    scratch + (tw - 1) * column_step * pixel + v * vector, places,
                    target + v * vector, table + 8 * points, 0, 0, 1, scratch,
                )  # fmt: skip

    return task


@task_factory
def kernels_of_points(
    mh: int, kh: int, sh: int, top: int, mw: int, kw: int, sw: int, left: int,
    mr: int, nv: int, lanes: int, dtype: str,
) -> Task:  # fmt: skip
    """Return the task that computes the gradients of some output channels by some input channels of one group.

    For each kernel point it is a product of matrices, whose long side are the rows that `tile_points` wrote.

    Shapes   x: panels of gradients [group][block][row][O lanes], and `images_at` bytes on of images
             [group][block][row][NR]; y (O, C / groups, KH, KW); points (kernel points, 3): bytes to its rows in a
             block of gradients, in one of images, number of rows; given: the flag
    Assumes  MR divides the outputs of a block; scratch holds sums of all points of the tiles of a task
    Touches  writes its part of y, and scratch; 1 at the flag when a result is not finite
    Source   arXiv:1509.09308; arXiv:1906.06440
    """
    size = item_bytes(dtype)
    width = nv * lanes
    # A line more than the sums take: powers of two apart they would fall into one set of L1.
    cell = mr * width * size + 64
    taps = kh * kw
    kernel_points = len(axis_matrix("kernels", mh, kh, sh, top)) * len(
        axis_matrix("kernels", mw, kw, sw, left)
    )
    rounds = max(kernel_points // mr, 1)

    def task(ctx: int, i: int, scratch: int) -> None:
        panels, y, given, points, images_at, g_block, x_block, o_width, o_tiles, o_each = words(ctx, 10)
        o_splits, c_blocks, c_each, c_splits, per_group, c_per_group, depth, streamed = words(ctx + 80, 8)
        o_split, rest = i % o_splits, i // o_splits
        c_split, group = rest % c_splits, rest // c_splits
        o_from, o_to = o_split * o_each, min((o_split + 1) * o_each, o_tiles)
        c_from, c_to = c_split * c_each, min((c_split + 1) * c_each, c_blocks)
        o_blocks = (o_tiles * mr + o_width - 1) // o_width
        gradients = panels + group * o_blocks * g_block
        images = panels + images_at + group * c_blocks * x_block
        y_row = c_per_group * taps * size
        # Bytes of a row of results that a kernel point asks for.
        share = (width * taps * size + rounds - 1) // rounds
        for u in range(kernel_points):
            g_rows, x_rows = load("int64", points + 24 * u), load("int64", points + 24 * u + 8)
            k = load("int64", points + 24 * u + 16)
            # Rows of both panels that stay in L1 for all tiles of the task.
            some = (k + (k + depth - 1) // depth - 1) // max((k + depth - 1) // depth, 1)
            for row in range(0, max(k, 1), max(some, 1)):
                for c_block in range(c_from, c_to):
                    b = images + c_block * x_block + x_rows + row * width * size
                    for tile in range(o_from, o_to):
                        number = (c_block - c_from) * (o_to - o_from) + tile - o_from
                        sums = scratch + (number * kernel_points + u) * cell
                        if k == 0:
                            zero_bytes(sums, cell)
                            continue
                        o = tile * mr
                        a = gradients + o // o_width * g_block + g_rows + (row * o_width + o % o_width) * size
                        if streamed != 0:
                            # Each tile asks for one vector of every row of images that comes next.
                            ahead, step = b + (some * width + (tile - o_from) * lanes) * size, width * size
                        else:
                            # Each point asks for its share of the lines that are written in the end.
                            step = min(share // k, 64)
                            ahead = (
                                y + (group * per_group + o + u % mr) * y_row + c_block * width * taps * size
                            )
                            ahead += u // mr * share + row * step
                        multiply_turned(
                            mr, nv, lanes, dtype, a, o_width * size, b, min(some, k - row), sums,
                            1 if row > 0 else 0, ahead, step,
                        )  # fmt: skip
        for c_block in range(c_from, c_to):
            for tile in range(o_from, o_to):
                number = (c_block - c_from) * (o_to - o_from) + tile - o_from
                live = min(width, c_per_group - c_block * width)
                vectors = (live + lanes - 1) // lanes
                for m in range(min(mr, per_group - tile * mr)):
                    out = y + (group * per_group + tile * mr + m) * y_row + c_block * width * taps * size
                    store_taps(
                        mh, kh, sh, top, mw, kw, sw, left, dtype, lanes,
                        scratch + number * kernel_points * cell + m * width * size, cell, out, vectors,
                        live - (vectors - 1) * lanes, given,
                    )  # fmt: skip

    return task
