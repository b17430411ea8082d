"""Convolutions one after the other, strip by strip of an image: what one step leaves is in cache for the next."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.weights import PackedWeights
from fastconv.arrays import Array, address
from fastconv.machine import Machine
from fastconv.operators import chain_kernels
from fastconv.operators.chain_kernels import CONTEXT_BYTES, STEP_WORDS
from fastconv.planning import planner, tuning
from fastconv.planning.planner import AUTO, Choice
from fastconv.problem import Problem
from fastconv.runtime import Work

#: Where a step reads or writes: the input, the result, or memory of the strip.
X, Y, STRIP = 0, 1, 2


class Step(NamedTuple):
    """One convolution of a strip, and where it reads and writes: which array, how many bytes from its beginning."""

    problem: Problem
    source: tuple[int, int]
    target: tuple[int, int]


class Chain:
    """The steps of all strips, but for the weights: made once, run many times.

    Parameters
    ----------
    strips : sequence of sequences of Step
        Each strip has as many steps, which run in order.
    strip_bytes : int
        Memory for what a step of a strip leaves to later ones.

    Attributes
    ----------
    problems : tuple of tuples of Problem
        The convolutions that occur as first, second ... step.
    """

    def __init__(self, strips: Sequence[Sequence[Step]], strip_bytes: int) -> None:
        self.problems = tuple(
            tuple(dict.fromkeys(step.problem for step in steps)) for steps in zip(*strips, strict=True)
        )
        firsts = np.cumsum([0, *map(len, self.problems)])
        rows, which = [], []
        for strip in strips:
            for step, problems, first in zip(strip, self.problems, firsts, strict=False):
                which.append(first + problems.index(step.problem))
                rows.append([*_shifted(*step.source), *_shifted(*step.target), 0, 0, 0, 0])
        self.table, self.which = np.array(rows, np.int64).reshape(-1, STEP_WORDS), np.array(which)
        self.strips = len(strips)
        self.room = CONTEXT_BYTES + aligned_up(strip_bytes, 64)
        #: What was chosen for each step last, and what follows from it: in one piece, for threads to exchange.
        self._last: tuple[list[tuple[_Chosen, ...]], _Joined] | None = None

    def work(self, weights: Sequence[Array], biases: Sequence[Array | None]) -> Work:
        """Return what the runtime runs, one task for each strip, with the weights (OIHW) and bias of each step."""
        chosen = [_chosen(problems) for problems in self.problems]
        last = self._last
        if last is None or not all(map(operator.is_, chosen, last[0])):
            self._last = last = (chosen, _Joined(self, [one.layout for step in chosen for one in step]))
        joined = last[1]
        words = joined.words.copy()
        keep: list[Any] = [joined]
        first = 0
        for step, w, bias in zip(chosen, weights, biases, strict=True):
            packings: dict[int, PackedWeights] = {}
            for number, (choice, layout, packed_for) in enumerate(step):
                packed = packings.get(packed_for)
                if packed is None:
                    if layout.weights is None or not _packs_plainly(choice):
                        return self._carefully(weights, biases)
                    packed = packings[packed_for] = PackedWeights(layout.weights, w, bias, 1)
                    if layout.pads_with_zeros and not packed.finite:
                        return self._carefully(weights, biases)
                place = joined.starts[first + number]
                words[place + 3], words[place + 4] = packed.weights, packed.bias
            keep.extend(packings.values())
            first += len(step)
        return joined.work(words, keep)

    def _carefully(self, weights: Sequence[Array], biases: Sequence[Array | None]) -> Work:
        """Return the same where a step needs another algorithm than the one chosen for finite weights."""
        works = [
            work for step in zip(self.problems, weights, biases, strict=True) for work in prepared(*step)
        ]
        joined = _Joined(self, works)
        return joined.work(joined.words, works)


class _Joined:
    """Contexts of all convolutions of a chain, one behind the other, then the table of the steps: one array."""

    def __init__(self, chain: Chain, parts: Sequence[Layout | Work]) -> None:
        for part in parts:
            if part.context.nbytes > CONTEXT_BYTES:
                raise ValueError(
                    f"contexts in chains have at most {CONTEXT_BYTES // 8} words, got {part.context.size}"
                )
        self.starts = np.cumsum([0, *(part.context.size for part in parts)]).tolist()
        numbers = [
            (part.kernel.address, 8 * start, part.context.size, part.tasks)
            for part, start in zip(parts, self.starts, strict=False)
        ]
        table = chain.table.copy()
        table[:, 4:] = np.array(numbers, np.int64)[chain.which]
        self.words = np.concatenate([*(part.context for part in parts), table.ravel()])
        steps = len(chain.problems)
        self._context = np.array((0, 0, 0, 0, 8 * self.starts[-1], steps, chain.room), np.int64)
        self._strips = chain.strips
        self._scratch = chain.room + max(part.scratch_bytes for part in parts)
        self._seconds = sum(parts[which].seconds for which in chain.which)
        self._parts = parts

    def work(self, words: npt.NDArray[np.int64], keep: Sequence[Any]) -> Work:
        """Return the work with these words, a copy of the own ones with addresses of weights in them."""
        context = self._context.copy()
        context[3] = address(words)
        return Work(
            chain_kernels.chain(), context, self._strips, self._scratch, self._seconds, (words, *keep)
        )


def _shifted(array: int, offset: int) -> tuple[int, int]:
    """Return a place as the kernel counts it: strips keep their memory behind a context."""
    return array, offset + (CONTEXT_BYTES if array == STRIP else 0)


class _Chosen(NamedTuple):
    """What the planner chose for a convolution, and which other one of a chain packs the same weights for it."""

    choice: Choice
    layout: Layout
    packed_for: int


@lru_cache(maxsize=1024)
def _chosen(problems: tuple[Problem, ...]) -> tuple[_Chosen, ...]:
    machine = Machine.host()
    found: list[_Chosen] = []
    for problem in problems:
        choice = tuning.choice(problem, machine, AUTO, packing=True)
        layout = choice.algorithm.layout(problem, machine, choice.config)
        same = (
            k for k, other in enumerate(found) if _same_packing(other.choice, other.layout, choice, layout)
        )
        found.append(_Chosen(choice, layout, next(same, len(found))))
    return tuple(found)


tuning.forgets.append(_chosen.cache_clear)


def _same_packing(a: Choice, a_layout: Layout, b: Choice, b_layout: Layout) -> bool:
    """Return whether weights packed for `a` serve `b`: the same task fills the same memory by the same tables."""
    packed, other = a_layout.weights, b_layout.weights
    if a.algorithm is not b.algorithm or not _packs_plainly(a):
        return False
    if packed is None or other is None or a_layout.pads_with_zeros < b_layout.pads_with_zeros:
        return False
    mine, theirs = packed.work, other.work
    if mine.kernel is not theirs.kernel or mine.context.size != theirs.context.size:
        return False
    if len(mine.keep) != len(theirs.keep) or not all(map(np.array_equal, mine.keep, theirs.keep)):
        return False
    tables = {address(table) for table in mine.keep}
    alike = mine.context == theirs.context
    return all(same or int(word) in tables for same, word in zip(alike, mine.context, strict=True))


def _packs_plainly(choice: Choice) -> bool:
    """Return whether all that stands between weights and running is packing them."""
    return type(choice.algorithm).prepare is Algorithm.prepare


def prepared(problems: Sequence[Problem], weights: Array, bias: Array | None) -> list[Work]:
    """Return the works of convolutions with the same weights, by whatever the planner chooses for each.

    Weights, (O, C / groups, kh, kw) with any strides, are packed once for all that take them in the same order.
    """
    machine = Machine.host()
    works: list[Work] = []
    taken: list[bool] = []
    for problem, (choice, layout, packed_for) in zip(problems, _chosen(tuple(problems)), strict=True):
        if packed_for < len(works) and taken[packed_for]:
            works.append(_borrowing(layout, works[packed_for]))
            taken.append(True)
            continue
        last, work = planner.prepare(problem, machine, choice, weights, bias, layout)
        works.append(work)
        # Weights that are not finite may have sent it to another algorithm.
        taken.append(last is choice)
    return works


def _borrowing(layout: Layout, owner: Work) -> Work:
    """Return the work of a layout with the packed weights of another."""
    context = layout.context.copy()
    context[3:5] = owner.context[3:5]
    return Work(layout.kernel, context, layout.tasks, layout.scratch_bytes, layout.seconds, (layout, owner))


def heights(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """Return first row and number of rows of each strip of an image, from the bytes that a row takes while in work.

    A quarter of L2 is theirs (half and an eighth are as fast, all of it is 10 % slower). Strips are equal where that
    costs little, for each height needs packed weights of its own.
    """
    most = max(1, min(rows, Machine.host().l2_bytes // 4 // max(row_bytes, 1)))
    most = max((height for height in range(-(-most // 2), most + 1) if rows % height == 0), default=most)
    return [(first, min(most, rows - first)) for first in range(0, rows, most)]
