"""Tuning as users meet it: interrupted, short of time, of disk, or of the machine; and with more than one thread."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv.algorithms import registry
from fastconv.machine import Machine
from fastconv.planning import decisions, facts, measuring, planner, store, tuner, tuning
from fastconv.planning.decisions import Decision, Timing
from fastconv.problem import Problem

WORD = "n1c8h9w9_o8k3x3_s1p1d1g1_nchw_f32"
PROBLEM = Problem.parse(WORD)
TWO = dataclasses.replace(PROBLEM, threads=2)
ROOT = Path(__file__).resolve().parent.parent
X = np.random.default_rng(0).standard_normal(PROBLEM.x_shape).astype(np.float32)
W = np.random.default_rng(1).standard_normal(PROBLEM.w_shape).astype(np.float32)
EXPECTED = fastconv.conv2d(X, W, padding=1, algorithm="reference")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    tuning._forget()
    store._warned.clear()
    yield
    tuning._forget()


@pytest.fixture
def machine() -> Machine:
    return Machine.host()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


# --------------------------------------------------------------------------------- time, and the user's patience


def test_no_round_begins_after_the_deadline() -> None:
    now, calls = [0.0], [0]

    def run() -> None:
        calls[0] += 1
        now[0] += 1.0

    (times,) = tuner.race([run], rounds=9, floor_s=1.0, deadline=4.5, clock=lambda: now[0])
    # Two calls to see how long it takes; rounds that begin at 2, 3 and 4.
    assert (times.rounds, calls[0]) == (3, 5)


def test_a_budget_holds_for_all_problems_together(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    now, deadlines = [100.0], []

    def timed(problem: Problem, *_: object, deadline: float, **__: object) -> list[Any]:
        deadlines.append(deadline)
        now[0] += 2.0
        return [(planner.choose(problem, machine), tuner.Times(1e-3, 0.0, 1))]

    monkeypatch.setattr(measuring, "timed", timed)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])
    words = [WORD.replace("h9", f"h{height}") for height in range(5, 9)]
    found = fastconv.tune(words, budget_s=3.0)
    assert [decision.problem for decision in found] == words[:2]
    assert deadlines == [103.0, 103.0]


def test_ctrl_c_leaves_what_is_finished_and_ends_with_130(tmp_path: Path, machine: Machine) -> None:
    words = tmp_path / "words"
    words.write_text("\n".join(f"n1c8h{height}w9_o8k3x3_s1p1d1g1_nchw_f32" for height in range(5, 400)))
    home = decisions.folder(machine)
    # Whoever started the tests in the background made them deaf to Ctrl-C.
    program = (
        "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('fastconv', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "tune", str(words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and len(list(home.glob("*.json"))) < 2:
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.strip()) == (130, "interrupted")
    found = list(decisions.stored(machine))
    assert len(found) >= 2
    assert all(isinstance(decision, Decision) for _, decision in found)
    assert not list(home.glob("*.tmp"))
    # The lock died with the process.
    assert fastconv.tune([WORD])


def test_whoever_finds_a_tuner_at_work_estimates(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("something was timed")

    monkeypatch.setattr(measuring, "timed", timed)
    with tuning._alone(), fastconv.autotune():
        np.testing.assert_allclose(
            fastconv.conv2d(X, W, padding=1, threads=1), EXPECTED, rtol=1e-4, atol=1e-4
        )
        assert fastconv.plan(X, W, padding=1, threads=1).source == "estimate"
    assert decisions.find(PROBLEM, machine) is None


# --------------------------------------------------------------------------------------------------- the disk

WATCHED = """
import sys
import numpy as np
import fastconv
x, w = np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32)
fastconv.conv2d(x, w)
touched = []
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.rename", "os.mkdir", "os.remove"):
        touched.append((event, arguments))
sys.addaudithook(watch)
before = fastconv.plan_cache_info()
for _ in range(50):
    fastconv.conv2d(x, w)
after = fastconv.plan_cache_info()
assert (after.hits - before.hits, after.misses - before.misses) == (50, 0), (before, after)
assert not touched, touched
fastconv.conv2d(x[:, :, 1:], w)
assert fastconv.plan_cache_info().misses == after.misses + 1
assert touched, "nothing is seen by the hook"
"""


def test_after_the_first_call_of_a_shape_no_file_is_looked_at() -> None:
    subprocess.run([sys.executable, "-c", WATCHED], env=environment(), check=True, timeout=120)


def refused(number: int) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


FAULTS = {
    "read-only file system": ("tempfile.mkstemp", errno.EROFS),
    "folder of another user": ("tempfile.mkstemp", errno.EACCES),
    "full disk": ("fastconv.planning.store.os.fdopen", errno.ENOSPC),
    "quota exceeded while renaming": ("pathlib.Path.replace", errno.EDQUOT),
    "too many open files": ("tempfile.mkstemp", errno.EMFILE),
    "folder that cannot be made": ("pathlib.Path.mkdir", errno.EACCES),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_refuses_costs_the_decision_and_one_warning(
    fault: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, number = FAULTS[fault]
    monkeypatch.setattr(place, refused(number))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for height in (9, 7):
            (decision,) = fastconv.tune([WORD.replace("h9", f"h{height}")])
            assert decision.timings
        y = fastconv.conv2d(X, W, padding=1)
    np.testing.assert_allclose(y, EXPECTED, rtol=1e-4, atol=1e-4)
    messages = [str(warning.message) for warning in caught if issubclass(warning.category, RuntimeWarning)]
    assert len(messages) == 1, messages
    assert messages[0].startswith("a decision cannot be stored")
    monkeypatch.undo()
    assert not list(decisions.stored(machine))


def test_a_file_that_may_not_be_read_is_no_decision(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathlib.Path.open", refused(errno.EACCES))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = fastconv.conv2d(X, W, padding=1)
        fastconv.conv2d(X[:, :, 1:], W, padding=1)
    np.testing.assert_allclose(y, EXPECTED, rtol=1e-4, atol=1e-4)
    assert [str(warning.message).split(" (")[0] for warning in caught] == [
        "a stored decision cannot be read and is not used"
    ]


NOBODY = """
import os, sys, warnings
import numpy as np
import fastconv
x, w = np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32)
right = fastconv.conv2d(x, w, padding=1, threads=1)
words = [f"n1c8h{height}w9_o8k3x3_s1p1d1g1_nchw_f32" for height in (5, 6)]
if os.getuid() == 0:
    # Root may write everywhere; and who it turns into may be unable to import what is not imported yet.
    home = os.environ["FASTCONV_DECISIONS_DIR"]
    os.environ["FASTCONV_DECISIONS_DIR"] = sys.argv[1]
    fastconv.tune(words)
    os.environ["FASTCONV_DECISIONS_DIR"] = home
    os.setgid(65534)
    os.setuid(65534)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fastconv.plan_cache_clear()
    assert fastconv.plan(x, w, padding=1, threads=1).source == "stored"
    assert np.array_equal(fastconv.conv2d(x, w, padding=1, threads=1), right)
    for word in words:
        assert fastconv.tune([word])
kept = [str(warning.message) for warning in caught if "decision" in str(warning.message)]
assert len(kept) == 1 and kept[0].startswith("a decision cannot be stored"), kept
"""


@pytest.mark.skipif(os.name != "posix", reason="users and modes of files are those of POSIX")
def test_a_folder_that_only_its_owner_may_write(machine: Machine) -> None:
    """What another user tuned is read; what cannot be stored there costs one warning."""
    home = Path(tempfile.mkdtemp())
    try:
        home.chmod(0o755)
        folder = {**environment(), "FASTCONV_DECISIONS_DIR": str(home)}
        code = "import fastconv, sys; fastconv.tune(sys.argv[1:])"
        subprocess.run([sys.executable, "-c", code, WORD], env=folder, check=True, timeout=120)
        for made in sorted(home.rglob("*"), reverse=True):
            made.chmod(0o555 if made.is_dir() else 0o444)
        home.chmod(0o555)
        elsewhere = str(store.root())
        subprocess.run([sys.executable, "-c", NOBODY, elsewhere], env=folder, check=True, timeout=120)
    finally:
        home.chmod(0o755)
        for made in home.rglob("*"):
            made.chmod(0o755)
        shutil.rmtree(home)


# ------------------------------------------------------------------------------- what decisions may not do


@pytest.mark.parametrize("name", registry.all())
@pytest.mark.parametrize(
    "word",
    [
        WORD,
        "n1c3h9w9_o8k1x1_s1p0d1g1_nhwc_f32",
        "n2c4h9w9_o4k3x3_s2p1d1g4_nchw_f64",
        "n1c2h5w5_o2k3x3_s1p0d1g1_nhwc_i8",
        "n1c6h7w9_o3k5x2_s2x1p2d1g3_nchw_f32_reflect_relu_strict",
    ],
)
def test_a_decision_for_any_algorithm_leaves_results_right(name: str, word: str, machine: Machine) -> None:
    """Every setting that the algorithm has anywhere, named for this problem, whether it applies or not."""
    problem, algorithm = Problem.parse(word), registry.get(name)
    others = [problem, PROBLEM, Problem.parse("n1c64h20w20_o64k1x1_s1p0d1g1_nhwc_f32")]
    configs = {
        config
        for other in others
        if algorithm.why_not(other, machine) is None
        for config in algorithm.configs(other, machine)
    }
    timings = [
        Timing(name, config._asdict(), 1e-9 * (1 + place)) for place, config in enumerate(sorted(configs))
    ]
    timings += [Timing(name, {}, 1e-12), Timing(name, {"mr": -1, "nv": 10**9}, 1e-11)]
    assert decisions.keep(Decision(decisions.key(problem), "exhaustive", tuple(timings)), machine)
    rng = np.random.default_rng(2)
    x = rng.integers(-4, 5, problem.x_shape).astype(problem.dtype)
    w = rng.integers(-4, 5, problem.w_shape).astype(problem.dtype)
    words: dict[str, Any] = {
        "stride": problem.stride,
        "padding": (problem.padding[:2], problem.padding[2:]),
        "dilation": problem.dilation,
        "groups": problem.groups,
        "layout": problem.layout,
        "padding_mode": problem.padding_mode,
        "activation": problem.activation,
        "accuracy": problem.accuracy,
        "threads": 1,
    }
    right = fastconv.conv2d(x, w, algorithm="reference", **words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fastconv.plan(x, w, **words)
        y = found(x)
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-3)
    usable = {
        row.algorithm.name for row in planner.ranked(problem, machine) if not row.algorithm.needs_of_weights
    }
    assert found.source == ("stored" if name in usable else "estimate")


# -------------------------------------------------------------------------------------------- two threads


def test_two_threads_have_decisions_of_their_own(machine: Machine) -> None:
    """Tuning for two threads measures both: one thread, which decides the bits, and two, which divide the work."""
    (found,) = fastconv.tune([TWO])
    alone = decisions.find(PROBLEM, machine)
    assert found.problem == TWO.word
    assert alone is not None
    assert alone.timings != found.timings
    plan = fastconv.plan(X, W, padding=1, threads=2)
    assert plan.source == "stored"
    np.testing.assert_array_equal(plan(X), fastconv.plan(X, W, padding=1, threads=1)(X))


def test_the_division_of_work_follows_the_timings_of_two_threads(machine: Machine) -> None:
    slowest = {problem: planner.ranked(problem, machine, "direct")[-1].config for problem in (PROBLEM, TWO)}
    for problem, config in slowest.items():
        assert config is not None
        timing = Timing("direct", config._asdict(), 1e-9)  # type: ignore[attr-defined]
        assert decisions.keep(Decision(decisions.key(problem), "measure", (timing,)), machine)
    tuning._forget()
    for problem, config in slowest.items():
        plan = fastconv.plan(X, W, padding=1, threads=problem.threads)
        assert (plan.source, plan.algorithm, plan.config) == ("stored", "direct", config)
        report = fastconv.explain(X, W, padding=1, threads=problem.threads)
        assert report.chosen.measured_seconds == 1e-9
    assert slowest[PROBLEM] != slowest[TWO]


def test_bits_decided_for_one_thread_bind_two(machine: Machine) -> None:
    """What was fastest with two threads is not taken where it would change the result of one."""
    rows = planner.ranked(PROBLEM, machine)
    direct = next(row for row in rows if row.algorithm.name == "direct")
    other = next(row for row in planner.ranked(TWO, machine) if row.algorithm.name == "winograd")
    for problem, row in ((PROBLEM, direct), (TWO, other)):
        timing = Timing(row.algorithm.name, dict(planner.setting(row)), 1e-9)
        assert decisions.keep(Decision(decisions.key(problem), "measure", (timing,)), machine)
    tuning._forget()
    assert fastconv.plan(X, W, padding=1, threads=2).algorithm == "direct"


# ------------------------------------------------------------------------------------------ other versions


def test_decisions_are_of_a_version_and_a_machine(machine: Machine) -> None:
    (found,) = fastconv.tune([WORD])
    assert decisions.folder(machine).name.startswith(machine.fingerprint)
    bundle = decisions.bundle(machine)
    text = json.dumps({**bundle, "machine": machine.fingerprint + "-00000000"})
    with pytest.raises(ValueError, match="another machine or another version"):
        decisions.merge(text, machine)
    assert decisions.merge(json.dumps(bundle), machine) == (0, 1)
    assert Path(tempfile.gettempdir()) in store.root().parents
    assert facts.path(machine).parent == store.root()
    assert found.timings[0].rounds > 1
