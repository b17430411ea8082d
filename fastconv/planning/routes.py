"""From the arguments of a call to its `Route`, remembered; and from a Route and weights to a `Plan`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays, runtime
from fastconv.algorithms.interface import Array, WeightsDoNotFitError
from fastconv.arguments import WEIGHT_LAYOUTS
from fastconv.machine import Machine
from fastconv.planning import facts, planner, tuning
from fastconv.planning.decisions import TUNED
from fastconv.planning.plan import Plan, Route
from fastconv.problem import DTYPES, Problem

#: Distinct sets of arguments whose choice is remembered, as many as oneDNN keeps.
CACHE_SIZE = 1024


def find(
    x_shape: tuple[int, ...],
    x_dtype: np.dtype[Any],
    w_shape: tuple[int, ...],
    w_dtype: np.dtype[Any],
    bias: tuple[tuple[int, ...], np.dtype[Any]] | None,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    layout: object,
    weight_layout: object,
    padding_mode: object,
    activation: object,
    residual: bool,
    accuracy: object,
    algorithm: str,
    threads: int,
    workspace_limit: object,
    packing: bool = True,
) -> Route:
    """Return the Route of a call: validate its arguments, name the Problem, choose the algorithm.

    `packing` says that the call packs its weights itself, so that the choice has to count that too.
    """
    arrays.supported("x", x_dtype)
    if x_dtype.name != w_dtype.name:
        raise ValueError(f"x and w must have the same dtype, got {x_dtype.name} and {w_dtype.name}")
    problem = arguments.problem(
        x_shape,
        w_shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        weight_layout=weight_layout,
        dtype=x_dtype.name,
        padding_mode=padding_mode,
        activation=activation,
        bias=bias is not None,
        residual=residual,
        accuracy=accuracy,
        threads=threads,
        workspace_limit=limit(workspace_limit),
    )
    if bias is not None:
        arguments.check_bias(bias[0], bias[1].name, problem)
    return chosen(problem, algorithm, packing=packing, unbatched=len(x_shape) == 3)


def chosen(
    problem: Problem, algorithm: str = planner.AUTO, *, packing: bool, unbatched: bool = False
) -> Route:
    """Return the Route of a Problem: the algorithm is forced, tuned, stored or estimated."""
    machine = facts.host()
    asked = planner.as_planned(problem)
    choice = tuning.choice(asked, machine, algorithm, packing=packing)
    return Route(
        problem, machine, choice, unbatched, planner.chances(asked, machine, choice, packing=packing)
    )


# typed: 1, True and 1.0 are equal to a dictionary, and only the first is a stride.
REMEMBERED = lru_cache(CACHE_SIZE, typed=True)(find)
tuning.forgets.append(REMEMBERED.cache_clear)


def remembered(*call: Any) -> Route:
    """Return ``find(*call)``, from memory when the same call was made before."""
    try:
        return REMEMBERED(*call)
    except TypeError:
        pass
    # Either `find` raised it, or something unhashable was given, which `find` will refuse by its name.
    return find(*call)


def hashable(value: object) -> object:
    """Return a stride, padding or dilation in a form that is equal, as a key, only to what means the same."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    if not isinstance(value, tuple | list):
        return value
    if type(value) is tuple and all(map(_is_key, value)):
        return value
    try:
        return tuple(
            _integers(item) if isinstance(item, tuple | list) else _integers((item,))[0] for item in value
        )
    except TypeError:
        # A list is no key, so nothing is remembered, and `find` refuses it by its name.
        return list(value)


def _is_key(item: object) -> bool:
    """Return whether a part of a tuple is as it would be made: an int, or a pair of ints."""
    if type(item) is tuple and len(item) == 2:
        return type(item[0]) is int and type(item[1]) is int
    return type(item) is int


def _integers(values: Sequence[object]) -> tuple[int, ...]:
    return tuple(arguments.integer("", value) for value in values)


def thread_count(requested: object) -> int:
    """Return how many threads a call gets that asked for `requested`."""
    if requested is None:
        return runtime.effective_threads(None)
    if type(requested) is int and requested == 1:
        return 1
    return runtime.effective_threads(arguments.integer("threads", requested, 1))


def limit(requested: object) -> int:
    """Return the bytes of scratch memory a call may use that asked for `requested`."""
    if requested is None:
        return Machine.default_workspace_limit()
    return arguments.integer("workspace_limit", requested, 0)


def shape_and_dtype(
    name: str, value: Any, ranks: tuple[int, ...] = (3, 4)
) -> tuple[tuple[int, ...], np.dtype[Any] | None]:
    """Return the shape that is meant, and the dtype if `value` is an array."""
    if isinstance(value, tuple | list):
        return arguments.shape(name, value, ranks), None
    if not arrays.is_array(value):
        raise TypeError(f"{name} must be a tuple of integers, or an array, got {type(value).__name__}")
    array = arrays.view(name, value)
    return array.shape, array.dtype


def dtype(value: npt.DTypeLike) -> np.dtype[Any]:
    """Return the dtype that is meant, if arrays of it can be convolved."""
    try:
        return arrays.supported("dtype", np.dtype(value))
    except TypeError as refusal:
        raise TypeError(f"dtype must be one of {', '.join(DTYPES)}, got {value!r}") from refusal


def is_given(name: str, value: Any) -> bool:
    """Return whether there will be an array, from a yes, a no, None or an array."""
    if value is None or isinstance(value, bool):
        return bool(value)
    arrays.view(name, value)
    return True


def packed(route: Route, w: Array, bias: Array | None, weight_layout: str) -> Plan:
    """Return the Plan of a route: pack the weights, by a faster algorithm if these allow it, by another one if they
    are refused.
    """
    if route.layout is None:
        return Plan(route, None)
    weights, b = _for_packing(route, w, bias, weight_layout)
    for chance in route.chances:
        assert chance.layout is not None  # as that of the route itself
        with suppress(WeightsDoNotFitError):
            work = chance.choice.algorithm.prepare(chance.layout, weights, b, route.problem.threads)
            return Plan(chance, work)
    choice, work = planner.prepare(route.problem, route.machine, route.choice, weights, b, route.layout)
    return Plan(route if choice is route.choice else replace(route, choice=choice, faster=()), work)


def planned(
    route: Route,
    w: Array,
    bias: Array | None,
    weight_layout: str = "OIHW",
    algorithm: str = planner.AUTO,
    rigor: str = "estimate",
) -> Plan:
    """Return the Plan of a route with weights of its own, for whose choice the clock is asked if `rigor` says so."""
    if rigor in TUNED and route.problem.n:
        weights, b = _for_packing(route, w, bias, weight_layout)
        choice = tuning.measured(route.problem, route.machine, weights, b, algorithm, rigor)
        route = replace(route, choice=choice, faster=())
    # Algorithms may use weights where they lie; the copy is what makes a plan independent of its caller's
    # arrays.
    return packed(route, w.copy(), None if bias is None else bias.copy(), weight_layout)


def _for_packing(
    route: Route, w: Array, bias: Array | None, weight_layout: str
) -> tuple[Array, Array | None]:
    dtype = route.compute_dtype
    if weight_layout != "OIHW":
        w = w.transpose(WEIGHT_LAYOUTS[weight_layout])
    return arrays.aligned(w, dtype), None if bias is None else arrays.ready(bias, dtype)
