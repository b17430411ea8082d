"""Sweeps: which problems they measure, the exponents they find, the bends they name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import TINY
from test_cli import run as run_cli
from test_reports import entry, report

from fastconv.compare import document, page, sweep
from fastconv.compare.document import Run
from fastconv.compare.results import LayerResult
from fastconv.compare.roof import Roof
from fastconv.machine import Machine
from fastconv.problem import Problem

MACHINE = replace(Machine.host(), l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20)
BASE = Problem.parse(sweep.DEFAULT_WORD)


@pytest.mark.parametrize(
    ("kind", "word", "expected"),
    [
        (
            "size",
            TINY,
            {7: "n1c4h7w7_o6k3x3_s1p1d1g1_nchw_f32", 224: "n1c4h224w224_o6k3x3_s1p1d1g1_nchw_f32"},
        ),
        ("channels", TINY, {16: "n1c16h9w7_o16k3x3_s1p1d1g1_nchw_f32"}),
        ("channels", "n1c8h9w7_o8k3x3_s1p1d1g8_nchw_f32", {32: "n1c32h9w7_o32k3x3_s1p1d1g32_nchw_f32"}),
        ("batch", TINY, {32: "n32c4h9w7_o6k3x3_s1p1d1g1_nchw_f32"}),
        ("kernel", TINY, {1: "n1c4h9w7_o6k1x1_s1p0d1g1_nchw_f32", 5: "n1c4h9w7_o6k5x5_s1p2d1g1_nchw_f32"}),
        ("kernel", "n1c4h40w40_o6k3x3_s1p2d2g1_nchw_f32", {7: "n1c4h40w40_o6k7x7_s1p6d2g1_nchw_f32"}),
    ],
)
def test_points_change_one_side(kind: str, word: str, expected: dict[int, str]) -> None:
    found = {value: layer.problem.word for value, layer in sweep.points(Problem.parse(word), kind)}
    assert {value: found.get(value) for value in expected} == expected


def test_threads_go_up_to_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "host", staticmethod(lambda: replace(MACHINE, cores=6)))
    found = sweep.points(BASE, "threads")
    assert [value for value, _ in found] == [1, 2, 4, 6]
    assert [layer.problem.threads for _, layer in found] == [1, 2, 4, 6]


def test_a_sweep_needs_two_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "host", staticmethod(lambda: replace(MACHINE, cores=1)))
    with pytest.raises(ValueError, match="fewer than two fit"):
        sweep.points(BASE, "threads")


def run(values: dict[int, tuple[float, str]], side: str = "h") -> Run:
    """Return a sweep whose points take the given seconds by the given algorithms."""
    layers = []
    for value, (seconds, algorithm) in values.items():
        problem = replace(BASE, threads=value) if side == "threads" else replace(BASE, h=value, w=value)
        entries = (
            entry("fastconv", "nchw", seconds, algorithm=algorithm, workspace_bytes=4096),
            entry("torch", "contiguous", 2 * seconds),
        )
        layers.append(LayerResult(f"point {value}", problem.word, 1, problem.flop, 1.0, entries))
    return Run("sweep", 1, "standard", "float32", Roof(1, "float32", 200.0, 20.0), tuple(layers))


def test_exponents_are_those_of_the_power_law() -> None:
    values = (14, 28, 56)
    found = sweep.growths(values, run({value: (1e-6 * value**1.5, "direct") for value in values}))
    assert [growth.name for growth in found] == ["fastconv", "torch"]
    assert [growth.exponent for growth in found] == pytest.approx([1.5, 1.5], abs=1e-5)
    assert math.isnan(sweep.exponent([1, 2], [math.nan, 1.0]))
    assert sweep.exponent([1, 2, 4], [5.0, 5.0, 5.0]) == 0.0
    assert math.copysign(1, sweep.exponent([1, 2, 4], [5.0, 5.0, 5.0])) == 1


def test_bends_are_named() -> None:
    flop = {value: replace(BASE, h=value, w=value).flop for value in (14, 28, 56, 112)}
    straight = {value: (work / 1e11, "direct") for value, work in flop.items()}
    assert sweep.bends(tuple(flop), run(straight), MACHINE) == []
    bent = straight | {56: (flop[56] / 2e11, "winograd"), 112: (flop[112] / 1e11, "winograd")}
    faster, slower = sweep.bends(tuple(flop), run(bent), MACHINE)
    assert (faster.before, faster.after, faster.speed) == (28, 56, pytest.approx(2.0))
    assert "direct gives way to winograd" in faster.causes
    # 1.6 MB of x and y become 6.4 MB.
    assert slower.speed == pytest.approx(0.5) and "winograd" not in " ".join(slower.causes)
    said = sweep.sentences("size", tuple(flop), run(bent), MACHINE)
    assert any("bend from rows and columns 28 to 56: 100 % faster" in text for text in said)
    assert any("the work of the definition grows to the power 2.00" in text for text in said)


@pytest.mark.parametrize(
    ("low", "high", "cause"),
    [(14, 28, "x and y no longer fit in L1"), (28, 112, "x and y no longer fit in L2")],
)
def test_caches_left_are_named(low: int, high: int, cause: str) -> None:
    small = replace(MACHINE, l1_bytes=128 << 10)
    work = {value: replace(BASE, h=value, w=value).flop for value in (low, high)}
    (bend,) = sweep.bends(
        (low, high), run({low: (work[low] / 1e11, "direct"), high: (work[high] / 5e10, "direct")}), small
    )
    assert cause in bend.causes


def test_a_region_opened_is_named() -> None:
    (bend,) = sweep.bends((1, 2), run({1: (1e-3, "direct"), 2: (0.9e-3, "direct")}, "threads"), MACHINE)
    assert bend.speed == pytest.approx(1 / 1.8) and "a parallel region is opened" in bend.causes[0]


def test_the_page_of_a_sweep() -> None:
    pytest.importorskip("jinja2")
    flop = {value: replace(BASE, h=value, w=value).flop for value in (14, 28, 56)}
    found = run(
        {
            14: (flop[14] / 1e11, "direct"),
            28: (flop[28] / 2e11, "<b>bold</b>"),
            56: (flop[56] / 2e11, "direct"),
        }
    )
    text = page.render_sweep(report(found), "size", tuple(flop))
    assert "&lt;b&gt;bold&lt;/b&gt;" in text and "<b>bold</b>" not in text
    if page.plots.available():
        assert text.count("<svg ") == 2


def test_sweep_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    html, result = tmp_path / "s.html", tmp_path / "s.json"
    words = ("bench", TINY, "--sweep", "batch", "--peers", "numpy_im2col", "--quick", "--json", str(result))
    more = ("--html", str(html)) if page.find_spec("jinja2") else ()
    code, out, _ = run_cli(capsys, monkeypatch, *words, *more)
    assert code == 0 and "time grows as images to the power" in out and "numpy_im2col: time grows" in out
    (found,) = document.read(result).runs
    assert [Problem.parse(layer.word).n for layer in found.layers] == [1, 2, 4, 8, 16, 32]
    assert not more or "time grows as images" in html.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bench",), "name a workload"),
        (("bench", "resnet50", "--sweep", "size"), "--sweep needs one layer, resnet50 has 23"),
        (("bench", TINY, "--sweep", "colour"), "'colour' is not one of"),
        (
            ("bench", "n1c4h9w7_o6k3x3_s1p1d1g2_nchw_f32", "--sweep", "size", "--html", "no/where.html"),
            "does not exist",
        ),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    code, _, err = run_cli(capsys, monkeypatch, *words)
    assert code == 2 and message in " ".join(err.split())
