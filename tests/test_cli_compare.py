"""`fastconv compare` and `fastconv report` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import TINY, run

from fastconv.compare import document

OTHER = "n1c1h20w20_o1k5x5_s1p2d1g1_nchw_f32"
CSV = (
    "net,layer,n,c,h,w,k,r,s,stride_h,stride_w,pad_h,pad_w,dil_h,dil_w,groups,count\n"
    "x,<script>alert(1)</script>,1,4,9,7,6,3,3,1,1,1,1,1,1,1,3\n"
    "x,[red]a[/],1,4,9,7,6,1,1,1,1,0,0,1,1,1,3\n"
)


def test_compare_measures_workloads_and_writes_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("jinja2")
    table = tmp_path / "mine.csv"
    table.write_text(CSV, "utf-8")
    html, markdown, result = (tmp_path / name for name in ("r.html", "r.md", "r.json"))
    files = ("--html", str(html), "--markdown", str(markdown), "--json", str(result))
    words = (
        "compare",
        TINY,
        str(table),
        OTHER,
        "--peers",
        "numpy_im2col",
        "--quick",
        "--classes",
        "--cold",
        *files,
    )
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0 and "<script>alert(1)</script>" in out and " [red]a[/] " in out
    found = document.read(result)
    assert [r.title for r in found.runs] == [TINY, "mine", OTHER]
    assert found.command.endswith("mine.csv " + OTHER + " --peers numpy_im2col --quick --cold --classes")
    (layer,) = found.runs[0].layers
    assert {e.accuracy for e in layer.entries if e.ours} == {"", "strict", "fast"}
    assert all(e.cold_s > 0 for e in layer.entries)
    for path in (html, markdown, result):
        text = path.read_text("utf-8")
        assert "<script>alert(1)" not in text or path is result
        for private in (str(Path.home()), str(tmp_path)):
            assert private not in text


def test_identity_is_said_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = tmp_path / "r.json"
    words = ("compare", TINY, "--peers", "none", "--quick", "--identify", "--json", str(result))
    assert run(capsys, monkeypatch, *words)[0] == 0
    assert set(document.read(result).identity) == {"host", "user", "folder"}


def test_threads_in_turn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = tmp_path / "r.json"
    words = ("compare", TINY, "--peers", "none", "--quick", "--threads", "1,2", "--json", str(result))
    assert run(capsys, monkeypatch, *words)[0] == 0
    found = document.read(result)
    assert [r.threads for r in found.runs] == [1, 2]
    assert [r.layers[0].word for r in found.runs] == [TINY, f"{TINY}_t2"]


@pytest.fixture
def result(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "before.json"
    assert run(capsys, monkeypatch, "bench", TINY, "--peers", "none", "--quick", "--json", str(path))[0] == 0
    return path


def test_report_shows_a_result_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, result: Path, tmp_path: Path
) -> None:
    again, markdown = tmp_path / "again.json", tmp_path / "again.md"
    words = ("report", str(result), "--json", str(again), "--markdown", str(markdown))
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0 and "GFLOP/s" in out and again.read_text() == result.read_text()
    assert markdown.read_text("utf-8").startswith("# fastconv beside other libraries")


def test_report_finds_regressions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, result: Path, tmp_path: Path
) -> None:
    slow = json.loads(result.read_text("utf-8"))
    for entry in slow["runs"][0]["layers"][0]["entries"]:
        entry["min_s"] *= 2
        entry["rounds_s"] = [2 * seconds for seconds in entry["rounds_s"]]
    after = tmp_path / "after.json"
    after.write_text(json.dumps(slow), "utf-8")
    files = ("--markdown", str(tmp_path / "c.md"), "--json", str(tmp_path / "c.json"))
    code, out, _ = run(capsys, monkeypatch, "report", str(result), str(after), *files)
    assert code == 1 and "1 regressions in 1 layers" in out
    assert "slower" in (tmp_path / "c.md").read_text("utf-8")
    assert run(capsys, monkeypatch, "report", str(after), str(result))[0] == 0
    assert run(capsys, monkeypatch, "report", str(result), str(after), "--threshold", "2")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare"], "Missing argument"),
        (["compare", "nosuch"], "is not a shipped workload"),
        (["compare", "../../etc/passwd"], "cannot read|lacks the columns|no layers"),
        (["compare", TINY, "--threads", "1,x"], "--threads must be numbers from 1 to 1024"),
        (["compare", TINY, "--threads", "0"], "--threads must be numbers"),
        (["compare", TINY, "--peers", "caffe"], "'caffe' is unknown"),
        (["compare", TINY, "resnet50", "--match", "zebra"], "no layer of resnet50"),
        (["compare", TINY, "--html", "nowhere/at/all/x.html"], "does not exist"),
        (["compare", "n1c64h99999w99999_o64k3x3_s1p1d1g1_nchw_f32"], "GiB of memory available"),
        (["report", "nosuch.json"], "cannot read nosuch.json"),
        (["report", "a.json", "b.json", "c.json"], "one result to show or two to compare"),
        (["report", __file__], "is not JSON"),
    ],
)
def test_mistakes_end_with_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    code, _, err = run(capsys, monkeypatch, *words)
    said = " ".join(err.split())
    assert code == 2 and any(part in said for part in message.split("|")), said
