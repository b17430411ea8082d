"""Convolution on a matrix unit (AMX): float32 operands cut into bfloat16 parts, multiplied part by part.

Wins wherever a machine has the unit and there are about 32 channels on both sides, for any kernel, stride and
dilation. Six products of parts are as exact as float32 (class `strict`) and twice as fast as the vector units; three
are for class `standard`, one for class `fast`. A task cuts a strip of padded rows into parts once; then every kernel
tap of 32 channels is one step of a batch-reduce GEMM on it. In NHWC pixels are the rows of the tiles, in NCHW output
channels are, so that sums leave in the order of the output. Memory: one strip per worker, 2 bytes a part.

Strips are kept in L2. A sum that is Inf or NaN is computed again by the definition: parts of such values mean nothing.

Source: G. Henry, P. Tang & A. Heinecke, arXiv:1904.06376; arXiv:1808.05567 (loop order). Start reading at
`split_bfloat16`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import aligned_up, column_map, context, rounding, row_map
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.split_weights import WIDTH, packing_seconds, split_weights
from fastconv.arrays import address
from fastconv.kernels.definition import window_sum
from fastconv.kernels.jit import task_factory
from fastconv.kernels.matrix_tile import (
    DEPTH,
    ROW_BYTES,
    ROWS,
    finish_pixels,
    finish_planes,
    matrix_products,
    parts,
    tile_configuration,
    tile_configure,
    tile_release,
)
from fastconv.kernels.packing import write_segments
from fastconv.kernels.simd import load, store, words
from fastconv.kernels.split_packing import pack_pixel_lines, pack_plane_lines, whole_weights
from fastconv.kernels.transpose import transpose_block
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Products that keep a class of accuracy, cheapest first.
PRODUCTS_OF = {"strict": (6,), "standard": (3, 6), "fast": (1, 3, 6)}
#: Three products keep class `standard` on average: their relative L2 error is 4.4e-6 of the 5e-6 allowed, their largest
#: error 7e-6 of the 1e-5 allowed. Of fewer values some have roundings that are all bad, and of sums shorter than these
#: the largest stand out less: 1.1e-5 at 32 channels.
ENOUGH_VALUES, ENOUGH_DEPTH = 4096, 64
#: Times the unit needs for one product of tiles, whatever rows are live: in NCHW tiles of pixels start anywhere, so
#: that each of their rows touches two lines; a sum without a second tile beside it waits for itself.
TILE_SHARE, CHAIN_SHARE = {"NHWC": 1.0, "NCHW": 1.3}, 1.8
#: Cycles to finish and store one row of two tiles, and around them; to cut 32 channels of a pixel, and to begin a line.
FINISH_CYCLES, TILE_CYCLES = 16.0, 64.0
CUT_CYCLES, LINE_CYCLES = {"NHWC": 16.6, "NCHW": 19.7}, 230.0
#: What leaves L2 while tiles are multiplied moves so many times as fast as while vectors are: weights that are used
#: again and again, weights that are used once, the image and its result.
AGAIN_SHARE, ONCE_SHARE, IMAGE_SHARE = 1.5, 2.0, 2.7
#: Part of the rate of L2 at which strips are written and read.
STRIP_SHARE = 0.83
#: Bytes of scratch before the store segments: a line of flags, then the sums of four tiles.
SEGMENTS = 64 + 4096


class Config(NamedTuple):
    """Products, output rows of a strip, parts of its output channels."""

    products: int
    rows: int
    splits: int


@task_factory
def split_bfloat16(products: int, cuts: int, activation: str, planar: int) -> Task:
    """Return the task that computes some output channels of a block of output rows of one image.

    Shapes   x (N, H, W, C), y (N, OH, OW, O), or NCHW if `planar`; weights as `split_weights` packs them
    Assumes  scratch: flags, sums of four tiles, store segments if `planar`, one kernel, two lines, the strip
    Touches  writes its rows and channels of y, and scratch
    Source   arXiv:1904.06376
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, shape, lines, table, starts, places = words(ctx, 10)
        row_in, col_in, line_count, pitch, merged, left, inner, sh, sw, channels = words(ctx + 80, 10)
        groups, blocks, rows, splits, per_split, o_blocks, per_group, oh, ow, kh = words(ctx + 160, 10)
        items, block_bytes, part, a_row, strip_at, kernel_at, room, kw, dh, dw = words(ctx + 240, 10)
        x_image, x_row, x_pixel, x_channel, y_image, y_row, y_pixel, y_channel = words(ctx + 320, 8)
        split, rest = i % splits, i // splits
        block, rest = rest % blocks, rest // blocks
        group, image = rest % groups, rest // groups
        first = block * rows
        live_rows = min(rows, oh - first)
        strip, sums, segments = scratch + strip_at, scratch + 64, scratch + 4160
        corner = x + image * x_image + group * channels * x_channel
        run = live_rows * pitch if merged != 0 else pitch
        if planar != 0:
            pack_plane_lines(
                cuts, corner, strip, lines, line_count, run, first * sh, row_in, col_in, left, inner, sw, channels,
                x_row, x_channel, a_row, scratch + kernel_at, scratch + 8,
            )  # fmt: skip
        else:
            pack_pixel_lines(
                cuts, corner, strip, lines, line_count, run, first * sh, row_in, col_in, left, inner, sw, channels,
                x_row, x_pixel, part, scratch + 8,
            )  # fmt: skip
        count = ((live_rows - 1) * pitch + ow + 15) // 16
        if planar != 0:
            for t in range(count):
                write_segments(segments + t * room, t * 16, 16, pitch, ow, live_rows, y_row, 4)
        tile_configure(shape)
        first_o = split * per_split
        blocks_o, pairs = min(per_split, o_blocks - first_o), (count + 1) // 2
        for step in range(blocks_o * pairs):
            t, block_o = step % pairs * 2, first_o + step // pairs
            panel = weights + (group * o_blocks + block_o) * block_bytes
            live_o = min(32, per_group - block_o * 32)
            held_bias = bias + (group * o_blocks + block_o) * 128
            out = y + image * y_image + first * y_row + (group * per_group + block_o * 32) * y_channel
            held = residual + (out - y) if residual != 0 else 0
            both = t + 1 < count
            store("int64", scratch, 0)
            one = strip + load("int64", starts + 8 * t)
            two = strip + load("int64", starts + 8 * t + 8) if both else one
            if planar != 0:
                if both:
                    matrix_products(
                        products, 2, 2, panel, panel + 1024, 64, 2048, one, two, a_row, part, table, items, sums
                    )  # fmt: skip
                else:
                    matrix_products(
                        products, 2, 1, panel, panel + 1024, 64, 2048, one, two, a_row, part, table, items, sums
                    )  # fmt: skip
                for m in range(0, live_o, 16):
                    for n in range(2 if both else 1):
                        to = out + m * y_channel
                        finish_planes(
                            activation, sums + m * 128 + n * 1024, to, held + (to - out) if held != 0 else 0,
                            held_bias + m * 4, segments + (t + n) * room, y_channel, min(16, live_o - m), scratch,
                        )  # fmt: skip
            else:
                if both:
                    matrix_products(
                        products, 2, 2, one, two, a_row, part, panel, panel + 1024, 64, 2048, table, items, sums
                    )  # fmt: skip
                else:
                    matrix_products(
                        products, 1, 2, one, two, a_row, part, panel, panel + 1024, 64, 2048, table, items, sums
                    )  # fmt: skip
                for m in range(2 if both else 1):
                    finish_pixels(
                        activation, sums + m * 2048, out, held, held_bias, places + (t + m) * 128,
                        live_rows * ow, y_pixel, 16, (1 << live_o) - 1, scratch,
                    )  # fmt: skip
            if load("int64", scratch) != 0:
                # Tile (m, n), row r, column q: in NCHW rows are channels and columns positions, in NHWC vice versa.
                for at in range(4 * 256):
                    m, n, r, q = at // 512, at // 256 % 2, at // 16 % 16, at % 16
                    value = load("float32", sums + at * 4)
                    o, tile, column = (m * 16 + r, n, q) if planar != 0 else (n * 16 + q, m, r)
                    position = (t + tile) * 16 + column
                    row, column = position // pitch, position % pitch
                    finite = value - value == 0
                    if finite or t + tile >= count or o >= live_o or row >= live_rows or column >= ow:
                        continue
                    kernel = scratch + kernel_at
                    whole_weights(cuts, planar, panel, o, channels, kh * kw, kernel, scratch + 16)
                    total = window_sum(
                        4, corner, kernel, row_in + 8 * (first + row) * sh, col_in + 8 * column * sw, channels,
                        kh, kw, dh, dw, x_channel, x_row, x_pixel,
                    )  # fmt: skip
                    store("float32", scratch + 16, total + load("float32", held_bias + o * 4))
                    to = out + row * y_row + column * y_pixel + o * y_channel
                    transpose_block(
                        "float32", 16, activation, scratch + 16, 4, to, 4,
                        held + (to - out) if held != 0 else 0, 1, 1, 1,
                    )  # fmt: skip
        tile_release()

    return task


class _Sizes:
    """What a problem and a setting come to: phases, lines, tiles, bytes of scratch."""

    def __init__(self, problem: Problem, config: Config) -> None:
        (sh, sw), (dh, dw) = problem.stride, problem.dilation
        self.planar = problem.layout == "NCHW"
        self.cuts = parts(config.products)
        self.channels = problem.c // problem.groups
        self.per_group = problem.o // problem.groups
        self.blocks_c = -(-self.channels // DEPTH)
        self.o_blocks = -(-self.per_group // WIDTH)
        down, across = np.arange(problem.kh) * dh, np.arange(problem.kw) * dw
        row_phases, col_phases = sorted(set(down % sh)), sorted(set(across % sw))
        self.merged = problem.taps == 1 and problem.stride == (1, 1) and not any(problem.padding)
        self.pitch = problem.ow + int(across[-1]) // sw
        self.phase_rows = config.rows + int(down[-1]) // sh
        phase = self.phase_rows * self.pitch
        slot = {
            (r, c): (i * len(col_phases) + j) * phase
            for i, r in enumerate(row_phases)
            for j, c in enumerate(col_phases)
        }
        self.positions = len(slot) * phase
        self.place = np.array(
            [[slot[r % sh, c % sw] + r // sh * self.pitch + c // sw for c in across] for r in down]
        )
        self.lines = np.array(
            [
                (q * sh + r, c, start + q * self.pitch)
                for (r, c), start in slot.items()
                for q in range(self.phase_rows)
            ],
            np.int64,
        )
        if self.merged:
            self.lines = self.lines[:1]
        #: First position of each tile: output rows run into one another.
        self.starts = np.arange(0, (config.rows - 1) * self.pitch + problem.ow, ROWS)
        self.last = int(self.starts[-1]) + ROWS + int(self.place.max())
        item = 4 if self.planar else ROW_BYTES
        # An odd number of lines from pair to pair of channels: a power of two would put them into one set of L1.
        plane = (aligned_up(self.positions * item, 64) // 64 | 1) * 64
        self.row_bytes = plane if self.planar else ROW_BYTES
        self.part = ROWS * plane if self.planar else self.positions * item
        self.item = item
        self.strip = self.blocks_c * self.cuts * self.part + max(0, self.last - self.positions) * item + 64
        self.room = 8 + 16 * (ROWS // self.pitch + 2)
        segments = aligned_up(len(self.starts) * self.room, 64) if self.planar else 0
        self.kernel_at = SEGMENTS + segments
        run = self.pitch * config.rows if self.merged else self.pitch
        kernel = max(self.channels * problem.taps, 2 * run if self.planar else 0) * 4
        self.strip_at = aligned_up(self.kernel_at + kernel, 64)
        self.scratch = self.strip_at + self.strip

    def places(self, problem: Problem, config: Config) -> Any:
        """Return for each row of each NHWC tile the pixel of the strip it computes, -1 for none."""
        row, column = np.divmod(np.arange(len(self.starts) * ROWS), self.pitch)
        live = (column < problem.ow) & (row < config.rows)
        return np.ascontiguousarray(np.where(live, row * problem.ow + column, -1), dtype=np.int64)

    def table(self) -> Any:
        """Return the offsets of each item, (A, B)."""
        weights = np.arange(self.blocks_c * self.place.size) * (self.cuts * 2048)
        block = np.arange(self.blocks_c)[:, None] * (self.cuts * self.part)
        image = (block + self.place.ravel() * self.item).ravel()
        pair = (weights, image) if self.planar else (image, weights)
        return np.ascontiguousarray(np.stack(pair, axis=1), dtype=np.int64)


class SplitBfloat16(Algorithm[Config]):
    """See the head of this file."""

    name = "split_bfloat16"
    summary = "float32 as sums of bfloat16 parts on a matrix unit (AMX); six products strict, three standard"

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse machines without the unit, and other types."""
        if "amx-bf16" not in machine.features:
            yield Need(
                "a matrix unit for bfloat16 (AMX) that the system lets programs use", "a machine without"
            )
        if problem.compute_dtype != "float32":
            yield Need("a dtype computed in float32", problem.dtype, {"dtype": "float32"})

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return for each number of products the best strips, by cost."""
        choices = {
            self._with_rows(problem, machine, products, share): None
            for products in _products(problem)
            for share in (4, 2, 8)
        }
        return tuple(sorted(choices, key=lambda config: self.cost(problem, machine, config)))

    def _with_rows(self, problem: Problem, machine: Machine, products: int, share: int) -> Config:
        """Return the tallest even strips that fill at most a `share` of L2, and further pieces for threads."""

        def room(rows: int) -> int:
            s = _Sizes(problem, Config(products, rows, 1))
            return s.strip + rows * problem.ow * s.per_group * 4

        one, two = room(1), room(2)
        limit = machine.l2_bytes * 2 // share
        rows = max(1, min(problem.oh, 1 + (limit - one) // max(two - one, 1)))
        blocks, splits = -(-problem.oh // rows), 1
        pieces = max(problem.n, 1) * problem.groups
        if problem.threads > 1 and pieces * blocks < 4 * problem.threads:
            wanted = -(-4 * problem.threads // pieces)
            if problem.w_bytes <= problem.x_bytes:
                blocks = min(problem.oh, max(blocks, wanted))
            else:
                splits = min(-(-problem.o // problem.groups // WIDTH), -(-wanted // blocks))
        return Config(products, -(-problem.oh // blocks), splits)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count the products of all tiles, the cutting of strips, the stores, and what does not stay in L2."""
        s = _Sizes(problem, config)
        clock = tiles.cycles_per_second(machine)
        blocks = -(-problem.oh // config.rows)
        items = s.blocks_c * problem.taps
        count = len(s.starts)
        pairs, single = count // 2, count % 2
        tile = clock / machine.facts.matrix_products
        products = items * config.products * tile
        finish = ROWS * FINISH_CYCLES
        strip = pairs * (products * 4 * TILE_SHARE[problem.layout] + 2 * finish + TILE_CYCLES)
        strip = s.o_blocks * (strip + single * (products * 2 * CHAIN_SHARE + finish + TILE_CYCLES))
        cutting = s.blocks_c * (s.positions * CUT_CYCLES[problem.layout] + len(s.lines) * LINE_CYCLES)
        panel = items * s.cuts * 2048
        weight_bytes = s.o_blocks * panel
        far = tiles.far_rate(machine, weight_bytes + problem.x_bytes)
        # Each pair of tiles reads a panel of weights, each panel the strip: all of L2 that they need in turn.
        again = tiles.missed(machine, panel + s.strip, 0.67, 1.96) * s.o_blocks * (pairs + single) * panel
        once = tiles.missed(machine, weight_bytes + s.strip, 0.19, 1.41) * weight_bytes
        strips = tiles.missed(machine, panel + s.strip, 0.02, 0.65) * s.strip * (s.o_blocks + config.splits)
        unit = strip + cutting * config.splits + again / (AGAIN_SHARE * far) + once / (ONCE_SHARE * far)
        unit += strips * clock / (STRIP_SHARE * machine.facts.l2_rate)
        images = problem.n * problem.groups
        unit *= blocks * images
        moved = problem.x_bytes * config.splits + problem.n * problem.o * problem.oh * problem.ow * 4
        if moved > machine.l2_bytes:
            unit += moved / (IMAGE_SHARE * tiles.far_rate(machine, moved))
        return tiles.seconds(problem, machine, unit, images * blocks * config.splits)

    def numerics(self, config: Config) -> tuple[int]:
        """The number of products."""
        return (config.products,)

    def packing_cost(self, problem: Problem, config: Config) -> float:
        """Count the weights."""
        return packing_seconds(problem)

    def error_bound(self, problem: Problem) -> float:
        """Every product of parts is one addition in float32; then what the parts left out lack."""
        products = _products(problem)[0]
        # A part is within 2**-8 of what it stands for: what is left out is x1*w2 + x2*w1, or x1*w1 and both rests.
        lacking = {6: 2.0**-23, 3: 3 * 2.0**-16, 1: 2.0**-7 + 2.0**-16}[products]
        depth = aligned_up(problem.c // problem.groups, DEPTH) * problem.taps
        return rounding(problem) * (products * depth / 2 + 3) + lacking

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """One strip for each worker."""
        return _Sizes(problem, config).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out strips, tiles and weights."""
        s = _Sizes(problem, config)
        weights, block_bytes = split_weights(problem, config.products)
        blocks = -(-problem.oh // config.rows)
        table, starts = s.table(), np.ascontiguousarray(s.starts * s.item, dtype=np.int64)
        lines, places = np.ascontiguousarray(s.lines), s.places(problem, config)
        shape = tile_configuration()
        (sh, sw), (dh, dw) = problem.stride, problem.dilation
        deepest = max(int(s.lines[:, 0].max()), (config.rows - 1) * sh + (problem.kh - 1) * dh)
        rows_in = row_map(problem, (blocks - 1) * config.rows * sh + deepest + 1)
        widest = max(
            int(s.lines[:, 1].max()) + (s.pitch - 1) * sw, (problem.ow - 1) * sw + (problem.kw - 1) * dw
        )
        cols_in = column_map(problem, widest + 1)
        left = problem.padding[2]
        inner = problem.h * problem.w if s.merged else problem.w
        if s.planar:
            x_pixel = y_pixel = 4
            x_row, y_row = problem.w * 4, problem.ow * 4
            x_channel, y_channel = problem.h * x_row, problem.oh * y_row
            x_image, y_image = problem.c * x_channel, problem.o * y_channel
        else:
            x_channel = y_channel = 4
            x_pixel, y_pixel = problem.c * 4, problem.o * 4
            x_row, y_row = problem.w * x_pixel, problem.ow * y_pixel
            x_image, y_image = problem.h * x_row, problem.oh * y_row
        values = context(
            *(address(array) for array in (shape, lines, table, starts, places, rows_in, cols_in)),
            *(len(lines), s.pitch, int(s.merged), left, inner, sh, sw, s.channels),
            *(problem.groups, blocks, config.rows, config.splits, -(-s.o_blocks // config.splits)),
            *(s.o_blocks, s.per_group, problem.oh, problem.ow, problem.kh),
            *(
                len(table),
                block_bytes,
                s.part,
                s.row_bytes,
                s.strip_at,
                s.kernel_at,
                s.room,
                problem.kw,
                dh,
                dw,
            ),
            *(x_image, x_row, x_pixel, x_channel, y_image, y_row, y_pixel, y_channel),
        )
        kernel = split_bfloat16(config.products, s.cuts, problem.activation, int(s.planar))
        count = problem.n * problem.groups * blocks * config.splits
        seconds = self.seconds_alone(problem, machine, config)
        keep = (shape, lines, table, starts, places, rows_in, cols_in)
        # Weights are always checked: parts of one that is not finite mean nothing.
        return Layout(kernel, values, count, s.scratch, seconds, weights, True, keep)


def _products(problem: Problem) -> tuple[int, ...]:
    """Return the numbers of products that keep the class of accuracy of `problem`, cheapest first."""
    found = PRODUCTS_OF[problem.accuracy]
    depth = problem.c_per_group * problem.taps
    enough = (
        min(depth * problem.o, problem.c * problem.h * problem.w) >= ENOUGH_VALUES and depth >= ENOUGH_DEPTH
    )
    return found if enough or problem.accuracy == "fast" else found[-1:]


ALGORITHM = SplitBfloat16()
