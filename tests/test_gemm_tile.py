"""The micro-kernel: every edge, every way to start and to end, and what its assembly looks like."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from micro import (
    innermost_loop,
    judge_assembly,
    largest_tiles,
    one_panel,
    one_tile,
    one_tile_ahead,
    one_turned_panel,
)
from oracle import Array

import fastconv
from fastconv.algorithms.tiles import tiles
from fastconv.kernels.gemm_tile import ONCE, RESUME, SUSPEND, _row_anchors
from fastconv.machine import Machine
from fastconv.runtime import Work, run

HOST = Machine.host()
X86 = platform.machine().lower() in {"x86_64", "amd64"}
FILL = -999
TILES = [(1, 1), (3, 2), *largest_tiles(HOST)]


class Product:
    """One call of the micro-kernel on small integers: items at scattered places, strides with gaps."""

    def __init__(
        self, mr: int, nv: int, dtype: str, axis: str, activation: str = "none", items: int = 3
    ) -> None:
        self.mr, self.nv, self.axis, self.lanes = mr, nv, axis, HOST.lanes(dtype)
        self.width, self.k, self.dtype = nv * self.lanes, 5, np.dtype(dtype)
        rng = np.random.default_rng([mr, nv, items])
        gap = 3
        self.a = rng.integers(-4, 5, (items, mr, self.k + gap)).astype(dtype)
        self.b = rng.integers(-4, 5, (items, self.k, self.width + gap)).astype(dtype)
        self.bias = rng.integers(-4, 5, self.width if axis == "n" else mr).astype(dtype)
        # In reverse order, so that offsets are what decides.
        order = np.arange(items)[::-1]
        self.table = np.stack([order * self.a[0].nbytes, order * self.b[0].nbytes], 1).astype(np.int64)
        self.acc = np.full((mr, nv, self.lanes), FILL, dtype)
        self.kernel = one_tile(mr, nv, self.lanes, dtype, axis, activation)
        self.sums: Array = np.einsum("tmk,tkn->mn", self.a[..., : self.k], self.b[..., : self.width])
        self.expected = self.sums + (self.bias if axis == "n" else self.bias[:, None])

    def segments(self, live: int) -> Array:
        """Return the segments of `live` columns side by side."""
        found: list[int] = []
        for j in range(self.nv):
            count = min(max(live - j * self.lanes, 0), self.lanes)
            found += [1, j * self.lanes * self.dtype.itemsize, (1 << count) - 1] if count else [0]
        return np.array(found)

    def run(
        self,
        rows: int,
        segments: Array,
        *,
        residual: Array | None = None,
        mode: int = 0,
        row: int | None = None,
        further: tuple[int, ...] = (),
    ) -> Array:
        """Return the outputs, FILL where nothing was written, in rows of `row` elements; `further` ends the context."""
        step = self.width + 2 if row is None else row
        y = np.full((self.mr, step), FILL, self.dtype)
        size = self.dtype.itemsize
        pointers = [array.ctypes.data for array in (self.b, self.table, self.bias, segments, self.acc)]
        numbers = [
            self.a.shape[2] * size, size, self.b.shape[2] * size, len(self.a), self.k, step * size, rows, mode
        ]  # fmt: skip
        held = 0 if residual is None else residual.ctypes.data
        work = Work(self.kernel, np.array([0, 0, 0, *pointers, *numbers, *further]), 1, 0, 0.0)
        run(work, self.a.ctypes.data, y.ctypes.data, held, 1)
        return y


@pytest.mark.parametrize("axis", ["n", "m"])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_every_edge(tile: tuple[int, int], axis: str) -> None:
    product = Product(*tile, "float32", axis)
    for rows in {1, max(1, product.mr - 1), product.mr}:
        for live in {
            1,
            product.lanes - 1,
            product.width - product.lanes + 1,
            product.width - 1,
            product.width,
        }:
            for mode in (0, ONCE) if live > product.width - product.lanes else (0,):
                y = product.run(rows, product.segments(live), mode=mode)
                expected = np.full_like(y, FILL)
                expected[:rows, :live] = product.expected[:rows, :live]
                np.testing.assert_array_equal(
                    y, expected, err_msg=f"{rows} rows, {live} columns, mode {mode}"
                )


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
@pytest.mark.parametrize("axis", ["n", "m"])
def test_other_types(dtype: str, axis: str) -> None:
    product = Product(3, 2, dtype, axis)
    y = product.run(2, product.segments(product.width - 1))
    np.testing.assert_array_equal(y[:2, : product.width - 1], product.expected[:2, : product.width - 1])
    assert (y[2] == FILL).all() and (y[:, product.width - 1 :] == FILL).all()


@pytest.mark.parametrize("axis", ["n", "m"])
def test_residual_and_activation(axis: str) -> None:
    product = Product(3, 2, "float32", axis, "relu")
    step = product.width + 2
    residual = np.random.default_rng(1).integers(-9, 9, (3, step)).astype(np.float32)
    for mode in (0, ONCE):
        y = product.run(3, product.segments(product.width), residual=residual, mode=mode)
        expected = np.maximum(product.expected + residual[:, : product.width], 0)
        np.testing.assert_array_equal(y[:, : product.width], expected)
        y = product.run(3, product.segments(product.width), mode=mode)
        np.testing.assert_array_equal(y[:, : product.width], np.maximum(product.expected, 0))


@pytest.mark.parametrize("axis", ["n", "m"])
def test_memory_asked_for_ahead_may_be_anywhere(axis: str) -> None:
    product = Product(3, 2, "float32", axis)
    product.kernel = one_tile_ahead(3, 2, product.lanes, "float32", axis, "none")
    for ahead, step in ((product.a.ctypes.data, 64), (0, 4096), (-(1 << 62), 1 << 40)):
        for mode in (0, ONCE):
            y = product.run(3, product.segments(product.width), mode=mode, further=(ahead, step))
            np.testing.assert_array_equal(y[:, : product.width], product.expected)


def test_what_stands_beside_the_residual_does_not_matter() -> None:
    product = Product(3, 2, "float32", "n")
    step = product.width + 2
    residual = np.full((3, step), np.nan, np.float32)
    residual[:2, :5] = 1
    y = product.run(2, product.segments(5), residual=residual)
    np.testing.assert_array_equal(y[:2, :5], product.expected[:2, :5] + 1)


def test_suspend_and_resume() -> None:
    product = Product(3, 2, "float32", "n")
    y = product.run(3, product.segments(product.width), mode=SUSPEND)
    assert (y == FILL).all()
    np.testing.assert_array_equal(product.acc.reshape(3, -1), product.sums)
    product.run(3, product.segments(product.width), mode=SUSPEND | RESUME)
    y = product.run(3, product.segments(product.width), mode=RESUME)
    np.testing.assert_array_equal(y[:, : product.width], product.expected + 2 * product.sums)


def test_partial_sums_are_left_alone_without_being_asked_for() -> None:
    product = Product(3, 2, "float32", "n")
    product.run(3, product.segments(product.width))
    assert (product.acc == FILL).all()


def test_one_column_vector_in_several_places() -> None:
    """As of rows of an image that run into one another: lanes 0-2 go here, 3-4 nowhere, the rest there."""
    product = Product(2, 1, "float32", "m")
    lanes, size, step = product.lanes, 4, 3 * product.lanes
    full = (1 << lanes) - 1
    high = full & ~0b11111
    segments = np.array([2, 0, 0b111, (lanes + 5) * size, high])
    y = product.run(2, segments, row=step)
    expected = np.full((2, step), FILL, np.float32)
    expected[:, :3] = product.expected[:, :3]
    expected[:, lanes + 10 : 2 * lanes + 5] = product.expected[:, 5:]
    np.testing.assert_array_equal(y, expected)
    assert (product.run(2, np.array([0])) == FILL).all()


def test_one_item_and_one_step() -> None:
    product = Product(3, 2, "float32", "n", items=1)
    product.k = 1
    y = product.run(3, product.segments(product.width))
    expected = product.a[0, :, :1] * product.b[0, :1, : product.width] + product.bias
    np.testing.assert_array_equal(y[:, : product.width], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("k", [1, 5])
def test_packed_panel(tile: tuple[int, int], dtype: str, k: int) -> None:
    """Lines asked for ahead of time may be anywhere: there is nothing at the addresses given here."""
    mr, nv = tile
    lanes, gap = HOST.lanes(dtype), 3
    width = nv * lanes
    rng = np.random.default_rng([mr, nv, k])
    a, b = (rng.integers(-4, 5, shape).astype(dtype) for shape in ((mr, k + gap), (k, width)))
    y = np.full(mr * width + gap, FILL, dtype)
    for ahead, step in ((b.ctypes.data, 64), (0, 4096), (-(1 << 62), 1 << 40)):
        y[:] = FILL
        numbers = [b.ctypes.data, a.shape[1] * a.itemsize, k, ahead, step]
        work = Work(one_panel(mr, nv, lanes, dtype), np.array([0, 0, 0, *numbers]), 1, 0, 0.0)
        run(work, a.ctypes.data, y.ctypes.data, 0, 1)
        np.testing.assert_array_equal(y[: mr * width].reshape(mr, width), a[:, :k] @ b)
        assert (y[mr * width :] == FILL).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("k", [1, 5])
def test_turned_panel(tile: tuple[int, int], dtype: str, k: int) -> None:
    mr, nv = tile
    lanes, gap = HOST.lanes(dtype), 3
    width = nv * lanes
    rng = np.random.default_rng([mr, nv, k])
    a, b = (rng.integers(-4, 5, shape).astype(dtype) for shape in ((k, mr + gap), (k, width)))
    y = np.full(mr * width + gap, FILL, dtype)
    expected = a[:, :mr].T @ b
    for mode, times in ((0, 1), (RESUME, 2)):
        numbers = [b.ctypes.data, a.shape[1] * a.itemsize, k, mode, 0, 4096]
        work = Work(one_turned_panel(mr, nv, lanes, dtype), np.array([0, 0, 0, *numbers]), 1, 0, 0.0)
        run(work, a.ctypes.data, y.ctypes.data, 0, 1)
        np.testing.assert_array_equal(y[: mr * width].reshape(mr, width), times * expected)
        assert (y[mr * width :] == FILL).all()


def test_row_anchors_reach_every_row() -> None:
    for rows in range(1, 29):
        for row, (anchor, multiple) in _row_anchors(rows).items():
            assert anchor + multiple == row and multiple in (0, 1, 2, 4, 8) and anchor < rows


def test_tiles_fit_the_registers() -> None:
    for machine in (Machine(64, 32, True), Machine(32, 16, True), Machine(16, 16, False)):
        for mr, nv in tiles(machine):
            assert mr * nv + nv + 1 <= machine.vector_registers


# ----------------------------------------------------------------------------------------------- assembly


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        *((dtype, form) for form in ("n", "n ahead", "panel") for dtype in ("float32", "float64")),
        *(("float32", "m"), ("float32", "m ahead")),
    ],
)
def test_loops_use_full_registers_and_no_stack(dtype: str, form: str) -> None:
    judge_assembly(HOST, dtype, form)


@pytest.mark.skipif(not X86 or HOST.vector_bytes < 64, reason="needs AVX-512")
def test_avx512_adds_up_in_zmm() -> None:
    loop = innermost_loop(
        one_tile(*largest_tiles(HOST)[1], HOST.lanes("float32"), "float32", "n", "none").asm()
    )
    assert loop.widths == {"zmm"}
    assert loop.count("vfmadd") >= 28


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
def test_spills_are_seen() -> None:
    """A tile that needs more registers than there are spills, and the test of assembly says so."""
    too_large = HOST.vector_registers // 2 + 3
    loop = innermost_loop(one_tile(too_large, 2, HOST.lanes("float32"), "float32", "n", "none").asm())
    assert loop.spills


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize(
    ("cpu", "features", "seen"),
    [
        ("haswell", "", "32 16 True"),
        ("x86-64", "", "16 16 False"),
        ("x86-64-v3", "", "32 16 True"),
    ],
)
def test_loops_of_older_machines(cpu: str, features: str, seen: str) -> None:
    """NUMBA_CPU_FEATURES is given too: with the name alone Numba adds the features of the host."""
    here = Path(__file__).resolve().parent
    package = Path(fastconv.__file__).resolve().parent.parent
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "PYTHONPATH": os.pathsep.join([str(package), str(here)]),
    }
    result = subprocess.run(
        [sys.executable, str(here / "micro.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip() == seen
