"""The ONNX standard's own cases of single operators: those stored in its wheel, and those it generates."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import Array

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
PADDINGS = {"VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}
# As ONNX judges its backends.
RTOL, ATOL = 1e-3, 1e-7


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def take_padding(given: dict[str, Any]) -> Any:
    """Remove what says how to pad from the attributes, and return it in our words."""
    word = given.pop("auto_pad", b"NOTSET").decode()
    top, left, bottom, right = given.pop("pads", (0, 0, 0, 0))
    return PADDINGS.get(word, ((top, bottom), (left, right)))


def same(y: Array, expected: Array) -> None:
    """Raise AssertionError unless the arrays are equal as ONNX sees it."""
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=RTOL, atol=ATOL)


def stored(folder: Path, operator: str) -> Iterator[tuple[Any, dict[str, Array], Array]]:
    """Yield node, inputs by name and first output of the data sets in a folder."""
    graph = onnx.load(str(folder / "model.onnx")).graph
    (node,) = graph.node
    assert node.op_type == operator
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    names = [item.name for item in graph.input if item.name not in constants]
    cases = sorted(folder.glob("test_data_set_*"))
    assert cases
    for case in cases:
        given = {name: _tensor(case / f"input_{i}.pb") for i, name in enumerate(names)}
        yield node, constants | given, _tensor(case / "output_0.pb")


def generated(file: str, operator: str) -> Iterator[tuple[str, Any, list[Array], list[Array]]]:
    """Yield name, node, inputs and outputs of the generated cases of one operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case import node as cases

        module = importlib.import_module(f"onnx.backend.test.case.node.{file}")
        # Some versions of ONNX collect and empty the list when they are imported: ask the file again.
        cases._NodeTestCases.clear()
        cases._existing_names.clear()
        exporter = getattr(module, operator)
        for name in dir(exporter):
            if name.startswith("export") and name != "exports":
                getattr(exporter, name)()
    for case in list(cases._NodeTestCases):
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type == operator:
            for inputs, outputs in case.data_sets:
                yield case.name, nodes[0], list(inputs), list(outputs)


def _tensor(path: Path) -> Array:
    array: Array = onnx.numpy_helper.to_array(onnx.load_tensor(str(path)))
    return array
