"""The clock: contestants of one layer in turns, so that a slow moment of the machine falls on all of them."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of every call of one turn, how long it took, and what other processes took away of that."""

    samples: tuple[float, ...]
    wall_s: float
    lost_s: float


class Turns(Protocol):
    """Somebody who can be asked to compute for a while, in this process or in another."""

    def turn(self, seconds: float) -> Turn:
        """Call for `seconds`, at least once."""

    def cold(self) -> float:
        """Return the seconds of one call that finds no data in the caches."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call of one contestant; `spread` is that of the fastest calls of the rounds.

    `lost` is the part of its time that other processes took away. Who raises an error while the clock runs
    has only `failed`.
    """

    min_s: float = math.nan
    median_s: float = math.nan
    spread: float = math.nan
    calls: int = 0
    rounds_s: tuple[float, ...] = ()
    cold_s: float = math.nan
    lost: float = 0.0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: per contestant at least `seconds` and `calls`, in turns of `turn_s`."""

    seconds: float = 0.4
    calls: int = 30
    turn_s: float = 0.01
    #: Calls so slow that `calls` of them would take longer than this end here, but not before `fewest`.
    most_s: float = 2.0
    fewest: int = 3
    #: Calls with empty caches, after all others.
    cold_calls: int = 0


QUICK = Effort(seconds=0.03, calls=3, turn_s=0.005, most_s=0.3, fewest=1)

#: A call that takes this long brings its own data into the caches; a quicker one needs a first call to do it.
LONG_CALL_S = 0.1
#: Rounds that results keep; more say nothing more about an interval.
MOST_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Here:
    """Turns in this process; `keep` is what must live as long as `call` is used."""

    call: Callable[[], object]
    threads: int = 1
    keep: tuple[object, ...] = ()

    def turn(self, seconds: float) -> Turn:
        """Call for `seconds`; quick calls at least twice: the first finds other data cached."""
        clock = time.perf_counter
        samples: list[float] = []
        collecting = gc.isenabled()
        gc.disable()
        try:
            before = _waited_seconds()
            begin = now = clock()
            while now - begin < seconds or not samples or (len(samples) == 1 and now - begin < LONG_CALL_S):
                start = clock()
                self.call()
                now = clock()
                samples.append(now - start)
            after = _waited_seconds()
        finally:
            if collecting:
                gc.enable()
        wall = now - begin
        # A thread that has ended takes its count along.
        waited = sum(max(0.0, count - before.get(thread, 0.0)) for thread, count in after.items())
        return Turn(tuple(samples), wall, min(wall, waited / self.threads))

    def cold(self) -> float:
        """Return the seconds of one call after other data went through all caches."""
        empty_caches()
        return self.once()

    def once(self) -> float:
        """Return the seconds of one call, with whatever is in the caches."""
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start


def _waited_seconds() -> dict[str, float]:
    """Return how long each thread of this process was ready to run while others had its core.

    Linux counts it; elsewhere nothing is known, and nothing is said to be lost.
    """
    waited = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        # A thread that ends meanwhile has no file any more.
        with suppress(OSError, ValueError, IndexError):
            waited[path.parent.name] = int(path.read_text("ascii").split()[1]) * 1e-9
    return waited


_FLUSH: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
MOST_FLUSH_BYTES = 1 << 30


def empty_caches() -> None:
    """Write to twice as much memory as the last cache holds, so that nothing of before is left in any."""
    if not _FLUSH:
        from fastconv.machine import Machine

        host = Machine.host()
        size = min(2 * max(host.l2_bytes, host.l3_bytes), MOST_FLUSH_BYTES, host.memory_bytes // 8)
        _FLUSH.append(np.zeros(max(1, size // 4), np.float32))
    _FLUSH[0] += 1.0


@dataclass(slots=True)
class _Run:
    turns: Turns
    samples: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    spent: float = 0.0
    lost: float = 0.0
    failed: str = ""

    def turn(self, seconds: float) -> None:
        # Whatever a library raises is its result; the others go on.
        try:
            turn = self.turns.turn(seconds)
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"
            return
        self.samples += turn.samples
        self.rounds.append(min(turn.samples))
        self.spent += turn.wall_s
        self.lost += turn.lost_s

    def cold_call(self) -> None:
        try:
            self.cold.append(self.turns.cold())
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"

    def enough(self, effort: Effort) -> bool:
        return self.exhausted(effort) or (self.spent >= effort.seconds and len(self.samples) >= effort.calls)

    def exhausted(self, effort: Effort) -> bool:
        return bool(self.failed) or (self.spent >= effort.most_s and len(self.samples) >= effort.fewest)


def measure(contestants: Sequence[Turns], effort: Effort) -> list[Timing]:
    """Return the timing of every contestant, in order; they take turns, and each has computed once before."""
    runs = [_Run(turns) for turns in contestants]
    # A fair share of turns for all: nobody stops before the slowest has enough.
    while runs and not all(run.enough(effort) for run in runs):
        for run in runs:
            if not run.exhausted(effort):
                run.turn(effort.turn_s)
    for _ in range(effort.cold_calls):
        for run in runs:
            if not run.failed:
                run.cold_call()
    return [_summary(run) for run in runs]


def _summary(run: _Run) -> Timing:
    if run.failed:
        return Timing(failed=run.failed)
    # Rounds are paired with those of others by their number: the last ones, when there are too many.
    rounds = tuple(float(f"{seconds:.5g}") for seconds in run.rounds[-MOST_ROUNDS:])
    return Timing(
        min_s=min(run.samples),
        median_s=statistics.median(run.samples),
        spread=spread(rounds),
        calls=len(run.samples),
        rounds_s=rounds,
        cold_s=statistics.median(run.cold) if run.cold else math.nan,
        lost=run.lost / run.spent if run.spent else 0.0,
    )


def spread(values: Sequence[float]) -> float:
    """Return the distance of the quartiles divided by the median."""
    median = statistics.median(values)
    if len(values) < 2 or not median:
        return 0.0
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    return (quarters[2] - quarters[0]) / median
