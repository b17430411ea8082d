"""1-D convolution: exact on small integers against the definition, NumPy's words, and errors in its own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import Array

import fastconv

AXES = {"OIL": (0, 1, 2), "LIO": (2, 1, 0), "OLI": (0, 2, 1)}


def by_definition(
    x: Array, w: Array, stride: int, ends: tuple[int, int], dilation: int, groups: int
) -> Array:
    """Return the correlation of NCL sequences, tap by tap."""
    n, _, _ = x.shape
    o, i, k = w.shape
    x = np.pad(x, ((0, 0), (0, 0), ends))
    length = (x.shape[2] - dilation * (k - 1) - 1) // stride + 1
    y = np.zeros((n, o, length))
    for channel in range(o):
        first = channel // (o // groups) * i
        for tap in range(k):
            under = x[:, first : first + i, tap * dilation :: stride][:, :, :length]
            y[:, channel] += np.einsum("ncl,c->nl", under, w[channel, :, tap])
    return y


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_small_integers_are_exact(dtype: str) -> None:
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(60):
        g, k, stride, dilation = (int(v) for v in rng.integers(1, (4, 6, 4, 4)))
        c, o = g * int(rng.integers(1, 5)), g * int(rng.integers(1, 19))
        before, after = (int(v) for v in rng.integers(0, 5, 2))
        length = int(rng.integers(1, 40))
        if length + before + after < dilation * (k - 1) + 1:
            continue
        x, w = rng.integers(-4, 5, (2, c, length)), rng.integers(-4, 5, (o, c // g, k))
        bias = rng.integers(-4, 5, o)
        expected = by_definition(x, w, stride, (before, after), dilation, g) + bias[:, None]
        call: tuple[Any, ...] = (bias.astype(dtype), stride, (before, after), dilation, g)
        y = fastconv.conv1d(x.astype(dtype), w.astype(dtype), *call, accuracy="strict")
        np.testing.assert_array_equal(y, expected)
        order = str(rng.choice(list(AXES)))
        y = fastconv.conv1d(
            x.transpose(0, 2, 1).astype(dtype), w.transpose(AXES[order]).astype(dtype), *call, layout="NLC",
            weight_layout=order, accuracy="strict", threads=2,
        )  # fmt: skip
        np.testing.assert_array_equal(y.transpose(0, 2, 1), expected)
        compared += 1
    assert compared > 40


@pytest.mark.parametrize(
    "k, length", [(1, 1), (1, 5), (2, 2), (2, 9), (3, 5), (3, 8), (4, 4), (4, 9), (5, 5), (5, 8)]
)
@pytest.mark.parametrize("ours, numpys", [("full", "full"), ("same_lower", "same"), ("valid", "valid")])
def test_paddings_of_numpy(ours: str, numpys: Any, k: int, length: int) -> None:
    rng = np.random.default_rng(k)
    x, w = rng.integers(-9, 10, length).astype(float), rng.integers(-9, 10, k).astype(float)
    y = fastconv.conv1d(x[None], w[None, None], padding=ours)[0]
    np.testing.assert_array_equal(y, np.correlate(x, w, numpys))
    y = fastconv.conv1d(x[None], w[None, None, ::-1], padding=ours)[0]
    np.testing.assert_array_equal(y, np.convolve(x, w, numpys))


def test_causal_padding_sees_no_later_input() -> None:
    x, w = np.arange(12.0).reshape(1, 1, 12), np.ones((1, 1, 3))
    y = fastconv.conv1d(x, w, padding="causal", dilation=2)
    assert y.shape == x.shape
    later = x.copy()
    later[..., 7:] = np.nan
    np.testing.assert_array_equal(
        fastconv.conv1d(later, w, padding="causal", dilation=2)[..., :7], y[..., :7]
    )


def test_ways_to_give_and_take_arrays() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 3, 40)), rng.standard_normal((4, 3, 5))
    y = fastconv.conv1d(x, w, stride=(2,), padding=(2,), dilation=(1,))
    assert y.shape == (2, 4, 20)
    out = np.empty_like(y)
    assert fastconv.conv1d(x, w, stride=2, padding=2, out=out) is out
    np.testing.assert_array_equal(out, y)
    gaps = np.zeros((2, 4, 40))
    fastconv.conv1d(x, w, stride=2, padding=2, out=gaps[..., ::2])
    np.testing.assert_array_equal(gaps[..., ::2], y)
    np.testing.assert_array_equal(fastconv.conv1d(x[0], w, stride=2, padding=2), y[0])
    wide = fastconv.conv1d(x[..., ::-1], w, padding=(2, 0), padding_mode="reflect", activation="relu")
    np.testing.assert_allclose(
        wide, np.maximum(fastconv.conv1d(np.pad(x[..., ::-1], ((0, 0), (0, 0), (2, 0)), "reflect"), w), 0), atol=1e-13
    )  # fmt: skip


X, W = np.ones((1, 4, 9), np.float32), np.ones((2, 4, 3), np.float32)
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an image": ({"x": X[None]}, ValueError, "x.shape must have 2 or 3 axes, got 4"),
    "kernels of images": ({"w": W[None]}, ValueError, "w.shape must have 3 axes, got 4"),
    "layout": ({"layout": "NCHW"}, ValueError, "layout must be one of 'NCL', 'NLC', got 'NCHW'"),
    "weight_layout": ({"weight_layout": "OIHW"}, ValueError, "one of 'OIL', 'LIO', 'OLI'"),
    "two strides": ({"stride": (1, 2)}, ValueError, "stride must be an int or a tuple of one int, got 2"),
    "stride 0": ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    "half a dilation": ({"dilation": 0.5}, TypeError, "dilation must be an integer, got float"),
    "three ends": (
        {"padding": (1, 2, 3)},
        ValueError,
        r"padding must be an int, \(before, after\) or a word",
    ),
    "negative padding": ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    "padding in words": ({"padding": "some"}, ValueError, "'full', 'causal', got 'some'"),
    "channels": ({"w": W[:, :3]}, ValueError, "w must have C / groups = 4 / 1 = 4 input channels, got 3"),
    "kernel too long": ({"w": np.ones((2, 4, 10), np.float32)}, ValueError, "10"),
    "two dtypes": ({"w": W.astype(float)}, ValueError, "x and w must have the same dtype"),
    "bias": ({"bias": np.ones(3, np.float32)}, ValueError, "bias must have one value per output channel"),
    "size of out": ({"out": np.empty((1, 2, 8), np.float32)}, ValueError, r"the result, \(1, 2, 7\), got"),
    "out is x": ({"out": X[:, :2, :7]}, ValueError, "out must not overlap x"),
    "no array": ({"x": 3}, TypeError, "x must be an array"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_are_named(kind: str) -> None:
    words, error, text = WRONG[kind]
    with pytest.raises(error, match=text):
        fastconv.conv1d(**{"x": X, "w": W, **words})
