"""Run in child processes by `test_memory`: kernels on arrays whose neighbours are pages that nobody may touch.

``python scenarios_of_memory.py guards NAME`` runs every problem that algorithm NAME takes, with each array, table and
workspace placed against the end of its pages and then against the beginning, inputs read-only. Reading or writing one
element too far ends the process with a signal; the last line printed says on which problem.
``... overreach SIDE DEED`` does so on purpose.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from oracle import Array, known
from problems import PROBLEMS
from running import empty_result, judge, rank_one

from fastconv import runtime
from fastconv.algorithms import registry
from fastconv.algorithms.interface import Layout
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import load, store, words
from fastconv.machine import Machine
from fastconv.problem import Problem
from fastconv.runtime import workspace

PAGE = mmap.PAGESIZE
NO_ACCESS, READ_ONLY = 0, 1
SLACK = 0xA5
_LIBC = ctypes.CDLL(None, use_errno=True)


def protect(address: int, size: int, rights: int) -> None:
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), rights):
        raise OSError(ctypes.get_errno(), "mprotect")


class Guarded:
    """Memory between two pages that must not be touched, against one of them."""

    def __init__(self, size: int, side: str, alignment: int = 1) -> None:
        self.size = size
        self._room = max(PAGE, -(-size // PAGE) * PAGE)
        self._map = mmap.mmap(-1, self._room + 2 * PAGE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map)) + PAGE
        ctypes.memset(self._start, SLACK, self._room)
        protect(self._start - PAGE, PAGE, NO_ACCESS)
        protect(self._start + self._room, PAGE, NO_ACCESS)
        taken = -(-size // alignment) * alignment
        self.address = self._start + (self._room - taken if side == "end" else 0)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Array:
        memory = (ctypes.c_char * self.size).from_address(self.address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def words(self, start: int, stop: int) -> Array:
        """As of `workspace.Block`."""
        return self.array((self.size,), np.uint8)[start:stop].view(np.int64)

    def freeze(self) -> None:
        protect(self._start, self._room, READ_ONLY)

    def check(self) -> None:
        """Raise AssertionError when the pages hold anything that was not written into the memory itself."""
        pages = np.frombuffer((ctypes.c_char * self._room).from_address(self._start), np.uint8)
        begin = self.address - self._start
        assert (pages[:begin] == SLACK).all(), "written before the memory"
        assert (pages[begin + self.size :] == SLACK).all(), "written behind the memory"


class Place:
    """Everything one run needs, in guarded memory; kept until the run is over."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.all: list[Guarded] = []

    def put(self, array: Array, *, frozen: bool = True) -> Array:
        guarded = Guarded(array.nbytes, self.side)
        copy = guarded.array(array.shape, array.dtype)
        copy[...] = array
        if frozen:
            guarded.freeze()
        self.all.append(guarded)
        return copy

    def take(self, size: int) -> Guarded:
        """In place of `workspace.take`: exactly as much as was asked for, full of NaN."""
        guarded = Guarded(size, self.side, workspace.ALIGNMENT)
        ctypes.memset(guarded.address, 0xFF, size)
        self.all.append(guarded)
        return guarded

    def moved(self, context: Array, arrays: Any) -> Array:
        """Return the context with the addresses of copies of `arrays` in guarded memory."""
        context = context.copy()
        for array in arrays:
            if isinstance(array, np.ndarray) and array.size:
                context[context == array.ctypes.data] = self.put(array).ctypes.data
        return context


def guarded_layout(layout: Layout, place: Place) -> Layout:
    """Return the layout with its tables in guarded memory."""
    if layout.weights is not None:
        work = layout.weights.work
        layout.weights.work = replace(work, context=place.moved(work.context, work.keep))
    return replace(layout, context=place.moved(layout.context, layout.keep))


def guards(name: str) -> None:
    algorithm = registry.get(name)
    machine = Machine.host()
    done = 0
    for word in PROBLEMS:
        problem = Problem.parse(word)
        if algorithm.why_not(problem, machine) is not None:
            continue
        case, expected, magnitude = known(word, "normal", rank_one(name))
        kind = problem.compute_dtype
        for side in ("end", "start"):
            print(name, word, side, flush=True)
            place = Place(side)
            x, w = place.put(case.x.astype(kind)), place.put(case.w.astype(kind))
            bias = None if case.bias is None else place.put(case.bias.astype(kind))
            residual = None if case.residual is None else place.put(case.residual.astype(kind))
            y = place.put(empty_result(problem), frozen=False)
            with mock.patch.object(workspace, "take", place.take), mock.patch.object(workspace, "give"):
                layout = algorithm.layout(problem, machine, algorithm.configs(problem, machine)[0])
                work = algorithm.prepare(guarded_layout(layout, place), w, bias)
                at = 0 if residual is None else residual.ctypes.data
                runtime.run(work, x.ctypes.data, y.ctypes.data, at, 1)
                judge(algorithm, problem, y, expected, magnitude)
                for guarded in place.all:
                    guarded.check()
                del work, layout
        done += 1
    print(f"done {done}")


@task_factory
def touch(deed: str):  # type: ignore[no-untyped-def]
    """Read or write the word whose address stands in the context."""
    writes = deed == "write"

    def task(ctx: int, i: int, scratch: int) -> None:
        (at,) = words(ctx, 1)
        value = load("float32", at)
        if writes:
            store("float32", at, value + np.float32(1))
        else:
            store("float32", scratch, value)

    return task


def overreach(side: str, deed: str) -> None:
    """Touch the last element that may be touched, say so, then do the deed one element further."""
    place = Place(side)
    x = place.put(np.ones(5, np.float32), frozen=deed == "write frozen")
    last = 4 if side == "end" else 0
    kernel = touch("read" if deed == "read" else "write")
    work = runtime.Work(kernel, np.zeros(3, np.int64), 1, 64, 0.0)
    if deed == "write frozen":
        kernel.address  # noqa: B018  compiled: only the deed itself is left
        print("reached", flush=True)
        runtime.run(work, x.ctypes.data + 4 * last, 0, 0, 1)
    runtime.run(work, x.ctypes.data + 4 * last, 0, 0, 1)
    print("reached", flush=True)
    runtime.run(work, x.ctypes.data + 4 * last + (4 if side == "end" else -4), 0, 0, 1)
    print("nothing happened")


if __name__ == "__main__":
    if sys.argv[1] == "guards":
        faulthandler.enable()
        guards(sys.argv[2])
    else:
        overreach(sys.argv[2], sys.argv[3])
