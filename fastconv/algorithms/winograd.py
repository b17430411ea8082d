"""Winograd convolution F(m x m, r x r): 36 products for 16 outputs (3x3, m = 4) instead of 144.

Wins for 3x3, 5x5 and 2x2 kernels, and those of one row or column with 2 or 3 taps, of stride 1 and from about 32
channels. A task takes a block of tiles: it transforms them (V, kept in L2), multiplies each plane of them (36 for tiles
of 6 x 6) with the transformed weights on the shared micro-kernel, and transforms the products back with bias, residual
and activation on the way to the store. Memory: V and M of one block per worker, and 4 times the weights (3x3, m = 4).

Not for class `strict`: the sums are reassociated. Tiles of 4 and 6 keep class `standard`, tiles of 8, which are
F(6, 3) and F(4, 5), only class `fast`. Values that are not finite would spread over their tile, so a block that meets
one is computed by the definition.

Source: A. Lavin & S. Gray, arXiv:1509.09308; points after B. Barabasz et al., arXiv:1803.10986. Start reading at
`winograd` in `winograd_task`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import needs, tiles
from fastconv.algorithms.geometry import aligned_up, column_map, context, row_map
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.winograd_task import PIXELS_AT, winograd
from fastconv.algorithms.winograd_weights import packing_seconds, winograd_weights
from fastconv.arrays import address
from fastconv.machine import Machine
from fastconv.problem import Problem

#: Parts of the rate of L3, and of memory, at which transformed weights stream while products are computed (measured:
#: 38 MB at 24 GB/s, 105 MB at 19, 236 MB at 14).
L3_WEIGHT_SHARE, WEIGHT_SHARE = 0.49, 0.72
#: Part of the rate of L3 at which V and M leave L2.
SPILL_SHARE = 1.13
#: Cycles for each vector of V, of M, and of an image that is transposed (measured: 5-8, 6-12, 10-15).
TURN_IN, TURN_OUT, TRANSPOSE = 6.0, 7.0, 11.0


#: Kernels it takes, and for their longer side the outputs of a tile's side; tiles of 8 only in class `fast`.
KERNELS = ((3, 3), (5, 5), (2, 2), (1, 3), (3, 1), (1, 2), (2, 1))
SIDES: dict[int, tuple[int, ...]] = {2: (3, 5), 3: (2, 4, 6), 5: (2, 4)}
#: Channels up to which tiles of 6 keep class `standard`, for the same: errors grow with the root of the channels,
#: and the largest is 8e-6 of the largest output at 1280 channels of 3x3, 7e-6 at 1280 of 2x2 and 9e-6 at 1536.
MOST_CHANNELS = {2: 1024, 3: 1536, 5: 1536}


class Config(NamedTuple):
    """Outputs of a tile's side, register tile, tiles of a block (rows, columns), parts of the output channels.

    `gather` is how many blocks of output channels are multiplied plane by plane before any is transformed back: 1
    keeps M in L2; all of them read the transformed weights once and each plane of V once, where those are large.
    """

    m: int
    mr: int
    nv: int
    rows: int
    columns: int
    splits: int
    gather: int = 1


class _Sizes:
    """What a problem and a config come to: tiles, blocks, bytes of scratch."""

    def __init__(self, problem: Problem, config: Config, lanes: int) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.channels = problem.c // problem.groups
        self.per_group = problem.o // problem.groups
        # An axis with one tap is left alone: kernels 1x3 and 3x1.
        self.mh, self.mw = (config.m if taps > 1 else 1 for taps in (problem.kh, problem.kw))
        self.high, self.wide = self.mh + problem.kh - 1, self.mw + problem.kw - 1
        self.planes = self.high * self.wide
        self.width = config.nv * lanes
        self.th, self.tw = -(-problem.oh // self.mh), -(-problem.ow // self.mw)
        self.down, self.across = -(-self.th // config.rows), -(-self.tw // config.columns)
        count = aligned_up(config.rows * config.columns, config.mr)
        self.strip_pixel = aligned_up(self.channels, lanes) * self.size
        self.block_rows, self.block_cols = config.rows * self.mh, config.columns * self.mw
        self.strip_row = (self.block_cols + problem.kw - 1) * self.strip_pixel
        self.v_row = _odd_lines(self.strip_pixel)
        self.v_step = _odd_lines(count * self.v_row)
        self.m_step = _odd_lines(count * self.width * self.size)
        # Pixels of one edge: those of a tile, for the channels beside whole vectors, or in NCHW all of the block.
        strip = (self.block_rows + problem.kh - 1) * self.strip_row if problem.layout == "NCHW" else 0
        patch = self.planes * lanes * self.size
        self.v_at = PIXELS_AT + aligned_up(max(strip, patch), 64)
        self.m_at = self.v_at + self.planes * self.v_step
        self.m_bytes = config.gather * self.planes * self.m_step
        self.out_at = self.m_at + aligned_up(self.m_bytes, 64)
        outputs = self.block_rows * self.block_cols * self.width * self.size
        self.scratch = self.out_at + (outputs if problem.layout == "NCHW" else 0)
        self.o_blocks = -(-self.per_group // self.width)


def _odd_lines(size: int) -> int:
    """Return the next odd number of cache lines, in bytes: steps that are powers of two fall into one set of L1."""
    return (aligned_up(size, 64) // 64 | 1) * 64


def _even(total: int, most: int) -> int:
    """Return the size of the fewest equal pieces of `total` that are at most `most`."""
    return -(-total // -(-total // max(most, 1)))


def _sides(problem: Problem) -> tuple[int, ...]:
    """Return the outputs of a tile's side that keep the problem's accuracy class, in order."""
    longest = max(problem.kh, problem.kw)
    tile = 4 if problem.c // problem.groups > MOST_CHANNELS[longest] else 6
    most = 8 if problem.accuracy == "fast" else tile
    return tuple(m for m in SIDES[longest] if m + longest - 1 <= most)


class Winograd(Algorithm[Config]):
    """See the head of this file."""

    name = "winograd"
    summary = (
        "2 to 5 times fewer products: 3x3, 5x5, 2x2, 1x3, 1x2 ... kernels of stride 1, not in class strict"
    )
    bound_is_local = False

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse other kernels, steps and types, and class strict."""
        shape = (problem.kh, problem.kw)
        if shape not in KERNELS:
            known = ", ".join(f"{kh}x{kw}" for kh, kw in KERNELS)
            yield Need(f"a kernel of {known}", f"{problem.kh}x{problem.kw}", {"kh": 3, "kw": 3})
        yield from needs.of_unit_steps(problem)
        yield from needs.of_floats(problem)
        yield from needs.of_sums_in_any_order(problem)
        if shape in KERNELS and not _sides(problem):
            most = MOST_CHANNELS[max(shape)]
            what = f"at most {most} channels per group, or accuracy='fast', for sums as exact as promised"
            yield Need(what, str(problem.c_per_group), {"accuracy": "fast"})

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the best blocks by cost, and of each tile size the best one."""
        lanes = machine.lanes(problem.compute_dtype)
        sides = _sides(problem)
        choices = {
            config: None
            for m in sides
            for share in (0.5, 1, 2, 4, 8)
            for wide in (1, 2)
            for config in self._blocks(problem, machine, m, share, wide, lanes)
        }
        ordered = sorted(choices, key=lambda config: self.cost(problem, machine, config))
        if problem.threads > 1:
            # The same bits for any number of threads: the tile is the one that one thread would take.
            m = self.configs(replace(problem, threads=1), machine)[0].m
            ordered.sort(key=lambda config: config.m != m)
        # Of each tile the best one: a call that packs weights too may do better with fewer planes of them.
        firsts = {config.m: config for config in reversed(ordered)}
        ordered.sort(key=lambda config: config is not firsts[config.m])
        return tuple(ordered[:4])

    def _blocks(
        self, problem: Problem, machine: Machine, m: int, share: float, wide: int, lanes: int
    ) -> list[Config]:
        """Return configs whose V fills 1/`share` of L2, as wide as the image or 1/`wide` of that."""
        channels, per_group = problem.c // problem.groups, problem.o // problem.groups
        size = np.dtype(problem.compute_dtype).itemsize
        mh, mw = (m if taps > 1 else 1 for taps in (problem.kh, problem.kw))
        th, tw = -(-problem.oh // mh), -(-problem.ow // mw)
        planes = (mh + problem.kh - 1) * (mw + problem.kw - 1)
        most = max(int(machine.l2_bytes / share) // (planes * channels * size), 6)
        columns = _even(tw, -(-min(most, tw) // wide))
        rows = _even(th, max(most // columns, 1))
        blocks = problem.n * problem.groups * -(-th // rows) * -(-tw // columns)
        found = []
        for tile in tiles.best_tiles(machine, rows * columns, per_group, channels, lanes, keep=2):
            o_blocks = -(-per_group // (tile.nv * lanes))
            splits = 1
            if problem.threads > 1 and blocks < 2 * problem.threads:
                splits = min(o_blocks, -(-2 * problem.threads // max(blocks, 1)))
            for gather in {1, -(-o_blocks // splits)}:
                found.append(Config(m, *tile, rows, columns, splits, gather))
        return found

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products, transforms, and the transformed weights that stream from beyond L2 for every block."""
        lanes, facts = machine.lanes(problem.compute_dtype), machine.facts
        s = _Sizes(problem, config, lanes)
        tile = tiles.Tile(config.mr, config.nv)
        count = config.rows * config.columns
        products = s.planes * tiles.tiled_cycles(tile, machine, count, s.per_group, s.channels, lanes)
        weight_bytes = s.planes * s.channels * s.per_group * s.size
        streams = weight_bytes > machine.l2_bytes // 2
        far = 0.0
        if streams:
            # A quarter of L3: it is shared with other cores and with the images.
            near = weight_bytes < machine.l3_bytes // 4
            rate = L3_WEIGHT_SHARE * facts.l3_rate if near else WEIGHT_SHARE * facts.memory_rate
            far = weight_bytes * tiles.cycles_per_second(machine) / rate
        v_bytes, rounds = s.planes * s.v_step, -(-s.o_blocks // (config.splits * config.gather))
        # What does not stay in L2 beside weights and images is written to L3 and read back: V once a round, M once.
        working = v_bytes + s.m_bytes
        spilled = max(working + (0 if streams else weight_bytes) - 0.6 * machine.l2_bytes, 0) / working
        spilled = min(spilled, 1.0) * config.splits
        far += spilled * v_bytes * rounds / tiles.far_rate(machine, working)
        spill_rate = SPILL_SHARE * facts.l3_rate / tiles.cycles_per_second(machine)
        moved = spilled * (v_bytes + 2 * s.m_bytes * rounds) / spill_rate
        # Every round reads V again, from L2; a round for each block of outputs is what gathering saves.
        products += v_bytes * rounds * config.splits / tiles.l2_rate(machine)
        block = max(products, far) + 0.25 * min(products, far) + moved
        block += self._transforms(problem, machine, config, s)
        blocks = problem.n * problem.groups * s.down * s.across
        return tiles.seconds(problem, machine, block * blocks, blocks * config.splits)

    def _transforms(self, problem: Problem, machine: Machine, config: Config, s: _Sizes) -> float:
        """Return the cycles of both transforms of one block, which are bound by what they write to L2."""
        lanes = machine.lanes(problem.compute_dtype)
        count = config.rows * config.columns
        inputs, outputs = -(-s.channels // lanes) * config.splits, -(-s.per_group // lanes)
        height, width, down, across = s.block_rows, s.block_cols, problem.kh - 1, problem.kw - 1
        cycles = count * s.planes * (TURN_IN * inputs + TURN_OUT * outputs)
        if problem.layout == "NHWC":
            return cycles + (height + down) * (width + across) * inputs * lanes * s.size / tiles.far_rate(
                machine, problem.x_bytes
            )
        # A row is read and written in whole vectors, and rarely begins where a cache line does.
        width += lanes
        return cycles + TRANSPOSE * ((height + down) * (width + across) * inputs + height * width * outputs)

    def numerics(self, config: Config) -> tuple[int]:
        """The side of a tile."""
        return (config.m,)

    def packing_cost(self, problem: Problem, config: Config) -> float:
        """Count the elements of U."""
        sides = (config.m + taps - 1 if taps > 1 else 1 for taps in (problem.kh, problem.kw))
        return packing_seconds(problem, math.prod(sides))

    def error_bound(self, problem: Problem) -> float:
        """Grow with the norms of the transforms and with the square root of the channels; see `bound_is_local`."""
        growth = 120.0 if problem.accuracy == "fast" else 24.0
        eps = float(np.finfo(problem.compute_dtype).eps)
        return eps * growth * (1 + math.sqrt(problem.c // problem.groups) / 4)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Strip, V and M of one block for each worker."""
        return _Sizes(problem, config, machine.lanes(problem.compute_dtype)).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out blocks of tiles and the transformed weights."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        weights = winograd_weights(problem, s.mh, s.mw, s.width, lanes)
        rows_in = row_map(problem, s.th * s.mh + problem.kh - 1)
        cols_in = column_map(problem, s.tw * s.mw + problem.kw - 1)
        if problem.layout == "NHWC":
            x_pixel, y_pixel = problem.c * s.size, problem.o * s.size
            x_channel = y_channel = s.size
            x_row, y_row = problem.w * x_pixel, problem.ow * y_pixel
            x_image, y_image = problem.h * x_row, problem.oh * y_row
        else:
            x_pixel = y_pixel = s.size
            x_row, y_row = problem.w * s.size, problem.ow * s.size
            x_channel, y_channel = problem.h * x_row, problem.oh * y_row
            x_image, y_image = problem.c * x_channel, problem.o * y_channel
        # Where the pixels of a tile are from its first one on: in the image or strip, and in the patch of one vector.
        i, j = np.divmod(np.arange(s.planes, dtype=np.int64), s.wide)
        if problem.layout == "NHWC":
            offsets = i * x_row + j * x_pixel
        else:
            offsets = i * s.strip_row + j * s.strip_pixel
        patch = np.arange(s.planes, dtype=np.int64) * (lanes * s.size)
        zeros = np.zeros(s.strip_pixel, np.uint8)
        keep = (rows_in, cols_in, offsets, patch, zeros)
        values = context(
            *(address(array) for array in keep),
            *(problem.groups, s.down, s.across, config.splits, -(-s.o_blocks // config.splits), s.o_blocks),
            *(config.rows, config.columns, s.th, s.tw, problem.oh, problem.ow, problem.h, problem.w),
            *(problem.padding[0], problem.padding[2], s.channels, s.per_group, s.strip_pixel, s.strip_row),
            *(s.v_row, s.v_step, s.m_step, s.planes * s.channels * s.width * s.size),
            *(x_image, x_row, x_pixel, x_channel, y_image, y_row, y_pixel, y_channel),
            *(s.v_at, s.m_at, s.out_at, weights.copy_offset, config.gather),
        )
        planar = int(problem.layout == "NCHW")
        shape = (problem.kh, problem.kw, s.mh, s.mw, config.mr, config.nv, lanes)
        kernel = winograd(*shape, problem.compute_dtype, problem.activation, planar)
        count = problem.n * problem.groups * s.down * s.across * config.splits
        seconds = self.seconds_alone(problem, machine, config)
        # Weights are always checked: an infinite one would spread over the tile as an infinite pixel would.
        return Layout(kernel, values, count, s.scratch, seconds, weights, True, keep)


ALGORITHM = Winograd()
