"""Locally connected layers against their definition in NumPy, kernels of pixels and of regions; errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle import Array

import fastconv
from fastconv.machine import Machine

LANES = Machine.host().lanes("float32")
LAYOUTS = ("NCHW", "NHWC")
WEIGHT_LAYOUTS = {"OIHWPQ": (0, 1, 2, 3, 4, 5), "PQHWIO": (4, 5, 2, 3, 1, 0)}
#: images, channels, rows, columns, output channels, kernel, stride, ((top, bottom), (left, right)), dilation
LAYERS = {
    "3x3": (1, 5, 9, 10, 7, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "two full vectors": (2, 4, 5, 6, 2 * LANES, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "vectors and more": (1, 3, 4, 4, 3 * LANES + 1, (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "wide image": (1, 2, 3, 2 * LANES + 3, 2, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strides": (3, 3, 11, 12, 4, (3, 4), (2, 3), ((1, 0), (2, 1)), (1, 1)),
    "dilated with strides": (2, 2, 12, 13, 3, (3, 2), (1, 2), ((2, 3), (0, 5)), (3, 2)),
    "nine images": (9, 3, 5, 6, 4 * LANES, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3x3 with strides": (5, 2, 9, 2 * LANES + 7, LANES, (3, 3), (2, 2), ((1, 2), (2, 0)), (2, 3)),
    "much padding": (1, 2, 4, 5, 3, (2, 2), (1, 1), ((3, 4), (4, 3)), (1, 1)),
    "1x1": (2, LANES + 1, 3, 4, 5, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
}


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    low = 0 if dtype.startswith("u") else -4
    drawn: Array = np.random.default_rng(seed).integers(low, 5, shape).astype(dtype)
    return drawn


def windows(x: Array, layer: str) -> Array:
    """Return the windows of NCHW images as (N, C, kh, kw, oh, ow)."""
    kernel, stride, padding, dilation = LAYERS[layer][5:]
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), *padding))
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    dense = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    return dense[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]].transpose(0, 1, 4, 5, 2, 3)


def definition(x: Array, w: Array, bias: Array | None, layer: str) -> Array:
    """Return y (N, O, oh, ow) of x (N, C, H, W), w (O, C, kh, kw, oh, ow), bias (O, oh, ow)."""
    y: Array = np.einsum("ncrsij,ocrsij->noij", windows(x, layer), w.astype(float))
    return y if bias is None else y + bias


def drawn(layer: str, dtype: str) -> tuple[Array, Array, Array]:
    n, c, h, w, o, kernel, *_ = LAYERS[layer]
    x = numbers((n, c, h, w), dtype)
    oh, ow = windows(x, layer).shape[4:]
    return x, numbers((o, c, *kernel, oh, ow), dtype, 1), numbers((o, oh, ow), dtype, 2)


def as_layout(x: Array, layout: str) -> Array:
    return np.ascontiguousarray(x if layout == "NCHW" else x.transpose(0, 2, 3, 1))


def as_weights(w: Array, word: str) -> Array:
    return np.ascontiguousarray(w.transpose(WEIGHT_LAYOUTS[word]))


def steps(layer: str) -> dict[str, Any]:
    return dict(zip(("stride", "padding", "dilation"), LAYERS[layer][6:], strict=True))


@pytest.mark.parametrize("weight_layout", WEIGHT_LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_kernels_of_pixels(layer: str, dtype: str, layout: str, weight_layout: str) -> None:
    x, w, bias = drawn(layer, dtype)
    turned = bias if weight_layout == "OIHWPQ" else bias.transpose(1, 2, 0)
    for given, whole in (
        (None, None), (turned, bias), (bias[:, 0, 0], np.broadcast_to(bias[:, :1, :1], bias.shape)),
    ):  # fmt: skip
        y = fastconv.locally_connected2d(
            as_layout(x, layout), as_weights(w, weight_layout), given, layout=layout, weight_layout=weight_layout,
            **steps(layer),
        )  # fmt: skip
        assert y.dtype == {"int8": "int32", "uint16": "int64"}.get(dtype, dtype)
        expected = as_layout(definition(x, w, whole, layer), layout)
        np.testing.assert_array_equal(y, expected.astype(y.dtype))


@pytest.mark.parametrize("weight_layout", WEIGHT_LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("regions", [(1, 1), (2, 3), (3, 2)], ids=str)
@pytest.mark.parametrize("layer", ["3x3", "strides", "dilated with strides", "much padding"])
def test_kernels_of_regions(layer: str, regions: tuple[int, int], layout: str, weight_layout: str) -> None:
    n, c, h, wide, o, kernel, *_ = LAYERS[layer]
    for dtype in ("float32", "float64", "int8"):
        x, w = numbers((n, c, h, wide), dtype), numbers((o, c, *kernel, *regions), dtype, 1)
        bias = numbers((o, *regions), dtype, 2)
        oh, ow = windows(x, layer).shape[4:]
        places = np.ix_(*(owners(out, count) for out, count in zip((oh, ow), regions, strict=True)))
        expected = definition(x, w[..., places[0], places[1]], bias[:, places[0], places[1]], layer)
        y = fastconv.locally_connected2d(
            as_layout(x, layout), as_weights(w, weight_layout),
            bias if weight_layout == "OIHWPQ" else bias.transpose(1, 2, 0), regions=regions, layout=layout,
            weight_layout=weight_layout, accuracy="strict", **steps(layer),
        )  # fmt: skip
        np.testing.assert_array_equal(y, as_layout(expected, layout).astype(y.dtype))


def owners(out: int, count: int) -> list[int]:
    """Return the region of each output row or column."""
    return [max(p for p in range(count) if p * out // count <= i) for i in range(out)]


def test_a_region_for_all_is_convolution() -> None:
    x, w = numbers((2, 3, 8, 9), "float32"), numbers((4, 3, 3, 3), "float32")
    y = fastconv.locally_connected2d(x, w[..., None, None], regions=1, padding="same", accuracy="strict")
    np.testing.assert_array_equal(y, fastconv.conv2d(x, w, padding="same", accuracy="strict"))


def test_weights_of_keras_and_jax() -> None:
    x, w, _ = drawn("3x3", "float32")
    expected = fastconv.locally_connected2d(x, w, padding=1)
    o, c, kh, kw, oh, ow = w.shape
    jax = w.reshape(o, c * kh * kw, oh, ow)
    np.testing.assert_array_equal(fastconv.locally_connected2d(x, jax, padding=1, kernel_size=3), expected)
    keras = as_weights(w, "PQHWIO").reshape(oh * ow, kh * kw * c, o)
    words: dict[str, Any] = {"weight_layout": "PQHWIO", "kernel_size": (3, 3), "padding": 1}
    np.testing.assert_array_equal(fastconv.locally_connected2d(x, keras, **words), expected)
    regions = fastconv.locally_connected2d(x, keras[:6], regions=(2, 3), **words)
    six = keras[:6].reshape(2, 3, kh, kw, c, o)
    np.testing.assert_array_equal(
        regions, fastconv.locally_connected2d(x, six, regions=(2, 3), padding=1, weight_layout="PQHWIO")
    )


@pytest.mark.parametrize("layer", ["3x3", "3x3 with strides", "much padding"])
@pytest.mark.parametrize("weight_layout", WEIGHT_LAYOUTS)
def test_infinite_weights_do_not_leak_out_of_the_padding(weight_layout: str, layer: str) -> None:
    x, w, _ = drawn(layer, "float32")
    infinite = np.full_like(w, np.inf)
    for regions in (None, (1, 1)):
        kernels = as_weights(infinite if regions is None else infinite[..., :1, :1], weight_layout)
        y = fastconv.locally_connected2d(
            np.abs(x) + 1, kernels, regions=regions, weight_layout=weight_layout, **steps(layer)
        )
        inside = windows(np.ones_like(x), layer).sum(axis=(1, 2, 3))[:, None] > 0
        np.testing.assert_array_equal(y, np.broadcast_to(np.where(inside, np.inf, 0), y.shape))


@pytest.mark.parametrize("weight_layout", WEIGHT_LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("regions", [None, (2, 2)], ids=str)
def test_ways_to_give_and_take_arrays(
    regions: Any, layout: str, weight_layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastconv.runtime.launcher.PARALLEL_SECONDS", 0.0)
    x, w = numbers((2, 8, 17, 18), "float32"), numbers((9, 8, 3, 3, *(regions or (17, 18))), "float32", 1)
    given, kernels = as_layout(x, layout), as_weights(w, weight_layout)
    words: dict[str, Any] = {
        "layout": layout,
        "weight_layout": weight_layout,
        "regions": regions,
        "padding": "same",
    }
    expected = fastconv.locally_connected2d(given, kernels, **words)
    for threads in (1, 2):
        np.testing.assert_array_equal(
            fastconv.locally_connected2d(given, kernels, threads=threads, **words), expected
        )
    np.testing.assert_array_equal(fastconv.locally_connected2d(given[1], kernels, **words), expected[1])
    strided = np.repeat(kernels, 2, axis=-1)[..., ::2]
    np.testing.assert_array_equal(
        fastconv.locally_connected2d(given.astype(">f4"), strided, **words), expected
    )
    for step in (1, 2):
        out = np.zeros((*expected.shape[:-1], step * expected.shape[-1]), np.float32)[..., ::step]
        assert fastconv.locally_connected2d(given, kernels, out=out, **words) is out
        np.testing.assert_array_equal(out, expected)
    assert fastconv.locally_connected2d(given[:0], kernels, **words).shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("weight_layout", WEIGHT_LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_error_of_a_plain_sum(dtype: str, weight_layout: str) -> None:
    rng = np.random.default_rng(3)
    x, w = (
        rng.standard_normal((2, 40, 6, 7)).astype(dtype),
        rng.standard_normal((5, 40, 3, 3, 6, 7)).astype(dtype),
    )
    y = fastconv.locally_connected2d(x, as_weights(w, weight_layout), padding=1, weight_layout=weight_layout)
    exact = definition(x.astype(np.longdouble), w.astype(np.longdouble), None, "3x3")
    magnitude = definition(np.abs(x), np.abs(w), None, "3x3")
    assert (np.abs(y - exact) <= 360 * np.finfo(dtype).eps * magnitude).all()


X = np.ones((2, 3, 5, 6), np.float32)
W = np.ones((4, 3, 3, 3, 3, 4), np.float32)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "kind of w": (lambda: fastconv.locally_connected2d(X, [1]), TypeError, "w must be an array, got list"),
    "dtypes": (
        lambda: fastconv.locally_connected2d(X, W.astype(float)), ValueError,
        "x and w must have the same dtype, got float32 and float64",
    ),
    "layout": (lambda: fastconv.locally_connected2d(X, W, layout="HWC"), ValueError, "layout must be one of"),
    "weight_layout": (
        lambda: fastconv.locally_connected2d(X, W, weight_layout="OIHW"), ValueError,
        "weight_layout must be one of 'OIHWPQ', 'PQHWIO', got 'OIHW'",
    ),
    "axes of w": (
        lambda: fastconv.locally_connected2d(X, W[0]), ValueError,
        "w must have 6 axes, or 4 with kernel_size, for weight_layout='OIHWPQ', got 5",
    ),
    "empty w": (lambda: fastconv.locally_connected2d(X, W[:0]), ValueError, "w must have at least one of each"),
    "channels": (
        lambda: fastconv.locally_connected2d(X, W[:, :2]), ValueError,
        r"w must have C = 3 input channels, got 2 \(x has C=3 with layout='NCHW'; w, of shape .*='OIHWPQ'\)",
    ),
    "kernel_size of another w": (
        lambda: fastconv.locally_connected2d(X, W, kernel_size=2), ValueError,
        r"kernel_size must be that of w, \(3, 3\) in shape .*, got \(2, 2\)",
    ),
    "no kernel_size": (
        lambda: fastconv.locally_connected2d(X, W.reshape(4, 27, 3, 4)), ValueError,
        r"kernel_size must be given when w has 4 axes, .* \(4, 27, 3, 4\)",
    ),
    "taps that are no channels": (
        lambda: fastconv.locally_connected2d(X, W.reshape(4, 27, 3, 4), kernel_size=2), ValueError,
        r"w must have C \* kh \* kw values per kernel, a multiple of 2 \* 2, got 27",
    ),
    "places": (
        lambda: fastconv.locally_connected2d(X, W[..., :3]), ValueError,
        r"w must have one kernel for each output pixel, 3 x 4, got 3 x 3 in shape .* with weight_layout='OIHWPQ'; one "
        r"kernel for several pixels needs regions=\(rows, columns\)",
    ),
    "places of Keras": (
        lambda: fastconv.locally_connected2d(
            X, np.ones((11, 27, 4), np.float32), kernel_size=3, weight_layout="PQHWIO"
        ), ValueError, "w must have one kernel for each output pixel, 3 x 4, got 11 in shape",
    ),
    "regions": (
        lambda: fastconv.locally_connected2d(X, W, regions=(1, 2)), ValueError,
        r"w must have one kernel for each region, 1 x 2, got 3 x 4 in shape .* with weight_layout='OIHWPQ'$",
    ),
    "too many regions": (
        lambda: fastconv.locally_connected2d(X, W, regions=(3, 5)), ValueError,
        r"regions must be at most one for each output pixel, \(3, 4\), got \(3, 5\)",
    ),
    "regions of another kind": (
        lambda: fastconv.locally_connected2d(X, W, regions="all"), TypeError, "regions must be an integer",  # type: ignore[arg-type]
    ),
    "kernel larger than the image": (
        lambda: fastconv.locally_connected2d(X, W, dilation=3), ValueError, "the kernel must not be larger than the",
    ),
    "stride": (lambda: fastconv.locally_connected2d(X, W, stride=0), ValueError, "stride must be at least 1, got 0"),
    "accuracy": (
        lambda: fastconv.locally_connected2d(X, W, accuracy="exact"), ValueError, "accuracy must be one of",
    ),
    "shape of bias": (
        lambda: fastconv.locally_connected2d(X, W, np.ones((3, 4, 4), np.float32)), ValueError,
        r"bias must have one value per output channel, shape \(4,\), or per place too, shape \(4, 3, 4\) with",
    ),
    "dtype of bias": (
        lambda: fastconv.locally_connected2d(X, W, np.ones(4)), ValueError, "bias must have the dtype of x",
    ),
    "threads": (lambda: fastconv.locally_connected2d(X, W, threads=-1), ValueError, "threads must be at least 1"),
    "shape of out": (
        lambda: fastconv.locally_connected2d(X, W, out=X), ValueError, r"out must have the shape of the result, \(2, 4",
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


def test_out_that_shares_memory_is_refused() -> None:
    memory = np.zeros(2 * 3 * 5 * 6 + W.size + 100, np.float32)
    w = memory[180 : 180 + W.size].reshape(W.shape)
    for start, name in ((0, "x"), (180, "w"), (182 + W.size, "bias")):
        bias = memory[180 + W.size : 184 + W.size]
        with pytest.raises(ValueError, match=f"out must not overlap {name}"):
            fastconv.locally_connected2d(
                memory[:180].reshape(X.shape), w, bias, out=memory[start : start + 96].reshape(2, 4, 3, 4)
            )
