"""The words for masks, comparisons, reductions and picks, one by one, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Array

from fastconv.kernels.jit import task_factory
from fastconv.kernels.masks import (
    vany,
    vcast,
    vdiv,
    vgreater,
    vload_between,
    vload_bits,
    vload_rest,
    vmax,
    vmul,
    vor,
    vpick,
    vreduce,
    vselect,
    vunordered,
)
from fastconv.kernels.simd import SCALARS, is_float, item_bytes, store, vload, vstore, words
from fastconv.machine import Machine
from fastconv.runtime import Work, run

DTYPES = tuple(SCALARS)
WIDTHS = sorted({Machine.host().vector_bytes, 16})
STEPS = (0, 1, 2, 3, 4, 5)


@task_factory
def every_word(dtype: str, lanes: int):  # type: ignore[no-untyped-def]
    """Store what each word makes of x and y in its own row of out."""
    size = item_bytes(dtype)
    row = lanes * size

    def task(ctx: int, i: int, scratch: int) -> None:
        a, out, flags, b, count = words(ctx, 5)
        x, y = vload(dtype, lanes, a), vload(dtype, lanes, b)
        larger, nan = vgreater(x, y), vunordered(x, y)
        vstore(out, vmul(x, y))
        vstore(out + row, vmax(x, y))
        vstore(out + 2 * row, vselect(larger, x, y))
        vstore(out + 3 * row, vselect(nan, x, y))
        vstore(out + 4 * row, vselect(vor(larger, nan), x, y))
        vstore(out + 5 * row, vload_rest(dtype, lanes, a, count, y))
        store(dtype, out + 6 * row, vreduce("sum", x))
        store(dtype, out + 7 * row, vreduce("max", x))
        vstore(out + 8 * row, vload_between(dtype, lanes, a, count // 2, count))
        vstore(out + 9 * row, vload_bits(dtype, lanes, a, ((1 << count) - 1) // 2 * 2))
        store("int64", flags, 1 if vany(larger) else 0)
        store("int64", flags + 8, 1 if vany(nan) else 0)

    return task


def expected(x: Array, y: Array, count: int) -> list[Array]:
    live = np.arange(len(x)) < count
    larger, nan = x > y, (x != x) | (y != y)
    zeros = np.zeros_like(x)
    total, top = zeros.copy(), zeros.copy()
    total[0], top[0] = x.sum(), x.max()
    return [
        x * y,
        np.where(larger, x, y),
        np.where(larger, x, y),
        np.where(nan, x, y),
        np.where(larger | nan, x, y),
        np.where(live, x, y),
        total,
        top,
        np.where(live & (np.arange(len(x)) >= count // 2), x, zeros),
        np.where(live & (np.arange(len(x)) > 0), x, zeros),
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_words(dtype: str, width: int) -> None:
    lanes = width // item_bytes(dtype)
    kernel = every_word(dtype, lanes)
    rng = np.random.default_rng(1)
    for count in range(lanes + 1):
        x, y = (rng.integers(-50, 50, lanes + 1).astype(dtype)[1:] for _ in range(2))
        if is_float(dtype):
            y[rng.random(lanes) < 0.3] = np.nan
        if count == 0:
            x, y = np.full(lanes, -3, dtype), np.full(lanes, 5, dtype)
        out, flags = np.zeros((10, lanes), dtype), np.full(2, 7)
        context = np.array([0, 0, 0, y.ctypes.data, count])
        run(Work(kernel, context, 1, 0, 0.0), x.ctypes.data, out.ctypes.data, flags.ctypes.data, 1)
        np.testing.assert_array_equal(out, expected(x, y, count), err_msg=f"count {count}")
        assert flags.tolist() == [int((x > y).any()), int(((x != x) | (y != y)).any())]


@task_factory
def quotient(dtype: str, lanes: int):  # type: ignore[no-untyped-def]
    """Store x / y."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, out, _, b = words(ctx, 4)
        vstore(out, vdiv(vload(dtype, lanes, a), vload(dtype, lanes, b)))

    return task


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quotients_are_rounded_once(dtype: str) -> None:
    lanes = Machine.host().lanes(dtype)
    x, y = np.arange(1, lanes + 1).astype(dtype), np.full(lanes, 7, dtype)
    out = np.zeros(lanes, dtype)
    work = Work(quotient(dtype, lanes), np.array([0, 0, 0, y.ctypes.data]), 1, 0, 0.0)
    run(work, x.ctypes.data, out.ctypes.data, 0, 1)
    np.testing.assert_array_equal(out, x / y)


@task_factory
def picked(dtype: str, lanes: int, step: int):  # type: ignore[no-untyped-def]
    """Store elements of x, every `step`-th or the listed ones."""

    def task(ctx: int, i: int, scratch: int) -> None:
        x, out, table = words(ctx, 3)
        vstore(out, vpick(dtype, lanes, step, x, table))

    return task


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_picks(dtype: str, width: int, step: int) -> None:
    lanes = width // item_bytes(dtype)
    x = np.arange(1, 6 * lanes + 2).astype(dtype)[1:]
    listed = np.random.default_rng(2).permutation(6 * lanes)[:lanes]
    table, out = listed * x.itemsize, np.zeros(lanes, dtype)
    work = Work(picked(dtype, lanes, step), np.zeros(3, np.int64), 1, 0, 0.0)
    run(work, x.ctypes.data, out.ctypes.data, table.ctypes.data, 1)
    np.testing.assert_array_equal(out, x[: lanes * step : step] if step else x[listed])


@task_factory
def casts(lanes: int):  # type: ignore[no-untyped-def]
    """Store x as int32, and that as int64, and x as it is."""

    def task(ctx: int, i: int, scratch: int) -> None:
        x, narrow, wide = words(ctx, 3)
        there = vcast("int32", vload("int64", lanes, x))
        vstore(narrow, there)
        vstore(wide, vcast("int64", there))
        vstore(wide + 8 * lanes, vcast("int64", vload("int64", lanes, x)))

    return task


@pytest.mark.parametrize("width", WIDTHS)
def test_casts(width: int) -> None:
    lanes = width // 4
    x = np.random.default_rng(3).integers(-(2**40), 2**40, lanes)
    narrow, wide = np.zeros(lanes, np.int32), np.zeros((2, lanes), np.int64)
    work = Work(casts(lanes), np.zeros(3, np.int64), 1, 0, 0.0)
    run(work, x.ctypes.data, narrow.ctypes.data, wide.ctypes.data, 1)
    np.testing.assert_array_equal(narrow, x.astype(np.int32))
    np.testing.assert_array_equal(wide, [x.astype(np.int32), x])
