"""One program with every way of calling from threads and processes; run by test_threads_and_processes.py.

usage: python scenarios_of_processes.py SCENARIO ...      prints each scenario when it was right
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable

if "BLOCK_LIBGOMP" in os.environ:
    # A machine without libgomp, or without TBB: the import of Numba's layer fails.
    for blocked in os.environ["BLOCK_LIBGOMP"].split(","):
        sys.modules[f"numba.np.ufunc.{blocked}"] = None  # type: ignore[assignment]
if "HANDLE_SIGTERM" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: None)

import numba
import numpy as np

import fastconv

_random = np.random.default_rng(1)
X = _random.standard_normal((2, 16, 40, 44), np.float32)
W = _random.standard_normal((24, 16, 3, 3), np.float32)


def digest(threads: int | None) -> bytes:
    return bytes(np.asarray(fastconv.conv2d(X, W, padding=1, threads=threads)).tobytes())


def right(_: object = None) -> bool:
    """Tell whether calls with any number of threads give the bits of one with one thread."""
    expected = digest(1)
    return all(digest(threads) == expected for threads in (2, None, 3) for _ in range(3))


def in_fork(work: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = work()
        finally:
            os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def in_processes(method: str) -> bool:
    context = multiprocessing.get_context(method)
    pool = context.Pool(2)
    answers = pool.map(right, range(4))
    # Not `with`: that ends the workers by SIGTERM, and one that handles it would stay.
    pool.close()
    pool.join()
    return all(answers)


@numba.njit(parallel=True)
def users_own_region(n: int) -> float:
    total = 0.0
    for i in numba.prange(n):
        total += i
    return total


def main_thread() -> bool:
    return right()


def ten_threads() -> bool:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(right())) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers == [True] * 10


def users_prange() -> bool:
    ok = np.zeros(8, np.bool_)

    @numba.njit(parallel=True)
    def region(ok: np.ndarray) -> None:
        for i in numba.prange(ok.size):
            with numba.objmode(answer="boolean"):
                answer = right()
            ok[i] = answer

    region(ok)
    return bool(ok.all())


def after_users_region() -> bool:
    """Numba's layer has run in this process; what follows forks it."""
    return users_own_region(1000) == 499500.0 and right()


def fork() -> bool:
    return in_fork(right)


def fork_of_fork() -> bool:
    return in_fork(lambda: right() and in_fork(right))


def fork_while_others_compute() -> bool:
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            digest(2)

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        return all(in_fork(right) for _ in range(5))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def multiprocessing_fork() -> bool:
    return in_processes("fork")


def forkserver() -> bool:
    return in_processes("forkserver")


def spawn() -> bool:
    return in_processes("spawn")


def futures() -> bool:
    context = multiprocessing.get_context("fork")
    with (
        concurrent.futures.ThreadPoolExecutor(4) as threads,
        concurrent.futures.ProcessPoolExecutor(2, context) as processes,
    ):
        return all(threads.map(right, range(8))) and all(processes.map(right, range(4)))


def joblib() -> bool:
    import joblib

    return all(
        all(joblib.Parallel(2, backend=backend)(joblib.delayed(right)(k) for k in range(4)))
        for backend in ("loky", "threading", "multiprocessing")
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        assert globals()[name](), name
        print(name, flush=True)
    if "numba.np.ufunc.parallel" in sys.modules and numba.np.ufunc.parallel._threading_layer:
        print("layer", numba.threading_layer())
