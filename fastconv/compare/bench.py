"""One layer from its data to its result: everybody computes it, answers are compared, then the clock runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from threadpoolctl import threadpool_limits

from fastconv.compare.data import CHECK_FLOP, Arrays, Sample, make_arrays, reference_sample
from fastconv.compare.layers import Layer
from fastconv.compare.measuring import Effort, measure
from fastconv.compare.ours import Fastconv
from fastconv.compare.peers import Contestant, Peer
from fastconv.compare.results import OURS, Entry, LayerResult
from fastconv.problem import Problem

#: A peer whose answer is further away than this computes something else.
WRONG = 1e-2

Ready = tuple[Entry, Contestant]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for; dtype, accuracy and threads are words of the layers' problems already."""

    layouts: tuple[str, ...] = ("NCHW", "NHWC")
    algorithm: str = "auto"
    functional: bool = False
    effort: Effort = field(default_factory=Effort)
    check_flop: float = CHECK_FLOP


def bench_layer(layer: Layer, peers: Sequence[Peer], settings: Settings) -> LayerResult:
    """Return the times of fastconv and of `peers` on one layer."""
    problem = layer.problem
    if problem.n == 0:
        raise ValueError(f"layer {layer.name}: an empty batch takes no time, got {problem.word}")
    arrays = make_arrays(problem)
    sample = reference_sample(problem, arrays, settings.check_flop)
    skipped: dict[str, str] = {}
    ready: list[Ready] = []
    failed: list[Entry] = []
    # NumPy's BLAS is told here; every other library is told by its own file.
    with threadpool_limits(limits=problem.threads, user_api="blas"):
        for peer in (Fastconv(settings.layouts, settings.algorithm), *peers):
            reason = peer.missing() or peer.why_not(problem)
            if reason:
                skipped[peer.name] = reason
                continue
            for outcome in _prepare(peer, problem, arrays, settings.functional, sample):
                if isinstance(outcome, Entry):
                    failed.append(outcome)
                else:
                    ready.append(outcome)
        timings = measure([contestant.call for _, contestant in ready], settings.effort)
    timed = [
        replace(entry, min_s=t.min_s, median_s=t.median_s, spread=t.spread, calls=t.calls)
        for (entry, _), t in zip(ready, timings, strict=True)
    ]
    return LayerResult(
        name=layer.name,
        word=problem.word,
        count=layer.count,
        flop=problem.flop,
        checked=sample.covered,
        entries=(*timed, *failed),
        skipped=skipped,
    )


def _prepare(
    peer: Peer, problem: Problem, arrays: Arrays, functional: bool, sample: Sample
) -> Iterator[Ready | Entry]:
    """Yield contestants whose answers were compared with the reference, and an entry for each that failed."""
    contestants = peer.contestants(problem, arrays, functional)
    title = peer.name
    while True:
        # Whatever a library raises is its result on this layer; the others go on.
        try:
            contestant = next(contestants, None)
            if contestant is None:
                return
            title = contestant.name
            largest, l2 = sample.errors(contestant.result(contestant.call()))
        except Exception as error:
            yield Entry(peer.name, title, "", failed=f"{type(error).__name__}: {error}")
            return
        entry = Entry(peer.name, title, contestant.layout, max_error=largest, l2_error=l2, **contestant.facts)
        if peer.name != OURS and not l2 <= WRONG:
            yield replace(entry, failed=f"its answer differs from the reference by {l2:.1e}")
        else:
            yield entry, contestant
