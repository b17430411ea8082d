"""Gradients by kernels on the matrix unit: exact where numbers are whole, within their class, special values kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastconv
from fastconv.arguments import problem
from fastconv.machine import Machine
from fastconv.operators import split_gradient

Array = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(
    "amx-bf16" not in Machine.host().features, reason="the machine has no matrix unit for bfloat16"
)

#: Images, kernels, words: channels beside blocks of 32 and tiles of 16, columns beside 32 positions, borders of every
#: kind, several images, kernels of more than 16 taps.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "one block": ((1, 32, 9, 9), (32, 32, 3, 3), {"padding": 1}),
    "beside blocks": ((1, 35, 10, 11), (50, 35, 3, 3), {"padding": 1}),
    "32 columns": ((1, 17, 5, 32), (18, 17, 3, 3), {"padding": 1}),
    "64 columns, no padding": ((1, 16, 5, 66), (16, 16, 3, 3), {}),
    "one more column": ((2, 16, 6, 33), (33, 16, 3, 3), {"padding": 1}),
    "stride 2": ((1, 64, 15, 16), (40, 64, 3, 3), {"stride": 2, "padding": 1}),
    "stride 2, even": ((2, 33, 16, 17), (16, 33, 4, 4), {"stride": 2, "padding": ((1, 2), (0, 3))}),
    "stride 3 by 2": ((1, 16, 40, 21), (20, 16, 5, 4), {"stride": (3, 2), "padding": 2}),
    "dilation": ((1, 20, 20, 21), (24, 20, 3, 3), {"dilation": (2, 3), "padding": (2, 3)}),
    "dilation and stride": ((1, 16, 29, 30), (16, 16, 3, 2), {"dilation": 2, "stride": 2, "padding": 1}),
    "groups": ((2, 48, 12, 13), (54, 16, 3, 3), {"groups": 3, "padding": 1}),
    "one tap": ((1, 40, 9, 8), (31, 40, 1, 1), {}),
    "one tap beside the image": ((1, 16, 9, 8), (16, 16, 1, 1), {"padding": (1, 2)}),
    "one tap, stride 2": ((1, 16, 17, 18), (16, 16, 1, 1), {"stride": 2}),
    "many taps": ((1, 16, 20, 20), (16, 16, 7, 5), {"padding": (3, 2)}),
    "padding beyond the kernel": ((1, 16, 8, 9), (16, 16, 2, 2), {"padding": ((3, 1), (4, 0))}),
    "bands": ((1, 64, 90, 91), (64, 64, 3, 3), {"padding": 1}),
    "bands, stride 2": ((2, 64, 121, 122), (96, 64, 3, 3), {"stride": 2, "padding": 1}),
}  # fmt: skip


def drawn(
    layer: str, layout: str, whole: bool = True
) -> tuple[Array, tuple[int, ...], Array, dict[str, Any]]:
    """Return images, shape of kernels, gradients and words of a layer."""
    x_shape, w_shape, words = LAYERS[layer]
    out = fastconv.conv_output_shape(x_shape, w_shape, **words)
    random = np.random.default_rng(sum(map(ord, layer)))
    x, g = (
        (random.integers(-3, 4, shape) if whole else random.standard_normal(shape)).astype(np.float32)
        for shape in (x_shape, out)
    )
    if layout == "NHWC":
        x, g = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in (x, g))
    return x, w_shape, g, {**words, "layout": layout}


def taken(layer: str) -> bool:
    """Return whether the matrix unit takes a layer."""
    x_shape, w_shape, words = LAYERS[layer]
    return split_gradient.works(problem(x_shape, w_shape, **words), Machine.host())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", LAYERS)
def test_whole_numbers_are_exact(layer: str, layout: str) -> None:
    assert taken(layer)
    x, w_shape, g, words = drawn(layer, layout)
    found = fastconv.conv2d_weight_grad(x, w_shape, g, **words, threads=1)
    right = fastconv.conv2d_weight_grad(x, w_shape, g, **words, accuracy="strict", threads=1)
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", ["beside blocks", "stride 2", "groups", "bands"])
def test_errors_are_those_of_the_class(layer: str, layout: str) -> None:
    x, w_shape, g, words = drawn(layer, layout, whole=False)
    exact = fastconv.conv2d_weight_grad(x.astype(np.float64), w_shape, g.astype(np.float64), **words)
    for accuracy, allowed in (("standard", 5e-6), ("fast", 5e-3)):
        found = fastconv.conv2d_weight_grad(x, w_shape, g, **words, accuracy=accuracy)
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert error <= allowed
        # Otherwise it is not the class that was asked for which was computed.
        assert error >= allowed / 100
        if accuracy == "standard":
            assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("layer", ["one block", "groups", "bands, stride 2"])
def test_bits_do_not_depend_on_threads(layer: str) -> None:
    x, w_shape, g, words = drawn(layer, "NCHW", whole=False)
    one, two, three = (fastconv.conv2d_weight_grad(x, w_shape, g, **words, threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["images", "gradients"])
def test_values_that_are_not_finite_stay_in_their_place(where: str, value: float, layout: str) -> None:
    x, w_shape, g, words = drawn("beside blocks", layout)
    (x if where == "images" else g)[0, 4, 3, 2] = value
    found = fastconv.conv2d_weight_grad(x, w_shape, g, **words)
    right = fastconv.conv2d_weight_grad(x, w_shape, g, **words, accuracy="strict")
    np.testing.assert_array_equal(found, right)
    assert not np.isfinite(found).all()
    assert np.isfinite(found).any()


def test_few_pixels_and_channels_are_left_to_the_vector_units() -> None:
    machine = Machine.host()
    assert not split_gradient.works(problem((1, 64, 7, 7), (64, 64, 3, 3), padding=1), machine)
    assert not split_gradient.works(problem((1, 8, 30, 30), (64, 8, 3, 3), padding=1), machine)
    assert not split_gradient.works(problem((1, 64, 30, 30), (64, 64, 3, 3), accuracy="strict"), machine)
    assert not split_gradient.works(problem((1, 64, 30, 30), (64, 64, 3, 3), dtype="float64"), machine)
