"""The one entrance: run all tasks of a `Work`, choosing the executor for this call.

serial
    Work that is not worth a second thread.
pool
    Our own threads (`pool`): safe in every thread, process and fork. The default for everything else.
numba
    A region of Numba's omp or tbb layer (`region`), where that is safe and ``FASTCONV_EXECUTOR=numba`` asks
    for it.

Long work runs in blocks, between which Python sees Ctrl-C. All executors run the same compiled drain loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import lru_cache

from fastconv.kernels import drain
from fastconv.kernels.jit import native
from fastconv.runtime import region, workspace
from fastconv.runtime.pool import Pool, Words, entries, give_way_address, pool
from fastconv.runtime.work import STACK_BYTES, Work

EXECUTORS = ("serial", "pool", "numba")
#: Serial time from which a second thread pays, if one waits awake; see `pool` for threads that must be woken.
PARALLEL_SECONDS = 15e-6
#: Estimates below this run in one block: even one that is ten times too low keeps Ctrl-C waiting 0.3 s at
#: most.
ONE_BLOCK_SECONDS = 0.03
BLOCK_SECONDS = 0.2
_SMALL_WORDS = 128

_serial: drain.Entry | None = None
#: Control blocks that are in no call, by capacity, and all there are: none is ever freed.
_controls: dict[int, list[Words]] = {}
_all_controls: list[Words] = []


def run(work: Work, x_address: int, y_address: int, residual_address: int, threads: int) -> None:
    """Run all tasks of `work` on the arrays at these addresses.

    Parameters
    ----------
    work : Work
        What to run; it is not written to and may be run by several threads at once.
    x_address, y_address, residual_address : int
        Addresses of the arrays of this call; the residual's is 0 if there is none.
    threads : int
        Most threads to use, as `effective_threads` gave it.
    """
    if threads > 1 and work.tasks > 1 and work.seconds >= PARALLEL_SECONDS and executor() != "serial":
        _run_parallel(work, x_address, y_address, residual_address, min(threads, work.tasks))
        return
    kernel = work.kernel.address
    serial = _serial or _load_serial()
    words, template, room = work.words, work.template, work.stack_words
    block = None if work.scratch_bytes <= STACK_BYTES else workspace.take(work.scratch_bytes)
    scratch = block.address if block else 0
    if work.seconds <= ONE_BLOCK_SECONDS:
        serial(kernel, template, words, x_address, y_address, residual_address, 0, work.tasks, scratch, room)
    else:
        for start, end in _blocks(work.tasks, work.seconds, 1):
            serial(kernel, template, words, x_address, y_address, residual_address, start, end, scratch, room)
    if block:
        workspace.give(block)


def compile_ahead() -> None:
    """Compile the drain loops, or load them from disk, and start nothing."""
    _load_serial()
    entries()


def _run_parallel(work: Work, x: int, y: int, residual: int, workers: int) -> None:
    helpers = _helpers(workers - 1)
    stride = workspace.scratch_stride(work.scratch_bytes)
    block = workspace.take(stride * workers) if stride else None
    scratch = block.address if block else 0
    control = _take_control(work.words)
    finish, give_way = entries().finish, give_way_address()
    kernel = work.kernel.address
    try:
        for start, end in _blocks(work.tasks, work.seconds / workers, workers):
            call = (kernel, work.template, work.words, x, y, residual, start, end, scratch, stride)
            try:
                helpers.invite(control.address, call, workers, work.seconds)
            finally:
                # Whatever interrupted: the block is drained and left by all before its memory is given back.
                finish(control.address, give_way)
    finally:
        _controls[control.count].append(control)
        if block:
            workspace.give(block)


def _blocks(tasks: int, seconds: float, workers: int) -> Iterator[tuple[int, int]]:
    """Split `tasks` into ranges that take about `BLOCK_SECONDS` each, learning from the clock."""
    if seconds <= ONE_BLOCK_SECONDS:
        yield 0, tasks
        return
    start, size = 0, max(workers, int(tasks * ONE_BLOCK_SECONDS / seconds))
    while start < tasks:
        end = min(tasks, start + size)
        began = time.perf_counter()
        yield start, end
        spent = max(time.perf_counter() - began, 1e-6)
        size = max(workers, min(8 * size, int((end - start) * BLOCK_SECONDS / spent)))
        start = end


def _helpers(count: int) -> Pool | region.Region:
    if executor() == "numba":
        found = region.usable()
        if found is not None:
            return found
    helpers = pool()
    if len(helpers) < count:
        helpers.grow(count)
    return helpers


@lru_cache(maxsize=1)
def executor() -> str:
    """Return the executor of parallel calls: "pool" unless ``FASTCONV_EXECUTOR`` names another."""
    name = os.environ.get("FASTCONV_EXECUTOR", "").strip() or "pool"
    if name not in EXECUTORS:
        raise ValueError(f"FASTCONV_EXECUTOR must be one of {', '.join(EXECUTORS)}, got {name!r}")
    return name


def _take_control(words: int) -> Words:
    count = drain.CONTEXT_WORD + max(_SMALL_WORDS, 1 << (words - 1).bit_length())
    free = _controls.setdefault(count, [])
    try:
        return free.pop()
    except IndexError:
        control = Words(count)
        _all_controls.append(control)
        return control


def _load_serial() -> drain.Entry:
    global _serial
    _serial = _serial or native(drain.serial, drain.SERIAL)
    return _serial
