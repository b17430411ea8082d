"""Direct convolution: every tap is one item of a batch-reduce GEMM, straight from a strip of padded rows.

Wins for kernels larger than 1x1 at any stride and dilation, from about 16 channels. In NHWC the output channels lie
in the lanes and pixels are the rows of the tile; in NCHW the columns of the image lie in the lanes, several output
rows run into one another as one flat run of positions, and output channels are the rows. Memory: one strip of padded
rows per worker, kept within half of L2. Nothing is unrolled into a matrix, each output is written once.

Source: E. Georganas et al., SC18, arXiv:1808.05567 (loop order, register blocking), with strips instead of blocked
layouts. Start reading at `direct_nhwc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import (
    aligned_up,
    column_map,
    column_segments,
    context,
    pads_with_zeros,
    rounding,
    row_map,
)
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.weights import WeightLayout, weight_index
from fastconv.arrays import address
from fastconv.kernels.gemm_tile import brgemm
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import pack_pixels, pack_planes, write_segments
from fastconv.kernels.simd import item_bytes, words
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Longest run of channels in one item: 64 channels of the 16 columns under a tile are 4 KiB a row, so that the rows
#: under a tile and the weights stream through L1 without pushing each other out.
CHUNK = 64


class Config(NamedTuple):
    """Register tile, output rows of a strip, and into how many parts the output channels of a strip are split."""

    mr: int
    nv: int
    rows: int
    splits: int


@task_factory
def direct_nhwc(mr: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes some output channels of a block of output rows of one image, NHWC.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); weights [group][block][kh][chunk][kw][channel][NR]
    Assumes  scratch holds the strip; maps cover it; context as `_nhwc` writes it
    Touches  writes its rows and channels of y, and scratch
    Source   arXiv:1808.05567, arXiv:1906.06440
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, rows_in, cols_in, full, tail = words(ctx, 10)
        groups, blocks, splits, per_split, o_blocks, rows, oh, ow, kh, h = words(ctx + 80, 10)
        sh, dh, top, clip, row_items, k, block_bytes, group_bytes, cols, left = words(ctx + 160, 10)
        inner, x_row, x_pixel, strip_pixel, column_step, y_pixel, y_group = words(ctx + 240, 7)
        split, rest = i % splits, i // splits
        block, rest = rest % blocks, rest // blocks
        group, image = rest % groups, rest // groups
        first = block * rows
        live_rows = min(rows, oh - first)
        strip_row = cols * strip_pixel
        pack_pixels(
            x + image * h * x_row + group * group_bytes, scratch, (live_rows - 1) * sh + (kh - 1) * dh + 1,
            rows_in + 8 * first * sh, cols_in, cols, left, inner,
            x_row, x_pixel, group_bytes, strip_row, strip_pixel,
        )  # fmt: skip
        for block_o in range(split * per_split, min((split + 1) * per_split, o_blocks)):
            panel = group * o_blocks + block_o
            to_channel = y + group * y_group + block_o * width * size
            for r in range(live_rows):
                row = first + r
                # Rows of taps that fall on zero padding are left out: 10 % of the work at 7x7, 5 % at 14x14.
                above = row * sh - top
                r0, r1 = 0, kh
                if clip != 0:
                    r0 = max(0, (dh - 1 - above) // dh)
                    r1 = min(kh, (h - above + dh - 1) // dh)
                    if r1 <= r0:
                        r0, r1 = 0, kh
                start = scratch + r * sh * strip_row
                to = to_channel + (image * oh + row) * ow * y_pixel
                for column in range(0, ow, mr):
                    out = to + column * y_pixel
                    brgemm(
                        mr, nv, lanes, dtype, "n", activation,
                        start + column * column_step, column_step, size,
                        weights + panel * block_bytes, width * size,
                        table + 16 * r0 * row_items, (r1 - r0) * row_items, k,
                        out, residual + (out - y) if residual != 0 else 0, y_pixel, min(mr, ow - column),
                        tail if block_o == o_blocks - 1 else full, bias + panel * width * size, 0, 0,
                    )  # fmt: skip

    return task


@task_factory
def direct_nchw(mr: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes some output channels of a block of output rows of one image, NCHW.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [group][block][chunk][kh][kw][channel][MR]
    Assumes  scratch holds the segments, then the strip and the slack of its last tile; context as `_nchw` writes it
    Touches  writes its rows and channels of y, and scratch
    Source   arXiv:1808.05567 with the roles of pixels and output channels exchanged
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, rows_in, cols_in, items, k = words(ctx, 10)
        groups, blocks, splits, per_split, o_blocks, rows, oh, ow, kh, per_group = words(ctx + 80, 10)
        sh, sw, dh, channels, padded_channels, block_bytes, left, inner, phase_rows, pitch = words(
            ctx + 160, 10
        )
        x_row, x_plane, x_image, plane, y_row, y_plane, y_image, room, tile_room, slack = words(ctx + 240, 10)
        split, rest = i % splits, i // splits
        block, rest = rest % blocks, rest // blocks
        group, image = rest % groups, rest // groups
        first = block * rows
        live_rows = min(rows, oh - first)
        strip = scratch + room
        pack_planes(
            x + image * x_image + group * channels * x_plane, strip, channels, padded_channels,
            (live_rows - 1) * sh + (kh - 1) * dh + 1, rows_in + 8 * first * sh, cols_in, left, inner,
            x_row, x_plane, sh, sw, phase_rows, pitch, plane, slack, size,
        )  # fmt: skip
        positions = (live_rows - 1) * pitch + ow
        count = (positions + width - 1) // width
        for t in range(count):
            end = scratch + t * tile_room
            for j in range(nv):
                end = write_segments(end, t * width + j * lanes, lanes, pitch, ow, live_rows, y_row, size)
        for block_o in range(split * per_split, min((split + 1) * per_split, o_blocks)):
            panel = group * o_blocks + block_o
            out = y + image * y_image + (group * per_group + block_o * mr) * y_plane + first * y_row
            held = residual + (out - y) if residual != 0 else 0
            for t in range(count):
                brgemm(
                    mr, nv, lanes, dtype, "m", activation,
                    weights + panel * block_bytes, size, mr * size,
                    strip + t * width * size, plane, table, items, k,
                    out, held, y_plane, min(mr, per_group - block_o * mr),
                    scratch + t * tile_room, bias + panel * mr * size, 0, 0,
                )  # fmt: skip

    return task


class _Sizes:
    """What both layouts derive from a problem: channels, chunks, padded extents."""

    def __init__(self, problem: Problem) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.channels = problem.c // problem.groups
        self.per_group = problem.o // problem.groups
        self.chunks = -(-self.channels // CHUNK)
        self.chunk = -(-self.channels // self.chunks)
        self.padded_channels = self.chunks * self.chunk
        self.reach = (problem.kh - 1) * problem.dilation[0] + 1
        self.columns = (problem.ow - 1) * problem.stride[1] + (problem.kw - 1) * problem.dilation[1] + 1

    def rows_in(self, problem: Problem, rows: int) -> int:
        """Return the padded input rows under `rows` output rows."""
        return (rows - 1) * problem.stride[0] + self.reach


def _pixel_bytes(problem: Problem, s: _Sizes) -> int:
    """Return the bytes from one pixel of an NHWC strip to the next."""
    plain = s.padded_channels * s.size
    # Steps that are a multiple of 2 KiB put the 14 rows of a tile into two of L1's 64 sets, more than their 12 ways.
    return plain + 64 if plain * problem.stride[1] % 2048 == 0 else plain


def _strip_bytes(problem: Problem, s: _Sizes, config: Config, lanes: int) -> int:
    """Return the bytes of the strip under ``config.rows`` output rows."""
    rows = s.rows_in(problem, config.rows)
    if problem.layout == "NHWC":
        tail = aligned_up(problem.ow, config.mr) - problem.ow
        return rows * (s.columns + tail * problem.stride[1]) * _pixel_bytes(problem, s)
    return s.padded_channels * _plane_bytes(problem, s, config) + _slack_bytes(s, config, lanes)


def _slack_bytes(s: _Sizes, config: Config, lanes: int) -> int:
    """Return the bytes behind an NCHW strip that its last tile may read."""
    return (config.nv * lanes + s.columns) * s.size


def _pitch(problem: Problem, s: _Sizes) -> int:
    """Return the elements from one row of an NCHW strip to the next."""
    return -(-s.columns // problem.stride[1])


def _plane_bytes(problem: Problem, s: _Sizes, config: Config) -> int:
    """Return the bytes from one channel of an NCHW strip to the next: an odd number of lines, against set conflicts."""
    sh, sw = problem.stride
    phase_rows = -(-s.rows_in(problem, config.rows) // sh)
    return (aligned_up(sh * sw * phase_rows * _pitch(problem, s) * s.size, 64) // 64 | 1) * 64


def _segment_bytes(problem: Problem, s: _Sizes, config: Config, lanes: int) -> int:
    """Return the bytes of the store segments of one NCHW tile, at their most."""
    pieces = lanes // _pitch(problem, s) + 2
    return config.nv * (8 + 16 * pieces)


def _segments_room(problem: Problem, s: _Sizes, config: Config, lanes: int) -> int:
    """Return the bytes before the strip of an NCHW task."""
    count = -(-config.rows * _pitch(problem, s) // (config.nv * lanes))
    return aligned_up(count * _segment_bytes(problem, s, config, lanes), 64)


class Direct(Algorithm[Config]):
    """See the head of this file."""

    name = "direct"
    summary = (
        "batch-reduce GEMM over kernel taps from a packed strip of rows; any stride, dilation and padding"
    )

    def needs(self, problem: Problem, machine: Machine) -> Iterable[Need]:
        """Take everything; the planner drops it where one strip exceeds the workspace limit."""
        return ()

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the four cheapest of some tiles, each with the tallest strips that fit L2 and with half of that."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem)
        k = s.padded_channels * problem.taps
        if problem.layout == "NHWC":
            found = tiles.best_tiles(machine, problem.ow, s.per_group, k, lanes, keep=8)
        else:
            run = (min(problem.oh, 8) - 1) * _pitch(problem, s) + problem.ow
            found = tiles.best_tiles(machine, s.per_group, run, k, lanes, split_loads=True, keep=8)
        choices = {
            self._with_rows(problem, machine, s, tile, lanes, cuts): None for tile in found for cuts in (1, 2)
        }
        return tuple(sorted(choices, key=lambda config: self.cost(problem, machine, config))[:4])

    def _with_rows(
        self, problem: Problem, machine: Machine, s: _Sizes, tile: tiles.Tile, lanes: int, cuts: int
    ) -> Config:
        """Return `tile` with even strips that fit, each cut `cuts` times, and further while threads would be idle."""
        # A strip and its outputs stay in L2 while all channels pass over them: outputs that leave in between cost
        # 20 % of 1x1, 64 -> 256 at 56x56. Weights that do not fit are read once per strip: then taller strips pay.
        room = (
            machine.l2_bytes // 4 if problem.w_bytes <= machine.l2_bytes // 2 else machine.l2_bytes * 5 // 8
        )
        out = problem.ow * problem.o * s.size
        one = _strip_bytes(problem, s, Config(*tile, 1, 1), lanes) + out
        two = _strip_bytes(problem, s, Config(*tile, 2, 1), lanes) + 2 * out
        rows = max(1, min(problem.oh, 1 + (room - one) // max(two - one, 1)))
        blocks = min(problem.oh, -(-problem.oh // rows) * cuts)
        width = tile.nv * lanes if problem.layout == "NHWC" else tile.mr
        splits = 1
        pieces = max(problem.n, 1) * problem.groups
        if problem.threads > 1 and pieces * blocks < 4 * problem.threads:
            wanted = -(-4 * problem.threads // pieces)
            # The smaller side is the one worth reading twice: more strips read the weights again, more splits the rows.
            if problem.w_bytes <= problem.x_bytes:
                blocks = min(problem.oh, max(blocks, wanted))
            else:
                splits = min(-(-s.per_group // width), -(-wanted // blocks))
        return Config(*tile, -(-problem.oh // blocks), splits)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count the products of all tiles, the packing of strips, and what does not stay in L2."""
        s = _Sizes(problem)
        lanes = machine.lanes(problem.compute_dtype)
        tile = tiles.Tile(config.mr, config.nv)
        k = s.padded_channels * problem.kh * problem.kw
        blocks = -(-problem.oh // config.rows)
        if problem.layout == "NHWC":
            width, tiles_of_strip = config.nv * lanes, config.rows * -(-problem.ow // config.mr)
            one_row = tiles.tiled_cycles(tile, machine, problem.ow, s.per_group, k, lanes)
            products = one_row * problem.oh
            pack_rate = 8.0 if s.channels * s.size >= 64 else 2.0
        else:
            positions = (config.rows - 1) * _pitch(problem, s) + problem.ow
            width, tiles_of_strip = config.mr, -(-positions // (config.nv * lanes))
            strip = tiles.tiled_cycles(tile, machine, s.per_group, positions, k, lanes, split_loads=True)
            products = strip * blocks
            pack_rate = 8.0 if problem.stride[1] == 1 else 1.5
        strip_bytes = _strip_bytes(problem, s, config, lanes)
        packing = strip_bytes * blocks * config.splits / pack_rate
        # Every panel of weights is read by each tile of the strip, and the strip's rows under taps by each panel.
        panel, panels = k * width * s.size, -(-s.per_group // width)
        rows_in = s.rows_in(problem, config.rows)
        read = strip_bytes * min(config.rows * problem.kh, rows_in) / rows_in
        weight_bytes = k * s.per_group * s.size
        again = 1.7 * read + 0.16 * panel * tiles_of_strip
        far = tiles.missed(machine, strip_bytes + panel, 0.4, 1.6) * panels * again
        far += 0.5 * tiles.missed(machine, strip_bytes + weight_bytes, 0.5, 2.3) * weight_bytes
        unit = products + packing + blocks * far / tiles.weight_rate(machine, weight_bytes)
        count = problem.n * problem.groups
        return tiles.seconds(problem, machine, unit * count, count * blocks * config.splits)

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over all products, then bias and residual."""
        return rounding(problem) * (problem.taps * problem.c // problem.groups + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """One strip for each worker."""
        return self._scratch(problem, machine, config) * problem.threads

    def _scratch(self, problem: Problem, machine: Machine, config: Config) -> int:
        s = _Sizes(problem)
        lanes = machine.lanes(problem.compute_dtype)
        strip = _strip_bytes(problem, s, config, lanes)
        return strip if problem.layout == "NHWC" else strip + _segments_room(problem, s, config, lanes)

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Choose the form by the layout of the image."""
        build = _nhwc if problem.layout == "NHWC" else _nchw
        lanes = machine.lanes(problem.compute_dtype)
        seconds = self.seconds_alone(problem, machine, config)
        return build(problem, config, lanes, self._scratch(problem, machine, config), seconds)


def _nhwc(problem: Problem, config: Config, lanes: int, scratch: int, seconds: float) -> Layout:
    s = _Sizes(problem)
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    top, _, left, _ = problem.padding
    width = config.nv * lanes
    pixel = _pixel_bytes(problem, s)
    cols = s.columns + (aligned_up(problem.ow, config.mr) - problem.ow) * sw
    # Without dilation the columns of taps of a plain pixel run lie side by side: one item for all of them.
    joined = dw == 1 and s.chunks == 1 and pixel == s.channels * s.size
    r, chunk, c = np.ogrid[: problem.kh, : s.chunks, : 1 if joined else problem.kw]
    a_offsets = r * dh * cols * pixel + chunk * s.chunk * s.size + c * dw * pixel
    k = s.chunk * problem.kw if joined else s.chunk
    table = _table(a_offsets, np.arange(a_offsets.size).reshape(a_offsets.shape) * (k * width * s.size))
    weights = WeightLayout(
        problem.compute_dtype,
        problem.groups,
        s.per_group,
        problem.kh * problem.kw * s.padded_channels,
        width,
        weight_index(problem, s.chunk, taps_first=True),
    )
    full = column_segments(width, config.nv, lanes, s.size)
    tail = column_segments(s.per_group - (weights.blocks - 1) * width, config.nv, lanes, s.size)
    blocks = -(-problem.oh // config.rows)
    rows_in = row_map(problem, s.rows_in(problem, blocks * config.rows))
    cols_in = column_map(problem, cols)
    values = context(
        *(address(array) for array in (table, rows_in, cols_in, full, tail)),
        *(problem.groups, blocks, config.splits, -(-weights.blocks // config.splits), weights.blocks),
        *(config.rows, problem.oh, problem.ow, problem.kh, problem.h),
        *(sh, dh, top, int(problem.padding_mode == "zeros"), a_offsets[0].size, k, weights.block_bytes),
        *(s.channels * s.size, cols, left, min(problem.w, cols - left)),
        *(problem.w * problem.c * s.size, problem.c * s.size, pixel, sw * pixel),
        *(problem.o * s.size, s.per_group * s.size),
    )
    kernel = direct_nhwc(config.mr, config.nv, lanes, problem.compute_dtype, problem.activation)
    count = problem.n * problem.groups * blocks * config.splits
    keep = (table, rows_in, cols_in, full, tail)
    return Layout(kernel, values, count, scratch, seconds, weights, pads_with_zeros(problem), keep)


def _nchw(problem: Problem, config: Config, lanes: int, scratch: int, seconds: float) -> Layout:
    s = _Sizes(problem)
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    _, _, left, _ = problem.padding
    pitch, plane = _pitch(problem, s), _plane_bytes(problem, s, config)
    phase_rows = -(-s.rows_in(problem, config.rows) // sh)
    chunk, r, c = np.ogrid[: s.chunks, : problem.kh, : problem.kw]
    down, across = r * dh, c * dw
    place = ((down % sh * sw + across % sw) * phase_rows + down // sh) * pitch + across // sw
    b_offsets = chunk * s.chunk * plane + place * s.size
    order = np.arange(b_offsets.size).reshape(b_offsets.shape)
    table = _table(order * (s.chunk * config.mr * s.size), b_offsets)
    weights = WeightLayout(
        problem.compute_dtype,
        problem.groups,
        s.per_group,
        problem.kh * problem.kw * s.padded_channels,
        config.mr,
        weight_index(problem, s.chunk, taps_first=False),
    )
    blocks = -(-problem.oh // config.rows)
    rows_in = row_map(problem, s.rows_in(problem, blocks * config.rows))
    cols_in = column_map(problem, pitch * sw)
    inner = min(problem.w, pitch * sw - left)
    y_row = problem.ow * s.size
    values = context(
        *(address(array) for array in (table, rows_in, cols_in)),
        *(b_offsets.size, s.chunk),
        *(problem.groups, blocks, config.splits, -(-weights.blocks // config.splits), weights.blocks),
        *(config.rows, problem.oh, problem.ow, problem.kh, s.per_group),
        *(sh, sw, dh, s.channels, s.padded_channels, weights.block_bytes, left, inner, phase_rows, pitch),
        *(
            problem.w * s.size,
            problem.h * problem.w * s.size,
            problem.c * problem.h * problem.w * s.size,
            plane,
        ),
        *(y_row, problem.oh * y_row, problem.o * problem.oh * y_row),
        *(_segments_room(problem, s, config, lanes), _segment_bytes(problem, s, config, lanes)),
        _slack_bytes(s, config, lanes),
    )
    kernel = direct_nchw(config.mr, config.nv, lanes, problem.compute_dtype, problem.activation)
    count = problem.n * problem.groups * blocks * config.splits
    keep = (table, rows_in, cols_in)
    return Layout(kernel, values, count, scratch, seconds, weights, pads_with_zeros(problem), keep)


def _table(a_offsets: Any, b_offsets: Any) -> Any:
    """Return the items' (A, B) byte offsets as the micro-kernel walks them."""
    pairs = np.stack([a_offsets.ravel(), b_offsets.ravel()], axis=1)
    return np.ascontiguousarray(pairs, dtype=np.int64)


ALGORITHM = Direct()
