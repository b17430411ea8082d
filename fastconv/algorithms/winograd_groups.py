"""Small groups in NHWC by Winograd's F(4, 3) down the columns: half the products, sums that slide along the rows.

Wins for 3x3 kernels whose groups of 2, 4, 8 or 16 channels have as many outputs as inputs. In two dimensions the
transforms would cost more than the few products they save; in one dimension they are done in registers on the way from
the image to the sums, once for each column, and nothing is stored between. Row stride 1, any column stride, up to three
columns of taps.

Not for class `strict`: the sums are reassociated. Values that are not finite would spread over the rows of a strip, so
a strip that meets one is computed once more by the definition.

Source: A. Lavin & S. Gray, arXiv:1509.09308; points after B. Barabasz et al., arXiv:1803.10986. Start reading at
`pixel_strips` in `strips_task`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fastconv.algorithms import needs
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.strips import (
    Config,
    division,
    needs_of_groups,
    strip_cycles,
    strip_layout,
    strip_scratch,
    strip_seconds,
)
from fastconv.algorithms.strips_weights import packing_seconds
from fastconv.machine import Machine
from fastconv.problem import Problem

#: Most channels of a group: beyond it the dense algorithms fill their vectors.
MOST_CHANNELS = 16
#: Taps of a column; of a row at most as many; output rows of a strip; vectors of its walk (three windows of six points,
#: a column, a weight and a shuffled point).
TAPS, ROWS, REGISTERS = 3, 4, 26
#: Additions and multiply-adds of both transforms of a column.
TRANSFORMS = 26


class WinogradGroups(Algorithm[Config]):
    """See the head of this file."""

    name = "winograd_groups"
    summary = "3x3 kernels of groups of 2 to 16 channels in NHWC with half the products, not in class strict"
    bound_is_local = False

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse other groups and kernels, row strides, dilation, class strict, and machines with few registers."""
        yield from needs_of_groups(problem, machine, MOST_CHANNELS)
        yield from needs.of_sums_in_any_order(problem)
        if problem.kh != TAPS or problem.kw > TAPS:
            change = {"kh": TAPS, "kw": min(problem.kw, TAPS)}
            yield Need(
                f"a kernel of {TAPS} rows and at most {TAPS} columns", f"{problem.kh}x{problem.kw}", change
            )
        if problem.stride[0] != 1:
            yield Need("a row stride of 1", str(problem.stride[0]), {"stride": (1, problem.stride[1])})
        if problem.dilation != (1, 1):
            yield Need("dilation 1", str(problem.dilation), {"dilation": (1, 1)})
        if machine.vector_registers < REGISTERS:
            yield Need(f"{REGISTERS} vector registers", str(machine.vector_registers))

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return the one strip there is."""
        return (division(problem, ROWS),)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products, shuffles, transforms and loads of all strips, and what is moved through memory."""
        points, g, phases = ROWS + TAPS - 1, problem.c_per_group, min(problem.stride[1], problem.kw)
        products = points * problem.kw * g
        others = phases * ((g - 1) * points + TRANSFORMS)
        cycles = strip_cycles(problem, machine, config, (TAPS, problem.kw), products, others)
        return strip_seconds(problem, machine, config, cycles)

    def packing_cost(self, problem: Problem, config: Config) -> float:
        """Count the weights, plain and transformed."""
        return packing_seconds(problem, ROWS)

    def error_bound(self, problem: Problem) -> float:
        """Grow with the norms of the transforms and with the square root of the products; see `bound_is_local`."""
        eps = float(np.finfo(problem.compute_dtype).eps)
        return eps * 12.0 * (1 + math.sqrt(problem.c_per_group * problem.kw) / 4)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Return the addresses of the rows under a strip for each worker."""
        return strip_scratch(problem, machine, config) * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out rows and weights."""
        alone = self.cost(replace(problem, threads=1), machine, config)
        return strip_layout(problem, machine, config, alone, points=True)


ALGORITHM = WinogradGroups()
