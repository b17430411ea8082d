"""The page in a browser: nothing sticks out, every plot is there, nothing runs that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find
from test_reports import HOSTILE, report, run, slower

from fastconv.compare import changes, document, page

PROGRAM = find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
]
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

WIDTHS = (1280, 400)
NAMES = (*(f"layer{number}.conv" for number in range(30)), *HOSTILE, "x" * 200)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(PROGRAM), tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the files of a page with many layers and hostile names, and of one of changes."""
    whole = report(run(NAMES), run(NAMES, threads=2, scale=0.6), command="fastconv compare " + "y" * 300)
    texts = {
        "report": page.render(document.parse(document.to_json(whole), "r")),
        "changes": page.render_changes(changes.changes(report(), slower(1.5)), report()),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "changes"])
def test_nothing_complains_sticks_out_or_is_fetched(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('details').forEach(d => d.open = true)") is None
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].as_uri()]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_plot_is_seen(browser: Browser, pages: dict[str, Path], width: int) -> None:
    browser.open(pages["report"], width)
    sizes = browser.value(
        "[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    # Four for each number of threads, and how they scale.
    assert len(sizes) == 9 and all(wide >= 300 and high >= 100 for wide, high in sizes)
    drawn = browser.value(
        "[...document.querySelectorAll('.plot svg')].map(s => s.querySelectorAll('path, use').length)"
    )
    assert min(drawn) > 10


def test_tables_are_sorted_by_a_click(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["report"], 1280)
    table = "document.querySelector('[aria-label=\"layers of net\"] table')"
    heads = browser.value(f"[...{table}.tHead.rows[0].cells].map(c => c.textContent)")
    place = heads.index("speed-up")
    keys = f"[...{table}.tBodies[0].rows].map(r => Number(r.cells[{place}].dataset.key))"
    before = browser.value(keys)
    for order in (sorted(before), sorted(before, reverse=True)):
        browser.value(f"{table}.tHead.rows[0].cells[{place}].querySelector('button').click()")
        assert browser.value(keys) == order
    rows = f"{table}.tBodies[0].rows.length"
    browser.value(f"{table}.tHead.rows[0].cells[0].querySelector('button').click()")
    assert browser.value(f"{table}.tBodies[0].rows[0].cells[0].textContent") != "" and browser.value(
        rows
    ) == len(NAMES)
    assert browser.complaints() == []


def test_an_inline_script_of_others_would_not_run(
    browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = pages["report"].read_text("utf-8").replace("</h1>", "</h1><script>window.taken = 1</script>")
    hostile = tmp_path / "hostile.html"
    hostile.write_text(text, "utf-8")
    browser.open(hostile, 1280)
    assert browser.value("window.taken === undefined") is True
    assert any("Content Security Policy" in said for said in browser.complaints())
