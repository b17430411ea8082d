"""PyTorch's operators beside convolution and pooling, on thousands of drawn configurations of small integers.

Channels come from few values and the rest is drawn freely: most configurations cost a choice of algorithm, but no new
kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import Array

import fastconv

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.peer

functional = torch.nn.functional

DRAWS = 500
in_blocks = pytest.mark.parametrize("block", range(5))


class Draw:
    """One configuration; everything small, and of whole numbers, so that results are equal to the last bit."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.groups = int(rng.choice([1, 1, 1, 2]))
        self.c, self.o = (self.groups * int(rng.choice([1, 3, 8])) for _ in range(2))
        self.n, self.size = int(rng.integers(1, 3)), self.pair(1, 10)
        self.kernel, self.stride, self.dilation = self.pair(1, 5), self.pair(1, 4), self.pair(1, 3)
        self.padding = tuple(int(rng.integers(0, k + 1)) for k in self.kernel)
        self.extra = tuple(
            int(rng.integers(0, max(s, d))) for s, d in zip(self.stride, self.dilation, strict=True)
        )
        self.dtype = str(rng.choice(["float32", "float64"]))
        self.layout = str(rng.choice(["NCHW", "NHWC"]))
        self.bias = bool(rng.integers(2))

    def pair(self, low: int, high: int) -> tuple[int, ...]:
        return tuple(int(value) for value in self.rng.integers(low, high, 2))

    def whole(self, *shape: int) -> Array:
        drawn: Array = self.rng.integers(-4, 5, shape).astype(self.dtype)
        return drawn

    @property
    def out(self) -> list[int]:
        """Rows and columns of the convolution with that padding."""
        return [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        ]

    def laid(self, x: Array) -> Array:
        """Return NCHW images in the layout."""
        return np.ascontiguousarray(x if self.layout == "NCHW" else x.transpose(0, 2, 3, 1))

    def same(self, y: Array, expected: Any, what: str) -> None:
        """Compare images of the layout with PyTorch's."""
        images = y if self.layout == "NCHW" or y.ndim != 4 else y.transpose(0, 3, 1, 2)
        told = {name: value for name, value in vars(self).items() if name != "rng"}
        assert y.dtype == self.dtype
        np.testing.assert_array_equal(images, expected.numpy(), err_msg=f"{what} of {told}")


def draws(operator: int, block: int) -> list[Draw]:
    rng = np.random.default_rng((operator, block))
    return [Draw(rng) for _ in range(DRAWS)]


def as_tensors(*arrays: Array | None) -> list[Any]:
    return [None if array is None else torch.from_numpy(array) for array in arrays]


@in_blocks
def test_transposed(block: int) -> None:
    compared = 0
    for d in draws(1, block):
        x, w = d.whole(d.n, d.c, *d.size), d.whole(d.c, d.o // d.groups, *d.kernel)
        bias = d.whole(d.o) if d.bias else None
        least = [
            (size - 1) * s - 2 * p + dil * (k - 1) + e + 1
            for size, s, p, dil, k, e in zip(
                d.size, d.stride, d.padding, d.dilation, d.kernel, d.extra, strict=True
            )
        ]
        if min(least) < 1:
            continue
        call = (d.stride, d.padding, d.extra, d.groups, d.dilation)
        expected = functional.conv_transpose2d(*as_tensors(x, w, bias), *call)
        y = fastconv.conv_transpose2d(d.laid(x), w, bias, *call, layout=d.layout, accuracy="strict")
        d.same(y, expected, "transposed convolution")
        compared += 1
    assert compared > 0.6 * DRAWS


@in_blocks
def test_gradients(block: int) -> None:
    compared = 0
    for d in draws(2, block):
        if min(d.out) < 1:
            continue
        x, w = d.whole(d.n, d.c, *d.size), d.whole(d.o, d.c // d.groups, *d.kernel)
        g = d.whole(d.n, d.o, *d.out)
        by_x, by_w, by_bias = torch.ops.aten.convolution_backward(
            *as_tensors(g, x, w), [d.o], d.stride, d.padding, d.dilation, False, [0, 0], d.groups, [True] * 3
        )
        call: tuple[Any, ...] = (d.stride, d.padding, d.dilation, d.groups)
        words: dict[str, Any] = {"layout": d.layout, "accuracy": "strict"}
        images, given = d.laid(x), d.laid(g)
        d.same(fastconv.conv2d_input_grad(images.shape, w, given, *call, **words), by_x, "gradient by images")
        by_kernels = fastconv.conv2d_weight_grad(images, w.shape, given, *call, **words)
        np.testing.assert_array_equal(by_kernels, by_w.numpy(), err_msg=f"gradient by kernels of {vars(d)}")
        np.testing.assert_array_equal(fastconv.conv2d_bias_grad(given, layout=d.layout), by_bias.numpy())
        compared += 1
    assert compared > 0.6 * DRAWS


@in_blocks
def test_windows(block: int) -> None:
    compared = 0
    for d in draws(3, block):
        if min(d.out) < 1:
            continue
        call = (d.kernel, d.dilation, d.padding, d.stride)
        x = d.whole(d.n, d.c, *d.size)
        expected = functional.unfold(torch.from_numpy(x), *call)
        ours: tuple[Any, ...] = (d.kernel, d.stride, d.padding, d.dilation)
        told = f"{vars(d)}"
        np.testing.assert_array_equal(fastconv.im2col(x, *ours), expected.numpy(), err_msg=told)
        columns = d.whole(*expected.shape)
        folded = functional.fold(torch.from_numpy(columns), d.size, *call)
        np.testing.assert_array_equal(fastconv.col2im(columns, d.size, *ours), folded.numpy(), err_msg=told)
        compared += 1
    assert compared > 0.6 * DRAWS


@in_blocks
def test_sequences(block: int) -> None:
    compared = 0
    for d in draws(4, block):
        length, k, stride, padding, dilation = (
            pair[1] for pair in (d.size, d.kernel, d.stride, d.padding, d.dilation)
        )
        if d.out[1] < 1:
            continue
        x, w = d.whole(d.n, d.c, length), d.whole(d.o, d.c // d.groups, k)
        bias = d.whole(d.o) if d.bias else None
        call = (stride, padding, dilation, d.groups)
        expected = functional.conv1d(*as_tensors(x, w, bias), *call).numpy()
        axes = (0, 1, 2) if d.layout == "NCHW" else (0, 2, 1)
        layout = "NCL" if d.layout == "NCHW" else "NLC"
        y = fastconv.conv1d(x.transpose(axes), w, bias, *call, layout=layout, accuracy="strict")
        np.testing.assert_array_equal(y.transpose(axes), expected, err_msg=f"{vars(d)}")
        compared += 1
    assert compared > 0.6 * DRAWS


@in_blocks
def test_depthwise_and_separable(block: int) -> None:
    compared = 0
    for d in draws(5, block):
        if min(d.out) < 1:
            continue
        c, m = d.c, 1 + d.groups % 2
        x, first, second = d.whole(d.n, c, *d.size), d.whole(c * m, 1, *d.kernel), d.whole(d.o, c * m, 1, 1)
        bias = d.whole(c * m) if d.bias else None
        call: tuple[Any, ...] = (d.stride, d.padding, d.dilation)
        images, weights, mixers, offset = as_tensors(x, first, second, bias)
        between = functional.conv2d(images, weights, offset, *call, c)
        words: dict[str, Any] = {"layout": d.layout, "weight_layout": "OIHW", "accuracy": "strict"}
        y = fastconv.depthwise_conv2d(d.laid(x), first, bias, *call, **words)
        d.same(y, between, "depthwise convolution")
        expected = functional.conv2d(between, mixers)
        y = fastconv.separable_conv2d(d.laid(x), first, second, None, *call, depthwise_bias=bias, **words)
        d.same(y, expected, "separable convolution")
        compared += 1
    assert compared > 0.6 * DRAWS
