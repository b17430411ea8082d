"""Workloads, clock, sums, reports and peers of the comparison; no assertion looks at how fast anything is."""

from __future__ import annotations

import ctypes
import io
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.compare import layers, measuring, results, terminal
from fastconv.compare.bench import Settings, bench_layer
from fastconv.compare.data import make_arrays, reference_sample
from fastconv.compare.document import Run
from fastconv.compare.layers import Layer
from fastconv.compare.measuring import Effort, Here, Turn, measure
from fastconv.compare.peers import all_peers, openvino, select
from fastconv.compare.peers.numpy_im2col import convolve
from fastconv.compare.results import Entry, LayerResult
from fastconv.compare.roof import Roof
from fastconv.problem import Problem

SHORT = Effort(seconds=0.0, calls=2, turn_s=0.0, most_s=0.05)
SMALL = (
    "n1c4h9w7_o6k3x3_s1p1d1g1_nchw_f32",
    "n2c4h9w7_o6k3x2_s2x1p1d1g2_nchw_f32_bias",
    "n1c6h8w8_o6k3x3_s1p2d2g6_nchw_f32",
    "n1c3h8w8_o4k3x3_s2p0.1.0.1d1g1_nchw_f32",
    "n1c5h6w6_o7k1x1_s1p0d1g1_nchw_f64_bias",
    "n1c1h12w9_o1k5x3_s1p2.2.1.1d1g1_nchw_f32",
    "n1c1h12w9_o3k4x5_s1p1.2.0.3d1g1_nchw_f64_bias",
)


def test_shipped_workloads_hold_valid_layers() -> None:
    assert {"resnet50", "vgg16", "mobilenet_v2", "imgproc", "edge_cases"} <= set(layers.workload_names())
    for name in layers.workload_names():
        title, found = layers.load(name)
        assert title == name and found
        assert all(layer.count >= 1 and layer.problem.flop > 0 for layer in found)


def test_resnet50_has_the_work_of_the_paper() -> None:
    _, found = layers.load("resnet50")
    assert sum(layer.count for layer in found) == 53
    # 4.09e9 multiply-adds with the stride in the 3x3 layers, and none counted for the classifier.
    assert sum(layer.count * layer.problem.flop for layer in found) / 2 == pytest.approx(4.09e9, rel=0.02)


def test_a_problem_word_is_a_workload() -> None:
    _, (layer,) = layers.load(SMALL[0])
    assert layer.problem == Problem.parse(SMALL[0]) and layer.count == 1
    assert layer.where(layout="NHWC").problem.layout == "NHWC"


def _csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.csv"
    path.write_text(text, "utf-8")
    return str(path)


HEADER = "net,layer,n,c,h,w,k,r,s,stride_h,stride_w,pad_h,pad_w,dil_h,dil_w,groups,count\n"


def test_own_csv_files(tmp_path: Path) -> None:
    title, (layer,) = layers.load(_csv(tmp_path, HEADER + "x,first,1,4,9,7,6,3,3,1,1,1,1,1,1,1,3\n"))
    assert (title, layer) == ("mine", Layer("first", Problem.parse(SMALL[0]), 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no layers"),
        (HEADER, "no layers"),
        ("a,b\n1,2\n", "lacks the columns layer, n, c"),
        (HEADER + "x,first,1,4,9\n", "h must be a whole number|w must be a whole number"),
        (HEADER + "x,first,1,four,9,7,6,3,3,1,1,1,1,1,1,1,1\n", "line 2: c must be a whole number"),
        (HEADER + "x,first,1,99999999999999,9,7,6,3,3,1,1,1,1,1,1,1,1\n", "c must be a whole number up to"),
        (HEADER + "x,first,1,4,9,7,6,3,3,0,1,1,1,1,1,1,1\n", "line 2: stride must be at least 1"),
        (HEADER + "x,first,1,4,9,7,6,30,3,1,1,1,1,1,1,1,1\n", "kernel must not be larger"),
        (HEADER + "x,first,1,4,9,7,6,3,3,1,1,1,1,1,1,1,0\n", "count must be at least 1"),
    ],
)
def test_bad_csv_files_are_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layers.load(_csv(tmp_path, text))


@pytest.mark.parametrize("source", ["nosuch", "../nosuch", "nosuch.csv", "n1c4h9w7_rubbish", ""])
def test_unknown_workloads_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"workload|problem must look like"):
        layers.load(source)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xff\xfe\x00\x80" * 10)
    with pytest.raises(ValueError, match="not UTF-8"):
        layers.load(str(path))


def test_match_looks_at_names_and_words() -> None:
    _, found = layers.load("resnet50")
    assert [layer.name for layer in layers.match(found, "^conv1$")] == ["conv1"]
    assert all(layer.problem.kh == 7 for layer in layers.match(found, "k7x7"))
    with pytest.raises(ValueError, match="not a regular expression"):
        layers.match(found, "(")


def test_everybody_gets_turns() -> None:
    log: list[str] = []
    effort = Effort(seconds=0.0, calls=6, turn_s=0.0, most_s=1.0)
    timings = measure([Here(lambda: log.append("a")), Here(lambda: log.append("b"))], effort)
    assert "".join(log) == "aabb" * 3
    for timing in timings:
        assert timing.calls == 6 and 0 <= timing.min_s <= timing.median_s


def test_a_slow_contestant_ends_after_its_time() -> None:
    import time

    effort = Effort(seconds=10.0, calls=1000, turn_s=0.001, most_s=0.02)
    slow, quick = measure([Here(lambda: time.sleep(0.011)), Here(lambda: None)], effort)
    assert slow.calls <= 4 and quick.calls > 4


class Scripted:
    """Turns with given times."""

    def __init__(self, *turns: Turn, cold: float = 0.5) -> None:
        self.turns = iter(turns)
        self.seconds = cold

    def turn(self, seconds: float) -> Turn:
        return next(self.turns)

    def cold(self) -> float:
        return self.seconds


def test_rounds_keep_their_fastest_call() -> None:
    turns = [Turn((3.0, 1.0, 2.0), 6.0, 0.6), Turn((4.0, 5.0), 9.0, 0.0), Turn((2.0,), 2.0, 0.0)]
    effort = Effort(seconds=17.0, calls=6, turn_s=1.0, most_s=99.0, cold_calls=1)
    (timing,) = measure([Scripted(*turns)], effort)
    assert timing.rounds_s == (1.0, 4.0, 2.0) and timing.calls == 6 and timing.cold_s == 0.5
    assert (timing.min_s, timing.median_s) == (1.0, 2.5)
    assert timing.lost == pytest.approx(0.6 / 17)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not count it")
def test_time_taken_by_others_is_seen() -> None:
    from fastconv.compare.environment import pinned

    with pinned(1), subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            turn = Here(lambda: sum(range(1000))).turn(1.0)
        finally:
            busy.kill()
    # Two of one priority on one core: each has half of it.
    assert turn.lost_s > 0.05 * turn.wall_s


def test_a_thread_that_ends_takes_no_time_back(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([{"1": 5.0, "2": 7.0}, {"1": 5.0, "3": 1e-9}])
    monkeypatch.setattr(measuring, "_waited_seconds", lambda: next(counts))
    assert Here(lambda: None).turn(0.0).lost_s == pytest.approx(1e-9)


def test_who_fails_under_the_clock_costs_only_himself() -> None:
    effort = Effort(seconds=0.0, calls=4, turn_s=0.0, most_s=1.0)
    broken, whole = measure([Here(lambda: 1 / 0), Here(lambda: None)], effort)
    assert broken.failed == "ZeroDivisionError: division by zero" and broken.calls == 0
    assert whole.calls >= 4 and not whole.failed


@pytest.mark.parametrize("word", SMALL)
def test_numpy_im2col_is_right(word: str) -> None:
    problem = Problem.parse(word)
    arrays = make_arrays(problem)
    largest, l2 = reference_sample(problem, arrays).errors(convolve(problem, arrays.x, arrays.w, arrays.bias))
    assert largest < 1e-5 and l2 < 1e-6


@pytest.mark.parametrize(
    "word",
    [
        "n1c4h40w9_o6k3x3_s1p1d1g1_nchw_f32",
        "n2c4h41w9_o6k5x3_s2p2d1g2_nchw_f32_bias",
        "n1c4h40w9_o6k3x3_s1p6d6g1_nchw_f32_relu_bias_residual",
        "n1c4h40w9_o6k3x3_s3p1.0.2.0d1g1_nchw_f64",
        "n1c4h40w9_o6k3x3_s1p1d1g1_nchw_f32_reflect",
        "n1c4h40w9_o6k3x3_s1p1d1g1_nchw_i8",
        "n1c4h40w9_o6k1x1_s1p3d1g1_nchw_f32",
    ],
)
def test_sampled_rows_and_channels_are_those_of_the_whole(word: str) -> None:
    problem = Problem.parse(word)
    arrays = make_arrays(problem)
    whole = reference_sample(problem, arrays)
    sampled = reference_sample(problem, arrays, check_flop=problem.flop / 12)
    assert whole.covered == 1.0
    assert sampled.covered < 0.7 or problem.padding_mode != "zeros" or max(problem.padding) >= problem.kh
    assert sampled.errors(whole.values[0]) == (0.0, 0.0) or len(whole.channels) > len(sampled.channels)
    for (start, stop), values in zip(sampled.bands, sampled.values, strict=True):
        np.testing.assert_array_equal(values, whole.values[0][:, sampled.channels, start:stop])


def test_errors_count_what_is_wrong() -> None:
    problem = Problem.parse(SMALL[0])
    sample = reference_sample(problem, make_arrays(problem))
    y = sample.values[0].copy()
    assert sample.errors(y) == (0.0, 0.0)
    y[0, 0, 0, 0] += 0.5 * np.abs(y).max()
    assert 0.3 < sample.errors(y)[0] < 0.51
    y[0, 0, 0, 0] = np.nan
    assert sample.errors(y) == (math.inf, math.inf)


def _entry(library: str, layout: str, seconds: float, **more: Any) -> Entry:
    values = {"median_s": seconds, "spread": 0.0, "calls": 9, "max_error": 1e-7, "l2_error": 1e-7, **more}
    return Entry(library, f"{library} {layout.lower()}", layout, min_s=seconds, **values)


def _result(name: str, count: int, *entries: Entry) -> LayerResult:
    return LayerResult(name, SMALL[0], count, 1000, 1.0, entries)


def _run(*layers: LayerResult) -> Run:
    return Run("net", 1, "standard", "float32", Roof(1, "float32", 100.0, 10.0), layers)


FIRST = _result(
    "first", 3, _entry("fastconv", "NCHW", 2.0), _entry("fastconv", "NHWC", 1.0), _entry("torch", "NCHW", 4.0)
)
SECOND = _result(
    "second",
    1,
    _entry("fastconv", "NCHW", 2.0),
    _entry("fastconv", "NHWC", 4.0),
    _entry("torch", "NCHW", 1.0),
    _entry("openvino", "NHWC", 3.0),
    Entry("onnxruntime", "onnxruntime nchw", "", failed="[bold]no[/]"),
)


def test_totals_count_layers_and_take_the_best_of_each() -> None:
    found = results.totals([FIRST, SECOND])
    against = found["torch"]
    assert (against.ours_s, against.other_s, against.layers) == (3 * 1.0 + 2.0, 3 * 4.0 + 1.0, 2)
    assert against.geometric_mean == pytest.approx(math.sqrt(4.0 * 0.5))
    assert (against.worst_layer, against.worst_ratio) == ("second", 0.5)
    assert found["best peer, NCHW"].geometric_mean == pytest.approx(math.sqrt(2.0 * 0.5))
    assert found["openvino"].layers == found["best peer, NHWC"].layers == 1
    assert "onnxruntime" not in found


def test_names_are_shown_as_text() -> None:
    from rich.console import Console

    hostile = replace(SECOND, name="[red]<script>[/]")
    console = Console(width=200, file=io.StringIO())
    console.print(terminal.layer_table("[bold]title", [hostile], 100.0))
    console.print(terminal.total_table(_run(hostile)))
    shown = console.file.getvalue()
    assert "[red]<script>[/]" in shown and "[bold]title" in shown
    assert terminal.notes([hostile]) == ["onnxruntime nchw failed: [bold]no[/] (every layer)"]


def test_answers_outside_the_class_are_found() -> None:
    good, bad = _entry("fastconv", "NCHW", 1.0), _entry("fastconv", "NHWC", 1.0, max_error=1e-3)
    assert results.broken(_result("layer", 1, good, bad, _entry("torch", "NCHW", 1.0, max_error=1.0))) == [
        bad
    ]


def test_peers_are_chosen_by_name() -> None:
    assert next(iter(all_peers())) == "numpy_im2col"
    assert {"torch", "onnxruntime", "openvino"} <= set(all_peers())
    assert [peer.name for peer in select("torch, numpy_im2col,torch")] == ["torch", "numpy_im2col"]
    assert select("none") == [] and len(select("all")) == len(all_peers())
    with pytest.raises(ValueError, match="'caffe' is unknown; choose"):
        select("caffe")


@pytest.mark.peer
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("word", SMALL)
@pytest.mark.parametrize("name", sorted(all_peers()))
def test_peers_compute_the_same(name: str, word: str, functional: bool) -> None:
    peer, problem = all_peers()[name], Problem.parse(word)
    if reason := peer.missing() or peer.why_not(problem):
        pytest.skip(reason)
    arrays = make_arrays(problem)
    sample = reference_sample(problem, arrays)
    contestants = list(peer.contestants(problem, arrays, functional))
    assert contestants or functional
    for contestant in contestants:
        largest, l2 = sample.errors(contestant.result(contestant.call()))
        within = (5e-2, 5e-3) if "bfloat16" in contestant.name else (1e-5, 5e-6)
        assert largest < within[0] and l2 < within[1], contestant.name


@pytest.mark.peer
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seen on Linux")
def test_openvino_leaves_the_signal_stack_alone() -> None:
    if reason := all_peers()["openvino"].missing():
        pytest.skip(reason)

    def stack() -> tuple[int | None, int, int]:
        found = openvino._SignalStack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
        return found.address, found.flags, found.size

    before, problem = stack(), Problem.parse(SMALL[0])
    contestants = list(all_peers()["openvino"].contestants(problem, make_arrays(problem), functional=False))
    contestants[0].call()
    assert stack() == before


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(
    "word",
    [*SMALL, "n1c4h9w7_o6k3x3_s1p1d1g1_nchw_f32_relu_bias_residual", "n1c4h9w7_o6k3x3_s1p1d1g1_nchw_i8"],
)
def test_one_layer_from_data_to_result(word: str, functional: bool) -> None:
    settings = Settings(functional=functional, effort=SHORT)
    found = bench_layer(Layer("layer", Problem.parse(word)), select("numpy_im2col"), settings)
    ours = [entry for entry in found.entries if entry.ours]
    assert {entry.layout for entry in ours} == {"NCHW", "NHWC"}
    assert all(entry.timed for entry in ours) and results.broken(found) == []
    assert all(entry.algorithm for entry in ours)


def test_failures_cost_only_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = all_peers()["numpy_im2col"]
    monkeypatch.setattr("fastconv.compare.peers.numpy_im2col.convolve", lambda *args: 1 / 0)
    found = bench_layer(Layer("layer", Problem.parse(SMALL[0])), [peer], Settings(effort=SHORT))
    assert [entry.failed for entry in found.entries if entry.failed] == [
        "ZeroDivisionError: division by zero"
    ]
    assert found.best("fastconv") is not None and found.best("numpy_im2col") is None


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.parse(SMALL[0])
    wrong = np.zeros((1, 6, 9, 7), np.float32)
    monkeypatch.setattr("fastconv.compare.peers.numpy_im2col.convolve", lambda *args: wrong)
    found = bench_layer(Layer("layer", problem), select("numpy_im2col"), Settings(effort=SHORT))
    assert "differs from the reference" in found.entries[-1].failed


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        bench_layer(Layer("none", replace(Problem.parse(SMALL[0]), n=0)), [], Settings(effort=SHORT))


@pytest.mark.parametrize("threads", [1, 2])
def test_roofs_are_measured(threads: int) -> None:
    from fastconv.compare.roof import measure_roof

    roof = measure_roof("float32", threads, seconds=0.0)
    assert roof.gflops > 0 and roof.gbytes > 0 and roof.threads == threads
    assert roof.at(1e-9) == pytest.approx(roof.gbytes * 1e-9) and roof.at(1e9) == roof.gflops
    assert math.isnan(measure_roof("int8", threads).gflops)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_triad_is_one(dtype: str) -> None:
    from fastconv import runtime
    from fastconv.kernels.bandwidth import triad_stream
    from fastconv.machine import Machine

    lanes, item, tasks, vectors = Machine.host().lanes(dtype), np.dtype(dtype).itemsize, 3, 5
    x, z = (np.arange(tasks * vectors * lanes, dtype=dtype) + start for start in (1, 7))
    y = np.zeros_like(x)
    context = np.array([0, 0, 0, 0, 0, vectors], np.int64)
    work = runtime.Work(triad_stream(dtype, lanes, item), context, tasks, 0, 1e-6)
    runtime.run(work, x.ctypes.data, y.ctypes.data, z.ctypes.data, 1)
    np.testing.assert_array_equal(y, x + 3 * z)
