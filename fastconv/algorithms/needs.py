"""What an algorithm needs and a problem or a machine does not have: the reason of a refusal, and what would mend it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fastconv.problem import Problem


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that stands in the way.

    Parameters
    ----------
    what : str
        What the algorithm needs, as in "needs a 1x1 kernel".
    got : str
        What it found.
    change : mapping of str to object
        Fields of the `Problem` with values that would do; empty where no argument mends it. With the changes of all
        its needs together, an algorithm takes the problem.
    """

    what: str
    got: str
    change: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"needs {self.what}, got {self.got}"


def of_floats(problem: Problem) -> Iterator[Need]:
    """Yield what integers lack."""
    if not problem.compute_dtype.startswith("float"):
        yield Need("a floating dtype", problem.dtype, {"dtype": "float32"})


def of_sums_in_any_order(problem: Problem) -> Iterator[Need]:
    """Yield what class strict does not allow."""
    if problem.accuracy == "strict":
        what = "accuracy='standard' or 'fast', since it reassociates sums"
        yield Need(what, "'strict'", {"accuracy": "standard"})


def of_unit_steps(problem: Problem, *, dilation: bool = True) -> Iterator[Need]:
    """Yield what strides, and dilations, other than 1 lack."""
    if problem.stride != (1, 1):
        yield Need("stride 1", str(problem.stride), {"stride": (1, 1)})
    if dilation and problem.dilation != (1, 1):
        yield Need("dilation 1", str(problem.dilation), {"dilation": (1, 1)})


def of_planes(problem: Problem) -> Iterator[Need]:
    """Yield what pixels of several channels lack."""
    if problem.layout == "NHWC" and (problem.c > 1 or problem.o > 1):
        what = "layout NCHW or one channel in and out"
        yield Need(what, f"NHWC with {problem.c} and {problem.o}", {"layout": "NCHW"})
