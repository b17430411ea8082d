"""How fast the machine is: measured when asked, kept, believed within reason, and the only rates that costs know."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
from click.testing import CliRunner
from problems import PROBLEMS

import fastconv
from fastconv.algorithms import registry
from fastconv.cli import cli
from fastconv.machine import CLOCK, Facts, Machine
from fastconv.planning import facts, planner, store, tuning
from fastconv.problem import Problem

WORD = "n1c8h9w9_o8k3x3_s1p1d1g1_nchw_f32"
HOST = Machine.host()
#: Twice as fast as a typical machine in everything, but for the second thread.
FAST = replace(
    Facts(**{name: 2 * value for name, value in asdict(HOST.facts).items() if name != "measured"}),
    measured=True,
)
X, W = np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32)


@pytest.fixture(autouse=True)
def wanted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("FASTCONV_FACTS")
    tuning._forget()
    store._warned.clear()
    yield
    tuning._forget()


def keep(text: bytes) -> None:
    path = facts.path(HOST)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    facts.forget()


def stored(**changes: object) -> bytes:
    values: dict[str, object] = asdict(FAST) | changes
    values.pop("measured")
    return json.dumps({"schema": store.SCHEMA, "facts": values}).encode()


def never(*_: object) -> Facts:
    raise AssertionError("the machine was measured unasked")


# --------------------------------------------------------------------------------------- what is measured


def test_what_is_measured_serves_every_later_estimate() -> None:
    assert facts.host() == HOST
    found = fastconv.measure_machine()
    kept = facts.host().facts
    assert kept.measured
    assert not HOST.facts.measured
    for name, value in asdict(found).items():
        # Three digits are kept.
        assert getattr(kept, name) == pytest.approx(value, rel=0.01), name
    assert facts.host().fingerprint == HOST.fingerprint
    assert facts.path(HOST).name == f"{HOST.fingerprint}.facts.json"


@pytest.mark.parametrize("size", [1, 100, 4096, 1 << 20])
def test_rates_are_of_all_bytes(size: int) -> None:
    lanes = HOST.lanes("float32")
    typical = HOST.facts
    assert (
        typical.l3_rate / facts.BELIEVED < facts._copied(lanes, size) < 3 * typical.l1_rate * facts.BELIEVED
    )
    assert typical.l3_rate / facts.BELIEVED < facts._read(lanes, size) < typical.l1_rate * facts.BELIEVED


def test_what_a_machine_does_not_have_stays_typical() -> None:
    assert facts._matrix_products(replace(HOST, features=())) == HOST.facts.matrix_products
    assert facts._region_seconds(replace(HOST, cores=1)) == HOST.facts.region_seconds


def test_typical_rates_follow_what_is_known() -> None:
    some, half = Facts.typical(64, None), Facts.typical(32, CLOCK / 2)
    assert half.multiply_adds == some.multiply_adds / 2
    assert half.l2_rate == some.l2_rate / 4
    assert half.memory_rate == some.memory_rate
    assert half.matrix_products == some.matrix_products / 2


def test_nothing_is_measured_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_measure", never)
    fastconv.conv2d(X, W)
    fastconv.plan(X, W, rigor="measure")
    fastconv.explain(X, W)
    with fastconv.autotune():
        fastconv.conv2d(X, W, padding=2)
    assert not facts.path(HOST).exists()


def test_tuning_measures_the_machine_first_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Machine] = []
    monkeypatch.setattr(facts, "_measure", lambda machine: calls.append(machine) or FAST)
    fastconv.tune([WORD, WORD.replace("h9", "h7")])
    assert len(calls) == 1
    monkeypatch.setattr(facts, "_measure", never)
    assert facts.host().facts == FAST
    fastconv.tune([WORD.replace("h9", "h6")])


def test_the_command_measures_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(*words: str) -> str:
        result = CliRunner().invoke(cli, ["info", "--no-peak", *words], catch_exceptions=False)
        return " ".join(result.output.split())

    monkeypatch.setattr(facts, "_measure", never)
    assert "(typical, not measured: see fastconv info --measure)" in info()
    monkeypatch.setattr(facts, "_measure", lambda _: FAST)
    assert "(measured)" in info("--measure")


# ------------------------------------------------------------------------------------------ what it is for


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", registry.all())
def test_costs_know_no_rate_but_the_facts(name: str, threads: int) -> None:
    """On a machine that is twice as fast in everything, every cost is half of what it was."""
    algorithm, fast = registry.get(name), replace(FAST, region_seconds=HOST.facts.region_seconds / 2)
    looked = 0
    words = [
        *PROBLEMS,
        "n1c256h112w112_o512k3x3_s1p1d1g1_nchw_f32",
        "n1c64h900w900_o64k1x1_s1p0d1g1_nhwc_f32",
    ]
    for word in words:
        problem = replace(Problem.parse(word), threads=threads)
        if algorithm.why_not(problem, HOST) is None:
            for config in algorithm.configs(problem, HOST):
                cost = algorithm.cost(problem, HOST, config)
                assert algorithm.cost(problem, replace(HOST, facts=fast), config) == pytest.approx(
                    cost / 2
                ), word
                looked += 1
    if not looked:
        pytest.skip("nothing here for this machine")


def test_packing_is_as_fast_as_the_core() -> None:
    problem = Problem.parse("n1c64h56w56_o64k3x3_s1p1d1g1_nhwc_f32")
    fast = replace(HOST, facts=FAST)
    for row, other in zip(planner.survey(problem, HOST), planner.survey(problem, fast), strict=True):
        assert (row.algorithm, row.packing_seconds) == (
            other.algorithm,
            pytest.approx(2 * other.packing_seconds),
        )


@pytest.mark.parametrize(
    ("rate", "name", "word"),
    [
        ("multiply_adds", "direct", "n1c64h56w56_o64k3x3_s1p1d1g1_nhwc_f32"),
        ("l1_rate", "direct", "n1c3h56w56_o16k3x3_s1p1d1g1_nhwc_f32"),
        ("l2_rate", "direct", "n1c512h56w56_o64k3x3_s1p1d1g1_nhwc_f32"),
        ("l3_rate", "few_channels", "n1c1h2160w3840_o1k3x3_s1p1d1g1_nchw_f32"),
        ("memory_rate", "im2col", "n1c9000h16w16_o9000k3x3_s1p1d1g1_nhwc_f32"),
        ("matrix_products", "split_bfloat16", "n1c64h56w56_o64k3x3_s1p1d1g1_nhwc_f32"),
        ("region_seconds", "direct", "n1c64h56w56_o64k3x3_s1p1d1g1_nhwc_f32_t2"),
    ],
)
def test_every_fact_moves_estimates(rate: str, name: str, word: str) -> None:
    algorithm, problem = registry.get(name), Problem.parse(word)
    machine = replace(HOST, l1_bytes=48 << 10, l2_bytes=2 << 20, l3_bytes=300 << 20)
    slower = getattr(HOST.facts, rate) * (2 if rate == "region_seconds" else 0.5)
    slow = replace(machine, facts=replace(machine.facts, **{rate: slower}))
    configs = algorithm.configs(problem, machine)
    costs = [(algorithm.cost(problem, slow, c), algorithm.cost(problem, machine, c)) for c in configs]
    assert any(worse > better for worse, better in costs)
    assert all(worse >= better for worse, better in costs)


# ------------------------------------------------------------------------------------------------ damage


def test_every_truncation_is_typical() -> None:
    whole = stored()
    with pytest.warns(RuntimeWarning, match="what was measured about this machine is not used") as caught:
        for end in range(len(whole)):
            keep(whole[:end])
            assert facts.host() == HOST
        fastconv.conv2d(X, W)
    assert len(caught) == 1
    keep(whole)
    assert facts.host().facts == FAST


DAMAGE = {
    "random bytes": random.Random(3).randbytes(3000),
    "deep nesting": b"[" * 100_000,
    "a long file": b" " * (store.MOST_BYTES + 1),
    "another schema": stored().replace(b'"schema": 1', b'"schema": 2'),
    "no facts": b'{"schema": 1}',
    "a list": b'{"schema": 1, "facts": [1]}',
    "a rate that is missing": stored().replace(b"l1_rate", b"l9_rate"),
    "a rate of nothing": stored(l2_rate=0.0),
    "a negative rate": stored(l3_rate=-5e10),
    "a rate nobody has": stored(memory_rate=1e30),
    "a rate beyond floats": stored(memory_rate=10**400),
    "not a number": stored(memory_rate=float("nan")),
    "a word": stored(memory_rate="fast"),
    "truth": stored(region_seconds=True),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_typical(kind: str) -> None:
    keep(DAMAGE[kind])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert facts.host() == HOST
        fastconv.conv2d(X, W)
    assert len(caught) == 1


def test_facts_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(stored())
    assert facts.host().facts.measured
    monkeypatch.setenv("FASTCONV_FACTS", "off")
    monkeypatch.setattr(facts, "_measure", never)
    assert facts.host() == HOST
    fastconv.tune([WORD])


def test_a_folder_that_cannot_be_written_costs_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_measure", lambda _: FAST)
    monkeypatch.setenv("FASTCONV_DECISIONS_READONLY", "1")
    assert fastconv.measure_machine() == FAST
    assert not facts.path(HOST).exists()
    monkeypatch.delenv("FASTCONV_DECISIONS_READONLY")
    blocker = store.root()
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("")
    monkeypatch.setenv("FASTCONV_DECISIONS_DIR", str(blocker / "below"))
    with pytest.warns(RuntimeWarning, match="cannot be stored") as caught:
        for _ in range(3):
            assert fastconv.measure_machine() == FAST
    assert [str(warning.message) for warning in caught if "cannot be stored" in str(warning.message)]
    assert len(caught) <= 2
