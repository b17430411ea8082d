"""The operators beside convolution read and write nothing outside their arrays, not even one element."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")
@pytest.mark.parametrize(
    "name",
    [
        "pooling",
        "unfolding",
        "local",
        "separable",
        "sweeps",
        "transposed",
        "gradients",
        "winograd_gradients",
        "spread",
        "matrix_spread",
        "winograd_weights",
    ],
)
def test_no_page_beside_the_arrays_is_touched(name: str) -> None:
    package = str(Path(fastconv.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(
        [sys.executable, str(HERE / "scenarios_of_operators.py"), name],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    last = (result.stdout.splitlines() or ["nothing"])[-1]
    assert result.returncode == 0, f"{last}: exit {result.returncode}\n{result.stderr[-2000:]}"
    assert int(last.removeprefix("done ")) > 20
