"""The roofs of the machine: three arrays streamed from every cache and from memory, and the matrix unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import arrays, runtime
from fastconv.kernels import bandwidth, matrix_tile
from fastconv.machine import Machine

HOST = Machine.host()
#: Bytes of the three arrays together: half of a cache, or twice the last one.
SIZES = {
    "L1": HOST.l1_bytes // 2,
    "L2": HOST.l2_bytes // 2,
    "L3": min(max(4 * HOST.l2_bytes, HOST.l3_bytes // 4), 64 << 20),
    "memory": min(2 * HOST.l3_bytes, 384 << 20),
}


@pytest.mark.parametrize("level", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_triad(benchmark: Any, dtype: str, level: str) -> None:
    item, lanes = np.dtype(dtype).itemsize, HOST.lanes(dtype)
    vectors = max(1, SIZES[level] // 3 // (item * lanes))
    x, y, z = (arrays.fresh((vectors * lanes,), np.dtype(dtype)) for _ in range(3))
    x[...], z[...] = 1, 2
    context = np.array([0, 0, 0, 0, 0, vectors], np.int64)
    work = runtime.Work(bandwidth.triad_stream(dtype, lanes, item), context, 1, 0, 1e-3)
    benchmark(runtime.run, work, *(arrays.address(array) for array in (x, y, z)), 1)
    assert (y == 7).all()
    if benchmark.stats is not None:
        benchmark.extra_info["gbytes"] = 3 * x.nbytes / benchmark.stats.stats.min / 1e9


@pytest.mark.skipif(not HOST.facts.matrix_products, reason="no matrix unit")
def test_matrix_unit(benchmark: Any) -> None:
    items = 4096
    shape, table = matrix_tile.tile_configuration(), np.zeros(2 * items, np.int64)
    tiles = arrays.fresh((max(8 * matrix_tile.TILE_BYTES, arrays.SMALL_BYTES),), np.dtype(np.uint8))
    tiles[...] = 0
    context = (arrays.address(shape), arrays.address(tiles), arrays.address(table), items)
    seconds = benchmark.pedantic(
        bandwidth.best_seconds, (bandwidth.matrix_stream(), context, 0.05), rounds=3, warmup_rounds=1
    )
    assert not tiles.any()
    # A product of tiles is 16 x 16 sums of 32 products.
    benchmark.extra_info["gflops"] = 4 * items * 16 * 16 * 32 * 2 / seconds / 1e9
