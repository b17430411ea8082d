"""What algorithms of strips of NHWC rows share on the host: needs of groups, cycles, layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import needs, tiles
from fastconv.algorithms.geometry import aligned_up, context, row_map
from fastconv.algorithms.interface import Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.strips_task import pixel_strips
from fastconv.algorithms.strips_weights import strips_weights
from fastconv.arrays import address
from fastconv.machine import Machine
from fastconv.problem import Problem

#: Longest axis of a kernel, all of which is written out as straight code.
MOST_TAPS = 7
#: Most work of a task: Ctrl-C is felt between tasks.
TASK_FLOP = 5e8
#: Cycles around one strip beside its walk.
STRIP_CYCLES = 40.0
#: What is left of the time that images beyond L2 take elsewhere, since walks ask for their lines in order (128 channels
#: at 56x56 in groups of 4: 127 to 149 us, of which 109 are products; a copy of input and output 80). With a stride
#: nearly all is reading, and nothing is gained (96 channels at 112x112: 205 us, a copy 176).
IN_ORDER = 0.5


class Config(NamedTuple):
    """Output rows of a strip, output rows of a task."""

    across: int
    rows: int


def needs_of_groups(problem: Problem, machine: Machine, most: int) -> Iterator[Need]:
    """Yield what keeps whole groups of up to `most` channels from standing side by side in a vector of pixels."""
    yield from needs.of_floats(problem)
    lanes = machine.lanes(problem.compute_dtype)
    g, p = problem.c_per_group, problem.o_per_group
    if problem.groups == 1 or g != p or g < 2 or g > most or lanes % g:
        sizes = ", ".join(str(2**i) for i in range(1, int(math.log2(min(most, lanes))) + 1))
        got = f"{problem.groups} of {g} and {p}"
        four = {"c": 8, "o": 8, "groups": 2 if lanes % 4 == 0 else 4}
        yield Need(f"groups of {sizes} inputs and as many outputs", got, four)
    if problem.layout != "NHWC":
        yield Need("layout NHWC", problem.layout, {"layout": "NHWC"})
    if problem.padding_mode != "zeros":
        yield Need("padding_mode='zeros'", repr(problem.padding_mode), {"padding_mode": "zeros"})


def is_far(problem: Problem, machine: Machine) -> bool:
    """Tell whether the image and its result leave L2."""
    return problem.x_bytes + problem.y_bytes > machine.l2_bytes


def division(problem: Problem, across: int) -> Config:
    """Return the tasks that suit the problem."""
    blocks = -(-4 * problem.threads // max(problem.n, 1)) if problem.threads > 1 else 1
    blocks = max(blocks, int(problem.flop / max(problem.n, 1) / TASK_FLOP), 1)
    rows = -(-problem.oh // min(blocks, problem.oh))
    return Config(across, aligned_up(rows, across))


def strip_cycles(
    problem: Problem, machine: Machine, config: Config, taps: tuple[int, int], products: float, others: float
) -> float:
    """Return the cycles of all walks with `products` and `others` (shuffles, transforms) for a column of a vector."""
    (sh, sw), rows, (kh, kw) = problem.stride, config.across, taps
    lines = min(sw, kw) * ((rows - 1) * sh + kh) + rows
    port = (products * (1 if machine.fma else 2) + others) / 2
    turn = max(port + rows + 2, lines * machine.vector_bytes / tiles.l2_rate(machine))
    turns = problem.ow + -(-kw // sw) - 1
    strips = problem.n * -(-problem.oh // rows) * -(-problem.c // machine.lanes(problem.compute_dtype))
    return strips * (turns * turn + STRIP_CYCLES)


def sliding_rows(problem: Problem, machine: Machine, taps: tuple[int, int]) -> list[int]:
    """Return how many output rows of a strip fit the registers: sums of all open windows, a column, a weight."""
    (sh, sw), (kh, kw) = problem.stride, taps
    # Seven rows end where images of 7, 14, 28 do (960 channels at 7x7: 7.9 us for 8.5), but are a few per cent slower
    # than two where memory decides, and leave no room for partners.
    few = is_far(problem, machine) or problem.c_per_group > 1
    wanted = {
        rows: rows * -(-kw // sw) + (rows - 1) * sh + kh
        for rows in ((1, 2, 3, 4) if few else (1, 2, 3, 4, 7))
    }
    return [rows for rows, registers in wanted.items() if rows == 1 or registers < machine.vector_registers]


def sliding_cycles(problem: Problem, machine: Machine, config: Config, taps: tuple[int, int]) -> float:
    """Return the cycles of all walks by the definition: products, and shuffles for the partners in a group."""
    rows, g, (sh, sw), (kh, kw) = config.across, problem.c_per_group, problem.stride, taps
    shuffles = (g - 1) * ((rows - 1) * sh + kh) * min(sw, kw)
    return strip_cycles(problem, machine, config, taps, kh * kw * g * rows, shuffles)


def strip_seconds(problem: Problem, machine: Machine, config: Config, cycles: float) -> float:
    """Return the time of so many cycles beside what is moved through memory."""
    moved = tiles.image_cycles(problem, machine, problem.x_bytes + 2 * problem.y_bytes)
    if problem.stride == (1, 1):
        moved *= IN_ORDER
    tasks = problem.n * -(-problem.oh // config.rows)
    return tiles.seconds(problem, machine, max(cycles, moved) + 0.3 * min(cycles, moved), tasks)


def strip_scratch(problem: Problem, machine: Machine, config: Config) -> int:
    """Return the bytes of one worker: a vector, and where the rows under a strip and its own begin."""
    return machine.vector_bytes + aligned_up(
        8 * ((config.across - 1) * problem.stride[0] + problem.kh + config.across), 64
    )


def strip_layout(
    problem: Problem, machine: Machine, config: Config, seconds: float, *, points: bool
) -> Layout:
    """Lay out rows and weights, transformed ones too with `points`."""
    size = np.dtype(problem.compute_dtype).itemsize
    lanes = machine.lanes(problem.compute_dtype)
    sh, sw = problem.stride
    weights, plain = strips_weights(problem, config.across if points else 0, lanes)
    blocks = -(-problem.oh // config.rows)
    rows_in = row_map(problem, (problem.oh + config.across - 2) * sh + problem.kh)
    x_row, y_row = (width * problem.c * size for width in (problem.w, problem.ow))
    outside = np.zeros(x_row + 64, np.uint8)
    values = context(
        *(address(rows_in), address(outside), blocks, config.rows, problem.oh, problem.ow, problem.w),
        *divmod(problem.c, lanes),
        *(problem.padding[2], problem.h * x_row, x_row, problem.c * size, y_row, plain),
    )
    kernel = pixel_strips(
        *(
            config.across,
            problem.kh,
            problem.kw,
            sh,
            sw,
            problem.c_per_group,
            int(points),
            int(is_far(problem, machine)),
            int(problem.c % lanes > 0),
            lanes,
        ),
        *(problem.compute_dtype, problem.activation),
    )
    scratch = strip_scratch(problem, machine, config)
    # Weights are always checked where they are transformed: an infinite one would spread over the rows of a strip.
    checked = points or (problem.padding_mode == "zeros" and any(problem.padding))
    return Layout(kernel, values, problem.n * blocks, scratch, seconds, weights, checked, (rows_in, outside))
