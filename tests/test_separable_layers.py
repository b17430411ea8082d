"""Depthwise and pointwise convolution in one: exact on small integers for every way to cut images into strips."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from oracle import Array, correlate

import fastconv
from fastconv import arguments
from fastconv.operators import running, strips


@pytest.fixture
def strip_height(request: pytest.FixtureRequest) -> Any:
    """Cut images into strips of so many rows, whatever the cache holds."""
    running._REMEMBERED.cache_clear()

    def heights(rows: int, _: int) -> list[tuple[int, int]]:
        return [(first, min(request.param, rows - first)) for first in range(0, rows, request.param)]

    with mock.patch.object(strips, "heights", heights):
        yield request.param
    running._REMEMBERED.cache_clear()


def expected(x: Array, first: Array, second: Array, **words: Any) -> Array:
    """Return both convolutions of NCHW images by the definition; kernels OIHW."""
    one = arguments.problem(x.shape, first.shape, groups=x.shape[1], dtype="float64", **words)
    y = correlate(one, x.astype(np.float64), first.astype(np.float64))
    two = arguments.problem(y.shape, second.shape, dtype="float64")
    return correlate(two, y, second.astype(np.float64))


#: Channels, multiplier, outputs, rows, columns; kernel, stride, padding, dilation.
CASES: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "3x3": ((5, 1, 7, 13, 11), ((3, 3), 1, 1, 1)),
    "3x3 stride 2": ((17, 1, 33, 12, 9), ((3, 3), 2, "same", 1)),
    "5x4 multiplier 2": ((4, 2, 20, 11, 18), ((5, 4), (1, 2), ((2, 1), (0, 3)), 1)),
    "3x2 dilation 2": ((16, 1, 16, 14, 10), ((3, 2), (2, 1), 2, 2)),
    "1x1": ((3, 3, 5, 9, 8), ((1, 1), 1, 0, 1)),
    "strips in the padding": ((3, 1, 4, 6, 5), ((2, 2), 1, ((5, 7), (0, 0)), 1)),
}


@pytest.mark.parametrize("strip_height", [1, 3, 100], indirect=True, ids="strips of {} rows".format)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", CASES)
def test_small_integers_are_exact(case: str, layout: str, strip_height: int) -> None:
    (c, m, o, h, w), (kernel, stride, padding, dilation) = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, c, h, w))
    first, second = rng.integers(-3, 4, (c * m, 1, *kernel)), rng.integers(-3, 4, (o, c * m, 1, 1))
    right = expected(x, first, second, stride=stride, padding=padding, dilation=dilation)
    images = x if layout == "NCHW" else x.transpose(0, 2, 3, 1)
    for dtype in ("float32", "float64"):
        call = (
            images.astype(dtype),
            first.astype(dtype),
            second.astype(dtype),
            None,
            stride,
            padding,
            dilation,
        )
        words: dict[str, Any] = {"layout": layout, "accuracy": "strict"}
        y = fastconv.separable_conv2d(*call, weight_layout="OIHW", **words)
        np.testing.assert_array_equal(y if layout == "NCHW" else y.transpose(0, 3, 1, 2), right)
        again = fastconv.separable_conv2d(*call, weight_layout="OIHW", threads=2, **words)
        np.testing.assert_array_equal(again, y)
        tensorflows = [
            np.ascontiguousarray(first.reshape(c, m, *kernel).transpose(2, 3, 0, 1)).astype(dtype),
            np.ascontiguousarray(second.transpose(2, 3, 1, 0)).astype(dtype),
        ]
        again = fastconv.separable_conv2d(call[0], *tensorflows, *call[3:], **words)
        np.testing.assert_array_equal(again, y)


@pytest.mark.parametrize("strip_height", [2, 100], indirect=True, ids="strips of {} rows".format)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_biases_and_activations(layout: str, strip_height: int) -> None:
    rng = np.random.default_rng(1)
    x, first, second = (
        rng.standard_normal((8, 9, 7)),
        rng.standard_normal((3, 3, 8, 1)),
        rng.standard_normal((1, 1, 8, 6)),
    )
    x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(1, 2, 0))
    middle, last = rng.standard_normal(8), rng.standard_normal(6)
    words: dict[str, Any] = {"layout": layout}
    between = fastconv.depthwise_conv2d(x, first, middle, padding=1, activation="relu6", **words)
    right = fastconv.conv2d(between, second, last, activation="sigmoid", weight_layout="HWIO", **words)
    call: dict[str, Any] = words | {
        "padding": 1, "depthwise_bias": middle, "depthwise_activation": "relu6", "activation": "sigmoid",
    }  # fmt: skip
    y = fastconv.separable_conv2d(x, first, second, last, **call)
    np.testing.assert_allclose(y, right, atol=1e-13)
    out = np.empty_like(y)
    assert fastconv.separable_conv2d(x, first, second, last, out=out, **call) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("strip_height", [3], indirect=True, ids="strips of {} rows".format)
def test_infinite_weights_never_meet_the_padding(strip_height: int) -> None:
    first = np.ones((3, 3, 4, 1), np.float32)
    first[0, 0, 1] = np.inf
    x, second = np.zeros((1, 9, 9, 4), np.float32), np.ones((1, 1, 4, 2), np.float32)
    x[0, 4, 4] = 1
    y = fastconv.separable_conv2d(x, first, second, padding=1, layout="NHWC")
    between = fastconv.depthwise_conv2d(x, first, padding=1, layout="NHWC")
    np.testing.assert_array_equal(y, fastconv.conv2d(between, second, layout="NHWC", weight_layout="HWIO"))
    assert np.isfinite(y[0, 0]).all() and np.isposinf(y[0, 5, 5]).all()


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_padding_modes(mode: str) -> None:
    rng = np.random.default_rng(2)
    x, first, second = (
        rng.standard_normal((2, 9, 8, 3)),
        rng.standard_normal((3, 3, 3, 1)),
        np.ones((1, 1, 3, 2)),
    )
    y = fastconv.separable_conv2d(x, first, second, padding=1, padding_mode=mode, layout="NHWC")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect" if mode == "reflect" else "wrap")
    np.testing.assert_allclose(y, fastconv.separable_conv2d(padded, first, second, layout="NHWC"), atol=1e-13)


def test_empty_batch() -> None:
    x = np.ones((0, 9, 8, 3), np.float32)
    y = fastconv.separable_conv2d(
        x, np.ones((3, 3, 3, 1), np.float32), np.ones((1, 1, 3, 2), np.float32), layout="NHWC"
    )
    assert y.shape == (0, 7, 6, 2)


X, FIRST, SECOND = (np.ones(shape, np.float32) for shape in ((1, 4, 9, 9), (3, 3, 4, 2), (1, 1, 8, 5)))
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "integers": ({"x": X.astype(int)}, TypeError, "x must be of float32 or float64, got int64"),
    "two dtypes": ({"pointwise_w": SECOND.astype(float)}, ValueError, "pointwise_w must have the dtype of x, float32"),
    "channels": ({"depthwise_w": FIRST[:, :, :3]}, ValueError, r"depthwise_w must have C = 4 channels"),
    "channels between": (
        {"pointwise_w": SECOND[:, :, :4]}, ValueError, r"with C \* M = 8 .*, got \(1, 1, 4, 5\)",
    ),
    "no 1x1 kernels": ({"pointwise_w": np.ones((2, 1, 8, 5), np.float32)}, ValueError, "pointwise_w must have shape"),
    "no outputs": ({"pointwise_w": SECOND[..., :0]}, ValueError, "pointwise_w must have shape"),
    "weight_layout": ({"weight_layout": "OIHW"}, ValueError, r"depthwise_w must have shape \(C \* M, 1, kh, kw\)"),
    "layout": ({"layout": "CHW"}, ValueError, "layout must be one of"),
    "stride 0": ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "kernel too large": ({"depthwise_w": np.ones((10, 3, 4, 2), np.float32)}, ValueError, "10"),
    "bias": ({"bias": np.ones(8, np.float32)}, ValueError, r"bias must be float32 of shape \(5,\), got float32"),
    "depthwise_bias": ({"depthwise_bias": np.ones(8)}, ValueError, r"depthwise_bias must be float32 of shape \(8,\)"),
    "activation": ({"depthwise_activation": "swish"}, ValueError, "activation must be one of"),
    "accuracy": ({"accuracy": "high"}, ValueError, "accuracy must be one of"),
    "threads": ({"threads": 0}, ValueError, "threads must be at least 1"),
    "out": ({"out": np.empty((1, 5, 9, 9), np.float32)}, ValueError, r"the result, \(1, 5, 7, 7\)"),
    "out is x": ({"out": np.broadcast_to(X[:, :1, :7, :7], (1, 5, 7, 7))}, ValueError, "out must be writeable"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_are_named(kind: str) -> None:
    words, error, text = WRONG[kind]
    with pytest.raises(error, match=text):
        fastconv.separable_conv2d(**{"x": X, "depthwise_w": FIRST, "pointwise_w": SECOND, **words})
