"""How sure a ratio is: intervals by bootstrap over rounds, and what is won, lost, tied or unstable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fastconv.compare.results import OURS, Entry, LayerResult

#: Quartiles of rounds further apart than this, or more time taken away by other processes: unstable.
UNSTEADY = 0.10
LOST = 0.05
#: Ratios this near to one are a tie where nothing says how sure they are.
NEAR = 0.02
#: ... and nearer than this they are, however sure.
SAME = 0.01
RESAMPLES = 2000

Interval = tuple[float, float]


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Return the 95 % bootstrap interval of the ratio, theirs / ours; None for under five rounds.

    Drawn anew are rounds, compared are the lower quartiles of their fastest calls, which are sure where the
    fastest call of all is luck. Rounds of the same number were measured one after the other and are drawn
    together; when one side has fewer, each is drawn by itself. The interval is widened to hold the ratio of
    the fastest calls of all, which is what stands beside it.

    Examples
    --------
    >>> ratio_interval([1.0] * 9, [2.0] * 9)
    (2.0, 2.0)
    >>> ratio_interval([1.0] * 3, [2.0] * 9) is None
    True
    """
    return _interval(tuple(ours), tuple(theirs))


def drawn_quartiles(values: Sequence[float], drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the lower quartile of each row of `values` that was drawn."""
    rows = np.asarray(values, np.float64)[drawn]
    rows.partition(rows.shape[1] // 4, axis=1)
    return np.asarray(rows[:, rows.shape[1] // 4])


def bounds(ratios: npt.NDArray[np.float64], hold: float) -> Interval:
    """Return where the middle 95 % of `ratios` lie, widened to hold one value."""
    low, high = np.quantile(ratios, (0.025, 0.975))
    return min(float(low), hold), max(float(high), hold)


@lru_cache(maxsize=4096)
def _interval(ours: tuple[float, ...], theirs: tuple[float, ...]) -> Interval | None:
    if min(len(ours), len(theirs)) < 5:
        return None
    rng = np.random.default_rng(0)
    mine = rng.integers(0, len(ours), (RESAMPLES, len(ours)))
    paired = len(ours) == len(theirs)
    other = mine if paired else rng.integers(0, len(theirs), (RESAMPLES, len(theirs)))
    ratios = drawn_quartiles(theirs, other) / drawn_quartiles(ours, mine)
    return bounds(ratios, min(theirs) / min(ours))


def interval(layer: LayerResult, library: str | None, layout: str | None = None) -> Interval | None:
    """Return the interval of ``layer.ratio(library, layout)``."""
    ours, other = layer.best(OURS, layout), layer.best(library, layout)
    return ratio_interval(ours.rounds_s, other.rounds_s) if ours and other else None


def verdict(layer: LayerResult, library: str | None = None, layout: str | None = None) -> str:
    """Return "won", "lost" or "tied"; "" when one side has no time.

    To win takes a whole interval above one, and a ratio that a reader would call one.
    """
    ratio = layer.ratio(library, layout)
    if math.isnan(ratio):
        return ""
    low, high = interval(layer, library, layout) or (ratio * (1 - NEAR), ratio * (1 + NEAR))
    if abs(ratio - 1) < SAME:
        return "tied"
    return "won" if low > 1 else "lost" if high < 1 else "tied"


def unsteady(layer: LayerResult) -> list[str]:
    """Return what makes the numbers of `layer` doubtful, in words; nothing when they can be trusted.

    Looked at are ours and the best peer, which the ratio is made of. What was lost is ours: all had their
    turns in the same rounds, and some libraries start more threads than they run at a time.
    """
    ours, best = layer.best(OURS), layer.best()
    looked_at: list[Entry | None] = [ours, best]
    said = [
        f"{entry.name}: quartiles of rounds {100 * entry.spread:.0f} % apart"
        for entry in looked_at
        if entry and entry.spread > UNSTEADY
    ]
    if ours and ours.lost > LOST:
        said.append(f"other processes took {100 * ours.lost:.0f} % of the time")
    return said
