"""Runs one algorithm on one problem without the planner, in memory that shows whatever it forgets."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from oracle import Array, Case, check

from fastconv import runtime
from fastconv.algorithms import registry
from fastconv.algorithms.interface import Algorithm, Config, Layout
from fastconv.machine import Machine
from fastconv.problem import Problem
from fastconv.runtime import Work, workspace

#: In integer results: what no small product is.
UNWRITTEN = -(2**31) + 12345
#: Long enough for a second thread, short enough for one block of tasks.
SECONDS = 1e-3

NAMES = tuple(registry.all())


def rank_one(name: str) -> bool:
    """Tell whether the algorithm takes only kernels that are a column times a row."""
    return bool(registry.get(name).needs_of_weights)


def accepted(name: str, problem: Problem) -> Algorithm:
    """Return the algorithm, or skip the test with its reason against the problem."""
    algorithm = registry.get(name)
    reason = algorithm.why_not(problem, Machine.host())
    if reason is not None:
        pytest.skip(f"{name} {reason}")
    return algorithm


def accepting(name: str, words: tuple[str, ...]) -> str:
    """Return the first of these problems that the algorithm takes, or skip the test."""
    for word in words:
        if registry.get(name).why_not(Problem.parse(word), Machine.host()) is None:
            return word
    pytest.skip(f"{name} takes none of {len(words)} problems")


def is_exact(algorithm: Algorithm, problem: Problem) -> bool:
    """Tell whether it adds plain products, so that sums of small integers must come out exactly.

    That is what the class "strict" may use: no transforms.
    """
    return algorithm.why_not(replace(problem, accuracy="strict"), Machine.host()) is None


def promise(algorithm: Algorithm, problem: Problem, magnitude: Array) -> tuple[Array, float]:
    """Return the magnitude and the factor of the published bound: each output's own, or the largest for all."""
    if not algorithm.bound_is_local:
        magnitude = np.full_like(magnitude, magnitude.max(initial=0))
    return magnitude, algorithm.error_bound(problem)


def judge(algorithm: Algorithm, problem: Problem, y: Array, expected: Array, magnitude: Array) -> None:
    """Raise AssertionError unless the algorithm kept its published bound."""
    check(problem, y, expected, *promise(algorithm, problem, magnitude))


@contextmanager
def poisoned(byte: int = 0xFF) -> Iterator[None]:
    """Fill every workspace that is handed out: 0xFF bytes are NaN in both float types and -1 in integers."""
    take = workspace.take

    def filled(size: int) -> workspace.Block:
        block = take(size)
        ctypes.memset(block.address, byte, block.size)
        return block

    with mock.patch.object(workspace, "take", filled):
        yield


def prepared(algorithm: Algorithm, problem: Problem, config: Config, case: Case) -> tuple[Layout, Work]:
    """Return the layout and the work of a case, weights packed."""
    kind = problem.compute_dtype
    layout = algorithm.layout(problem, Machine.host(), config)
    weights = np.ascontiguousarray(case.w, kind)
    bias = None if case.bias is None else np.ascontiguousarray(case.bias, kind)
    with poisoned():
        work = algorithm.prepare(layout, weights, bias, 1)
    return layout, replace(work, seconds=SECONDS, keep=(*work.keep, weights, bias))


def empty_result(problem: Problem) -> Array:
    """Return a result in which nothing was written yet."""
    fill = np.nan if problem.dtype.startswith("float") else UNWRITTEN
    return np.full(problem.y_shape, fill, problem.compute_dtype)


def run(problem: Problem, work: Work, case: Case, threads: int = 1, byte: int = 0xFF) -> Array:
    """Run a work on a case and return y in the compute dtype."""
    kind = problem.compute_dtype
    x = np.ascontiguousarray(case.x, kind)
    residual = None if case.residual is None else np.ascontiguousarray(case.residual, kind)
    before = x.copy(), None if residual is None else residual.copy()
    y = empty_result(problem)
    at = 0 if residual is None else residual.ctypes.data
    with poisoned(byte):
        runtime.run(work, x.ctypes.data, y.ctypes.data, at, threads)
    np.testing.assert_array_equal(x, before[0], err_msg="x was written to")
    if residual is not None:
        np.testing.assert_array_equal(residual, before[1], err_msg="residual was written to")
    return y


def compute(
    algorithm: Algorithm, problem: Problem, case: Case, config: Config | None = None, threads: int = 1
) -> Array:
    """Return y by an algorithm, in its default setting unless one is given."""
    chosen = algorithm.configs(problem, Machine.host())[0] if config is None else config
    return run(problem, prepared(algorithm, problem, chosen, case)[1], case, threads)
