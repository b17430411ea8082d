"""Print the tables of the runtime: what an executor costs, what a call costs, what starting costs.

usage: python bench/runtime_report.py [executors] [calls] [start]    (all of them when none is named)

Everything is measured in child processes, since a threading layer is chosen once per process. Times are
microseconds, median / 95th percentile, the best of three rounds; the contended columns are measured in two
processes at once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

ROUNDS = 3
#: Rows of the executor table and the environment that makes them.
EXECUTORS: dict[str, dict[str, str]] = {
    "serial": {"FASTCONV_EXECUTOR": "serial"},
    "own pool (the default)": {"FASTCONV_EXECUTOR": "pool"},
    "omp, GOMP_SPINCOUNT=1000 (ours)": {"FASTCONV_EXECUTOR": "numba", "NUMBA_THREADING_LAYER": "omp"},
    "omp, libgomp's default spin": {
        "FASTCONV_EXECUTOR": "numba",
        "NUMBA_THREADING_LAYER": "omp",
        "GOMP_SPINCOUNT": "300000",
    },
    "omp, OMP_WAIT_POLICY=passive": {
        "FASTCONV_EXECUTOR": "numba",
        "NUMBA_THREADING_LAYER": "omp",
        "OMP_WAIT_POLICY": "passive",
    },
    "tbb": {"FASTCONV_EXECUTOR": "numba", "NUMBA_THREADING_LAYER": "tbb"},
}
#: Tasks of about 2.5 us each; two that do nothing show the bare cost of a region.
WORKLOADS = {"2 empty tasks": (2, 0), "16 tasks": (16, 1300), "256 tasks": (256, 1300)}


def percentiles(samples: list[float]) -> tuple[float, float]:
    samples = sorted(samples)
    return statistics.median(samples) * 1e6, samples[int(len(samples) * 0.95)] * 1e6


def clocked(call: Callable[[], Any], seconds: float, pause: float = 0.0) -> tuple[float, float]:
    """Repeat `call` for so many seconds, with a pause before each; return median and 95th percentile."""
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples) < 20:
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return percentiles(samples)


def child_executor(pause: float) -> dict[str, tuple[float, float]]:
    from fastconv.kernels.atomics import plain_load, plain_store
    from fastconv.kernels.jit import task_factory
    from fastconv.runtime import Work, launcher, run

    @task_factory
    def busy(turns: int) -> Callable[[int, int, int], None]:
        def task(ctx: int, i: int, scratch: int) -> None:
            value = 1.0
            for _ in range(turns):
                value = value * 0.999 + 1.0
            plain_store(plain_load(ctx + 8) + 8 * i, int(value))

        return task

    if launcher.executor() == "numba" and launcher.region.usable() is None:
        return {}
    y = np.zeros(256, np.int64)
    found = {}
    for name, (tasks, turns) in WORKLOADS.items():
        # The estimate says "parallel": the point is to see what that costs.
        work = Work(busy(turns), np.zeros(8, np.int64), tasks, 0, 1e-3)
        run(work, 0, y.ctypes.data, 0, 2)
        found[name] = clocked(lambda work=work: run(work, 0, y.ctypes.data, 0, 2), 0.4, pause)
    return found


def child_calls() -> dict[str, tuple[float, float]]:
    import fastconv

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 8, 8), np.float32)
    w = rng.standard_normal((8, 8, 3, 3), np.float32)
    plan = fastconv.plan(x.shape, w, padding=1)
    y = plan(x)
    found = {
        "plan(x, out=y)": clocked(lambda: plan(x, out=y), 0.5),
        "plan(x)": clocked(lambda: plan(x), 0.5),
        "conv2d(x, w, padding=1)": clocked(lambda: fastconv.conv2d(x, w, padding=1), 0.5),
    }
    try:
        import torch
    except ImportError:
        return found
    xt, wt = torch.from_numpy(x), torch.from_numpy(w)
    conv2d = torch.nn.functional.conv2d
    with torch.inference_mode():
        found["torch conv2d(x, w, padding=1)"] = clocked(lambda: conv2d(xt, wt, padding=1), 0.5)
    return found


def children(mode: str, environment: dict[str, str], copies: int = 1) -> list[dict[str, Any]]:
    """Run this file's child `mode` in so many processes at the same time; return what they print."""
    command = [sys.executable, __file__, "--child", mode]
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_", "FASTCONV_EXECUTOR"))
    }
    started = [
        subprocess.Popen(command, env={**inherited, **environment}, stdout=subprocess.PIPE, text=True)
        for _ in range(copies)
    ]
    return [json.loads(process.communicate(timeout=120)[0] or "{}") for process in started]


def best(rounds: list[dict[str, Any]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in rounds:
        for name, cell in one.items():
            found[name] = min(found.get(name, cell), cell)
    return found


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    print(f"\n{title}\n")
    for row in [head, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def executors() -> None:
    for title, mode, copies in (
        ("Executors, hot", "hot", 1),
        ("Executors, after 5 ms idle", "idle", 1),
        ("Executors, two processes contending, hot", "hot", 2),
    ):
        rows = []
        for name, environment in EXECUTORS.items():
            rounds = []
            for _ in range(ROUNDS):
                both = children(mode, environment, copies)
                # Of two processes that contend, the slower one counts.
                rounds.append(
                    {key: max(one[key] for one in both) for key in both[0] if all(key in o for o in both)}
                )
            cells = best(rounds)
            rows.append([name, *(_cell(cells.get(key)) for key in WORKLOADS)])
        table(f"{title} (median / p95, us)", ["executor", *WORKLOADS], rows)


def calls() -> None:
    cells = best([children("calls", {})[0] for _ in range(ROUNDS)])
    rows = [[name, _cell(cell)] for name, cell in cells.items()]
    table("Whole calls, 1x8x8x8, 3x3 (median / p95, us)", ["call", "time"], rows)


def start() -> None:
    first = (
        "import numpy as np; import fastconv;"
        "fastconv.conv2d(np.ones((1, 8, 32, 32), np.float32), np.ones((8, 8, 3, 3), np.float32), padding=1)"
    )
    torch = (
        "import numpy as np; import torch;"
        "torch.nn.functional.conv2d(torch.ones(1, 8, 32, 32), torch.ones(8, 8, 3, 3), padding=1).numpy()"
    )
    seconds = {
        name: seconds_of(code)
        for name, code in (("numpy", "import numpy"), ("ours", "import numpy, fastconv"))
    }
    rows = [
        ["import fastconv over import numpy", f"{seconds['ours'] - seconds['numpy']:.3f} s", "at most 0.08 s"]
    ]
    seconds_of(first, repeats=1)
    rows.append(["process start to first result, warm cache", f"{seconds_of(first):.2f} s", "at most 0.8 s"])
    with empty_cache() as environment:
        cold = seconds_of(first, environment, repeats=1)
    rows.append(["process start to first result, empty cache", f"{cold:.2f} s", "at most 3 s of compiling"])
    try:
        rows.append(["the same in PyTorch", f"{seconds_of(torch):.2f} s", "ours at most half"])
    except subprocess.CalledProcessError:
        rows.append(["the same in PyTorch", "not installed", ""])
    table("Starting (median of 5 processes)", ["what", "time", "wanted"], rows)


def seconds_of(code: str, environment: dict[str, str] | None = None, repeats: int = 5) -> float:
    samples = []
    for _ in range(repeats):
        began = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 120}
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={**os.environ, **(environment or {})}, **quiet
        )
        samples.append(time.perf_counter() - began)
    return statistics.median(samples)


@contextmanager
def empty_cache() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        yield {"FASTCONV_CACHE_DIR": folder}


def _cell(cell: list[float] | None) -> str:
    return "not available" if cell is None else f"{cell[0]:.1f} / {cell[1]:.1f}"


def main(words: list[str]) -> None:
    if words[:1] == ["--child"]:
        run = {
            "hot": lambda: child_executor(0.0),
            "idle": lambda: child_executor(0.005),
            "calls": child_calls,
        }
        print(json.dumps(run[words[1]]()))
        return
    for part in (executors, calls, start):
        if not words or part.__name__ in words:
            part()


if __name__ == "__main__":
    main(sys.argv[1:])
