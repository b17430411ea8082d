"""The ONNX standard's own cases of 2-D convolution: those stored in its wheel, and those it generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx_cases import DATA, attributes, generated, same, stored, take_padding
from oracle import Array

import fastconv
from fastconv.algorithms import registry

STORED = sorted(
    [*DATA.glob("pytorch-converted/test_Conv2d*"), *DATA.glob("pytorch-operator/test_operator_conv")]
)
GENERATED = list(generated("conv", "Conv"))


def by_fastconv(node: Any, inputs: dict[str, Array], algorithm: str) -> Array:
    """Return what a Conv node computes."""
    given = attributes(node)
    x, w, *bias = (inputs[name] for name in node.input)
    assert list(w.shape[2:]) == list(given.pop("kernel_shape", w.shape[2:]))
    words: dict[str, Any] = {
        "stride": tuple(given.pop("strides", (1, 1))),
        "dilation": tuple(given.pop("dilations", (1, 1))),
        "groups": given.pop("group", 1),
        "padding": take_padding(given),
    }
    assert not given, f"unknown attributes {given}"
    y: Array = fastconv.conv2d(x, w, *bias, algorithm=algorithm, **words)
    return y


def check(node: Any, inputs: dict[str, Array], expected: Array) -> None:
    """Compare every algorithm that takes the node with the expected output."""
    tried = 0
    for name in ("auto", *registry.all()):
        try:
            y = by_fastconv(node, inputs, name)
        except ValueError as refusal:
            assert name != "auto" and "cannot compute" in str(refusal)
            continue
        same(y, expected)
        tried += 1
    assert tried > 2


def test_stored_cases_are_there() -> None:
    assert len(STORED) >= 12


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_stored_cases(folder: Path) -> None:
    for node, inputs, output in stored(folder, "Conv"):
        check(node, inputs, output)


def test_generated_cases_are_there() -> None:
    names = {name for name, *_ in GENERATED}
    assert names >= {
        "test_basic_conv_with_padding",
        "test_basic_conv_without_padding",
        "test_conv_with_strides_padding",
        "test_conv_with_strides_no_padding",
        "test_conv_with_strides_and_asymmetric_padding",
        "test_conv_with_autopad_same",
    }


@pytest.mark.parametrize(
    ("name", "node", "inputs", "outputs"), GENERATED, ids=[name for name, *_ in GENERATED]
)
def test_generated_cases(name: str, node: Any, inputs: list[Array], outputs: list[Array]) -> None:
    check(node, dict(zip(node.input, inputs, strict=True)), outputs[0])
