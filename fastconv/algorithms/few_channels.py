"""Few channels: gray and RGB images, banks of a few filters, depthwise planes; columns of the image in the lanes.

Wins where a group has one to four input channels and few outputs, so that channels fill neither lanes nor rows of a
matrix product. A register tile is some output rows times some vectors of columns of one output channel; each vector of
the image is loaded once per column of taps for all of these rows. Any kernel, stride, dilation and padding. Where
columns lie side by side the image is read in place: only the tiles at its border are packed, a tile at a time, so a
large image is read once and written once. Otherwise a strip of padded rows is taken apart into column phases first.

Stride and dilation of rows need no packing: a tile's rows are those whose windows share input rows, and the rows of
the kernel fall into phases, each a dense kernel. Source: none. Start reading at `few_channels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.few_channels_pixels import few_channels_pixels
from fastconv.algorithms.geometry import (
    Int64s,
    aligned_up,
    column_map,
    context,
    pads_with_zeros,
    rounding,
    row_map,
)
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.weights import WeightLayout
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.packing import pack_planes
from fastconv.kernels.rows_tile import rows_tile, stores_done
from fastconv.kernels.simd import item_bytes, words
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Most channels of a group, in or out: beyond it output channels or pixels fill a matrix product better.
MOST_CHANNELS = 4
#: Kernels written out as straight code.
UNROLLED = ((3, 3), (5, 5), (7, 7))
#: What outputs that go past the caches take of the time of those that are read before they are written (measured:
#: 2.1 ms against 3.6 for 3x3 on 3840x2160 float32).
STREAMED = 0.55


class Config(NamedTuple):
    """Register tile: output rows and vectors of columns; output rows of a task; whether the image is read in place.

    `stream` is 1 where outputs go past the caches.
    """

    tile_rows: int
    nv: int
    rows: int
    in_place: int
    stream: int = 0


@task_factory
def few_channels(
    tile_rows: int, nv: int, kh: int, kw: int, in_place: int, lanes: int, dtype: str, activation: str
) -> Task:
    """Return the task that computes a block of output rows of all output channels of one group of one image.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [group][O/g][C/g][kh][kw]; bias [group][O/g]
    Assumes  context as `layout` writes it; scratch holds one packed tile if `in_place`, else the strip of the block
    Touches  writes its rows of y, and scratch
    Source   none
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, near, strip_table, items, rows_in, cols_in = words(ctx, 10)
        groups, blocks, rows, oh, ow, h, w, channels, per_group, sh = words(ctx + 80, 10)
        top, left, inner, apart, window_rows, window_cols, k_bytes, w_row, w_step, x_step = words(
            ctx + 160, 10
        )
        x_row, x_plane, x_image, x_down, y_row, y_plane, y_image, pitch, plane, down = words(ctx + 240, 10)
        sw, strip_rows, slack, stream = words(ctx + 320, 4)
        block, rest = i % blocks, i // blocks
        group, image = rest % groups, rest // groups
        first = block * rows
        live_rows = min(rows, oh - first)
        corner = x + image * x_image + group * channels * x_plane
        to_group = y + image * y_image + group * per_group * y_plane + first * y_row
        if in_place == 0:
            pack_planes(
                corner, scratch, channels, channels, (live_rows - 1) * sh + window_rows, rows_in + 8 * first * sh,
                cols_in, left, inner, x_row, x_plane, 1, sw, strip_rows, pitch, plane, slack, size,
            )  # fmt: skip
        # The first tile ends where the second begins a line: whole lines only go past the caches, and stores across two
        # lines take 15 % more on 3x3.
        head = width - (to_group // size + width) % lanes
        for residue in range(apart):
            for t in range(residue, live_rows, tile_rows * apart):
                mr = min(tile_rows, (live_rows - t + apart - 1) // apart)
                row = (first + t) * sh - top
                column, step = 0, head
                while column < ow:
                    live = min(step, ow - column)
                    source, source_row, table = scratch, down, strip_table
                    if in_place == 0:
                        source = scratch + (t * sh * pitch + column) * size
                    elif (
                        row >= 0
                        and row + (tile_rows - 1) * apart * sh + window_rows <= h
                        and column >= left
                        and column - left + width + window_cols - 1 <= w
                    ):
                        source = corner + row * x_row + (column - left) * size
                        source_row, table = x_down, near
                    else:
                        pack_planes(
                            corner, scratch, channels, channels, (mr - 1) * apart * sh + window_rows,
                            rows_in + 8 * (row + top), cols_in + 8 * column, left - column, w,
                            x_row, x_plane, 1, 1, strip_rows, pitch, plane, slack, size,
                        )  # fmt: skip
                    for o in range(per_group):
                        out = to_group + o * y_plane + t * y_row + column * size
                        index = group * per_group + o
                        rows_tile(
                            tile_rows, nv, kh, kw, lanes, dtype, activation,
                            source, source_row, x_step, table, items, weights + index * k_bytes, w_row, w_step,
                            out, apart * y_row, residual + (out - y) if residual != 0 else 0, mr, live,
                            bias + index * size, 1 if stream != 0 and live == width else 0,
                        )  # fmt: skip
                    column += step
                    step = width
        if stream != 0:
            stores_done()

    return task


@dataclass(frozen=True)
class _Axis:
    """How strided, dilated taps of one axis fall into dense kernels: outputs `apart` share inputs `step` apart."""

    apart: int
    step: int
    phases: int
    taps: int
    dilation: int

    @classmethod
    def of(cls, stride: int, dilation: int, taps: int) -> _Axis:
        common = math.gcd(stride, dilation)
        return cls(dilation // common, stride * dilation // common, stride // common, taps, dilation)

    def kernels(self) -> list[tuple[int, int, int]]:
        """Return (first tap, its distance from the window's start, taps) of each dense kernel."""
        count = min(self.phases, self.taps)
        return [(a, a * self.dilation, -(-(self.taps - a) // self.phases)) for a in range(count)]


class _Sizes:
    """What everything here derives from a problem and a config."""

    def __init__(self, problem: Problem, config: Config, lanes: int) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.channels, self.per_group = problem.c_per_group, problem.o_per_group
        (sh, sw), (dh, dw) = problem.stride, problem.dilation
        self.down = _Axis.of(sh, dh, problem.kh)
        self.across = _Axis.of(sw, dw, problem.kw)
        self.width = config.nv * lanes
        self.window_rows, self.window_cols = (problem.kh - 1) * dh + 1, (problem.kw - 1) * dw + 1
        # Rows that a tile reads beyond those of live outputs are slack behind the strip.
        whole = (config.tile_rows - 1) * self.down.apart * sh
        if config.in_place:
            self.strip_rows = whole + self.window_rows
            self.pitch = self.width + self.window_cols - 1
        else:
            self.strip_rows = (config.rows - 1) * sh + whole + self.window_rows
            covered = aligned_up(problem.ow, self.width)
            self.pitch = -(-((covered - 1) * sw + self.window_cols) // sw)
        # An odd number of lines, so that the rows of a power of two do not fall into one set of L1.
        self.pitch = (aligned_up(self.pitch * self.size, 64) // 64 | 1) * 64 // self.size
        self.phase = self.strip_rows * self.pitch * self.size
        self.plane = sw * self.phase
        self.slack = 64
        self.scratch = self.channels * self.plane + self.slack
        #: Where outputs wait to be put together to pixels.
        self.outputs_at = aligned_up(problem.c * self.plane + self.slack, 64)
        if _has_pixels(problem):
            self.scratch = self.outputs_at + problem.o * config.tile_rows * self.width * self.size

    @property
    def unrolled(self) -> bool:
        """Whether the kernel is written out: one dense kernel, of one of a few sizes."""
        dense = self.down.phases == self.across.phases == self.across.apart == 1
        return dense and (self.down.taps, self.across.taps) in UNROLLED

    @property
    def most_rows(self) -> int:
        """Most rows of a register tile whose tap rows are counted in loops: as many as there are of those."""
        return min(taps for _, _, taps in self.down.kernels())

    @property
    def taps(self) -> tuple[int, int]:
        """Tap rows and columns of the register tile; 0 where they are counted at run time."""
        return (self.down.taps, self.across.taps) if self.unrolled else (0, 0)

    def weight_steps(self, problem: Problem) -> tuple[int, int, int, int]:
        """Return the bytes from one kernel, row of taps, tap, and pixel under a tap to the next."""
        row = self.down.phases * problem.kw * self.size
        kernel = self.channels * problem.taps * self.size
        return kernel, row, self.across.phases * self.size, self.across.apart * self.size

    def table(self, plane: int, phase: int, row: int) -> Int64s:
        """Return the items of `rows_tile` for an image of these strides: of channels, of column phases, of rows."""
        sw = self.across.step // self.across.apart
        places = [
            (c * plane + below * row + right % sw * phase + right // sw * self.size, (c, r, s), kh, kw)
            for c in range(self.channels)
            for r, below, kh in self.down.kernels()
            for s, right, kw in self.across.kernels()
        ]
        of_weights = [
            ((c * self.down.taps + r) * self.across.taps + s) * self.size for _, (c, r, s), _, _ in places
        ]
        return np.array(
            [(x, w, kh, kw) for (x, _, kh, kw), w in zip(places, of_weights, strict=True)], np.int64
        )


class FewChannels(Algorithm[Config]):
    """See the head of this file."""

    name = "few_channels"
    summary = "rows x columns of the image in a register tile; 1 to 4 channels in or out per group"

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse many channels in and out."""
        c, o = problem.c_per_group, problem.o_per_group
        if min(c, o) > MOST_CHANNELS:
            what = f"at most {MOST_CHANNELS} channels in or out per group"
            yield Need(what, f"{c} and {o}", {"o": MOST_CHANNELS * problem.groups})
        if _has_pixels(problem) and (max(problem.c, problem.o) > MOST_CHANNELS or problem.stride[1] > 1):
            yield Need(
                f"layout NCHW, or at most {MOST_CHANNELS} channels in and out and a column stride of 1",
                f"NHWC with {problem.c}, {problem.o} and {problem.stride[1]}",
                {"layout": "NCHW"},
            )

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the cheapest register tiles, in place where the image is wide enough, and as strips."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, Config(1, 1, 1, 0), lanes)
        choices: dict[Config, None] = {}
        for tile in _tiles(machine, s):
            for in_place in (0,) if problem.stride[1] > 1 or _has_pixels(problem) else (1, 0):
                rows = self._rows(problem, machine, tile, in_place, lanes)
                stream = int(in_place == 1 and _streams(problem, machine, lanes))
                choices[Config(*tile, rows, in_place, stream)] = None
        return tuple(sorted(choices, key=lambda config: self.cost(problem, machine, config))[:4])

    def _rows(self, problem: Problem, machine: Machine, tile: tiles.Tile, in_place: int, lanes: int) -> int:
        """Return the output rows of a task: strips that fit half of L2, and enough tasks for all threads."""
        s = _Sizes(problem, Config(*tile, 1, in_place), lanes)
        turn = tile.mr * s.down.apart
        pieces = problem.n * problem.groups
        blocks = max(1, -(-4 * problem.threads // pieces)) if problem.threads > 1 else 1
        most = -(-problem.oh // blocks)
        if in_place:
            # Ctrl-C is felt between tasks.
            most = min(most, 64)
        else:
            channels = problem.c if _has_pixels(problem) else s.channels
            per_row = channels * s.pitch * s.size * problem.stride[1] * problem.stride[0]
            most = min(most, max(1, (machine.l2_bytes // 2 - s.scratch) // per_row))
        return min(aligned_up(max(most, 1), turn), aligned_up(problem.oh, turn))

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products and loads of all tiles, packing, and the image and its result that pass through memory."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        down = -(-problem.oh // (config.tile_rows * s.down.apart)) * s.down.apart
        across = -(-problem.ow // s.width)
        products, loads = 0.0, 0.0
        for _, _, kh in s.down.kernels():
            for _, _, kw in s.across.kernels():
                products += kh * kw * config.tile_rows * config.nv
                # Vectors of the image start anywhere: two loads each.
                loads += kw * ((kh + config.tile_rows - 1) * config.nv * 2 + kh * config.tile_rows)
        if not machine.fma:
            products *= 2
        stores = 1.5 * config.tile_rows * config.nv + 25.0
        count = problem.n * problem.o * down * across
        moved = tiles.image_cycles(problem, machine, problem.x_bytes + 2 * problem.y_bytes)
        if config.stream:
            moved *= STREAMED
        blocks = -(-problem.oh // config.rows)
        tasks = problem.n * problem.groups * blocks
        if config.in_place:
            border = 2 * down + across * (-(-(s.window_rows - 1) // config.tile_rows))
            packed = border * s.strip_rows * (s.pitch * s.size / 16 + 15) * problem.n * problem.groups
        else:
            rate = 12.0 if problem.stride[1] == 1 else 3.0
            packed = tasks * s.strip_rows * problem.stride[1] * (s.pitch * s.size / rate + 15)
        if _has_pixels(problem):
            stores += 4.0 * config.tile_rows * config.nv
            packed *= problem.groups
        # Many channels are as many places in memory to read from at a time: 1.6 times as long for 64.
        many = 1.6 if s.channels > MOST_CHANNELS else 1.0
        tile = s.channels * max(products, loads) / 2 * 1.1 * many + stores
        cycles = tile * count + packed * s.channels
        return tiles.seconds(problem, machine, max(cycles, moved) + 0.3 * min(cycles, moved), tasks)

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over all products, then bias and residual."""
        return rounding(problem) * (problem.taps * problem.c_per_group + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """One packed tile or strip for each worker."""
        return _Sizes(problem, config, machine.lanes(problem.compute_dtype)).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out the items, for the image itself and for what is packed; take the form by the layout of the image."""
        s = _Sizes(problem, config, machine.lanes(problem.compute_dtype))
        seconds = self.seconds_alone(problem, machine, config)
        build = _pixels if _has_pixels(problem) else _planes
        return build(problem, config, machine.lanes(problem.compute_dtype), s, seconds)


def _has_pixels(problem: Problem) -> bool:
    """Tell whether channels lie side by side: one in and one out are a plane in either layout."""
    return problem.layout == "NHWC" and (problem.c > 1 or problem.o > 1)


def _planes(problem: Problem, config: Config, lanes: int, s: _Sizes, seconds: float) -> Layout:
    (sh, sw), (top, _, left, _) = problem.stride, problem.padding
    x_row, y_row = problem.w * s.size, problem.ow * s.size
    x_plane, y_plane = problem.h * x_row, problem.oh * y_row
    near = s.table(x_plane, 0, x_row)
    strip = s.table(s.plane, s.phase, s.pitch * s.size)
    blocks = -(-problem.oh // config.rows)
    rows_in = row_map(problem, blocks * config.rows * sh + s.strip_rows)
    cols_in = column_map(problem, aligned_up(problem.ow + lanes, s.width) * sw + s.pitch * sw)
    values = context(
        *(address(array) for array in (near, strip)),
        len(strip),
        *(address(array) for array in (rows_in, cols_in)),
        *(problem.groups, blocks, config.rows, problem.oh, problem.ow, problem.h, problem.w),
        *(s.channels, s.per_group, sh, top, left, min(problem.w, s.pitch * sw - left), s.down.apart),
        *(s.window_rows, s.window_cols, *s.weight_steps(problem)),
        *(x_row, x_plane, problem.c * x_plane, s.down.step * x_row, y_row, y_plane, problem.o * y_plane),
        *(s.pitch, s.plane, s.down.step * s.pitch * s.size),
        *(sw, s.strip_rows, s.slack, config.stream),
    )
    tile = (config.tile_rows, config.nv, *s.taps)
    kernel = few_channels(*tile, config.in_place, lanes, problem.compute_dtype, problem.activation)
    count = problem.n * problem.groups * blocks
    keep = (near, strip, rows_in, cols_in)
    return Layout(
        kernel, values, count, s.scratch, seconds, _weights(problem), pads_with_zeros(problem), keep
    )


def _pixels(problem: Problem, config: Config, lanes: int, s: _Sizes, seconds: float) -> Layout:
    sh = problem.stride[0]
    strip = s.table(s.plane, s.phase, s.pitch * s.size)
    blocks = -(-problem.oh // config.rows)
    rows_in = row_map(problem, blocks * config.rows * sh + s.strip_rows)
    cols_in = column_map(problem, s.pitch)
    x_row = problem.w * problem.c * s.size
    values = context(
        address(strip),
        len(strip),
        *(address(array) for array in (rows_in, cols_in)),
        *(blocks, config.rows, problem.oh, problem.ow, problem.w),
        *(s.channels, s.per_group, sh, problem.padding[2], s.down.apart, *s.weight_steps(problem)),
        *(x_row, problem.h * x_row, problem.ow * problem.o * s.size, s.pitch, s.plane),
        *(s.down.step * s.pitch * s.size, s.strip_rows, s.outputs_at),
    )
    tile = (config.tile_rows, config.nv, *s.taps, problem.c, problem.o)
    kernel = few_channels_pixels(*tile, lanes, problem.compute_dtype, problem.activation)
    keep = (strip, rows_in, cols_in)
    count = problem.n * blocks
    return Layout(
        kernel, values, count, s.scratch, seconds, _weights(problem), pads_with_zeros(problem), keep
    )


def _weights(problem: Problem) -> WeightLayout:
    """Return weights as they come: one output channel after the other."""
    k = problem.c_per_group * problem.taps
    index = np.arange(k, dtype=np.int64)
    return WeightLayout(problem.compute_dtype, problem.groups, problem.o_per_group, k, 1, index)


def _tiles(machine: Machine, s: _Sizes) -> list[tiles.Tile]:
    """Return the register tiles worth trying."""
    if s.unrolled:
        # Straight code keeps as many weights in registers as find room there: 6x4 takes 7 % more on 3x3, 20 % on 5x5.
        return [tiles.Tile(4, 2)]
    if machine.vector_registers >= 32:
        found = [(6, 4), (4, 4), (4, 2), (3, 4), (2, 8), (1, 8), (1, 2)]
    else:
        found = [(4, 2), (3, 3), (2, 4), (1, 8), (1, 2)]
    return [tiles.Tile(*tile) for tile in found if tile[0] <= s.most_rows]


def _streams(problem: Problem, machine: Machine, lanes: int) -> bool:
    """Tell whether outputs are too many for the caches, and begin a line in every row."""
    size = np.dtype(problem.compute_dtype).itemsize
    return problem.y_bytes > 2 * machine.l2_bytes and problem.ow % lanes == 0 and size * lanes >= 16


ALGORITHM = FewChannels()
