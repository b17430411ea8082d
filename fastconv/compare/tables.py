"""The tables of the page as values: what every cell says, and by what it is sorted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.compare.changes import Changes
from fastconv.compare.document import Run
from fastconv.compare.environment import size
from fastconv.compare.intervals import interval, unsteady, verdict
from fastconv.compare.markdown import within
from fastconv.compare.results import OURS, Entry, LayerResult
from fastconv.compare.summary import against, libraries, number, repro


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column."""

    title: str
    number: bool = False
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows; `key` is what it is sorted by, where its text is not."""

    text: str = ""
    key: float | str | None = None
    number: bool = False
    tone: str = ""
    kind: str = ""
    hint: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def _figure(value: float, text: str | None = None, tone: str = "", hint: str = "") -> Cell:
    finite = math.isfinite(value)
    shown = number(value) if text is None else text
    return Cell(shown if finite else "–", value if finite else "", number=True, tone=tone, hint=hint)


def _ratio(value: float) -> Cell:
    return _figure(value, f"{value:.2f}", "up" if value >= 1 else "down")


def _ms(seconds: float) -> Cell:
    return _figure(seconds * 1e3)


def _badges(words: Sequence[str]) -> Cell:
    return Cell(kind="badge", words=tuple(word for word in words if word))


def against_libraries(run: Run) -> Table | None:
    """Return the network against every opponent; None when there is none."""
    rows = [
        (
            Cell(side.name),
            _ratio(side.speed_up),
            Cell(within(side.interval), number=True),
            _ratio(side.total.geometric_mean),
            _figure(side.won, str(side.won)),
            _figure(side.tied, str(side.tied)),
            _figure(side.lost, str(side.lost)),
            _ms(side.total.other_s),
            _ms(side.total.ours_s),
            _ratio(side.total.worst_ratio),
            Cell(side.total.worst_layer),
        )
        for side in against(run)
    ]
    figures = ("speed-up", "95 %", "geometric mean", "won", "tied", "lost", "their ms", "our ms", "worst")
    columns = (Column("against"), *(Column(title, True) for title in figures), Column("worst layer"))
    return Table(columns, rows) if rows else None


def layers(run: Run) -> Table:
    """Return every layer: ours, the best peer, the ratio to every library, and how to measure it again."""
    names = libraries(run)
    cold = any(math.isfinite(e.cold_s) for layer in run.layers for e in layer.entries)
    columns = [
        Column("layer"),
        Column("×", True, "how often the network runs it"),
        Column("algorithm"),
        Column("decision", hint="where the choice of the algorithm came from"),
        Column("ms", True, "fastest call"),
        Column("median", True, "median of all calls, ms"),
        Column("spread", True, "quartiles of the rounds apart, part of their median"),
        *([Column("cold ms", True, "median of calls with empty caches")] if cold else []),
        Column("best peer"),
        Column("its ms", True),
        Column("speed-up", True),
        Column("95 %", True),
        Column("verdict"),
        *(Column(f"× {name}", True) for name in names),
        Column("GFLOP/s", True),
        Column("% peak", True, "of the measured FMA peak"),
        Column("error", True, "largest, of the largest output"),
        Column("L2 error", True),
        Column("workspace", True, "scratch memory"),
        Column("reorder ms", True, "NumPy's copy of x from NCHW to NHWC, in nobody's time"),
        Column("problem"),
        Column("measure again"),
    ]
    return Table(columns, [_layer(run, layer, names, cold) for layer in run.layers])


def _layer(run: Run, layer: LayerResult, names: Sequence[str], cold: bool) -> list[Cell]:
    ours = layer.best(OURS) or Entry(OURS, OURS, "")
    best = layer.best()
    gflops = layer.gflops(ours) if ours.timed else math.nan
    doubt = unsteady(layer)
    words = [verdict(layer) if ours.timed else "failed", "unstable" if doubt else ""]
    return [
        Cell(layer.name, hint=layer.name),
        _figure(layer.count, str(layer.count)),
        Cell(f"{ours.algorithm} {ours.layout}".strip(), hint=ours.config),
        Cell(ours.source),
        _ms(ours.min_s),
        _ms(ours.median_s),
        _figure(ours.spread, f"{100 * ours.spread:.0f} %" if math.isfinite(ours.spread) else "–"),
        *([_ms(ours.cold_s)] if cold else []),
        Cell(best.name if best else "–"),
        _ms(best.min_s if best else math.nan),
        _ratio(layer.ratio()),
        Cell(within(interval(layer, None)), number=True),
        _badges(words),
        *(_ratio(layer.ratio(name)) for name in names),
        _figure(gflops),
        _figure(100 * gflops / run.roof.gflops, hint="of the measured FMA peak")
        if run.roof.gflops
        else Cell("–"),
        _error(ours.max_error),
        _error(ours.l2_error),
        _figure(ours.workspace_bytes, size(ours.workspace_bytes)),
        _ms(layer.reorder_s),
        Cell(layer.word, kind="code"),
        Cell(repro(layer), kind="code"),
    ]


def _error(value: float) -> Cell:
    return _figure(value, f"{value:.1e}")


def entries(run: Run) -> Table:
    """Return every form of every library on every layer, those that failed and those that do not count too."""
    figures = ("fastest ms", "median ms", "cold ms", "once ms")
    columns = [
        Column("layer"), Column("form"), Column("layout"), Column("threads", True),
        *(Column(title, True) for title in figures), Column("spread", True), Column("calls", True),
        Column("× ours", True), Column("L2 error", True), Column("remark"),
    ]  # fmt: skip
    return Table(columns, [_entry(layer, entry) for layer in run.layers for entry in layer.entries])


def _entry(layer: LayerResult, entry: Entry) -> list[Cell]:
    ours = layer.best(OURS)
    if entry.failed:
        remark = f"failed: {entry.failed}"
    elif not entry.within:
        remark = "outside the accuracy class: shown, not counted"
    elif entry.accuracy:
        remark = f"class {entry.accuracy}: shown, not counted"
    else:
        remark = ""
    return [
        Cell(layer.name, hint=layer.name), Cell(entry.name), Cell(entry.layout),
        _figure(entry.threads or math.nan, str(entry.threads)),
        _ms(entry.min_s), _ms(entry.median_s), _ms(entry.cold_s), _ms(entry.prepare_s),
        _figure(entry.spread, f"{100 * entry.spread:.0f} %" if math.isfinite(entry.spread) else "–"),
        _figure(entry.calls, str(entry.calls)),
        _figure(entry.min_s / ours.min_s if ours else math.nan), _error(entry.l2_error), Cell(remark),
    ]  # fmt: skip


def skipped(run: Run) -> list[str]:
    """Return why libraries were left out, and on how many layers."""
    found: dict[tuple[str, str], int] = {}
    for layer in run.layers:
        for name, reason in layer.skipped.items():
            found[name, reason] = found.get((name, reason), 0) + 1
    return [
        f"{name}: {reason} ({count} of {len(run.layers)} layers)" for (name, reason), count in found.items()
    ]


def changes(found: Changes) -> Table:
    """Return the layers of two reports, regressions first."""
    figures = ("before ms", "after ms", "after / before", "others", "change")
    columns = (
        Column("layer"), Column("run"), *(Column(title, True) for title in figures), Column("verdict"),
        Column("problem"),
    )  # fmt: skip
    bad = found.regressions
    rows = [
        (
            Cell(row.layer), Cell(row.run), _ms(row.before_s), _ms(row.after_s), _figure(row.ratio, f"{row.ratio:.2f}"),
            _figure(row.machine, f"{row.machine:.2f}"),
            _figure(row.change, f"{row.change:.2f}", "down" if row in bad else ""),
            _badges([row.verdict]),
            Cell(row.word, kind="code"),
        )
        for row in (*bad, *(row for row in found.rows if row not in bad))
    ]  # fmt: skip
    return Table(columns, rows)
