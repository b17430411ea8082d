"""Planning with algorithms and clocks that are made up: no kernel is compiled here."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastconv
from fastconv.algorithms import registry
from fastconv.algorithms.interface import (
    Algorithm,
    Layout,
    WeightsDoNotFitError,
    WeightsNotFiniteError,
)
from fastconv.algorithms.needs import Need
from fastconv.machine import Machine
from fastconv.planning import measuring, planner, routes, tuner
from fastconv.planning.explain import explained
from fastconv.problem import Problem

MACHINE = Machine(vector_bytes=32, vector_registers=16, fma=True)
PROBLEM = Problem(1, 2, 5, 5, 3, 3, 3, workspace_limit=1000)
X = np.ones(PROBLEM.x_shape, np.float32)
W = np.ones(PROBLEM.w_shape, np.float32)


class Tile(NamedTuple):
    mr: int


class Fake(Algorithm):
    """An algorithm that says what it is told to say, and writes down what it runs."""

    summary = "made up"
    packing = 0.0

    def __init__(
        self,
        name: str,
        seconds: dict[int, float],
        workspace: int = 0,
        lacking: tuple[Need, ...] = (),
        finite: bool = False,
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.seconds = seconds
        self.bytes = workspace
        self.lacking = lacking
        self.finite = finite

    def needs(self, problem: Problem, machine: Machine) -> tuple[Need, ...]:
        assert problem.n > 0, "an empty batch is planned like one image"
        return self.lacking

    def configs(self, problem: Problem, machine: Machine) -> tuple[Tile, ...]:
        return tuple(Tile(mr) for mr in self.seconds)

    def cost(self, problem: Problem, machine: Machine, config: Any) -> float:
        return self.seconds[config.mr]

    def packing_cost(self, problem: Problem, config: Any) -> float:
        return self.packing

    def error_bound(self, problem: Problem) -> float:
        return 1e-6

    def workspace(self, problem: Problem, machine: Machine, config: Any) -> int:
        return self.bytes * config.mr

    def layout(self, problem: Problem, machine: Machine, config: Any) -> Layout:
        kernel: Any = SimpleNamespace(name=f"{self.name}_{config.mr}", address=0)
        return Layout(kernel, np.zeros(5, np.int64), 1, 0, 0.0, None, self.finite)

    def prepare(self, layout: Layout, weights: Any, bias: Any, threads: int = 1) -> Any:
        if layout.pads_with_zeros and not np.isfinite(weights).all():
            raise WeightsNotFiniteError
        return super().prepare(layout, weights, bias, threads)


QUICK = Fake("quick", {4: 1e-3, 8: 5e-4}, workspace=10, finite=True)
ROOMY = Fake("roomy", {1: 1e-4}, workspace=4000)
STEADY = Fake("steady", {1: 2e-3}, finite=True)
NEVER = Fake("never", {1: 1e-9}, lacking=(Need("a 1x1 kernel", "3x3"), Need("stride 2", "1")))
LAST = Fake("reference", {1: 1.0})


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Register the made-up algorithms; list the kernels that are run."""
    run: list[str] = []
    use(monkeypatch, QUICK, ROOMY, STEADY, NEVER, LAST)
    monkeypatch.setattr("fastconv.runtime.run", lambda work, *_: run.append(work.kernel.name))
    # Nothing writes results: they must agree as they begin.
    monkeypatch.setattr("fastconv.arrays.fresh", np.zeros)
    monkeypatch.setattr(Machine, "host", staticmethod(lambda: MACHINE))
    fastconv.plan_cache_clear()
    yield run
    fastconv.plan_cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, *algorithms: Fake) -> None:
    monkeypatch.setattr(registry, "all", lambda: {algorithm.name: algorithm for algorithm in algorithms})


def test_the_smallest_estimate_within_the_limit_is_chosen() -> None:
    assert planner.choose(PROBLEM, MACHINE) == (QUICK, Tile(8), "estimate")
    roomy = dataclasses.replace(PROBLEM, workspace_limit=4000)
    assert planner.choose(roomy, MACHINE) == (ROOMY, Tile(1), "estimate")


def test_a_call_counts_the_packing_of_its_weights_and_a_plan_does_not(
    monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    slow_to_pack = Fake("slow_to_pack", {1: 1e-5})
    slow_to_pack.packing = 1e-3
    use(monkeypatch, slow_to_pack, QUICK)
    assert fastconv.plan(X, W).algorithm == "slow_to_pack"
    fastconv.conv2d(X, W)
    assert ran == ["quick_8"]
    report = fastconv.explain(X, W)
    assert (report.chosen.algorithm, report.chosen.packing_seconds) == ("slow_to_pack", 1e-3)


def test_of_equal_estimates_the_first_in_the_registry_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Fake("one", {1: 1.0, 2: 1.0}), Fake("other", {1: 1.0})
    use(monkeypatch, one, other)
    assert planner.choose(PROBLEM, MACHINE) == (one, Tile(1), "estimate")


def test_a_forced_algorithm_is_used_or_refused() -> None:
    assert planner.choose(PROBLEM, MACHINE, "steady") == (STEADY, Tile(1), "forced")
    with pytest.raises(
        ValueError, match=r"algorithm='never' cannot compute n1c2.*: needs a 1x1 kernel, got 3x3"
    ):
        planner.choose(PROBLEM, MACHINE, "never")
    with pytest.raises(ValueError, match=r"one of 'auto', 'quick', 'roomy', 'steady', .*, got 'slow'"):
        planner.choose(PROBLEM, MACHINE, "slow")


def test_when_nothing_fits_the_least_need_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, NEVER, ROOMY, Fake("huge", {2: 1e-5}, workspace=10**9))
    with pytest.raises(
        planner.WorkspaceLimitError, match=r"workspace_limit=1000 .* the least .* is 4000 bytes"
    ):
        planner.choose(PROBLEM, MACHINE)
    with pytest.raises(planner.WorkspaceLimitError, match=r"algorithm='huge' .* is 2000000000 bytes"):
        planner.choose(PROBLEM, MACHINE, "huge")
    use(monkeypatch, NEVER)
    with pytest.raises(ValueError, match="never: needs a 1x1 kernel"):
        planner.choose(PROBLEM, MACHINE)


@pytest.mark.parametrize("weight", [np.inf, np.nan])
def test_weights_that_are_not_finite_go_to_who_takes_them(ran: list[str], weight: float) -> None:
    w = np.full_like(W, weight)
    plan = fastconv.plan(X, w, workspace_limit=1000)
    assert (plan.algorithm, plan.source) == ("reference", "estimate")
    fastconv.conv2d(X, w, workspace_limit=1000)
    fastconv.conv2d(X, W, workspace_limit=1000)
    assert ran == ["reference_1", "quick_8"]
    with pytest.raises(
        ValueError, match=r"algorithm='steady' cannot compute .* steady: multiplies zero padding by"
    ):
        fastconv.plan(X, w, algorithm="steady")


def test_weights_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, QUICK, STEADY, ROOMY)
    with pytest.raises(
        planner.WorkspaceLimitError, match=r"no algorithm takes these weights: quick: multiplies .*; steady: "
    ):
        fastconv.plan(X, np.full_like(W, np.inf), workspace_limit=1000)


def test_what_needs_special_weights_is_tried_with_them(
    monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    picky, pickier = Fake("picky", {1: 2e-6}), Fake("pickier", {1: 1e-6})
    picky.needs_of_weights = "all weights are positive"
    pickier.needs_of_weights = "all weights are the same"

    def prepare(fake: Fake, fits: Callable[[Any], bool]) -> Any:
        def prepared(layout: Layout, weights: Any, bias: Any, threads: int = 1) -> Any:
            if not fits(weights):
                raise WeightsDoNotFitError(f"needs that {fake.needs_of_weights}")
            return Algorithm.prepare(fake, layout, weights, bias, threads)

        return prepared

    monkeypatch.setattr(picky, "prepare", prepare(picky, lambda w: bool((w > 0).all())))
    monkeypatch.setattr(pickier, "prepare", prepare(pickier, lambda w: bool(np.ptp(w) == 0)))
    use(monkeypatch, QUICK, picky, pickier, STEADY)
    same, positive, rest = np.ones_like(W), np.ones_like(W), np.ones_like(W)
    positive[0, 0, 0, 0], rest[0, 0, 0, 0] = 2, -1
    for w, name in ((same, "pickier"), (positive, "picky"), (rest, "quick")):
        assert fastconv.plan(X, w, workspace_limit=1000).algorithm == name
        ran.clear()
        fastconv.conv2d(X, w, workspace_limit=1000)
        assert ran[0].startswith(f"{name}_")
    assert fastconv.explain(X, W).chosen.algorithm == "quick"
    assert fastconv.plan(X, positive, algorithm="steady").algorithm == "steady"
    with pytest.raises(ValueError, match="picky: needs that all weights are positive; use algorithm='auto'"):
        fastconv.plan(X, rest, algorithm="picky")


def test_a_plan_says_what_it_is() -> None:
    plan = fastconv.plan(X, W, workspace_limit=1000, threads=1)
    assert (plan.algorithm, plan.config, plan.source, plan.workspace_bytes) == (
        "quick",
        Tile(8),
        "estimate",
        80,
    )
    assert plan.problem == PROBLEM
    assert repr(plan) == (
        f"Plan('{PROBLEM.word}', algorithm='quick', config=Tile(mr=8), source='estimate', workspace_bytes=80)"
    )


def test_stored_without_a_store_is_the_estimate() -> None:
    assert fastconv.plan(X, W, rigor="stored").source == "estimate"


def race_of(times: dict[str, float], seen: list[str]) -> Any:
    """Replace the clock: each run is asked which kernel it is by running it."""

    def race(runs: list[Any], **_: Any) -> list[tuner.Times]:
        result = []
        for run in runs:
            run()
            result.append(tuner.Times(times[seen[-1]], 0.0, 1))
        return result

    return race


def test_measuring_takes_the_fastest(monkeypatch: pytest.MonkeyPatch, ran: list[str]) -> None:
    times = {"quick_4": 3.0, "quick_8": 1.0, "steady_1": 2.0, "reference_1": 0.1}
    monkeypatch.setattr(measuring, "race", race_of(times, ran))
    plan = fastconv.plan(X, W, np.ones(3, np.float32), workspace_limit=1000, rigor="measure")
    assert (plan.algorithm, plan.config, plan.source) == ("quick", Tile(8), "measure")
    # The reference is hopeless by estimate: it is not even tried.
    # Everybody runs once to show the answer, and in the race.
    assert ran == ["quick_8", "quick_4", "steady_1"] * 2
    plan = fastconv.plan(X, W, workspace_limit=1000, rigor="exhaustive", residual=True)
    assert (plan.algorithm, plan.config, plan.source) == ("quick", Tile(8), "measure")
    assert ran[6:] == ["quick_8", "quick_4", "steady_1"] * 2
    plan = fastconv.plan(X, W, workspace_limit=1000, rigor="exhaustive", algorithm="quick")
    assert (plan.algorithm, plan.config, plan.source) == ("quick", Tile(8), "forced")


def test_measuring_leaves_out_who_cannot_take_the_weights(ran: list[str]) -> None:
    plan = fastconv.plan(X, np.full_like(W, np.nan), workspace_limit=1000, rigor="measure")
    assert (plan.algorithm, plan.source, ran) == ("reference", "estimate", [])


def test_an_empty_batch_is_planned_but_not_run(ran: list[str]) -> None:
    empty = np.ones((0, *X.shape[1:]), np.float32)
    for rigor in planner.RIGORS:
        plan = fastconv.plan(empty, W, rigor=rigor)
        assert plan(empty).shape == (0, 3, 3, 3)
    assert explained(dataclasses.replace(PROBLEM, n=0), MACHINE).chosen.algorithm == "quick"
    assert ran == []


def test_an_explanation_is_data() -> None:
    report = fastconv.explain(X, W, workspace_limit=1000, threads=1)
    assert (report.problem, report.source) == (PROBLEM, "estimate")
    assert [row.algorithm for row in report.rows] == [
        "quick",
        "quick",
        "steady",
        "reference",
        "roomy",
        "never",
    ]
    assert [row.accepted for row in report.rows] == [True] * 4 + [False] * 2
    best = report.chosen
    assert (best.config, best.seconds, best.workspace_bytes, best.error_bound) == ("mr=8", 5e-4, 80, 1e-6)
    roomy, never = report.rows[4:]
    assert roomy.reason == "needs workspace_limit=4000 or more, got 1000"
    assert roomy.needs[0].change == {"workspace_limit": 4000}
    assert never.reason == "needs a 1x1 kernel, got 3x3; needs stride 2, got 1"
    assert [need.what for need in never.needs] == ["a 1x1 kernel", "stride 2"]
    assert sum(row.chosen for row in report.rows) == 1
    assert fastconv.explain(X, W, algorithm="steady").chosen.algorithm == "steady"
    with_bias = fastconv.explain(X, W, np.ones(3, np.float32), residual=True).problem
    assert (with_bias.bias, with_bias.residual) == (True, True)


def test_an_explanation_is_a_table() -> None:
    text = str(fastconv.explain((1, 2, 5, 5), (3, 2, 3, 3), workspace_limit=1000, threads=1))
    lines = text.splitlines()
    assert lines[0] == PROBLEM.word
    assert lines[1] == "x (1, 2, 5, 5) w (3, 2, 3, 3) -> y (1, 3, 3, 3) float32, 0.000972 Mflop, 1 thread"
    assert lines[2] == "chosen: quick mr=8 (by estimate)"
    assert lines[4].split() == [
        "algorithm", "predicted", "GFLOP/s", "packing", "workspace", "error", "bound",
        "setting,", "or", "what", "it", "needs",
    ]  # fmt: skip
    assert lines[5].split() == ["*", "quick", "500", "us", "0.0", "0", "us", "80", "B", "1.0e-06", "mr=8"]
    assert "1 s" in lines[8]
    assert "3.91 KiB" in lines[9]
    assert lines[10].endswith("needs a 1x1 kernel, got 3x3; needs stride 2, got 1")
    assert "2 threads" in str(explained(dataclasses.replace(PROBLEM, threads=2), MACHINE))


def test_settings_without_names_are_called_default(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(NamedTuple):
        """No setting at all."""

    plain = Fake("plain", {1: 1.0})
    monkeypatch.setattr(Fake, "configs", lambda *_: (Nothing(),))
    monkeypatch.setattr(Fake, "cost", lambda *_: 1.0)
    monkeypatch.setattr(Fake, "workspace", lambda *_: 0)
    use(monkeypatch, plain)
    assert fastconv.explain(X, W).chosen.config == "default"


def test_choices_are_remembered_per_set_of_arguments() -> None:
    for _ in range(3):
        fastconv.conv2d(X, W)
    info = fastconv.plan_cache_info()
    assert (info.hits, info.misses, info.maxsize, info.currsize) == (2, 1, routes.CACHE_SIZE, 1)
    fastconv.conv2d(X, W, stride=(1, 1), padding=[0, 0], dilation=np.int64(1))
    fastconv.conv2d(X, W, stride=[1, 1], padding=(0, 0), dilation=np.int64(1))
    fastconv.conv2d(X, W, padding=((0, 0), [0, 0]))
    fastconv.conv2d(X, W, padding=[[0, 0], (0, 0)])
    fastconv.conv2d(X, W, padding="valid")
    assert fastconv.plan_cache_info()[:2] == (4, 4)
    fastconv.conv2d(X, W, stride=np.array(1))
    assert fastconv.plan_cache_info()[:2] == (4, 4)
    fastconv.plan_cache_clear()
    assert fastconv.plan_cache_info().currsize == 0


def test_the_memory_for_choices_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in range(routes.CACHE_SIZE + 10):
        fastconv.conv2d(X, W, workspace_limit=10**6 + limit)
    assert fastconv.plan_cache_info().currsize == routes.CACHE_SIZE


def test_every_argument_is_part_of_the_key(ran: list[str]) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"x": X[0]},
        {"x": X.astype(np.float64), "w": W.astype(np.float64)},
        {"x": X.astype(">f4")},
        {"w": W[:2]},
        {"bias": np.ones(3, np.float32)},
        {"stride": 2},
        {"padding": 1},
        {"dilation": 2},
        {"x": np.ones((1, 4, 5, 5), np.float32), "groups": 2, "w": np.ones((2, 2, 3, 3), np.float32)},
        {"x": np.ones((1, 5, 5, 2), np.float32), "layout": "NHWC"},
        {"w": W.transpose(2, 3, 1, 0), "weight_layout": "HWIO"},
        {"padding_mode": "reflect"},
        {"activation": "relu"},
        {"residual": np.ones((1, 3, 3, 3), np.float32)},
        {"accuracy": "strict"},
        {"algorithm": "steady"},
        {"workspace_limit": 10**6},
    ]
    for change in changes:
        fastconv.conv2d(**({"x": X, "w": W} | change))
    assert fastconv.plan_cache_info().misses == len(changes)


def test_weights_of_every_layout_reach_the_algorithm_as_oihw(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        QUICK,
        "prepare",
        lambda layout, w, b, threads: seen.append(w) or SimpleNamespace(kernel=layout.kernel),
        raising=False,
    )
    w = np.arange(W.size, dtype=">f4").reshape(W.shape)
    fastconv.conv2d(X, w)
    fastconv.conv2d(X, w.transpose(2, 3, 1, 0), weight_layout="HWIO")
    fastconv.plan(X, w.transpose(0, 2, 3, 1), weight_layout="OHWI")
    for given in seen:
        np.testing.assert_array_equal(given, w)
        assert given.flags.c_contiguous
        assert given.dtype == np.float32


def test_the_race_takes_the_best_of_interleaved_rounds() -> None:
    order: list[str] = []
    ticks = itertools.count()
    cost = {"slow": [9, 9, 7, 5, 9], "fast": [9, 3, 2, 4, 9]}
    now = [0.0]

    def runner(name: str) -> Any:
        durations = iter(cost[name])

        def run() -> None:
            next(ticks)
            order.append(name)
            now[0] += next(durations)

        return run

    led: list[tuple[int, float]] = []
    times = tuner.race(
        [runner("slow"), runner("fast")],
        rounds=3,
        floor_s=1.0,
        clock=lambda: now[0],
        leads=lambda index, seconds: led.append((index, seconds)),
    )
    assert times == [(5.0, 7 / 5 - 1, 3), (2.0, 1.0, 3)]
    assert order == ["slow"] * 2 + ["fast"] * 2 + ["slow", "fast"] * 3
    assert led == [(1, 2.0), (1, 2.0), (1, 2.0)]


def test_short_runs_are_repeated_until_the_clock_sees_them() -> None:
    now, calls = [0.0], [0]

    def run() -> None:
        calls[0] += 1
        now[0] += 0.25

    assert tuner.race([run], rounds=2, floor_s=2.0, clock=lambda: now[0]) == [(0.25, 0.0, 2)]
    assert calls[0] == 2 + 2 * 8
    assert tuner.race([], clock=lambda: 0.0) == []


def test_a_clock_that_stands_still_ends_the_race() -> None:
    assert tuner.race([lambda: None], rounds=1, floor_s=1e-6, clock=lambda: 0.0) == [(0.0, 0.0, 1)]


def test_of_the_timings_of_a_round_the_shortest_counts() -> None:
    """Where another process takes the core now and then, some timings are spared."""
    now, calls = [0.0], [0]

    def run() -> None:
        calls[0] += 1
        now[0] += 1.0 if calls[0] % 3 else 50.0

    (times,) = tuner.race([run], rounds=4, floor_s=1.0, round_s=10.0, clock=lambda: now[0])
    assert times == (1.0, 0.0, 4)
    assert calls[0] == 2 + 4 * 10


def test_who_is_far_behind_runs_once_and_a_loser_twice() -> None:
    now, calls = [0.0], {"fast": 0, "loser": 0, "far behind": 0, "hopeless": 0}

    def runner(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls[name] += 1
            now[0] += seconds

        return run

    runs = [runner("fast", 1.0), runner("loser", 2.0), runner("far behind", 4.0), runner("hopeless", 11.0)]
    times = tuner.race(runs, rounds=5, floor_s=1.0, round_s=0.4, loser=1.5, clock=lambda: now[0])
    assert times == [(1.0, 0.0, 5), (2.0, 0.0, tuner.SURE), (4.0, 0.0, 1), (11.0, 0.0, 1)]
    assert calls == {"fast": 2 + 5, "loser": 2 + tuner.SURE, "far behind": 2, "hopeless": 1}


def test_the_registry_finds_every_algorithm_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    names = list(registry.all())
    assert names[-1] == "reference"
    assert names[:-1] == sorted(names[:-1])
    for name, algorithm in registry.all().items():
        assert registry.get(name) is algorithm
        assert fastconv.list_algorithms()[name] == algorithm.summary
        assert (algorithm.name, bool(algorithm.summary)) == (name, True)
