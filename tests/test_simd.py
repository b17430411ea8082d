"""The vector words, one by one, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Array

from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import (
    SCALARS,
    copy_bytes,
    is_float,
    item_bytes,
    load,
    prefetch_far,
    store,
    vadd,
    vfma,
    vload,
    vload_even,
    vload_tail,
    vsplat,
    vstore,
    vstore_tail,
    words,
    zero_bytes,
)
from fastconv.machine import Machine
from fastconv.runtime import Work, run

DTYPES = tuple(SCALARS)
WIDTHS = sorted({Machine.host().vector_bytes, 16})
FILL = 77


@task_factory
def every_word(dtype: str, lanes: int):  # type: ignore[no-untyped-def]
    """Store what each word makes of a, b and c in its own row of out, rows of 3 * lanes elements."""
    size = item_bytes(dtype)
    row = 3 * lanes * size

    def task(ctx: int, i: int, scratch: int) -> None:
        a, out, _, b, c, count = words(ctx, 6)
        prefetch_far(a)
        x, y, z = vload(dtype, lanes, a), vload(dtype, lanes, b), vload(dtype, lanes, c)
        vstore(out, x)
        vstore(out + row, vload_even(dtype, lanes, a))
        vstore(out + 2 * row, vload_tail(dtype, lanes, a, count))
        vstore_tail(out + 3 * row, x, count)
        vstore(out + 4 * row, vsplat(dtype, lanes, load(dtype, a)))
        vstore(out + 5 * row, vfma(x, y, z))
        vstore(out + 6 * row, vadd(x, y))
        store(dtype, out + 7 * row, load(dtype, b))
        copy_bytes(out + 8 * row, a, count * size)
        zero_bytes(out + 9 * row, count * size)

    return task


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_words(dtype: str, width: int) -> None:
    lanes = width // item_bytes(dtype)
    kernel = every_word(dtype, lanes)
    rng = np.random.default_rng(1)
    # One element further than aligned: every address must do.
    a, b, c = (rng.integers(-50, 50, 2 * lanes + 1).astype(dtype)[1:] for _ in range(3))
    for count in range(lanes + 1):
        out = np.full((10, 3 * lanes), FILL, dtype)
        context = np.array([0, 0, 0, b.ctypes.data, c.ctypes.data, count])
        run(Work(kernel, context, 1, 0, 0.0), a.ctypes.data, out.ctypes.data, 0, 1)
        x, y, z = a[:lanes], b[:lanes], c[:lanes]
        live = np.arange(lanes) < count
        rest = np.full(lanes, FILL, dtype)
        zero = np.zeros(lanes, dtype)
        expected = np.full_like(out, FILL)
        expected[:, :lanes] = [
            x,
            a[: 2 * lanes : 2],
            np.where(live, x, zero),
            np.where(live, x, rest),
            np.full(lanes, a[0]),
            x * y + z,
            x + y,
            [b[0], *rest[1:]],
            np.where(live, x, rest),
            np.where(live, zero, rest),
        ]
        np.testing.assert_array_equal(out, expected, err_msg=f"count {count}")


@task_factory
def many_words(count: int):  # type: ignore[no-untyped-def]
    """Store the sum of `count` words of the context."""

    def task(ctx: int, i: int, scratch: int) -> None:
        total = 0
        for value in words(ctx, count):
            total += value
        _, y, _ = words(ctx, 3)
        store("int64", y, total - y)

    return task


@pytest.mark.parametrize("count", [3, 7, 31])
def test_words_of_a_context(count: int) -> None:
    context = np.array([0, 0, 0, *(10**k % 2**40 for k in range(count - 3)), 5, 5])
    out = np.zeros(1, np.int64)
    run(Work(many_words(count), context, 1, 0, 0.0), 0, out.ctypes.data, 0, 1)
    assert out[0] == context[:count].sum()


@task_factory
def rounding(lanes: int):  # type: ignore[no-untyped-def]
    """Store x * y + z of vectors."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, out, _, b, c = words(ctx, 5)
        product = vfma(vload("float64", lanes, a), vload("float64", lanes, b), vload("float64", lanes, c))
        vstore(out, product)

    return task


@pytest.mark.skipif(not Machine.host().fma, reason="this machine rounds products and sums one by one")
def test_fma_rounds_once() -> None:
    lanes = Machine.host().lanes("float64")
    a, b = np.full(lanes, 1 + 2.0**-30), np.full(lanes, 1 - 2.0**-30)
    c, out = np.full(lanes, -1.0), np.zeros(lanes)
    context = np.array([0, 0, 0, b.ctypes.data, c.ctypes.data])
    run(Work(rounding(lanes), context, 1, 0, 0.0), a.ctypes.data, out.ctypes.data, 0, 1)
    np.testing.assert_array_equal(out, np.full(lanes, -(2.0**-60)))


def test_table_of_types() -> None:
    for dtype in DTYPES:
        assert item_bytes(dtype) == np.dtype(dtype).itemsize
        assert is_float(dtype) == (np.dtype(dtype).kind == "f")


def test_vectors_hold_every_value() -> None:
    """Bits go through a register unchanged, whatever they mean."""
    lanes = Machine.host().lanes("float32")
    kernel = every_word("float32", lanes)
    patterns: Array = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1] * lanes, np.uint32)[: 2 * lanes]
    a = patterns.view(np.float32)
    out = np.zeros((10, 3 * lanes), np.float32)
    context = np.array([0, 0, 0, a.ctypes.data, a.ctypes.data, lanes])
    run(Work(kernel, context, 1, 0, 0.0), a.ctypes.data, out.ctypes.data, 0, 1)
    np.testing.assert_array_equal(out[0, :lanes].view(np.uint32), patterns[:lanes])
    np.testing.assert_array_equal(out[3, :lanes].view(np.uint32), patterns[:lanes])
