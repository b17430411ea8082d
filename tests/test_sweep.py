"""Sweeps of separable kernels against sums of products in float64, around the edges of tiles, blocks and bands."""

from __future__ import annotations

import platform
from itertools import product
from typing import Any

import numpy as np
import pytest
from micro import innermost_loop

from fastconv.image import sweep
from fastconv.image.borders import Border, sources
from fastconv.kernels.sweep_tile import PIXELS, VECTORS
from fastconv.machine import Machine

Array = np.ndarray[Any, Any]
TILE = VECTORS * Machine.host().lanes("float32")
WORDS = ("zeros", "reflect", "symmetric", "replicate", "circular")
#: Rows, columns and channels of images.
SIZES = (
    (1, 1, 1), (3, 2, 3), (9, TILE // 3, 3), (5, TILE, 1), (8, TILE + 1, 1), (13, TILE // 2, 4), (70, 2 * TILE - 1, 2),
    (4, 1100, 1), (3, 700, 3), (2, 3, 300),
)  # fmt: skip
TAPS = ((1, 1), (1, 4), (3, 1), (2, 3), (5, 5), (4, 7), (9, 2), (7, 15))


@pytest.fixture(params=[False, True], ids=["one block", "blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do everything in one task, or in many of a few columns and rows."""
    sweep._work.cache_clear()
    if request.param:
        for name, value in (("KEPT_BYTES", 1), ("BAND", 8), ("ROWS_BYTES", 3000)):
            monkeypatch.setattr(sweep, name, value)


def border(word: str, taps: tuple[int, int], value: float = 0.0) -> Border:
    return Border(word, value, *(end for size in taps for end in (size // 2, size - 1 - size // 2)))


def by_definition(x: Array, kernel: Array, around: Border) -> Array:
    """Sum products over the padded image (N, H, W, C)."""
    kh, kw = kernel.shape
    rows = sources(around.word, x.shape[1], around.top, around.bottom)
    columns = sources(around.word, x.shape[2], around.left, around.right)
    padded = x.astype(np.float64)[:, rows][:, :, columns]
    if around.word == "zeros":
        padded[:, rows < 0] = around.value
        padded[:, :, columns < 0] = around.value
    oh, ow = len(rows) - kh + 1, len(columns) - kw + 1
    y = np.zeros((len(x), oh, ow, x.shape[3]))
    for r, s in np.ndindex(kernel.shape):
        y += kernel[r, s] * padded[:, r : r + oh, s : s + ow]
    return y


def kernel_of(taps: tuple[int, int], seed: int = 0) -> Array:
    """Return a column of whole numbers times a row of them."""
    rng = np.random.default_rng([*taps, seed])
    column, row = (rng.choice([-3, -2, -1, 1, 2], size) for size in taps)
    return np.outer(column, row).astype(np.float64)


def any_kernel(taps: tuple[int, int]) -> Array:
    """Return whole numbers, which from 2x2 on are no column times a row."""
    kernel = np.random.default_rng([*taps, 7]).integers(-4, 5, taps).astype(np.float64)
    kernel[0, 0], kernel[-1, -1] = 5, 7
    return kernel


def run(x: Array, kernels: Array, around: Border, dtype: Any, threads: int = 1) -> Array:
    y = sweep.swept(x, kernels, around, np.dtype(dtype), None, threads)
    assert y is not None
    return y


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("taps", TAPS, ids=lambda taps: f"{taps[0]}x{taps[1]}")
@pytest.mark.parametrize("make", [kernel_of, any_kernel], ids=["separable", "window"])
@pytest.mark.parametrize("word", WORDS)
def test_whole_numbers_are_exact(word: str, make: Any, taps: tuple[int, int]) -> None:
    kernel, around = make(taps), border(word, taps, 5.0)
    for size in SIZES:
        x = np.random.default_rng(list(size)).integers(-9, 10, (2, *size)).astype(np.float32)
        found = run(x, kernel[None].astype(np.float32), around, np.float32)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, by_definition(x, kernel, around), err_msg=str(size))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("make", [kernel_of, any_kernel], ids=["separable", "window"])
@pytest.mark.parametrize("result", PIXELS)
@pytest.mark.parametrize("pixel", PIXELS)
def test_every_kind_of_pixel_becomes_every_other(pixel: str, result: str, make: Any) -> None:
    taps = (3, 5)
    compute = np.dtype(np.float64 if pixel in ("float64", "int32") or result == "float64" else np.float32)
    # Large enough to go beyond what 16 bits hold, small enough to be exact in float32.
    scale = 300.0 if pixel.endswith("int8") and result.endswith("int16") else 0.5
    kernel, around = make(taps) * scale, border("zeros", taps, 7.0)
    least, most = (-30000, 30000) if pixel.startswith("float") else (np.iinfo(pixel).min, np.iinfo(pixel).max)
    x = np.random.default_rng(3).integers(max(least, -30000), min(most, 30000), (1, 9, TILE + 3, 3))
    found = run(x.astype(pixel), kernel[None].astype(compute), around, result)
    exact = by_definition(x, kernel, around)
    if sweep.stores(np.dtype(result), compute):
        assert found.dtype == result
        if not result.startswith("float"):
            exact = np.clip(np.rint(exact), np.iinfo(result).min, np.iinfo(result).max)
            assert (exact == np.iinfo(result).max).any() or result == "int32"
    else:
        assert found.dtype == compute and (result, compute) == ("int32", np.float32)
    np.testing.assert_array_equal(found, exact)


def test_halves_are_rounded_to_even_and_nan_to_the_least() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -7, 254.5, 255.5, 1e30, np.inf, -np.inf, np.nan] * 9, np.float32)
    around = border("zeros", (1, 1))
    found = run(x.reshape(1, 1, -1, 1), np.ones((1, 1, 1), np.float32), around, np.uint8)
    assert found.ravel()[:11].tolist() == [0, 2, 2, 0, 0, 254, 255, 255, 255, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_error_on_random_numbers(dtype: str) -> None:
    eps = np.finfo(dtype).eps
    for taps in ((5, 5), (15, 15), (31, 3)):
        rng = np.random.default_rng(list(taps))
        kernel = np.outer(*(rng.standard_normal(size) for size in taps)).astype(dtype)
        x = rng.standard_normal((1, 40, 130, 3)).astype(dtype)
        around = border("symmetric", taps)
        exact = by_definition(x, kernel.astype(np.float64), around)
        size = by_definition(np.abs(x), np.abs(kernel.astype(np.float64)), around)
        found = run(x, kernel[None], around, dtype)
        assert (np.abs(found - exact) <= (sum(taps) + 8) * eps * size).all()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("pixel", "result"), [("uint8", "float32"), ("float32", "uint8"), ("float64", "float64")]
)
def test_two_kernels_give_the_root_of_the_sum_of_squares(pixel: str, result: str) -> None:
    taps = (3, 3)
    pair, around = np.stack([kernel_of(taps, 1), kernel_of(taps, 2)]), border("symmetric", taps)
    compute = np.dtype(np.float64 if pixel == "float64" else np.float32)
    for size in SIZES:
        x = np.random.default_rng(list(size)).integers(0, 30, (1, *size)).astype(pixel)
        found = run(x, pair.astype(compute), around, result)
        exact = np.hypot(*(by_definition(x, kernel, around) for kernel in pair))
        if result == "uint8":
            assert np.abs(found - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4
        else:
            np.testing.assert_allclose(found, exact, rtol=2 * np.finfo(compute).eps)


def test_borders_on_one_side_and_wider_than_the_image() -> None:
    for kernel, word in product((kernel_of((6, 7)), any_kernel((4, 5))), WORDS):
        for ends in ((0, 0, 0, 0), (5, 5, 6, 6), (20, 0, 0, 31), (0, 9, 40, 2)):
            around = Border(word, -4.0, *ends)
            x = np.random.default_rng(0).integers(-9, 10, (1, 7, 11, 3)).astype(np.float32)
            found = run(x, kernel[None].astype(np.float32), around, np.float32)
            np.testing.assert_array_equal(found, by_definition(x, kernel, around))


def test_nan_and_infinity_reach_as_far_as_the_kernel() -> None:
    x = np.ones((1, 21, 200, 3), np.float32)
    x[0, 10, 100, 1], x[0, 3, 3, 2] = np.nan, np.inf
    x[0, 15, 150, 0] = -np.inf
    ones, other = np.ones((5, 5), np.float32), np.ones((5, 5), np.float32)
    other[2, 2] = -1
    for kernel in (ones, other):
        found = run(x, kernel[None], border("symmetric", (5, 5)), np.float32)[0]
        expected = np.full((21, 200, 3), kernel.sum())
        expected[8:13, 98:103, 1], expected[1:6, 1:6, 2], expected[13:18, 148:153, 0] = (
            np.nan,
            np.inf,
            -np.inf,
        )
        expected[3, 3, 2], expected[15, 150, 0] = kernel[2, 2] * np.inf, -kernel[2, 2] * np.inf
        np.testing.assert_array_equal(found, expected)


def test_views_are_read_where_rows_lie_side_by_side() -> None:
    whole = np.random.default_rng(0).integers(0, 99, (2, 30, 40, 3)).astype(np.float32)
    kernel, around = kernel_of((3, 5)), border("reflect", (3, 5))
    views = (
        whole[:, ::2], whole[:, ::-1], whole[:, 3:20, 5:30], whole[::-1], whole[:, :, ::-1], whole[..., ::-1],
        whole[..., 1:2], whole[:, :, ::3], whole.transpose(0, 2, 1, 3), whole.astype(">f4"), whole.astype(np.float16),
    )  # fmt: skip
    for x in views:
        found = run(x, kernel[None].astype(np.float32), around, np.float32)
        np.testing.assert_array_equal(found, by_definition(x, kernel, around))


@pytest.mark.parametrize("value", [-1.0, 0.5, 300.0, np.nan])
def test_border_values_that_no_pixel_can_have(value: float) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 8, 9, 3)).astype(np.uint8)
    kernel, around = kernel_of((3, 3)), border("zeros", (3, 3), value)
    found = run(x, kernel[None].astype(np.float32), around, np.float32)
    np.testing.assert_array_equal(found, by_definition(x, kernel, around))


@pytest.mark.usefixtures("blocks")
def test_threads_change_no_bit() -> None:
    x = np.random.default_rng(0).standard_normal((2, 150, 260, 3)).astype(np.float32)
    round_ = np.outer(np.hanning(9)[1:-1], np.hanning(13)[1:-1])
    for kernel in (round_, round_ - 0.01):
        weights, around = kernel[None].astype(np.float32), border("symmetric", (7, 11))
        one, two = (run(x, weights, around, np.float32, threads) for threads in (1, 2))
        np.testing.assert_array_equal(one, two)


def test_large_kernels_that_are_no_column_times_a_row_are_left_to_others() -> None:
    x, size = np.ones((1, 5, 5, 1), np.float32), int(sweep.WINDOW_TAPS**0.5) + 1
    for kernel in (np.eye(size), np.full((size, size), np.nan)):
        around = border("zeros", (size, size))
        assert sweep.swept(x, kernel[None].astype(np.float32), around, np.dtype(np.float32), None, 1) is None


def test_strict_sums_are_sums_of_products() -> None:
    """Taken apart, a pixel that is not finite meets the weights of its column or its row that are 0 alone too."""
    x = np.zeros((1, 9, 9, 1), np.float32)
    x[0, 4, 4], kernel = np.inf, np.array([[1.0, 2], [2, 4]])
    around = border("symmetric", (2, 2))
    plain = sweep.swept(
        x, kernel[None].astype(np.float32), around, np.dtype(np.float32), None, 1, strict=True
    )
    np.testing.assert_array_equal(plain, by_definition(x, kernel, around))


@pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="reads x86 assembly")
@pytest.mark.parametrize("pixel", ["float32", "uint8"])
@pytest.mark.parametrize("way", ["separable", "magnitude", "window"])
def test_sums_stay_in_full_registers(way: str, pixel: str) -> None:
    machine = Machine.host()
    rows, lanes = sweep.MOST_ROWS[machine.vector_registers], machine.lanes("float32")
    assembly = sweep.sweep(way, rows, lanes, pixel, "float32", pixel).asm()
    products = {"column_sums": rows * VECTORS, "row_sums": VECTORS * (2 if way == "magnitude" else 1)}
    if way == "window":
        products = {"window_sums": VECTORS}  # the first of its loops: rows under one output row only
    for name, count in products.items():
        loop = innermost_loop(assembly, name)
        text = "\n".join(loop.lines)
        assert not loop.spills and loop.widths == {f"{'xyz'[lanes // 8]}mm"}, text
        assert loop.count(r"vfmadd[0-9]+ps\b" if machine.fma else r"v?mulps\b") == count, text
