"""Depthwise convolution and small groups by sums that slide over the image, each input loaded once.

Wins where every output channel sees few input channels, and the image is what has to be moved: depthwise layers of any
multiplier in NCHW, groups of a few channels in NCHW, plain depthwise layers in NHWC. Nothing is packed but the weights:
NCHW puts columns into the lanes, and masks what lies beside the image; NHWC puts channels into the lanes, some output
rows at a time, as `sliding_groups` does, and rows beside the image are a row of zeros; kernels beyond 7x7 are taken
there in pieces. NCHW takes kernels up to 7x7 and column strides 1 and 2; no dilation.

Source: none. Start reading at `depthwise_planes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import needs, tiles
from fastconv.algorithms.depthwise_task import depthwise_pieces, depthwise_planes
from fastconv.algorithms.geometry import aligned_up, context, pads_with_zeros, rounding, row_map
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.strips import (
    MOST_TAPS,
    TASK_FLOP,
    Config,
    division,
    sliding_cycles,
    sliding_rows,
    strip_layout,
    strip_scratch,
    strip_seconds,
)
from fastconv.algorithms.weights import WeightLayout
from fastconv.arrays import address
from fastconv.kernels.depthwise_planes_tile import HELD_WEIGHTS
from fastconv.kernels.depthwise_walk_tile import Walk
from fastconv.machine import Machine
from fastconv.problem import Problem

#: Longest axis of a piece of a kernel that is too long to be written out whole.
PIECE_TAPS = 8
#: Most outputs of a group in one register tile, in NCHW.
MOST_OUTPUTS = 4
#: Bytes of planes whose columns are taken one tile after the other: they stay in L1.
NEAR_BYTES = 16_384
#: Cycles around one strip beside its walk; more for a row of a plane beyond L2 (20 to 40 ns).
STRIP_CYCLES, FAR_TURN_CYCLES = 30.0, 100.0


def _lanes(problem: Problem, machine: Machine) -> int:
    """Return the lanes of a vector: in NCHW no more than a row of outputs needs."""
    lanes = machine.lanes(problem.compute_dtype)
    if problem.layout == "NCHW":
        while lanes > 4 and lanes // 2 >= problem.ow:
            lanes //= 2
    return lanes


def _outputs(problem: Problem) -> int:
    """Return the outputs of a group in one register tile of planes."""
    return max(p for p in range(1, MOST_OUTPUTS + 1) if problem.o_per_group % p == 0)


class Depthwise(Algorithm[Config]):
    """See the head of this file."""

    name = "depthwise"
    summary = "depthwise, and small groups in NCHW: sums slide over the image, each input is loaded once"

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse dense problems, long kernels, dilation, padding by other pixels and integers."""
        yield from needs.of_floats(problem)
        depthwise = {"c": max(problem.c, 2), "o": max(problem.c, 2), "groups": max(problem.c, 2)}
        if problem.groups == 1:
            yield Need("more than one group", "1", depthwise)
        elif problem.layout == "NHWC" and problem.c_per_group + problem.o_per_group > 2:
            got = f"{problem.c_per_group} and {problem.o_per_group}"
            yield Need("one input and one output per group in NHWC", got, depthwise)
        if problem.layout == "NCHW" and max(problem.kh, problem.kw) > MOST_TAPS:
            change = {"kh": min(problem.kh, MOST_TAPS), "kw": min(problem.kw, MOST_TAPS)}
            yield Need(f"kernels up to {MOST_TAPS}x{MOST_TAPS} in NCHW", f"{problem.kh}x{problem.kw}", change)
        if problem.dilation != (1, 1):
            yield Need("dilation 1", str(problem.dilation), {"dilation": (1, 1)})
        if problem.padding_mode != "zeros":
            yield Need("padding_mode='zeros'", repr(problem.padding_mode), {"padding_mode": "zeros"})
        if problem.layout == "NCHW" and problem.stride[1] > 2:
            yield Need(
                "a column stride of 1 or 2 in NCHW",
                str(problem.stride[1]),
                {"stride": (problem.stride[0], 1)},
            )

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the register tiles that fit, cheapest first, each with the tasks that suit the problem."""
        if problem.layout == "NHWC":
            widths = sliding_rows(problem, machine, _largest(problem))
        else:
            # Sums of all open windows, the inputs under one column of taps, and a weight.
            sums = -(-problem.kh // problem.stride[0]) * _outputs(problem)
            fits = (machine.vector_registers - 2) // (sums + 1)
            widths = [n for n in (1, 2, 4) if n <= fits] or [1]
        choices = [self._division(problem, across) for across in widths]
        return tuple(sorted(choices, key=lambda config: self.cost(problem, machine, config)))

    def _division(self, problem: Problem, across: int) -> Config:
        """Return the register tile with the tasks that suit the problem."""
        if problem.layout == "NHWC":
            return division(problem, across)
        pieces = problem.n * (problem.o // _outputs(problem))
        blocks = -(-4 * problem.threads // max(pieces, 1)) if problem.threads > 1 else 1
        # Ctrl-C is felt between tasks.
        blocks = max(blocks, int(problem.flop / max(pieces, 1) / TASK_FLOP))
        return Config(across, -(-problem.oh // min(blocks, problem.oh)))

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products, loads and stores of all strips, and what is moved through memory."""
        if problem.layout == "NHWC":
            count = math.prod(piece.number for piece in _pieces(problem))
            cycles = count * sliding_cycles(problem, machine, config, _largest(problem))
            return strip_seconds(problem, machine, config, cycles)
        cycles = _plane_cycles(problem, machine, config)
        moved = tiles.image_cycles(problem, machine, problem.x_bytes + 2 * problem.y_bytes)
        return tiles.seconds(
            problem, machine, max(cycles, moved) + 0.3 * min(cycles, moved), _tasks(problem, config)
        )

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over all products, then the residual."""
        return rounding(problem) * (
            problem.taps * problem.c_per_group + 3 + math.prod(piece.number for piece in _pieces(problem))
        )

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Return the addresses of the rows under a tile for each worker."""
        return 0 if problem.layout == "NCHW" else strip_scratch(problem, machine, config) * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out the weights as the tiles stream them."""
        seconds = self.cost(problem, machine, config) * problem.threads
        if problem.layout == "NCHW":
            return _planes(problem, _lanes(problem, machine), config, seconds)
        if math.prod(piece.number for piece in _pieces(problem)) > 1:
            return _pixels_in_pieces(problem, machine, config, seconds)
        return strip_layout(problem, machine, config, seconds, points=False)


def _plane_cycles(problem: Problem, machine: Machine, config: Config) -> float:
    """Return the cycles of all walks down planes: products and shuffles share two ports, vectors cross lines."""
    nv, p, g, kw = config.across, _outputs(problem), problem.c_per_group, problem.kw
    (sh, sw), lanes = problem.stride, _lanes(problem, machine)
    rows_in = min(sh, problem.kh)
    products = problem.taps * g * p * nv * (1 if machine.fma else 2)
    shuffles = kw * rows_in * g * nv if sw > 1 else 0
    weights = problem.taps * g * p if g > 1 or problem.taps * p > HELD_WEIGHTS else 0
    loads = 2 * aligned_up(kw, sw) * rows_in * g * nv + weights
    turn = max((products + shuffles) / 2, loads / 2) + 1.7 * nv * p + 1.5
    if problem.x_bytes // (problem.n * problem.c) > machine.l2_bytes // 2:
        # Down a plane beyond L2 every row begins a page that nothing fetches ahead.
        turn += FAR_TURN_CYCLES
    turns = problem.oh + (Walk(problem.kh, sh).open - 1) * -(-problem.oh // config.rows)
    walks = problem.n * (problem.o // p) * -(-problem.ow // (nv * lanes))
    return walks * (turns * turn + STRIP_CYCLES)


def _tasks(problem: Problem, config: Config) -> int:
    """Return the tasks of all walks down planes."""
    blocks = -(-problem.oh // config.rows)
    pieces = problem.n * problem.o // _outputs(problem)
    return -(-pieces // _per_task(problem, blocks)) * blocks


def _per_task(problem: Problem, blocks: int) -> int:
    """Return the walks of one task in NCHW: enough tasks for all threads, and for Ctrl-C between them."""
    if blocks > 1:
        return 1
    pieces = problem.n * problem.o // _outputs(problem)
    tasks = max(8 * problem.threads if problem.threads > 1 else 1, int(problem.flop / TASK_FLOP), 1)
    return max(1, -(-pieces // tasks))


class _Pieces(NamedTuple):
    """How one axis of a kernel is cut: `long` pieces of `size` taps, then shorter ones of one tap less."""

    number: int
    long: int
    size: int

    @classmethod
    def of(cls, taps: int, most: int) -> _Pieces:
        number = -(-taps // most)
        size = -(-taps // number)
        return cls(number, taps - number * (size - 1), size)

    @property
    def last(self) -> int:
        """Taps of the last piece."""
        return self.size if self.long == self.number else self.size - 1


def _pieces(problem: Problem) -> tuple[_Pieces, _Pieces]:
    """Return how rows and columns of the kernel are cut."""
    most = MOST_TAPS if max(problem.kh, problem.kw) <= MOST_TAPS else PIECE_TAPS
    return _Pieces.of(problem.kh, most), _Pieces.of(problem.kw, most)


def _largest(problem: Problem) -> tuple[int, int]:
    """Return rows and columns of the largest piece of the kernel."""
    down, along = _pieces(problem)
    return down.size, along.size


def _weights(problem: Problem, width: int, groups: int, per_group: int) -> WeightLayout:
    count = problem.c_per_group * problem.taps
    return WeightLayout(
        problem.compute_dtype, groups, per_group, count, width, np.arange(count, dtype=np.int64)
    )


def _side_by_side(problem: Problem, per_group: int, size: int) -> int:
    """Return the groups that one tile walks down, one after the other, before the next columns."""
    if per_group > 1:
        return 1
    bytes_each = (
        problem.c_per_group * problem.h * problem.w + problem.o_per_group * problem.oh * problem.ow
    ) * size
    return max(1, NEAR_BYTES // bytes_each)


def _beside(problem: Problem, width: int, lanes: int) -> int:
    """Return bit v * kw + s for each vector v of a tile and tap column s that anywhere lies beside the image."""
    columns = np.arange(problem.ow)[:, None]
    taps = np.arange(problem.kw)[None, :]
    places = columns * problem.stride[1] + taps - problem.padding[2]
    bits = columns % width // lanes * problem.kw + taps
    return sum(1 << int(bit) for bit in np.unique(bits[(places < 0) | (places >= problem.w)]))


def _planes(problem: Problem, lanes: int, config: Config, seconds: float) -> Layout:
    size = np.dtype(problem.compute_dtype).itemsize
    (sh, sw), outputs = problem.stride, _outputs(problem)
    weights = _weights(problem, outputs, problem.groups, problem.o_per_group)
    per_group = problem.o_per_group // outputs
    pieces = problem.n * problem.groups * per_group
    blocks = -(-problem.oh // config.rows)
    per_task = _per_task(problem, blocks)
    values = context(
        *(pieces, per_task, blocks, config.rows, problem.oh, problem.ow, problem.w, problem.h),
        *(problem.c_per_group, per_group, problem.padding[0], problem.padding[2]),
        *(problem.w * size, problem.h * problem.w * size, problem.ow * size, problem.oh * problem.ow * size),
        *(
            weights.block_bytes,
            problem.groups * per_group,
            _side_by_side(problem, per_group, size),
            problem.x_bytes,
        ),
    )
    grouped = int(problem.c_per_group > 1)
    width = config.across * lanes
    kernel = depthwise_planes(
        *(config.across, outputs, grouped, problem.kh, problem.kw, sh, sw, _beside(problem, width, lanes)),
        *((problem.ow - 1) % width // lanes, lanes, problem.compute_dtype, problem.activation),
    )
    return Layout(kernel, values, _tasks(problem, config), 0, seconds, weights, pads_with_zeros(problem))


def _pixels_in_pieces(problem: Problem, machine: Machine, config: Config, seconds: float) -> Layout:
    size = np.dtype(problem.compute_dtype).itemsize
    lanes, (sh, sw) = machine.lanes(problem.compute_dtype), problem.stride
    weights = _weights(problem, lanes, 1, problem.o)
    rows_in = row_map(problem, (problem.oh + config.across - 2) * sh + problem.kh)
    x_row, y_row = (width * problem.c * size for width in (problem.w, problem.ow))
    outside = np.zeros(x_row + 64, np.uint8)
    nothing = np.zeros(64, np.uint8)
    blocks = -(-problem.oh // config.rows)
    down, along = _pieces(problem)
    values = context(
        *(address(rows_in), address(outside), blocks, config.rows, problem.oh, problem.ow, problem.w),
        *(problem.c, problem.kh, problem.padding[2]),
        *(problem.h * x_row, x_row, problem.c * size, y_row, weights.block_bytes, address(nothing)),
        *(down.long * down.size, along.long * along.size, problem.padding[0], problem.h),
    )
    sizes = (down.size, down.last, along.size, along.last, problem.kw)
    full = int(problem.c % lanes == 0)
    numerics = (problem.compute_dtype, problem.activation)
    kernel = depthwise_pieces(config.across, *sizes, sh, sw, full, lanes, *numerics)
    return Layout(
        kernel,
        values,
        problem.n * blocks,
        strip_scratch(problem, machine, config),
        seconds,
        weights,
        pads_with_zeros(problem),
        (rows_in, outside, nothing),
    )


ALGORITHM = Depthwise()
