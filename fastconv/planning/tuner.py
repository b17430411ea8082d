"""The clock: times things against each other. It takes callables and knows nothing about convolution."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


def race(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int = 5,
    floor_s: float = 1e-3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the best time of one call of each of `runs`, in seconds.

    Every run is called once to warm up (to compile, to fill caches) and then timed once per round, one after
    the other, so that a disturbance of the machine falls on all. The best round counts: noise only adds.

    Parameters
    ----------
    runs : sequence of callables
    rounds : int
        How often each is timed.
    floor_s : float
        A timing lasts at least about this long, by calling a short run repeatedly: clocks have a grain.
    clock : callable
        Returns seconds; tests pass their own.
    """
    repeats = []
    for run in runs:
        run()
        once = max(_timed(run, 1, clock), 1e-9)
        repeats.append(max(1, round(floor_s / once)))
    best = [float("inf")] * len(runs)
    for _ in range(rounds):
        for index, run in enumerate(runs):
            best[index] = min(best[index], _timed(run, repeats[index], clock))
    return best


def _timed(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats
