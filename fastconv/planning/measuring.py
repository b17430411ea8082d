"""Choosing by the clock: the candidates of the planner, run on random data and raced by the tuner."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastconv import arrays, runtime
from fastconv.algorithms.interface import Array, WeightsDoNotFitError
from fastconv.machine import Machine
from fastconv.planning.planner import AUTO, Candidate, Choice, choose, ranked
from fastconv.planning.tuner import race
from fastconv.problem import Problem

#: Candidates whose estimate is this many times the best are not timed: no cost model errs that much, and a
#: slow loop over a large image would keep the caller waiting for minutes.
HOPELESS = 20.0


def measured(
    problem: Problem,
    machine: Machine,
    weights: Array,
    bias: Array | None,
    algorithm: str = AUTO,
    *,
    exhaustive: bool = False,
) -> Choice:
    """Return the choice that ran fastest here and now, on random x and the given weights.

    Parameters
    ----------
    weights, bias : ndarray
        OIHW and (O,), contiguous, of the compute dtype.
    algorithm : str
        "auto", or the only algorithm whose settings are raced.
    exhaustive : bool
        Race every setting of every algorithm, not only the default one.

    Raises
    ------
    ValueError, WorkspaceLimitError
        As `fastconv.planning.planner.ranked` does.
    """
    choices: list[Choice] = []
    runs: list[Callable[[], object]] = []
    data = _data(problem)
    for row in _entrants(problem, machine, algorithm, exhaustive):
        assert row.config is not None  # ranked() returns candidates that can be used
        try:
            layout = row.algorithm.layout(problem, machine, row.config)
            work = row.algorithm.prepare(layout, weights, bias)
        except WeightsDoNotFitError:
            continue
        choices.append(Choice(row.algorithm, row.config, "measure" if algorithm == AUTO else "forced"))
        runs.append(partial(_run, work, data, problem.threads))
    if not runs:
        # Nobody within reach takes these weights; packing them will find who does, or say why not.
        return choose(problem, machine, algorithm)
    times = race(runs)
    return choices[times.index(min(times))]


def _entrants(problem: Problem, machine: Machine, algorithm: str, exhaustive: bool) -> list[Candidate]:
    rows = ranked(problem, machine, algorithm)
    rows = [row for row in rows if row.seconds <= HOPELESS * rows[0].seconds]
    if exhaustive:
        return rows
    return [row for row in rows if row.config == row.algorithm.configs(problem, machine)[0]]


def _data(problem: Problem) -> tuple[Array, Array, Array | None]:
    random = np.random.default_rng(0)
    dtype = problem.compute_dtype

    def noise(shape: tuple[int, ...]) -> Array:
        # Small whole numbers: no type overflows, and none is subnormal and slow for that reason.
        return arrays.ready(random.integers(-4, 5, shape, np.int8), dtype)

    x = noise(problem.x_shape)
    y = np.empty(problem.y_shape, dtype)
    return x, y, noise(problem.y_shape) if problem.residual else None


def _run(work: runtime.Work, data: tuple[Array, Array, Array | None], threads: int) -> None:
    x, y, residual = data
    where = 0 if residual is None else arrays.address(residual)
    runtime.run(work, arrays.address(x), arrays.address(y), where, threads)
