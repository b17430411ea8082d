"""The clock: times things against each other. It takes callables and knows nothing about convolution."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

#: Rounds after which a slow time is no longer put down to a disturbance of the machine.
SURE = 2


def race(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int = 5,
    floor_s: float = 1e-3,
    loser: float = float("inf"),
    deadline: float = float("inf"),
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
    loser : float
        Who is this many times slower than the fastest in `SURE` rounds is not timed again.
    deadline : float
        No round begins after this moment of `clock`, but for the first.
    clock : callable
        Returns seconds; tests pass their own.
    """
    repeats = []
    for run in runs:
        run()
        once = max(_timed(run, 1, clock), 1e-9)
        repeats.append(max(1, round(floor_s / once)))
    best = [float("inf")] * len(runs)
    for turn in range(rounds):
        if turn and clock() > deadline:
            break
        limit = loser * min(best, default=0.0)
        for index, run in enumerate(runs):
            if turn < SURE or best[index] <= limit:
                best[index] = min(best[index], _timed(run, repeats[index], clock))
    return best


def _timed(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats
