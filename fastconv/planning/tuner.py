"""The clock: times things against each other. It takes callables and knows nothing about convolution."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

#: Rounds after which a slow time is no longer put down to a disturbance of the machine.
SURE = 2
#: A run of many rounds' time that takes this many times the fastest is no disturbance: it is not run again. The first
#: run of several may find its weights in memory instead of a cache, and is allowed more.
FAR_BEHIND, HOPELESS, MANY = 3.0, 10.0, 10.0


class Times(NamedTuple):
    """What the clock says about one run.

    Parameters
    ----------
    best : float
        Seconds of a call in the best round: noise only adds.
    spread : float
        How far the middle round lies above the best one, as a part of it.
    rounds : int
        Rounds it took part in.
    """

    best: float
    spread: float
    rounds: int


def race(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int = 5,
    floor_s: float = 2e-5,
    round_s: float = 1e-3,
    loser: float = float("inf"),
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
    leads: Callable[[int, float], None] | None = None,
) -> list[Times]:
    """Return the times of one call of each of `runs`.

    Every run was called before, so that it is compiled. Here each is called twice to fill caches and to see how long
    it takes, and then timed once per round, one after the other, so that a disturbance of the machine falls on all.

    Parameters
    ----------
    runs : sequence of callables
    rounds : int
        How often each is timed.
    floor_s : float
        A timing lasts at least about this long, by calling a short run repeatedly: clocks have a grain.
    round_s : float
        A round consists of as many timings as fit into this, and the shortest counts: where another process takes the
        core every few milliseconds, some are spared.
    loser : float
        Who is this many times slower than the fastest in `SURE` rounds is not timed again.
    deadline : float
        No round begins after this moment of `clock`, but for the first.
    clock : callable
        Returns seconds; tests pass their own.
    leads : callable, optional
        Called as ``leads(index, seconds)`` after each round with the fastest so far.
    """
    seen: list[list[float]] = [[] for _ in runs]
    samples, shortest = [(0, 0)] * len(runs), float("inf")
    for index, run in enumerate(runs):
        once = _timed(run, 1, 1, clock)
        if once < max(HOPELESS * shortest, MANY * round_s):
            once = max(min(once, _timed(run, 1, 1, clock)), 1e-9)
        shortest = min(shortest, once)
        if once >= MANY * round_s and once > FAR_BEHIND * shortest and loser < FAR_BEHIND:
            seen[index].append(once)
        else:
            repeats = max(1, round(floor_s / once))
            samples[index] = (max(1, round(round_s / (once * repeats))), repeats)
    for turn in range(rounds):
        if turn and clock() > deadline:
            break
        limit = loser * min((min(times) for times in seen if times), default=0.0)
        for index, run in enumerate(runs):
            if samples[index][0] and (turn < SURE or min(seen[index]) <= limit):
                seen[index].append(_timed(run, *samples[index], clock))
        if leads and seen:
            first = min(range(len(runs)), key=lambda index: min(seen[index]))
            leads(first, min(seen[first]))
    return [_times(times) for times in seen]


def _times(rounds: list[float]) -> Times:
    best = min(rounds)
    return Times(best, median(rounds) / best - 1 if best else 0.0, len(rounds))


def _timed(run: Callable[[], object], samples: int, repeats: int, clock: Callable[[], float]) -> float:
    """Return the seconds of one call in the shortest of `samples` timings of `repeats` calls."""
    best = float("inf")
    for _ in range(samples):
        start = clock()
        for _ in range(repeats):
            run()
        best = min(best, clock() - start)
    return best / repeats
