"""The operators beside convolution, one thread, and PyTorch's in its best layout where there is one.

Each is timed in both layouts; PyTorch's NHWC is its channels_last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastconv

LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float64")
Pool = Callable[..., Any]

#: Images, then what is done to them.
POOLING: dict[str, tuple[tuple[int, ...], Pool]] = {
    "max 3x3 stride 2": ((1, 64, 112, 112), lambda x, **w: fastconv.max_pool2d(x, 3, 2, 1, **w)),
    "argmax 3x3 stride 2": (
        (1, 64, 112, 112), lambda x, **w: fastconv.max_pool2d(x, 3, 2, 1, return_indices=True, **w),
    ),
    "avg 3x3 stride 2": ((1, 64, 112, 112), lambda x, **w: fastconv.avg_pool2d(x, 3, 2, 1, **w)),
    "max 2x2": ((1, 64, 112, 112), lambda x, **w: fastconv.max_pool2d(x, 2, **w)),
    "max 5x5 stride 1": ((1, 256, 20, 20), lambda x, **w: fastconv.max_pool2d(x, 5, 1, 2, **w)),
    "avg 3x3 stride 1": ((1, 256, 28, 28), lambda x, **w: fastconv.avg_pool2d(x, 3, 1, 1, **w)),
    "global max": ((1, 2048, 7, 7), fastconv.global_max_pool2d),
    "global avg": ((1, 2048, 7, 7), fastconv.global_avg_pool2d),
    "adaptive avg 7x7": ((1, 256, 24, 24), lambda x, **w: fastconv.adaptive_avg_pool2d(x, 7, **w)),
}  # fmt: skip
#: Images, kernel size, stride, padding.
UNFOLDING = {
    "3x3": ((1, 64, 56, 56), 3, 1, 1),
    "3x3 stride 2": ((1, 64, 56, 56), 3, 2, 1),
    "7x7 stride 2": ((1, 3, 224, 224), 7, 2, 3),
}


def torch_pooling(name: str, functional: Any) -> Callable[[Any], Any]:
    """Return the same with PyTorch."""
    calls: dict[str, Callable[[Any], Any]] = {
        "max 3x3 stride 2": lambda x: functional.max_pool2d(x, 3, 2, 1),
        "argmax 3x3 stride 2": lambda x: functional.max_pool2d(x, 3, 2, 1, return_indices=True),
        "avg 3x3 stride 2": lambda x: functional.avg_pool2d(x, 3, 2, 1),
        "max 2x2": lambda x: functional.max_pool2d(x, 2),
        "max 5x5 stride 1": lambda x: functional.max_pool2d(x, 5, 1, 2),
        "avg 3x3 stride 1": lambda x: functional.avg_pool2d(x, 3, 1, 1),
        "global max": lambda x: functional.adaptive_max_pool2d(x, 1),
        "global avg": lambda x: functional.adaptive_avg_pool2d(x, 1),
        "adaptive avg 7x7": lambda x: functional.adaptive_avg_pool2d(x, 7),
    }
    return calls[name]


def images(shape: tuple[int, ...], dtype: str, layout: str) -> Any:
    n, c, h, w = shape
    drawn = np.random.default_rng(0).standard_normal((n, c, h, w) if layout == "NCHW" else (n, h, w, c))
    return drawn.astype(dtype)


def tensor(x: Any, layout: str) -> Any:
    """Return NCHW images as a tensor that lies in memory as `layout` says."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_num_threads(1)
    memory = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    return torch.from_numpy(x).contiguous(memory_format=memory)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POOLING)
class TestPooling:
    def test_ours(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        shape, pool = POOLING[name]
        x = images(shape, dtype, layout)
        pool(x, layout=layout, threads=1)
        benchmark(pool, x, layout=layout, threads=1)

    @pytest.mark.peer
    def test_torch(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        x = tensor(images(POOLING[name][0], dtype, "NCHW"), layout)
        pool = torch_pooling(
            name, pytest.importorskip("torch", reason="torch is not installed").nn.functional
        )
        pool(x)
        benchmark(pool, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNFOLDING)
class TestUnfolding:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_im2col(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        shape, *settings = UNFOLDING[name]
        x = images(shape, dtype, layout)
        fastconv.im2col(x, *settings, layout=layout, threads=1)
        benchmark(fastconv.im2col, x, *settings, layout=layout, threads=1)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_col2im(self, benchmark: Any, name: str, dtype: str, layout: str) -> None:
        shape, *settings = UNFOLDING[name]
        columns = fastconv.im2col(images(shape, dtype, layout), *settings, layout=layout)
        fastconv.col2im(columns, shape[2:], *settings, layout=layout, threads=1)
        benchmark(fastconv.col2im, columns, shape[2:], *settings, layout=layout, threads=1)

    @pytest.mark.peer
    def test_torch_unfold(self, benchmark: Any, name: str, dtype: str) -> None:
        shape, kernel, stride, padding = UNFOLDING[name]
        torch = pytest.importorskip("torch", reason="torch is not installed")
        x = tensor(images(shape, dtype, "NCHW"), "NCHW")
        benchmark(torch.nn.functional.unfold, x, kernel, 1, padding, stride)

    @pytest.mark.peer
    def test_torch_fold(self, benchmark: Any, name: str, dtype: str) -> None:
        shape, kernel, stride, padding = UNFOLDING[name]
        functional = pytest.importorskip("torch", reason="torch is not installed").nn.functional
        columns = functional.unfold(tensor(images(shape, dtype, "NCHW"), "NCHW"), kernel, 1, padding, stride)
        benchmark(functional.fold, columns, shape[2:], kernel, 1, padding, stride)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES)
class TestLocallyConnected:
    """32 to 32 channels at 28x28, 3x3: 29 MB of weights in float32, each used once per image."""

    @pytest.mark.parametrize("weight_layout", ["OIHWPQ", "PQHWIO"])
    def test_ours(self, benchmark: Any, dtype: str, batch: int, weight_layout: str) -> None:
        layout = "NCHW" if weight_layout == "OIHWPQ" else "NHWC"
        x = images((batch, 32, 28, 28), dtype, layout)
        w = images((32, 288, 28, 28), dtype, "NCHW")
        w = w.reshape((32, 32, 3, 3, 28, 28) if layout == "NCHW" else (28, 28, 3, 3, 32, 32))
        words: dict[str, Any] = {"padding": 1, "layout": layout, "weight_layout": weight_layout, "threads": 1}
        fastconv.locally_connected2d(x, w, **words)
        benchmark(fastconv.locally_connected2d, x, w, **words)

    def test_einsum(self, benchmark: Any, dtype: str, batch: int) -> None:
        x = np.pad(images((batch, 32, 28, 28), dtype, "NCHW"), ((0, 0), (0, 0), (1, 1), (1, 1)))
        w = images((32, 288, 28, 28), dtype, "NCHW").reshape(32, 32, 3, 3, 28, 28)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        benchmark.pedantic(np.einsum, ("ncijrs,ocrsij->noij", windows, w), rounds=5)
