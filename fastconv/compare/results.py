"""What was measured, as plain values: per layer every contestant, per workload the sums and means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastconv.problem import Problem

OURS = "fastconv"


@dataclass(frozen=True, slots=True)
class Entry:
    """One contestant on one layer; `failed` says why there is no time.

    Attributes
    ----------
    maker
        The library whose it is, as the registry of peers names it; `OURS` for fastconv.
    min_s, median_s, calls
        Over all calls.
    spread, rounds_s
        The fastest call of every round: the distance of their quartiles divided by their median, and they
        themselves, from which intervals of ratios come.
    cold_s
        Median of calls that found no data in the caches; NaN when that was not asked for.
    prepare_s
        What stood before the clock: setting up, packing weights, compiling, the first call.
    accuracy
        Accuracy class of ours when it is another than that of the problem.
    threads
        What the library said its number of threads is; 0 when it says nothing.
    lost
        Part of its time that other processes took away.
    failed, within
        Why there is no time; whether the answer holds the accuracy class of the problem. Answers that do not
        are shown, and beat nobody.
    """

    maker: str
    name: str
    layout: str
    min_s: float = math.nan
    median_s: float = math.nan
    spread: float = math.nan
    calls: int = 0
    rounds_s: tuple[float, ...] = ()
    cold_s: float = math.nan
    prepare_s: float = math.nan
    max_error: float = math.nan
    l2_error: float = math.nan
    accuracy: str = ""
    algorithm: str = ""
    config: str = ""
    source: str = ""
    workspace_bytes: int = 0
    threads: int = 0
    lost: float = 0.0
    failed: str = ""
    within: bool = True

    @property
    def ours(self) -> bool:
        return self.maker == OURS

    @property
    def timed(self) -> bool:
        return not self.failed and math.isfinite(self.min_s)


@dataclass(frozen=True, slots=True)
class LayerResult:
    """All contestants on one layer.

    `checked` is the part of the output compared with the reference, `reorder_s` the time NumPy takes to copy
    x from NCHW to NHWC.
    """

    name: str
    word: str
    count: int
    flop: int
    checked: float
    entries: tuple[Entry, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    reorder_s: float = math.nan

    def best(self, library: str | None = None, layout: str | None = None) -> Entry | None:
        """Return the fastest entry of `library`, or of all others than ours, in one `layout` or any.

        What counts holds the accuracy class of the layer's problem.
        """
        found = [
            entry
            for entry in self.entries
            if entry.timed
            and entry.within
            and not entry.accuracy
            and (not entry.ours if library is None else entry.maker == library)
            and (layout is None or entry.layout == layout)
        ]
        return min(found, key=lambda entry: entry.min_s, default=None)

    def ratio(self, library: str | None = None, layout: str | None = None) -> float:
        """Return the other's time divided by ours: above 1 we are faster. NaN when one has no time."""
        ours, other = self.best(OURS, layout), self.best(library, layout)
        return other.min_s / ours.min_s if ours and other else math.nan

    def gflops(self, entry: Entry) -> float:
        """Return the nominal work of the definition per time, whatever the algorithm really computes."""
        return self.flop / entry.min_s / 1e9


@dataclass(frozen=True, slots=True)
class Total:
    """A workload against one opponent: times weighted by how often layers run, and the mean ratio."""

    against: str
    ours_s: float
    other_s: float
    geometric_mean: float
    worst_layer: str
    worst_ratio: float
    layers: int


def total(layers: Iterable[LayerResult], library: str | None, layout: str | None = None) -> Total | None:
    """Return the sums over the layers on which both have a time; None when there is no such layer."""
    rows = [(layer, layer.best(OURS, layout), layer.best(library, layout)) for layer in layers]
    both = [(layer, ours, other) for layer, ours, other in rows if ours and other]
    if not both:
        return None
    ratios = [(other.min_s / ours.min_s, layer.name) for layer, ours, other in both]
    worst_ratio, worst_layer = min(ratios)
    return Total(
        against=library or "best peer",
        ours_s=sum(layer.count * ours.min_s for layer, ours, _ in both),
        other_s=sum(layer.count * other.min_s for layer, _, other in both),
        geometric_mean=math.exp(sum(math.log(ratio) for ratio, _ in ratios) / len(ratios)),
        worst_layer=worst_layer,
        worst_ratio=worst_ratio,
        layers=len(both),
    )


def totals(layers: Sequence[LayerResult]) -> dict[str, Total]:
    """Return the totals against the best peer, against the best in each layout, and against every library."""
    libraries = dict.fromkeys(e.maker for layer in layers for e in layer.entries if not e.ours)
    found = {"best peer": total(layers, None)}
    if {e.layout for layer in layers for e in layer.entries if e.ours} >= {"NCHW", "NHWC"}:
        found |= {f"best peer, {layout}": total(layers, None, layout) for layout in ("NCHW", "NHWC")}
    found |= {library: total(layers, library) for library in libraries}
    return {name: value for name, value in found.items() if value is not None}


def promise(problem: Problem, accuracy: str | None = None) -> tuple[float, float]:
    """Return the largest error (of the largest output) and the L2 error that the accuracy class allows."""
    kind = np.dtype(problem.result_dtype)
    if kind.kind != "f":
        return 0.0, 0.0
    if (accuracy or problem.accuracy) == "fast":
        return 5e-2, 5e-3
    # float16 results are rounded once, at the store.
    return {"float64": (1e-13, 5e-14), "float16": (1e-3, 1e-3)}.get(kind.name, (1e-5, 5e-6))


def holds(problem: Problem, entry: Entry) -> bool:
    """Return whether the errors of `entry` are those of the accuracy class it is compared in."""
    largest, l2 = promise(problem, entry.accuracy)
    return entry.max_error <= largest and entry.l2_error <= l2


def broken(layer: LayerResult) -> list[Entry]:
    """Return our entries that failed or are further from the reference than their accuracy class allows."""
    problem = Problem.parse(layer.word)
    return [entry for entry in layer.entries if entry.ours and (entry.failed or not holds(problem, entry))]
