"""The ONNX standard's own cases of 2-D convolution: those stored in its wheel, and those it generates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import Array

import fastconv
from fastconv.algorithms import registry

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
STORED = sorted(
    [*DATA.glob("pytorch-converted/test_Conv2d*"), *DATA.glob("pytorch-operator/test_operator_conv")]
)
PADDINGS = {"NOTSET": None, "VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}
# As ONNX judges its backends.
RTOL, ATOL = 1e-3, 1e-7


def by_fastconv(node: Any, inputs: dict[str, Array], algorithm: str) -> Array:
    """Return what a Conv node computes."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    x, w, *bias = (inputs[name] for name in node.input)
    assert list(w.shape[2:]) == list(given.pop("kernel_shape", w.shape[2:]))
    words: dict[str, Any] = {
        "stride": tuple(given.pop("strides", (1, 1))),
        "dilation": tuple(given.pop("dilations", (1, 1))),
        "groups": given.pop("group", 1),
        "padding": PADDINGS[given.pop("auto_pad", b"NOTSET").decode()],
    }
    top, left, bottom, right = given.pop("pads", (0, 0, 0, 0))
    if words["padding"] is None:
        words["padding"] = ((top, bottom), (left, right))
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
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(y, expected, rtol=RTOL, atol=ATOL, err_msg=name)
        tried += 1
    assert tried > 2


def tensor(path: Path) -> Array:
    array: Array = onnx.numpy_helper.to_array(onnx.load_tensor(str(path)))
    return array


def test_stored_cases_are_there() -> None:
    assert len(STORED) >= 12


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_stored_cases(folder: Path) -> None:
    graph = onnx.load(str(folder / "model.onnx")).graph
    (node,) = graph.node
    assert node.op_type == "Conv"
    inputs = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    names = [item.name for item in graph.input if item.name not in inputs]
    cases = sorted(folder.glob("test_data_set_*"))
    assert cases
    for case in cases:
        given = {name: tensor(case / f"input_{i}.pb") for i, name in enumerate(names)}
        check(node, inputs | given, tensor(case / "output_0.pb"))


def generated() -> Iterator[tuple[str, Any, list[Array], Array]]:
    """Yield name, node, inputs and output of the generated Conv cases; importing their file makes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node as cases
        from onnx.backend.test.case.node import conv

    known = {case.name: case for case in cases._NodeTestCases}
    if "test_basic_conv_with_padding" not in known:
        # Another version of ONNX collected and emptied the list: ask the file again.
        cases._existing_names.clear()
        conv.Conv.export(), conv.Conv.export_conv_with_strides(), conv.Conv.export_conv_with_autopad_same()
        known = {case.name: case for case in cases._NodeTestCases}
    for name, case in known.items():
        (node,) = case.model.graph.node
        if node.op_type == "Conv":
            for inputs, outputs in case.data_sets:
                yield name, node, list(inputs), outputs[0]


GENERATED = list(generated())


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
    ("name", "node", "inputs", "output"), GENERATED, ids=[name for name, *_ in GENERATED]
)
def test_generated_cases(name: str, node: Any, inputs: list[Array], output: Array) -> None:
    check(node, dict(zip(node.input, inputs, strict=True)), output)
