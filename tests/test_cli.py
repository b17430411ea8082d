"""The command line as a user meets it: what is printed, what is written, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastconv import cli

TINY = "n1c4h9w7_o6k3x3_s1p1d1g1_nchw_f32"


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of ``fastconv *words``."""
    monkeypatch.setattr(sys, "argv", ["fastconv", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(end.value.code or 0), out, err


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "info")
    assert code == 0
    for word in ("vectors", "caches", "cores", "threading", "kernel cache", "versions", "numba", "GFLOP/s"):
        assert word in out


def test_algorithms_lists_the_registry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastconv.algorithms import registry

    code, out, _ = run(capsys, monkeypatch, "algorithms")
    assert code == 0 and all(name in out for name in registry.all())


def test_explain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "explain", TINY)
    assert code == 0 and TINY in out and "reference" in out


def test_bench_writes_a_table_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    words = ("bench", TINY, "--layout", "both", "--peers", "numpy_im2col", "--quick", "--json", str(path))
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0 and "GFLOP/s" in out and "x numpy_im2col" in out and "geometric mean" in out
    document = json.loads(path.read_text("utf-8"))
    (layer,) = document["runs"][0]["layers"]
    assert layer["word"] == TINY and {"numba", "numpy", "fastconv"} <= set(document["versions"])
    assert {entry["layout"] for entry in layer["entries"] if entry["library"] == "fastconv"} == {
        "NCHW",
        "NHWC",
    }
    for private in (str(Path.home()), str(tmp_path)):
        assert private not in path.read_text("utf-8")


def test_bench_options_change_the_problems(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    words = (
        "bench",
        "resnet50",
        "--match",
        "layer4.1.conv1",
        "--layout",
        "nhwc",
        "--dtype",
        "float64",
        "--quick",
    )
    code, _, _ = run(
        capsys, monkeypatch, *words, "--accuracy", "strict", "--peers", "none", "--json", str(path)
    )
    (layer,) = json.loads(path.read_text("utf-8"))["runs"][0]["layers"]
    assert code == 0
    assert layer["word"].endswith("_f64_strict")
    assert [entry["layout"] for entry in layer["entries"]] == ["NHWC"]


def test_a_forced_algorithm_that_refuses_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(
        capsys, monkeypatch, "bench", TINY, "--algorithm", "pointwise", "--quick", "--peers", "none"
    )
    assert code == 1 and "failed" in out and "pointwise" in out and "failed" in err


def test_warmup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "warmup", TINY)
    assert code == 0 and "1 problem" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "nosuch"], "is not a shipped workload"),
        (["bench", "nosuch.csv"], "cannot read nosuch.csv"),
        (["bench", "n1c4h9w7_rubbish"], "problem must look like"),
        (["bench", "n1c4h2w2_o6k3x3_s1p0d1g1_nchw_f32"], "kernel must not be larger"),
        (["bench", "n0c4h9w7_o6k3x3_s1p1d1g1_nchw_f32", "--peers", "none"], "empty batch"),
        (["bench", "resnet50", "--match", "("], "not a regular expression"),
        (["bench", "resnet50", "--match", "zebra"], "no layer of resnet50"),
        (["bench", "resnet50", "--peers", "caffe"], "'caffe' is unknown"),
        (["bench", "resnet50", "--algorithm", "magic"], "magic"),
        (["bench", "resnet50", "--threads", "0"], "threads"),
        (["bench", "resnet50", "--json", "nowhere/at/all/x.json"], "does not exist"),
        (["explain", "rubbish"], "problem must look like"),
        (["warmup", "nosuch"], "is not a shipped workload"),
        (["nosuch"], "No such command"),
        ([], "Usage"),
    ],
)
def test_mistakes_end_with_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    code, _, err = run(capsys, monkeypatch, *words)
    assert code == 2
    # Click wraps its messages to the width of the terminal.
    assert message in " ".join(err.split())


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastconv.compare.comparison.bench_layer", interrupted)
    code, _, err = run(capsys, monkeypatch, "bench", TINY, "--peers", "none")
    assert code == 130 and "interrupted" in err


@pytest.mark.slow
def test_help_is_quick_and_loads_no_compiler() -> None:
    code = (
        "import sys; sys.argv = ['fastconv', '--help']\n"
        "from fastconv.cli import main\n"
        "try: main()\n"
        "finally: print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "bench" in done.stdout and done.stdout.rstrip().endswith("False")
