"""Documents, pages and changes of comparisons: what is written is read again, whatever names are in it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastconv.compare import changes, document, markdown, page, plots, summary
from fastconv.compare.document import Report, Run
from fastconv.compare.intervals import ratio_interval, unsteady, verdict
from fastconv.compare.reading import clean
from fastconv.compare.results import Entry, LayerResult
from fastconv.compare.roof import Roof

WORDS = (
    "n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32",
    "n1c64h56w56_o256k1x1_s1p0d1g1_nchw_f32",
    "n1c128h28w28_o128k3x3_s1p1d1g1_nchw_f32",
)
STORED = sorted((Path(__file__).parents[1] / "bench" / "results").glob("*.json"))
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "$\\frac{$ %s {{ 7*7 }} {% raw %}",
    "../../../etc/passwd",
    "|`*[x](javascript:alert(1))\n# head",
    "\x00\x1b[2J\ud800\u202egnorw",
    "ü" * 300,
    "层 🙂 שלום",
)


def entry(library: str, form: str, seconds: float, layout: str = "NCHW", **more: Any) -> Entry:
    rounds = tuple(seconds * (1 + 0.002 * step) for step in range(9))
    values = {
        "min_s": seconds, "median_s": seconds * 1.01, "spread": 0.01, "calls": 99, "rounds_s": rounds,
        "max_error": 1e-7, "l2_error": 1e-7, "threads": 1, "prepare_s": 0.1, **more,
    }  # fmt: skip
    return Entry(library, f"{library} {form}", layout, **values)


def layer(name: str, word: str, ours: float, torch: float, **more: Any) -> LayerResult:
    entries = (
        entry("fastconv", "nchw", ours, algorithm="direct", config="Config(mr=8)", source="estimate"),
        entry("fastconv", "nhwc", ours * 1.1, layout="NHWC", algorithm="winograd", source="stored"),
        entry("fastconv", "nchw fast", ours / 2, accuracy="fast", max_error=1e-3, l2_error=1e-3),
        entry("torch", "channels_last", torch, layout="NHWC"),
        entry("torch", "bfloat16", torch / 4, max_error=1e-2, l2_error=3e-3, within=False),
        entry("onnxruntime", "nchw", torch * 2),
        Entry("openvino", "openvino nchw", "", failed="RuntimeError: no <b>luck</b>"),
    )
    more = {"count": 2, "checked": 0.5, "skipped": {"opencv": "one channel"}, "reorder_s": 1e-4, **more}
    return LayerResult(name=name, word=word, flop=231211008, entries=entries, **more)


def run(names: tuple[str, ...] = ("a", "b", "c"), threads: int = 1, scale: float = 1.0) -> Run:
    times = ((1e-3, 2e-3), (1e-3, 0.5e-3), (1e-3, 1e-3))
    layers = tuple(
        layer(name, WORDS[place % 3], times[place % 3][0] * scale, times[place % 3][1] * scale)
        for place, name in enumerate(names)
    )
    return Run("net", threads, "standard", "float32", Roof(threads, "float32", 200.0, 20.0), layers)


def report(*runs: Run, **more: Any) -> Report:
    said = {
        "date": "2026-01-01T00:00:00+00:00", "command": "fastconv compare net", "machine": {"cpu": "some"},
        "versions": {"fastconv": "1"}, "missing": {"jax": "not installed"}, "settings": {"effort": "some"}, **more,
    }  # fmt: skip
    return Report(runs=runs or (run(),), **said)


def same(left: Any, right: Any) -> bool:
    """Return whether two reports are equal, with NaN equal to itself."""
    return repr(left) == repr(right)


def test_what_is_written_is_read_again() -> None:
    first = report(run(), run(threads=2))
    text = document.to_json(first)
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    again = document.parse(text, "again")
    assert [r.title for r in again.runs] == ["net", "net"] and again.runs[1].threads == 2
    for before, after in zip(first.runs[0].layers, again.runs[0].layers, strict=True):
        assert same(before.entries, after.entries)
        assert before.ratio() == after.ratio()
    assert document.to_json(document.parse(document.to_json(again), "x")) == document.to_json(again)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "bench" / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_stored_results_are_read(path: Path) -> None:
    found = document.read(path)
    assert found.runs and all(r.layers for r in found.runs)
    for each in found.runs:
        assert "fastconv is" in summary.sentence(each)
    assert document.to_json(document.parse(document.to_json(found), "again")) == document.to_json(found)


def test_ratios_count_what_holds_the_class() -> None:
    first = run().layers[0]
    best = first.best()
    assert best is not None and best.name == "torch channels_last"
    assert first.ratio() == pytest.approx(2.0)
    loose = replace(
        first, word=first.word + "_fast", entries=tuple(replace(e, within=True) for e in first.entries)
    )
    assert loose.best() is not None and loose.best().name == "torch bfloat16"  # type: ignore[union-attr]


def test_won_tied_lost() -> None:
    assert [verdict(each) for each in run().layers] == ["won", "lost", "tied"]
    (best, *_) = summary.against(run())
    assert (best.won, best.tied, best.lost) == (1, 1, 1)
    assert [lost.layer for lost in summary.losses(run())] == ["b"]
    # 2 * 3 ms against 2 * (2 + 0.5 + 1) ms.
    assert best.speed_up == pytest.approx(3.5 / 3) and best.interval is not None
    assert best.interval[0] <= best.speed_up <= best.interval[1]


def test_intervals_hold_the_ratio_and_grow_with_the_noise() -> None:
    calm = ratio_interval([1.0, 1.01] * 10, [2.0, 2.02] * 10)
    loud = ratio_interval([1.0, 1.5, 1.1, 1.9] * 5, [2.0, 3.5, 2.2, 2.1] * 5)
    assert calm is not None and loud is not None
    assert calm[0] <= 2.0 <= calm[1] and loud[0] <= 2.0 <= loud[1]
    assert loud[1] - loud[0] > calm[1] - calm[0]
    assert ratio_interval([1.0] * 4, [1.0] * 9) is None
    assert ratio_interval([1.0] * 9, [2.0] * 7) == (2.0, 2.0)


def test_unstable_is_said() -> None:
    calm = run().layers[0]
    assert unsteady(calm) == []
    loaded = replace(calm, entries=tuple(replace(e, lost=0.4) for e in calm.entries))
    assert unsteady(loaded) == ["other processes took 40 % of the time"]
    noisy = replace(calm, entries=tuple(replace(e, spread=0.3) for e in calm.entries))
    assert len(unsteady(noisy)) == 2 and "30 %" in unsteady(noisy)[0]
    text = summary.sentence(replace(run(), layers=(loaded, calm)))
    assert "1 of 2 layers are unstable" in text
    assert "unstable" not in summary.sentence(run())


class Page(HTMLParser):
    """What a browser would see: elements, and the texts outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.texts.append(data)


def shown(text: str) -> str:
    return " ".join(" ".join(Page(text).texts).split())


def test_the_page_says_it_all() -> None:
    pytest.importorskip("jinja2")
    text = page.render(report(run(), run(threads=2, scale=0.6)))
    seen = shown(text)
    for part in (
        "net (standard, float32, 1 thread): fastconv is 1.17 times as fast", "1 won, 1 tied, 1 lost",
        "Worst losses", "outside the accuracy class", "RuntimeError: no <b>luck</b>", WORDS[0], "jax",
        f"fastconv bench {WORDS[1]}", "direct NCHW", "estimate", "FMA peak 200 GFLOP/s, memory 20 GB/s",
    ):  # fmt: skip
        assert part in seen, part
    if plots.available():
        for title in (
            "Speed-up per layer",
            "Roofline",
            "Where the time goes",
            "Error against time",
            "Thread scaling",
        ):
            assert title in seen, title
        assert sum(tag == "svg" for tag, _ in Page(text).tags) == 2 * 4 + 1
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(document.parse(data, "data").runs) == 2


def test_the_page_stands_alone() -> None:
    pytest.importorskip("jinja2")
    text = page.render(report())
    for tag, attributes in Page(text).tags:
        assert tag not in {"link", "iframe", "object", "embed", "img", "base"}, tag
        for name in ("src", "action", "data"):
            assert name not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.findall(r"url\((?!#)", text) and "@import" not in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_text(name: str) -> None:
    pytest.importorskip("jinja2")
    clean_name = clean(name)
    failed = Entry(name, name, name, failed=name)
    layers = [
        replace(each, skipped={name: name}, entries=(*each.entries, failed))
        for each in run((name, "b", "c")).layers
    ]
    bad = replace(run(), title=name, layers=tuple(layers))
    made = report(bad, replace(bad, threads=2), machine={name: name}, command=name, identity={name: name})
    again = document.parse(document.to_json(made), name)
    text = page.render(again)
    plain = page.render(report(run(), run(threads=2)))
    kinds = {tag for tag, _ in Page(plain).tags}
    assert {tag for tag, _ in Page(text).tags} <= kinds
    assert not [key for _, attributes in Page(text).tags for key in attributes if key.startswith("on")]
    assert sum(tag == "script" for tag, _ in Page(text).tags) == 2
    assert " ".join(clean_name.split()) in shown(text)
    text.encode("utf-8")
    lines = markdown.to_markdown(again)
    assert "<script>" not in lines and "<img" not in lines and "\n# head" not in lines
    assert not re.search(r"(?<!\\)\]\(", lines)


def test_without_jinja2_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'fastconv\[report\]'"):
        page.render(report())


def test_without_matplotlib_there_are_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr(plots, "available", lambda: False)
    text = page.render(report(run(), run(threads=2)))
    assert "Without plots" in text and "<svg" not in text and WORDS[0] in text


def test_names_of_fresh_results_are_clean_too() -> None:
    from fastconv.compare import layers

    text = "net,layer,n,c,h,w,k,r,s,stride_h,stride_w,pad_h,pad_w,dil_h,dil_w,groups,count\n"
    (found,) = layers.parse_csv(text + "x,a\x1b[2J\u202eb,1,4,9,7,6,3,3,1,1,1,1,1,1,1,3\n", "mine")
    assert found.name == "a\ufffd[2J\ufffdb"


def edited(change: dict[str, Any], where: tuple[Any, ...] = ()) -> str:
    """Return a good document with keys changed at one place; a value of ... removes the key."""
    found = json.loads(document.to_json(report()))
    place = found
    for step in where:
        place = place[step]
    for key, value in change.items():
        if value is ...:
            del place[key]
        else:
            place[key] = value
    return json.dumps(found)


RUN, LAYER, ENTRY = ("runs", 0), ("runs", 0, "layers", 1), ("runs", 0, "layers", 1, "entries", 0)
BAD: tuple[tuple[str, dict[str, Any], tuple[Any, ...], str], ...] = (
    ("no schema", {"schema": ...}, (), r"schema is missing"),
    ("other schema", {"schema": "x" * 1000}, (), r"schema must be"),
    ("no date", {"date": ...}, (), "date is missing"),
    ("date a list", {"date": [1]}, (), "date must be text"),
    ("runs a text", {"runs": "many"}, (), "runs must be a list"),
    ("run a number", {"runs": [5]}, (), r"runs\[0\] must be an object, got int"),
    ("too many runs", {"runs": [{}] * 101}, (), "list of at most 100"),
    ("no layers", {"layers": ...}, RUN, r"runs\[0\]\.layers is missing"),
    ("layers an object", {"layers": {}}, RUN, "layers must be a list"),
    ("no roof", {"roof": ...}, RUN, "roof is missing"),
    ("accuracy", {"accuracy": "loose"}, RUN, "accuracy must be one of strict"),
    ("threads below", {"threads": 0}, RUN, "threads must be a whole number from 1"),
    ("threads a truth", {"threads": True}, RUN, "threads must be a whole number"),
    ("threads a fraction", {"threads": 1.5}, RUN, "threads must be a whole number"),
    ("no word", {"word": ...}, LAYER, r"layers\[1\]\.word is missing"),
    ("word rubbish", {"word": "<script>"}, LAYER, r"layers\[1\]\.word: problem must look like"),
    ("word too large", {"word": "n1c99999999h999999999w999999_o64k3x3_s1p1d1g1_nchw_f32"}, LAYER, r"\.word: "),
    ("name a number", {"name": 7}, LAYER, "name must be text"),
    ("long name", {"name": "x" * 5000}, LAYER, "at most 4000"),
    ("count zero", {"count": 0}, LAYER, "count must be a whole number from 1"),
    ("count huge", {"count": 10**30}, LAYER, "count must be a whole number"),
    ("lost above one", {"lost": 2}, ENTRY, "lost must be a number from 0 to 1"),
    ("skipped a list", {"skipped": ["x"]}, LAYER, "skipped must be an object"),
    ("time below zero", {"min_s": -1.0}, ENTRY, "min_s must be a number from 0"),
    ("time zero", {"min_s": 0}, ENTRY, "min_s must be above 0"),
    ("time a text", {"min_s": "fast"}, ENTRY, "min_s must be a number"),
    ("time huge", {"min_s": 1e12}, ENTRY, "min_s must be a number"),
    ("time beyond floats", {"min_s": 10**400}, ENTRY, "min_s must be a number"),
    ("rounds texts", {"rounds_s": ["a"]}, ENTRY, "rounds_s must be numbers"),
    ("rounds zero", {"rounds_s": [0.0]}, ENTRY, "rounds_s must be numbers above 0"),
    ("too many rounds", {"rounds_s": [1.0] * 10_001}, ENTRY, "at most 10000"),
    ("library null", {"library": None}, ENTRY, "library is missing"),
    ("workspace below zero", {"workspace_bytes": -5}, ENTRY, "workspace_bytes must be a whole number"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "where", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_documents_of_the_wrong_form_are_refused(
    change: dict[str, Any], where: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        document.parse(edited(change, where), "result.json")
    assert "result.json" in str(refused.value) and len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("null", "must be an object, got NoneType"),
        ("[]", "must be an object, got list"),
        ('{"schema": NaN}', "NaN is no JSON number"),
        ('{"schema": -Infinity}', "-Infinity is no JSON number"),
        ("[" * 200_000, "nested too deep|is not JSON"),
        ('{"a":' * 200_000, "nested too deep|is not JSON"),
        ('{"schema": ' + "9" * 20_000 + "}", "is not JSON|schema must be text"),
    ],
)
def test_what_is_no_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        document.parse(text, "result.json")


def test_infinite_numbers_are_refused() -> None:
    text = edited({"min_s": 12345.0}, ENTRY).replace("12345.0", "1e999")
    with pytest.raises(ValueError, match="min_s must be a number"):
        document.parse(text, "result.json")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read none\.json: No such file"):
        document.read(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot read"):
        document.read(tmp_path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        document.read(binary)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(3 << 30)  # a hole: no disk is used, and none of it is read
    with pytest.raises(ValueError, match=r"large\.json is larger than 64 MiB"):
        document.read(large)


def test_two_equal_reports_have_no_regression() -> None:
    found = changes.changes(report(), report())
    assert found.regressions == [] and {row.verdict for row in found.rows} == {"same"}
    assert changes.sentence(found).startswith("No regression in 3 layers")


def slower(factor: float, name: str = "b", peers: float = 1.0) -> Report:
    """Return the report with our times of one layer and everybody else's of all layers changed."""

    def changed(each: LayerResult, e: Entry) -> Entry:
        by = factor if e.ours and each.name == name else peers
        if e.failed:
            return e
        return replace(e, min_s=e.min_s * by, rounds_s=tuple(s * by for s in e.rounds_s))

    layers = tuple(
        replace(each, entries=tuple(changed(each, e) for e in each.entries)) for each in run().layers
    )
    return report(replace(run(), layers=layers))


def test_a_slower_layer_is_a_regression() -> None:
    found = changes.changes(report(), slower(1.5))
    (row,) = found.regressions
    assert (row.layer, row.verdict) == ("b", "slower") and row.change == pytest.approx(1.5)
    assert changes.changes(report(), slower(1.5), threshold=0.6).regressions == []
    assert "faster" in {row.verdict for row in changes.changes(slower(1.5), report()).rows}
    assert json.loads(changes.to_json(found))["rows"][1]["verdict"] == "slower"
    assert "slower" in changes.to_markdown(found)


def test_a_slower_machine_is_no_regression() -> None:
    layers = {row.layer: row for row in changes.changes(report(), slower(1.5, peers=1.5)).rows}
    assert layers["b"].ratio == pytest.approx(1.5) and layers["b"].verdict == "same"


def test_what_is_gone_failed_or_wrong_is_a_regression() -> None:
    good = run()
    first, second, third = good.layers
    ours = tuple(replace(e, max_error=1.0, l2_error=1.0) if e.ours else e for e in first.entries)
    none = tuple(e for e in second.entries if not e.ours)
    after = report(replace(good, layers=(replace(first, entries=ours), replace(second, entries=none))))
    after = document.parse(document.to_json(after), "after")
    found = changes.changes(report(good), after)
    assert {row.layer: row.verdict for row in found.regressions} == {
        "a": "failed",
        "b": "failed",
        third.name: "gone",
    }
    assert math.isnan(found.rows[2].change)
    assert {row.verdict for row in changes.changes(after, report(good)).rows} == {"new"}
    json.loads(changes.to_json(found), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_other_machines_and_versions_are_said() -> None:
    found = changes.changes(report(), report(machine={"cpu": "other"}, versions={"fastconv": "2"}))
    assert found.notes == ("cpu: some before, other after", "fastconv 1 before, 2 after")


def test_the_page_of_changes() -> None:
    pytest.importorskip("jinja2")
    text = page.render_changes(changes.changes(report(), slower(1.5)), report())
    assert "1 regressions in 3 layers" in shown(text) and "slower" in shown(text)
