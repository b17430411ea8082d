"""What the suites share: a layer's plan and arrays, and its speed beside its time.

``pytest bench`` measures; ``pytest bench --benchmark-disable`` only shows that everything still runs.
``pytest bench --benchmark-autosave`` keeps a run, and after a change ``pytest bench --benchmark-compare
--benchmark-compare-fail=min:10%`` fails when the fastest of anything became slower by a tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv.algorithms import registry
from fastconv.compare.data import make_arrays, words
from fastconv.planning.plan import Plan
from fastconv.problem import Problem


@pytest.fixture
def time_layer(benchmark: Any) -> Callable[[str, str], None]:
    """Return a function that times one algorithm on the layer of a problem word; "auto" is the planner's."""
    import fastconv

    def run(word: str, algorithm: str) -> None:
        problem = Problem.parse(word)
        arrays = make_arrays(problem)
        x, w = arrays.x_in(problem.layout), arrays.w
        if algorithm != "auto" and registry.get(algorithm).needs_of_weights:
            # Every kernel a column times a row: what anybody who asks something of weights takes.
            w = w[:, :, :, :1] * w[:, :, :1, :]
        plan: Plan = fastconv.plan(
            x.shape, w, layout=problem.layout, algorithm=algorithm, threads=1, **words(problem)
        )
        y = np.empty(problem.y_shape, problem.result_dtype)
        plan(x, out=y)
        benchmark(plan, x, out=y)
        if benchmark.stats is not None:
            benchmark.extra_info["gflops"] = problem.flop / benchmark.stats.stats.min / 1e9

    return run
