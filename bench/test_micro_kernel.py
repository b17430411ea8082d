"""The micro-kernel alone, on data that stays in L1: every tile of this machine, as a part of the FMA peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastconv import runtime
from fastconv.algorithms.tiles import Tile, tiles
from fastconv.kernels.gemm_tile import SEGMENT_WORDS, brgemm
from fastconv.kernels.jit import task_factory
from fastconv.kernels.peak import fma_gflops
from fastconv.kernels.simd import load
from fastconv.machine import Machine

#: Depth of the product: with the widest tiles A and B take 24 KiB, half of a common L1.
K = 128
ROUNDS = 200
HOST = Machine.host()


@task_factory
def tile_in_l1(mr: int, nv: int, lanes: int, dtype: str, item: int) -> Callable[[int, int, int], None]:
    """Multiply the same tile again and again: A (K, mr) beside B (K, nv * lanes), both packed."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, y = load("int64", ctx), load("int64", ctx + 8)
        b, table = load("int64", ctx + 24), load("int64", ctx + 32)
        segments, bias = load("int64", ctx + 40), load("int64", ctx + 48)
        row = nv * lanes * item
        for _ in range(ROUNDS):
            brgemm(
                mr, nv, lanes, dtype, "n", "none",
                a, item, mr * item, b, row, table, 1, K, y, 0, row, mr, segments, bias, bias, 0,
            )  # fmt: skip

    return task


# The tiles with the most sums in registers; smaller ones are for edges.
LARGE = sorted(tiles(HOST), key=lambda tile: tile.mr * tile.nv, reverse=True)[:10]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tile", LARGE, ids=lambda tile: f"{tile.mr}x{tile.nv}")
def test_tile(benchmark: Any, tile: Tile, dtype: str) -> None:
    mr, nv, lanes = tile.mr, tile.nv, HOST.lanes(dtype)
    width = nv * lanes
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((K, mr)).astype(dtype), rng.standard_normal((K, width)).astype(dtype)
    y, bias, table = np.empty((mr, width), dtype), np.zeros(width, dtype), np.zeros(2, np.int64)
    segments = np.empty((nv, 1 + SEGMENT_WORDS), np.int64)
    for vector in range(nv):
        segments[vector] = (1, vector * lanes * y.itemsize, (1 << lanes) - 1)
    context = np.zeros(7, np.int64)
    context[3:] = [array.ctypes.data for array in (b, table, segments, bias)]
    work = runtime.Work(tile_in_l1(mr, nv, lanes, dtype, y.itemsize), context, 1, 0, 1e-4)

    def run() -> None:
        runtime.run(work, a.ctypes.data, y.ctypes.data, 0, 1)

    run()
    np.testing.assert_allclose(y, a.T.astype(np.float64) @ b, rtol=1e-4, atol=1e-3)
    benchmark(run)
    if benchmark.stats is not None:
        gflops = 2 * mr * width * K * ROUNDS / benchmark.stats.stats.min / 1e9
        benchmark.extra_info |= {"gflops": gflops, "of_peak": gflops / fma_gflops(dtype)}
