"""The report as one HTML file: no remote parts, nothing run that is not ours, every text escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from typing import Any

from fastconv.compare import plots, sweep, tables
from fastconv.compare.changes import Changes
from fastconv.compare.changes import sentence as sentence_of_changes
from fastconv.compare.document import Report, Run, to_json
from fastconv.compare.summary import against, losses, number, sentence, unstable_layers, words_of
from fastconv.machine import Machine

#: More losses than this stand in the table only.
MOST_LOSSES = 10


@dataclass(frozen=True, slots=True)
class Card:
    """One figure in large type."""

    value: str
    label: str
    tone: str = ""


def require() -> None:
    """Raise the ValueError that says what to install."""
    if find_spec("jinja2") is None:
        raise ValueError("--html needs jinja2 (and matplotlib for the plots): pip install 'fastconv[report]'")


def render(report: Report) -> str:
    """Return the page of a report."""
    drawn = plots.available()
    page: str = _template("report.html").render(
        **_frame(),
        report=report,
        titles=", ".join(dict.fromkeys(run.title for run in report.runs)),
        runs=[_run(run, f"run{place}", drawn) for place, run in enumerate(report.runs)],
        scaling=_marked(plots.scaling(report)) if drawn else {},
        plots_drawn=drawn,
        data=_embedded(to_json(report)),
    )
    return page


def render_changes(found: Changes, after: Report) -> str:
    """Return the page of two reports compared."""
    page: str = _template("changes.html").render(
        **_frame(),
        found=found,
        date=after.date,
        sentence=sentence_of_changes(found),
        table=tables.changes(found),
    )
    return page


def render_sweep(report: Report, kind: str, values: Sequence[int]) -> str:
    """Return the page of a sweep."""
    (run,), drawn = report.runs, {}
    if plots.available():
        found = sweep.growths(values, run)
        speeds = {
            growth.name: [
                layer.flop / seconds / 1e9 for layer, seconds in zip(run.layers, growth.times, strict=True)
            ]
            for growth in found
        }
        label, ends = sweep.AXES[kind].label, [b.after for b in sweep.bends(values, run, Machine.host())]
        times = {growth.name: [1e3 * seconds for seconds in growth.times] for growth in found}
        drawn = {
            "Time": plots.lines(values, times, label, "ms", "time", ends),
            "Speed": plots.lines(values, speeds, label, "GFLOP/s", "speed", ends),
        }
    page: str = _template("sweep.html").render(
        **_frame(),
        report=report,
        run=run,
        label=sweep.AXES[kind].label,
        sentences=sweep.sentences(kind, values, run, Machine.host()),
        unstable=unstable_layers(run),
        drawn=_marked(drawn),
        table=tables.layers(run),
    )
    return page


def _template(name: str) -> Any:
    require()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fastconv.compare"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


@lru_cache(maxsize=1)
def _frame() -> dict[str, Any]:
    """Return what every page holds; the policy lets a browser run our script only, and load nothing."""
    from markupsafe import Markup

    folder = resources.files("fastconv.compare") / "templates"
    style, script = ((folder / name).read_text("utf-8") for name in ("style.css", "sort.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"style": Markup(style), "script": Markup(script), "policy": policy}


def _embedded(text: str) -> Any:
    """Return JSON that nothing in it can end before its element ends."""
    from markupsafe import Markup

    compact = json.dumps(json.loads(text), separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        compact = compact.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(compact)


def _marked(svgs: dict[str, str]) -> dict[str, Any]:
    """Return plots as what they are; matplotlib has escaped every text in them."""
    from markupsafe import Markup

    return {title: Markup(svg) for title, svg in svgs.items()}


def _run(run: Run, key: str, drawn: bool) -> dict[str, Any]:
    return {
        "title": run.title,
        "words": words_of(run),
        "sentence": sentence(run),
        "layer_count": len(run.layers),
        "roofs": _roofs(run),
        "cards": _cards(run),
        "unstable": unstable_layers(run),
        "against": tables.against_libraries(run),
        "losses": losses(run)[:MOST_LOSSES],
        "plots": _marked(plots.plots_of(run, key)) if drawn else {},
        "layers": tables.layers(run),
        "entries": tables.entries(run),
        "failures": [
            (f"{layer.name}, {entry.name}", entry.failed)
            for layer in run.layers
            for entry in layer.entries
            if entry.failed
        ],
        "skipped": tables.skipped(run),
    }


def _roofs(run: Run) -> str:
    if math.isnan(run.roof.gflops):
        return "no peak measured"
    text = f"FMA peak {run.roof.gflops:.0f} GFLOP/s"
    return (
        text if math.isnan(run.roof.gbytes) else f"{text}, memory {number(run.roof.gbytes)} GB/s (measured)"
    )


def _cards(run: Run) -> list[Card]:
    sides = against(run)
    if not sides:
        return [Card(str(len(run.layers)), "layers, no peer beside them")]
    best = sides[0]

    def tone(value: float) -> str:
        return "up" if value >= 1 else "down"

    return [
        Card(
            f"{best.speed_up:.2f}×",
            "speed-up of the network over the best peer of every layer",
            tone(best.speed_up),
        ),
        Card(
            f"{best.total.geometric_mean:.2f}×",
            "geometric mean of its layers",
            tone(best.total.geometric_mean),
        ),
        Card(f"{best.won} / {best.tied} / {best.lost}", "layers won / tied / lost"),
        Card(
            f"{best.total.worst_ratio:.2f}×",
            f"worst layer, {best.total.worst_layer}",
            tone(best.total.worst_ratio),
        ),
        Card(
            f"{number(best.total.ours_s * 1e3)} ms", f"ours; best peers {number(best.total.other_s * 1e3)} ms"
        ),
    ]
