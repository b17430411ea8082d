"""The task of Winograd convolution: one block of tiles from its pixels to its outputs."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.definition import window_sum
from fastconv.kernels.gemm_tile import multiply_panel
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import item_bytes, load, store, vload_tail, vstore, words, zero_bytes
from fastconv.kernels.transpose import transpose_block
from fastconv.kernels.winograd_tile import winograd_input, winograd_output

Task = Callable[[int, int, int], None]

#: Places in a worker's scratch: the flag is at its start, then where the pixels of an edge tile are, then pixels.
TABLE_AT, PIXELS_AT = 64, 64 + 8 * 64


@task_factory
def winograd(
    kh: int, kw: int, mh: int, mw: int, mr: int, nv: int, lanes: int, dtype: str, activation: str, planar: int
) -> Task:
    """Return the task that computes some output channels of a block of tiles of one image.

    Shapes   x, y NHWC, or NCHW if `planar`; weights [group][block][planes][C/g][NR]
    Assumes  scratch: flag, table of an edge tile, pixels, V, M, and if `planar` the block's outputs as pixels
    Touches  writes its outputs, and scratch
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    width = nv * lanes
    high, wide = mh + kh - 1, mw + kw - 1
    planes = high * wide
    none = "none"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, row_in, col_in, offsets, in_patch, zeros = words(ctx, 10)
        groups, down, across, splits, per_split, o_blocks, rows, columns, th, tw = words(ctx + 80, 10)
        oh, ow, h, w, top, left, k, per_group, strip_pixel, strip_row = words(ctx + 160, 10)
        v_row, v_step, m_step, u_bytes, x_image, x_row, x_pixel, x_channel = words(ctx + 240, 8)
        y_image, y_row, y_pixel, y_channel, v_at, m_at, out_at, copy_offset, gather = words(ctx + 304, 9)
        split, rest = i % splits, i // splits
        bx, rest = rest % across, rest // across
        by, rest = rest % down, rest // down
        group, image = rest % groups, rest // groups
        ty, tx = by * rows, bx * columns
        nh, nw = min(rows, th - ty), min(columns, tw - tx)
        count = nh * nw
        pixels, v, products, outputs = scratch + PIXELS_AT, scratch + v_at, scratch + m_at, scratch + out_at
        store("int64", scratch, 0)
        corner = x + image * x_image + group * k * x_channel
        first_row, first_col = ty * mh - top, tx * mw - left
        if planar != 0:
            strip_cols = nw * mw + kw - 1
            for r in range(nh * mh + kh - 1):
                row = load("int64", row_in + 8 * (ty * mh + r))
                to = pixels + r * strip_row
                if row < 0:
                    zero_bytes(to, strip_row)
                    continue
                start, stop = max(-first_col, 0), max(min(w - first_col, strip_cols), 0)
                line = corner + row * x_row
                for c in range(0, k, lanes):
                    live = min(lanes, k - c)
                    q = start
                    while q < stop:
                        transpose_block(
                            dtype, lanes, none, line + c * x_channel + (first_col + q) * size, x_channel,
                            to + q * strip_pixel + c * size, strip_pixel, 0, live, min(lanes, stop - q), lanes,
                        )  # fmt: skip
                        q += lanes
                for q in range(strip_cols):
                    if q < start or q >= stop:
                        column = load("int64", col_in + 8 * (tx * mw + q))
                        zero_bytes(to + q * strip_pixel, strip_pixel)
                        if column >= 0:
                            for c in range(k):
                                value = load(dtype, line + c * x_channel + column * size)
                                store(dtype, to + q * strip_pixel + c * size, value)
            for tile in range(count):
                place = pixels + tile // nw * mh * strip_row + tile % nw * mw * strip_pixel
                winograd_input(
                    mh, mw, kh, kw, dtype, lanes, place, offsets, v + tile * v_row, v_step,
                    strip_pixel // (lanes * size), scratch,
                )  # fmt: skip
        else:
            whole = k // lanes
            edge = scratch + TABLE_AT
            for tile in range(count):
                row, column = first_row + tile // nw * mh, first_col + tile % nw * mw
                place, where = corner + row * x_row + column * x_pixel, offsets
                if row < 0 or column < 0 or row + high > h or column + wide > w:
                    # Pixels of the padding are read from zeros, or wherever the maps say.
                    place, where = corner, edge
                    for p in range(high):
                        r = load("int64", row_in + 8 * (top + row + p))
                        for q in range(wide):
                            c = load("int64", col_in + 8 * (left + column + q))
                            there = r * x_row + c * x_pixel if r >= 0 and c >= 0 else zeros - corner
                            store("int64", edge + 8 * (p * wide + q), there)
                target = v + tile * v_row
                if whole > 0:
                    winograd_input(mh, mw, kh, kw, dtype, lanes, place, where, target, v_step, whole, scratch)
                if k > whole * lanes:
                    for p in range(planes):
                        pixel = place + load("int64", where + 8 * p) + whole * lanes * size
                        vstore(pixels + p * lanes * size, vload_tail(dtype, lanes, pixel, k - whole * lanes))
                    target += whole * lanes * size
                    winograd_input(mh, mw, kh, kw, dtype, lanes, pixels, in_patch, target, v_step, 1, scratch)
        slack = (count + mr - 1) // mr * mr - count
        for xi in range(planes):
            zero_bytes(v + xi * v_step + count * v_row, slack * v_row)
        exact = load("int64", scratch) != 0
        last = min((split + 1) * per_split, o_blocks)
        for block_o in range(split * per_split, last):
            panel = group * o_blocks + block_o
            ahead = (block_o - split * per_split) % gather
            produced = products + ahead * planes * m_step
            if exact:
                for o in range(min(width, per_group - block_o * width)):
                    channel = block_o * width + o
                    kernel = weights + copy_offset + (group * per_group + channel) * k * kh * kw * size
                    for place in range(nh * mh * nw * mw):
                        row, column = ty * mh + place // (nw * mw), tx * mw + place % (nw * mw)
                        if row < oh and column < ow:
                            total = window_sum(
                                size, corner, kernel, row_in + 8 * row, col_in + 8 * column, k, kh, kw, 1, 1,
                                x_channel, x_row, x_pixel,
                            )  # fmt: skip
                            store(dtype, products, total + load(dtype, bias + (panel * width + o) * size))
                            out = y + image * y_image + row * y_row + column * y_pixel
                            out += (group * per_group + channel) * y_channel
                            held = residual + (out - y) if residual != 0 else 0
                            transpose_block(dtype, lanes, activation, products, 0, out, size, held, 1, 1, 1)
                continue
            if ahead == 0:
                span = min(gather, last - block_o)
                passes = (count + mr - 1) // mr
                panel_bytes = k * width * size
                for xi in range(planes):
                    for other in range(span):
                        to = produced + (other * planes + xi) * m_step
                        u = weights + (panel + other) * u_bytes + xi * panel_bytes
                        # Each pass over a panel asks for its share of the next one.
                        share = panel_bytes // passes
                        following = u + u_bytes
                        if other + 1 == span:
                            following = weights + panel * u_bytes + (xi + 1) * panel_bytes
                        for tile in range(0, count, mr):
                            multiply_panel(
                                mr, nv, lanes, dtype, v + xi * v_step + tile * v_row, v_row, u, k,
                                to + tile * width * size, following, share // k,
                            )  # fmt: skip
                            following += share
            live_o = min(width, per_group - block_o * width)
            for tile in range(count):
                row, column = (ty + tile // nw) * mh, (tx + tile % nw) * mw
                live_rows, live_cols = min(mh, oh - row), min(mw, ow - column)
                for o in range(0, live_o, lanes):
                    product = produced + tile * width * size + o * size
                    held_bias = bias + (panel * width + o) * size
                    if planar != 0:
                        out = outputs + ((tile // nw * mh * nw + tile % nw) * mw * width + o) * size
                        winograd_output(
                            mh, mw, kh, kw, dtype, lanes, none, product, m_step, held_bias, out, 0,
                            nw * mw * width * size, width * size, mh, mw, lanes,
                        )  # fmt: skip
                    else:
                        out = y + image * y_image + row * y_row + column * y_pixel
                        out += (group * per_group + block_o * width + o) * size
                        winograd_output(
                            mh, mw, kh, kw, dtype, lanes, activation, product, m_step, held_bias,
                            out, residual + (out - y) if residual != 0 else 0, y_row, y_pixel,
                            live_rows, live_cols, min(lanes, live_o - o),
                        )  # fmt: skip
            if planar != 0:
                for row in range(ty * mh, min((ty + nh) * mh, oh)):
                    line = outputs + (row - ty * mh) * nw * mw * width * size
                    stop = min((tx + nw) * mw, ow)
                    for o in range(0, live_o, lanes):
                        out = (
                            y
                            + image * y_image
                            + (group * per_group + block_o * width + o) * y_channel
                            + row * y_row
                        )
                        column = tx * mw
                        while column < stop:
                            to = out + column * size
                            transpose_block(
                                dtype, lanes, activation, line + ((column - tx * mw) * width + o) * size, width * size,
                                to, y_channel, residual + (to - y) if residual != 0 else 0,
                                min(lanes, stop - column), min(lanes, live_o - o), min(lanes, stop - column),
                            )  # fmt: skip
                            column += lanes

    return task
