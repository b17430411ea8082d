"""The clock: contestants of one layer in turns, so that a slow moment of the machine falls on all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call over all calls of one contestant."""

    min_s: float
    median_s: float
    spread: float
    calls: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: per contestant at least `seconds` and `calls`, in turns of `turn_s`."""

    seconds: float = 0.4
    calls: int = 30
    turn_s: float = 0.01
    #: Calls so slow that `calls` of them would take longer than this end here, but not before `fewest`.
    most_s: float = 2.0
    fewest: int = 3


QUICK = Effort(seconds=0.03, calls=3, turn_s=0.005, most_s=0.3, fewest=1)

#: A call that takes this long brings its own data into the caches; a quicker one needs a first call to do it.
LONG_CALL_S = 0.1


@dataclass(slots=True)
class _Run:
    call: Callable[[], object]
    samples: list[float] = field(default_factory=list)
    spent: float = 0.0

    def turn(self, seconds: float) -> None:
        """Call for `seconds`; quick calls at least twice: the first finds other data cached."""
        clock = time.perf_counter
        begin = now = clock()
        done = 0
        while now - begin < seconds or done == 0 or (done == 1 and now - begin < LONG_CALL_S):
            start = clock()
            self.call()
            now = clock()
            self.samples.append(now - start)
            done += 1
        self.spent += now - begin

    def enough(self, effort: Effort) -> bool:
        return self.exhausted(effort) or (self.spent >= effort.seconds and len(self.samples) >= effort.calls)

    def exhausted(self, effort: Effort) -> bool:
        return self.spent >= effort.most_s and len(self.samples) >= effort.fewest


def measure(calls: Sequence[Callable[[], object]], effort: Effort) -> list[Timing]:
    """Return the timing of every call, in order; they take turns, and each was made once before."""
    runs = [_Run(call) for call in calls]
    collecting = gc.isenabled()
    gc.disable()
    try:
        # A fair share of turns for all: nobody stops before the slowest has enough.
        while runs and not all(run.enough(effort) for run in runs):
            for run in runs:
                if not run.exhausted(effort):
                    run.turn(effort.turn_s)
    finally:
        if collecting:
            gc.enable()
    return [_summary(run.samples) for run in runs]


def _summary(samples: list[float]) -> Timing:
    median = statistics.median(samples)
    quarters = statistics.quantiles(samples, n=4) if len(samples) > 1 else [median, median, median]
    return Timing(min(samples), median, (quarters[2] - quarters[0]) / median if median else 0.0, len(samples))
