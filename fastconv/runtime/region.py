"""Numba's own threads as an executor: only where a parallel region is safe, and entered by one thread only.

A region of the workqueue layer aborts the process when two threads meet in it, one of GNU OpenMP kills or
hangs a forked child; so neither an unknown layer nor a process that was ever forked enters one, and of
several Python threads that call at the same time only the first to come uses it (each further one would get
a team of its own).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from fastconv.kernels import drain
from fastconv.kernels.jit import native
from fastconv.runtime.pool import entries

SAFE_LAYERS = ("omp", "tbb")
#: GNU OpenMP's threads spin this often before they sleep; its default collapses when two processes share
#: the cores.
SPINS = "1000"
_PF_FORKNOEXEC = 0x40

_forked = False


class Region:
    """Helpers that are the threads of Numba's layer."""

    def __init__(self, name: str) -> None:
        self._function = native(drain.region, drain.REGION, parallel=True)
        self._begin = entries().begin
        self._in_region = _in_region_function(name)
        self._owner = threading.current_thread()
        self._lock = threading.Lock()

    def invite(self, control: int, call: tuple[int, ...], workers: int, seconds: float) -> None:
        """Open a call and drain it in a region; only open it where this thread may not enter one now."""
        self._begin(control, *call, 0, 0)
        if not self._lock.acquire(blocking=False):
            return
        try:
            caller = threading.current_thread()
            if (self._owner is caller or not self._owner.is_alive()) and not self._in_region():
                self._owner = caller
                self._function(control, workers)
        finally:
            self._lock.release()


def usable() -> Region | None:
    """Return the region executor, starting Numba's threads if needed; None where it is not safe."""
    return None if _forked else _region()


@lru_cache(maxsize=1)
def _region() -> Region | None:
    if _was_forked():
        return None
    import numba
    from numba.np.ufunc import parallel

    try:
        if not parallel._is_initialized:
            _start_quietly(numba.get_num_threads)
        name = str(numba.threading_layer())
    except (ValueError, ImportError, OSError, RuntimeError):
        return None
    return Region(name) if name in SAFE_LAYERS else None


def _start_quietly(start: Callable[[], int]) -> None:
    """Start Numba's threads with few spins, unless the user said how OpenMP is to wait; leave no trace."""
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        start()
        return
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        start()
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)


def _in_region_function(name: str) -> Callable[[], int]:
    if name == "omp":
        library = {"win32": "vcomp140.dll", "darwin": "libomp.dylib"}.get(sys.platform, "libgomp.so.1")
        with suppress(OSError, AttributeError):
            found: Callable[[], int] = ctypes.CDLL(library).omp_in_parallel
            return found
    return lambda: 0


@lru_cache(maxsize=1)
def _was_forked() -> bool:
    """Tell whether this process is a copy of another one, with traces of its threads (known on Linux)."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return bool(int(fields[6]) & _PF_FORKNOEXEC)
    except (OSError, ValueError, IndexError):
        return False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
