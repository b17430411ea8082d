"""Decisions on disk: what was tuned is remembered, and no file can make a result wrong or a call fail."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fastconv
from fastconv.cli import cli
from fastconv.machine import Machine
from fastconv.planning import decisions, measuring, planner, store, tuning
from fastconv.planning.decisions import Decision, Timing
from fastconv.problem import Problem

WORD = "n1c8h9w9_o8k3x3_s1p1d1g1_nchw_f32"
PROBLEM = Problem.parse(WORD)
ROOT = Path(__file__).resolve().parent.parent
X = np.random.default_rng(0).standard_normal(PROBLEM.x_shape).astype(np.float32)
W = np.random.default_rng(1).standard_normal(PROBLEM.w_shape).astype(np.float32)
EXPECTED = fastconv.conv2d(X, W, padding=1, algorithm="reference")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Begin and end with nothing in memory: choices, warnings given, words recorded."""
    tuning._forget()
    store._warned.clear()
    tuning._recorded.clear()
    yield
    tuning._forget()


@pytest.fixture
def machine() -> Machine:
    return Machine.host()


@pytest.fixture
def never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("something was timed")

    monkeypatch.setattr(measuring, "timed", timed)


def kept(problem: Problem, machine: Machine, rigor: str = "measure", slower: int = 1) -> Decision:
    """Store that the candidate which the estimate puts in that place is the fastest."""
    row = planner.ranked(problem, machine)[slower]
    decision = Decision(
        decisions.key(problem), rigor, (Timing(row.algorithm.name, dict(planner.setting(row)), 1e-9),)
    )
    assert decisions.keep(decision, machine)
    tuning._forget()
    return decision


def path_of(problem: Problem, machine: Machine) -> Path:
    return decisions.folder(machine) / decisions._name(decisions.key(problem))


def right_result() -> str:
    """Return the algorithm of a plan whose result was compared."""
    tuning._forget()
    plan = fastconv.plan(X, W, padding=1, threads=1)
    np.testing.assert_allclose(plan(X), EXPECTED, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fastconv.conv2d(X, W, padding=1), EXPECTED, rtol=1e-4, atol=1e-4)
    return f"{plan.algorithm} {plan.config}"


# ------------------------------------------------------------------------------------------ remembering


def test_what_was_tuned_is_not_timed_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = fastconv.tune([WORD])
    assert first.rigor == "measure"
    assert len({timing.algorithm for timing in first.timings}) > 2
    assert [timing.seconds for timing in first.timings] == sorted(t.seconds for t in first.timings)
    monkeypatch.setattr(measuring, "timed", None)
    assert fastconv.tune([PROBLEM]) == [first]
    plan = fastconv.plan(X, W, padding=1, threads=1)
    assert (plan.source, plan.algorithm) == ("stored", first.timings[0].algorithm)
    assert fastconv.plan(X, W, padding=1, threads=1, rigor="measure").source == "stored"
    report = fastconv.explain(X, W, padding=1, threads=1)
    assert (report.source, report.chosen.measured_seconds) == ("stored", first.timings[0].seconds)
    assert report.chosen.measured == first.timings[0]
    assert re.search(r"\* +\w+ +\S+ \w+ +\S+ \w+ \+\d+%", str(report)), "no spread beside the measured time"


def test_a_stored_decision_is_taken_by_plans_and_explained(machine: Machine, never_timed: None) -> None:
    before = fastconv.plan(X, W, padding=1, threads=1)
    decision = kept(PROBLEM, machine)
    plan = fastconv.plan(X, W, padding=1, threads=1)
    assert (before.source, plan.source) == ("estimate", "stored")
    timing = decision.timings[0]
    assert (plan.algorithm, plan.config._asdict()) == (timing.algorithm, timing.config)  # type: ignore[attr-defined]
    assert fastconv.plan(X, W, padding=1, threads=1, algorithm="im2col").source == "forced"


def test_a_stricter_answer_serves_a_laxer_request_only(machine: Machine) -> None:
    kept(PROBLEM, machine, "measure")
    assert decisions.find(PROBLEM, machine, "measure")
    assert decisions.find(PROBLEM, machine, "exhaustive") is None
    kept(PROBLEM, machine, "exhaustive")
    assert decisions.find(PROBLEM, machine, "measure")


def test_threads_change_no_bit_whatever_is_stored(machine: Machine) -> None:
    two = dataclasses.replace(PROBLEM, threads=2)
    for place in range(len(planner.ranked(two, machine))):
        kept(two, machine, slower=place)
        np.testing.assert_array_equal(
            fastconv.plan(X, W, padding=1, threads=2)(X), fastconv.plan(X, W, padding=1, threads=1)(X)
        )


def test_autotune_tunes_on_the_first_call(machine: Machine) -> None:
    with fastconv.autotune():
        fastconv.conv2d(X, W, padding=1, threads=1)
        found = decisions.find(PROBLEM, machine)
        assert found is not None
        with fastconv.autotune("off"):
            fastconv.conv2d(X[:, :, 1:], W, padding=1, threads=1)
    shorter = dataclasses.replace(PROBLEM, h=8)
    assert decisions.find(shorter, machine) is None


def test_the_environment_tunes_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_TUNE", "measure")
    fastconv.plan(X, W, padding=1, threads=1)
    assert decisions.find(PROBLEM, machine)
    monkeypatch.setenv("FASTCONV_TUNE", "hard")
    with pytest.raises(ValueError, match="FASTCONV_TUNE must be one of measure, exhaustive, off, got 'hard'"):
        fastconv.plan(X[:, :, 1:], W, padding=1)


def test_a_plain_call_times_nothing(never_timed: None) -> None:
    assert fastconv.plan(X, W, padding=1).source == "estimate"
    right_result()


def test_untuned_problems_are_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "words"
    monkeypatch.setenv("FASTCONV_RECORD", str(record))
    for _ in range(3):
        tuning._forget()
        fastconv.conv2d(X, W, padding=1, threads=1)
    assert record.read_text().split() == [WORD]


def test_tuning_tells_who_is_fastest_so_far(machine: Machine) -> None:
    told: list[tuple[int, int, str]] = []
    (decision,) = fastconv.tune([WORD], progress=lambda *words: told.append(words))
    assert told[0] == (0, 1, "")
    assert told[-1] == (1, 1, "")
    names = {timing.algorithm for timing in decision.timings}
    assert len(told) > 2
    for done, total, best in told[1:-1]:
        assert (done, total) == (0, 1)
        assert best.split()[0] in names
        assert best.endswith(" ms")


def test_a_budget_leaves_the_rest_untuned(never_timed: None) -> None:
    assert fastconv.tune([WORD], budget_s=1e-9) == []


@pytest.mark.parametrize("words", [{"rigor": "estimate"}, {"budget_s": 0}, {"budget_s": "1"}], ids=str)
def test_arguments_of_tune_are_checked(words: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(words))):
        fastconv.tune([WORD], **words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="problem must look like"):
        fastconv.tune(["3x3"])


def test_a_wrong_answer_is_never_timed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = measuring._run

    def spoiled(work: object, data: tuple[np.ndarray, ...], threads: int) -> None:
        run(work, data, threads)  # type: ignore[arg-type]
        if getattr(work, "kernel").name.startswith("im2col"):  # noqa: B009
            data[1][...] += 1

    monkeypatch.setattr(measuring, "_run", spoiled)
    with pytest.warns(RuntimeWarning, match="im2col .* computes .* otherwise"):
        (decision,) = fastconv.tune([dataclasses.replace(PROBLEM, accuracy="strict")])
    assert "im2col" not in {timing.algorithm for timing in decision.timings}


def test_every_parameter_is_in_the_key_or_irrelevant() -> None:
    """A parameter that can change the choice and is missing from the key would make decisions lie."""
    of_problem = {
        "stride",
        "padding",
        "dilation",
        "groups",
        "layout",
        "padding_mode",
        "activation",
        "accuracy",
    }
    of_problem |= {"x", "w", "bias", "residual", "threads"}  # as shapes, dtype and presence
    irrelevant = {
        "weight_layout": "weights are brought into one order before anything else",
        "algorithm": "forced calls do not ask for decisions",
        "workspace_limit": "what is kept is looked up among candidates that respect it",
        "out": "the same memory is written in the same order",
    }
    assert set(inspect.signature(fastconv.conv2d).parameters) == of_problem | set(irrelevant)
    fields = {field.name for field in dataclasses.fields(Problem)}
    base = Problem(2, 4, 8, 8, 4, 3, 3)
    other = {
        "n": 3, "c": 8, "h": 9, "w": 9, "o": 8, "kh": 2, "kw": 2, "stride": (2, 2), "padding": (1, 1, 1, 1),
        "dilation": (2, 2), "groups": 2, "layout": "NHWC", "dtype": "float64", "padding_mode": "reflect",
        "activation": "relu", "bias": True, "residual": True, "accuracy": "strict", "threads": 2,
    }  # fmt: skip
    assert set(other) == fields - {"workspace_limit"}
    for name, value in other.items():
        changed = dataclasses.replace(base, **{name: value})
        assert decisions.key(changed) != decisions.key(base), name


# ------------------------------------------------------------------------------------------------ damage


def test_every_truncation_is_a_miss(machine: Machine) -> None:
    kept(PROBLEM, machine)
    path = path_of(PROBLEM, machine)
    whole = path.read_bytes()
    estimate = planner.choose(PROBLEM, machine)
    with pytest.warns(RuntimeWarning, match="cannot be read") as caught:
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            assert decisions.find(PROBLEM, machine) is None
        assert right_result() == f"{estimate.algorithm.name} {estimate.config}"
    assert len(caught) == 1
    path.write_bytes(whole)
    assert decisions.find(PROBLEM, machine) is not None


def damaged() -> dict[str, bytes]:
    rng = random.Random(3)
    entry = {"algorithm": "direct", "config": {}, "seconds": 1.0}
    good = {"schema": 1, "problem": WORD, "rigor": "measure", "timings": [entry]}

    def changed(**words: object) -> bytes:
        return json.dumps({**good, **words}).encode()

    return {
        "random bytes": rng.randbytes(5000),
        "nothing": b"",
        "deep nesting": b"[" * 200_000,
        "a long file": b" " * (store.MOST_BYTES + 1),
        "a huge number": b'{"schema": 1' + b"0" * 6000 + b"}",
        "another schema": changed(schema=2),
        "another problem": changed(problem=WORD.replace("h9", "h8")),
        "no problem": changed(problem="x" * 5000),
        "another rigor": changed(rigor="perfect"),
        "no timings": changed(timings=[]),
        "seconds NaN": changed(timings=[{**entry, "seconds": float("nan")}]),
        "seconds infinite": json.dumps(good).replace("1.0", "1e999").encode(),
        "seconds beyond floats": json.dumps(good).replace("1.0", "1" + "0" * 400).encode(),
        "a negative spread": changed(timings=[{**entry, "spread": -1}]),
        "no rounds": changed(timings=[{**entry, "rounds": 0}]),
        "seconds true": changed(timings=[{**entry, "seconds": True}]),
        "a config of lists": changed(timings=[{**entry, "config": {"mr": [1]}}]),
        "an unknown algorithm": changed(timings=[{**entry, "algorithm": "__import__('os')"}]),
        "an unknown setting": changed(timings=[{**entry, "config": {"mr": 10**30, "nv": -1, "rows": 0}}]),
    }


@pytest.mark.parametrize("kind", damaged())
def test_damage_costs_nothing_but_the_decision(kind: str, machine: Machine) -> None:
    path = path_of(PROBLEM, machine)
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged()[kind])
    estimate = planner.choose(PROBLEM, machine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert right_result() == f"{estimate.algorithm.name} {estimate.config}"
    assert len(caught) <= 1
    (found,) = [text for _, text in decisions.stored(machine)]
    assert isinstance(found, str) == (kind not in ("an unknown algorithm", "an unknown setting"))
    fastconv.tune([WORD])
    assert decisions.find(PROBLEM, machine) is not None


@pytest.mark.parametrize(
    "word",
    [
        WORD,
        "n1c3h9w9_o8k1x1_s1p0d1g1_nhwc_f32",
        "n2c4h9w9_o4k3x3_s2p1d1g4_nchw_f64",
        "n1c2h5w5_o2k3x3_s1p0d1g1_nhwc_i8",
    ],
)
def test_no_decision_can_name_what_does_not_apply(word: str, machine: Machine) -> None:
    problem = Problem.parse(word)
    for name in fastconv.explain(X, W, padding=1).rows:
        timing = Timing(name.algorithm, {"mr": 64, "nv": 64, "rows": 10**9, "splits": 10**9}, 1e-9)
        decisions.keep(Decision(decisions.key(problem), "exhaustive", (timing,)), machine)
        assert planner.decided(problem, machine) is None


CROWD = """
import os, random, sys
from fastconv.machine import Machine
from fastconv.planning import decisions, planner
from fastconv.planning.decisions import Decision, Timing
from fastconv.problem import Problem
machine, rng = Machine.host(), random.Random(int(sys.argv[1]))
print("ready", flush=True)
while True:
    problem = Problem.parse(f"n1c8h{rng.randint(3, 6)}w9_o8k3x3_s1p1d1g1_nchw_f32")
    act = rng.random()
    if act < 0.5:
        timings = tuple(Timing("direct", {"mr": i}, 1.0 + i) for i in range(rng.randint(1, 400)))
        decisions.keep(Decision(decisions.key(problem), "measure", timings), machine)
    elif act < 0.97:
        found = decisions.find(problem, machine)
        assert found is None or found.timings[0].algorithm == "direct"
    else:
        decisions.clear(machine)
"""


def test_eight_processes_and_random_kills_leave_only_valid_files(machine: Machine) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    rng = random.Random(5)

    def start(seed: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CROWD, str(seed)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    crowd = [start(seed) for seed in range(8)]
    try:
        for process in crowd:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for seed in range(8, 16):
            victim = rng.randrange(8)
            # Some reads of the crowd's files happen between any two kills.
            for _ in range(200):
                list(decisions.stored(machine))
            crowd[victim].kill()
            _, errors = crowd[victim].communicate(timeout=60)
            assert "Traceback" not in errors
            crowd[victim] = start(seed)
        broken = [process.poll() for process in crowd if process.poll() is not None]
        assert not broken
    finally:
        for process in crowd:
            process.kill()
            process.communicate(timeout=60)
    assert all(isinstance(found, Decision) for _, found in decisions.stored(machine))


# ---------------------------------------------------------------------------------------------- the folder


def test_without_a_folder_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("FASTCONV_DECISIONS_DIR", str(blocker / "below"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (decision,) = fastconv.tune([WORD])
        fastconv.tune([WORD.replace("h9", "h7")])
        right_result()
    assert decision.timings
    assert {str(warning.message).split(" (")[0] for warning in caught} <= {
        "a decision cannot be stored",
        "a stored decision cannot be read and is not used",
    }
    assert len(caught) <= 2


def test_a_folder_can_be_kept_as_it_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(PROBLEM, machine)
    monkeypatch.setenv("FASTCONV_DECISIONS_READONLY", "1")
    fastconv.tune([WORD.replace("h9", "h7")])
    assert [found.problem for _, found in decisions.stored(machine) if isinstance(found, Decision)] == [WORD]
    assert fastconv.plan(X, W, padding=1, threads=1).source == "stored"


def test_without_a_home_there_is_still_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"HOME", "XDG_DATA_HOME", "FASTCONV_DECISIONS_DIR"}
    }
    code = "import numpy as np, fastconv; fastconv.conv2d(np.ones((1, 4, 4)), np.ones((1, 1, 3, 3)))"
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_bundles_keep_the_faster(machine: Machine) -> None:
    slow = kept(PROBLEM, machine)
    bundle = decisions.bundle(machine)
    bundle["decisions"][0]["timings"][0]["seconds"] = 5e-10
    assert decisions.merge(json.dumps(bundle), machine) == (1, 0)
    assert decisions.merge(json.dumps(bundle), machine) == (0, 1)
    found = decisions.find(PROBLEM, machine)
    assert found is not None and found.timings[0].seconds < slow.timings[0].seconds
    with pytest.raises(
        ValueError, match="was made on another machine or another version of fastconv, 'elsewhere'"
    ):
        decisions.merge(json.dumps({**bundle, "machine": "elsewhere"}), machine)
    for text in ("[" * 100_000, "[]", '{"schema": 1}', json.dumps({**bundle, "decisions": [{}]})):
        with pytest.raises(ValueError):  # each has its own words; what matters is the kind
            decisions.merge(text, machine)


def test_only_one_tunes(never_timed: None) -> None:
    with tuning._alone(), pytest.raises(fastconv.TunerBusyError, match="another process is tuning"):
        fastconv.tune([WORD])


# ---------------------------------------------------------------------------------------- the command line


def run(*words: str) -> str:
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(tmp_path: Path, machine: Machine) -> None:
    words = tmp_path / "recorded"
    words.write_text(f"{WORD}\n")
    assert "direct" in run("tune", str(words), "--rigor", "exhaustive")
    assert WORD in run("decisions", "show")
    assert "1 valid, 0 not" in run("decisions", "verify")
    bundle = tmp_path / "bundle.json"
    run("decisions", "export", str(bundle))
    assert "1 decisions removed" in run("decisions", "clear")
    assert "1 decisions taken over" in run("decisions", "import", str(bundle))
    assert "estimate, 1 problems: median" in run("regret", WORD)
    assert "by stored" in run("explain", WORD)
    path_of(PROBLEM, machine).write_text("{")
    result = CliRunner().invoke(cli, ["decisions", "verify"])
    assert (result.exit_code, "0 valid, 1 not" in result.output) == (1, True)
    result = CliRunner().invoke(cli, ["decisions", "import", str(words)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
