"""Pooling of NHWC images: channels lie in the lanes, four vectors of them at a time."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.jit import device, task_factory
from fastconv.kernels.masks import vany, vdiv, vgreater, vmax, vor, vselect, vunordered
from fastconv.kernels.simd import (
    item_bytes,
    load,
    prefetch_own,
    vadd,
    vload,
    vload_tail,
    vsplat,
    vstore,
    vstore_tail,
    words,
)

Task = Callable[[int, int, int], None]


@device
def _fetch(place: int, step: int) -> None:
    """Ask for the lines of four vectors."""
    prefetch_own(place)
    prefetch_own(place + step)
    prefetch_own(place + 2 * step)
    prefetch_own(place + 3 * step)


@task_factory
def max_pixels(lanes: int, dtype: str) -> Task:
    """Return the task that takes the maxima of some output rows, of some channels.

    Shapes   x (N, H, W, C); y (N, OH, OW, C); rows (OH, 2), cols (OW, 2): first pixel and count of each window
    Assumes  each count is at least 1; context as `pooling._pixels` writes it
    Touches  writes its rows and channels of y
    """
    size = item_bytes(dtype)
    width = 4 * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, cols, _, _, units, per_task, splits, per_split = words(ctx, 11)
        oh, ow, channels, x_image, x_row, x_pixel, row_step, col_step = words(ctx + 88, 8)
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            split, rest = unit % splits, unit // splits
            image, row = rest // oh, rest % oh
            row_count = load("int64", rows + 16 * row + 8)
            start = x + image * x_image + load("int64", rows + 16 * row) * x_row
            c_end = min((split + 1) * per_split, channels)
            for column in range(ow):
                col_count = load("int64", cols + 16 * column + 8)
                corner = start + load("int64", cols + 16 * column) * x_pixel
                to = y + ((image * oh + row) * ow + column) * channels * size
                for c in range(split * per_split, c_end, width):
                    # Four vectors fast, with a look whether any number is NaN; if so, again in the careful way.
                    bad = c + width > c_end
                    if not bad:
                        p = corner + c * size
                        m0, m1 = vload(dtype, lanes, p), vload(dtype, lanes, p + lanes * size)
                        m2 = vload(dtype, lanes, p + 2 * lanes * size)
                        m3 = vload(dtype, lanes, p + 3 * lanes * size)
                        nan = vor(vunordered(m0, m1), vunordered(m2, m3))
                        for r in range(row_count):
                            tap = p + r * row_step
                            for _s in range(col_count):
                                v0, v1 = vload(dtype, lanes, tap), vload(dtype, lanes, tap + lanes * size)
                                v2 = vload(dtype, lanes, tap + 2 * lanes * size)
                                v3 = vload(dtype, lanes, tap + 3 * lanes * size)
                                m0, m1, m2, m3 = vmax(v0, m0), vmax(v1, m1), vmax(v2, m2), vmax(v3, m3)
                                nan = vor(nan, vor(vunordered(v0, v1), vunordered(v2, v3)))
                                tap += col_step
                        bad = vany(nan)
                        if not bad:
                            vstore(to + c * size, m0)
                            vstore(to + (c + lanes) * size, m1)
                            vstore(to + (c + 2 * lanes) * size, m2)
                            vstore(to + (c + 3 * lanes) * size, m3)
                    if bad:
                        for v in range(c, min(c + width, c_end), lanes):
                            live = c_end - v
                            m = vload_tail(dtype, lanes, corner + v * size, live)
                            for r in range(row_count):
                                tap = corner + r * row_step + v * size
                                for _s in range(col_count):
                                    new = vload_tail(dtype, lanes, tap, live)
                                    m = vselect(vor(vgreater(new, m), vunordered(new, new)), new, m)
                                    tap += col_step
                            vstore_tail(to + v * size, m, live)

    return task


@task_factory
def argmax_pixels(lanes: int, dtype: str) -> Task:
    """Return the task that takes the maxima of some output rows, of some channels, and says where they are.

    Shapes   as `max_pixels`; indices as y, int64: ``h * W + w`` of the first maximum, or of the last NaN
    Assumes  as `max_pixels`
    Touches  writes its rows and channels of y and of the indices
    """
    size = item_bytes(dtype)

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, indices, rows, cols, _, _, units, per_task, splits, per_split = words(ctx, 11)
        oh, ow, channels, x_image, x_row, x_pixel, row_step, col_step = words(ctx + 88, 8)
        wide, down, right = x_row // x_pixel, row_step // x_pixel, col_step // x_pixel
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            split, rest = unit % splits, unit // splits
            image, row = rest // oh, rest % oh
            row_count = load("int64", rows + 16 * row + 8)
            first_row = load("int64", rows + 16 * row)
            c_end = min((split + 1) * per_split, channels)
            for column in range(ow):
                col_count = load("int64", cols + 16 * column + 8)
                first = first_row * wide + load("int64", cols + 16 * column)
                to = ((image * oh + row) * ow + column) * channels
                for c in range(split * per_split, c_end, lanes):
                    live = c_end - c
                    corner = x + image * x_image + c * size
                    m = vload_tail(dtype, lanes, corner + first * x_pixel, live)
                    best = vsplat("int64", lanes, first)
                    for r in range(row_count):
                        place = first + r * down
                        for _s in range(col_count):
                            new = vload_tail(dtype, lanes, corner + place * x_pixel, live)
                            take = vor(vgreater(new, m), vunordered(new, new))
                            m = vselect(take, new, m)
                            best = vselect(take, vsplat("int64", lanes, place), best)
                            place += right
                    vstore_tail(y + (to + c) * size, m, live)
                    vstore_tail(indices + (to + c) * 8, best, live)

    return task


@task_factory
def mean_pixels(lanes: int, dtype: str) -> Task:
    """Return the task that takes the means of some output rows, of some channels.

    Shapes   as `max_pixels`; row_div (OH,), col_div (OW,): the factors of each window's divisor
    Assumes  as `max_pixels`
    Touches  writes its rows and channels of y; asks for `fetched` pixels `ahead` bytes behind each row
    """
    size = item_bytes(dtype)
    width = 4 * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, rows, cols, row_div, col_div, units, per_task, splits, per_split = words(ctx, 11)
        oh, ow, channels, x_image, x_row, x_pixel, row_step, col_step, ahead, y_ahead, fetched = words(
            ctx + 88, 11
        )
        # A row is summed before it is added: as exact as a sum of kh + kw numbers, not kh * kw.
        zero = vsplat(dtype, lanes, load(dtype, row_div + oh * size))
        for unit in range(i * per_task, min((i + 1) * per_task, units)):
            split, rest = unit % splits, unit // splits
            image, row = rest // oh, rest % oh
            row_count = load("int64", rows + 16 * row + 8)
            start = x + image * x_image + load("int64", rows + 16 * row) * x_row
            c_end = min((split + 1) * per_split, channels)
            for column in range(ow):
                col_count = load("int64", cols + 16 * column + 8)
                corner = start + load("int64", cols + 16 * column) * x_pixel
                to = y + ((image * oh + row) * ow + column) * channels * size
                divisor = load(dtype, row_div + row * size) * load(dtype, col_div + column * size)
                by = vsplat(dtype, lanes, divisor)
                for c in range(split * per_split, c_end, width):
                    if c + width <= c_end:
                        p = corner + c * size
                        t0, t1, t2, t3 = zero, zero, zero, zero
                        if fetched > 0:
                            _fetch(to + c * size + y_ahead, lanes * size)
                        for r in range(row_count):
                            s0, s1, s2, s3 = zero, zero, zero, zero
                            tap = p + r * row_step
                            for s in range(fetched):
                                _fetch(tap + ahead + s * x_pixel, lanes * size)
                            for _s in range(col_count):
                                s0 = vadd(s0, vload(dtype, lanes, tap))
                                s1 = vadd(s1, vload(dtype, lanes, tap + lanes * size))
                                s2 = vadd(s2, vload(dtype, lanes, tap + 2 * lanes * size))
                                s3 = vadd(s3, vload(dtype, lanes, tap + 3 * lanes * size))
                                tap += col_step
                            t0, t1, t2, t3 = vadd(t0, s0), vadd(t1, s1), vadd(t2, s2), vadd(t3, s3)
                        vstore(to + c * size, vdiv(t0, by))
                        vstore(to + (c + lanes) * size, vdiv(t1, by))
                        vstore(to + (c + 2 * lanes) * size, vdiv(t2, by))
                        vstore(to + (c + 3 * lanes) * size, vdiv(t3, by))
                    else:
                        for v in range(c, c_end, lanes):
                            live = c_end - v
                            total = zero
                            for r in range(row_count):
                                summed = zero
                                tap = corner + r * row_step + v * size
                                for _s in range(col_count):
                                    summed = vadd(summed, vload_tail(dtype, lanes, tap, live))
                                    tap += col_step
                                total = vadd(total, summed)
                            vstore_tail(to + v * size, vdiv(total, by), live)

    return task
