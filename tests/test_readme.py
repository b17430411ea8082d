"""The examples of the README are run as they stand, in order, each block on its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{number}" for number in range(1, len(BLOCKS) + 1)])
def test_example_runs(block: str) -> None:
    if "skimage" in block:
        pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    exec(compile(block, README.name, "exec"), {"__name__": "readme"})


def test_there_are_examples() -> None:
    assert sum("skimage" in block for block in BLOCKS) >= 2
