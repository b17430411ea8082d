"""Pooling of NCHW images: columns lie in the lanes. The rows under a window are joined into one strip of scratch
memory with the padding at its ends, then the strip's columns.
"""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import (
    vany,
    vcast,
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
    prefetch_own,
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

#: Output rows whose rows are joined before the first columns are: a strip read right after it was written, by vectors
#: that overlap two of the stores, waits for them, which took a third of the time.
ROWS = 4


@task_factory
def max_planes(step: int, side: int, lanes: int, dtype: str) -> Task:
    """Return the task that takes the maxima of some output rows.

    Shapes   x (planes, H, W); y (planes, OH, OW); rows (OH, tall): the row of the image under each row of a window,
             any of the window's where the padding is; taps (wide, pitch of OW): byte offset into the strip, read
             where `step` is 0; scratch: `ROWS` strips, then an address for each row of
             a window
    Assumes  column j under tap s is element ``j * step + s * dilation`` of the strip, or as `taps` says; windows are
             `side` x `side`, unless that is 0; context as `pool_work._planes` writes it
    Touches  writes its rows of y, and scratch
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, taps, _, _, units, per_task, ends, strip = words(ctx, 11)
        oh, ow, w, x_plane, x_row, left, any_tall, any_wide, col_step, pitch = words(ctx + 88, 10)
        tall, wide = side if side else any_tall, side if side else any_wide
        lowest, not_a_number = load(dtype, ends), load(dtype, ends + size)
        for p in range(0, ROWS * strip, lanes * size):
            vstore(scratch + p, vsplat(dtype, lanes, lowest))
        listed, full = scratch + ROWS * strip, w - w % lanes
        end = min((i + 1) * per_task, units)
        for first in range(i * per_task, end, ROWS):
            for unit in range(first, min(first + ROWS, end)):
                plane, under = x + unit // oh * x_plane, rows + unit % oh * tall * 8
                joined = scratch + (unit - first) * strip + left * size
                for r in range(tall):
                    store("int64", listed + 8 * r, plane + load("int64", under + 8 * r) * x_row)
                for v in range(0, full, lanes):
                    m = vsplat(dtype, lanes, lowest)
                    nan = vunordered(m, m)
                    for r in range(tall):
                        new = vload(dtype, lanes, load("int64", listed + 8 * r) + v * size)
                        nan = vor(nan, vunordered(new, new))
                        m = vmax(new, m)
                    if vany(nan):
                        m = vselect(nan, vsplat(dtype, lanes, not_a_number), m)
                    vstore(joined + v * size, m)
                if full < w:
                    m = vsplat(dtype, lanes, lowest)
                    nan = vunordered(m, m)
                    for r in range(tall):
                        p = load("int64", listed + 8 * r) + full * size
                        new = vload_tail(dtype, lanes, p, w - full)
                        nan = vor(nan, vunordered(new, new))
                        m = vmax(new, m)
                    m = vselect(nan, vsplat(dtype, lanes, not_a_number), m)
                    vstore_tail(joined + full * size, m, w - full)
            for unit in range(first, min(first + ROWS, end)):
                joined = scratch + (unit - first) * strip
                for j in range(0, ow, lanes):
                    m = vsplat(dtype, lanes, lowest)
                    nan = vunordered(m, m)
                    for s in range(wide):
                        place = joined + j * step * size + s * col_step
                        new = vpick(dtype, lanes, step, place, taps + (s * pitch + j) * 8)
                        nan = vor(nan, vunordered(new, new))
                        m = vmax(new, m)
                    if vany(nan):
                        m = vselect(nan, vsplat(dtype, lanes, not_a_number), m)
                    if j + lanes <= ow:
                        vstore(y + (unit * ow + j) * size, m)
                    else:
                        vstore_tail(y + (unit * ow + j) * size, m, ow - j)

    return task


@task_factory
def argmax_planes(step: int, side: int, lanes: int, dtype: str, offset: str) -> Task:
    """Return the task that takes the maxima of some output rows and says where they are.

    Shapes   as `max_planes`, but -1 in rows is padding; scratch: a strip for each row under a window; indices as y,
             int64: ``h * W + w`` of the first maximum, or of the last NaN; base, lead (pitch of OW): the column under
             the first tap, and how far behind it the first column of the image is
    Assumes  as `max_planes`; pixels under a window are less apart than the largest number of type `offset`
    Touches  writes its rows of y and of the indices, and scratch
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, indices, rows, taps, base, lead, units, per_task, ends, strip = words(ctx, 11)
        oh, ow, w, x_plane, x_row, left, any_tall, any_wide, col_step, pitch = words(ctx + 88, 10)
        row_gap, col_gap = words(ctx + 168, 2)
        tall, wide = side if side else any_tall, side if side else any_wide
        lowest = load(dtype, ends)
        for p in range(0, tall * strip, lanes * size):
            vstore(scratch + p, vsplat(dtype, lanes, lowest))
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            plane, under = x + unit // oh * x_plane, rows + unit % oh * tall * 8
            above = 0
            for r in range(tall):
                row, to = load("int64", under + 8 * r), scratch + r * strip + left * size
                if row >= 0:
                    move(to, plane + row * x_row, w * size)
                else:
                    above += 1 if r == above else 0
                    for v in range(0, w, lanes):
                        vstore_tail(to + v * size, vsplat(dtype, lanes, lowest), w - v)
            top = (load("int64", under + 8 * above) - above * row_gap) * w
            for j in range(0, ow, lanes):
                corner = vadd(vload("int64", lanes, base + 8 * j), vsplat("int64", lanes, top))
                m = vsplat(dtype, lanes, lowest)
                skipped = vadd(
                    vload("int64", lanes, lead + 8 * j), vsplat("int64", lanes, above * row_gap * w)
                )
                best = vcast(offset, skipped)
                for r in range(tall):
                    for s in range(wide):
                        place = scratch + r * strip + j * step * size + s * col_step
                        new = vpick(dtype, lanes, step, place, taps + (s * pitch + j) * 8)
                        take = vor(vgreater(new, m), vunordered(new, new))
                        m = vselect(take, new, m)
                        apart = vsplat("int64", lanes, r * row_gap * w + s * col_gap)
                        best = vselect(take, vcast(offset, apart), best)
                vstore_tail(y + (unit * ow + j) * size, m, ow - j)
                vstore_tail(indices + (unit * ow + j) * 8, vadd(corner, vcast("int64", best)), ow - j)

    return task


@task_factory
def mean_planes(step: int, side: int, lanes: int, dtype: str) -> Task:
    """Return the task that takes the means of some output rows.

    Shapes   as `max_planes`, but -1 in rows is padding; scratch: a row of zeros behind the strips; row_div (OH,),
             col_div (pitch of OW): the factors of each window's divisor
    Assumes  as `max_planes`
    Touches  writes its rows of y, and scratch; asks for the lines `ahead` bytes behind, if that is not 0
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, taps, row_div, col_div, units, per_task, ends, strip = words(ctx, 11)
        oh, ow, w, x_plane, x_row, left, any_tall, any_wide, col_step, pitch, _, _, ahead, y_ahead = words(
            ctx + 88, 14
        )
        tall, wide = side if side else any_tall, side if side else any_wide
        zero = vsplat(dtype, lanes, load(dtype, ends))
        for p in range(0, (ROWS + 1) * strip, lanes * size):
            vstore(scratch + p, zero)
        listed, full = scratch + (ROWS + 1) * strip, w - w % lanes
        end = min((i + 1) * per_task, units)
        for first in range(i * per_task, end, ROWS):
            for unit in range(first, min(first + ROWS, end)):
                plane, under = x + unit // oh * x_plane, rows + unit % oh * tall * 8
                joined = scratch + (unit - first) * strip + left * size
                for r in range(tall):
                    row = load("int64", under + 8 * r)
                    place = plane + row * x_row if row >= 0 else scratch + ROWS * strip
                    store("int64", listed + 8 * r, place)
                for v in range(0, full, lanes):
                    total = zero
                    for r in range(tall):
                        place = load("int64", listed + 8 * r) + v * size
                        if ahead != 0:
                            prefetch_own(place + ahead)
                        total = vadd(total, vload(dtype, lanes, place))
                    vstore(joined + v * size, total)
                if full < w:
                    total = zero
                    for r in range(tall):
                        p = load("int64", listed + 8 * r) + full * size
                        total = vadd(total, vload_tail(dtype, lanes, p, w - full))
                    vstore_tail(joined + full * size, total, w - full)
            for unit in range(first, min(first + ROWS, end)):
                joined = scratch + (unit - first) * strip
                down = vsplat(dtype, lanes, load(dtype, row_div + unit % oh * size))
                for j in range(0, ow, lanes):
                    total = zero
                    for s in range(wide):
                        place = joined + j * step * size + s * col_step
                        total = vadd(total, vpick(dtype, lanes, step, place, taps + (s * pitch + j) * 8))
                    if y_ahead != 0:
                        prefetch_own(y + (unit * ow + j) * size + y_ahead)
                    by = vmul(down, vload(dtype, lanes, col_div + j * size))
                    if j + lanes <= ow:
                        vstore(y + (unit * ow + j) * size, vdiv(total, by))
                    else:
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
