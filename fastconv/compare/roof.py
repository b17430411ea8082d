"""The two roofs over every layer: arithmetic and memory, measured with the threads that layers get."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from fastconv import runtime
from fastconv.kernels import peak
from fastconv.kernels.bandwidth import triad_stream
from fastconv.machine import Machine

#: Rounds of twelve chains: half a millisecond a task.
ROUNDS = 20_000
#: Arrays of the triad: together more than the last cache, but no more than this.
MOST_BYTES = 768 << 20


@dataclass(frozen=True, slots=True)
class Roof:
    """GFLOP/s of multiply-adds in registers, GB/s of three streamed arrays; NaN where there is none."""

    threads: int
    dtype: str
    gflops: float = math.nan
    gbytes: float = math.nan

    def at(self, flop_per_byte: float) -> float:
        """Return the most GFLOP/s that work of this intensity can reach.

        Examples
        --------
        >>> Roof(1, "float32", 200.0, 20.0).at(2.0)
        40.0
        """
        return min(self.gflops, self.gbytes * flop_per_byte)


def measure_roof(dtype: str, threads: int, seconds: float = 0.3) -> Roof:
    """Return both roofs, the best of what `seconds` each allow; integers have none."""
    if dtype not in {"float32", "float64"}:
        return Roof(threads, dtype)
    return Roof(threads, dtype, _fma(dtype, threads, seconds), _triad(dtype, threads, seconds))


def _fma(dtype: str, threads: int, seconds: float) -> float:
    lanes, tasks = Machine.host().lanes(dtype), 4 * threads
    y = np.zeros((tasks, 16), np.float32)
    context = np.array([0, 0, 0, 0, 0, ROUNDS], np.int64)
    work = runtime.Work(peak.fma_chains(dtype, lanes), context, tasks, 0, 1e-2)
    best = _best(work, (0, y.ctypes.data, 0), threads, seconds)
    return 2.0 * peak.CHAINS * lanes * ROUNDS * tasks / best / 1e9


def _triad(dtype: str, threads: int, seconds: float) -> float:
    host = Machine.host()
    lanes, item, tasks = host.lanes(dtype), np.dtype(dtype).itemsize, 16 * threads
    most = min(MOST_BYTES, max(32 << 20, 3 * host.l3_bytes), host.memory_bytes // 8)
    vectors = max(1, most // 3 // (lanes * item) // tasks)
    x, y, z = (np.full(vectors * tasks * lanes, value, dtype) for value in (1.0, 0.0, 2.0))
    context = np.array([0, 0, 0, 0, 0, vectors], np.int64)
    work = runtime.Work(triad_stream(dtype, lanes, item), context, tasks, 0, 2e-2)
    best = _best(work, (x.ctypes.data, y.ctypes.data, z.ctypes.data), threads, seconds)
    return 3.0 * x.nbytes / best / 1e9


def _best(work: runtime.Work, arrays: tuple[int, int, int], threads: int, seconds: float) -> float:
    runtime.run(work, *arrays, threads)
    best, end = math.inf, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        runtime.run(work, *arrays, threads)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
