"""Transposed convolution of few pixels on the matrix unit: exact where numbers are whole, special values kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastconv
from fastconv.machine import Machine
from fastconv.operators import split_spread
from fastconv.operators.phases import Transposed

Array = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(
    "amx-bf16" not in Machine.host().features, reason="the machine has no matrix unit for bfloat16"
)

#: Images and kernels (C, O / groups, kh, kw): depth, channels and pixels beside tiles; strides, borders, groups.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "whole tiles": ((1, 64, 4, 8), (64, 32, 3, 3), {"padding": 1}),
    "beside tiles": ((1, 67, 5, 7), (67, 49, 3, 3), {"padding": 1}),
    "odd depth": ((1, 65, 3, 3), (65, 16, 3, 3), {}),
    "half a tile deep": ((1, 80, 6, 6), (80, 33, 2, 3), {"padding": (0, 1)}),
    "three tiles of pixels": ((1, 64, 6, 7), (64, 20, 3, 3), {"padding": 1}),
    "stride 2": ((1, 96, 7, 6), (96, 40, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "stride beyond the kernel": ((1, 64, 5, 4), (64, 17, 2, 1), {"stride": 3}),
    "dilation": ((1, 64, 9, 9), (64, 18, 3, 2), {"dilation": 2, "padding": (2, 1)}),
    "groups": ((1, 192, 5, 6), (192, 19, 3, 3), {"groups": 3, "padding": 1}),
    "images": ((3, 64, 5, 5), (64, 34, 3, 3), {"padding": 1}),
    "one pixel": ((1, 64, 1, 1), (64, 16, 4, 4), {}),
}


def drawn(layer: str, layout: str, whole: bool = True) -> tuple[Array, Array, dict[str, Any]]:
    x_shape, w_shape, words = LAYERS[layer]
    random = np.random.default_rng(sum(map(ord, layer)))
    x, w = (
        (random.integers(-3, 4, shape) if whole else random.standard_normal(shape)).astype(np.float32)
        for shape in (x_shape, w_shape)
    )
    return (
        (x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))),
        w,
        {**words, "layout": layout},
    )


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let small weights count as many, and note what became of each call."""
    monkeypatch.setattr(split_spread, "MANY_WEIGHTS", 1)
    taken: list[bool] = []
    run = split_spread.run

    def noting(t: Transposed, x: Array, w: Array, y: Array, threads: int) -> bool:
        taken.append(run(t, x, w, y, threads))
        return taken[-1]

    monkeypatch.setattr(split_spread, "run", noting)
    return taken


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", LAYERS)
def test_whole_numbers_are_exact(layer: str, layout: str, _every_size: list[bool]) -> None:
    x, w, words = drawn(layer, layout)
    found = fastconv.conv_transpose2d(x, w, **words, threads=1)
    right = fastconv.conv_transpose2d(x, w, **words, accuracy="strict", threads=1)
    np.testing.assert_array_equal(found, right)
    assert _every_size == [True, False]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_errors_are_those_of_the_class(layout: str, _every_size: list[bool]) -> None:
    x, w, words = drawn("stride 2", layout, whole=False)
    exact = fastconv.conv_transpose2d(x.astype(np.float64), w.astype(np.float64), **words)
    for accuracy, allowed in (("standard", 5e-6), ("fast", 5e-3)):
        found = fastconv.conv_transpose2d(x, w, **words, accuracy=accuracy)
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        # Far smaller it would be that of another class.
        assert allowed / 100 <= error <= allowed
        if accuracy == "standard":
            assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
    assert _every_size == [False, True, True]


@pytest.mark.parametrize("layer", ["beside tiles", "groups", "images"])
def test_bits_do_not_depend_on_threads(layer: str) -> None:
    x, w, words = drawn(layer, "NHWC", whole=False)
    one, two, three = (fastconv.conv_transpose2d(x, w, **words, threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["images", "kernels"])
def test_values_that_are_not_finite_stay_in_their_place(
    where: str, value: float, layout: str, _every_size: list[bool]
) -> None:
    x, w, words = drawn("stride 2", layout)
    (x if where == "images" else w)[0, 1, 2, 2] = value
    found = fastconv.conv_transpose2d(x, w, **words)
    right = fastconv.conv_transpose2d(x, w, **words, accuracy="strict")
    np.testing.assert_array_equal(found, right)
    assert not np.isfinite(found).all()
    assert np.isfinite(found).any()
    assert _every_size == [False, False]


@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_the_gradient_by_the_images(layer: str, _every_size: list[bool]) -> None:
    x, w, words = drawn(layer, "NCHW")
    words.pop("output_padding", None)
    words.pop("layout")
    spread = fastconv.conv_transpose2d(x, w, **words)
    np.testing.assert_array_equal(fastconv.conv2d_input_grad(spread.shape, w, x, **words), spread)
    assert _every_size == [True, True]


def test_other_calls_go_other_ways(_every_size: list[bool]) -> None:
    x, w, words = drawn("whole tiles", "NCHW")
    fastconv.conv_transpose2d(x, w, np.ones(32, np.float32), **words)
    fastconv.conv_transpose2d(x, w, activation="relu", **words)
    fastconv.conv_transpose2d(x.astype(np.float64), w.astype(np.float64), **words)
    fastconv.conv_transpose2d(np.repeat(x, 9, 0), w, **words)
    assert not any(_every_size)
