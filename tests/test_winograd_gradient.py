"""Gradients by kernels by Winograd: within their bound at the edges of tiles and blocks, special values kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

import fastconv
from fastconv.arguments import problem
from fastconv.machine import Machine
from fastconv.operators import gradients, split_gradient, winograd_gradient

Array = npt.NDArray[Any]

LANES = Machine.host().lanes("float64")
#: Images, output channels, words: sides around 2, 4, 8 and twice that, borders of every kind, channels beside vectors,
#: register tiles and blocks, several images, groups, a single pixel, many more tiles across than down.
LAYERS: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "whole tiles": ((1, 3 * LANES, 8, 8), 8, {"padding": 1}),
    "whole blocks": ((1, 6 * LANES, 8, 8), 16, {"padding": 1}),
    "one more row": ((1, LANES + 1, 9, 8), 9, {"padding": 1}),
    "one fewer column": ((1, LANES - 1, 8, 7), 7, {"padding": 1}),
    "no padding": ((1, 5, 10, 11), 17, {}),
    "padding of 2": ((1, 6 * LANES + 1, 5, 6), 8 * 2 + 1, {"padding": 2}),
    "padding on one side": ((2, 4, 7, 9), 3, {"padding": ((2, 0), (0, 1))}),
    "much padding": ((1, 3, 5, 5), 2, {"padding": ((4, 3), (5, 6))}),
    "stride 2": ((1, 2 * LANES + 1, 16, 16), 8, {"stride": 2, "padding": 1}),
    "stride 2, odd": ((3, LANES, 17, 15), 5, {"stride": 2, "padding": 1}),
    "stride 2, no padding": ((1, 3, 14, 13), 6, {"stride": 2}),
    "stride 2, padding of 2 and 3": ((1, 3, 14, 13), 6, {"stride": 2, "padding": ((2, 3), (3, 2))}),
    "stride 2 by 1": ((1, 7, 11, 10), 4, {"stride": (2, 1), "padding": (0, 1)}),
    "stride 1 by 2": ((2, 7, 9, 10), 4, {"stride": (1, 2), "padding": (1, 2)}),
    "rows that no window meets": ((1, 5, 8, 6), 4, {"stride": 2}),
    "groups": ((2, 9 * LANES, 9, 10), 27, {"groups": 3, "padding": 1}),
    "one pixel": ((1, 3, 1, 1), 2, {"padding": 1}),
    "one pixel, stride 2": ((1, 3, 1, 1), 2, {"stride": 2, "padding": 1}),
    "one row": ((1, 3, 1, 90), 2, {"padding": 1}),
    "several passes": ((3, 2, 70, 66), 3, {"padding": 1}),
}  # fmt: skip


@pytest.fixture(params=winograd_gradient.SIDES)
def always(request: pytest.FixtureRequest) -> Iterator[int]:
    """Let Winograd compute every layer that it can, in tiles of one size, and no layer go to a matrix unit."""

    def way(p: Any) -> Any:
        return winograd_gradient.way(p, request.param) if winograd_gradient.works(p) else None

    with (
        mock.patch.object(gradients, "winograd_way", way),
        mock.patch.object(split_gradient, "works", return_value=False),
    ):
        yield request.param


def drawn(layer: str, layout: str, dtype: str) -> tuple[Array, tuple[int, ...], Array, dict[str, Any]]:
    """Return images, shape of kernels, gradients and words of a layer."""
    x_shape, o, words = LAYERS[layer]
    w_shape = (o, x_shape[1] // words.get("groups", 1), 3, 3)
    random = np.random.default_rng(sum(map(ord, layer)))
    x = random.standard_normal(x_shape).astype(dtype)
    g = random.standard_normal(fastconv.conv_output_shape(x_shape, w_shape, **words)).astype(dtype)
    if layout == "NHWC":
        x, g = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in (x, g))
    return x, w_shape, g, {**words, "layout": layout}


def worst(x: Array, w_shape: tuple[int, ...], g: Array, words: dict[str, Any], found: Array) -> float:
    """Return the largest error by the largest sum of magnitudes of products."""
    x, g = x.astype(np.float64), g.astype(np.float64)
    exact = fastconv.conv2d_weight_grad(x, w_shape, g, **words, accuracy="strict")
    sums = fastconv.conv2d_weight_grad(np.abs(x), w_shape, np.abs(g), **words, accuracy="strict")
    assert found.shape == exact.shape
    return float(np.abs(found - exact).max() / sums.max())


def bound(x: Array, w_shape: tuple[int, ...], words: dict[str, Any]) -> float:
    return winograd_gradient.error_bound(problem(x.shape, w_shape, dtype=x.dtype.name, **words))


@pytest.mark.parametrize(("layout", "dtype"), [("NCHW", "float64"), ("NHWC", "float64"), ("NHWC", "float32")])
@pytest.mark.parametrize("layer", LAYERS)
def test_errors_keep_their_bound(layer: str, layout: str, dtype: str, always: int) -> None:
    x, w_shape, g, words = drawn(layer, layout, dtype)
    target = np.full(w_shape, np.nan, dtype)
    with mock.patch.object(gradients, "weight_gradient", side_effect=AssertionError("not by Winograd")):
        found = fastconv.conv2d_weight_grad(x, w_shape, g, **words, out=target, threads=1)
    assert found is target
    allowed = bound(x, w_shape, words)
    assert worst(x, w_shape, g, words, found) <= allowed
    # One product that is left out would be noticed.
    less = g.copy()
    middle = tuple(size // 2 for size in g.shape)
    less[middle] = 0
    fewer = fastconv.conv2d_weight_grad(x, w_shape, less, **words, threads=1)
    if x.shape[2] > 1 and abs(g[middle]) > 0.1:
        assert worst(x, w_shape, g, words, fewer) > 2 * allowed


@pytest.mark.parametrize("stride", [1, 2])
def test_class_standard_is_kept_where_many_tiles_are_summed(stride: int, always: int) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 8, 230, 232)).astype(np.float32)
    w_shape = (8, 8, 3, 3)
    words: dict[str, Any] = {"stride": stride, "padding": 1}
    g = random.standard_normal(fastconv.conv_output_shape(x.shape, w_shape, **words)).astype(np.float32)
    found = fastconv.conv2d_weight_grad(x, w_shape, g, **words)
    exact = fastconv.conv2d_weight_grad(
        x.astype(np.float64), w_shape, g.astype(np.float64), **words, accuracy="strict"
    )
    assert np.linalg.norm(found - exact) <= 5e-6 * np.linalg.norm(exact)
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", ["padding of 2", "stride 2", "groups", "several passes"])
def test_bits_do_not_depend_on_threads(layer: str, layout: str, always: int) -> None:
    x, w_shape, g, words = drawn(layer, layout, "float64")
    with mock.patch("fastconv.runtime.launcher.PARALLEL_SECONDS", 0.0):
        one, two, three = (fastconv.conv2d_weight_grad(x, w_shape, g, **words, threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["images", "gradients"])
@pytest.mark.parametrize("layer", ["one more row", "stride 2, odd", "several passes"])
def test_values_that_are_not_finite_stay_in_their_place(
    layer: str, where: str, value: float, layout: str, always: int
) -> None:
    x, w_shape, g, words = drawn(layer, layout, "float64")
    (x if where == "images" else g)[0, 1, 0, 1] = value
    found = fastconv.conv2d_weight_grad(x, w_shape, g, **words)
    right = fastconv.conv2d_weight_grad(x, w_shape, g, **words, accuracy="strict")
    np.testing.assert_array_equal(found, right)
    assert not np.isfinite(found).all()
    assert np.isfinite(found).any()


def test_no_images_give_zeros(always: int) -> None:
    found = fastconv.conv2d_weight_grad(np.zeros((0, 4, 9, 9)), (5, 4, 3, 3), np.zeros((0, 5, 9, 9)), 1, 1)
    np.testing.assert_array_equal(found, np.zeros((5, 4, 3, 3)))


def test_which_layers_it_takes() -> None:
    p = problem((1, 128, 28, 28), (128, 128, 3, 3), padding=1, dtype="float64")
    found = gradients.winograd_way(p)
    assert found is not None
    assert found.seconds < gradients.weight_gradient(p).seconds
    assert gradients.winograd_way(replace(p, accuracy="fast")) is not None
    for words in ({"accuracy": "strict"}, {"dilation": (2, 2)}, {"stride": (3, 1)}, {"kh": 5}, {"n": 0}):
        assert gradients.winograd_way(replace(p, **words)) is None
    # So few channels that most of a register tile would be empty.
    assert gradients.winograd_way(replace(p, c=2, o=2)) is None


def test_an_explanation_says_what_a_call_does() -> None:
    words: tuple[Any, ...] = ((1, 128, 28, 28), (128, 128, 3, 3), 1, 1)
    found = fastconv.explain_conv2d_weight_grad(*words, dtype="float64")
    assert "Winograd" in found.route and "tiles of 4x4 pixels" in found.route
    assert 0 < found.seconds
    strict = fastconv.explain_conv2d_weight_grad(*words, dtype="float64", accuracy="strict")
    assert "for each of 9 taps" in strict.route and strict.seconds > found.seconds
