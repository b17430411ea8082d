"""Layers of real networks and filters of images by every algorithm that takes them, one thread.

`pytest bench/test_layers.py --benchmark-group-by=param:word` puts the algorithms of a layer beside each other.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastconv.algorithms import registry
from fastconv.machine import Machine
from fastconv.problem import ACCURACIES, Problem

Timer = Callable[[str, str], None]

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
# An image filtered by a small and by a large kernel, and by a bank of large ones.
FILTERS = (
    "n1c1h512w512_o1k5x5_s1p2d1g1_nchw_f32",
    "n1c1h512w512_o1k31x31_s1p15d1g1_nchw_f32",
    "n1c1h128w128_o16k31x31_s1p15d1g1_nchw_f32",
)
WORDS = tuple(f"{layer}_{layout}_f32" for layer in LAYERS for layout in ("nchw", "nhwc"))
CASES = [
    (word, name)
    for word in (*WORDS, *FILTERS)
    for name, algorithm in registry.all().items()
    if name != "reference" and algorithm.why_not(Problem.parse(word), Machine.host()) is None
]


@pytest.mark.parametrize(("word", "algorithm"), CASES)
def test_layer(time_layer: Timer, word: str, algorithm: str) -> None:
    time_layer(word, algorithm)


@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize(
    "word", ["n1c64h56w56_o64k3x3_s1p1d1g1_nhwc_f32", "n1c512h7w7_o512k3x3_s1p1d1g1_nhwc_f32"]
)
def test_accuracy(time_layer: Timer, word: str, accuracy: str) -> None:
    time_layer(word if accuracy == "standard" else f"{word}_{accuracy}", "auto")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f64", "f16", "i8"])
def test_dtype(time_layer: Timer, dtype: str, layout: str) -> None:
    time_layer(f"n1c64h28w28_o64k3x3_s1p1d1g1_{layout}_{dtype}", "im2col")


def test_reference(time_layer: Timer) -> None:
    time_layer("n1c16h14w14_o16k3x3_s1p1d1g1_nchw_f64", "reference")
