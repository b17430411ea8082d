"""Convolution by Fourier transforms of tiles (overlap-save): the cost of a pixel hardly depends on the kernel's size.

Wins for large kernels on few channels, from about 13x13, and earlier for banks of filters on one image. A task takes
two tiles of one image as the real and the imaginary part of one complex tile (kernels are real, so the two stay
apart), transforms its columns, transposes, transforms again, multiplies with the spectrum of each kernel and goes the
same way back; bias, residual and activation are added on the way to the store. The first ``T - k + 1`` outputs of a
tile of side T are free of wrapping around. Memory: two tiles, their spectrum and one more per worker; every kernel's
spectrum.

The transforms are vector code of our own (`fastconv.kernels.fft_tile`) and run inside tasks like every kernel: no
library is called that has threads, locks or an order of summation of its own, and the bits of a tile do not depend on
who computes it. Not for class `strict`. A tile whose results are not finite is computed by the definition.

Source: T. G. Stockham, AFIPS 1966 (overlap-save). Start reading at `fft`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import needs, tiles
from fastconv.algorithms.fft_weights import packing_seconds, spectrum_weights
from fastconv.algorithms.geometry import aligned_up, column_map, context, row_map
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.arrays import address
from fastconv.kernels.definition import window_sum
from fastconv.kernels.fft_tile import fft_columns, finish_rows, spectrum_multiply, turn_panel, twiddles
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import pack_planes
from fastconv.kernels.simd import item_bytes, load, store, words, zero_bytes
from fastconv.machine import Machine
from fastconv.problem import Problem, effective_kernel

Task = Callable[[int, int, int], None]

SIDES = (32, 64, 128, 256)
#: Cycles of a two-dimensional transform with everything around it, per vector of complex points: of a tile in L1, more
#: for each doubling of the tile, and more per row of the tile where image and result are far: few lines of each row are
#: used at a time (measured: 40 for 64x64, 50 for 64x128, 60 to 70 for 128x128; on a 4K image 47, 59, 80 to 100).
BUTTERFLIES, BEYOND_L1, ROW_FROM_AFAR = 35.0, 9.0, 0.15
#: Most bytes of spectra: beyond it every pair of tiles would stream them from memory.
MOST_SPECTRA = 256 << 20


class Config(NamedTuple):
    """Rows and columns of a tile, and into how many parts the output channels are split."""

    ty: int
    tx: int
    splits: int = 1


@task_factory
def fft(ty: int, tx: int, most: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes some output channels of two tiles of one image.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights: as `pack_spectrum` leaves them
    Assumes  scratch: flag, two padded tiles, one panel, the spectra of all channels, the product
    Touches  writes its outputs, and scratch
    Source   T. G. Stockham, AFIPS 1966
    """
    size = item_bytes(dtype)
    vector = lanes * size
    row_bytes, panel_bytes = 2 * vector, tx * 2 * vector
    tile_bytes = ty * tx * 2 * size

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table_y, table_x, rows_in, cols_in, groups = words(ctx, 10)
        splits, per_split, pairs, across, count, valid_y, valid_x, oh, ow, w = words(ctx + 80, 10)
        channels, per_group, left, kh, kw, dh, dw, copy, pitch, work_at = words(ctx + 160, 10)
        x_row, x_plane, x_image, y_row, y_plane, y_image = words(ctx + 240, 6)
        split, rest = i % splits, i // splits
        pair, rest = rest % pairs, rest // pairs
        group, image = rest % groups, rest // groups
        flag, pixels, work = scratch, scratch + 64, scratch + work_at
        spectrum = work + max(ty, tx) * row_bytes
        product = spectrum + channels * tile_bytes
        corner = x + image * x_image + group * channels * x_plane
        live_tiles = min(2, count - 2 * pair)
        for c in range(channels):
            for part in range(2):
                to = pixels + part * ty * pitch * size
                tile = 2 * pair + part
                if part >= live_tiles:
                    zero_bytes(to, ty * pitch * size)
                    continue
                row, column = tile // across * valid_y, tile % across * valid_x
                pack_planes(
                    corner + c * x_plane, to, 1, 1, ty, rows_in + 8 * row, cols_in + 8 * column, left - column, w,
                    x_row, x_plane, 1, 1, ty, pitch, ty * pitch * size, 0, size,
                )  # fmt: skip
            here = spectrum + c * tile_bytes
            for p in range(tx // lanes):
                re = pixels + p * vector
                im = re + ty * pitch * size
                fft_columns(ty, most, -1, lanes, dtype, re, im, pitch * size, work, table_y)
                turn_panel(lanes, dtype, work, here + p * lanes * row_bytes, panel_bytes, ty // lanes)
            for p in range(ty // lanes):
                panel = here + p * panel_bytes
                fft_columns(tx, most, -1, lanes, dtype, panel, panel + vector, row_bytes, panel, table_x)
        wanted = (valid_x + lanes - 1) // lanes
        for o in range(split * per_split, min((split + 1) * per_split, per_group)):
            channel = group * per_group + o
            kernel = weights + channel * channels * tile_bytes
            for p in range(ty // lanes):
                for c in range(channels):
                    shift = c * tile_bytes + p * panel_bytes
                    spectrum_multiply(lanes, dtype, work, spectrum + shift, kernel + shift, tx, min(c, 1))
                fft_columns(tx, most, 1, lanes, dtype, work, work + vector, row_bytes, work, table_x)
                turn_panel(lanes, dtype, work, product + p * lanes * row_bytes, ty * row_bytes, wanted)
            store("int64", flag, 0)
            for p in range(wanted):
                panel = product + p * ty * row_bytes
                fft_columns(ty, most, 1, lanes, dtype, panel, panel + vector, row_bytes, panel, table_y)
                for part in range(live_tiles):
                    tile = 2 * pair + part
                    row, column = tile // across * valid_y, tile % across * valid_x + p * lanes
                    live = min(lanes, min(valid_x - p * lanes, ow - column))
                    if live > 0:
                        out = y + image * y_image + channel * y_plane + row * y_row + column * size
                        finish_rows(
                            lanes, dtype, activation, panel + part * vector, row_bytes, out, y_row,
                            residual + (out - y) if residual != 0 else 0, bias + channel * size,
                            min(valid_y, oh - row), live, flag,
                        )  # fmt: skip
            if load("int64", flag) == 0:
                continue
            plain = weights + copy + channel * channels * kh * kw * size
            for part in range(live_tiles):
                tile = 2 * pair + part
                first, start = tile // across * valid_y, tile % across * valid_x
                for row in range(first, min(first + valid_y, oh)):
                    for column in range(start, min(start + valid_x, ow)):
                        total = window_sum(
                            size, corner, plain, rows_in + 8 * row, cols_in + 8 * column, channels, kh, kw, dh, dw,
                            x_plane, x_row, size,
                        )  # fmt: skip
                        store(dtype, work, total)
                        out = y + image * y_image + channel * y_plane + row * y_row + column * size
                        finish_rows(
                            lanes, dtype, activation, work, 0, out, y_row,
                            residual + (out - y) if residual != 0 else 0, bias + channel * size, 1, 1, flag,
                        )  # fmt: skip

    return task


class _Sizes:
    """What a problem and a config come to."""

    def __init__(self, problem: Problem, config: Config, machine: Machine) -> None:
        self.lanes = machine.lanes(problem.compute_dtype)
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.channels, self.per_group = problem.c_per_group, problem.o_per_group
        (kh, kw), (dh, dw) = (problem.kh, problem.kw), problem.dilation
        self.valid_y = config.ty - effective_kernel(kh, dh) + 1
        self.valid_x = config.tx - effective_kernel(kw, dw) + 1
        self.down, self.across = -(-problem.oh // self.valid_y), -(-problem.ow // self.valid_x)
        self.pairs = -(-self.down * self.across // 2)
        # One line more, so that rows of a power of two do not fall into one set of L1.
        self.pitch = config.tx + 64 // self.size
        self.tile = config.ty * config.tx * 2 * self.size
        self.work_at = 64 + 2 * config.ty * self.pitch * self.size
        panel = max(config.ty, config.tx) * 2 * self.lanes * self.size
        product = aligned_up(self.valid_x, self.lanes) * config.ty * 2 * self.size
        self.scratch = self.work_at + panel + self.channels * self.tile + product
        #: Radices: 8 where its 16 vectors leave room for what is computed with them.
        self.most = 8 if machine.vector_registers >= 32 else 4


class Fft(Algorithm[Config]):
    """See the head of this file."""

    name = "fft"
    summary = "Fourier transforms of tiles, overlap-save: large kernels on few channels; stride 1, not strict"
    bound_is_local = False

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse steps, integers, class strict, pixels of several channels, and kernels no tile is worth."""
        yield from needs.of_unit_steps(problem, dilation=False)
        yield from needs.of_floats(problem)
        yield from needs.of_sums_in_any_order(problem)
        yield from needs.of_planes(problem)
        reach = max(map(effective_kernel, (problem.kh, problem.kw), problem.dilation))
        if 2 * reach > SIDES[-1]:
            change = {"kh": 3, "kw": 3, "dilation": (1, 1)}
            yield Need(f"a kernel of at most {SIDES[-1] // 2} rows and columns", str(reach), change)
            return
        size = np.dtype(problem.compute_dtype).itemsize
        least = min(config.ty * config.tx for config in self._sides(problem, machine))
        spectra = least * 2 * size * problem.o * problem.c_per_group
        if spectra > MOST_SPECTRA:
            yield Need(f"at most {MOST_SPECTRA} bytes of spectra", str(spectra), {"o": problem.groups})

    def _sides(self, problem: Problem, machine: Machine) -> list[Config]:
        """Return tiles at least twice as large as the kernel, none more than twice as large as the image."""

        def sides(extent: int, reach: int) -> list[int]:
            fitting = [side for side in SIDES if side >= 2 * reach]
            return [side for side in fitting if side < 2 * (extent + reach - 1)] or fitting[:1]

        reach = [
            effective_kernel(k, d) for k, d in zip((problem.kh, problem.kw), problem.dilation, strict=True)
        ]
        return [Config(a, b) for a in sides(problem.oh, reach[0]) for b in sides(problem.ow, reach[1])]

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the cheapest tiles, for one thread: they decide the bits."""
        alone = replace(problem, threads=1)
        found = sorted(self._sides(problem, machine), key=lambda config: self.cost(alone, machine, config))[
            :3
        ]
        return tuple(config._replace(splits=self._splits(problem, machine, config)) for config in found)

    def _splits(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Return parts of the output channels that keep all threads busy."""
        tasks = problem.n * problem.groups * _Sizes(problem, config, machine).pairs
        return min(problem.o_per_group, -(-2 * problem.threads // tasks)) if problem.threads > 1 else 1

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count transforms in both directions, products, and spectra that come from beyond L2."""
        s = _Sizes(problem, config, machine)
        points = config.ty * config.tx / s.lanes
        # The more of a tile's passes find it in L2 instead of L1, the more they take.
        transform = points * (BUTTERFLIES + BEYOND_L1 * max(math.log2(s.tile) - 14.6, 0))
        transform *= 1.0 if machine.fma else 1.5
        far = problem.x_bytes + problem.y_bytes > machine.l2_bytes
        edge = points * ROW_FROM_AFAR * config.ty if far else 0.0
        # Rows of many results lie on more pages than are remembered: their lines are waited for (20 ms of 43 for 64).
        stores = 2 * 2 * s.valid_y * s.valid_x * s.size / tiles.far_rate(machine, problem.y_bytes)
        edge_out = edge + (stores if far and s.per_group > 1 else 0.0)
        back = transform * (0.5 + 0.5 * aligned_up(s.valid_x, s.lanes) / config.tx)
        spectra = s.tile * s.channels * s.per_group
        product = s.tile / tiles.far_rate(machine, spectra) if spectra > 4 * machine.l2_bytes else 0.0
        per_task = -(-s.per_group // config.splits)
        pack = 2 * config.ty * (25.0 + config.tx * s.size / 24)
        if s.channels * s.tile > machine.l2_bytes // 2:
            # Spectra of all channels do not stay in L2 between their transforms and the products with each kernel.
            product += s.tile / tiles.far_rate(machine, spectra)
            pack += 2 * s.tile / tiles.far_rate(machine, spectra)
        unit = s.channels * (transform + edge + pack) + per_task * (
            back + edge_out + s.channels * (product + 4 * points)
        )
        tasks = problem.n * problem.groups * s.pairs * config.splits
        return tiles.seconds(problem, machine, unit * tasks, tasks)

    def numerics(self, config: Config) -> tuple[int, int]:
        """The tile."""
        return (config.ty, config.tx)

    def packing_cost(self, problem: Problem, config: Config) -> float:
        """Count the elements of the spectra of tiles twice as large as the kernel."""
        reach = map(effective_kernel, (problem.kh, problem.kw), problem.dilation)
        return packing_seconds(problem, math.prod(next(s for s in SIDES if s >= 2 * r) for r in reach))

    def error_bound(self, problem: Problem) -> float:
        """Grow with the passes of the transforms and with the root of the channels; see `bound_is_local`."""
        return float(np.finfo(problem.compute_dtype).eps) * (16 + math.sqrt(problem.c_per_group))

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Two tiles, their spectra and one product for each worker."""
        return _Sizes(problem, config, machine).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out pairs of tiles and the spectra of the kernels."""
        s = _Sizes(problem, config, machine)
        wide = machine.lanes("float64")
        weights = spectrum_weights(problem, config.ty, config.tx, s.most, wide, s.lanes)
        table_y, table_x = (
            np.ascontiguousarray(twiddles(points, s.most), problem.compute_dtype)
            for points in (config.ty, config.tx)
        )
        rows_in = row_map(problem, s.down * s.valid_y + config.ty)
        cols_in = column_map(problem, s.across * s.valid_x + config.tx + s.pitch)
        x_row, y_row = problem.w * s.size, problem.ow * s.size
        x_plane, y_plane = problem.h * x_row, problem.oh * y_row
        values = context(
            *(address(array) for array in (table_y, table_x, rows_in, cols_in)),
            *(problem.groups, config.splits, -(-s.per_group // config.splits), s.pairs, s.across),
            *(s.down * s.across, s.valid_y, s.valid_x, problem.oh, problem.ow, problem.w),
            *(s.channels, s.per_group, problem.padding[2], problem.kh, problem.kw, *problem.dilation),
            *(weights.copy_offset, s.pitch, s.work_at),
            *(x_row, x_plane, problem.c * x_plane, y_row, y_plane, problem.o * y_plane),
        )
        kernel = fft(config.ty, config.tx, s.most, s.lanes, problem.compute_dtype, problem.activation)
        count = problem.n * problem.groups * s.pairs * config.splits
        seconds = self.seconds_alone(problem, machine, config)
        keep = (table_y, table_x, rows_in, cols_in)
        # Weights are always checked: an infinite one would spread over the tile as an infinite pixel would.
        return Layout(kernel, values, count, s.scratch, seconds, weights, True, keep)


ALGORITHM = Fft()
