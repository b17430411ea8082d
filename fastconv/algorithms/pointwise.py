"""1x1 convolution: one matrix product per image, with stride and without a copy of the image in NHWC.

Wins for every ungrouped 1x1 kernel without padding. In NHWC the pixels as they stand are the rows of the tile, each
row one pixel's channels; only the few pixels of a tile that would reach past the end are copied. In NCHW the columns
of one channel are a vector and the next channel is a plane away: tiles are read where they stand while the next ones
are fetched into L2, a line in each step of the products; strided columns are packed, and planes a power of two apart.

Source: the matrix product of K. Goto & R. van de Geijn, ACM TOMS 34(3), 2008. Start reading at `pointwise_nhwc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import aligned_up, column_segments, context, one_item, rounding
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.weights import WeightLayout
from fastconv.arrays import address
from fastconv.kernels.gemm_tile import ONCE, brgemm_ahead
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import move, pack_row, write_segments
from fastconv.kernels.simd import item_bytes, words, zero_bytes
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]


#: Planes whose channels fall into few sets of L1 and L2 are packed, at other distances, if there are more channels than
#: this: a multiple of so many bytes (512 -> 1024 channels of float64 at 32x32: 10.7 ms instead of 23.6).
THRASHING_BYTES, FEW_CHANNELS = 2048, 16
#: Most work of one task.
TASK_FLOP = 4e9
#: Tiles of NHWC pixels that are asked for before they are multiplied, at least: 8 are as good, 2 up to 7 % slower.
AHEAD = 4
#: Part of the time in which the image and its result pass through memory that products do not hide, and of the cycles
#: of a tile in general those of one that is stored whole, whose image is there when it is needed.
MOVED, WHOLE = 0.15, 0.95


class Config(NamedTuple):
    """Register tile, tiles of pixels (NHWC) or rows of the image (NCHW) in a task, parts of the output channels.

    `group` is how many tiles are multiplied by all weights before the next are; 0 (NCHW) packs the whole block first.
    """

    mr: int
    nv: int
    portion: int
    splits: int
    group: int = 0


@task_factory
def pointwise_nhwc(mr: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes some output channels of `count` tiles of pixels, NHWC.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); weights [block][C][NR]. Pixels are cut into lines whose pixels are
             evenly spaced: one output row, or with stride 1 everything; a line is cut into tiles of MR pixels
    Assumes  scratch holds one tile of pixels for each tile of the task
    Touches  writes its pixels and channels of y, and scratch; fetches the tile `ahead` tiles later, which products hide
             where a burst before them would not (144 -> 24 channels at 56x56: 175 us without, 170 in bursts, 134)
    Source   Goto & van de Geijn, ACM TOMS 34(3), 2008
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, full, tail, splits, per_split = words(ctx, 10)
        o_blocks, count, total, per_line, line_width, lines, k, block_bytes = words(ctx + 80, 8)
        image_bytes, line_bytes, pixel_step, y_pixel, tail_mode, group, ahead = words(ctx + 144, 7)
        split, first = i % splits, i // splits * count
        last = min(first + count, total)
        for t in range(first, last):
            live = line_width - t % per_line * mr
            if live < mr:
                line, place = t // per_line, t % per_line
                source = x + line // lines * image_bytes + line % lines * line_bytes + place * mr * pixel_step
                copy = scratch + (t - first) * mr * pixel_step
                zero_bytes(copy, mr * pixel_step)
                for pixel in range(live):
                    move(copy + pixel * pixel_step, source + pixel * pixel_step, k * size)
        # Each step of a product asks for a part of a tile that comes later: a line of x every 64 bytes of all steps.
        step = 0 if ahead == 0 else (mr * size + o_blocks - 1) // o_blocks
        for start in range(first, last, group):
            for block_o in range(split * per_split, min((split + 1) * per_split, o_blocks)):
                for t in range(start, min(start + group, last)):
                    line, place = t // per_line, t % per_line
                    live = line_width - place * mr
                    source = (
                        x + line // lines * image_bytes + line % lines * line_bytes + place * mr * pixel_step
                    )
                    later = source
                    if t + ahead < total:
                        later = source + ahead * mr * pixel_step + block_o * k * step
                    if live < mr:
                        source = scratch + (t - first) * mr * pixel_step
                    out = y + (line * line_width + place * mr) * y_pixel + block_o * width * size
                    brgemm_ahead(
                        mr, nv, lanes, dtype, "n", activation,
                        source, pixel_step, size, weights + block_o * block_bytes, width * size, table, 1, k,
                        out, residual + (out - y) if residual != 0 else 0, y_pixel, min(mr, live),
                        tail if block_o == o_blocks - 1 else full, bias + block_o * width * size, 0,
                        tail_mode if block_o == o_blocks - 1 else ONCE, later, step,
                    )  # fmt: skip

    return task


@task_factory
def pointwise_nchw(mr: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes some output channels of a block of output rows of one image, NCHW.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [block][C][MR]
    Assumes  scratch holds the store segments, then C runs of `pitch` bytes
    Touches  writes its rows and channels of y, and scratch
    Source   Goto & van de Geijn, ACM TOMS 34(3), 2008
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, col_map, splits, per_split, o_blocks = words(ctx, 10)
        blocks, rows, oh, ow, o, k, block_bytes, pitch, room, tile_room = words(ctx + 80, 10)
        sh, sw, x_row, x_plane, y_row, y_plane, group, end_of_x = words(ctx + 160, 8)
        split, rest = i % splits, i // splits
        block, image = rest % blocks, rest // blocks
        first = block * rows
        live_rows = min(rows, oh - first)
        columns = live_rows * ow
        count = (columns + width - 1) // width
        corner = x + image * k * x_plane + first * sh * x_row
        # Tiles up to `plain` are read where they stand: their last vector of the last channel is still inside x.
        plain = 0
        if group != 0:
            plain = max(min(count, (x + end_of_x - corner - (k - 1) * x_plane) // (width * size)), 0)
        panel = scratch + room - plain * width * size
        if plain < count:
            skipped = plain * width
            for c in range(k):
                source, target = corner + c * x_plane, panel + c * pitch
                if sh == 1 and sw == 1:
                    move(target + skipped * size, source + skipped * size, (columns - skipped) * size)
                else:
                    for r in range(live_rows):
                        pack_row(
                            source + r * sh * x_row,
                            target + r * y_row,
                            0,
                            ow,
                            sw,
                            col_map,
                            0,
                            x_row // size,
                            size,
                        )
                zero_bytes(target + columns * size, (count * width - columns) * size)
        for t in range(count):
            end = scratch + t * tile_room
            for j in range(nv):
                end = write_segments(end, t * width + j * lanes, lanes, columns, columns, 1, 0, size)
        step = group if group != 0 else count
        for start in range(0, count, step):
            # The next tiles come from L3 or memory meanwhile: each product asks for one line of each of their channels.
            ahead, missing = corner + (start + step) * width * size, 0
            if start + step < plain:
                missing = (step * width * size + 63) // 64
            for block_o in range(split * per_split, min((split + 1) * per_split, o_blocks)):
                out = y + (image * o + block_o * mr) * y_plane + first * y_row
                held = residual + (out - y) if residual != 0 else 0
                for t in range(start, min(start + step, count)):
                    source, stride = panel + t * width * size, pitch
                    if t < plain:
                        source, stride = corner + t * width * size, x_plane
                    later, later_step = source, 0
                    if missing > 0:
                        later, later_step = ahead, x_plane
                        ahead += 64
                        missing -= 1
                    brgemm_ahead(
                        mr, nv, lanes, dtype, "m", activation,
                        weights + block_o * block_bytes, size, mr * size, source, stride, table, 1, k,
                        out, held, y_plane, min(mr, o - block_o * mr),
                        scratch + t * tile_room, bias + block_o * mr * size, 0,
                        ONCE if (t + 1) * width <= columns else 0, later, later_step,
                    )  # fmt: skip

    return task


class Pointwise(Algorithm[Config]):
    """See the head of this file."""

    name = "pointwise"
    summary = "1x1 kernels as one matrix product; in NHWC straight from the image, strided too"

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse all that is no plain matrix product."""
        if problem.taps > 1:
            yield Need("a 1x1 kernel", f"{problem.kh}x{problem.kw}", {"kh": 1, "kw": 1})
        if any(problem.padding):
            yield Need("padding 0", str(problem.padding), {"padding": (0, 0, 0, 0)})
        if problem.groups > 1:
            yield Need("groups 1", str(problem.groups), {"groups": 1})

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the three cheapest tiles, each with as many pixels in a task as L2 holds beside their outputs."""
        lanes = machine.lanes(problem.compute_dtype)
        if problem.layout == "NHWC":
            line = problem.ow if _strided(problem) else max(problem.n, 1) * problem.oh * problem.ow
            found = tiles.best_tiles(machine, line, problem.o, problem.c, lanes, keep=3)
        else:
            found = tiles.best_tiles(
                machine,
                problem.o,
                problem.oh * problem.ow,
                problem.c,
                lanes,
                from_l2=_extra_lines(problem),
                keep=3,
            )
        return tuple(self._with_count(problem, machine, tile, lanes) for tile in found)

    def _with_count(self, problem: Problem, machine: Machine, tile: tiles.Tile, lanes: int) -> Config:
        size = np.dtype(problem.compute_dtype).itemsize
        nhwc = problem.layout == "NHWC"
        width = tile.nv * lanes if nhwc else tile.mr
        group = 0 if nhwc else _plane_group(problem, machine, tile.nv * lanes)
        room = machine.l2_bytes // (4 if problem.w_bytes <= machine.l2_bytes // 2 else 2)
        unit = tile.mr if nhwc else problem.ow
        total = _tiles_in_all(problem, tile.mr) if nhwc else problem.oh
        count = total if group else max(1, min(total, room // (unit * (problem.c + problem.o) * size)))
        pieces = 1 if nhwc else max(problem.n, 1)
        # Python sees Ctrl-C only between tasks: none takes more than some tens of milliseconds.
        blocks, splits = max(-(-total // count), min(total, int(problem.flop / pieces / TASK_FLOP))), 1
        if problem.threads > 1 and pieces * blocks < 4 * problem.threads:
            wanted = -(-4 * problem.threads // pieces)
            if problem.w_bytes <= problem.x_bytes:
                blocks = min(total, max(blocks, wanted))
            else:
                splits = min(-(-problem.o // width), -(-wanted // blocks))
        portion = -(-total // blocks)
        return Config(*tile, portion, splits, _pixel_group(problem, machine, portion) if nhwc else group)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count the products of all tiles, the packing of NCHW, and image and result that pass through memory."""
        lanes = machine.lanes(problem.compute_dtype)
        tile = tiles.Tile(config.mr, config.nv)
        images = max(problem.n, 1)
        if problem.layout == "NHWC":
            line = problem.ow if _strided(problem) else images * problem.oh * problem.ow
            lines = images * problem.oh if _strided(problem) else 1
            products = lines * tiles.tiled_cycles(tile, machine, line, problem.o, problem.c, lanes)
            tasks = -(-_tiles_in_all(problem, config.mr) // config.portion) * config.splits
            packing = 0.0
        else:
            blocks = -(-problem.oh // config.portion)
            columns = config.portion * problem.ow
            block = tiles.tiled_cycles(
                tile, machine, problem.o, columns, problem.c, lanes, from_l2=_extra_lines(problem)
            )
            products = images * blocks * block
            tasks = images * blocks * config.splits
            used = problem.x_bytes // (problem.stride[0] * problem.stride[1])
            packing = used * config.splits / (12.0 if problem.stride[1] == 1 else 2.0)
            if config.group:
                packing = 0.0
        moved = tiles.image_cycles(problem, machine, problem.x_bytes + problem.y_bytes)
        cycles = WHOLE * products + packing
        return tiles.seconds(problem, machine, max(cycles, moved) + MOVED * min(cycles, moved), tasks)

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over the channels, then bias and residual."""
        return rounding(problem) * (problem.c + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """One block of pixels for each worker."""
        return self._scratch(problem, machine, config) * problem.threads

    def _scratch(self, problem: Problem, machine: Machine, config: Config) -> int:
        size = np.dtype(problem.compute_dtype).itemsize
        if problem.layout == "NCHW":
            width = config.nv * machine.lanes(problem.compute_dtype)
            return _room(problem, config, width) + problem.c * _pitch(problem, config, width)
        line = problem.ow if _strided(problem) else problem.n * problem.oh * problem.ow
        if line % config.mr == 0:
            return 0
        return config.portion * config.mr * problem.stride[1] * problem.c * size

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Choose the form by the layout of the image."""
        build = _nhwc if problem.layout == "NHWC" else _nchw
        lanes = machine.lanes(problem.compute_dtype)
        seconds = self.seconds_alone(problem, machine, config)
        return build(problem, config, lanes, self._scratch(problem, machine, config), seconds)


def _pixel_group(problem: Problem, machine: Machine, portion: int) -> int:
    """Return how many tiles of NHWC pixels are multiplied by one block of weights before the next block is.

    One where L1 holds all weights, so that the result is written in order: 16 -> 96 channels at 112x112 take 282 us,
    294 with four and with 143. Weights that do not stay in L2 are read as seldom as they can be.
    """
    if problem.w_bytes <= machine.l1_bytes // 2:
        return 1
    return min(portion, AHEAD) if problem.w_bytes <= machine.l2_bytes // 2 else portion


def _plane_group(problem: Problem, machine: Machine, width: int) -> int:
    """Return how many tiles of an NCHW image are worked on before the next ones, which are fetched meanwhile.

    As many as stay in L1 for all blocks of weights: 144 -> 24 channels at 56x56 take 132 us with one, 150 with two.
    More outputs than inputs are better written plane by plane, where the image stays in L2.
    """
    size = np.dtype(problem.compute_dtype).itemsize
    thrashing = problem.c > FEW_CHANNELS and problem.h * problem.w * size % THRASHING_BYTES == 0
    if _strided(problem) or thrashing:
        return 0
    tile = problem.c * width * size
    if problem.o > problem.c and problem.x_bytes // max(problem.n, 1) <= machine.l2_bytes // 2:
        return -(-problem.oh * problem.ow // width)
    if problem.w_bytes <= machine.l2_bytes // 2:
        return max(1, 2 * machine.l1_bytes // 3 // tile)
    return max(2, machine.l2_bytes // 2 // tile)


def _extra_lines(problem: Problem) -> int:
    """Return how many lines more than vectors a row of a tile touches in NCHW: none where planes are whole lines."""
    plane = problem.oh * problem.ow * np.dtype(problem.compute_dtype).itemsize
    return int(plane % 64 != 0)


def _strided(problem: Problem) -> bool:
    return problem.stride != (1, 1)


def _tiles_in_all(problem: Problem, mr: int) -> int:
    """Return the tiles of pixels of the whole NHWC output."""
    if _strided(problem):
        return problem.n * problem.oh * -(-problem.ow // mr)
    return -(-problem.n * problem.oh * problem.ow // mr)


def _pitch(problem: Problem, config: Config, width: int) -> int:
    """Return the bytes from one channel of a packed block to the next: an odd number of lines."""
    size = np.dtype(problem.compute_dtype).itemsize
    return (aligned_up(aligned_up(config.portion * problem.ow, width) * size, 64) // 64 | 1) * 64


def _tile_room(config: Config) -> int:
    """Return the bytes of one NCHW tile's store segments."""
    return config.nv * 24


def _room(problem: Problem, config: Config, width: int) -> int:
    """Return the bytes before the packed block of an NCHW task."""
    return aligned_up(-(-config.portion * problem.ow // width) * _tile_room(config), 64)


def _weights(problem: Problem, width: int) -> WeightLayout:
    return WeightLayout(
        problem.compute_dtype, 1, problem.o, problem.c, width, np.arange(problem.c, dtype=np.int64)
    )


def _nhwc(problem: Problem, config: Config, lanes: int, scratch: int, seconds: float) -> Layout:
    size = np.dtype(problem.compute_dtype).itemsize
    sh, sw = problem.stride
    width = config.nv * lanes
    weights = _weights(problem, width)
    table = one_item()
    full = column_segments(width, config.nv, lanes, size)
    live = problem.o - (weights.blocks - 1) * width
    tail, tail_mode = column_segments(live, config.nv, lanes, size), ONCE if live > width - lanes else 0
    row = problem.w * problem.c * size
    line, lines = (problem.ow, problem.oh) if _strided(problem) else (problem.n * problem.oh * problem.ow, 1)
    total = _tiles_in_all(problem, config.mr)
    values = context(
        *(address(array) for array in (table, full, tail)),
        *(config.splits, -(-weights.blocks // config.splits), weights.blocks, config.portion, total),
        *(-(-line // config.mr), line, lines, problem.c, weights.block_bytes),
        *(problem.h * row, sh * row, sw * problem.c * size, problem.o * size, tail_mode),
        *(config.group, 0 if _strided(problem) else max(config.group, AHEAD)),
    )
    kernel = pointwise_nhwc(config.mr, config.nv, lanes, problem.compute_dtype, problem.activation)
    count = -(-total // config.portion) * config.splits
    return Layout(kernel, values, count, scratch, seconds, weights, False, (table, full, tail))


def _nchw(problem: Problem, config: Config, lanes: int, scratch: int, seconds: float) -> Layout:
    size = np.dtype(problem.compute_dtype).itemsize
    sh, sw = problem.stride
    width = config.nv * lanes
    weights = _weights(problem, config.mr)
    table = one_item()
    col_map = np.arange(problem.w, dtype=np.int64)
    blocks = -(-problem.oh // config.portion)
    values = context(
        *(address(array) for array in (table, col_map)),
        *(config.splits, -(-weights.blocks // config.splits), weights.blocks, blocks, config.portion),
        *(problem.oh, problem.ow, problem.o, problem.c, weights.block_bytes),
        *(_pitch(problem, config, width), _room(problem, config, width), _tile_room(config)),
        *(sh, sw, problem.w * size, problem.h * problem.w * size),
        *(problem.ow * size, problem.oh * problem.ow * size),
        *(config.group, problem.n * problem.c * problem.h * problem.w * size),
    )
    kernel = pointwise_nchw(config.mr, config.nv, lanes, problem.compute_dtype, problem.activation)
    count = problem.n * blocks * config.splits
    return Layout(kernel, values, count, scratch, seconds, weights, False, (table, col_map))


ALGORITHM = Pointwise()
