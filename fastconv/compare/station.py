"""Where contestants are made ready: everybody computes the layer once, and answers are compared."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from threadpoolctl import threadpool_limits

from fastconv.compare.data import CHECK_FLOP, Arrays, Sample
from fastconv.compare.measuring import Effort, Here, Turns
from fastconv.compare.ours import Fastconv
from fastconv.compare.peers import Contestant, Peer
from fastconv.compare.results import OURS, Entry, holds
from fastconv.problem import Problem

#: A peer whose answer is further away than this computes something else.
WRONG = 1e-2


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for; dtype, accuracy and threads are words of the layers' problems already.

    `classes` are further accuracy classes in which ours is measured too, beside that of the problem.
    """

    layouts: tuple[str, ...] = ("NCHW", "NHWC")
    algorithm: str = "auto"
    functional: bool = False
    effort: Effort = field(default_factory=Effort)
    check_flop: float = CHECK_FLOP
    classes: tuple[str, ...] = ()


@dataclass(slots=True)
class Prepared:
    """Who is ready to be measured, who failed and why, who cannot compute the layer and why."""

    ready: list[tuple[Entry, Turns]] = field(default_factory=list)
    failed: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def everybody(peers: Sequence[Peer], settings: Settings) -> list[Peer]:
    """Return ours and `peers`."""
    return [Fastconv(settings.layouts, settings.algorithm, settings.classes), *peers]


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Limit NumPy's BLAS, which has no word of its own for it; every other library is told by its file."""
    with threadpool_limits(limits=count, user_api="blas"):
        yield


def prepare(
    peers: Sequence[Peer], problem: Problem, arrays: Arrays, sample: Sample, settings: Settings
) -> Prepared:
    """Let every peer compute `problem` in this process and compare its answer with `sample`."""
    found = Prepared()
    for peer in peers:
        reason = peer.missing() or peer.why_not(problem)
        if reason:
            found.skipped[peer.name] = reason
            continue
        for entry, contestant in _forms(peer, problem, arrays, settings.functional, sample):
            if contestant is None:
                found.failed.append(entry)
            else:
                found.ready.append((entry, Here(contestant.call, problem.threads, contestant.keep)))
    return found


def _forms(
    peer: Peer, problem: Problem, arrays: Arrays, functional: bool, sample: Sample
) -> Iterator[tuple[Entry, Contestant | None]]:
    """Yield contestants whose answers were compared with the reference, and an entry for each that failed."""
    contestants = peer.contestants(problem, arrays, functional)
    title = peer.name
    while True:
        # Whatever a library raises is its result on this layer; the others go on.
        try:
            start = time.perf_counter()
            contestant = next(contestants, None)
            if contestant is None:
                return
            title = contestant.name
            answer = contestant.call()
            seconds = time.perf_counter() - start
            largest, l2 = sample.errors(contestant.result(answer))
        except Exception as error:
            yield Entry(peer.name, title, "", failed=_message(error)), None
            return
        entry = Entry(
            peer.name,
            title,
            contestant.layout,
            prepare_s=seconds,
            max_error=largest,
            l2_error=l2,
            **contestant.facts,
        )
        entry = replace(entry, within=holds(problem, entry))
        if peer.name != OURS and not l2 <= WRONG:
            yield replace(entry, failed=f"its answer differs from the reference by {l2:.1e}"), None
        else:
            yield entry, contestant


def _message(error: Exception) -> str:
    """Return the first lines of what a library says, without the folders it names."""
    text = "\n".join(str(error).strip().splitlines()[:4])[:500]
    return f"{type(error).__name__}: {text}"
