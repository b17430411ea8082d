"""Depthwise convolution in TensorFlow's words: channels of the result, layouts of the kernels, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import Array, correlate

import fastconv
from fastconv import arguments


def expected(x: Array, w: Array, **words: Any) -> Array:
    """Return the depthwise convolution of NCHW images by (kh, kw, C, M) kernels by the definition."""
    c, m = w.shape[2:]
    kernels = np.stack([w[:, :, i, j] for i in range(c) for j in range(m)])[:, None]
    problem = arguments.problem(x.shape, kernels.shape, groups=c, dtype=x.dtype.name, **words)
    return correlate(problem, x, kernels)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_small_integers_are_exact(dtype: str, layout: str, m: int) -> None:
    rng = np.random.default_rng(m)
    for c, k, stride, padding, dilation in (
        (1, (3, 3), 1, "same", 1), (5, (3, 2), (2, 1), 1, 1), (17, (5, 5), 2, "same", 1), (4, (3, 3), 2, 2, 2),
    ):  # fmt: skip
        x, w = rng.integers(-4, 5, (2, c, 13, 11)), rng.integers(-4, 5, (*k, c, m))
        words: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        right = expected(x, w, **words)
        images = (x if layout == "NCHW" else x.transpose(0, 2, 3, 1)).astype(dtype)
        y = fastconv.depthwise_conv2d(images, w.astype(dtype), None, stride, padding, dilation, layout=layout)
        np.testing.assert_array_equal(y if layout == "NCHW" else y.transpose(0, 3, 1, 2), right)
        torchs = np.ascontiguousarray(w.transpose(2, 3, 0, 1)).reshape(c * m, 1, *k).astype(dtype)
        again = fastconv.depthwise_conv2d(images, torchs, layout=layout, weight_layout="OIHW", **words)
        np.testing.assert_array_equal(again, y)


def test_words_of_convolution() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 9, 8)), rng.standard_normal((3, 3, 6, 2))
    bias, residual = rng.standard_normal(12), rng.standard_normal((2, 12, 9, 8))
    words: dict[str, Any] = {"padding": 1, "activation": "relu", "residual": residual, "threads": 2}
    y = fastconv.depthwise_conv2d(x, w, bias, **words)
    right = np.maximum(expected(x, w, padding=1) + bias[:, None, None] + residual, 0)
    np.testing.assert_allclose(y, right, atol=1e-13)
    out = np.empty_like(y)
    assert fastconv.depthwise_conv2d(x, w, bias, out=out, **words) is out
    np.testing.assert_array_equal(out, y)
    assert fastconv.depthwise_conv2d(x[0], w).shape == (12, 7, 6)


X, W = np.ones((1, 4, 9, 9), np.float32), np.ones((3, 3, 4, 2), np.float32)
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "channels": ({"w": W[:, :, :3]}, ValueError, r"w must have C = 4 channels .*, got 3 in shape"),
    "channels of PyTorch's": (
        {"weight_layout": "OIHW"}, ValueError, r"shape \(C \* M, 1, kh, kw\) with C = 4 .*, got \(3, 3, 4, 2\)",
    ),
    "layout": ({"layout": "NHWC"}, ValueError, "w must have C = 9 channels"),
    "weight_layout": ({"weight_layout": "HWIO"}, ValueError, "one of 'HWCM', 'OIHW', got 'HWIO'"),
    "three axes": ({"w": W[0]}, ValueError, "w.shape must have 4 axes, got 3"),
    "no kernel": ({"w": W[..., :0]}, ValueError, "w must have at least one of each"),
    "two dtypes": ({"w": W.astype(float)}, ValueError, "x and w must have the same dtype"),
    "bias": ({"bias": np.ones(4, np.float32)}, ValueError, r"shape \(8,\), got \(4,\)"),
    "stride 0": ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "out": ({"out": np.empty((1, 4, 7, 7), np.float32)}, ValueError, "out must have the shape of the result"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_are_named(kind: str) -> None:
    words, error, text = WRONG[kind]
    with pytest.raises(error, match=text):
        fastconv.depthwise_conv2d(**{"x": X, "w": W, **words})


def test_out_inside_the_kernels_is_refused() -> None:
    memory = np.ones(4 * 9 * 9, np.float32)
    with pytest.raises(ValueError, match="out must not overlap w"):
        fastconv.depthwise_conv2d(
            X, memory[: 3 * 3 * 4].reshape(3, 3, 4, 1), out=memory[: 4 * 7 * 7].reshape(1, 4, 7, 7)
        )
