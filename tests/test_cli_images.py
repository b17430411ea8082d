"""The commands for photographs, as a user types them: right, and wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv import image
from fastconv.cli import main

PIL = pytest.importorskip("PIL.Image", reason="photographs are read by Pillow")


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fastconv", *words])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, " ".join(printed.err.split())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a directory with photographs, a damaged one, and a text."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    PIL.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save("rgb.png")
    PIL.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)).save("rgba.png")
    PIL.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save("grey.png")
    PIL.fromarray(rng.integers(0, 65536, (20, 30)).astype(np.uint16)).save("deep.png")
    Path("text.png").write_text("no picture")
    Path("cut.png").write_bytes(Path("rgb.png").read_bytes()[:700])
    Path("out").mkdir()
    return tmp_path


def pixels(name: str) -> Any:
    return np.asarray(PIL.open(name))


@pytest.mark.usefixtures("place")
def test_filter_of_one_photograph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capsys, "filter", "rgb.png", "--kernel", "sobel", "--out", "edges.png")
    assert (code, out.strip(), err) == (0, "edges.png: 20 x 30 pixels", "")
    expected = image.gradient(pixels("rgb.png"), dtype=np.uint8).magnitude
    np.testing.assert_array_equal(pixels("edges.png"), expected)
    words = ("--kernel", "gabor", "--set", "theta=0.5", "--set", "normalise=l1", "--mode", "nearest")
    assert run(monkeypatch, capsys, "filter", "grey.png", *words, "--out", "g.tif")[0] == 0
    gabor = image.kernel("gabor", theta=0.5, normalise="l1")
    np.testing.assert_array_equal(pixels("g.tif"), image.filter2d(pixels("grey.png"), gabor, "nearest"))


@pytest.mark.usefixtures("place")
def test_transparency_and_depth_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("rgba.png", "deep.png", "grey.png")
    assert run(monkeypatch, capsys, "filter", *names, "--kernel", "box", "--out", "out")[0] == 0
    before, after = pixels("rgba.png"), pixels("out/rgba.png")
    np.testing.assert_array_equal(after[..., 3], before[..., 3])
    np.testing.assert_array_equal(after[..., :3], image.filter2d(before[..., :3], "box"))
    np.testing.assert_array_equal(pixels("out/deep.png"), image.filter2d(pixels("deep.png"), "box"))


@pytest.mark.usefixtures("place")
def test_nothing_is_replaced_without_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("filter", "rgb.png", "--kernel", "box", "--out")
    before = Path("grey.png").read_bytes()
    code, _, err = run(monkeypatch, capsys, *words, "grey.png")
    assert code == 2 and "grey.png is an existing file; --force replaces it" in err
    assert Path("grey.png").read_bytes() == before
    code, _, err = run(monkeypatch, capsys, *words, ".")
    assert code == 2 and "rgb.png is the photograph itself" in err
    assert run(monkeypatch, capsys, *words, "grey.png", "--force")[0] == 0
    np.testing.assert_array_equal(pixels("grey.png"), image.filter2d(pixels("rgb.png"), "box"))


@pytest.mark.usefixtures("place")
def test_what_can_be_done_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("none.png", "text.png", "cut.png", "rgb.png")
    code, out, err = run(monkeypatch, capsys, "filter", *names, "--kernel", "sharpen", "--out", "out")
    assert code == 1 and "rgb.png" in out
    for part in (
        "none.png: No such file",
        "text.png is not a picture that Pillow can read",
        "cut.png cannot be read",
    ):
        assert part in err
    assert [path.name for path in Path("out").iterdir()] == ["rgb.png"]


@pytest.mark.usefixtures("place")
def test_pictures_of_other_kinds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Palettes and print colours become RGB, of animations the first picture is read, 32 bits are refused."""
    rgb = PIL.open("rgb.png")
    rgb.convert("P").save("palette.png")
    rgb.convert("CMYK").save("cmyk.tif")
    rgb.convert("1").save("bits.png")
    frames = [PIL.fromarray(np.full((20, 30), grey, np.uint8)) for grey in (50, 100)]
    frames[0].save("film.gif", save_all=True, append_images=frames[1:])
    PIL.fromarray(np.zeros((20, 30), np.int32)).save("whole.tif")
    PIL.fromarray(np.zeros((20, 30), np.float32)).save("floats.tif")
    names = ("palette.png", "cmyk.tif", "bits.png", "film.gif", "whole.tif", "floats.tif")
    code, out, err = run(monkeypatch, capsys, "filter", *names, "--kernel", "identity", "--out", "out")
    assert code == 1 and out.count("20 x 30 pixels") == 4
    assert "whole.tif has pixels of 32 bits (whole numbers)" in err and "floats.tif has pixels" in err
    for name in ("palette.png", "cmyk.tif"):
        np.testing.assert_array_equal(pixels(f"out/{name}"), np.asarray(PIL.open(name).convert("RGB")))
    np.testing.assert_array_equal(pixels("out/bits.png"), np.asarray(PIL.open("bits.png").convert("L")))
    with PIL.open("out/film.gif") as film:
        assert (np.asarray(film.convert("L")) == 50).all()
    code, _, err = run(monkeypatch, capsys, "filter", "deep.png", "--kernel", "box", "--out", "deep.jpg")
    assert code == 1 and "JPEG cannot hold uint16" in err and not Path("deep.jpg").exists()


@pytest.mark.parametrize("command", ["filter", "receptive-field", "step"])
def test_help_keeps_its_examples_on_lines_of_their_own(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, command, "--help")
    assert code == 0 and "\\b" not in out and "\b" not in out
    assert sum(line.startswith(f"  fastconv {command} ") for line in out.splitlines()) >= 2


@pytest.mark.usefixtures("place")
def test_huge_photographs_are_refused_unread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("filter", "rgb.png", "--kernel", "box", "--out", "x.png", "--megapixels", "0.0005")
    code, _, err = run(monkeypatch, capsys, *words)
    assert (
        code == 1 and "30 x 20 pixels, more than the 0.0005 megapixels" in err and not Path("x.png").exists()
    )


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kernel", "zebra", "--out", "x.png"], "'zebra' is unknown; there are box"),
        (["--kernel", "soble", "--out", "x.png"], "'soble' is unknown (did you mean sobel?); there are box"),
        (["--kernel", "box", "--set", "size=3", "--set", "size=5", "--out", "x.png"], "size is given twice"),
        (["--kernel", "box", "--set", "=5", "--out", "x.png"], "must look like sigma=2.5"),
        (["--kernel", "box", "--set", "size=4", "--out", "x.png"], "odd"),
        (["--kernel", "box", "--set", "size", "--out", "x.png"], "must look like sigma=2.5"),
        (["--kernel", "sobel", "--set", "size=5", "--out", "x.png"], "sobel has no parameters"),
        (["--kernel", "box", "--out", "x.abc"], "must end in a picture's format"),
        (["--kernel", "box", "--out", "x"], "got no ending"),
        (["--kernel", "box", "--out", "no/x.png"], "no is no directory"),
        (["--kernel", "box", "--out", "x.png", "--mode", "zero"], "mode must be one of"),
        (["--kernel", "box"], "Missing option '--out'"),
        (["grey.png", "--kernel", "box", "--out", "x.png"], "must be a directory that exists"),
        (["out/rgb.png", "--kernel", "box", "--out", "out"], "two files would become"),
    ],
)
def test_mistakes_end_with_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, _, err = run(monkeypatch, capsys, "filter", "rgb.png", *words)
    assert code == 2 and message in err and not Path("x.png").exists()


def test_receptive_field(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "receptive-field", "3x3s1", "3x3s1", "pool2", "3x3s1")
    assert code == 0 and "10 x 10" in out and "4.5 x 4.5" in out and "output" not in out.splitlines()[1]
    code, out, _ = run(monkeypatch, capsys, "receptive-field", "7x7s2p3", "--size", "224x224")
    assert code == 0 and "112 x 112" in out
    for words, message in (
        (["abc"], "must look like 3x3s1"),
        (["3x3", "3x3s0"], "layer 3x3s0: stride must be at least 1"),
        (["9x9", "--size", "5x5"], "9 kernel rows on 5"),
        (["3x3", "--size", "5"], "two whole numbers"),
        ([], "Missing argument"),
    ):
        code, _, err = run(monkeypatch, capsys, "receptive-field", *words)
        assert code == 2 and message in err


def test_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("step", "--input", "7x7", "--kernel", "sobel_x", "--at", "2,3")
    code, out, _ = run(monkeypatch, capsys, *words)
    assert code == 0 and "output (2, 3) of 5 x 5:" in out and "products" in out
    assert run(monkeypatch, capsys, *words)[1] == out and " -0" not in out
    for more, message in (
        (["--at", "9,9"], "5 rows and 5 columns, got (9, 9)"),
        (["--at", "1"], "two whole numbers like 2,3"),
        (["--input", "2x2"], "must not be larger"),
        (["--input", "0x7"], "--input: must be from 1x1"),
        (["--kernel", "sobel"], "'sobel' is unknown (did you mean sobel_"),
        (["--seed", "-1"], "--seed"),
    ):
        code, _, err = run(monkeypatch, capsys, *words, *more)
        assert code == 2 and message in err


def test_step_as_a_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "step.png"
    assert run(monkeypatch, capsys, "step", "--picture", str(path))[0] == 0
    assert np.asarray(PIL.open(path)).std() > 10
    code, _, err = run(monkeypatch, capsys, "step", "--picture", str(path))
    assert code == 2 and "exists; --force replaces it" in err
    assert run(monkeypatch, capsys, "step", "--picture", str(path), "--force")[0] == 0
