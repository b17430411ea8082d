"""Pooling against its definition, written with NumPy; its errors; and PyTorch on thousands of drawn configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from oracle import Array

import fastconv
from fastconv.machine import Machine
from fastconv.operators import pool_work

LANES = Machine.host().lanes("float32")
#: Channels or columns around the edges of a vector and of four, and two of usual images.
EDGES = (1, 3, LANES - 1, LANES, LANES + 1, 4 * LANES, 4 * LANES + 3)
Spans = list[tuple[range, int]]


def sliding(size: int, k: int, s: int, pads: tuple[int, int], d: int, ceil: bool) -> Spans:
    """Return for each window its pixels, and how many of its taps are in the image or the padding."""
    rooms = (size + sum(pads) - d * (k - 1) - 1) / s
    count = (math.ceil if ceil else math.floor)(rooms) + 1
    if ceil and (count - 1) * s >= size + pads[0]:
        count -= 1
    spans = []
    for i in range(count):
        start = i * s - pads[0]
        taps = range(start, start + k * d, d)
        inside = [t for t in taps if 0 <= t < size]
        spans.append((range(inside[0], inside[-1] + 1, d), sum(t < size + pads[1] for t in taps)))
    return spans


def dividing(size: int, out: int) -> Spans:
    edges = [(math.floor(i * size / out), math.ceil((i + 1) * size / out)) for i in range(out)]
    return [(range(start, stop), stop - start) for start, stop in edges]


def pooled(x: Array, rows: Spans, cols: Spans, function: Callable[[Array, int], Any]) -> Array:
    """Return what `function` makes of each window (N, C, pixels) of NCHW images and its count of taps."""
    n, c, h, w = x.shape
    y = np.empty((n, c, len(rows), len(cols)), object)
    for i, (r, tall) in enumerate(rows):
        for j, (s, wide) in enumerate(cols):
            places = np.array([[a * w + b for b in s] for a in r]).ravel()
            y[:, :, i, j] = function(x.reshape(n, c, h * w)[:, :, places], tall * wide)
    return y


def as_layout(x: Array, layout: str) -> Array:
    return np.ascontiguousarray(x if layout == "NCHW" else x.transpose(0, 2, 3, 1))


def as_nchw(y: Array, layout: str) -> Array:
    return y if layout == "NCHW" else y.transpose(0, 3, 1, 2)


def images(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Return small whole numbers, whose sums are exact and whose maxima are often shared."""
    low = 0 if dtype.startswith("u") else -9
    drawn: Array = np.random.default_rng(seed).integers(low, 10, shape).astype(dtype)
    return drawn


#: kernel, stride, ((top, bottom), (left, right)), dilation, ceil
WINDOWS = {
    "3x3 stride 2": ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), False),
    "2x2 stride 2": ((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
    "3x3 stride 1": ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), False),
    "ceil": ((3, 2), (2, 3), ((0, 0), (0, 0)), (1, 1), True),
    "ceil past the padding": ((3, 3), (2, 2), ((1, 1), (1, 0)), (1, 1), True),
    "dilated": ((3, 2), (1, 1), ((2, 2), (1, 1)), (2, 3), False),
    "dilated with stride": ((2, 3), (2, 4), ((1, 0), (2, 1)), (2, 2), False),
    "one sided": ((3, 4), (2, 1), ((2, 0), (0, 3)), (1, 1), False),
    "stride 5 and gaps": ((2, 2), (5, 5), ((0, 0), (0, 0)), (1, 1), False),
    "one tap": ((1, 1), (1, 3), ((0, 0), (0, 0)), (1, 1), False),
    "tall and wide": ((9, 11), (3, 2), ((4, 4), (5, 5)), (1, 1), False),
}
LAYOUTS = ("NCHW", "NHWC")


def sizes() -> Iterator[tuple[int, int, int, int]]:
    for edge in EDGES:
        yield (1, edge, 11, 13)
        yield (2, 3, 12, edge + 11)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("name", WINDOWS)
def test_maxima_and_their_places(name: str, dtype: str, layout: str) -> None:
    kernel, stride, padding, dilation, ceil = WINDOWS[name]
    for shape in sizes() if dtype == "float32" else [(2, 3, 11, 13), (1, 4 * LANES + 3, 12, 16)]:
        x = images(shape, dtype)
        rows = sliding(shape[2], kernel[0], stride[0], padding[0], dilation[0], ceil)
        cols = sliding(shape[3], kernel[1], stride[1], padding[1], dilation[1], ceil)
        call = (as_layout(x, layout), kernel, stride, padding, dilation, ceil)
        y = fastconv.max_pool2d(*call, layout=layout)
        assert y.dtype == dtype
        expected = pooled(x, rows, cols, lambda window, _: window.max(axis=2))
        np.testing.assert_array_equal(as_nchw(y, layout), expected.astype(dtype))
        y, places = fastconv.max_pool2d(*call, layout=layout, return_indices=True)
        np.testing.assert_array_equal(as_nchw(y, layout), expected.astype(dtype))
        assert places.dtype == np.int64
        numbers = np.broadcast_to(np.arange(shape[2] * shape[3]).reshape(1, 1, *shape[2:]), shape)
        candidates = np.where(x == x, x.astype(float) * 1e6 - numbers, 0)
        best = pooled(candidates, rows, cols, lambda window, _: window.max(axis=2))
        picked = np.take_along_axis(
            candidates.reshape(*shape[:2], -1), as_nchw(places, layout).reshape(*shape[:2], -1), axis=2
        )
        np.testing.assert_array_equal(picked.ravel(), best.ravel().astype(float))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_asking_for_memory_ahead_changes_no_bit(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = as_layout(np.random.default_rng(0).standard_normal((2, 4 * LANES, 23, 29)), layout)
    near = fastconv.avg_pool2d(x, 3, 2, 1, layout=layout)
    monkeypatch.setattr(pool_work, "FAR", 0.0)
    # One image less, so that it is prepared again.
    assert pool_work._far(x.nbytes)
    np.testing.assert_array_equal(fastconv.avg_pool2d(x[1:], 3, 2, 1, layout=layout), near[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("include", [True, False], ids=["counting padding", "not counting padding"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", WINDOWS)
def test_means_of_whole_numbers_are_rounded_once(name: str, dtype: str, include: bool, layout: str) -> None:
    kernel, stride, padding, dilation, ceil = WINDOWS[name]
    for shape in sizes() if dtype == "float32" else [(2, 3, 11, 13), (1, 4 * LANES + 3, 12, 16)]:
        x = images(shape, dtype)
        rows = sliding(shape[2], kernel[0], stride[0], padding[0], dilation[0], ceil)
        cols = sliding(shape[3], kernel[1], stride[1], padding[1], dilation[1], ceil)
        y = fastconv.avg_pool2d(
            as_layout(x, layout), kernel, stride, padding, ceil, include, dilation=dilation, layout=layout
        )
        assert y.dtype == dtype
        compute = np.float64 if dtype == "float64" else np.float32

        def mean(window: Array, covered: int) -> Array:
            return window.sum(axis=2, dtype=compute) / compute(covered if include else window.shape[2])  # noqa: B023

        expected = pooled(x, rows, cols, mean).astype(compute).astype(dtype)
        np.testing.assert_array_equal(as_nchw(y, layout), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", [(1, 1), (7, 7), (3, 5), (13, 2), (20, 30), (None, 4), 6], ids=str)
def test_adaptive(output: Any, dtype: str, layout: str) -> None:
    for shape in [(2, 5, 14, 21), (1, LANES + 1, 13, 4), (1, 2, 7, 5 * LANES + 1)]:
        x = images(shape, dtype)
        pair = output if isinstance(output, tuple) else (output, output)
        rows, cols = (dividing(size, out or size) for size, out in zip(shape[2:], pair, strict=True))
        given = as_layout(x, layout)
        y = fastconv.adaptive_avg_pool2d(given, output, layout=layout)
        mean = pooled(x, rows, cols, lambda window, count: window.sum(axis=2) / np.array(count, dtype))
        np.testing.assert_array_equal(as_nchw(y, layout), mean.astype(dtype))
        maximum = pooled(x, rows, cols, lambda window, _: window.max(axis=2)).astype(dtype)
        y, places = fastconv.adaptive_max_pool2d(given, output, layout=layout, return_indices=True)
        np.testing.assert_array_equal(as_nchw(y, layout), maximum)
        flat, at = x.reshape(*shape[:2], -1), as_nchw(places, layout).reshape(*shape[:2], -1)
        np.testing.assert_array_equal(np.take_along_axis(flat, at, axis=2), maximum.reshape(at.shape))
        y = fastconv.adaptive_max_pool2d(given, output, layout=layout)
        np.testing.assert_array_equal(as_nchw(y, layout), maximum)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16"])
@pytest.mark.parametrize(
    "pixels", [(1, 1), (7, 7), (1, LANES - 1), (3, 4 * LANES), (5, 5 * LANES + 1)], ids=str
)
def test_global(pixels: tuple[int, int], dtype: str, layout: str) -> None:
    for channels in EDGES:
        x = images((2, channels, *pixels), dtype)
        y = fastconv.global_max_pool2d(as_layout(x, layout), layout=layout)
        np.testing.assert_array_equal(as_nchw(y, layout), x.max(axis=(2, 3), keepdims=True))
        assert y.dtype == dtype
        if dtype.startswith("float"):
            y = fastconv.global_avg_pool2d(as_layout(x, layout), layout=layout)
            compute = np.float64 if dtype == "float64" else np.float32
            expected = x.sum(axis=(2, 3), keepdims=True, dtype=compute) / compute(math.prod(pixels))
            np.testing.assert_array_equal(as_nchw(y, layout), expected.astype(dtype))


def test_values_of_the_source() -> None:
    x = np.arange(1.0, 17.0).reshape(1, 4, 4)
    x[0] = [[1, 2, 3, 4], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]
    assert fastconv.max_pool2d(x, 2).tolist() == [[[4, 8], [12, 16]]]
    assert fastconv.avg_pool2d(x, 2).tolist() == [[[2.5, 5.5], [10.5, 14.5]]]
    tail = np.arange(25.0).reshape(1, 5, 5)
    assert fastconv.max_pool2d(tail, 2).tolist() == [[[6, 8], [16, 18]]]
    assert fastconv.max_pool2d(tail, 2, ceil_mode=True).tolist() == [[[6, 8, 9], [16, 18, 19], [21, 23, 24]]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity(dtype: str, layout: str) -> None:
    rng = np.random.default_rng(1)
    for shape in [(1, 5, 14, 40), (1, 4 * LANES + 3, 6, 6)]:
        x = rng.standard_normal(shape).astype(dtype)
        x[rng.random(shape) < 0.03] = np.nan
        x[rng.random(shape) < 0.03] = np.inf
        x[rng.random(shape) < 0.3] = -np.inf
        given = as_layout(x, layout)
        rows, cols = sliding(shape[2], 3, 2, (1, 1), 1, False), sliding(shape[3], 3, 2, (1, 1), 1, False)
        expected = pooled(x, rows, cols, lambda window, _: window.max(axis=2)).astype(dtype)
        assert np.isnan(expected).any() and not np.isnan(expected).all()
        for y in (
            fastconv.max_pool2d(given, 3, 2, 1, layout=layout),
            fastconv.max_pool2d(given, 3, 2, 1, layout=layout, return_indices=True)[0],
        ):
            np.testing.assert_array_equal(as_nchw(y, layout), expected)
        y = fastconv.global_max_pool2d(given, layout=layout)
        np.testing.assert_array_equal(as_nchw(y, layout), x.max(axis=(2, 3), keepdims=True))
        with np.errstate(invalid="ignore"):
            mean = pooled(x, rows, cols, lambda window, count: window.sum(axis=2) / count).astype(dtype)
        y = as_nchw(fastconv.avg_pool2d(given, 3, 2, 1, layout=layout), layout)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(mean))
        np.testing.assert_array_equal(np.isinf(y), np.isinf(mean))


def test_a_window_of_the_least_numbers_has_a_place() -> None:
    x = np.full((1, 2, 4, 4), -np.inf, np.float32)
    y, places = fastconv.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert np.isneginf(y).all()
    assert places[0, 0].tolist() == [[0, 1], [4, 5]]
    y, places = fastconv.max_pool2d(np.full((4, 4, 1), -128, np.int8), 2, layout="NHWC", return_indices=True)
    assert (y == -128).all()
    assert places.ravel().tolist() == [0, 2, 8, 10]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_error_of_means(layout: str) -> None:
    """Rows and then their sums: not the error of one sum of kh * kw numbers."""
    x = np.random.default_rng(2).standard_normal((1, 3, 200, 190)).astype(np.float32) + 100
    given = as_layout(x, layout)
    eps = np.finfo(np.float32).eps
    for y, exact, terms in [
        (fastconv.global_avg_pool2d(given, layout=layout), x.astype(float).mean((2, 3), keepdims=True), 390),
        (
            fastconv.avg_pool2d(given, (20, 19), layout=layout),
            x.astype(float).reshape(1, 3, 10, 20, 10, 19).mean((3, 5)),
            39,
        ),
    ]:
        error = np.abs(as_nchw(y, layout) - exact)
        assert (error <= (terms + 2) * eps / 2 * np.abs(x).mean()).all()


def test_places_of_taps_that_are_far_apart() -> None:
    """Taps 2**28 rows apart, all but one in the padding: their distance in pixels needs 64 bits."""
    x = images((1, 2, 4, 16), "float32")
    for layout in LAYOUTS:
        y, places = fastconv.max_pool2d(
            as_layout(x, layout),
            (2, 1),
            1,
            ((0, 2**28), (0, 0)),
            (2**28, 1),
            return_indices=True,
            layout=layout,
        )
        np.testing.assert_array_equal(as_nchw(y, layout), x)
        numbers = np.broadcast_to(np.arange(64).reshape(1, 1, 4, 16), x.shape)
        np.testing.assert_array_equal(as_nchw(places, layout), numbers)


def test_divisor_override() -> None:
    x = images((2, 3, 9, 9), "float32")
    for layout in LAYOUTS:
        y = fastconv.avg_pool2d(as_layout(x, layout), 3, 2, 1, divisor_override=-4, layout=layout)
        plain = fastconv.avg_pool2d(as_layout(x, layout), 3, 2, 1, layout=layout)
        np.testing.assert_allclose(y, plain * 9 / -4, rtol=1e-6)
        one = fastconv.avg_pool2d(as_layout(x, layout), 9, divisor_override=1, layout=layout)
        np.testing.assert_array_equal(as_nchw(one, layout), x.sum(axis=(2, 3), keepdims=True))


def test_padding_by_words() -> None:
    x = images((1, 2, 9, 10), "float32")
    for word, pads in {
        "valid": 0, "same": ((1, 1), (0, 1)), "same_lower": ((1, 1), (1, 0)), "full": 2,
    }.items():  # fmt: skip
        y = fastconv.max_pool2d(x, 3, 2, word)
        np.testing.assert_array_equal(y, fastconv.max_pool2d(x, 3, 2, pads))
    assert fastconv.max_pool2d(x, 3, 2, "same").shape == (1, 2, 5, 5)


OPERATORS: dict[str, Callable[..., Any]] = {
    "max": lambda x, **words: fastconv.max_pool2d(x, 3, 2, 1, **words),
    "argmax": lambda x, **words: fastconv.max_pool2d(x, 3, 2, 1, return_indices=True, **words),
    "avg": lambda x, **words: fastconv.avg_pool2d(x, 3, 2, 1, **words),
    "adaptive max": lambda x, **words: fastconv.adaptive_max_pool2d(x, 5, **words),
    "adaptive avg": lambda x, **words: fastconv.adaptive_avg_pool2d(x, 5, **words),
    "global max": fastconv.global_max_pool2d,
    "global avg": fastconv.global_avg_pool2d,
}


def as_tuple(result: Any) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_ways_to_give_and_take_arrays(name: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastconv.runtime.launcher.PARALLEL_SECONDS", 0.0)
    operator = OPERATORS[name]
    x = images((2, 40, 21, 22), "float32")
    given = as_layout(x, layout)
    expected = as_tuple(operator(given, layout=layout))
    # Threads; the batch axis missing; strided, swapped and read-only memory; a copy of none of it changes.
    for words in ({"threads": 1}, {"threads": 2}):
        for y, e in zip(as_tuple(operator(given, layout=layout, **words)), expected, strict=True):
            np.testing.assert_array_equal(y, e)
    for y, e in zip(as_tuple(operator(given[1], layout=layout)), expected, strict=True):
        np.testing.assert_array_equal(y, e[1])
    wide = np.repeat(given, 2, axis=3)[..., ::2]
    swapped = given.astype(">f4")
    frozen = given.copy()
    frozen.flags.writeable = False
    for other in (wide, swapped, frozen):
        before = other.copy()
        for y, e in zip(as_tuple(operator(other, layout=layout)), expected, strict=True):
            np.testing.assert_array_equal(y, e)
        np.testing.assert_array_equal(other, before)
    # out, contiguous and not.
    for spread in (1, 2):
        outs = tuple(
            np.zeros((*e.shape[:-1], spread * e.shape[-1]), e.dtype)[..., ::spread] for e in expected
        )
        result = operator(given, layout=layout, out=outs if len(outs) > 1 else outs[0])
        for y, out, e in zip(as_tuple(result), outs, expected, strict=True):
            assert y is out
            np.testing.assert_array_equal(out, e)
    # No images.
    for y, e in zip(as_tuple(operator(given[:0], layout=layout)), expected, strict=True):
        assert y.shape == (0, *e.shape[1:]) and y.dtype == e.dtype


def test_settings_of_equal_value_and_other_kind_are_not_confused() -> None:
    x = images((1, 2, 6, 6), "float32")
    fastconv.max_pool2d(x, 2, 1)
    with pytest.raises(TypeError, match="stride must be an integer, got bool True"):
        fastconv.max_pool2d(x, 2, True)
    with pytest.raises(TypeError, match=r"stride must be an integer, got float 1\.0"):
        fastconv.max_pool2d(x, 2, 1.0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(fastconv.max_pool2d(x, [2, 3]), fastconv.max_pool2d(x, (2, 3)))  # type: ignore[arg-type]


X = np.ones((2, 3, 7, 8), np.float32)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "kind of x": (lambda: fastconv.max_pool2d([1], 2), TypeError, "x must be an array, got list"),
    "dtype of x": (
        lambda: fastconv.max_pool2d(X > 0, 2), TypeError, "x must have one of the dtypes float32, .* got bool",
    ),
    "axes of x": (lambda: fastconv.max_pool2d(X[0, 0], 2), ValueError, "x.shape must have 3 or 4 axes, got 2"),
    "no channel": (
        lambda: fastconv.max_pool2d(X[:, :0], 2), ValueError, "x must have at least one channel, got shape",
    ),
    "no row": (lambda: fastconv.max_pool2d(X[:, :, :0], 2), ValueError, "x must have at least one row"),
    "no column": (
        lambda: fastconv.max_pool2d(X[:, :, :0], 2, layout="NHWC"), ValueError, "x must have at least one column",
    ),
    "layout": (
        lambda: fastconv.avg_pool2d(X, 2, layout="CHW"), ValueError, "layout must be one of 'NCHW', 'NHWC'",
    ),
    "kernel_size": (lambda: fastconv.max_pool2d(X, 0), ValueError, "kernel_size must be at least 1, got 0"),
    "kernel_size of three": (
        lambda: fastconv.max_pool2d(X, (1, 2, 3)), ValueError, "kernel_size must be an int or a pair",  # type: ignore[arg-type]
    ),
    "kernel_size of another kind": (
        lambda: fastconv.max_pool2d(X, {}), TypeError, "kernel_size must be an integer, got dict",  # type: ignore[arg-type]
    ),
    "stride": (lambda: fastconv.max_pool2d(X, 2, (1, 0)), ValueError, "stride must be at least 1, got 0"),
    "dilation": (lambda: fastconv.max_pool2d(X, 2, dilation=-1), ValueError, "dilation must be at least 1"),
    "padding": (lambda: fastconv.max_pool2d(X, 2, padding=-1), ValueError, "padding must be at least 0, got -1"),
    "padding as wide as the window": (
        lambda: fastconv.max_pool2d(X, 3, padding=((0, 3), (0, 0))), ValueError,
        r"padding must be smaller than the window, got padding 0 and 3 for 3 rows",
    ),
    "window larger than the image": (
        lambda: fastconv.max_pool2d(X, (3, 5), dilation=(1, 2)), ValueError,
        r"the window must not be larger than the padded image, got 9 window columns \(dilation 2 \* \(5 - 1\) \+ 1\) "
        r"on 8 image columns \(8 \+ padding 0 \+ 0\): output columns would be 0",
    ),
    "window between the pixels": (
        lambda: fastconv.max_pool2d(X[:, :, :2], (2, 1), padding=((1, 1), (0, 0)), dilation=3), ValueError,
        "every window must see a pixel of the image, but none of the 2 taps of window 0 along the rows does: they "
        "begin at -1, 3 apart, on 2 rows",
    ),
    "ceil_mode": (
        lambda: fastconv.max_pool2d(X, 2, ceil_mode=1), TypeError, "ceil_mode must be True or False, got int 1",  # type: ignore[arg-type]
    ),
    "return_indices": (
        lambda: fastconv.adaptive_max_pool2d(X, 2, return_indices=None), TypeError, "return_indices must be True or",  # type: ignore[arg-type]
    ),
    "count_include_pad": (
        lambda: fastconv.avg_pool2d(X, 2, count_include_pad="no"), TypeError, "count_include_pad must be True or",  # type: ignore[arg-type]
    ),
    "divisor of zero": (
        lambda: fastconv.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override must not be 0",
    ),
    "divisor of another kind": (
        lambda: fastconv.avg_pool2d(X, 2, divisor_override=2.0), TypeError, "divisor_override must be an integer",  # type: ignore[arg-type]
    ),
    "mean of integers": (
        lambda: fastconv.avg_pool2d(X.astype(np.int32), 2), TypeError,
        r"x must have a floating dtype, .* got int32; convert it, for example with avg_pool2d\(x.astype",
    ),
    "adaptive mean of integers": (
        lambda: fastconv.adaptive_avg_pool2d(X.astype(np.int32), 2), TypeError, "x must have a floating dtype",
    ),
    "global mean of integers": (
        lambda: fastconv.global_avg_pool2d(X.astype(np.uint8)), TypeError, "x must have a floating dtype",
    ),
    "output_size": (
        lambda: fastconv.adaptive_avg_pool2d(X, (0, 1)), ValueError, "output_size must be at least 1, got 0",
    ),
    "output_size of three": (
        lambda: fastconv.adaptive_max_pool2d(X, [1, 2, 3]), ValueError,  # type: ignore[arg-type]
        "output_size must be an int or a pair .* got 3 values",
    ),
    "output_size of another kind": (
        lambda: fastconv.adaptive_max_pool2d(X, "7"), TypeError, "output_size must be an integer, got str '7'",  # type: ignore[arg-type]
    ),
    "endless output_size": (
        lambda: fastconv.adaptive_max_pool2d(X, 2**40), ValueError, "the result must be smaller than",
    ),
    "threads": (lambda: fastconv.global_max_pool2d(X, threads=0), ValueError, "threads must be at least 1, got 0"),
    "shape of out": (
        lambda: fastconv.max_pool2d(X, 2, out=np.empty((2, 3, 3, 3), np.float32)), ValueError,
        r"out must have the shape of the result, \(2, 3, 3, 4\), got",
    ),
    "dtype of out": (
        lambda: fastconv.max_pool2d(X, 2, out=np.empty((2, 3, 3, 4))), ValueError, "out must have the dtype",
    ),
    "out over x": (
        lambda: fastconv.max_pool2d(X, 1, out=X), ValueError, "out must not overlap x",
    ),
    "out of one array": (
        lambda: fastconv.max_pool2d(X, 2, return_indices=True, out=np.empty((2, 3, 3, 4), np.float32)), TypeError,
        r"out must be a pair \(values, indices\), got ndarray",
    ),
    "out of three arrays": (
        lambda: fastconv.max_pool2d(X, 2, return_indices=True, out=(None, None, None)), ValueError,
        r"out must be a pair \(values, indices\), got 3 values",
    ),
    "dtype of indices": (
        lambda: fastconv.max_pool2d(
            X, 2, return_indices=True, out=(np.empty((2, 3, 3, 4), np.float32), np.empty((2, 3, 3, 4), np.int32))
        ), ValueError, r"out\[1\] must have the dtype of the result in native byte order, int64, got",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_kernel_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a kernel was started")

    monkeypatch.setattr("fastconv.runtime.run", refuse)
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()
