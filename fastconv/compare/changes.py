"""Two reports of the same layers: what became slower, faster, wrong or is gone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from fastconv.compare.document import Report, Run
from fastconv.compare.intervals import ratio_interval
from fastconv.compare.markdown import code, escaped, table
from fastconv.compare.results import OURS, Entry, LayerResult, broken
from fastconv.compare.summary import number

#: Contestants of other libraries that both reports need before the speed of the machine is taken out.
ENOUGH = 2
#: What counts as a regression; the others are "same", "faster", "new" and "untimed" (in both).
BAD = ("slower", "wrong", "failed", "gone")


@dataclass(frozen=True, slots=True)
class Change:
    """One layer before and after.

    `ratio` is our time after divided by before, `machine` the same of the other libraries (1 where there are
    too few), `change` the one divided by the other: above 1 we became slower by ourselves.
    """

    run: str
    layer: str
    word: str
    before_s: float
    after_s: float
    ratio: float
    machine: float
    change: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Changes:
    """All layers of both reports, and what a reader should know about comparing them."""

    threshold: float
    rows: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[Change]:
        """What became slower by more than the threshold, wrong, or is gone; the worst first."""
        bad = [row for row in self.rows if row.verdict in BAD]
        return sorted(bad, key=lambda row: -row.change if math.isfinite(row.change) else -math.inf)


Key = tuple[str, int, str, str, str]


def changes(before: Report, after: Report, threshold: float = 0.1) -> Changes:
    """Return how the layers of `after` compare with the same layers of `before`."""
    old, new = dict(_layers(before)), dict(_layers(after))
    rows = [_change(key, old.get(key), new.get(key), threshold) for key in dict.fromkeys((*old, *new))]
    notes = [
        f"{name}: {before.machine.get(name, 'unknown')} before, {after.machine.get(name, 'unknown')} after"
        for name in ("fingerprint", "cpu")
        if before.machine.get(name) != after.machine.get(name)
    ]
    notes += [
        f"{name} {before.versions.get(name, 'missing')} before, {after.versions.get(name, 'missing')} after"
        for name in dict.fromkeys((*before.versions, *after.versions))
        if before.versions.get(name) != after.versions.get(name)
    ]
    if not set(old) & set(new):
        notes.append("no layer is in both")
    return Changes(threshold, tuple(rows), tuple(notes))


def _layers(report: Report) -> Iterator[tuple[Key, tuple[Run, LayerResult]]]:
    for run in report.runs:
        for layer in run.layers:
            yield (run.title, run.threads, run.accuracy, layer.name, layer.word), (run, layer)


def _change(
    key: Key, old: tuple[Run, LayerResult] | None, new: tuple[Run, LayerResult] | None, threshold: float
) -> Change:
    title, threads, accuracy, name, word = key
    run = f"{title}, {accuracy}, {threads} thread{'s' if threads > 1 else ''}"
    before = old[1].best(OURS) if old else None
    after = new[1].best(OURS) if new else None
    nan = math.nan
    if old is None or new is None or before is None or after is None:
        if new is None:
            verdict = "gone"
        elif old is None or (before is None and after is not None):
            verdict = "new"
        else:
            verdict = "untimed" if before is None else "failed"
        return Change(
            run,
            name,
            word,
            before.min_s if before else nan,
            after.min_s if after else nan,
            nan,
            nan,
            nan,
            verdict,
        )
    machine = _machine(old[1], new[1])
    ratio = after.min_s / before.min_s
    change = ratio / machine
    if broken(new[1]) and not broken(old[1]):
        verdict = "wrong"
    elif change > 1 + threshold and _sure(before, after, machine):
        verdict = "slower"
    else:
        verdict = "faster" if change < 1 / (1 + threshold) else "same"
    return Change(run, name, word, before.min_s, after.min_s, ratio, machine, change, verdict)


def _machine(old: LayerResult, new: LayerResult) -> float:
    """Return how much slower the machine became: the median of what the same forms of others took."""
    before = {entry.name: entry.min_s for entry in old.entries if entry.timed and not entry.ours}
    ratios = [
        entry.min_s / before[entry.name]
        for entry in new.entries
        if entry.timed and not entry.ours and entry.name in before
    ]
    return statistics.median(ratios) if len(ratios) >= ENOUGH else 1.0


def _sure(before: Entry, after: Entry, machine: float) -> bool:
    """Return whether the interval of our ratio, where there is one, lies above 1 as well."""
    found = ratio_interval(before.rounds_s, after.rounds_s)
    return found is None or found[0] / machine > 1


def to_json(found: Changes) -> str:
    """Return everything as strict JSON."""
    rows = [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(row).items()
        }
        for row in found.rows
    ]
    document = {"schema": "fastconv-changes/1", **asdict(found), "rows": rows}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def sentence(found: Changes) -> str:
    """Return how many layers became what."""
    counts = {
        word: sum(row.verdict == word for row in found.rows)
        for word in dict.fromkeys(r.verdict for r in found.rows)
    }
    said = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    worst = found.regressions
    limit = f"threshold {100 * found.threshold:g} %"
    if not worst:
        return f"No regression in {len(found.rows)} layers ({said}; {limit})."
    return f"{len(worst)} regressions in {len(found.rows)} layers ({said}; {limit})."


def to_markdown(found: Changes) -> str:
    """Return the table of changes."""
    rows = [
        [
            escaped(row.run), escaped(row.layer), number(row.before_s * 1e3), number(row.after_s * 1e3),
            _figure(row.ratio), _figure(row.machine), _figure(row.change), row.verdict, code(row.word),
        ]
        for row in sorted(found.rows, key=lambda row: row not in found.regressions)
    ]  # fmt: skip
    headings = (
        "run",
        "layer",
        "before ms",
        "after ms",
        "after / before",
        "others",
        "change",
        "verdict",
        "problem",
    )
    lines = [
        "# Before and after",
        "",
        escaped(sentence(found)),
        "",
        *(f"- {escaped(note)}" for note in found.notes),
    ]
    return "\n".join([*lines, "", *table(headings, rows, right=range(2, 7))]) + "\n"


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
