"""The matrix of windows against NumPy's sliding windows; folding as its transpose; ONNX and PyTorch; errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_cases import attributes, generated, same, take_padding
from oracle import Array

import fastconv
from fastconv.machine import Machine

LANES = Machine.host().lanes("float32")
LAYOUTS = ("NCHW", "NHWC")
#: kernel, stride, ((top, bottom), (left, right)), dilation
WINDOWS = {
    "3x3": ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3x3 stride 2": ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "1x1": ((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "2x4 stride 3x4": ((2, 4), (3, 4), ((0, 1), (2, 0)), (1, 1)),
    "dilated": ((3, 2), (1, 2), ((2, 3), (0, 5)), (3, 2)),
    "much padding": ((2, 2), (1, 3), ((4, 3), (5, 6)), (1, 1)),
    "7x7 stride 2": ((7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1)),
}
SHAPES = [(2, 3, 9, 11), (1, LANES + 1, 8, 7), (1, 2, 10, 2 * LANES + 3)]
MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "circular": "wrap",
}


def windows(x: Array, name: str, mode: str = "constant") -> Array:
    """Return the windows of NCHW images as (N, C, kh, kw, oh, ow)."""
    kernel, stride, padding, dilation = WINDOWS[name]
    padded = np.pad(x, ((0, 0), (0, 0), *padding), mode=mode)  # type: ignore[call-overload]
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    dense = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    picked = dense[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return picked.transpose(0, 1, 4, 5, 2, 3)


def matrix(six: Array, layout: str) -> Array:
    """Return windows (N, C, kh, kw, oh, ow) as the matrix of a layout."""
    n, c, kh, kw, oh, ow = six.shape
    if layout == "NCHW":
        return six.reshape(n, c * kh * kw, oh * ow)
    return six.transpose(0, 4, 5, 2, 3, 1).reshape(n, oh * ow, kh * kw * c)


def as_layout(x: Array, layout: str) -> Array:
    return np.ascontiguousarray(x if layout == "NCHW" else x.transpose(0, 2, 3, 1))


def numbers(shape: tuple[int, ...], dtype: str) -> Array:
    drawn: Array = np.random.default_rng(0).integers(0, 9, shape).astype(dtype)
    return drawn


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint32", "int64"])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_as_a_matrix(name: str, dtype: str, layout: str) -> None:
    for shape in SHAPES:
        x = numbers(shape, dtype)
        y = fastconv.im2col(as_layout(x, layout), *WINDOWS[name], layout=layout)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, matrix(windows(x, name), layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_padding_modes(mode: str, layout: str) -> None:
    for name in ("3x3 stride 2", "dilated", "7x7 stride 2"):
        x = numbers((2, 3, 9, 11), "float32")
        y = fastconv.im2col(as_layout(x, layout), *WINDOWS[name], layout=layout, padding_mode=mode)
        np.testing.assert_array_equal(y, matrix(windows(x, name, MODES[mode]), layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint32", "int64"])
@pytest.mark.parametrize("name", WINDOWS)
def test_folding_is_the_transpose(name: str, dtype: str, layout: str) -> None:
    """<im2col(x), m> = <x, col2im(m)>, and each pixel is the sum over the places where im2col puts it."""
    for shape in SHAPES:
        n, c, h, w = shape
        places = np.arange(1.0, n * c * h * w + 1).reshape(shape)
        put = matrix(windows(places, name), layout).astype(int)
        m = numbers(put.shape, dtype)
        expected = np.bincount(put.ravel(), m.ravel().astype(float), n * c * h * w + 1)[1:].reshape(shape)
        y = fastconv.col2im(m, (h, w), *WINDOWS[name], layout=layout)
        sums = {"float16": "float16", "int8": "int32", "uint32": "int64"}.get(dtype, dtype)
        assert y.dtype == sums
        np.testing.assert_array_equal(y, as_layout(expected, layout).astype(sums))


def test_product_with_the_matrix_is_convolution() -> None:
    x, w = numbers((2, 3, 9, 11), "float32"), numbers((4, 3, 3, 2), "float32")
    words: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 3)}
    y = np.matmul(w.reshape(4, -1), fastconv.im2col(x, (3, 2), **words))
    expected = fastconv.conv2d(x, w, **words)
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)
    rows = fastconv.im2col(as_layout(x, "NHWC"), (3, 2), layout="NHWC", **words)
    y = rows @ w.transpose(2, 3, 1, 0).reshape(-1, 4)
    np.testing.assert_array_equal(y.reshape(as_layout(expected, "NHWC").shape), as_layout(expected, "NHWC"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ways_to_give_and_take_arrays(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastconv.runtime.launcher.PARALLEL_SECONDS", 0.0)
    x = as_layout(numbers((2, 40, 21, 22), "float32"), layout)
    columns = fastconv.im2col(x, 3, 2, "same", layout=layout)
    images = fastconv.col2im(columns, (21, 22), 3, 2, "same", layout=layout)
    operators: list[tuple[Callable[..., Any], Array, Array]] = [
        (lambda a, **words: fastconv.im2col(a, 3, 2, "same", layout=layout, **words), x, columns),
        (
            lambda a, **words: fastconv.col2im(a, (21, 22), 3, 2, "same", layout=layout, **words),
            columns,
            images,
        ),
    ]
    for operator, given, expected in operators:
        for threads in (1, 2):
            np.testing.assert_array_equal(operator(given, threads=threads), expected)
        np.testing.assert_array_equal(operator(given[1]), expected[1])
        np.testing.assert_array_equal(operator(np.repeat(given, 2, axis=-1)[..., ::2]), expected)
        np.testing.assert_array_equal(operator(given.astype(">f4")), expected)
        for step in (1, 2):
            out = np.zeros((*expected.shape[:-1], step * expected.shape[-1]), np.float32)[..., ::step]
            assert operator(given, out=out) is out
            np.testing.assert_array_equal(out, expected)
        assert operator(given[:0]).shape == (0, *expected.shape[1:])


COL2IM = [case for case in generated("col2im", "Col2Im") if len(case[2][1]) == 2]


def test_cases_of_onnx_are_there() -> None:
    names = {name for name, *_ in COL2IM}
    assert names >= {"test_col2im", "test_col2im_strides", "test_col2im_pads", "test_col2im_dilations"}


@pytest.mark.parametrize(("name", "node", "inputs", "outputs"), COL2IM, ids=[name for name, *_ in COL2IM])
def test_cases_of_onnx(name: str, node: Any, inputs: list[Array], outputs: list[Array]) -> None:
    given = attributes(node)
    columns, size, kernel = inputs
    words = {
        "stride": tuple(given.pop("strides", (1, 1))),
        "dilation": tuple(given.pop("dilations", (1, 1))),
        "padding": take_padding(given),
    }
    assert not given, f"unknown attributes {given}"
    same(fastconv.col2im(columns, tuple(size), tuple(kernel), **words), outputs[0])


@pytest.mark.peer
@pytest.mark.parametrize("block", range(8))
def test_drawn_configurations_of_pytorch(block: int) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    functional = torch.nn.functional
    rng = np.random.default_rng(block)

    def pair(low: int, high: int) -> tuple[int, int]:
        first, second = rng.integers(low, high, 2)
        return int(first), int(second)

    compared = 0
    for _ in range(300):
        shape = (int(rng.integers(1, 3)), int(rng.choice([1, 2, 3, 5, 16, 17, 33])), *pair(1, 30))
        x = rng.integers(-4, 5, shape).astype(rng.choice(["float32", "float64"]))
        kernel, stride, padding, dilation = pair(1, 6), pair(1, 5), pair(0, 4), pair(1, 4)
        try:
            columns = functional.unfold(torch.from_numpy(x), kernel, dilation, padding, stride)
        except RuntimeError:
            with pytest.raises(ValueError, match="the kernel must not be larger than the padded image"):
                fastconv.im2col(x, kernel, stride, padding, dilation)
            continue
        images = functional.fold(columns, shape[2:], kernel, dilation, padding, stride).numpy()
        for layout in LAYOUTS:
            n, c, h, w = shape
            y = fastconv.im2col(as_layout(x, layout), kernel, stride, padding, dilation, layout=layout)
            folded = fastconv.col2im(y, (h, w), kernel, stride, padding, dilation, layout=layout)
            np.testing.assert_array_equal(folded, as_layout(images, layout))
            if layout == "NHWC":
                y = y.reshape(n, -1, kernel[0] * kernel[1], c).transpose(0, 3, 2, 1).reshape(columns.shape)
            np.testing.assert_array_equal(y, columns.numpy())
        compared += 1
    assert compared > 200


X = np.ones((2, 3, 7, 8), np.float32)
COLUMNS = np.ones((2, 12, 6), np.float32)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "kind of x": (lambda: fastconv.im2col(1, 2), TypeError, "x must be an array, got int"),
    "axes of x": (lambda: fastconv.im2col(X[0, 0], 2), ValueError, "x.shape must have 3 or 4 axes, got 2"),
    "layout": (lambda: fastconv.im2col(X, 2, layout="HWC"), ValueError, "layout must be one of"),
    "kernel_size": (lambda: fastconv.im2col(X, (2, 0)), ValueError, "kernel_size must be at least 1, got 0"),
    "window larger than the image": (
        lambda: fastconv.im2col(X, 9, padding=(1, 0)), ValueError,
        "the kernel must not be larger than the padded image, got 9 kernel columns",
    ),
    "padding_mode": (
        lambda: fastconv.im2col(X, 3, padding=1, padding_mode="edge"), ValueError, "padding_mode must be one of",
    ),
    "out over x": (
        lambda: fastconv.im2col(X, 1, out=X.reshape(2, 3, 56)), ValueError, "out must not overlap x",
    ),
    "threads": (lambda: fastconv.im2col(X, 1, threads=1.0), TypeError, "threads must be an integer"),  # type: ignore[arg-type]
    "kind of columns": (lambda: fastconv.col2im("c", 3, 2), TypeError, "columns must be an array, got str"),
    "axes of columns": (
        lambda: fastconv.col2im(COLUMNS[0, 0], 3, 2), ValueError, "columns.shape must have 2 or 3 axes, got 1",
    ),
    "output_size": (lambda: fastconv.col2im(COLUMNS, 0, 2), ValueError, "output_size must be at least 1, got 0"),
    "rows that are no channels": (
        lambda: fastconv.col2im(COLUMNS, 4, (3, 3)), ValueError,
        r"columns must have C \* kh \* kw rows, a multiple of 3 \* 3, got 12 in shape \(2, 12, 6\) with layout='NCHW'",
    ),
    "no channel": (lambda: fastconv.col2im(COLUMNS[:, :0], 4, 2), ValueError, r"columns must have C \* kh"),
    "columns that are no channels": (
        lambda: fastconv.col2im(COLUMNS, 4, 4, layout="NHWC"), ValueError,
        r"columns must have C \* kh \* kw columns, a multiple of 4 \* 4, got 6 in shape",
    ),
    "other windows": (
        lambda: fastconv.col2im(COLUMNS, (4, 5), 2), ValueError,
        r"columns must have one column for each window, 3 \* 4 = 12 for images of 4 x 5, got 6 in shape",
    ),
    "other windows, NHWC": (
        lambda: fastconv.col2im(COLUMNS, 3, (1, 2), layout="NHWC"), ValueError,
        r"columns must have one row for each window, 3 \* 2 = 6 for images of 3 x 3, got 12 in shape",
    ),
    "out over columns": (
        lambda: fastconv.col2im(COLUMNS, (1, 6), 1, out=COLUMNS.reshape(2, 12, 1, 6)), ValueError,
        "out must not overlap columns",
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
