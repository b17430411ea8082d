"""A comparison as one value, and as JSON: what was measured, where, when, and with which versions.

Reading trusts nothing: whatever a file holds becomes a valid `Report` or a ValueError that names the place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fastconv.compare.intervals import interval, unsteady, verdict
from fastconv.compare.reading import Place, clean
from fastconv.compare.results import Entry, LayerResult, holds, totals
from fastconv.compare.roof import Roof
from fastconv.problem import ACCURACIES, DTYPES, Problem

SCHEMA = "fastconv-compare/1"
#: What `fastconv bench` wrote before there were comparisons: one workload, its words at the top.
OLD_SCHEMA = "fastconv-bench/1"
MOST_BYTES = 64 << 20
MOST_RUNS, MOST_LAYERS, MOST_ENTRIES, MOST_ROUNDS = 100, 5000, 500, 10_000
MOST_SECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Run:
    """One workload in one accuracy class with one number of threads."""

    title: str
    threads: int
    accuracy: str
    dtype: str
    roof: Roof
    layers: tuple[LayerResult, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one command measured.

    `identity` holds host, user and folder when the user asked for them; nothing else names any.
    """

    date: str
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    missing: Mapping[str, str]
    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    identity: Mapping[str, str] = field(default_factory=dict)


def to_json(report: Report) -> str:
    """Return `report` as strict JSON, with sums and ratios for other readers; what does not exist is null."""
    document = {"schema": SCHEMA, **asdict(report), "runs": [_run_json(run) for run in report.runs]}
    text = json.dumps(_finite(document), indent=1, allow_nan=False)
    # A line for every number would be most of the file; texts hold no line breaks, so none is touched.
    return re.sub(r"\[\n\s*([-+.,\de\s]+?)\n\s*\]", _on_one_line, text) + "\n"


def _on_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"


def _run_json(run: Run) -> dict[str, Any]:
    return {
        **asdict(run),
        "layers": [_layer_json(layer, run.roof) for layer in run.layers],
        "totals": {name: asdict(value) for name, value in totals(run.layers).items()},
    }


def _layer_json(layer: LayerResult, roof: Roof) -> dict[str, Any]:
    record = asdict(layer)
    for row, entry in zip(record["entries"], layer.entries, strict=True):
        row["library"] = row.pop("maker")
        if entry.timed:
            row["gflops"] = layer.gflops(entry)
            row["peak_fraction"] = layer.gflops(entry) / roof.gflops
    record["speed_up"] = layer.ratio()
    record["interval"] = interval(layer, None)
    record["verdict"] = verdict(layer)
    record["unstable"] = unsteady(layer)
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> Report:
    """Return the report that a JSON file holds.

    Raises
    ------
    ValueError
        When the file cannot be read, is too large, or is not what `to_json` writes; with the place.
    """
    name = clean(path.name)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{name} is larger than {MOST_BYTES >> 20} MiB")
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None
    return parse(text, name)


def parse(text: str, name: str) -> Report:
    """Return the report in `text`; `name` is what errors call it."""

    def refused(word: str) -> float:
        raise ValueError(f"{word} is no JSON number")

    try:
        document = json.loads(text, parse_constant=refused)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    top = Place(document, name)
    schema = top.text("schema")
    if schema == OLD_SCHEMA:
        return _old_report(top)
    if schema != SCHEMA:
        raise ValueError(f"{name}: schema must be {SCHEMA!r} or {OLD_SCHEMA!r}, got {schema[:80]!r}")
    return Report(
        date=top.text("date"),
        command=top.text("command", ""),
        machine=top.texts("machine"),
        versions=top.texts("versions"),
        missing=top.texts("missing"),
        settings=top.texts("settings"),
        identity=top.texts("identity"),
        runs=tuple(_run(place) for place in top.items("runs", MOST_RUNS)),
    )


def _old_report(top: Place) -> Report:
    layers = _layers(top)
    if not layers:
        raise ValueError(f"{top.where}: layers must not be empty")
    first = Problem.parse(layers[0].word)
    peak = top.number("fma_peak_gflops", math.nan, most=1e9)
    run = Run(
        title=top.text("title"),
        threads=first.threads,
        accuracy=first.accuracy,
        dtype=first.dtype,
        roof=Roof(first.threads, first.dtype, peak),
        layers=layers,
    )
    return Report(
        date=top.text("date"),
        command="",
        machine=top.texts("machine"),
        versions=top.texts("versions"),
        missing={},
        settings=top.texts("settings"),
        runs=(run,),
    )


def _run(place: Place) -> Run:
    roof = place.inside("roof")
    return Run(
        title=place.text("title"),
        threads=place.whole("threads", least=1, most=1 << 20),
        accuracy=place.one_of("accuracy", ACCURACIES),
        dtype=place.one_of("dtype", DTYPES),
        roof=Roof(
            threads=roof.whole("threads", least=1, most=1 << 20),
            dtype=roof.one_of("dtype", DTYPES),
            gflops=roof.number("gflops", math.nan, most=1e9),
            gbytes=roof.number("gbytes", math.nan, most=1e9),
        ),
        layers=_layers(place),
    )


def _layers(place: Place) -> tuple[LayerResult, ...]:
    return tuple(_layer(layer) for layer in place.items("layers", MOST_LAYERS))


def _layer(place: Place) -> LayerResult:
    word = place.text("word")
    try:
        problem = Problem.parse(word)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place.where}.word: {clean(str(error))}") from None
    entries = [_entry(entry) for entry in place.items("entries", MOST_ENTRIES)]
    return LayerResult(
        name=place.text("name"),
        word=problem.word,
        count=place.whole("count", least=1, most=1 << 24),
        flop=problem.flop,
        checked=place.number("checked", 0.0, most=1.0),
        entries=tuple(
            replace(entry, within=bool(entry.failed) or holds(problem, entry)) for entry in entries
        ),
        skipped=place.texts("skipped"),
        reorder_s=place.number("reorder_s", math.nan, most=MOST_SECONDS),
    )


def _entry(place: Place) -> Entry:
    def seconds(key: str) -> float:
        value = place.number(key, math.nan, most=MOST_SECONDS)
        if value == 0:
            raise ValueError(f"{place.where}.{key} must be above 0")
        return value

    accuracy = place.text("accuracy", "")
    if accuracy:
        accuracy = place.one_of("accuracy", ACCURACIES)
    return Entry(
        maker=place.text("library"),
        name=place.text("name"),
        layout=place.text("layout", ""),
        min_s=seconds("min_s"),
        median_s=seconds("median_s"),
        spread=place.number("spread", math.nan),
        calls=place.whole("calls", 0),
        rounds_s=place.numbers("rounds_s", MOST_ROUNDS, most=MOST_SECONDS),
        cold_s=seconds("cold_s"),
        prepare_s=place.number("prepare_s", math.nan, most=MOST_SECONDS),
        max_error=place.number("max_error", math.nan),
        l2_error=place.number("l2_error", math.nan),
        accuracy=accuracy,
        algorithm=place.text("algorithm", ""),
        config=place.text("config", ""),
        source=place.text("source", ""),
        workspace_bytes=place.whole("workspace_bytes", 0),
        threads=place.whole("threads", 0, most=1 << 20),
        lost=place.number("lost", 0.0, most=1.0),
        failed=place.text("failed", ""),
    )
