"""A plan: a problem, the chosen algorithm and the packed weights, ready to run on one image after the other.

Calling a plan has two ways. The quick one is for arrays that kernels can use as they are, and is kept to a
handful of comparisons, since on a small image every microsecond shows. Everything else (other kinds of
arrays, other memory layouts, types to convert, residuals, errors) goes the careful way, which ends in the
same `runtime.run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from fastconv import arrays, runtime
from fastconv.algorithms.interface import Array, Config, Layout
from fastconv.machine import Machine
from fastconv.planning.planner import Choice
from fastconv.problem import Problem

_NONE: Mapping[str, Array | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Route:
    """All that is known about a call without its weights; shared by all plans with the same arguments."""

    problem: Problem
    machine: Machine
    choice: Choice
    #: x came without its batch axis, and y goes without.
    unbatched: bool
    #: What would be faster for some weights, best first ...
    faster: tuple[Choice, ...] = ()
    #: None for an empty batch: nothing is run.
    layout: Layout | None = field(init=False)
    workspace_bytes: int = field(init=False)
    x_shape: tuple[int, ...] = field(init=False)
    y_shape: tuple[int, ...] = field(init=False)
    x_bytes: int = field(init=False)
    y_bytes: int = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    compute_dtype: np.dtype[Any] = field(init=False)
    result_dtype: np.dtype[Any] = field(init=False)
    #: Address bits that are zero in an aligned array.
    unaligned: int = field(init=False)
    #: Kernels take x and y as they are: no conversion, no residual, not empty.
    plain: bool = field(init=False)
    #: ... and the routes that would take it.
    chances: tuple[Route, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Work out once what every call compares with."""
        p, first = self.problem, int(self.unbatched)
        dtypes = [np.dtype(name) for name in (p.dtype, p.compute_dtype, p.result_dtype)]
        derived = {
            "layout": self.choice.algorithm.layout(p, self.machine, self.choice.config) if p.n else None,
            "workspace_bytes": p.n and self.choice.algorithm.workspace(p, self.machine, self.choice.config),
            "x_shape": p.x_shape[first:],
            "y_shape": p.y_shape[first:],
            "x_bytes": p.x_bytes,
            "y_bytes": p.y_bytes,
            "dtype": dtypes[0],
            "compute_dtype": dtypes[1],
            "result_dtype": dtypes[2],
            "unaligned": dtypes[0].itemsize - 1,
            "plain": len(set(dtypes)) == 1 and not p.residual and p.n > 0,
            "chances": tuple(replace(self, choice=choice, faster=()) for choice in self.faster),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


class Plan:
    """A convolution that is chosen and packed; ``plan(x)`` runs it.

    Made by `fastconv.plan`. Weights and bias were copied into it: changing them later changes nothing. A plan
    may be called from many threads at once.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> w = np.ones((2, 1, 3, 3), np.float32)
    >>> plan = fastconv.plan((1, 1, 4, 4), w, padding=1)
    >>> plan(np.ones((1, 1, 4, 4), np.float32))[0, 0, 0].tolist()
    [4.0, 6.0, 6.0, 4.0]
    """

    __slots__ = ("_route", "_work")

    def __init__(self, route: Route, work: runtime.Work | None) -> None:
        self._route = route
        self._work = work

    @property
    def problem(self) -> Problem:
        """What is computed."""
        return self._route.problem

    @property
    def algorithm(self) -> str:
        """Name of the chosen algorithm."""
        return self._route.choice.algorithm.name

    @property
    def config(self) -> Config:
        """Its setting."""
        return self._route.choice.config

    @property
    def source(self) -> str:
        """Where the choice came from: "forced", "stored", "measure" or "estimate"."""
        return self._route.choice.source

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory in use while the plan runs, in bytes."""
        return self._route.workspace_bytes

    def __repr__(self) -> str:
        return (
            f"Plan({self.problem.word!r}, algorithm={self.algorithm!r}, config={self.config!r}, "
            f"source={self.source!r}, workspace_bytes={self.workspace_bytes})"
        )

    def __call__(self, x: Any, out: Any = None, residual: Any = None) -> Any:
        """Convolve `x`.

        Parameters
        ----------
        x : array
            Of the planned shape and dtype: a NumPy array, or anything with ``__dlpack__`` in CPU memory.
        out : array, optional
            Where to put the result: of its shape and dtype, writeable, sharing no memory with `x`.
        residual : array, optional
            Added before the activation; like `out` in shape and dtype, and allowed to be `out` itself. To be
            given if, and only if, the plan was made with ``residual=True``.

        Returns
        -------
        array
            `out` if given, else a new array of the kind of `x`.

        Raises
        ------
        TypeError
            When an argument is of a kind that cannot be used.
        ValueError
            When shapes or dtypes are not the planned ones, or `out` cannot take the result.
        """
        route = self._route
        if (
            type(x) is np.ndarray
            and residual is None
            and route.plain
            and x.dtype == route.dtype
            and x.shape == route.x_shape
            and x.flags.c_contiguous
        ):
            if out is None:
                y = arrays.fresh(route.y_shape, route.dtype)
            elif _fits(out, route):
                y = out
            else:
                return self.finish(admit(route, x, out, residual))
            x_at, y_at = arrays.address(x), arrays.address(y)
            apart = x_at + route.x_bytes <= y_at or y_at + route.y_bytes <= x_at
            if apart and not (x_at | y_at) & route.unaligned:
                runtime.run(self._work, x_at, y_at, 0, route.problem.threads)  # type: ignore[arg-type]  # n > 0
                return y
        return self.finish(admit(route, x, out, residual))

    def start(self, x: int, y: int) -> None:
        """Run on images and a result at these addresses, as kernels read and write them; without a residual."""
        if self._work is not None:
            runtime.run(self._work, x, y, 0, self._route.problem.threads)

    def finish(self, call: Admitted) -> Any:
        """Run on arrays that `admit` let in, and return the result in the kind of the caller."""
        route, target = self._route, call.target
        usable = (
            target is not None and target.flags.c_contiguous and route.compute_dtype == route.result_dtype
        )
        y = target if usable else arrays.fresh(route.y_shape, route.compute_dtype)
        assert y is not None  # for the type checker: what is usable is there
        if self._work is not None:
            x = arrays.ready(call.x, route.compute_dtype)
            residual = _readable(call.residual, y)
            residual_at = 0 if residual is None else arrays.address(residual)
            runtime.run(self._work, arrays.address(x), arrays.address(y), residual_at, route.problem.threads)
        if target is None:
            return arrays.give_back(arrays.rounded(y, route.result_dtype), call.x_given)
        if not usable:
            target[...] = arrays.rounded(y, route.result_dtype)
        return call.out_given


@dataclass(slots=True)
class Admitted:
    """Arguments of one call that passed every check: as they were given, and as NumPy arrays."""

    x_given: Any
    out_given: Any
    x: Array
    target: Array | None
    residual: Array | None


def admit(
    route: Route, x: Any, out: Any, residual: Any, weights: Mapping[str, Array | None] = _NONE
) -> Admitted:
    """Check the arguments of one call, before anything runs.

    Parameters
    ----------
    route : Route
    x, out, residual : array
        As for `Plan`.
    weights : mapping of str to array
        Further arrays that `out` must not overlap, by name.

    Raises
    ------
    TypeError, ValueError
        As for `Plan`.
    """
    source = arrays.view("x", x)
    if not arrays.same_type(source.dtype, route.dtype):
        raise ValueError(f"x must have the planned dtype {route.dtype}, got {source.dtype.name}")
    if source.shape != route.x_shape:
        raise ValueError(f"x must have the planned shape {route.x_shape}, got {source.shape}")
    extra = _residual(route, residual)
    target = None if out is None else arrays.view("out", out)
    if target is not None:
        arrays.check_out(target, route.y_shape, route.result_dtype)
        arrays.check_apart("x", target, source)
        if extra is not None and not arrays.same_memory(target, extra):
            arrays.check_apart("residual (unless it is the same array)", target, extra)
        for name, array in weights.items():
            arrays.check_apart(name, target, array)
    return Admitted(x, out, source, target, extra)


def _residual(route: Route, residual: Any) -> Array | None:
    if not route.problem.residual:
        if residual is not None:
            raise ValueError("residual was given to a plan made without one; make it with residual=True")
        return None
    if residual is None:
        raise ValueError("residual must be given: the plan was made with residual=True")
    extra = arrays.view("residual", residual)
    if extra.shape != route.y_shape:
        raise ValueError(f"residual must have the shape of the result, {route.y_shape}, got {extra.shape}")
    if not arrays.same_type(extra.dtype, route.result_dtype):
        raise ValueError(
            f"residual must have the dtype of the result, {route.result_dtype}, got {extra.dtype.name}"
        )
    return extra


def _readable(residual: Array | None, y: Array) -> Array | None:
    if residual is None:
        return None
    ready = arrays.ready(residual, y.dtype)
    # An algorithm may keep partial sums in y before it adds the residual.
    return ready.copy() if np.may_share_memory(ready, y) else ready


def _fits(out: Any, route: Route) -> bool:
    return (
        type(out) is np.ndarray
        and out.dtype == route.dtype
        and out.shape == route.y_shape
        and out.flags.c_contiguous
        and out.flags.writeable
    )
