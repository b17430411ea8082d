"""PyTorch's pooling on thousands of drawn configurations, both layouts, NaN and infinities among the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle import Array

import fastconv

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.peer

BLOCKS, DRAWS = 8, 250
CHANNELS = (1, 2, 3, 5, 15, 16, 17, 33, 64, 70)


class Draw:
    """One configuration; everything small, so that thousands take seconds."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.x = self.images()
        self.kernel, self.stride = self.pair(1, 6), self.pair(1, 7)
        self.padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in self.kernel)
        self.dilation = self.pair(1, 4)
        self.output = self.pair(1, 12)
        self.ceil, self.include = bool(rng.integers(2)), bool(rng.integers(2))
        self.divisor = None if rng.random() < 0.7 else int(rng.integers(1, 9))

    def pair(self, low: int, high: int) -> tuple[int, ...]:
        return tuple(int(value) for value in self.rng.integers(low, high, 2))

    def images(self) -> Array:
        rng = self.rng
        shape = (int(rng.integers(1, 3)), int(rng.choice(CHANNELS)), *self.pair(1, 40))
        x: Array = rng.integers(-4, 5, shape).astype(rng.choice(["float32", "float64"]))
        if rng.random() < 0.2:
            x[rng.random(shape) < 0.02] = np.nan
        if rng.random() < 0.2:
            x[rng.random(shape) < 0.3] = -np.inf
        return x

    def __str__(self) -> str:
        return str({name: value for name, value in vars(self).items() if name not in ("x", "rng")} | {
            "shape": self.x.shape, "dtype": self.x.dtype.name
        })  # fmt: skip


def torch_max(d: Draw, x: Any) -> Any:
    return torch.nn.functional.max_pool2d(
        x, d.kernel, d.stride, d.padding, d.dilation, d.ceil, return_indices=True
    )


def our_max(d: Draw, x: Array, layout: str) -> Any:
    call = (x, d.kernel, d.stride, d.padding, d.dilation, d.ceil)
    y, places = fastconv.max_pool2d(*call, return_indices=True, layout=layout)
    np.testing.assert_array_equal(fastconv.max_pool2d(*call, layout=layout), y)
    return y, places


def torch_avg(d: Draw, x: Any) -> Any:
    return (torch.nn.functional.avg_pool2d(x, d.kernel, d.stride, d.padding, d.ceil, d.include, d.divisor),)


def our_avg(d: Draw, x: Array, layout: str) -> Any:
    return (
        fastconv.avg_pool2d(x, d.kernel, d.stride, d.padding, d.ceil, d.include, d.divisor, layout=layout),
    )


def torch_adaptive_max(d: Draw, x: Any) -> Any:
    return torch.nn.functional.adaptive_max_pool2d(x, d.output, return_indices=True)


def our_adaptive_max(d: Draw, x: Array, layout: str) -> Any:
    y, places = fastconv.adaptive_max_pool2d(x, d.output, return_indices=True, layout=layout)
    np.testing.assert_array_equal(fastconv.adaptive_max_pool2d(x, d.output, layout=layout), y)
    return y, places


def torch_adaptive_avg(d: Draw, x: Any) -> Any:
    functional = torch.nn.functional
    return functional.adaptive_avg_pool2d(x, d.output), functional.adaptive_avg_pool2d(x, 1)


def our_adaptive_avg(d: Draw, x: Array, layout: str) -> Any:
    return fastconv.adaptive_avg_pool2d(x, d.output, layout=layout), fastconv.global_avg_pool2d(
        x, layout=layout
    )


OPERATORS: dict[str, tuple[Callable[[Draw, Any], Any], Callable[[Draw, Array, str], Any]]] = {
    "max_pool2d": (torch_max, our_max),
    "avg_pool2d": (torch_avg, our_avg),
    "adaptive_max_pool2d": (torch_adaptive_max, our_adaptive_max),
    "adaptive_avg_pool2d": (torch_adaptive_avg, our_adaptive_avg),
}


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("name", OPERATORS)
def test_drawn_configurations(name: str, block: int) -> None:
    theirs, ours = OPERATORS[name]
    rng = np.random.default_rng([block, *name.encode()])
    compared = 0
    for _ in range(DRAWS):
        draw = Draw(rng)
        try:
            expected = [array.numpy() for array in theirs(draw, torch.from_numpy(draw.x))]
        except RuntimeError:
            expected = None
        given = {"NCHW": draw.x, "NHWC": np.ascontiguousarray(draw.x.transpose(0, 2, 3, 1))}
        for layout, x in given.items():
            try:
                found = ours(draw, x, layout)
            except ValueError as refusal:
                # PyTorch gives -inf for windows between the pixels.
                assert expected is None or "every window must see a pixel" in str(refusal), draw
                continue
            if expected is None:
                # PyTorch refuses padding by more than half a window; we refuse it from a whole window on.
                continue
            compared += 1
            for y, e in zip(found, expected, strict=True):
                y = y if layout == "NCHW" else y.transpose(0, 3, 1, 2)
                if name.endswith("max_pool2d"):
                    np.testing.assert_array_equal(y, e, err_msg=f"{draw} {layout}")
                else:
                    eps = np.finfo(e.dtype).eps
                    np.testing.assert_allclose(y, e, rtol=4 * eps, atol=4 * eps, err_msg=f"{draw} {layout}")
    assert compared > DRAWS


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_tensors_in_and_out(layout: str) -> None:
    x = torch.arange(2.0 * 3 * 8 * 9).reshape(2, 3, 8, 9)
    y, places = fastconv.max_pool2d(x, 2, return_indices=True, layout=layout)
    assert isinstance(y, torch.Tensor) and isinstance(places, torch.Tensor) and places.dtype == torch.int64
    if layout == "NCHW":
        expected, there = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(y, expected) and torch.equal(places, there)
    out = torch.empty_like(y)
    assert fastconv.avg_pool2d(x, 2, layout=layout, out=out) is out
    np.testing.assert_array_equal(out, fastconv.avg_pool2d(x.numpy(), 2, layout=layout))
    with pytest.raises(TypeError, match="x requires gradients"):
        fastconv.global_max_pool2d(x.requires_grad_(), layout=layout)
