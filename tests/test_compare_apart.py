"""Libraries in processes of their own: they compute, they may die, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from fastconv.compare import apart
from fastconv.compare.apart import Apart, WorkerLostError
from fastconv.compare.bench import bench_layer, crew_for
from fastconv.compare.layers import Layer
from fastconv.compare.measuring import Effort
from fastconv.compare.peers import select
from fastconv.compare.results import broken
from fastconv.compare.station import Settings
from fastconv.problem import Problem

WORD = "n1c4h9w7_o6k3x3_s1p1d1g1_nchw_f32_t2"
SETTINGS = Settings(effort=Effort(seconds=0.0, calls=2, turn_s=0.0, most_s=0.05, cold_calls=1))
LAYER = Layer("layer", Problem.parse(WORD))


def state(pid: int) -> str:
    """Return the letter that Linux gives to what a process does."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0]


@pytest.fixture
def crew() -> Iterator[Apart]:
    with Apart() as made:
        yield made


def test_one_thread_needs_no_processes() -> None:
    with crew_for(1) as together:
        assert not isinstance(together, Apart)
    with crew_for(2) as made:
        assert isinstance(made, Apart)


def test_everybody_computes_in_a_process_of_his_own(crew: Apart) -> None:
    first = bench_layer(LAYER, select("numpy_im2col"), SETTINGS, crew)
    assert {entry.maker for entry in first.entries} == {"fastconv", "numpy_im2col"}
    assert all(entry.timed and entry.calls >= 2 and entry.cold_s > 0 for entry in first.entries)
    assert broken(first) == [] and {e.threads for e in first.entries if e.ours} == {2}
    pids = {process.process.pid for process in crew._processes.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    bench_layer(LAYER, select("numpy_im2col"), SETTINGS, crew)
    assert {process.process.pid for process in crew._processes.values()} == pids


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_whose_turn_it_is_not_is_stopped(crew: Apart) -> None:
    bench_layer(LAYER, select("numpy_im2col"), SETTINGS, crew)
    for process in crew._processes.values():
        end = time.monotonic() + 30
        while state(process.process.pid) != "T" and time.monotonic() < end:
            os.sched_yield()
        assert state(process.process.pid) == "T"


def test_forms_with_pools_of_their_own_have_processes_of_their_own(
    crew: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    (peer,) = select("numpy_im2col")
    monkeypatch.setattr(type(peer), "pools", 2)
    found = bench_layer(LAYER, [peer], SETTINGS, crew)
    # It has one form, which the first of two has; the second has none.
    assert [entry.maker for entry in found.entries].count("numpy_im2col") == 1
    assert {("numpy_im2col", 2, 0), ("numpy_im2col", 2, 1)} <= set(crew._processes)


def test_nothing_stays() -> None:
    with Apart() as crew:
        bench_layer(LAYER, [], SETTINGS, crew)
        (process,) = crew._processes.values()
    assert process.process.returncode is not None


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
def test_a_library_that_dies_costs_only_itself(crew: Apart) -> None:
    bench_layer(LAYER, select("numpy_im2col"), SETTINGS, crew)
    crew._processes["numpy_im2col", 2, 0].process.kill()
    crew._processes["numpy_im2col", 2, 0].process.wait()
    found = bench_layer(LAYER, select("numpy_im2col"), SETTINGS, crew)
    (failed,) = [entry for entry in found.entries if entry.failed]
    assert failed.maker == "numpy_im2col" and "its process ended by signal 9" in failed.failed
    assert found.best("fastconv") is not None
    # The next layer has a new process.
    again = bench_layer(LAYER, select("numpy_im2col"), SETTINGS, crew)
    assert again.best("numpy_im2col") is not None


def test_a_library_that_hangs_is_ended(crew: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "PATIENCE_S", 0.0)
    process = apart._Process("numpy_im2col", 2)
    with pytest.raises(WorkerLostError, match="no answer in time"):
        process.ask("prepare", patience=0.0, peer="numpy_im2col")
    assert process.process.returncode is not None
    with pytest.raises(WorkerLostError, match="no answer in time"):
        process.ask("turn", index=0, seconds=0.0)


def test_nonsense_is_answered_with_an_error() -> None:
    process = apart._Process("numpy_im2col", 2)
    try:
        for verb, words in (
            ("turn", {"index": 5, "seconds": 0.0}),
            ("dance", {}),
            ("prepare", {"word": "x"}),
        ):
            with pytest.raises(WorkerLostError, match="Error"):
                process.ask(verb, **words)
        assert process.process.poll() is None
    finally:
        process.close()
