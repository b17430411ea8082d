"""Transposed convolution and gradients: exact on small integers against the definition, and adjoint to each other."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from onnx_cases import DATA, attributes, generated, same, stored
from oracle import Array

import fastconv
from fastconv.machine import Machine
from fastconv.operators import spreading


def scattered(x: Array, w: Array, stride: Any, pads: Any, dilation: Any, extra: Any, groups: int) -> Array:
    """Return the transposed convolution of NCHW images by its definition: every pixel is spread over a window."""
    (n, c, h, wide), (_, per_group, kh, kw) = x.shape, w.shape
    (sh, sw), (dh, dw), ((top, bottom), (left, right)) = stride, dilation, pads
    full = np.zeros(
        (
            n,
            per_group * groups,
            (h - 1) * sh + dh * (kh - 1) + 1 + extra[0],
            (wide - 1) * sw + dw * (kw - 1) + 1 + extra[1],
        )
    )
    for i in range(c):
        first = i // (c // groups) * per_group
        for r in range(kh):
            for s in range(kw):
                view = full[:, first : first + per_group, r * dh :: sh, s * dw :: sw][:, :, :h, :wide]
                view += x[:, i, None] * w[i, :, r, s][None, :, None, None]
    return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]


class Draw:
    """One configuration, small, of small integers."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.groups = int(rng.choice([1, 1, 2, 3]))
        c, per_group = self.groups * int(rng.integers(1, 5)), int(rng.integers(1, 5))
        self.k, self.stride, self.dilation = self.pair(1, 6), self.pair(1, 5), self.pair(1, 4)
        self.extra = tuple(
            int(rng.integers(0, max(pair))) for pair in zip(self.stride, self.dilation, strict=True)
        )
        self.pads = tuple(
            tuple(int(v) for v in rng.integers(0, d * (k - 1) + 1, 2))
            for d, k in zip(self.dilation, self.k, strict=True)
        )
        self.x = self.integers(2, c, *self.pair(1, 9))
        self.w = self.integers(c, per_group, *self.k)
        self.bias = self.integers(per_group * self.groups)

    def pair(self, low: int, high: int) -> tuple[int, int]:
        first, second = self.rng.integers(low, high, 2)
        return int(first), int(second)

    def integers(self, *shape: int) -> Array:
        return self.rng.integers(-4, 5, shape).astype(np.float64)


@pytest.mark.parametrize("block", range(8))
def test_small_integers_are_exact(block: int) -> None:
    compared = 0
    for seed in range(block * 60, (block + 1) * 60):
        d = Draw(seed)
        expected = scattered(d.x, d.w, d.stride, d.pads, d.dilation, d.extra, d.groups)
        call: tuple[Any, ...] = (d.bias, d.stride, d.pads, d.extra, d.groups, d.dilation)
        if 0 in expected.shape:
            with pytest.raises(ValueError, match="the result would have"):
                fastconv.conv_transpose2d(d.x, d.w, *call)
            continue
        expected = expected + d.bias[:, None, None]
        y = fastconv.conv_transpose2d(d.x, d.w, *call, accuracy="strict")
        np.testing.assert_array_equal(y, expected)
        y = fastconv.conv_transpose2d(
            d.x.transpose(0, 2, 3, 1), d.w.transpose(2, 3, 1, 0), *call, layout="NHWC", weight_layout="HWOI",
            accuracy="strict",
        )  # fmt: skip
        np.testing.assert_array_equal(y.transpose(0, 3, 1, 2), expected)
        compared += 1
    assert compared > 30


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_adjoint_to_the_convolution(dtype: str, layout: str) -> None:
    """<conv(x, w), y> = <x, input gradient(y)> = <w, weight gradient(y)>, exactly, on small integers."""
    compared = 0
    for seed in range(60):
        d = Draw(seed)
        w = d.w.astype(dtype)
        x = d.integers(2, w.shape[1] * d.groups, 12, 11).astype(dtype)
        x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        words: dict[str, Any] = {"layout": layout, "accuracy": "strict"}
        call: tuple[Any, ...] = (d.stride, d.pads, d.dilation, d.groups)
        try:
            y = fastconv.conv2d(x, w, None, *call, **words)
        except ValueError:
            continue
        g = d.integers(*y.shape).astype(dtype)
        by_x = fastconv.conv2d_input_grad(x.shape, w, g, *call, **words)
        by_w = fastconv.conv2d_weight_grad(x, w.shape, g, *call, **words)
        assert (by_x.shape, by_w.shape, by_x.dtype, by_w.dtype) == (x.shape, w.shape, x.dtype, w.dtype)
        product = np.vdot(y.astype(np.float64), g)
        assert product == np.vdot(x.astype(np.float64), by_x) == np.vdot(w.astype(np.float64), by_w)
        axes = (0, 2, 3) if layout == "NCHW" else (0, 1, 2)
        np.testing.assert_array_equal(fastconv.conv2d_bias_grad(g, layout=layout), g.sum(axis=axes))
        compared += 1
    assert compared > 30


def test_most_phases_of_long_strides_meet_no_pixel() -> None:
    """They are filled with the bias at once, and no convolution is looked for in any of 250,000 of them."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-4, 5, shape).astype(np.float64) for shape in ((2, 3, 2, 3), (3, 2, 2, 3)))
    bias, pads = np.array([3.0, -5.0]), ((1, 0), (2, 1))
    expected = scattered(x, w, (500, 500), pads, (1, 1), (7, 499), 1) + bias[:, None, None]
    found = fastconv.conv_transpose2d(x, w, bias, 500, pads, (7, 499))
    np.testing.assert_array_equal(found, expected)
    report = fastconv.explain_conv_transpose2d(x, w, bias, 500, pads, (7, 499))
    assert len(report.problems) == w.shape[2] * w.shape[3]
    assert f"{500 * 500 - 6} phases meet no pixel" in report.route


def test_words_of_convolution() -> None:
    x, w = np.ones((3, 4, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
    y = fastconv.conv_transpose2d(x, w, stride=2, output_size=(10, 12), activation="relu", threads=2)
    assert y.shape == (2, 10, 12)
    out = np.empty_like(y)
    assert fastconv.conv_transpose2d(x, w, stride=2, output_size=(10, 12), out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_threads_and_weights_that_lie_anyhow(layout: str) -> None:
    """Phases of a kernel that divides, one by one and as a whole: the same bits for any number of threads."""
    rng = np.random.default_rng(0)
    for k, stride in (((4, 4), 2), ((2, 2), 2), ((3, 3), 2), ((3, 3), 1), ((6, 4), (3, 2))):
        x, w = rng.standard_normal((2, 24, 13, 12)), rng.standard_normal((24, 20, *k))
        x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        y = fastconv.conv_transpose2d(x, w, stride=stride, padding=1, layout=layout, threads=1)
        for threads, kernels in (
            (2, w),
            (1, np.asfortranarray(w)),
            (1, w.astype(">f8")),
            (2, w[:, ::-1][:, ::-1]),
        ):
            again = fastconv.conv_transpose2d(
                x, kernels, stride=stride, padding=1, layout=layout, threads=threads
            )
            np.testing.assert_array_equal(again, y)


X, W = np.ones((1, 4, 5, 5), np.float32), np.ones((4, 2, 3, 3), np.float32)
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "integers": ({"x": X.astype(np.int32)}, TypeError, "x must be of float32 or float64, got int32"),
    "two dtypes": (
        {"w": W.astype(np.float64)},
        ValueError,
        "w must have the dtype of x, float32, got float64",
    ),
    "channels": ({"w": W[:3]}, ValueError, "x has 4 channels and w takes 3"),
    "groups": ({"groups": 3}, ValueError, "groups divide them"),
    "no kernel": ({"w": W[:, :, :0]}, ValueError, "no empty axis"),
    "stride 0": ({"stride": 0}, ValueError, "stride"),
    "padding in words": ({"padding": "same"}, ValueError, "padding must be numbers"),
    "all taken away": ({"padding": 9}, ValueError, "the result would have -11 rows and -11 columns"),
    "output_padding": ({"output_padding": 1}, ValueError, "less than stride 1 or dilation 1"),
    "output_size": ({"output_size": (6, 7)}, ValueError, "output_padding of -1 rows"),
    "weight_layout": ({"weight_layout": "OIHW"}, ValueError, "weight_layout must be one of IOHW, HWOI"),
    "bias": ({"bias": np.ones(3, np.float32)}, ValueError, r"bias must be float32 of shape \(2,\)"),
    "out": ({"out": np.empty((1, 2, 6, 7), np.float32)}, ValueError, "out"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_are_named(kind: str) -> None:
    words, error, text = WRONG[kind]
    with pytest.raises(error, match=text):
        fastconv.conv_transpose2d(**{"x": X, "w": W, **words})


def test_gradients_name_a_wrong_shape() -> None:
    with pytest.raises(
        ValueError, match=r"grad_out must have the shape of the convolution's result, \(1, 4, 3, 3\)"
    ):
        fastconv.conv2d_input_grad((1, 2, 5, 5), W, np.ones((1, 4, 4, 3), np.float32))


def by_fastconv(node: Any, inputs: list[Array]) -> Array:
    given = attributes(node)
    x, w, *bias = inputs
    stride, dilation = tuple(given.pop("strides", (1, 1))), tuple(given.pop("dilations", (1, 1)))
    extra, groups = tuple(given.pop("output_padding", (0, 0))), given.pop("group", 1)
    given.pop("kernel_shape", None)
    word, size = given.pop("auto_pad", b"NOTSET").decode(), given.pop("output_shape", None)
    top, left, bottom, right = given.pop("pads", (0, 0, 0, 0))
    if word.startswith("SAME") and size is None:
        size = [length * step for length, step in zip(x.shape[2:], stride, strict=True)]
    if size is not None:
        # ONNX works the padding out from the size it asks for.
        totals = [
            s * (n - 1) + p + (k - 1) * d + 1 - out
            for s, n, p, k, d, out in zip(
                stride, x.shape[2:], extra, w.shape[2:], dilation, size, strict=True
            )
        ]
        begins = [t // 2 if word != "SAME_LOWER" else t - t // 2 for t in totals]
        if word != "SAME_UPPER":
            begins = [t - t // 2 for t in totals]
        extra = tuple(e + max(0, -t) for e, t in zip(extra, totals, strict=True))
        top, left = (max(0, begin) for begin in begins)
        bottom, right = (max(0, t) - max(0, begin) for t, begin in zip(totals, begins, strict=True))
    assert not given
    pads = ((top, bottom), (left, right))
    y: Array = fastconv.conv_transpose2d(x, w, *(bias or [None]), stride, pads, extra, groups, dilation)
    return y


CASES = [case for case in generated("convtranspose", "ConvTranspose") if case[2][0].ndim == 4]
FOLDERS = sorted(DATA.glob("pytorch-converted/test_ConvTranspose2d*"))


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_generated_onnx_cases(case: tuple[str, Any, list[Array], list[Array]]) -> None:
    _, node, inputs, outputs = case
    same(by_fastconv(node, inputs), outputs[0])


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_stored_onnx_cases(folder: Any) -> None:
    for node, tensors, expected in stored(folder, "ConvTranspose"):
        same(by_fastconv(node, [tensors[name] for name in node.input]), expected)


@pytest.mark.parametrize("block", range(2))
def test_weights_read_as_they_stand(block: int) -> None:
    """The way for few pixels and many weights is exact on small integers at any size."""
    spreads = 0

    def always(t: Any, w: Array) -> Any:
        nonlocal spreads
        if not w.flags.c_contiguous or t.h * t.w < spreading.TILES[0][0]:
            return None
        spreads += 1
        return spreading._work(t)

    with mock.patch.object(spreading, "work", always):
        for seed in range(block * 40, (block + 1) * 40):
            d = Draw(seed)
            expected = scattered(d.x, d.w, d.stride, d.pads, d.dilation, d.extra, d.groups)
            if 0 in expected.shape:
                continue
            call: tuple[Any, ...] = (d.stride, d.pads, d.extra, d.groups, d.dilation)
            y = fastconv.conv_transpose2d(
                d.x.astype(np.float32), d.w.astype(np.float32), None, *call, threads=2
            )
            np.testing.assert_array_equal(y, expected)
            y = fastconv.conv_transpose2d(
                d.x.transpose(0, 2, 3, 1), d.w, None, *call, layout="NHWC", threads=1
            )
            np.testing.assert_array_equal(y.transpose(0, 3, 1, 2), expected)
    assert spreads > 30


SMALL_CALLS = {
    "small": ((1, 16, 8, 8), (16, 16, 3, 3), {"stride": 2, "padding": 1}, True),
    "one convolution": ((1, 16, 8, 8), (16, 16, 2, 2), {"stride": 2}, True),
    "with a bias": ((1, 16, 8, 8), (16, 16, 3, 3), {"stride": 2, "bias": np.ones(16)}, False),
    "with an activation": ((1, 16, 8, 8), (16, 16, 3, 3), {"stride": 2, "activation": "relu"}, False),
    "many products": ((1, 64, 8, 8), (64, 128, 3, 3), {}, False),
    "many pixels": ((1, 4, 32, 32), (4, 4, 2, 2), {"stride": 2}, False),
    "fewer pixels than a tile has rows": ((1, 16, 2, 3), (16, 16, 3, 3), {}, False),
    "a large result": ((1, 2, 4, 4), (2, 2, 3, 3), {"stride": 100}, False),
}


@pytest.mark.parametrize("name", SMALL_CALLS)
def test_small_layers_are_spread_from_weights_as_they_stand(name: str) -> None:
    shape, w_shape, words, spread = SMALL_CALLS[name]
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, shape).astype(float), rng.integers(-3, 4, w_shape).astype(float)
    with mock.patch.object(spreading, "_work", wraps=spreading._work) as works:
        y = fastconv.conv_transpose2d(x, w, **words)
    assert works.call_count == int(spread)
    plan = fastconv.plan_conv_transpose2d(x.shape, w, **words)
    np.testing.assert_array_equal(y, plan(x))


@pytest.mark.parametrize("accuracy", ["strict", "standard"])
def test_few_pixels_of_many_weights(accuracy: str) -> None:
    """Sizes that take that way by themselves, against the same in float64 by phases of a larger batch."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, (1, 256, 5, 7)), rng.integers(-3, 4, (256, 240, 3, 3))
    assert w.astype(np.float32).nbytes > Machine.host().l2_bytes
    words: dict[str, Any] = {"stride": 2, "padding": 1, "accuracy": accuracy}
    y = fastconv.conv_transpose2d(x.astype(np.float32), w.astype(np.float32), **words)
    many = np.repeat(x.astype(float), 15, 0)
    assert many.shape[0] * 5 * 7 > 4 * spreading.FEW_PIXELS
    np.testing.assert_array_equal(
        y, fastconv.conv_transpose2d(many, w.astype(float), stride=2, padding=1)[:1]
    )
