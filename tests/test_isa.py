"""Older machines: the same sources, narrower vectors, fewer registers, no masks, no fused products."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from problems import FAMILIES, SHORT
from running import NAMES

import fastconv
from fastconv.algorithms import registry
from fastconv.machine import Machine
from fastconv.problem import Problem

HERE = Path(__file__).resolve().parent


@pytest.fixture
def kernels(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder for kernels that no user has a use for: pytest's own, so that the next run finds them."""
    cache = getattr(request.config, "cache", None)
    return tmp_path if cache is None else cache.mkdir("kernels")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="names x86 CPUs")
@pytest.mark.parametrize(
    ("environment", "machine", "count"),
    [
        pytest.param({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, "32 16 True", 6, id="AVX2"),
        pytest.param({"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}, "16 16 False", 6, id="SSE2"),
        # Without features Numba adds those of the host: narrow vectors in code for a machine that has wide ones.
        pytest.param({"NUMBA_CPU_NAME": "haswell"}, "32 16 True", 2, id="haswell-named"),
    ],
)
def test_every_algorithm_on_older_machines(
    environment: dict[str, str], machine: str, count: int, kernels: Path
) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_CPU")}
    package = str(Path(fastconv.__file__).resolve().parent.parent)
    result = subprocess.run(
        [sys.executable, str(HERE / "scenarios_of_machines.py"), str(count)],
        env={**inherited, **environment, "FASTCONV_CACHE_DIR": str(kernels), "PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    seen, _, done = result.stdout.strip().rpartition(" ")
    assert seen == machine
    assert int(done) > count


def test_every_algorithm_is_met_by_the_short_list() -> None:
    for name in NAMES:
        algorithm = registry.get(name)
        taken = [
            algorithm.why_not(Problem.parse(word), Machine.host()) is None for word in (*SHORT, *FAMILIES)
        ]
        assert any(taken), f"{name} takes none of SHORT and FAMILIES: add a problem that it takes"
