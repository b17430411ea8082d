"""The executors, thread counts and workspaces, inside one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastconv import runtime
from fastconv.kernels.atomics import plain_load, plain_store
from fastconv.kernels.jit import Kernel, task_factory
from fastconv.runtime import launcher, threads, workspace
from fastconv.runtime.pool import Pool, pool
from fastconv.runtime.work import STACK_BYTES

ROOT = Path(__file__).resolve().parent.parent
SCRATCH_WORDS = 100


@task_factory
def mix(turns: int):  # type: ignore[no-untyped-def]
    """y[i] = some arithmetic on x[i] that goes through scratch memory; -1 if somebody else wrote there."""

    def task(ctx: int, i: int, scratch: int) -> None:
        seed = plain_load(plain_load(ctx) + 8 * i) + plain_load(ctx + 24)
        for k in range(SCRATCH_WORDS):
            plain_store(scratch + 8 * k, seed + k)
        value = 0.0
        for _ in range(turns):
            value = value * 0.5 + seed
        for k in range(SCRATCH_WORDS):
            if plain_load(scratch + 8 * k) != seed + k:
                value = -1.0
        if scratch % 64 != 0:
            value = -2.0
        plain_store(plain_load(ctx + 8) + 8 * i, int(value))

    return task


def work(
    tasks: int, seconds: float = 1e-3, turns: int = 300, scratch_bytes: int = 8 * SCRATCH_WORDS
) -> runtime.Work:
    context = np.array([0, 0, 0, 3, *range(60)])
    return runtime.Work(mix(turns), context, tasks, scratch_bytes, seconds)


def run(job: runtime.Work, x: np.ndarray, count: int) -> np.ndarray:
    y = np.full(job.tasks, -9)
    runtime.run(job, x.ctypes.data, y.ctypes.data, 0, count)
    return y


@pytest.fixture(autouse=True)
def settings_restored():  # type: ignore[no-untyped-def]
    yield
    threads._setting, threads._setting_read = None, False
    launcher.executor.cache_clear()


@pytest.mark.parametrize("executor", launcher.EXECUTORS)
def test_same_bits_for_any_executor_and_number_of_threads(
    executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTCONV_EXECUTOR", executor)
    for tasks in (1, 2, 3, 17, 256):
        x = np.arange(tasks) * 7
        right = run(work(tasks, seconds=0.0), x, 1)
        assert (right > 0).all()
        for count in (1, 2, 3, 8, 300):
            for _ in range(5):
                np.testing.assert_array_equal(run(work(tasks), x, count), right)


def test_scratch_on_the_stack_and_off_it() -> None:
    x = np.arange(9)
    right = run(work(9), x, 1)
    for scratch_bytes in (8 * SCRATCH_WORDS + 1, STACK_BYTES, STACK_BYTES + 1, 1 << 20):
        for seconds in (0.0, 1.0):
            np.testing.assert_array_equal(run(work(9, seconds, scratch_bytes=scratch_bytes), x, 1), right)


def test_one_work_in_many_threads_at_once() -> None:
    job = work(40)
    before = job.context.copy()

    def one(seed: int) -> bool:
        x = np.arange(40) * seed
        right = run(work(40, seconds=0.0), x, 1)
        return all((run(job, x, 3) == right).all() for _ in range(50))

    with ThreadPoolExecutor(10) as executor:
        assert all(executor.map(one, range(10)))
    np.testing.assert_array_equal(job.context, before)


def test_long_contexts_are_copied_whole() -> None:
    @task_factory
    def last(words: int):  # type: ignore[no-untyped-def]
        def task(ctx: int, i: int, scratch: int) -> None:
            plain_store(plain_load(ctx + 8) + 8 * i, plain_load(ctx + 8 * (words - 1)))

        return task

    for words in (3 + 1, 128, 129, 5000):
        context = np.arange(words)
        for seconds in (0.0, 1e-3):
            y = np.zeros(8, np.int64)
            runtime.run(runtime.Work(last(words), context, 8, 0, seconds), 0, y.ctypes.data, 0, 2)
            assert (y == words - 1).all()


@pytest.mark.parametrize("context", [np.zeros(2, np.int64), np.zeros(4), np.zeros((3, 3), np.int64)])
def test_a_wrong_context_is_refused(context: np.ndarray) -> None:
    with pytest.raises(ValueError, match="int64 vector"):
        runtime.Work(mix(1), context, 1, 0, 0.0)


@pytest.mark.parametrize("seconds", [0.5, 30.0, 1e6])
@pytest.mark.parametrize("count", [1, 2])
def test_blocks_cover_every_task_once_however_wrong_the_estimate(seconds: float, count: int) -> None:
    x = np.arange(1000)
    np.testing.assert_array_equal(run(work(1000, seconds), x, count), run(work(1000, 0.0), x, 1))


def test_blocks_take_a_fifth_of_a_second() -> None:
    ranges = []
    for start, end in launcher._blocks(1000, 1.0, 1):
        ranges.append((start, end))
        time.sleep((end - start) * 4e-4)
    assert ranges[0] == (0, 30)
    assert [start for start, _ in ranges[1:]] == [end for _, end in ranges[:-1]]
    assert ranges[-1][1] == 1000
    assert max(end - start for start, end in ranges) <= 0.25 / 4e-4


INTERRUPTED = """
import os, signal, sys, threading, numpy as np
sys.path.insert(0, {tests!r})
import test_runtime as t
count = {count}
job = t.work(4000, seconds=4.0, turns=1_000_000)
x = np.arange(4000)
job.kernel.address, t.runtime.compile_ahead()
y = np.full(4000, -9)
# Whoever started the tests in the background made them deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    t.runtime.run(job, x.ctypes.data, y.ctypes.data, 0, count)
    sys.exit("was not interrupted")
except KeyboardInterrupt:
    left = np.count_nonzero(y == -9)
assert left > 1000, left
small = t.work(100)
assert (t.run(small, x, count) == t.run(t.work(100, 0.0), x, 1)).all()
for control in t.launcher._all_controls:
    memory = control._memory
    assert memory[(control.address - memory.ctypes.data) // 8] & (t.launcher.drain.OPEN - 1) == 0
"""


@pytest.mark.parametrize("count", [1, 2])
def test_interrupt_is_felt_and_leaves_everything_usable(count: int) -> None:
    code = INTERRUPTED.format(tests=str(ROOT / "tests"), count=count)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_interrupts_at_any_moment_leave_everything_usable() -> None:
    job, x = work(64, turns=3000), np.arange(64)
    right = run(work(64, 0.0, turns=3000), x, 1)
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for k in range(200):
            # The alarm is armed inside, and only it ends the loop: it can ring neither before nor after.
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 20e-6 + 7e-6 * (k % 50))
                while True:
                    run(job, x, 2)
            np.testing.assert_array_equal(run(job, x, 2), right)
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_stopped_pool_still_computes() -> None:
    own = Pool()
    own.grow(2)
    assert len(own) == 2
    own.stop()
    own.grow(2)
    assert len(own) == 0
    x = np.arange(64)
    pool().stop()
    np.testing.assert_array_equal(run(work(64), x, 3), run(work(64, 0.0), x, 1))


def test_compiled_functions_do_not_multiply() -> None:
    kernels = {mix(300).address for _ in range(50)}
    assert len(kernels) == 1
    assert isinstance(mix(300), Kernel)


# ------------------------------------------------------------------------------------------- thread counts


def test_thread_count_is_the_minimum_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 6)
    monkeypatch.setattr(threads, "_numba_limit", lambda: 64)
    threads._forget()
    assert runtime.effective_threads(None) == 6
    assert runtime.effective_threads(100) == 6
    assert runtime.effective_threads(np.int64(4)) == 4  # type: ignore[arg-type]
    runtime.set_num_threads(3)
    assert runtime.get_num_threads() == 3
    assert runtime.effective_threads(5) == 3
    assert runtime.effective_threads(2) == 2
    runtime.set_num_threads(None)
    assert runtime.get_num_threads() == 6
    monkeypatch.setattr(threads, "_numba_limit", lambda: 5)
    assert runtime.get_num_threads() == 5
    threads._forget()


def test_thread_count_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "1")
    assert runtime.get_num_threads() == 1
    for wrong in ("0", "-2", "many", "1.5"):
        threads._setting, threads._setting_read = None, False
        monkeypatch.setenv("FASTCONV_NUM_THREADS", wrong)
        with pytest.raises(
            ValueError, match=f"FASTCONV_NUM_THREADS must be a positive integer, got '{wrong}'"
        ):
            runtime.get_num_threads()


@pytest.mark.parametrize("wrong", [True, 1.0, "2", np.float32(1)])
def test_thread_counts_of_a_wrong_kind(wrong: object) -> None:
    with pytest.raises(TypeError, match="threads must be an integer"):
        runtime.effective_threads(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="count must be an integer"):
        runtime.set_num_threads(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -1])
def test_thread_counts_below_one(wrong: int) -> None:
    with pytest.raises(ValueError, match="threads must be at least 1"):
        runtime.effective_threads(wrong)
    with pytest.raises(ValueError, match="count must be at least 1"):
        runtime.set_num_threads(wrong)


NUMBA_LIMIT = """
import sys, numba, threading
from fastconv import runtime
from fastconv.runtime import threads
threads.available_cores = lambda: 64
assert runtime.get_num_threads() == 4
assert "numba.np.ufunc.parallel" not in sys.modules or not threads._numba_layer._is_initialized
numba.set_num_threads(2)
assert runtime.get_num_threads() == 2
seen = []
thread = threading.Thread(target=lambda: seen.append(runtime.get_num_threads()))
thread.start(), thread.join()
assert seen == [4]  # Numba's limit belongs to a thread
"""


def test_numbas_limit_is_asked_without_starting_its_threads() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", NUMBA_LIMIT], env=environment, check=True, timeout=60)


def test_an_unknown_executor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_EXECUTOR", "omp")
    with pytest.raises(ValueError, match="FASTCONV_EXECUTOR must be one of serial, pool, numba"):
        run(work(4), np.arange(4), 2)


# ---------------------------------------------------------------------------------------------- workspaces


def test_workspaces_are_aligned_and_reused_without_growth() -> None:
    runtime.clear_workspaces()
    assert workspace.kept_bytes() == 0
    for size in (1, 63, 64, 1000, 4097, 1 << 20, 3_000_001):
        block = workspace.take(size)
        assert block.address % 64 == 0
        assert size <= block.size <= max(1024, size * 1.25)
        workspace.give(block)
        assert workspace.take(size) is block
        workspace.give(block)
    kept = workspace.kept_bytes()
    for _ in range(100):
        workspace.give(workspace.take(3_000_000))
    assert workspace.kept_bytes() == kept
    runtime.clear_workspaces()
    assert workspace.kept_bytes() == 0


def test_workspaces_are_never_shared_and_never_hoarded(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.clear_workspaces()
    blocks = [workspace.take(100_000) for _ in range(20)]
    assert len({block.address for block in blocks}) == 20
    monkeypatch.setattr(workspace, "KEPT_BYTES", 300_000)
    for block in blocks:
        workspace.give(block)
    assert 0 < workspace.kept_bytes() <= 300_000
    runtime.clear_workspaces()


def test_workspace_bytes_is_what_a_call_takes() -> None:
    assert runtime.workspace_bytes(0, 8) == 0
    assert runtime.workspace_bytes(1, 8) == 8 * 64
    assert runtime.workspace_bytes(64, 3) == 192


def test_threads_take_and_give_at_once() -> None:
    taken: set[int] = set()
    clashes = []
    lock = threading.Lock()

    def one(_: int) -> None:
        for _ in range(300):
            block = workspace.take(5000)
            with lock:
                if block.address in taken:
                    clashes.append(block.address)
                taken.add(block.address)
            with lock:
                taken.discard(block.address)
            workspace.give(block)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(one, range(8)))
    assert not clashes


MANY_CALLS = """
import numpy as np, fastconv
from pathlib import Path
from fastconv.kernels import jit

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

w = np.ones((32, 8, 3, 3), np.float32)
shapes = [(n, 8, h, v) for n in (1, 2) for h in range(20, 45) for v in range(40, 50)]
assert len(shapes) == 500
for shape in shapes:
    fastconv.conv2d(np.ones(shape, np.float32), w, padding=1)
memory, kernels = resident(), jit.compiled()
for _ in range(20):
    for shape in shapes:
        fastconv.conv2d(np.ones(shape, np.float32), w, padding=1)
assert resident() - memory < 20e6, (resident() - memory) / 1e6
assert jit.compiled() == kernels and len(kernels) < 10
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_ten_thousand_calls_over_500_shapes_do_not_grow() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", MANY_CALLS], env=environment, check=True, timeout=120)
