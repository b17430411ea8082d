"""What the terminal shows and what the JSON file holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastconv.compare.results import OURS, LayerResult, Total, totals

SCHEMA = "fastconv-bench/1"


def layer_table(title: str, layers: Sequence[LayerResult], peak: float | None) -> Table:
    """Return the table of a run: per layer our better layout beside the best form of every library."""
    libraries = dict.fromkeys(e.library for layer in layers for e in layer.entries if e.library != OURS)
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    table.add_column("layer", overflow="fold")
    for heading in ("times", "algorithm", "layout"):
        table.add_column(heading, justify="right" if heading == "times" else "left")
    for heading in ("ms", "GFLOP/s", "% peak", "error", *(f"x {name}" for name in libraries)):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        ours = layer.best(OURS)
        if ours is None:
            reasons = [e.failed for e in layer.entries if e.library == OURS]
            table.add_row(escape(layer.name), str(layer.count), Text("failed: " + "; ".join(reasons), "red"))
            continue
        gflops = layer.gflops(ours)
        table.add_row(
            escape(layer.name),
            str(layer.count),
            ours.algorithm,
            ours.layout,
            _ms(ours.min_s),
            f"{gflops:.1f}",
            f"{100 * gflops / peak:.0f}" if peak else "-",
            f"{ours.max_error:.0e}",
            *(_ratio(layer.ratio(library)) for library in libraries),
        )
    return table


def total_table(layers: Sequence[LayerResult]) -> Table:
    """Return the sums over the network, against the best peer and against each."""
    table = Table(
        title="totals, each layer as often as the network runs it", title_justify="left", header_style="bold"
    )
    table.add_column("against")
    for heading in ("layers", "ours ms", "theirs ms", "speed-up", "geometric mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("worst layer")
    for name, value in totals(layers).items():
        table.add_row(*_total_row(name, value))
    return table


def _total_row(name: str, value: Total) -> tuple[str | Text, ...]:
    return (
        name,
        str(value.layers),
        _ms(value.ours_s),
        _ms(value.other_s),
        _ratio(value.other_s / value.ours_s),
        _ratio(value.geometric_mean),
        Text.assemble(_ratio(value.worst_ratio), f" {value.worst_layer}"),
    )


def notes(layers: Sequence[LayerResult]) -> list[str]:
    """Return what a reader should know beside the numbers: who was missing, who failed, what was unsteady."""
    said: dict[str, list[str]] = {}
    for layer in layers:
        for peer, reason in layer.skipped.items():
            said.setdefault(reason if peer in reason else f"{peer}: {reason}", []).append(layer.name)
        for entry in layer.entries:
            if entry.failed:
                said.setdefault(f"{entry.name} failed: {entry.failed}", []).append(layer.name)
        unsteady = [entry.name for entry in layer.entries if entry.timed and entry.spread > 0.25]
        if unsteady:
            said.setdefault("unstable, quartiles more than 25 % apart", []).append(layer.name)
    return [f"{text} ({_where(names, len(layers))})" for text, names in said.items()]


def _where(names: list[str], of: int) -> str:
    if len(names) == of:
        return "every layer"
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} of {of} layers"


def to_json(
    title: str,
    layers: Sequence[LayerResult],
    *,
    date: str,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    settings: Mapping[str, Any],
    peak: float | None,
) -> str:
    """Return everything that was measured; numbers that do not exist are null."""
    document = {
        "schema": SCHEMA,
        "title": title,
        "date": date,
        "machine": dict(machine),
        "versions": dict(versions),
        "settings": dict(settings),
        "fma_peak_gflops": peak,
        "layers": [_layer_json(layer, peak) for layer in layers],
        "totals": {name: asdict(value) for name, value in totals(layers).items()},
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def _layer_json(layer: LayerResult, peak: float | None) -> dict[str, Any]:
    record = asdict(layer)
    for row, entry in zip(record["entries"], layer.entries, strict=True):
        if entry.timed:
            row["gflops"] = layer.gflops(entry)
            row["peak_fraction"] = layer.gflops(entry) / peak if peak else None
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _ratio(value: float) -> Text:
    if math.isnan(value):
        return Text("-")
    return Text(f"{value:.2f}", "green" if value >= 1 else "red")
