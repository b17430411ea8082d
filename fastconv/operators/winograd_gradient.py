"""The gradient of convolution by its kernels by Winograd: which layers, in what tiles, in what memory.

For a tile of 4x4 pixels of an image, a 3x3 kernel of stride 1 takes 36 products of channels instead of 144; for one of
8x8 pixels, stride 2 takes 81 instead of 144. Images and gradients are transformed to points, panels that the products
read from front to back; for each kernel point one product of matrices sums over all tiles; and the sums are transformed
to taps on the way to the result. Not for class `strict`: the sums are reassociated. A value that is not finite would
spread over its channels, so a result that has one is computed anew by the definition.

Source: A. Lavin & S. Gray, arXiv:1509.09308; points after B. Barabasz et al., arXiv:1803.10986.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import arrays, runtime
from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import Int64s, aligned_up
from fastconv.arrays import Array
from fastconv.kernels.phase_tile import axis_matrix
from fastconv.kernels.winograd_matrices import phase_matrices
from fastconv.machine import Machine
from fastconv.operators import running
from fastconv.operators.winograd_gradient_kernels import kernels_of_points, tile_points
from fastconv.problem import Problem
from fastconv.runtime import Work, workspace

#: Kernels it takes, and outputs of each phase of the stride along a tile's side.
KERNEL, SIDES = (3, 3), (2, 3, 4)
#: Most bytes of points, and tiles, at a time: beyond them sums of some rows of tiles are added to those before. Errors
#: grow with the root of the tiles that are summed in one go (float32: 2.7e-6 at 1024 tiles, 5.0e-6 at 3300).
PANEL_BYTES, MOST_TILES = 32 << 20, 1024
#: Rows of gradients and vectors of images that a task multiplies, and rows of panels at a time: these stay in L1 for
#: all of its register tiles (64 channels at 56x56: 0.99 -> 0.75 ms), and its sums in L2.
ROWS_EACH, VECTORS_EACH, DEPTH = 32, 8, 64
#: Cycles for each vector of pixels and of points of a transform, for each byte of points that leaves L2; around one
#: register tile; for each vector of sums, and of results to be turned and stored.
PIXEL, POINT, FAR_BYTE, AROUND, SUM, TURN = 12.0, 9.0, 0.13, 45.0, 2.5, 45.0

#: What two more starts of kernels take than the one of products for each tap.
START_SECONDS = 8e-6


class _Axis:
    """Tiles of one axis: which points they have, and in which rows of a panel those are."""

    def __init__(self, m: int, taps: int, stride: int, pad: int, size: int) -> None:
        # Padding by whole strides only moves the windows.
        self.words = (m, taps, stride, pad % stride)
        matrices = phase_matrices(*self.words)
        self.m, self.stride, self.window = m, stride, len(matrices.inputs[0])
        self.first = matrices.first + pad // stride
        self.count = -(-size // (stride * m))
        self.shared, self.kernel_points = np.array(matrices.shared), len(matrices.kernels)
        # Points of the last tile whose pixels are all beside the image are left out.
        inside = size - (self.count - 1) * stride * m
        used = np.array([[value != 0 for value in row] for row in matrices.outputs])
        self.in_last: npt.NDArray[np.bool_] = np.any(used[:inside], axis=0)

    def rows(self, numbers: Int64s) -> tuple[Int64s, Int64s]:
        """Return of each point, of the tiles of those numbers, its place among the rows of its kernel point.

        It is -1 where the point is left out. And how many rows each kernel point has.
        """
        there = np.logical_or(numbers < self.count - 1, self.in_last[:, None])
        places, counts = np.full(there.shape, -1, np.int64), np.zeros(self.kernel_points, np.int64)
        for point, kernel_point in enumerate(self.shared):
            some = int(there[point].sum())
            places[point, there[point]] = counts[kernel_point] + np.arange(some)
            counts[kernel_point] += some
        return places, counts


class _Rows:
    """Rows of the panels of some rows of tiles.

    Attributes
    ----------
    lengths, starts : vectors
        Of each kernel point how many rows it has, and which is the first.
    total : int
        Of all of them, and room behind them for points that are left out: those are written, and not read.
    targets : array, shape (rows of tiles, 2, points)
        Row of each point of the first and of the last tile across.
    """

    def __init__(self, down: _Axis, across: _Axis, first: int, end: int) -> None:
        vertical, heights = down.rows(np.arange(first, end, dtype=np.int64) % down.count)
        horizontal, widths = across.rows(np.arange(across.count, dtype=np.int64))
        self.lengths = np.outer(heights, widths).ravel()
        self.starts = np.cumsum(self.lengths) - self.lengths
        used = int(self.lengths.sum())
        self.total = used + across.count
        point = down.shared[:, None] * across.kernel_points + across.shared
        places = vertical.T[:, None, :, None]
        ends = horizontal[:, [0, -1]].T[None, :, None, :]
        row = self.starts[point] + places * widths[across.shared] + ends
        self.targets = np.where((places < 0) | (ends < 0), used, row)


class Pass(NamedTuple):
    """What is run for some rows of tiles: images to points, gradients to points, products to kernels."""

    images: Work
    gradients: Work
    products: Work


class Way(NamedTuple):
    """How the gradient is computed: passes whose results are added up; bytes of points, where those of images begin.

    Tiles have `m` outputs of each phase along a side, and `points` kernel points.
    """

    m: int
    points: int
    passes: tuple[Pass, ...]
    panel_bytes: int
    images_at: int

    @property
    def seconds(self) -> float:
        """Estimated time on one thread."""
        return START_SECONDS + sum(work.seconds for some in self.passes for work in some)


class _Side(NamedTuple):
    """Images or gradients: channels of a group, pixels, register rows or columns they are read in."""

    kind: str
    channels: int
    height: int
    width: int
    vectors: int


def works(p: Problem) -> bool:
    """Return whether a layer may be computed by Winograd."""
    return (
        p.accuracy != "strict"
        and (p.kh, p.kw) == KERNEL
        and p.dilation == (1, 1)
        and max(p.stride) <= 2
        and p.n > 0
    )


def error_bound(p: Problem) -> float:
    """Return the promise for errors, relative to the largest sum of the magnitudes of products of any result."""
    count = math.prod(
        -(-size // (max(SIDES) * step)) for size, step in zip((p.h, p.w), p.stride, strict=True)
    )
    return float(np.finfo(p.dtype).eps) * 24.0 * (1 + math.sqrt(min(p.n * count, MOST_TILES)) / 4)


def best(p: Problem) -> Way:
    """Return the way with the best tiles for a layer that `works`."""
    return min((way(p, m) for m in SIDES), key=lambda found: found.seconds)


@lru_cache(maxsize=256)
def way(p: Problem, m: int) -> Way:
    """Return what is run for a layer with `m` outputs of each phase along the sides of a tile."""
    (top, _, left, _), (sh, sw) = p.padding, p.stride
    down, across = _Axis(m, p.kh, sh, top, p.h), _Axis(m, p.kw, sw, left, p.w)
    lanes, tile = Machine.host().lanes(p.dtype), _tile(p, Machine.host())
    images = _Side("gradients", p.c_per_group, p.h, p.w, tile.nv)
    gradients = _Side("inputs", p.o_per_group, p.oh, p.ow, math.lcm(tile.mr, lanes) // lanes)
    channels = sum(aligned_up(side.channels, side.vectors * lanes) for side in (images, gradients))
    points = len(down.shared) * len(across.shared) * across.count
    row_bytes = points * channels * p.groups * np.dtype(p.dtype).itemsize
    total = p.n * down.count
    pieces = max(-(-total * row_bytes // PANEL_BYTES), -(-total * across.count // MOST_TILES))
    each = -(-total // pieces)
    passes, panel_bytes, images_at = [], 0, 0
    for first in range(0, total, each):
        rows = _Rows(down, across, first, min(first + each, total))
        at = aligned_up(p.groups * _panel(p, gradients, rows, lanes), 4096) + 64
        end = at + p.groups * _panel(p, images, rows, lanes)
        # The first pass is as long as any.
        panel_bytes, images_at = max(panel_bytes, end), max(images_at, at)
        passes.append(
            Pass(
                _transform(p, images, rows, first, down, across, end),
                _transform(p, gradients, rows, first, down, across, end),
                _products(p, gradients, images, rows, down, across, images_at),
            )
        )
    return Way(m, down.kernel_points * across.kernel_points, tuple(passes), panel_bytes, images_at)


def run(found: Way, images: Array, given: Array, y: Array, workers: int) -> bool:
    """Compute y; return False, with y of no use, when one of its values was not finite."""
    block = workspace.take(found.panel_bytes)
    flag = np.zeros(1, np.int64)
    part = y if len(found.passes) == 1 else arrays.fresh(y.shape, y.dtype)
    try:
        for number, some in enumerate(found.passes):
            runtime.run(some.images, arrays.address(images), block.address + found.images_at, 0, workers)
            runtime.run(some.gradients, arrays.address(given), block.address, 0, workers)
            target = part if number else y
            runtime.run(some.products, block.address, arrays.address(target), arrays.address(flag), workers)
            if number:
                np.add(y, part, out=y)
    finally:
        workspace.give(block)
    return not flag[0]


def _blocks(side: _Side, lanes: int) -> int:
    return -(-side.channels // (side.vectors * lanes))


def _block_bytes(p: Problem, side: _Side, rows: _Rows, lanes: int) -> int:
    return rows.total * side.vectors * lanes * np.dtype(p.dtype).itemsize


def _panel(p: Problem, side: _Side, rows: _Rows, lanes: int) -> int:
    return _blocks(side, lanes) * _block_bytes(p, side, rows, lanes)


def _transform(
    p: Problem, side: _Side, rows: _Rows, first: int, down: _Axis, across: _Axis, panels: int
) -> Work:
    """Return the work that transforms images or gradients to the points of some rows of tiles."""
    machine, size, nhwc = Machine.host(), np.dtype(p.dtype).itemsize, int(p.layout == "NHWC")
    lanes = machine.lanes(p.dtype)
    pixel = side.vectors * lanes * size
    high, wide = (len(axis_matrix(side.kind, *axis.words)[0]) for axis in (down, across))
    # Tiles of images lie side by side, windows of gradients overlap.
    ours = side.kind == "gradients"
    steps = [axis.m * (axis.stride if ours else 1) for axis in (down, across)]
    begins = [0 if ours else axis.first for axis in (down, across)]
    strip = (across.count - 1) * steps[1] + wide
    places = (np.arange(high)[:, None] * strip + np.arange(wide)) * pixel
    unit = (side.channels * p.groups if nhwc else side.height * side.width) * size
    row = side.width * (unit if nhwc else size)
    image = side.channels * p.groups * side.height * side.width * size
    blocks, count = _blocks(side, lanes), len(rows.targets)
    points = rows.targets.shape[2]
    cycles = across.count * side.vectors * (points * POINT + high * wide * PIXEL)
    if panels > machine.l2_bytes // 2:
        cycles += across.count * points * pixel * FAR_BYTE
    each, parts = running.chunks(count, cycles)
    return running.work(
        tile_points(side.kind, *down.words, *across.words, side.vectors, lanes, p.dtype, nhwc),
        [places, rows.targets * pixel, first, count, each, parts, down.count, across.count],
        [side.height, side.width, steps[0], begins[0], steps[1], begins[1], side.channels, blocks],
        [image, row, unit, side.channels * (size if nhwc else unit), _block_bytes(p, side, rows, lanes)],
        tasks=parts * blocks * p.groups, scratch=high * strip * pixel, cycles=cycles * count * blocks * p.groups,
    )  # fmt: skip


def _products(
    p: Problem, gradients: _Side, images: _Side, rows: _Rows, down: _Axis, across: _Axis, images_at: int
) -> Work:
    """Return the work that multiplies the panels and transforms the sums to kernels."""
    machine, size = Machine.host(), np.dtype(p.dtype).itemsize
    lanes, tile = machine.lanes(p.dtype), _tile(p, machine)
    g_bytes, x_bytes = (side.vectors * lanes * size for side in (gradients, images))
    table = np.stack([rows.starts * g_bytes, rows.starts * x_bytes, rows.lengths], axis=1)
    points = len(table)
    vectors = tile.mr * tile.nv
    o_tiles, c_blocks = -(-p.o_per_group // tile.mr), _blocks(images, lanes)
    o_each, c_each = min(ROWS_EACH // tile.mr, o_tiles), min(VECTORS_EACH // tile.nv, c_blocks)
    o_splits, c_splits = -(-o_tiles // o_each), -(-c_blocks // c_each)
    step = tiles.step_cycles(tile, machine, 1)
    cycles = int(rows.lengths.sum()) * step + points * AROUND + vectors * (points * SUM + TURN)
    # Tasks one after the other have the same images. Where those leave L2, they are asked for ahead, and not the lines
    # of the result.
    g_block, x_block = (_block_bytes(p, side, rows, lanes) for side in (gradients, images))
    streamed = x_block * c_each + g_block * o_each * tile.mr * size // g_bytes > machine.l2_bytes
    g_panel, x_panel = (p.groups * _panel(p, side, rows, lanes) for side in (gradients, images))
    spilled = max(1 - 0.75 * machine.l2_bytes / (g_panel + x_panel), 0.0)
    far = spilled * (g_panel * c_splits + x_panel) * FAR_BYTE
    return running.work(
        kernels_of_points(*down.words, *across.words, tile.mr, tile.nv, lanes, p.dtype),
        [table, images_at, g_block, x_block, g_bytes // size, o_tiles, o_each, o_splits, c_blocks, c_each, c_splits],
        [p.o_per_group, p.c_per_group, DEPTH, streamed],
        tasks=p.groups * o_splits * c_splits, scratch=o_each * c_each * points * (vectors * lanes * size + 64),
        cycles=cycles * o_tiles * c_blocks * p.groups + far,
    )  # fmt: skip


def _tile(p: Problem, machine: Machine) -> tiles.Tile:
    """Return the register tile: of two that multiply equally fast the one that fits the input channels.

    Its rows divide a vector of gradients, or the other way round.
    """
    lanes = machine.lanes(p.dtype)

    def cycles(tile: tiles.Tile) -> float:
        blocks = -(-p.c_per_group // (tile.nv * lanes))
        return blocks * (tiles.step_cycles(tile, machine, 1) + 1.0) / tile.mr

    return min((tile for tile in tiles.tiles(machine) if tile.nv in (2, 3) and tile.mr in (4, 8)), key=cycles)
