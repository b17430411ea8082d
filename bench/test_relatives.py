"""The relatives of convolution, one thread, in both layouts, and PyTorch's: transposed, gradients, separable, 1-D.

PyTorch's NHWC is its channels_last. All calls are functional: weights are put in order every time on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastconv

LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float64")

#: Kernel, channels in and out, padding, output padding; stride 2 on 32x32 pixels.
TRANSPOSED = {"4x4": (4, 256, 128, 1, 0), "2x2": (2, 512, 256, 0, 0), "3x3": (3, 128, 64, 1, 1)}
#: Channels, pixels of a side, stride: the 3x3 layers of ResNet-50.
GRADIENTS = {
    f"{c}@{size} stride {stride}": (c, size, stride)
    for c, size, stride in (
        (64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 14, 2), (512, 7, 1),
    )
}  # fmt: skip


def drawn(dtype: str, *shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def laid(x: Any, layout: str) -> Any:
    """Return NCHW images in a layout."""
    return x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def tensors(layout: str, *given: Any) -> tuple[Any, ...]:
    """Return PyTorch and NCHW arrays as its tensors that lie in memory as `layout` says."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_num_threads(1)
    memory = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    return torch, *(torch.from_numpy(array).contiguous(memory_format=memory) for array in given)


def warm(benchmark: Any, call: Callable[[], Any]) -> None:
    call()
    benchmark(call)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRANSPOSED)
class TestTransposed:
    def test_ours(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        k, c, o, padding, extra = TRANSPOSED[name]
        x, w = laid(drawn(dtype, 1, c, 32, 32), layout), drawn(dtype, c, o, k, k)
        call = (None, 2, padding, extra)
        warm(benchmark, lambda: fastconv.conv_transpose2d(x, w, *call, layout=layout, threads=1))

    def test_planned(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        k, c, o, padding, extra = TRANSPOSED[name]
        x, w = laid(drawn(dtype, 1, c, 32, 32), layout), drawn(dtype, c, o, k, k)
        plan = fastconv.plan_conv_transpose2d(x, w, None, 2, padding, extra, layout=layout, threads=1)
        warm(benchmark, lambda: plan(x))

    @pytest.mark.peer
    def test_torch(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        k, c, o, padding, extra = TRANSPOSED[name]
        torch, x, w = tensors(layout, drawn(dtype, 1, c, 32, 32), drawn(dtype, c, o, k, k))
        warm(benchmark, lambda: torch.nn.functional.conv_transpose2d(x, w, None, 2, padding, extra))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRADIENTS)
class TestGradients:
    def test_by_images(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        x, w, g, stride = self.arrays(name, dtype)
        shape, given = laid(x, layout).shape, laid(g, layout)
        words: dict[str, Any] = {"layout": layout, "threads": 1}
        warm(benchmark, lambda: fastconv.conv2d_input_grad(shape, w, given, stride, 1, **words))

    def test_by_kernels(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        x, w, g, stride = self.arrays(name, dtype)
        images, given = laid(x, layout), laid(g, layout)
        words: dict[str, Any] = {"layout": layout, "threads": 1}
        warm(benchmark, lambda: fastconv.conv2d_weight_grad(images, w.shape, given, stride, 1, **words))

    @pytest.mark.peer
    @pytest.mark.parametrize("which", [0, 1], ids=["by images", "by kernels"])
    def test_torch(self, benchmark: Any, name: str, dtype: str, layout: str, which: int) -> None:
        x, w, g, stride = self.arrays(name, dtype)
        torch, *given = tensors(layout, g, x, w)
        settings = ([0], [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [which == 0, which == 1, False])
        warm(benchmark, lambda: torch.ops.aten.convolution_backward(*given, *settings))

    def arrays(self, name: str, dtype: str) -> tuple[Any, ...]:
        c, size, stride = GRADIENTS[name]
        out = (size - 1) // stride + 1
        return drawn(dtype, 1, c, size, size), drawn(dtype, c, c, 3, 3), drawn(dtype, 1, c, out, out), stride


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestSeparable:
    """128 channels at 56x56, 3x3."""

    def test_ours(self, benchmark: Any, dtype: str, layout: str) -> None:
        x, first, second = (
            drawn(dtype, *shape) for shape in ((1, 128, 56, 56), (128, 1, 3, 3), (128, 128, 1, 1))
        )
        images = laid(x, layout)
        words: dict[str, Any] = {"padding": 1, "layout": layout, "weight_layout": "OIHW", "threads": 1}
        warm(benchmark, lambda: fastconv.separable_conv2d(images, first, second, **words))

    @pytest.mark.peer
    def test_torch(self, benchmark: Any, dtype: str, layout: str) -> None:
        given = (drawn(dtype, *shape) for shape in ((1, 128, 56, 56), (128, 1, 3, 3), (128, 128, 1, 1)))
        torch, x, first, second = tensors(layout, *given)
        conv2d = torch.nn.functional.conv2d
        warm(benchmark, lambda: conv2d(conv2d(x, first, padding=1, groups=128), second))


@pytest.mark.parametrize("dtype", DTYPES)
class TestSequences:
    """64 to 64 channels, length 16000, 9 taps."""

    @pytest.mark.parametrize("layout", ["NCL", "NLC"])
    def test_ours(self, benchmark: Any, dtype: str, layout: str) -> None:
        x, w = drawn(dtype, 1, 64, 16000), drawn(dtype, 64, 64, 9)
        given = x if layout == "NCL" else np.ascontiguousarray(x.transpose(0, 2, 1))
        warm(benchmark, lambda: fastconv.conv1d(given, w, padding=4, layout=layout, threads=1))

    @pytest.mark.peer
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_torch(self, benchmark: Any, dtype: str, layout: str) -> None:
        """In channels_last as images with one row: PyTorch has no such layout of sequences."""
        torch, x, w = tensors(layout, drawn(dtype, 1, 64, 1, 16000), drawn(dtype, 64, 64, 1, 9))
        if layout == "NHWC":
            warm(benchmark, lambda: torch.nn.functional.conv2d(x, w, padding=(0, 4)))
        else:
            sequences, kernels = x[:, :, 0], w[:, :, 0]
            warm(benchmark, lambda: torch.nn.functional.conv1d(sequences, kernels, padding=4))
