"""Winograd convolution F(m x m, 3 x 3): 36 products for 16 outputs (m = 4) instead of 144.

Wins for 3x3 kernels of stride 1 from about 32 channels. A task takes a block of tiles: it transforms them (V, kept in
L2), multiplies each of the (m+2)**2 planes with the transformed weights on the shared micro-kernel, and transforms
the products back with bias, residual and activation on the way to the store. Memory: V and M of one block per worker,
and (m+2)**2 / 9 times the weights.

Not for class `strict`: the sums are reassociated. F(2) and F(4) keep class `standard`, F(6) only class `fast`. Values
that are not finite would spread over their tile, so a block that meets one is computed by the definition.

Source: A. Lavin & S. Gray, arXiv:1509.09308; points after B. Barabasz et al., arXiv:1803.10986. Start reading at
`winograd`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import aligned_up, column_map, context, row_map
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.winograd_weights import packing_seconds, winograd_weights
from fastconv.arrays import address
from fastconv.kernels.definition import window_sum
from fastconv.kernels.gemm_tile import multiply_panel
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import pack_pixels
from fastconv.kernels.simd import item_bytes, load, store, words, zero_bytes
from fastconv.kernels.transpose import transpose_block
from fastconv.kernels.winograd_tile import winograd_input, winograd_output
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]


#: Bytes per cycle of transformed weights that stream from L3, and from memory, while products are computed (measured:
#: 38 MB at 7.5, 105 MB at 5.5, 236 MB at 4).
L3_WEIGHT_RATE, WEIGHT_RATE = 7.5, 4.5


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


@task_factory
def winograd(m: int, mr: int, nv: int, lanes: int, dtype: str, activation: str, planar: int) -> Task:
    """Return the task that computes some output channels of a block of tiles of one image.

    Shapes   x, y NHWC, or NCHW if `planar`; weights [group][block][(m+2)**2][C/g][NR]
    Assumes  scratch: flag, strip of padded pixels, V, M, and if `planar` the block's outputs as pixels
    Touches  writes its outputs, and scratch
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    width = nv * lanes
    t = m + 2
    none = "none"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, row_in, col_in = words(ctx, 7)
        groups, down, across, splits, per_split, o_blocks, rows, columns, th, tw = words(ctx + 56, 10)
        oh, ow, h, w, top, left, k, per_group, strip_pixel, v_row = words(ctx + 136, 10)
        v_step, u_bytes, x_image, x_row, x_pixel, x_channel, y_image, y_row, y_pixel, y_channel = words(
            ctx + 216, 10
        )
        v_at, m_at, out_at, copy_offset, gather = words(ctx + 296, 5)
        split, rest = i % splits, i // splits
        bx, rest = rest % across, rest // across
        by, rest = rest % down, rest // down
        group, image = rest % groups, rest // groups
        ty, tx = by * rows, bx * columns
        nh, nw = min(rows, th - ty), min(columns, tw - tx)
        count = nh * nw
        strip_rows, strip_cols = nh * m + 2, nw * m + 2
        strip, v, products, outputs = scratch + 64, scratch + v_at, scratch + m_at, scratch + out_at
        store("int64", scratch, 0)
        corner = x + image * x_image + group * k * x_channel
        source, row_step, pixel_step = strip, strip_cols * strip_pixel, strip_pixel
        first_row, first_col = ty * m - top, tx * m - left
        inside = (
            first_row >= 0 and first_col >= 0 and first_row + strip_rows <= h and first_col + strip_cols <= w
        )
        if planar != 0:
            for r in range(strip_rows):
                row = load("int64", row_in + 8 * (ty * m + r))
                to = strip + r * row_step
                if row < 0:
                    zero_bytes(to, row_step)
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
                        column = load("int64", col_in + 8 * (tx * m + q))
                        zero_bytes(to + q * strip_pixel, strip_pixel)
                        if column >= 0:
                            for c in range(k):
                                value = load(dtype, line + c * x_channel + column * size)
                                store(dtype, to + q * strip_pixel + c * size, value)
        elif inside and k % lanes == 0:
            source, row_step, pixel_step = corner + first_row * x_row + first_col * x_pixel, x_row, x_pixel
        else:
            pack_pixels(
                corner, strip, strip_rows, row_in + 8 * ty * m, col_in + 8 * tx * m, strip_cols,
                max(-first_col, 0), min(w, strip_cols + first_col) if first_col <= 0 else 0,
                x_row, x_pixel, k * size, row_step, strip_pixel,
            )  # fmt: skip
        vectors = (k + lanes - 1) // lanes
        for tile in range(count):
            place = source + tile // nw * m * row_step + tile % nw * m * pixel_step
            winograd_input(
                m, dtype, lanes, place, row_step, pixel_step, v + tile * v_row, v_step, vectors, scratch
            )
        slack = (count + mr - 1) // mr * mr - count
        for xi in range(t * t):
            zero_bytes(v + xi * v_step + count * v_row, slack * v_row)
        exact = load("int64", scratch) != 0
        m_step = (count + slack) * width * size
        last = min((split + 1) * per_split, o_blocks)
        for block_o in range(split * per_split, last):
            panel = group * o_blocks + block_o
            ahead = (block_o - split * per_split) % gather
            produced = products + ahead * t * t * m_step
            if exact:
                for o in range(min(width, per_group - block_o * width)):
                    channel = block_o * width + o
                    kernel = weights + copy_offset + (group * per_group + channel) * k * 9 * size
                    for place in range(nh * m * nw * m):
                        row, column = ty * m + place // (nw * m), tx * m + place % (nw * m)
                        if row < oh and column < ow:
                            total = window_sum(
                                size, corner, kernel, row_in + 8 * row, col_in + 8 * column, k, 3, 3, 1, 1,
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
                for xi in range(t * t):
                    for other in range(span):
                        to = produced + (other * t * t + xi) * m_step
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
                row, column = (ty + tile // nw) * m, (tx + tile % nw) * m
                live_rows, live_cols = min(m, oh - row), min(m, ow - column)
                for o in range(0, live_o, lanes):
                    product = produced + tile * width * size + o * size
                    held_bias = bias + (panel * width + o) * size
                    if planar != 0:
                        out = outputs + ((tile // nw * m * nw + tile % nw) * m * width + o) * size
                        winograd_output(
                            m, dtype, lanes, none, product, m_step, held_bias, out, 0,
                            nw * m * width * size, width * size, m, m, lanes,
                        )  # fmt: skip
                    else:
                        out = y + image * y_image + row * y_row + column * y_pixel
                        out += (group * per_group + block_o * width + o) * size
                        winograd_output(
                            m, dtype, lanes, activation, product, m_step, held_bias,
                            out, residual + (out - y) if residual != 0 else 0, y_row, y_pixel,
                            live_rows, live_cols, min(lanes, live_o - o),
                        )  # fmt: skip
            if planar != 0:
                for row in range(ty * m, min((ty + nh) * m, oh)):
                    pixels = outputs + (row - ty * m) * nw * m * width * size
                    stop = min((tx + nw) * m, ow)
                    for o in range(0, live_o, lanes):
                        out = (
                            y
                            + image * y_image
                            + (group * per_group + block_o * width + o) * y_channel
                            + row * y_row
                        )
                        column = tx * m
                        while column < stop:
                            to = out + column * size
                            transpose_block(
                                dtype, lanes, activation, pixels + ((column - tx * m) * width + o) * size, width * size,
                                to, y_channel, residual + (to - y) if residual != 0 else 0,
                                min(lanes, stop - column), min(lanes, live_o - o), min(lanes, stop - column),
                            )  # fmt: skip
                            column += lanes

    return task


class _Sizes:
    """What a problem and a config come to: tiles, blocks, bytes of scratch."""

    def __init__(self, problem: Problem, config: Config, lanes: int) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.channels = problem.c // problem.groups
        self.per_group = problem.o // problem.groups
        m, t = config.m, config.m + 2
        self.planes = t * t
        self.width = config.nv * lanes
        self.th, self.tw = -(-problem.oh // m), -(-problem.ow // m)
        self.down, self.across = -(-self.th // config.rows), -(-self.tw // config.columns)
        count = aligned_up(config.rows * config.columns, config.mr)
        padded = aligned_up(self.channels, lanes) * self.size
        self.strip_pixel = padded
        # An odd number of lines from tile to tile: a power of two would put the rows of a register tile in one set.
        self.v_row = (aligned_up(padded, 64) // 64 | 1) * 64
        self.v_step = count * self.v_row
        strip = (config.rows * m + 2) * (config.columns * m + 2) * self.strip_pixel
        self.v_at = aligned_up(64 + strip, 64)
        self.m_at = self.v_at + self.planes * self.v_step
        self.m_bytes = config.gather * self.planes * count * self.width * self.size
        self.out_at = self.m_at + aligned_up(self.m_bytes, 64)
        outputs = config.rows * m * config.columns * m * self.width * self.size
        self.scratch = self.out_at + (outputs if problem.layout == "NCHW" else 0)
        self.o_blocks = -(-self.per_group // self.width)


def _even(total: int, most: int) -> int:
    """Return the size of the fewest equal pieces of `total` that are at most `most`."""
    return -(-total // -(-total // max(most, 1)))


class Winograd(Algorithm[Config]):
    """See the head of this file."""

    name = "winograd"
    summary = "F(2x2,3x3), F(4x4,3x3), F(6x6,3x3): 2 to 5 times fewer products; 3x3, stride 1, not strict"
    bound_is_local = False

    def why_not(self, problem: Problem, machine: Machine) -> str | None:
        """Refuse other kernels, steps and types, and class strict."""
        if (problem.kh, problem.kw) != (3, 3):
            return f"needs a 3x3 kernel, got {problem.kh}x{problem.kw}"
        if problem.stride != (1, 1) or problem.dilation != (1, 1):
            return f"needs stride 1 and dilation 1, got stride {problem.stride}, dilation {problem.dilation}"
        if not problem.compute_dtype.startswith("float"):
            return f"needs a floating dtype, got {problem.dtype}"
        if problem.accuracy == "strict":
            return "reassociates sums; allow it with accuracy='standard'"
        return None

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the best block of each tile size and register tile, by cost."""
        lanes = machine.lanes(problem.compute_dtype)
        sides = (2, 4, 6) if problem.accuracy == "fast" else (2, 4)
        choices = {
            config: None
            for m in sides
            for share in (0.5, 1, 2, 4)
            for config in self._blocks(problem, machine, m, share, lanes)
        }
        ordered = sorted(choices, key=lambda config: self.cost(problem, machine, config))
        if problem.threads > 1:
            # The same bits for any number of threads: the tile is the one that one thread would take.
            m = self.configs(replace(problem, threads=1), machine)[0].m
            ordered.sort(key=lambda config: config.m != m)
        return tuple(ordered[:4])

    def _blocks(self, problem: Problem, machine: Machine, m: int, share: float, lanes: int) -> list[Config]:
        """Return configs whose V fills 1/`share` of L2, or the whole of it and more where planes are gathered."""
        channels, per_group = problem.c // problem.groups, problem.o // problem.groups
        size = np.dtype(problem.compute_dtype).itemsize
        th, tw = -(-problem.oh // m), -(-problem.ow // m)
        most = max(int(machine.l2_bytes / share) // ((m + 2) ** 2 * channels * size), 6)
        columns = _even(tw, most)
        rows = _even(th, max(most // columns, 1))
        blocks = problem.n * problem.groups * -(-th // rows) * -(-tw // columns)
        found = []
        for tile in tiles.best_tiles(machine, rows * columns, per_group, channels, lanes, keep=3):
            o_blocks = -(-per_group // (tile.nv * lanes))
            splits = 1
            if problem.threads > 1 and blocks < 2 * problem.threads:
                splits = min(o_blocks, -(-2 * problem.threads // max(blocks, 1)))
            for gather in {1, -(-o_blocks // splits)}:
                found.append(Config(m, *tile, rows, columns, splits, gather))
        return found

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products, transforms, and the transformed weights that stream from beyond L2 for every block."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        tile = tiles.Tile(config.mr, config.nv)
        count = config.rows * config.columns
        products = s.planes * tiles.tiled_cycles(tile, machine, count, s.per_group, s.channels, lanes)
        # Measured: a transform takes about 2.5 cycles per vector read, 4 with the copy or the transpose it needs.
        turn = 4.0 if problem.layout == "NHWC" else 6.0
        vectors_in = count * s.planes * -(-s.channels // lanes) * config.splits
        vectors_out = count * s.planes * -(-s.per_group // lanes)
        weight_bytes = s.planes * s.channels * s.per_group * s.size
        far = 0.0
        if weight_bytes > machine.l2_bytes // 2:
            # A quarter of L3: it is shared with other cores and with the images.
            far = weight_bytes / (L3_WEIGHT_RATE if weight_bytes < machine.l3_bytes // 4 else WEIGHT_RATE)
        v_bytes = s.planes * s.v_step
        # What does not stay in L2 is written there and read back: V once per gathered group, M once.
        rounds = -(-s.o_blocks // (config.splits * config.gather))
        if v_bytes + s.m_bytes / config.gather > 0.8 * machine.l2_bytes:
            far += (v_bytes * (1 + rounds)) * config.splits / tiles.FAR_RATE
        if config.gather > 1 and v_bytes + s.m_bytes > 0.8 * machine.l2_bytes:
            far += 2 * s.m_bytes * config.splits / tiles.FAR_RATE
        # Every round reads V again, from L2; a round for each block of outputs is what gathering saves.
        products += v_bytes * rounds * config.splits / tiles.L2_RATE
        block = max(products, far) + 0.15 * min(products, far) + turn * (vectors_in + vectors_out)
        blocks = problem.n * problem.groups * s.down * s.across
        return tiles.seconds(problem, block * blocks, blocks * config.splits)

    def numerics(self, config: Config) -> tuple[int]:
        """The side of a tile."""
        return (config.m,)

    def packing_cost(self, problem: Problem) -> float:
        """Count the elements of U, those of F(4)."""
        return packing_seconds(problem, 4)

    def error_bound(self, problem: Problem) -> float:
        """Grow with the norms of the transforms and with the square root of the channels; see `bound_is_local`."""
        growth = {2: 4.0, 4: 24.0, 6: 120.0}[6 if problem.accuracy == "fast" else 4]
        eps = float(np.finfo(problem.compute_dtype).eps)
        return eps * growth * (1 + math.sqrt(problem.c // problem.groups) / 4)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Strip, V and M of one block for each worker."""
        return _Sizes(problem, config, machine.lanes(problem.compute_dtype)).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out blocks of tiles and the transformed weights."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        weights = winograd_weights(problem, config.m, s.width)
        rows_in = row_map(problem, s.th * config.m + 2)
        cols_in = column_map(problem, s.tw * config.m + 2)
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
        values = context(
            *(address(rows_in), address(cols_in)),
            *(problem.groups, s.down, s.across, config.splits, -(-s.o_blocks // config.splits), s.o_blocks),
            *(config.rows, config.columns, s.th, s.tw, problem.oh, problem.ow, problem.h, problem.w),
            *(problem.padding[0], problem.padding[2], s.channels, s.per_group, s.strip_pixel, s.v_row),
            *(s.v_step, s.planes * s.channels * s.width * s.size, x_image, x_row, x_pixel, x_channel),
            *(
                y_image,
                y_row,
                y_pixel,
                y_channel,
                s.v_at,
                s.m_at,
                s.out_at,
                weights.copy_offset,
                config.gather,
            ),
        )
        planar = int(problem.layout == "NCHW")
        kernel = winograd(
            config.m, config.mr, config.nv, lanes, problem.compute_dtype, problem.activation, planar
        )
        count = problem.n * problem.groups * s.down * s.across * config.splits
        seconds = self.cost(problem, machine, config) * problem.threads
        # Weights are always checked: an infinite one would spread over the tile as an infinite pixel would.
        return Layout(kernel, values, count, s.scratch, seconds, weights, True, (rows_in, cols_in))


ALGORITHM = Winograd()
