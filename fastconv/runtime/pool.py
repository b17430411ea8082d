"""Our own threads: they run nogil code only, wait a moment for more work, then sleep until woken.

A thread that has just helped waits in compiled code, without the interpreter's lock, for the next call's
mailbox entry (tens of microseconds, giving way to other processes meanwhile); then it blocks on a queue.
Callers drain their own tasks too and close the call when none is left, so a thread that wakes up late costs
nothing.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import time
from functools import lru_cache
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from fastconv.kernels import drain
from fastconv.kernels.jit import native

#: How long a thread waits awake for the next call. Long enough for the calls of one network, short enough
#: not to matter to others.
WAIT_SECONDS = 100e-6
#: Serial time of a call from which waking a sleeping thread pays for this call alone ...
WAKE_SECONDS = 120e-6
#: ... and time since the call before, below which it pays for the calls that will follow.
BURST_SECONDS = 300e-6
_LINE = 64


class Entries(NamedTuple):
    """The compiled functions of the pool."""

    begin: drain.Entry
    finish: drain.Entry
    join: drain.Entry
    stand_by: drain.Entry


@lru_cache(maxsize=1)
def entries() -> Entries:
    """Compile the functions of the pool or load them from disk."""
    return Entries(
        native(drain.begin, drain.BEGIN),
        native(drain.finish, drain.FINISH),
        native(drain.join, drain.JOIN),
        native(drain.stand_by, drain.STAND_BY),
    )


@lru_cache(maxsize=1)
def give_way_address() -> int:
    """Return the address of the C function that lets another process run, 0 where there is none."""
    try:
        if sys.platform == "win32":
            function = ctypes.WinDLL("kernel32").SwitchToThread
        else:
            function = ctypes.CDLL(None).sched_yield
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


class Words:
    """A zeroed block of 64-bit words on a cache line of its own."""

    def __init__(self, count: int) -> None:
        self._memory = np.zeros(count + _LINE // 8, np.int64)
        self.address = -(-self._memory.ctypes.data // _LINE) * _LINE
        self.count = count


class Pool:
    """Threads that help whoever calls; grows to the largest number asked for, up to `CAPACITY`."""

    CAPACITY = 1024

    def __init__(self) -> None:
        self._boxes = Words(self.CAPACITY * drain.MAILBOX_WORDS)
        self._wake: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._open = True
        self._begin = entries().begin
        self._last_call = 0.0
        self._turns = self._calibrated_turns()
        atexit.register(self.stop)

    def __len__(self) -> int:
        return len(self._threads)

    def grow(self, count: int) -> None:
        """Start threads until there are `count`, or as many as the system allows."""
        with self._lock:
            while self._open and len(self._threads) < min(count, self.CAPACITY):
                box = self._boxes.address + len(self._threads) * drain.MAILBOX
                thread = threading.Thread(target=self._work, args=(box,), name="fastconv", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # No more threads here (a limit, or the interpreter is ending): the caller does the work.
                    self._open = False
                    return
                self._threads.append(thread)

    def invite(self, control: int, call: tuple[int, ...], workers: int, seconds: float) -> None:
        """Open a call on its control block, for `workers` threads at most: the caller's and the pool's."""
        begun = self._begin(control, *call, self._boxes.address, ((workers - 1) << 16) | len(self._threads))
        now = time.monotonic()
        if begun & 0xFFFF and (seconds >= WAKE_SECONDS or now - self._last_call < BURST_SECONDS):
            for _ in range(begun & 0xFFFF):
                self._wake.put((control, begun >> 16))
        self._last_call = now

    def stop(self) -> None:
        """End all threads; the pool stays usable as one without threads."""
        with self._lock:
            self._open = False
            threads, self._threads = self._threads, []
        for _ in threads:
            self._wake.put((0, 0))
        for thread in threads:
            thread.join(timeout=1.0)

    def _work(self, box: int) -> None:
        functions, give_way = entries(), give_way_address()
        while True:
            functions.stand_by(box, self._turns, give_way)
            control, generation = self._wake.get()
            if control == 0:
                return
            functions.join(box, control, generation)

    def _calibrated_turns(self) -> int:
        turns = 500
        box = Words(drain.MAILBOX_WORDS)
        stand_by, give_way = entries().stand_by, give_way_address()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            stand_by(box.address, turns, give_way)
            seconds.append(time.perf_counter() - start)
        return max(1, int(turns * WAIT_SECONDS / max(min(seconds), 1e-9)))


_pool: Pool | None = None
_lock = threading.Lock()


def pool() -> Pool:
    """Return this process's pool."""
    global _pool
    if _pool is None:
        with _lock:
            if _pool is None:
                _pool = Pool()
    return _pool


def _after_fork() -> None:
    # The threads stayed in the parent. Mailboxes and queue are left to them; a new pool is made when one is
    # needed.
    global _pool, _lock
    if _pool is not None:
        atexit.unregister(_pool.stop)
    _pool = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
