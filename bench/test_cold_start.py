"""What starting costs: the import, the first result with a warm and an empty cache, PyTorch beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Benchmark = Callable[..., Any]
OURS = (
    "import numpy as np, fastconv;"
    "fastconv.conv2d(np.ones((1, 8, 32, 32), np.float32), np.ones((8, 8, 3, 3), np.float32), padding=1)"
)
TORCH = (
    "import numpy as np, torch;"
    "x = torch.from_numpy(np.ones((1, 8, 32, 32), np.float32));"
    "torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3), padding=1).numpy()"
)


def process(code: str, cache: Path) -> None:
    environment = {**os.environ, "FASTCONV_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@pytest.mark.parametrize("code", ["import numpy", "import numpy, fastconv", "import numba"])
def test_import(benchmark: Benchmark, code: str, tmp_path: Path) -> None:
    benchmark.pedantic(process, (code, tmp_path), rounds=5, warmup_rounds=1)
    assert not list(tmp_path.iterdir())


def test_first_result_with_a_warm_cache(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.pedantic(process, (OURS, tmp_path), rounds=5, warmup_rounds=1)


def test_first_result_with_an_empty_cache(benchmark: Benchmark, tmp_path: Path) -> None:
    rounds = iter(range(9))
    benchmark.pedantic(lambda: process(OURS, tmp_path / str(next(rounds))), rounds=3)


@pytest.mark.peer
def test_first_result_of_torch(benchmark: Benchmark, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    benchmark.pedantic(process, (TORCH, tmp_path), rounds=5, warmup_rounds=1)
