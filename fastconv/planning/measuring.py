"""Choosing by the clock: the candidates of the planner, run on random data and raced by the tuner."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from fastconv import arrays, runtime
from fastconv.algorithms.interface import Array, WeightsDoNotFitError
from fastconv.machine import Machine
from fastconv.planning.planner import AUTO, Candidate, Choice, ranked
from fastconv.planning.tuner import Times, race
from fastconv.problem import Problem

#: Candidates whose estimate is this many times the best are not timed: no cost model errs that much, and a
#: slow loop over a large image would keep the caller waiting for minutes.
HOPELESS = 20.0
#: Candidates, best by estimate, that are timed besides the default setting of every algorithm: with the defaults alone
#: one ResNet-50 layer in ten was 9 to 18 % slower than need be.
FEW = 6
#: Candidates that were this many times slower than the fastest are not run again.
LOSER = 1.5


def timed(
    problem: Problem,
    machine: Machine,
    weights: Array,
    bias: Array | None,
    algorithm: str = AUTO,
    *,
    exhaustive: bool = False,
    deadline: float = float("inf"),
    leads: Callable[[Choice, float], None] | None = None,
) -> list[tuple[Choice, Times]]:
    """Return the choices that ran here and now with their times, the fastest first; on random x.

    None at all when nobody within reach takes these weights.

    Parameters
    ----------
    weights, bias : ndarray
        (O, C / groups, kh, kw) with any strides, and (O,), contiguous; of the compute dtype.
    algorithm : str
        "auto", or the only algorithm whose settings are raced.
    exhaustive : bool
        Race every setting of every algorithm, not only the default one.
    deadline : float
        When to stop, by `time.perf_counter`; everybody runs once all the same.
    leads : callable, optional
        Called as ``leads(choice, seconds)`` with the fastest so far, again and again.

    Raises
    ------
    ValueError, WorkspaceLimitError
        As `fastconv.planning.planner.ranked` does.
    """
    source = "measure" if algorithm == AUTO else "forced"
    data = _data(problem)
    ran: list[tuple[Candidate, Choice, Callable[[], object], Array]] = []
    for row in entrants(problem, machine, algorithm, exhaustive=exhaustive):
        assert row.config is not None  # ranked() returns candidates that can be used
        try:
            layout = row.algorithm.layout(problem, machine, row.config)
            work = row.algorithm.prepare(layout, weights, bias)
        except WeightsDoNotFitError:
            continue
        run = partial(_run, work, data, problem.threads)
        run()
        ran.append((row, Choice(row.algorithm, row.config, source), run, _sample(data[1])))
    right = _right(problem, weights, bias, [(row, sample) for row, _, _, sample in ran])
    choices = [choice for row, choice, _, _ in ran if row in right]
    runs = [run for row, _, run, _ in ran if row in right]
    with threadpool_limits(limits=1):
        # Idle pools of other libraries must not spin beside the clock.
        times = race(
            runs,
            loser=LOSER,
            deadline=deadline,
            leads=lambda index, seconds: leads(choices[index], seconds) if leads else None,
        )
    return sorted(zip(choices, times, strict=True), key=lambda pair: pair[1].best)


def _sample(y: Array) -> Array:
    """Return some thousand outputs, from everywhere."""
    flat = y.reshape(-1)
    return flat[:: max(1, flat.size // 4096)].copy()


def _right(
    problem: Problem, weights: Array, bias: Array | None, answers: list[tuple[Candidate, Array]]
) -> list[Candidate]:
    """Return the candidates whose answers agree with the majority's, within what they promise; warn of others."""
    # |x| and the residual are at most 4. Activations are at most 1.13 times as steep as what they are applied to.
    sums = 4.0 * np.abs(weights, dtype=np.float64).reshape(problem.o, -1).sum(axis=1).max(initial=0)
    magnitude = 1.2 * float(sums + 4.0 + (0.0 if bias is None else np.abs(bias).max(initial=0)))
    if not answers or not np.isfinite(magnitude):
        return [row for row, _ in answers]
    middle = np.median(np.stack([sample.astype(np.float64) for _, sample in answers]), axis=0)
    bounds = [row.algorithm.error_bound(problem) for row, _ in answers]
    found = []
    for (row, sample), bound in zip(answers, bounds, strict=True):
        if float(np.abs(sample - middle).max(initial=0)) <= (bound + max(bounds)) * magnitude:
            found.append(row)
            continue
        warnings.warn(
            f"{row.algorithm.name} {row.config} computes {problem} otherwise than the others and is left out",
            RuntimeWarning,
            stacklevel=3,
        )
    return found


def entrants(
    problem: Problem, machine: Machine, algorithm: str = AUTO, *, exhaustive: bool = False
) -> list[Candidate]:
    """Return whom the clock is to judge: the few best by estimate and every default setting, or every setting."""
    rows = ranked(problem, machine, algorithm)
    rows = [row for row in rows if row.seconds <= HOPELESS * rows[0].seconds]
    if exhaustive:
        return rows
    defaults = [row for row in rows if row.config == row.algorithm.configs(problem, machine)[0]]
    return rows[:FEW] + [row for row in defaults if row not in rows[:FEW]]


def _data(problem: Problem) -> tuple[Array, Array, Array | None]:
    random = np.random.default_rng(0)
    dtype = problem.compute_dtype

    def noise(shape: tuple[int, ...]) -> Array:
        # Small whole numbers: no type overflows, and none is subnormal and slow for that reason.
        values = arrays.fresh(shape, np.dtype(dtype))
        values[...] = random.integers(-4, 5, shape, np.int8)
        return values

    x = noise(problem.x_shape)
    y = arrays.fresh(problem.y_shape, np.dtype(dtype))
    return x, y, noise(problem.y_shape) if problem.residual else None


def _run(work: runtime.Work, data: tuple[Array, Array, Array | None], threads: int) -> None:
    x, y, residual = data
    where = 0 if residual is None else arrays.address(residual)
    runtime.run(work, arrays.address(x), arrays.address(y), where, threads)
