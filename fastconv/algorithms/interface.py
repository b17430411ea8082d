"""What every algorithm states about itself, in the order in which every algorithm file states it.

An algorithm is one file in this folder that ends in ``ALGORITHM = TheClass()``; the registry finds it. To add one,
copy the file that is nearest to it and answer the six questions below: nothing else has to be touched, since the
planner, the tests, the benchmarks and the command line all walk through the registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastconv.algorithms.needs import Need
from fastconv.algorithms.weights import SECONDS_PER_WEIGHT, PackedLayout, PackedWeights
from fastconv.arrays import address
from fastconv.kernels.jit import Kernel
from fastconv.machine import Machine
from fastconv.problem import Problem
from fastconv.runtime import Work

Array: TypeAlias = npt.NDArray[Any]
#: Tunable values of one algorithm: a NamedTuple of ints and words, so that it prints, compares and stores itself.
Config: TypeAlias = tuple[Any, ...]
C = TypeVar("C", bound=Config)


class WeightsDoNotFitError(Exception):
    """Raised by `Algorithm.prepare` when it cannot compute with these weights; the planner takes another algorithm.

    Its text is the reason, as a clause a user can act on.
    """


class WeightsNotFiniteError(WeightsDoNotFitError):
    """Zero padding would be multiplied by an infinite or NaN weight.

    The definition skips taps that fall on zero padding; kernels that multiply by a stored zero give the same answer
    only while the weights are finite. The planner then takes an algorithm that skips them.
    """

    def __init__(self) -> None:
        super().__init__(
            "multiplies zero padding by weights, and some weights are infinite or NaN, which would put NaN where "
            "the definition has none"
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """All that an algorithm needs to run a problem, but for the weights: made once per problem and kept.

    Parameters
    ----------
    kernel
        The task; compiled when its address is first asked for.
    context
        int64 words the task reads; the first five are filled in later, as `CONTEXT` says.
    tasks
        How many tasks make the whole output.
    scratch_bytes
        Private memory of one running worker.
    seconds
        Estimated time of all tasks on one thread.
    weights
        How the kernel wants its weights; None when it reads them as they come.
    pads_with_zeros
        Whether stored zeros of the padding are multiplied by weights.
    keep
        Arrays whose addresses stand in `context`.
    """

    kernel: Kernel
    context: npt.NDArray[np.int64]
    tasks: int
    scratch_bytes: int
    seconds: float
    weights: PackedLayout | None
    pads_with_zeros: bool
    keep: tuple[Array, ...] = ()


#: Meaning of the first words of every context: addresses.
CONTEXT = ("x", "y", "residual", "weights", "bias")


class Algorithm(ABC, Generic[C]):
    """One way to compute a convolution."""

    #: The word users pass as ``algorithm=`` and see in reports.
    name: ClassVar[str]
    #: One line for tables: what it is and when it wins.
    summary: ClassVar[str]

    #: What weights must be for it, as a clause; empty when any finite ones do. Known when they are prepared, so such an
    #: algorithm is not chosen for a problem, but tried in place of a slower one that is.
    needs_of_weights: ClassVar[str] = ""

    #: Whether `error_bound` holds for each output by its own products, or only by the largest of all outputs.
    bound_is_local: ClassVar[bool] = True

    @abstractmethod
    def needs(self, problem: Problem, machine: Machine) -> Iterable[Need]:
        """Return all that keeps this algorithm from computing `problem` here; nothing when it can."""

    def why_not(self, problem: Problem, machine: Machine) -> str | None:
        """Return None when this algorithm can compute `problem`, else the reasons, as clauses a user can act on."""
        return "; ".join(map(str, self.needs(problem, machine))) or None

    @abstractmethod
    def configs(self, problem: Problem, machine: Machine) -> tuple[C, ...]:
        """Return the settings worth trying, the default first."""

    @abstractmethod
    def cost(self, problem: Problem, machine: Machine, config: C) -> float:
        """Return the estimated time in seconds with ``problem.threads`` threads and packed weights."""

    def seconds_alone(self, problem: Problem, machine: Machine, config: C) -> float:
        """Return the estimated time of one thread, by which the runtime decides whether a second one pays."""
        return self.cost(replace(problem, threads=1), machine, config)

    def numerics(self, config: C) -> Config:
        """Return what of `config` decides the bits of the result: nothing, where only the division of work does."""
        return ()

    def packing_cost(self, problem: Problem, config: C) -> float:
        """Return the estimated time in seconds of packing the weights on a typical core (the planner knows this one).

        A functional call pays it every time.
        """
        return SECONDS_PER_WEIGHT * problem.o * (problem.c // problem.groups) * problem.taps

    @abstractmethod
    def error_bound(self, problem: Problem) -> float:
        """Return b in ``|y - exact| <= b * (sum(|x| |w|) + |bias| + |residual|)``, before activation.

        The sum is that of each output, or the largest of all outputs where `bound_is_local` is false.
        """

    @abstractmethod
    def workspace(self, problem: Problem, machine: Machine, config: C) -> int:
        """Return the bytes of scratch memory used while running with ``problem.threads`` threads."""

    @abstractmethod
    def layout(self, problem: Problem, machine: Machine, config: C) -> Layout:
        """Return everything needed to run `problem`, but for the weights."""

    def prepare(self, layout: Layout, weights: Array, bias: Array | None, threads: int = 1) -> Work:
        """Pack `weights` for `layout` and return what the runtime runs.

        They are (O, C / groups, kh, kw) of the compute dtype, aligned, with any strides; the first axis may be several.

        Raises
        ------
        WeightsDoNotFitError
            When the weights are not what `needs_of_weights` says, or the kernel would multiply zero padding by one
            that is not finite.
        """
        context = layout.context.copy()
        keep: tuple[Any, ...]
        if layout.weights is None:
            weights = np.ascontiguousarray(weights)
            keep = (layout, weights, bias)
            context[3] = address(weights)
            context[4] = 0 if bias is None else address(bias)
        else:
            packed = PackedWeights(layout.weights, weights, bias, threads)
            if layout.pads_with_zeros and not packed.finite:
                raise WeightsNotFiniteError
            keep = (layout, packed)
            context[3], context[4] = packed.weights, packed.bias
        return Work(layout.kernel, context, layout.tasks, layout.scratch_bytes, layout.seconds, keep)


#: Any of them, where its settings do not matter.
AnyAlgorithm: TypeAlias = Algorithm[Any]
