"""What the terminal shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastconv.compare.changes import Changes
from fastconv.compare.changes import sentence as sentence_of_changes
from fastconv.compare.document import Report, Run
from fastconv.compare.intervals import unsteady
from fastconv.compare.results import OURS, LayerResult
from fastconv.compare.summary import against, libraries, number, sentence, words_of


def parts(report: Report) -> Iterator[Table | str]:
    """Yield what is printed about a whole report, run after run."""
    for run in report.runs:
        yield from run_parts(run)
        if libraries(run):
            yield total_table(run)
        yield sentence(run)


def run_parts(run: Run) -> Iterator[Table | str]:
    """Yield the tables and notes of one run."""
    peak = run.roof.gflops
    roofs = [] if math.isnan(peak) else [f"FMA peak {peak:.0f} GFLOP/s"]
    roofs += [] if math.isnan(run.roof.gbytes) else [f"memory {run.roof.gbytes:.0f} GB/s"]
    measured = f", {' and '.join(roofs)} measured" if roofs else ""
    yield layer_table(f"{run.title} ({words_of(run)}{measured})", run.layers, peak)
    yield "GFLOP/s: the work of the definition per time, which Winograd does not do in full"
    yield "x: their time divided by ours, the best form of each; error: largest, of the largest output"
    for note in notes(run.layers):
        yield f"note: {note}"


def layer_table(title: str, layers: Sequence[LayerResult], peak: float) -> Table:
    """Return the table of a run: per layer our better layout beside the best form of every library."""
    others = dict.fromkeys(e.maker for layer in layers for e in layer.entries if not e.ours)
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    for heading in ("times", "algorithm", "layout"):
        table.add_column(heading, justify="right" if heading == "times" else "left")
    for heading in ("ms", "GFLOP/s", "% peak", "error", *(f"x {name}" for name in others)):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        ours = layer.best(OURS)
        if ours is None:
            reasons = [e.failed for e in layer.entries if e.ours]
            table.add_row(escape(layer.name), str(layer.count), Text("failed: " + "; ".join(reasons), "red"))
            continue
        gflops = layer.gflops(ours)
        table.add_row(
            escape(layer.name),
            str(layer.count),
            ours.algorithm,
            ours.layout,
            number(ours.min_s * 1e3),
            f"{gflops:.1f}",
            f"{100 * gflops / peak:.0f}" if math.isfinite(peak) else "-",
            f"{ours.max_error:.0e}",
            *(_ratio(layer.ratio(library)) for library in others),
        )
    return table


def total_table(run: Run) -> Table:
    """Return the sums over the network, against the best peer and against each."""
    table = Table(
        title="totals, each layer as often as the network runs it", title_justify="left", header_style="bold"
    )
    table.add_column("against")
    for heading in ("layers", "won/tied/lost", "ours ms", "theirs ms", "speed-up", "95 %", "geometric mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("worst layer")
    for side in against(run):
        table.add_row(
            side.name,
            str(side.total.layers),
            f"{side.won}/{side.tied}/{side.lost}",
            number(side.total.ours_s * 1e3),
            number(side.total.other_s * 1e3),
            _ratio(side.speed_up),
            f"{side.interval[0]:.2f}-{side.interval[1]:.2f}" if side.interval else "",
            _ratio(side.total.geometric_mean),
            Text.assemble(_ratio(side.total.worst_ratio), f" {side.total.worst_layer}"),
        )
    return table


def notes(layers: Sequence[LayerResult]) -> list[str]:
    """Return what a reader should know beside the numbers: who was missing, who failed, what was unsteady."""
    said: dict[str, list[str]] = {}
    for layer in layers:
        for peer, reason in layer.skipped.items():
            said.setdefault(reason if peer in reason else f"{peer}: {reason}", []).append(layer.name)
        for entry in layer.entries:
            if entry.failed:
                said.setdefault(f"{entry.name} failed: {entry.failed}", []).append(layer.name)
        if unsteady(layer):
            said.setdefault("unstable: rounds differ by more than 10 %, or other processes ran", []).append(
                layer.name
            )
    return [f"{text} ({_where(names, len(layers))})" for text, names in said.items()]


def _where(names: list[str], of: int) -> str:
    if len(names) == of:
        return "every layer"
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} of {of} layers"


def _ratio(value: float) -> Text:
    if math.isnan(value):
        return Text("-")
    return Text(f"{value:.2f}", "green" if value >= 1 else "red")


def change_parts(found: Changes) -> Iterator[Table | str]:
    """Yield what is printed about two reports."""
    table = Table(header_style="bold")
    for heading in ("run", "layer", "before ms", "after ms", "after / before", "others", "change", "verdict"):
        table.add_column(heading, justify="left" if heading in {"run", "layer", "verdict"} else "right")
    bad = found.regressions
    for row in (*bad, *(row for row in found.rows if row not in bad)):
        figures = (
            f"{value:.2f}" if math.isfinite(value) else "-" for value in (row.ratio, row.machine, row.change)
        )
        times = (number(value * 1e3) for value in (row.before_s, row.after_s))
        verdict = Text(row.verdict, "red" if row in bad else "green" if row.verdict == "faster" else "")
        table.add_row(escape(row.run), escape(row.layer), *times, *figures, verdict)
    yield table
    yield "others: what other libraries took, after / before; change: ours divided by that"
    for note in found.notes:
        yield f"note: {note}"
    yield sentence_of_changes(found)
