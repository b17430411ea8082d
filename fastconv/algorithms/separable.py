"""Separable kernels: a pass down the columns, a pass along the rows, kh + kw products in place of kh * kw.

Takes kernels that are the product of a column and a row (box, Gauss, Sobel and their like) on one input channel per
group, from about 7x7. Which kernels are is seen in the weights, when they are prepared: the row through the largest
weight times the column through it must give every weight back to within its own rounding. That keeps the error of
each output a few roundings of its own products, whatever their scale; the singular vectors of the kernel would only
keep it beside the largest weight, and would turn the whole numbers of a Sobel kernel into irrational ones.

A task takes a few output rows: columns first, reading the image in place, into a strip of rows that stays in cache,
whose padding is then filled in (padding of columns commutes with sums over rows), then the rows. Nothing is computed
twice. Not for class `strict`. Source: none. Start reading at `separable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import needs, tiles
from fastconv.algorithms.geometry import aligned_up, column_map, context, padded_map, rounding, row_map
from fastconv.algorithms.interface import (
    Algorithm,
    Array,
    Layout,
    WeightsDoNotFitError,
    WeightsNotFiniteError,
)
from fastconv.algorithms.needs import Need
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import fill_columns, pack_planes
from fastconv.kernels.rows_tile import rows_tile, stores_done
from fastconv.kernels.simd import item_bytes, words, zero_bytes
from fastconv.machine import Machine
from fastconv.problem import Problem
from fastconv.runtime import Work

Task = Callable[[int, int, int], None]

#: How far a product of two factors may be from its weight, in eps of the weight: three roundings of the weights that
#: the factors come from, and one of a factor.
ROUNDINGS = 4
#: Whole numbers below this are exact in float64.
MOST_WHOLE = 2.0**53
#: Vectors of columns of the pass along the rows.
ROW_VECTORS = 8


class Config(NamedTuple):
    """Register tile of the pass down the columns, output rows of a task, whether outputs go past the caches."""

    tile_rows: int
    nv: int
    rows: int
    stream: int


@task_factory
def separable(tile_rows: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes a block of output rows of all output channels of one group of one image.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [O]: kh factors of the column, kw of the row; bias [O]
    Assumes  kh >= tile_rows; scratch: one packed tile, then the strip of tile_rows rows
    Touches  writes its rows of y, and scratch
    Source   none
    """
    size = item_bytes(dtype)
    width, run = nv * lanes, ROW_VECTORS * lanes
    none = "none"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, down_table, row_table, rows_in, columns, cols_in = words(ctx, 10)
        groups, blocks, rows, oh, ow, h, w, per_group, top, left = words(ctx + 80, 10)
        kh, kw, pads, window, tile_pitch, strip_at, pitch, stream, zero = words(ctx + 160, 9)
        x_row, x_plane, y_row, y_plane = words(ctx + 240, 4)
        block, rest = i % blocks, i // blocks
        group, image = rest % groups, rest // groups
        first = block * rows
        live_rows = min(rows, oh - first)
        plane = x + (image * groups + group) * x_plane
        to_group = y + (image * groups + group) * per_group * y_plane + first * y_row
        strip = scratch + strip_at
        zero_bytes(strip, tile_rows * pitch * size)
        # As in `few_channels`: the first run ends where the second begins a line.
        head = run - (to_group // size + run) % lanes
        for t in range(0, live_rows, tile_rows):
            mr = min(tile_rows, live_rows - t)
            row = first + t - top
            for o in range(per_group):
                factors = weights + (group * per_group + o) * (kh + kw) * size
                for column in range(0, w, width):
                    source, source_row = plane + row * x_row + column * size, x_row
                    if row < 0 or row + window > h or column + width > w:
                        source, source_row = scratch, tile_pitch * size
                        pack_planes(
                            plane, scratch, 1, 1, window, rows_in + 8 * (row + top), columns + 8 * column, -column, w,
                            x_row, x_plane, 1, 1, window, tile_pitch, window * tile_pitch * size, 0, size,
                        )  # fmt: skip
                    rows_tile(
                        tile_rows, nv, 0, 1, lanes, dtype, none, source, source_row, size, down_table, 1, factors,
                        size, size, strip + (left + column) * size, pitch * size, 0, mr,
                        min(width, w - column), zero, 0,
                    )  # fmt: skip
                for r in range(mr):
                    line = strip + r * pitch * size
                    fill_columns(line, 0, left, cols_in, left, size)
                    fill_columns(line, left + w, pads, cols_in, left, size)
                    column, step = 0, head
                    while column < ow:
                        live = min(step, ow - column)
                        out = to_group + o * y_plane + (t + r) * y_row + column * size
                        rows_tile(
                            1, ROW_VECTORS, 1, 0, lanes, dtype, activation, line + column * size, 0, size, row_table, 1,
                            factors + kh * size, size, size, out, 0,
                            residual + (out - y) if residual != 0 else 0, 1, live,
                            bias + (group * per_group + o) * size, 1 if stream != 0 and live == run else 0,
                        )  # fmt: skip
                        column += step
                        step = run
        if stream != 0:
            stores_done()

    return task


class _Sizes:
    """What a problem and a config come to, in elements but for `scratch` and `strip_at`."""

    def __init__(self, problem: Problem, config: Config, lanes: int) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        line = 64 // self.size
        self.window = config.tile_rows + problem.kh - 1
        # Odd numbers of lines, so that rows do not fall into one set of L1.
        self.tile_pitch = (aligned_up(config.nv * lanes, line) // line | 1) * line
        self.strip_at = aligned_up(self.window * self.tile_pitch * self.size, 64)
        whole = problem.ow + 2 * ROW_VECTORS * lanes + problem.kw
        self.pitch = (aligned_up(whole, line) // line | 1) * line
        self.scratch = self.strip_at + config.tile_rows * self.pitch * self.size


class Separable(Algorithm[Config]):
    """See the head of this file."""

    name = "separable"
    summary = (
        "a pass down the columns and one along the rows; kernels that are a column times a row, not strict"
    )
    needs_of_weights = "every kernel is a column times a row"

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse class strict, integers, steps, and more than one input channel per group."""
        yield from needs.of_sums_in_any_order(problem)
        yield from needs.of_floats(problem)
        yield from needs.of_unit_steps(problem)
        if problem.c_per_group != 1:
            change = {"groups": problem.c, "o": problem.c}
            yield Need("one input channel per group", str(problem.c_per_group), change)
        yield from needs.of_planes(problem)

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the tallest register tile that the kernel fills, with tasks enough for all threads."""
        most = (6, 4) if machine.vector_registers >= 32 else (3, 3)
        rows, nv = next(tile for tile in (most, (3, 3), (2, 4), (1, 8)) if tile[0] <= problem.kh)
        pieces = problem.n * problem.groups
        blocks = max(1, -(-4 * problem.threads // pieces)) if problem.threads > 1 else 1
        # Ctrl-C is felt between tasks.
        task = aligned_up(max(1, min(-(-problem.oh // blocks), 60)), rows)
        lanes = machine.lanes(problem.compute_dtype)
        stream = problem.y_bytes > 2 * machine.l2_bytes and problem.ow % lanes == 0
        return (Config(rows, nv, task, int(stream)),)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count the products of both passes, and the image and its result that pass through memory."""
        lanes = machine.lanes(problem.compute_dtype)
        window = config.tile_rows + problem.kh - 1
        vectors = -(-problem.w // (config.nv * lanes)) * config.nv
        lines = aligned_up(problem.oh, config.tile_rows)
        # A pass down the columns is bound by products, one along the rows by loads, two for each product.
        down = vectors * lines * (problem.kh * 0.55 + window / config.tile_rows * 0.5 + 4.0)
        run = -(-problem.ow // (ROW_VECTORS * lanes)) * ROW_VECTORS
        along = run * problem.oh * (problem.kw * 1.05 + 4.0) + problem.oh * (problem.kw * 4.0 + 60.0)
        border = min(2 * problem.kh, problem.oh) / config.tile_rows * window * vectors * 4.0
        cycles = (down + along + border) * problem.n * problem.o
        if not machine.fma:
            cycles *= 1.3
        moved = tiles.image_cycles(
            problem, machine, problem.x_bytes + (1 if config.stream else 2) * problem.y_bytes
        )
        tasks = problem.n * problem.groups * -(-problem.oh // config.rows)
        return tiles.seconds(problem, machine, max(cycles, moved) + 0.3 * min(cycles, moved), tasks)

    def packing_cost(self, problem: Problem, config: Config) -> float:
        """Count the look at the weights."""
        return 30e-6 + 5e-9 * problem.o * problem.taps

    def error_bound(self, problem: Problem) -> float:
        """Two sums of FMAs, the roundings of the factors, then bias and residual."""
        return rounding(problem) * (problem.kh + problem.kw + ROUNDINGS + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """One packed tile and the strip for each worker."""
        return _Sizes(problem, config, machine.lanes(problem.compute_dtype)).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out both passes."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        top, _, left, _ = problem.padding
        down = np.array([0, 0, problem.kh, 1], np.int64)
        along = np.array([0, 0, 1, problem.kw], np.int64)
        blocks = -(-problem.oh // config.rows)
        rows_in = row_map(problem, blocks * config.rows + s.window)
        columns = padded_map(problem.w, 0, problem.w + 2 * s.tile_pitch, "zeros")
        cols_in = column_map(problem)
        zero = np.zeros(8, np.uint8)
        x_row, y_row = problem.w * s.size, problem.ow * s.size
        values = context(
            *(address(array) for array in (down, along, rows_in, columns, cols_in)),
            *(problem.groups, blocks, config.rows, problem.oh, problem.ow, problem.h, problem.w),
            *(problem.o_per_group, top, left, problem.kh, problem.kw, len(cols_in), s.window, s.tile_pitch),
            *(s.strip_at, s.pitch, config.stream, address(zero), 0),
            *(x_row, problem.h * x_row, y_row, problem.oh * y_row),
        )
        kernel = separable(config.tile_rows, config.nv, lanes, problem.compute_dtype, problem.activation)
        count = problem.n * problem.groups * blocks
        seconds = self.seconds_alone(problem, machine, config)
        keep = (down, along, rows_in, columns, cols_in, zero)
        return Layout(kernel, values, count, s.scratch, seconds, None, True, keep)

    def prepare(self, layout: Layout, weights: Array, bias: Array | None, threads: int = 1) -> Work:
        """Take every kernel apart into a column and a row.

        Raises
        ------
        WeightsNotFiniteError
            When a weight is not finite.
        WeightsDoNotFitError
            When a kernel is no product of a column and a row.
        """
        factors = column_and_row(weights)
        own_bias = np.zeros(len(weights), weights.dtype) if bias is None else bias
        ready = layout.context.copy()
        ready[3], ready[4] = address(factors), address(own_bias)
        keep = (layout, factors, own_bias)
        return Work(layout.kernel, ready, layout.tasks, layout.scratch_bytes, layout.seconds, keep)


def column_and_row(weights: Array) -> Array:
    """Return for each kernel of `weights` (O, 1, kh, kw) its kh + kw factors: (O, kh + kw).

    Those of whole numbers are whole numbers.

    Examples
    --------
    >>> column_and_row(np.array([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]])).tolist()
    [[1.0, 2.0, 1.0, -1.0, 0.0, 1.0]]
    """
    kernels = weights[:, 0].astype(np.float64)
    if not np.isfinite(kernels).all():
        raise WeightsNotFiniteError
    count, kh, kw = kernels.shape
    each = np.arange(count)
    largest = np.abs(kernels).reshape(count, -1).argmax(axis=1)
    r, s = largest // kw, largest % kw
    pivot = kernels[each, r, s]
    # A kernel of zeros is a column of zeros times any row.
    pivot = np.where(pivot == 0, 1, pivot)
    unit = pivot.copy()
    whole = (np.abs(kernels) < MOST_WHOLE).all(axis=(1, 2)) & (kernels == np.rint(kernels)).all(axis=(1, 2))
    common = np.gcd.reduce(kernels[whole, :, s[whole]].astype(np.int64), axis=1)
    unit[whole] = np.copysign(np.maximum(common, 1), pivot[whole])
    column = kernels[each, :, s] / unit[:, None]
    row = kernels[each, r] / (pivot / unit)[:, None]
    factors = np.concatenate([column, row], axis=1).astype(weights.dtype)
    made = factors[:, :kh, None].astype(np.float64) * factors[:, None, kh:]
    if (np.abs(made - kernels) > ROUNDINGS * np.finfo(weights.dtype).eps * np.abs(kernels)).any():
        raise WeightsDoNotFitError("needs kernels that are a column times a row, and not all are")
    return np.ascontiguousarray(factors)


ALGORITHM = Separable()
