"""Pooling of NCHW images: columns lie in the lanes. The rows under a window are joined into one strip of scratch
memory with the padding at its ends, then the strip's columns.
"""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import (
    vany,
    vdiv,
    vgreater,
    vload_rest,
    vmax,
    vmul,
    vor,
    vpick,
    vreduce,
    vselect,
    vunordered,
)
from fastconv.kernels.packing import move
from fastconv.kernels.simd import (
    item_bytes,
    load,
    store,
    vadd,
    vload,
    vload_tail,
    vsplat,
    vstore,
    vstore_tail,
    words,
)

Task = Callable[[int, int, int], None]


@task_factory
def max_planes(step: int, lanes: int, dtype: str) -> Task:
    """Return the task that takes the maxima of some output rows.

    Shapes   x (planes, H, W); y (planes, OH, OW); rows (OH, 2): first row and count of each window; taps (taps, pitch
             of OW) int64: byte offset into the strip, read where `step` is 0
    Assumes  column j under tap s is element ``j * step + s * dilation`` of the strip, or as `taps` says; each row
             count is at least 1; scratch is one strip; context as `pooling._planes` writes it
    Touches  writes its rows of y, and scratch
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, taps, _, _, units, per_task, ends, strip = words(ctx, 11)
        oh, ow, w, x_plane, x_row, row_step, left, count, col_step, taps_row = words(ctx + 88, 10)
        lowest, not_a_number = load(dtype, ends), load(dtype, ends + size)
        for p in range(0, strip, lanes * size):
            vstore(scratch + p, vsplat(dtype, lanes, lowest))
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            plane, row = unit // oh, unit % oh
            row_count = load("int64", rows + 16 * row + 8)
            start = x + plane * x_plane + load("int64", rows + 16 * row) * x_row
            for v in range(0, w, lanes):
                p, live = start + v * size, w - v
                m = vload(dtype, lanes, p) if live >= lanes else vload_tail(dtype, lanes, p, live)
                nan = vunordered(m, m)
                for _r in range(1, row_count):
                    p += row_step
                    new = vload(dtype, lanes, p) if live >= lanes else vload_tail(dtype, lanes, p, live)
                    nan = vor(nan, vunordered(new, new))
                    m = vmax(new, m)
                if vany(nan):
                    m = vselect(nan, vsplat(dtype, lanes, not_a_number), m)
                vstore_tail(scratch + (left + v) * size, m, live)
            for j in range(0, ow, lanes):
                m = vsplat(dtype, lanes, lowest)
                nan = vunordered(m, m)
                for s in range(count):
                    place = scratch + j * step * size + s * col_step
                    new = vpick(dtype, lanes, step, place, taps + s * taps_row + 8 * j)
                    nan = vor(nan, vunordered(new, new))
                    m = vmax(new, m)
                if vany(nan):
                    m = vselect(nan, vsplat(dtype, lanes, not_a_number), m)
                vstore_tail(y + (unit * ow + j) * size, m, ow - j)

    return task


@task_factory
def argmax_planes(step: int, lanes: int, dtype: str) -> Task:
    """Return the task that takes the maxima of some output rows and says where they are.

    Shapes   as `max_planes`; scratch: a strip for each row under a window; indices as y, int64: ``h * W + w`` of the
             first maximum, or of the last NaN; first (pitch of OW), cols (taps, pitch of OW) int64: the column of the
             image under the first live tap, under each tap
    Assumes  as `max_planes`
    Touches  writes its rows of y and of the indices, and scratch
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, indices, rows, taps, first, cols, units, per_task, ends, strip = words(ctx, 11)
        oh, ow, w, x_plane, x_row, row_step, left, count, col_step, taps_row, strips = words(ctx + 88, 11)
        lowest = load(dtype, ends)
        for p in range(0, strips * strip, lanes * size):
            vstore(scratch + p, vsplat(dtype, lanes, lowest))
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            plane, row = unit // oh, unit % oh
            row_count, first_row = load("int64", rows + 16 * row + 8), load("int64", rows + 16 * row)
            start = x + plane * x_plane + first_row * x_row
            for r in range(row_count):
                move(scratch + r * strip + left * size, start + r * row_step, w * size)
            for j in range(0, ow, lanes):
                m = vsplat(dtype, lanes, lowest)
                corner = vsplat("int64", lanes, first_row * w)
                best = vadd(corner, vload("int64", lanes, first + 8 * j))
                for r in range(row_count):
                    corner = vsplat("int64", lanes, first_row * w + r * row_step // size)
                    for s in range(count):
                        place = scratch + r * strip + j * step * size + s * col_step
                        listed = s * taps_row + 8 * j
                        new = vpick(dtype, lanes, step, place, taps + listed)
                        take = vor(vgreater(new, m), vunordered(new, new))
                        m = vselect(take, new, m)
                        best = vselect(take, vadd(corner, vload("int64", lanes, cols + listed)), best)
                vstore_tail(y + (unit * ow + j) * size, m, ow - j)
                vstore_tail(indices + (unit * ow + j) * 8, best, ow - j)

    return task


@task_factory
def mean_planes(step: int, lanes: int, dtype: str) -> Task:
    """Return the task that takes the means of some output rows.

    Shapes   as `max_planes`; row_div (OH,), col_div (pitch of OW): the factors of each window's divisor
    Assumes  as `max_planes`
    Touches  writes its rows of y, and scratch
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, taps, row_div, col_div, units, per_task, ends, strip = words(ctx, 11)
        oh, ow, w, x_plane, x_row, row_step, left, count, col_step, taps_row = words(ctx + 88, 10)
        zero = vsplat(dtype, lanes, load(dtype, ends))
        for p in range(0, strip, lanes * size):
            vstore(scratch + p, zero)
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            plane, row = unit // oh, unit % oh
            row_count = load("int64", rows + 16 * row + 8)
            start = x + plane * x_plane + load("int64", rows + 16 * row) * x_row
            for v in range(0, w, lanes):
                p, live = start + v * size, w - v
                total = zero
                for _r in range(row_count):
                    new = vload(dtype, lanes, p) if live >= lanes else vload_tail(dtype, lanes, p, live)
                    total = vadd(total, new)
                    p += row_step
                vstore_tail(scratch + (left + v) * size, total, live)
            down = vsplat(dtype, lanes, load(dtype, row_div + row * size))
            for j in range(0, ow, lanes):
                total = zero
                for s in range(count):
                    place = scratch + j * step * size + s * col_step
                    total = vadd(total, vpick(dtype, lanes, step, place, taps + s * taps_row + 8 * j))
                by = vmul(down, vload(dtype, lanes, col_div + j * size))
                vstore_tail(y + (unit * ow + j) * size, vdiv(total, by), ow - j)

    return task


@task_factory
def reduce_planes(operation: str, lanes: int, dtype: str) -> Task:
    """Return the task that takes the maximum, or the mean, of some whole planes.

    Shapes   x (planes, H * W); y (planes,)
    Assumes  ends holds what changes no result, then NaN; the divisor stands behind it
    Touches  writes its elements of y
    """
    size = item_bytes(dtype)
    summed = operation == "sum"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, ends, units, per_task, pixels = words(ctx, 7)
        neutral = vsplat(dtype, lanes, load(dtype, ends))
        # Four sums at a time keep the adders busy, and each is a quarter as long.
        whole = pixels - pixels % (4 * lanes)
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            start = x + unit * pixels * size
            a, b, c, d = neutral, neutral, neutral, neutral
            nan = vunordered(a, a)
            for p in range(start, start + whole * size, 4 * lanes * size):
                v0, v1 = vload(dtype, lanes, p), vload(dtype, lanes, p + lanes * size)
                v2, v3 = vload(dtype, lanes, p + 2 * lanes * size), vload(dtype, lanes, p + 3 * lanes * size)
                if summed:
                    a, b, c, d = vadd(a, v0), vadd(b, v1), vadd(c, v2), vadd(d, v3)
                else:
                    nan = vor(nan, vor(vunordered(v0, v1), vunordered(v2, v3)))
                    a, b, c, d = vmax(v0, a), vmax(v1, b), vmax(v2, c), vmax(v3, d)
            for v in range(whole, pixels, lanes):
                new = vload_rest(dtype, lanes, start + v * size, pixels - v, neutral)
                if summed:
                    a = vadd(a, new)
                else:
                    nan = vor(nan, vunordered(new, new))
                    a = vmax(new, a)
            if summed:
                total = vreduce("sum", vadd(vadd(a, b), vadd(c, d)))
                store(dtype, y + unit * size, total / load(dtype, ends + 2 * size))
            elif vany(nan):
                store(dtype, y + unit * size, load(dtype, ends + size))
            else:
                store(dtype, y + unit * size, vreduce("max", vmax(vmax(a, b), vmax(c, d))))

    return task
