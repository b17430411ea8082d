"""Matrix tiles and the parts of float32 they multiply: exact where mathematics says so, and no byte outside."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import fastconv
from fastconv import runtime
from fastconv.kernels.jit import Kernel, task_factory
from fastconv.kernels.matrix_tile import (
    PRODUCTS,
    matrix_products,
    parts,
    tile_configuration,
    tile_configure,
    tile_release,
)
from fastconv.kernels.simd import words
from fastconv.kernels.split_tile import split_pairs, split_rows
from fastconv.machine import Machine

F32 = NDArray[np.float32]
U16 = NDArray[np.uint16]

needs_unit = pytest.mark.skipif(
    "amx-bf16" not in Machine.host().features, reason="the machine has no matrix unit for bfloat16"
)


#: Values whose parts are easy to get wrong: ties, carries into the next power of two, the ends of the range.
HARD = np.array(
    [
        0.0,
        -0.0,
        1.0,
        255.0,
        255.5,
        1.00390625,
        1.99999988,
        -3.9999998,
        2.0**-126,
        2.0**126,
        3.3e38,
        -1e-30,
        np.pi,
    ],
    np.float32,
)


@task_factory
def rows_task(cuts: int):  # type: ignore[no-untyped-def]
    """Return the task that cuts rows; its context names everything but the number of parts."""

    def task(ctx: int, i: int, scratch: int) -> None:
        source, target, flag, step, part, count, live = words(ctx, 7)
        split_rows(cuts, source, step, target, 64, part, count, live, flag)

    return task


@task_factory
def pairs_task(cuts: int, step: int):  # type: ignore[no-untyped-def]
    """Return the task that cuts pairs of rows."""

    def task(ctx: int, i: int, scratch: int) -> None:
        source, target, flag, plane, part, count = words(ctx, 6)
        split_pairs(cuts, step, source, plane, target, part, count, flag)

    return task


@task_factory
def products_task(products: int, mt: int, nt: int):  # type: ignore[no-untyped-def]
    """Return the task that multiplies tiles."""

    def task(ctx: int, i: int, scratch: int) -> None:
        a, sums, b, part, shape, table, items = words(ctx, 7)
        tile_configure(shape)
        matrix_products(products, mt, nt, a, a + 1024, 64, part, b, b + 1024, 64, part, table, items, sums)
        tile_release()

    return task


def execute(kernel: Kernel, source: int, target: int, other: int, *numbers: int) -> None:
    context = np.array([0, 0, 0, *numbers], np.int64)
    runtime.run(runtime.Work(kernel, context, 1, 0, 0.0), source, target, other, 1)


def value(part: U16) -> F32:
    """Return what bfloat16 numbers stand for."""
    return (part.astype(np.uint32) << 16).view(np.float32)


def cut_rows(x: F32, cuts: int, live: int) -> tuple[U16, bool]:
    """Return the parts (part, row, 32) and the flag; what lies beyond `live` must not be read."""
    target, flag = np.full((cuts, len(x), 32), 0x7FC0, np.uint16), np.zeros(1, np.int64)
    sizes = (x.strides[0], target.strides[0], len(x), live)
    execute(rows_task(cuts), x.ctypes.data, target.ctypes.data, flag.ctypes.data, *sizes)
    return target, bool(flag[0])


@pytest.mark.parametrize("live", [1, 5, 16, 17, 31, 32])
@pytest.mark.parametrize("cuts", [1, 2, 3])
def test_parts_of_rows(cuts: int, live: int) -> None:
    x = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    x.ravel()[: HARD.size] = HARD
    x[:, live:] = np.nan
    found, flag = cut_rows(x, cuts, live)
    assert not flag
    assert not found[:, :, live:].any()
    rest = x[:, :live].astype(np.float64) - value(found).astype(np.float64)[:, :, :live].sum(axis=0)
    if cuts == 3:
        # Exact, but for what bfloat16 cannot hold next to the smallest normal number.
        np.testing.assert_allclose(rest, 0, atol=2.0**-133)
    else:
        assert (np.abs(rest) <= 2.0 ** (-8 * cuts) * np.abs(x[:, :live])).all()


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("count", [1, 7, 15, 16, 17, 40])
def test_parts_of_pairs(count: int, step: int) -> None:
    x = np.random.default_rng(1).standard_normal((2, step * (count - 1) + 1)).astype(np.float32)
    target, flag = np.full((3, count + 1, 2), 0x7FC0, np.uint16), np.zeros(1, np.int64)
    sizes = (x.strides[0], target.strides[0], count)
    execute(pairs_task(3, step), x.ctypes.data, target.ctypes.data, flag.ctypes.data, *sizes)
    assert not flag[0]
    assert (target[:, count] == 0x7FC0).all()
    np.testing.assert_array_equal(value(target[:, :count]).sum(axis=0).T, x[:, ::step])


@pytest.mark.parametrize(
    "bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F7FFFFF]
)
@pytest.mark.parametrize("cuts", [1, 2, 3])
def test_what_has_no_parts_is_noticed(cuts: int, bits: int) -> None:
    """NaN of every payload, infinity, and numbers that round to it."""
    x = np.ones((1, 32), np.float32)
    x[0, 19] = np.array([bits], np.uint32).view(np.float32)[0]
    found, flag = cut_rows(x, cuts, 32)
    assert flag
    assert not np.isfinite(value(found)[:, 0, 19]).all()


@needs_unit
@pytest.mark.parametrize("tiles", [(2, 2), (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("products", PRODUCTS)
def test_products(products: int, tiles: tuple[int, int]) -> None:
    cuts, items = parts(products), 3
    mt, nt = tiles
    rng = np.random.default_rng(2)
    # Whole numbers, 4 bits apart: every product and sum fits 24 bits, and every part counts.
    scales = 16.0 ** -np.arange(cuts)
    a = rng.integers(-9, 10, (items, cuts, 2, 16, 32))
    b = rng.integers(-9, 10, (items, cuts, 2, 32, 16))
    expected = np.zeros((2, 2, 16, 16))
    for pa, pb in PRODUCTS[products]:
        expected += scales[pa] * scales[pb] * np.einsum("imrk,inkc->mnrc", a[:, pa], b[:, pb])

    def stored(x: NDArray[np.int64]) -> U16:
        shaped = x * scales.reshape(1, -1, *[1] * (x.ndim - 2))
        return np.ascontiguousarray((shaped.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))

    stored_a, stored_b = stored(a), stored(b.reshape(items, cuts, 2, 16, 2, 16).swapaxes(-1, -2))
    table = np.repeat(np.arange(items, dtype=np.int64)[:, None] * (cuts * 2048), 2, axis=1).copy()
    sums, shape = np.full((2, 2, 16, 16), np.nan, np.float32), tile_configuration()
    where = (stored_a.ctypes.data, sums.ctypes.data, stored_b.ctypes.data)
    execute(products_task(products, mt, nt), *where, 2048, shape.ctypes.data, table.ctypes.data, items)
    np.testing.assert_array_equal(sums[:mt, :nt], expected[:mt, :nt])
    assert np.isnan(sums[mt:]).all() and np.isnan(sums[:, nt:]).all()


@needs_unit
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_residual_in_place_survives_what_is_not_finite(layout: str) -> None:
    """The sums that are NaN or infinite are computed again after their neighbours were stored over the residual."""
    rng = np.random.default_rng(3)
    x, held = (rng.standard_normal((1, 33, 9, 9)).astype(np.float32) for _ in range(2))
    w = rng.standard_normal((33, 33, 3, 3)).astype(np.float32)
    x[0, 4, 4, 4] = np.inf
    words = {"padding": 1, "accuracy": "strict", "activation": "relu", "layout": layout}
    if layout == "NHWC":
        x, held = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in (x, held))
    expected = fastconv.conv2d(x, w, residual=held, algorithm="reference", **words)
    y = fastconv.conv2d(x, w, residual=held, out=held, algorithm="split_bfloat16", **words)
    assert y is held
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@needs_unit
@pytest.mark.parametrize("channels", [24, 32, 64, 96])
@pytest.mark.parametrize("kind", ["normal", "uniform", "relu"])
def test_largest_error_of_class_standard(channels: int, kind: str) -> None:
    """Of short sums none stands out, so their errors count most beside the largest output."""
    rng = np.random.default_rng(channels)
    shape = (1, 56, 56, channels)
    x = rng.uniform(-1, 1, shape) if kind == "uniform" else rng.standard_normal(shape)
    x = np.maximum(x, 0) if kind == "relu" else x
    w = rng.standard_normal((192, channels))
    x, w = x.astype(np.float32), w.astype(np.float32)
    y = fastconv.conv2d(x, w[:, :, None, None], layout="NHWC", algorithm="split_bfloat16")
    expected = x.astype(np.float64) @ w.T.astype(np.float64)
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.linalg.norm(y - expected) <= 5e-6 * np.linalg.norm(expected)
