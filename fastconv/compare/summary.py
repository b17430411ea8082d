"""What a run says, as values: sums against every library, what was won and lost, the sentence at the top."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from fastconv.compare.document import Run
from fastconv.compare.intervals import (
    RESAMPLES,
    Interval,
    bounds,
    drawn_quartiles,
    interval,
    unsteady,
    verdict,
)
from fastconv.compare.results import OURS, LayerResult, Total, total
from fastconv.problem import Problem

BEST = "best peer"


@dataclass(frozen=True, slots=True)
class Against:
    """A network against one opponent; `interval` is that of the speed-up of the whole network."""

    name: str
    total: Total
    speed_up: float
    interval: Interval | None
    won: int
    tied: int
    lost: int


@dataclass(frozen=True, slots=True)
class Lost:
    """One layer that an opponent computes faster."""

    layer: str
    word: str
    ratio: float
    interval: Interval | None
    maker: str


def libraries(run: Run) -> list[str]:
    """Return the libraries other than ours that have a time, in the order of the report."""
    return list(
        dict.fromkeys(e.maker for layer in run.layers for e in layer.entries if not e.ours and e.timed)
    )


def against(run: Run) -> list[Against]:
    """Return the run against the best peer of every layer, against it in each layout, and against each library."""
    opponents: list[tuple[str, str | None, str | None]] = [(BEST, None, None)]
    if {e.layout for layer in run.layers for e in layer.entries if e.ours} >= {"NCHW", "NHWC"}:
        opponents += [(f"{BEST}, {layout}", None, layout) for layout in ("NCHW", "NHWC")]
    opponents += [(name, name, None) for name in libraries(run)]
    found = []
    for name, library, layout in opponents:
        sums = total(run.layers, library, layout)
        if sums is None:
            continue
        ends = Counter(verdict(layer, library, layout) for layer in run.layers)
        found.append(
            Against(
                name=name,
                total=sums,
                speed_up=sums.other_s / sums.ours_s,
                interval=network_interval(run, library, layout),
                won=ends["won"],
                tied=ends["tied"],
                lost=ends["lost"],
            )
        )
    return found


def network_interval(run: Run, library: str | None, layout: str | None = None) -> Interval | None:
    """Return the 95 % bootstrap interval of the speed-up of the network: rounds of every layer drawn anew."""
    rng = np.random.default_rng(0)
    sums, fastest = np.zeros((2, RESAMPLES)), [0.0, 0.0]
    for layer in run.layers:
        ours, other = layer.best(OURS, layout), layer.best(library, layout)
        if ours is None or other is None:
            continue
        least = min(len(ours.rounds_s), len(other.rounds_s))
        if least < 2:
            return None
        drawn = rng.integers(0, least, (RESAMPLES, least))
        for side, entry in enumerate((ours, other)):
            sums[side] += layer.count * drawn_quartiles(entry.rounds_s[:least], drawn)
            fastest[side] += layer.count * entry.min_s
    return bounds(sums[1] / sums[0], fastest[1] / fastest[0]) if fastest[0] else None


def losses(run: Run) -> list[Lost]:
    """Return the layers whose best peer is faster than ours, the worst first."""
    found = []
    for layer in run.layers:
        best = layer.best()
        if best and verdict(layer) == "lost":
            found.append(Lost(layer.name, layer.word, layer.ratio(), interval(layer, None), best.name))
    return sorted(found, key=lambda lost: lost.ratio)


def unstable_layers(run: Run) -> dict[str, list[str]]:
    """Return what makes layers doubtful, by their names."""
    return {layer.name: said for layer in run.layers if (said := unsteady(layer))}


def words_of(run: Run) -> str:
    """Return accuracy class, type and threads."""
    return f"{run.accuracy}, {run.dtype}, {run.threads} thread{'s' if run.threads > 1 else ''}"


def sentence(run: Run) -> str:
    """Return what a reader who reads one sentence should know."""
    sides = against(run)
    doubt = unstable_layers(run)
    unsure = f" {len(doubt)} of {len(run.layers)} layers are unstable." if doubt else ""
    if not sides:
        timed = sum(layer.best(OURS) is not None for layer in run.layers)
        return (
            f"{run.title} ({words_of(run)}): {timed} of {len(run.layers)} layers measured, no peer beside it."
            + unsure
        )
    best = sides[0]
    faster = "as fast as" if best.speed_up >= 1 else "the speed of"
    text = (
        f"{run.title} ({words_of(run)}): fastconv is {best.speed_up:.2f} times {faster} the best peer of every "
        f"layer{_within(best.interval)}, geometric mean {best.total.geometric_mean:.2f}; "
        f"{best.won} won, {best.tied} tied, {best.lost} lost of {best.total.layers} layers, "
        f"worst {best.total.worst_layer} at {best.total.worst_ratio:.2f}."
    )
    return text + unsure


def _within(found: Interval | None) -> str:
    return f" (95 % interval {found[0]:.2f} to {found[1]:.2f})" if found else ""


def intensity(layer: LayerResult) -> float:
    """Return the work of a layer per byte that must move: x, weights and y once."""
    problem = Problem.parse(layer.word)
    return layer.flop / max(1, problem.x_bytes + problem.w_bytes + problem.y_bytes)


def repro(layer: LayerResult) -> str:
    """Return the command that measures this layer again."""
    return f"fastconv bench {layer.word} --layout both --peers all"


def number(value: float, digits: int = 3) -> str:
    """Return `value` in `digits` figures, without an exponent where it can be avoided; a dash for no value.

    Examples
    --------
    >>> number(0.123456), number(1234.5), number(float("nan"))
    ('0.123', '1234', '–')
    """
    if not math.isfinite(value):
        return "–"
    if value >= 10**digits:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"
