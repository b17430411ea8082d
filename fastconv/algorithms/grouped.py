"""Depthwise convolution and small groups: output channels in the lanes, whole groups side by side in a vector.

Wins where groups are too small to fill a vector with one group's channels: depthwise with a multiplier that divides
the lanes, and groups of 2, 4, 8 channels, which fill every lane where a dense kernel would leave most of them empty.
Any kernel, stride and dilation. NHWC is read in place: the pixels under a tile come by address, and those of the
padding are one pixel of zeros. NCHW images are transposed, one vector of channels at a time, into a strip that stays in
cache, and the results back on the way out: this costs half a cycle per value, and small images fill vectors all the
same.

Source: addresses instead of copies after M. Dukhan, arXiv:1907.02129. Start reading at `grouped_nhwc`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import needs, tiles
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
from fastconv.kernels.grouped_tile import grouped_tile, window_pointers
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import item_bytes, load, words
from fastconv.kernels.transpose import transpose_block
from fastconv.machine import Machine
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Kernel widths written out as straight code, for these strides.
UNROLLED, STRIDES = (3, 5, 7), (1, 2)
#: Most outputs of a group: beyond it the dense kernels fill their vectors.
MOST_OUTPUTS = 8
#: Cycles to find the addresses of one kernel row under a tile; to transpose one block of lanes x lanes values.
ROW_CYCLES, TRANSPOSE_CYCLES = 14.0, 110.0


class Config(NamedTuple):
    """Pixels of a register tile, output rows of a task."""

    pixels: int
    rows: int


@task_factory
def grouped_nhwc(
    pixels: int, kw_unrolled: int, stride: int, g: int, p: int, lanes: int, dtype: str, activation: str
) -> Task:
    """Return the task that computes some output channels of a block of output rows of one image, NHWC.

    Shapes   x (N, H, W, C); y (N, OH, OW, O); weights [vector of outputs][kh][kw][g][lanes]
    Assumes  scratch holds the addresses under one tile; `outside` is a pixel of zeros
    Touches  writes its rows and channels of y, and scratch
    Source   arXiv:1907.02129 (addresses)
    """
    size = item_bytes(dtype)
    step = lanes * size
    inputs = lanes * g // p

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, rows_in, offsets, nowhere, outside, vectors = words(ctx, 10)
        blocks, rows, oh, ow, kh, kw, sh, sw, dh, dw = words(ctx + 80, 10)
        columns, c, o, k_bytes, x_image, x_row, y_pixel = words(ctx + 160, 7)
        block, image = i % blocks, i // blocks
        for row in range(block * rows, min((block + 1) * rows, oh)):
            for column in range(0, ow, pixels):
                for r in range(kh):
                    h = load("int64", rows_in + 8 * (row * sh + r * dh))
                    at = offsets + 8 * column * sw if h >= 0 else nowhere
                    window_pointers(
                        scratch + 8 * r * columns, x + image * x_image + h * x_row, at, columns, outside
                    )
                for v in range(vectors):
                    out = y + ((image * oh + row) * ow + column) * y_pixel + v * step
                    held = residual + (out - y) if residual != 0 else 0
                    live, outputs = min(pixels, ow - column), o - v * lanes
                    if outputs >= lanes:
                        grouped_tile(
                            pixels, kw_unrolled, stride, g, p, 1, lanes, dtype, activation,
                            scratch, columns, v * inputs * size, weights + v * k_bytes, kh, kw, sw, dw,
                            out, y_pixel, held, live, inputs, lanes, bias + v * step,
                        )  # fmt: skip
                    else:
                        grouped_tile(
                            pixels, kw_unrolled, stride, g, p, 0, lanes, dtype, activation,
                            scratch, columns, v * inputs * size, weights + v * k_bytes, kh, kw, sw, dw,
                            out, y_pixel, held, live, c - v * inputs, outputs, bias + v * step,
                        )  # fmt: skip

    return task


@task_factory
def grouped_nchw(
    pixels: int, kw_unrolled: int, stride: int, g: int, p: int, lanes: int, dtype: str, activation: str
) -> Task:
    """Return the task that computes one vector of output channels of a block of output rows of one image, NCHW.

    Shapes   x (N, C, H, W); y (N, O, OH, OW); weights [vector of outputs][kh][kw][g][lanes]
    Assumes  scratch: addresses under one tile, the strip of input rows as pixels, the block's outputs as pixels; rows
             of the strip are neighbours in the image
    Touches  writes its rows and channels of y, and scratch
    Source   arXiv:1907.02129 (addresses)
    """
    size = item_bytes(dtype)
    step = lanes * size
    inputs = lanes * g // p
    none = "none"

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, rows_in, offsets, nowhere, outside, vectors = words(ctx, 10)
        blocks, rows, oh, ow, kh, kw, sh, sw, dh, dw = words(ctx + 80, 10)
        columns, c, o, k_bytes, x_plane, x_row, y_plane, top, h, strip_at, out_at = words(ctx + 160, 11)
        v, rest = i % vectors, i // vectors
        block, image = rest % blocks, rest // blocks
        first, last = block * rows, min((block + 1) * rows, oh)
        strip, results = scratch + strip_at, scratch + out_at
        low = min(max(first * sh - top, 0), h)
        high = max(min((last - 1) * sh - top + (kh - 1) * dh + 1, h), low)
        width, live_in = x_row // size, min(inputs, c - v * inputs)
        count = (high - low) * width
        source = x + (image * c + v * inputs) * x_plane + low * x_row
        for q in range(0, count, lanes):
            transpose_block(
                dtype, lanes, none, source + q * size, x_plane, strip + q * inputs * size, inputs * size, 0,
                live_in, min(lanes, count - q), inputs,
            )  # fmt: skip
        for row in range(first, last):
            for column in range(0, ow, pixels):
                for r in range(kh):
                    place = load("int64", rows_in + 8 * (row * sh + r * dh))
                    at = offsets + 8 * column * sw if place >= 0 else nowhere
                    base = strip + (place - low) * width * inputs * size
                    window_pointers(scratch + 8 * r * columns, base, at, columns, outside)
                grouped_tile(
                    pixels, kw_unrolled, stride, g, p, 1, lanes, dtype, none,
                    scratch, columns, 0, weights + v * k_bytes, kh, kw, sw, dw,
                    results + ((row - first) * ow + column) * step, step, 0, min(pixels, ow - column), inputs, lanes,
                    bias + v * step,
                )  # fmt: skip
        live_out = min(lanes, o - v * lanes)
        count = (last - first) * ow
        out = y + (image * o + v * lanes) * y_plane + first * ow * size
        for q in range(0, count, lanes):
            to = out + q * size
            live = min(lanes, count - q)
            transpose_block(
                dtype, lanes, activation, results + q * step, step, to, y_plane,
                residual + (to - y) if residual != 0 else 0, live, live_out, live,
            )  # fmt: skip

    return task


class _Sizes:
    """What everything here derives from a problem and a setting."""

    def __init__(self, problem: Problem, config: Config, lanes: int) -> None:
        self.size = np.dtype(problem.compute_dtype).itemsize
        self.g, self.p = problem.c_per_group, problem.o_per_group
        (_, sw), (dh, dw) = problem.stride, problem.dilation
        self.vectors = -(-problem.o // lanes)
        self.inputs = lanes * self.g // self.p
        self.unrolled = problem.kw in UNROLLED and sw in STRIDES and dw == 1
        #: Columns under a tile, in eights, as addresses are made.
        self.columns = aligned_up((config.pixels - 1) * sw + (problem.kw - 1) * dw + 1, 8)
        self.pointers = aligned_up(8 * problem.kh * self.columns, 64)
        rows_in = min((config.rows - 1) * problem.stride[0] + (problem.kh - 1) * dh + 1, problem.h)
        # A block of the transposition is stored whole.
        strip = aligned_up((rows_in * problem.w + lanes) * self.inputs * self.size, 64)
        results = config.rows * problem.ow * lanes * self.size
        self.out_at = self.pointers + strip
        self.scratch = self.pointers if problem.layout == "NHWC" else self.out_at + results


class Grouped(Algorithm[Config]):
    """See the head of this file."""

    name = "grouped"
    summary = "depthwise and groups of up to 8 channels: whole groups side by side in the lanes"

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse groups that do not divide the lanes, integers, and padding by other pixels in NCHW."""
        g, p = problem.c_per_group, problem.o_per_group
        yield from needs.of_floats(problem)
        lanes = machine.lanes(problem.compute_dtype)
        if problem.groups == 1 or p > MOST_OUTPUTS or lanes % p or g > p or lanes * g < 2 * p:
            depthwise = max(problem.c, 2)
            yield Need(
                f"groups whose outputs, at most {MOST_OUTPUTS}, divide the {lanes} lanes and are not fewer than "
                "their inputs",
                f"{problem.groups} groups of {g} inputs and {p} outputs",
                {"c": depthwise, "o": depthwise, "groups": depthwise},
            )
        if problem.layout == "NCHW" and problem.padding_mode != "zeros":
            yield Need("padding_mode='zeros' in NCHW", repr(problem.padding_mode), {"padding_mode": "zeros"})

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return tiles of 7, 8 or 4 pixels by what they waste of a row, each with strips that fit half of L2."""
        choices = {
            self._with_rows(problem, machine, pixels): None
            for pixels in ((7, 8) if machine.vector_registers >= 32 else (4, 3))
        }
        return tuple(sorted(choices, key=lambda config: self.cost(problem, machine, config)))

    def _with_rows(self, problem: Problem, machine: Machine, pixels: int) -> Config:
        lanes = machine.lanes(problem.compute_dtype)
        one, two = (_Sizes(problem, Config(pixels, rows), lanes).scratch for rows in (1, 2))
        rows = problem.oh
        if two > one:
            rows = min(rows, 1 + max(machine.l2_bytes // 2 - one, 0) // (two - one))
        # Ctrl-C is felt between tasks.
        rows = max(1, min(rows, int(1e9 * problem.oh * max(problem.n, 1) / max(problem.flop, 1))))
        blocks = -(-problem.oh // rows)
        if problem.threads > 1 and problem.layout == "NHWC":
            blocks = min(problem.oh, max(blocks, -(-4 * problem.threads // max(problem.n, 1))))
        return Config(pixels, -(-problem.oh // blocks))

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products, shuffles and loads of all tiles, addresses, and what is transposed and moved."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        across = -(-problem.ow // config.pixels)
        products = config.pixels * problem.taps * s.g * (1 if machine.fma else 2)
        loaded = problem.kh * (s.columns if s.unrolled else config.pixels * problem.kw)
        shuffles = loaded * s.g if s.p > 1 else 0
        tile = max((products + shuffles) / 2, (2 * loaded + problem.taps * s.g) / 2) + 4 * config.pixels + 20
        addresses = ROW_CYCLES * problem.kh * (s.columns / 16 + 0.5)
        count = problem.n * problem.oh * across
        moved = tiles.image_cycles(problem, machine, problem.x_bytes + 2 * problem.y_bytes)
        blocks = problem.n * -(-problem.oh // config.rows)
        if problem.layout == "NHWC":
            cycles = count * (s.vectors * tile + addresses)
            tasks = blocks
        else:
            values = problem.n * (problem.c * problem.h * problem.w + problem.o * problem.oh * problem.ow)
            cycles = count * s.vectors * (tile + addresses) + TRANSPOSE_CYCLES * values / lanes**2
            tasks = blocks * s.vectors
        return tiles.seconds(problem, machine, max(cycles, moved) + 0.3 * min(cycles, moved), tasks)

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over all products, then bias and residual."""
        return rounding(problem) * (problem.taps * problem.c_per_group + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """The addresses under one tile for each worker, and in NCHW a strip and its results."""
        return _Sizes(problem, config, machine.lanes(problem.compute_dtype)).scratch * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out addresses of columns and the weights of each vector of outputs."""
        lanes = machine.lanes(problem.compute_dtype)
        s = _Sizes(problem, config, lanes)
        (sh, sw), (dh, dw) = problem.stride, problem.dilation
        index = _weight_index(problem)
        weights = WeightLayout(
            problem.compute_dtype, 1, problem.o, problem.taps * s.g, lanes, np.ascontiguousarray(index)
        )
        nhwc = problem.layout == "NHWC"
        pixel = (problem.c if nhwc else s.inputs) * s.size
        tiles_across = -(-problem.ow // config.pixels)
        cols = column_map(problem, (tiles_across - 1) * config.pixels * sw + s.columns)
        offsets = np.ascontiguousarray(np.where(cols < 0, -1, cols * pixel), dtype=np.int64)
        nowhere = np.full(s.columns, -1, np.int64)
        rows_in = row_map(problem, (problem.oh - 1) * sh + (problem.kh - 1) * dh + 1)
        outside = np.zeros(aligned_up(pixel, 64) + 64, np.uint8)
        blocks = -(-problem.oh // config.rows)
        x_row = problem.w * (pixel if nhwc else s.size)
        numbers = (
            *(address(array) for array in (rows_in, offsets, nowhere, outside)),
            *(s.vectors, blocks, config.rows, problem.oh, problem.ow, problem.kh, problem.kw, sh, sw, dh, dw),
            *(s.columns, problem.c, problem.o),
            problem.taps * s.g * lanes * s.size,
        )
        if nhwc:
            values = context(*numbers, problem.h * x_row, x_row, problem.o * s.size)
            make, count = grouped_nhwc, problem.n * blocks
        else:
            y_plane = problem.oh * problem.ow * s.size
            values = context(
                *numbers,
                problem.h * x_row,
                x_row,
                y_plane,
                problem.padding[0],
                problem.h,
                s.pointers,
                s.out_at,
            )
            make, count = grouped_nchw, problem.n * blocks * s.vectors
        kernel = make(
            config.pixels,
            problem.kw if s.unrolled else 0,
            sw if s.unrolled else 1,
            s.g,
            s.p,
            lanes,
            problem.compute_dtype,
            problem.activation,
        )
        seconds = self.seconds_alone(problem, machine, config)
        keep = (rows_in, offsets, nowhere, outside)
        return Layout(kernel, values, count, s.scratch, seconds, weights, pads_with_zeros(problem), keep)


def _weight_index(problem: Problem) -> Int64s:
    """Return the row of each weight of an output channel: tap, then input of the group."""
    g, taps = problem.c_per_group, problem.taps
    return (np.arange(taps, dtype=np.int64)[None, :] * g + np.arange(g, dtype=np.int64)[:, None]).ravel()


ALGORITHM = Grouped()
