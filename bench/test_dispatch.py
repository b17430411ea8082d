"""What a call costs beside its arithmetic: the runtime alone, a plan, and conv2d, on a tiny problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import runtime
from fastconv.kernels.atomics import plain_load, plain_store
from fastconv.kernels.jit import task_factory
from fastconv.runtime import launcher

Benchmark = Callable[..., Any]
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((1, 8, 8, 8), np.float32)
W = RANDOM.standard_normal((8, 8, 3, 3), np.float32)


@task_factory
def touch(value: int) -> Callable[[int, int, int], None]:
    def task(ctx: int, i: int, scratch: int) -> None:
        plain_store(plain_load(ctx + 8) + 8 * i, value)

    return task


@pytest.mark.parametrize("executor", launcher.EXECUTORS)
def test_two_empty_tasks(benchmark: Benchmark, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_EXECUTOR", executor)
    launcher.executor.cache_clear()
    y = np.zeros(2, np.int64)
    # The estimate of a millisecond makes the runtime share what is not worth sharing.
    work = runtime.Work(touch(1), np.zeros(8, np.int64), 2, 0, 1e-3)
    benchmark(runtime.run, work, 0, y.ctypes.data, 0, 2)
    launcher.executor.cache_clear()
    assert y.tolist() == [1, 1]


def test_a_tiny_work(benchmark: Benchmark) -> None:
    y = np.zeros(2, np.int64)
    work = runtime.Work(touch(1), np.zeros(64, np.int64), 2, 4096, 1e-6)
    benchmark(runtime.run, work, 0, y.ctypes.data, 0, 2)
    assert y.tolist() == [1, 1]


def test_thread_count(benchmark: Benchmark) -> None:
    assert benchmark(runtime.effective_threads, None) >= 1


def test_plan(benchmark: Benchmark) -> None:
    plan = fastconv.plan(X.shape, W, padding=1)
    y = plan(X)
    assert benchmark(plan, X, out=y) is y


def test_conv2d(benchmark: Benchmark) -> None:
    assert benchmark(fastconv.conv2d, X, W, padding=1).shape == X.shape


@pytest.mark.peer
def test_torch(benchmark: Benchmark) -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.from_numpy(X), torch.from_numpy(W)
    with torch.inference_mode():
        assert benchmark(torch.nn.functional.conv2d, x, w, padding=1).shape == X.shape
