"""What every peer states about itself, in the order in which every peer file states it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, ClassVar

from fastconv.compare.data import Array, Arrays
from fastconv.problem import Problem


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to compute one layer, ready to be called.

    Parameters
    ----------
    name
        Peer and variant, e.g. ``"torch channels_last"``.
    layout
        Order of the axes its caller hands over, "NCHW" or "NHWC".
    call
        Computes the layer once; what it returns goes to `result`.
    result
        Turns the return value of `call` into an array with axes NCHW.
    keep
        What must live as long as `call` is used, since the library holds only its address.
    facts
        More to say in the report, by the names of the fields of `Entry`.
    """

    name: str
    layout: str
    call: Callable[[], Any]
    result: Callable[[Any], Array]
    keep: tuple[object, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Peer(ABC):
    """Another library that computes convolutions."""

    #: The word users pass as ``--peers``.
    name: ClassVar[str]
    #: The package that must be importable, and the distribution that carries its version.
    package: ClassVar[str]
    distribution: ClassVar[str]
    #: Order in reports.
    rank: ClassVar[int] = 1
    #: Forms that each have a pool of threads of their own: with several threads each gets its own process.
    pools: ClassVar[int] = 1

    def missing(self) -> str | None:
        """Return None when the library is installed, else what to install."""
        return (
            None
            if find_spec(self.package)
            else f"{self.name} is not installed (pip install {self.distribution})"
        )

    def version(self) -> str:
        """Return the version of the installed library."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "unknown"

    @abstractmethod
    def why_not(self, problem: Problem) -> str | None:
        """Return None when the library can compute `problem`, else the reason."""

    @abstractmethod
    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        """Yield the library's best forms with ``problem.threads`` threads.

        With `functional` the weights are handed over at every call, as they are to `fastconv.conv2d`;
        libraries that only know prepared models yield nothing then.
        """


def why_not_plain(problem: Problem, dtypes: tuple[str, ...]) -> str | None:
    """Return why `problem` is more than the plain zero-padded convolution that every peer knows."""
    if problem.dtype not in dtypes:
        return f"no convolution of {problem.dtype}"
    if problem.padding_mode != "zeros":
        return f"padding mode {problem.padding_mode} is not compared"
    if problem.activation != "none" or problem.residual:
        return "fused activation and residual are not compared"
    return None


def why_not_one_channel(problem: Problem) -> str | None:
    """Return why `problem` is more than filters on one image of one channel."""
    if (problem.n, problem.c) != (1, 1):
        return "it filters one image of one channel"
    if max(problem.stride + problem.dilation) > 1:
        return "it has neither stride nor dilation"
    return why_not_plain(problem, ("float32", "float64"))
