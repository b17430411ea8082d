"""A report as Markdown: what an issue, a pull request or a README can hold."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from fastconv.compare.document import Report, Run
from fastconv.compare.intervals import Interval, interval, unsteady, verdict
from fastconv.compare.results import OURS
from fastconv.compare.summary import (
    against,
    libraries,
    losses,
    number,
    repro,
    sentence,
    unstable_layers,
    words_of,
)

#: What begins something in Markdown or in the HTML inside it.
_SIGNS = re.compile(r"([\\`*_{}\[\]#!|~$])")


def escaped(text: str) -> str:
    r"""Return `text` so that it is shown as it is, in one line.

    Examples
    --------
    >>> escaped("<b>|x_1")
    '&lt;b&gt;\\|x\\_1'
    """
    return _SIGNS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Return `text` in the type of code; a table cell may hold it."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "/") + "`"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return the lines of a table; `right` are the columns of numbers. Cells are Markdown already."""
    marks = ["---:" if place in right else "---" for place in range(len(headings))]
    lines = [headings, marks, *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def within(found: Interval | None) -> str:
    """Return an interval in words, or nothing."""
    return f"{found[0]:.2f} to {found[1]:.2f}" if found else ""


def to_markdown(report: Report) -> str:
    """Return the whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# fastconv beside other libraries"
    yield ""
    for run in report.runs:
        yield f"- {escaped(sentence(run))}"
    for run in report.runs:
        yield from _run(run)
    yield from ["", "## Where and when", ""]
    facts = {"date": report.date, "command": report.command, **report.identity, **report.machine}
    facts |= {f"setting: {name}": value for name, value in report.settings.items()}
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    for name, value in {**facts, "versions": versions}.items():
        yield f"- {escaped(name)}: {escaped(value)}"
    for name, reason in report.missing.items():
        yield f"- missing: {escaped(name)} ({escaped(reason)})"
    yield ""
    yield (
        "Speed-up: their time divided by ours, the fastest call of each, the best form of each library. "
        "Intervals: 95 % bootstrap over rounds, of lower quartiles. GFLOP/s: the work of the definition per time. "
        "A layer is tied when its interval holds 1 or its speed-up is within a hundredth of it."
    )


def _run(run: Run) -> Iterator[str]:
    yield from ["", f"## {escaped(run.title)}: {words_of(run)}", ""]
    rows = [
        [
            escaped(side.name), str(side.total.layers), f"{side.won} / {side.tied} / {side.lost}",
            number(side.total.other_s * 1e3), number(side.total.ours_s * 1e3), f"**{side.speed_up:.2f}**",
            within(side.interval), f"{side.total.geometric_mean:.2f}",
            f"{escaped(side.total.worst_layer)} ({side.total.worst_ratio:.2f})",
        ]
        for side in against(run)
    ]  # fmt: skip
    if rows:
        headings = (
            "against", "layers", "won / tied / lost", "their ms", "our ms", "speed-up", "95 % interval",
            "geometric mean", "worst layer",
        )  # fmt: skip
        yield from table(headings, rows, right=range(1, 8))
    lost = losses(run)
    if lost:
        yield from ["", "Worst losses:", ""]
        for item in lost[:10]:
            yield f"- {escaped(item.layer)}: {item.ratio:.2f} of {escaped(item.maker)}"
    doubt = unstable_layers(run)
    if doubt:
        yield from ["", "Unstable:", ""]
        for name, said in doubt.items():
            yield f"- {escaped(name)}: {escaped('; '.join(said))}"
    yield ""
    yield from _layers(run)
    failures = [(layer.name, e.name, e.failed) for layer in run.layers for e in layer.entries if e.failed]
    if failures:
        yield from ["", "Failed:", ""]
        for layer, name, message in failures:
            yield f"- {escaped(layer)}, {escaped(name)}: {escaped(message)}"


def _layers(run: Run) -> Iterator[str]:
    names = libraries(run)
    headings = [
        "layer", "times", "algorithm", "from", "ms", "GFLOP/s", "% of peak", "error",
        *(f"x {escaped(name)}" for name in names), "against the best", "verdict", "again",
    ]  # fmt: skip
    rows = []
    for layer in run.layers:
        ours = layer.best(OURS)
        if ours is None:
            rows.append([escaped(layer.name), str(layer.count), "no time", *[""] * (len(headings) - 3)])
            continue
        gflops = layer.gflops(ours)
        peak = 100 * gflops / run.roof.gflops
        said = verdict(layer) + (" (unstable)" if unsteady(layer) else "")
        rows.append(
            [
                escaped(layer.name), str(layer.count), f"{escaped(ours.algorithm)} {ours.layout.lower()}",
                escaped(ours.source), number(ours.min_s * 1e3), number(gflops), number(peak, 2),
                f"{ours.max_error:.0e}", *(number(layer.ratio(name)) for name in names),
                within(interval(layer, None)), said, code(repro(layer)),
            ]
        )  # fmt: skip
    yield from table(headings, rows, right=(1, *range(4, 8 + len(names))))
