"""The ONNX standard's own cases of pooling in two dimensions, stored and generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import DATA, attributes, generated, same, stored, take_padding
from oracle import Array

import fastconv

STORED = {
    "MaxPool": sorted(DATA.glob("pytorch-converted/test_MaxPool2d*")),
    "AveragePool": sorted(DATA.glob("pytorch-converted/test_AvgPool2d*")),
}
FOLDERS = [(operator, folder) for operator, folders in STORED.items() for folder in folders]
FILES = {
    "MaxPool": "maxpool",
    "AveragePool": "averagepool",
    "GlobalMaxPool": "globalmaxpool",
    "GlobalAveragePool": "globalaveragepool",
}
GENERATED = [
    case for operator, file in FILES.items() for case in generated(file, operator) if case[2][0].ndim == 4
]


def by_fastconv(node: Any, x: Array, layout: str) -> list[Array]:
    """Return what a pooling node computes."""
    given = attributes(node)
    if node.op_type.startswith("Global"):
        operator = fastconv.global_max_pool2d if "Max" in node.op_type else fastconv.global_avg_pool2d
        return [operator(x, layout=layout)]
    by_columns = given.pop("storage_order", 0)
    words: dict[str, Any] = {
        "kernel_size": tuple(given.pop("kernel_shape")),
        "stride": tuple(given.pop("strides", (1, 1))),
        "dilation": tuple(given.pop("dilations", (1, 1))),
        "ceil_mode": bool(given.pop("ceil_mode", 0)),
        "padding": take_padding(given),
        "layout": layout,
    }
    if node.op_type == "AveragePool":
        words["count_include_pad"] = bool(given.pop("count_include_pad", 0))
        assert not given, f"unknown attributes {given}"
        return [fastconv.avg_pool2d(x, **words)]
    assert not given, f"unknown attributes {given}"
    if len(node.output) == 1:
        return [fastconv.max_pool2d(x, **words)]
    y, places = fastconv.max_pool2d(x, return_indices=True, **words)
    return [y, counted_in_tensor(places, x.shape, layout, by_columns)]


def counted_in_tensor(places: Array, shape: tuple[int, ...], layout: str, by_columns: int) -> Array:
    """Return indices into a whole NCHW tensor, as ONNX gives them, from those into each plane."""
    if layout == "NHWC":
        shape, places = (shape[0], shape[3], shape[1], shape[2]), places.transpose(0, 3, 1, 2)
    n, c, h, w = shape
    if by_columns:
        places = places % w * h + places // w
    places = places + h * w * np.arange(n * c).reshape(n, c, 1, 1)
    return places if layout == "NCHW" else places.transpose(0, 2, 3, 1)


def check(node: Any, x: Array, outputs: list[Array]) -> None:
    """Compare both layouts with the expected outputs."""
    for y, expected in zip(by_fastconv(node, x, "NCHW"), outputs, strict=True):
        same(y, expected)
    for y, expected in zip(by_fastconv(node, x.transpose(0, 2, 3, 1), "NHWC"), outputs, strict=True):
        same(y, expected.transpose(0, 2, 3, 1))


def test_stored_cases_are_there() -> None:
    assert {operator: len(folders) for operator, folders in STORED.items()} == {
        "MaxPool": 2,
        "AveragePool": 2,
    }


@pytest.mark.parametrize(("operator", "folder"), FOLDERS, ids=[folder.name for _, folder in FOLDERS])
def test_stored_cases(operator: str, folder: Path) -> None:
    for node, inputs, output in stored(folder, operator):
        check(node, inputs[node.input[0]], [output])


def test_generated_cases_are_there() -> None:
    names = {name for name, *_ in GENERATED}
    assert len(names) >= 29
    assert names >= {
        "test_maxpool_2d_ceil_output_size_reduce_by_one",
        "test_maxpool_2d_dilations",
        "test_maxpool_2d_uint8",
        "test_maxpool_with_argmax_2d_precomputed_strides",
        "test_averagepool_2d_ceil_last_window_starts_on_pad",
        "test_averagepool_2d_dilations",
        "test_averagepool_2d_pads_count_include_pad",
        "test_globalaveragepool",
        "test_globalmaxpool_precomputed",
    }


@pytest.mark.parametrize(
    ("name", "node", "inputs", "outputs"), GENERATED, ids=[name for name, *_ in GENERATED]
)
def test_generated_cases(name: str, node: Any, inputs: list[Array], outputs: list[Array]) -> None:
    check(node, inputs[0], outputs)
