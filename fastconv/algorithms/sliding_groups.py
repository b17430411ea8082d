"""Small groups in NHWC by the definition: sums slide along rows of pixels, whole groups side by side in a vector.

Wins where groups of 2, 4, 8 or 16 channels have as many outputs as inputs, kernels are small and class `strict` or the
stride leaves no transform: every lane is full, each input is loaded once, and one shuffle of it serves all taps it
meets. Kernels up to 7x7, any stride, no dilation.

Source: none. Start reading at `pixel_strips` in `strips_task`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastconv.algorithms.geometry import rounding
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.algorithms.strips import (
    MOST_TAPS,
    Config,
    division,
    needs_of_groups,
    sliding_cycles,
    sliding_rows,
    strip_layout,
    strip_scratch,
    strip_seconds,
)
from fastconv.algorithms.strips_weights import packing_seconds
from fastconv.machine import Machine
from fastconv.problem import Problem

#: Most channels of a group: beyond it the dense algorithms fill their vectors.
MOST_CHANNELS = 16


class SlidingGroups(Algorithm[Config]):
    """See the head of this file."""

    name = "sliding_groups"
    summary = (
        "groups of 2 to 16 channels in NHWC: sums slide along rows, whole groups side by side in the lanes"
    )

    def needs(self, problem: Problem, machine: Machine) -> Iterator[Need]:
        """Refuse other groups, long kernels and dilation."""
        yield from needs_of_groups(problem, machine, MOST_CHANNELS)
        if max(problem.kh, problem.kw) > MOST_TAPS:
            change = {"kh": min(problem.kh, MOST_TAPS), "kw": min(problem.kw, MOST_TAPS)}
            yield Need(f"kernels up to {MOST_TAPS}x{MOST_TAPS}", f"{problem.kh}x{problem.kw}", change)
        if problem.dilation != (1, 1):
            yield Need("dilation 1", str(problem.dilation), {"dilation": (1, 1)})

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """Return strips of so many rows as fit the registers, by cost."""
        choices = [
            division(problem, rows) for rows in sliding_rows(problem, machine, (problem.kh, problem.kw))
        ]
        return tuple(sorted(choices, key=lambda config: self.cost(problem, machine, config)))

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """Count products, shuffles and loads of all strips, and what is moved through memory."""
        cycles = sliding_cycles(problem, machine, config, (problem.kh, problem.kw))
        return strip_seconds(problem, machine, config, cycles)

    def packing_cost(self, problem: Problem, config: Config) -> float:
        """Count the weights."""
        return packing_seconds(problem, 0)

    def error_bound(self, problem: Problem) -> float:
        """One sequential FMA sum over all products, then the residual."""
        return rounding(problem) * (problem.taps * problem.c_per_group + 3)

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """Return the addresses of the rows under a strip for each worker."""
        return strip_scratch(problem, machine, config) * problem.threads

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Lay out rows and weights."""
        alone = self.cost(replace(problem, threads=1), machine, config)
        return strip_layout(problem, machine, config, alone, points=False)


ALGORITHM = SlidingGroups()
