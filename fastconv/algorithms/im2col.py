"""im2col: windows of the image as a matrix, made panel by panel and multiplied at once; never the whole matrix.

The universal fallback: every kernel size, stride, dilation, padding mode and group. Wins where `direct` has too few
channels in a run or too much padding, and on maps so small that a flat run of outputs fills tiles better. Memory: one
panel per worker, bounded whatever the image: long sums are cut, and their partial sums kept between the parts.

Source: K. Chellapilla et al., IWFHR 2006 (im2col); tiled as in S. Chetlur et al., arXiv:1410.0759. Start reading at
`im2col_nhwc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import (
    aligned_up,
    column_map,
    column_segments,
    context,
    one_item,
    pads_with_zeros,
    rounding,
    row_map,
)
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.weights import WeightLayout
from fastconv.arrays import address
from fastconv.kernels.gemm_tile import RESUME, SUSPEND, brgemm
from fastconv.kernels.jit import device, task_factory
from fastconv.kernels.packing import move, pack_row, write_segments
from fastconv.kernels.simd import item_bytes, load, words, zero_bytes
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]


class Config(NamedTuple):
    """Register tile, tiles of pixels in a task, products of one panel."""

    mr: int
    nv: int
    portion: int
    depth: int


@device
def _pack_window(
    target: int, corner: int, start: int, stop: int, channels: int, kw: int, rows: int, cols: int,
    dh: int, dw: int, x_row: int, x_pixel: int, size: int,
) -> None:  # fmt: skip
    """Copy products `start` ... `stop` - 1 of one window, NHWC: (kernel row, kernel column, channel) in that order.

    Shapes   corner: the group's first channel of the image; rows, cols: maps from the window's first row and column
    Touches  writes target only
    """
    k = start
    while k < stop:
        tap, channel = k // channels, k % channels
        count = min(channels - channel, stop - k)
        row = load("int64", rows + 8 * (tap // kw) * dh)
        column = load("int64", cols + 8 * (tap % kw) * dw)
        if row < 0 or column < 0:
            zero_bytes(target, count * size)
        else:
            move(target, corner + row * x_row + column * x_pixel + channel * size, count * size)
        target += count * size
        k += count


@task_factory
def im2col_nhwc(mr: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes one group's channels of `count` tiles of output pixels, NHWC.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); weights [group][block][kh * kw * C/g][NR]
    Assumes  scratch holds count * MR windows of `depth` products, then the partial sums of every tile and block
    Touches  writes its pixels and channels of y, and scratch
    Source   arXiv:1410.0759
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, row_map, col_map, full, tail = words(ctx, 10)
        groups, count, total, oh, ow, sh, sw, dh, dw, kw = words(ctx + 80, 10)
        k, depth, channels, o_blocks, block_bytes, window, x_image, x_row, x_pixel, y_pixel = words(
            ctx + 160, 10
        )
        (y_group,) = words(ctx + 240, 1)
        group = i % groups
        first = i // groups * count * mr
        last = min(first + count * mr, total)
        sums = scratch + count * mr * window
        for start in range(0, k, depth):
            stop = min(start + depth, k)
            for pixel in range(first, last):
                image, place = pixel // (oh * ow), pixel % (oh * ow)
                row, column = place // ow * sh, place % ow * sw
                _pack_window(
                    scratch + (pixel - first) * window, x + image * x_image + group * channels * size,
                    start, stop, channels, kw, row_map + 8 * row, col_map + 8 * column,
                    dh, dw, x_row, x_pixel, size,
                )  # fmt: skip
            # The last tile computes whole rows, also those it does not store: they must not hold denormal numbers.
            rows = (last - first + mr - 1) // mr * mr
            zero_bytes(scratch + (last - first) * window, (rows - (last - first)) * window)
            mode = (RESUME if start > 0 else 0) + (SUSPEND if stop < k else 0)
            for block_o in range(o_blocks):
                panel = group * o_blocks + block_o
                for t in range(rows // mr):
                    out = y + (first + t * mr) * y_pixel + group * y_group + block_o * width * size
                    brgemm(
                        mr, nv, lanes, dtype, "n", activation,
                        scratch + t * mr * window, window, size,
                        weights + panel * block_bytes + start * width * size, width * size, table, 1, stop - start,
                        out, residual + (out - y) if residual != 0 else 0, y_pixel, min(mr, last - first - t * mr),
                        tail if block_o == o_blocks - 1 else full, bias + panel * width * size,
                        sums + (block_o * count + t) * mr * width * size, mode,
                    )  # fmt: skip

    return task


@device
def _pack_columns(
    target: int, plane: int, first: int, stop: int, ow: int, rows: int, cols: int, sh: int, sw: int,
    down: int, across: int, left: int, inner: int, x_row: int, size: int,
) -> None:  # fmt: skip
    """Copy what one tap of one channel meets at flat outputs `first` ... `stop` - 1, NCHW.

    Shapes   plane: the channel of the image; rows, cols: maps of padded rows and columns; down, across: the tap's place
    Touches  writes target only
    """
    position = first
    while position < stop:
        column = position % ow
        count = min(ow - column, stop - position)
        row = load("int64", rows + 8 * (position // ow * sh + down))
        if row < 0:
            zero_bytes(target, count * size)
        else:
            pack_row(plane + row * x_row, target, column * sw + across, count, sw, cols, left, inner, size)
        target += count * size
        position += count


@task_factory
def im2col_nchw(mr: int, nv: int, lanes: int, dtype: str, activation: str) -> Task:
    """Return the task that computes one group's channels of `count` tiles of one image's outputs, NCHW.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [group][block][C/g * kh * kw][MR]
    Assumes  scratch holds the store segments, `depth` runs of `pitch` bytes, the partial sums of every tile and block
    Touches  writes its outputs, and scratch
    Source   arXiv:1410.0759
    """
    size = item_bytes(dtype)
    width = nv * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, table, row_map, col_map, groups, count = words(ctx, 10)
        parts, outputs, ow, sh, sw, dh, dw, kw, taps, k = words(ctx + 80, 10)
        depth, channels, o, per_group, o_blocks, block_bytes, pitch, left, inner, x_row = words(ctx + 160, 10)
        x_plane, y_plane, room, tile_room = words(ctx + 240, 4)
        part, rest = i % parts, i // parts
        group, image = rest % groups, rest // groups
        first = part * count * width
        last = min(first + count * width, outputs)
        tiles_here = (last - first + width - 1) // width
        panel = scratch + room
        sums = panel + depth * pitch
        for t in range(tiles_here):
            end = scratch + t * tile_room
            for j in range(nv):
                end = write_segments(
                    end, t * width + j * lanes, lanes, last - first, last - first, 1, 0, size
                )
        for start in range(0, k, depth):
            stop = min(start + depth, k)
            for kk in range(start, stop):
                channel, tap = kk // taps, kk % taps
                target = panel + (kk - start) * pitch
                _pack_columns(
                    target, x + ((image * groups + group) * channels + channel) * x_plane, first, last, ow,
                    row_map, col_map, sh, sw, tap // kw * dh, tap % kw * dw, left, inner, x_row, size,
                )  # fmt: skip
                zero_bytes(target + (last - first) * size, (tiles_here * width - (last - first)) * size)
            mode = (RESUME if start > 0 else 0) + (SUSPEND if stop < k else 0)
            for block_o in range(o_blocks):
                block = group * o_blocks + block_o
                out = y + (image * o + group * per_group + block_o * mr) * y_plane + first * size
                for t in range(tiles_here):
                    brgemm(
                        mr, nv, lanes, dtype, "m", activation,
                        weights + block * block_bytes + start * mr * size, size, mr * size,
                        panel + t * width * size, pitch, table, 1, stop - start,
                        out, residual + (out - y) if residual != 0 else 0, y_plane,
                        min(mr, per_group - block_o * mr), scratch + t * tile_room, bias + block * mr * size,
                        sums + (block_o * count + t) * mr * width * size, mode,
                    )  # fmt: skip

    return task


class _Sizes:
    """The product that a problem becomes, per group: `outputs` x `per_group`, of depth `k`."""

    def __init__(self, problem: Problem) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.channels = problem.c // problem.groups
        self.per_group = problem.o // problem.groups
        self.k = self.channels * problem.taps
        self.nhwc = problem.layout == "NHWC"
        images = max(problem.n, 1) if self.nhwc else 1
        self.outputs = images * problem.oh * problem.ow


class Im2col(Algorithm[Config]):
    """See the head of this file."""

    name = "im2col"
    summary = "windows packed panel by panel, then a matrix product; takes everything, bounded memory"

    def needs(self, problem: Problem, machine: Machine) -> Iterable[Need]:
        """Take everything."""
        return ()

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the three cheapest tiles, each with panels of a quarter of L2."""
        s = _Sizes(problem)
        lanes = machine.lanes(problem.compute_dtype)
        sides = (s.outputs, s.per_group) if s.nhwc else (s.per_group, s.outputs)
        found = tiles.best_tiles(machine, *sides, s.k, lanes, keep=3)
        return tuple(self._with_panel(problem, machine, s, tile, lanes) for tile in found)

    def _with_panel(
        self, problem: Problem, machine: Machine, s: _Sizes, tile: tiles.Tile, lanes: int
    ) -> Config:
        room = machine.l2_bytes // 4
        unit = tile.mr if s.nhwc else tile.nv * lanes
        depth = min(s.k, max(256, room // (unit * s.size)))
        total = -(-s.outputs // unit)
        count = max(1, min(total, room // (unit * depth * s.size)))
        pieces = problem.groups * (1 if s.nhwc else max(problem.n, 1))
        if problem.threads > 1 and pieces * -(-total // count) < 4 * problem.threads:
            count = max(1, total * pieces // (4 * problem.threads))
        return Config(*tile, count, depth)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count the products of all tiles and the packing of every window."""
        s = _Sizes(problem)
        lanes = machine.lanes(problem.compute_dtype)
        tile = tiles.Tile(config.mr, config.nv)
        sides = (s.outputs, s.per_group) if s.nhwc else (s.per_group, s.outputs)
        products = tiles.tiled_cycles(tile, machine, *sides, s.k, lanes)
        run = s.channels if s.nhwc else min(problem.ow, 16) if problem.stride[1] == 1 else 1
        # A window is copied in runs: about 8 cycles to start one, then 16 bytes a cycle.
        packing = s.outputs * s.k * (8.0 / run + s.size / 16.0)
        pieces = problem.groups * (1 if s.nhwc else problem.n)
        unit = config.mr if s.nhwc else config.nv * lanes
        tasks = pieces * -(-s.outputs // (unit * config.portion))
        weight_bytes = s.k * s.per_group * s.size
        far = (
            tasks
            * tiles.missed(machine, weight_bytes, 0.4, 0.5)
            * weight_bytes
            / tiles.weight_rate(machine, weight_bytes)
        )
        return tiles.seconds(problem, machine, pieces * (products + packing) + 0.45 * far, tasks)

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over all products, then bias and residual."""
        return rounding(problem) * (problem.taps * problem.c // problem.groups + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """One panel and its partial sums for each worker."""
        return self._scratch(problem, machine, config) * problem.threads

    def _scratch(self, problem: Problem, machine: Machine, config: Config) -> int:
        s = _Sizes(problem)
        width = config.nv * machine.lanes(problem.compute_dtype)
        blocks = -(-s.per_group // (width if s.nhwc else config.mr))
        sums = config.portion * blocks * config.mr * width * s.size if config.depth < s.k else 0
        if s.nhwc:
            return config.portion * config.mr * _window(s, config) + sums
        return _room(config) + config.depth * _pitch(s, config, width) + sums

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Choose the form by the layout of the image."""
        build = _nhwc if problem.layout == "NHWC" else _nchw
        lanes = machine.lanes(problem.compute_dtype)
        seconds = self.seconds_alone(problem, machine, config)
        return build(problem, config, lanes, self._scratch(problem, machine, config), seconds)


def _window(s: _Sizes, config: Config) -> int:
    """Return the bytes from one NHWC window to the next: an odd number of lines, against set conflicts."""
    return (aligned_up(config.depth * s.size, 64) // 64 | 1) * 64


def _pitch(s: _Sizes, config: Config, width: int) -> int:
    """Return the bytes from one NCHW run of columns to the next: an odd number of lines, against set conflicts."""
    return (aligned_up(config.portion * width * s.size, 64) // 64 | 1) * 64


def _room(config: Config) -> int:
    """Return the bytes before the panel of an NCHW task."""
    return aligned_up(config.portion * config.nv * 24, 64)


def _nhwc(problem: Problem, config: Config, lanes: int, scratch: int, seconds: float) -> Layout:
    s = _Sizes(problem)
    width = config.nv * lanes
    c, tap = np.ogrid[: s.channels, : problem.taps]
    index = np.ascontiguousarray((tap * s.channels + c).ravel(), dtype=np.int64)
    weights = WeightLayout(problem.compute_dtype, problem.groups, s.per_group, s.k, width, index)
    table, rows, cols = one_item(), row_map(problem), column_map(problem)
    full = column_segments(width, config.nv, lanes, s.size)
    tail = column_segments(s.per_group - (weights.blocks - 1) * width, config.nv, lanes, s.size)
    pixels = problem.n * problem.oh * problem.ow
    x_row = problem.w * problem.c * s.size
    values = context(
        *(address(array) for array in (table, rows, cols, full, tail)),
        *(problem.groups, config.portion, pixels, problem.oh, problem.ow, *problem.stride, *problem.dilation),
        *(problem.kw, s.k, config.depth, s.channels, weights.blocks, weights.block_bytes, _window(s, config)),
        *(problem.h * x_row, x_row, problem.c * s.size, problem.o * s.size, s.per_group * s.size),
    )
    kernel = im2col_nhwc(config.mr, config.nv, lanes, problem.compute_dtype, problem.activation)
    count = problem.groups * -(-pixels // (config.portion * config.mr))
    keep = (table, rows, cols, full, tail)
    return Layout(kernel, values, count, scratch, seconds, weights, pads_with_zeros(problem), keep)


def _nchw(problem: Problem, config: Config, lanes: int, scratch: int, seconds: float) -> Layout:
    s = _Sizes(problem)
    width = config.nv * lanes
    index = np.arange(s.k, dtype=np.int64)
    weights = WeightLayout(problem.compute_dtype, problem.groups, s.per_group, s.k, config.mr, index)
    table, rows, cols = one_item(), row_map(problem), column_map(problem)
    parts = -(-s.outputs // (config.portion * width))
    values = context(
        *(address(array) for array in (table, rows, cols)),
        *(problem.groups, config.portion, parts, s.outputs, problem.ow, *problem.stride, *problem.dilation),
        *(problem.kw, problem.taps, s.k, config.depth, s.channels, problem.o, s.per_group, weights.blocks),
        *(weights.block_bytes, _pitch(s, config, width), problem.padding[2], problem.w, problem.w * s.size),
        *(problem.h * problem.w * s.size, s.outputs * s.size, _room(config), config.nv * 24),
    )
    kernel = im2col_nchw(config.mr, config.nv, lanes, problem.compute_dtype, problem.activation)
    count = problem.n * problem.groups * parts
    return Layout(
        kernel, values, count, scratch, seconds, weights, pads_with_zeros(problem), (table, rows, cols)
    )


ALGORITHM = Im2col()
