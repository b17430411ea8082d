"""Layers of real networks by every algorithm of the registry, one thread."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastconv.algorithms import registry

# One of each kind: first layer, 3x3 early and late, 1x1 both ways, strided 1x1, dilated, grouped, depthwise.
LAYERS = (
    "n1c3h224w224_o64k7x7_s2p3d1g1",
    "n1c64h56w56_o64k3x3_s1p1d1g1",
    "n1c512h7w7_o512k3x3_s1p1d1g1",
    "n1c64h56w56_o256k1x1_s1p0d1g1",
    "n1c1024h14w14_o256k1x1_s1p0d1g1",
    "n1c256h56w56_o512k1x1_s2p0d1g1",
    "n1c64h33w33_o64k3x3_s1p6d6g1",
    "n1c128h28w28_o128k3x3_s1p1d1g32",
    "n1c96h56w56_o96k3x3_s1p1d1g96",
)
WORDS = tuple(f"{layer}_{layout}_f32" for layer in LAYERS for layout in ("nchw", "nhwc"))


@pytest.mark.parametrize("algorithm", [name for name in registry.all() if name != "reference"])
@pytest.mark.parametrize("word", WORDS)
def test_layer(time_layer: Callable[[str, str], None], word: str, algorithm: str) -> None:
    time_layer(word, algorithm)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f64", "f16", "i8"])
def test_dtype(time_layer: Callable[[str, str], None], dtype: str, layout: str) -> None:
    time_layer(f"n1c64h28w28_o64k3x3_s1p1d1g1_{layout}_{dtype}", "im2col")


def test_reference(time_layer: Callable[[str, str], None]) -> None:
    time_layer("n1c16h14w14_o16k3x3_s1p1d1g1_nchw_f64", "reference")
