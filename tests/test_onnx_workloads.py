"""ONNX files as workloads: their convolutions, in order and counted; damage is refused with the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastconv.compare import layers

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")


def node(name: str, x: str, w: str, y: str, *more: str, **attributes: Any) -> Any:
    return onnx.helper.make_node("Conv", [x, w, *more], [y], name=name, **attributes)


def model(
    path: Path, nodes: list[Any], weights: dict[str, tuple[int, ...]], x: tuple[Any, ...] = (1, 4, 9, 7)
) -> str:
    """Write a model and return its path."""
    value, number = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    tensors = [
        onnx.helper.make_tensor(name, number, shape, bytes(4 * _size(shape)), raw=True)
        for name, shape in weights.items()
    ]
    graph = onnx.helper.make_graph(
        nodes, "net", [value("x", number, x)], [value(nodes[-1].output[0], number, None)], tensors
    )
    opset = onnx.helper.make_opsetid("", 13)
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset]).SerializeToString())
    return str(path)


def _size(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def test_convolutions_are_found_in_order_and_counted(tmp_path: Path) -> None:
    nodes = [
        node("first", "x", "w1", "a", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["a"], ["b"]),
        node("twice", "b", "w2", "c", "bias", auto_pad="SAME_UPPER", strides=[2, 1]),
        node("", "b", "w2", "d", "bias", auto_pad="SAME_UPPER", strides=[2, 1]),
        node("", "b", "w3", "e", group=6, dilations=[2, 1], pads=[1, 0, 2, 3]),
    ]
    weights = {"w1": (6, 4, 3, 3), "w2": (6, 6, 3, 3), "w3": (6, 1, 3, 3), "bias": (6,)}
    title, found = layers.load(model(tmp_path / "net.onnx", nodes, weights))
    assert title == "net"
    assert [(layer.name, layer.count) for layer in found] == [("first", 1), ("twice", 2), ("e", 1)]
    assert [layer.problem.word for layer in found] == [
        "n1c4h9w7_o6k3x3_s1p1d1g1_nchw_f32",
        "n1c6h9w7_o6k3x3_s2x1p1d1g1_nchw_f32_bias",
        "n1c6h9w7_o6k3x3_s1p1.2.0.3d2x1g6_nchw_f32",
    ]


def test_a_batch_without_a_number_is_one_image(tmp_path: Path) -> None:
    path = model(tmp_path / "net.onnx", [node("a", "x", "w", "y")], {"w": (6, 4, 3, 3)}, ("batch", 4, 9, 7))
    assert layers.load(path)[1][0].problem.n == 1


@pytest.mark.parametrize(
    ("nodes", "weights", "x", "message"),
    [
        ([node("a", "x", "w", "y")], {"w": (6, 4, 3, 3)}, (1, 4, "rows", 7), "axes without a number"),
        ([node("a", "x", "w", "y")], {"w": (6, 4, 30, 3)}, (1, 4, 9, 7), "kernel must not be larger|shapes"),
        ([node("a", "x", "nothing", "y")], {"w": (6, 4, 3, 3)}, (1, 4, 9, 7), "shape of w is not known"),
        ([node("a", "x", "w", "y", strides=[0, 1])], {"w": (6, 4, 3, 3)}, (1, 4, 9, 7), "stride must be|shapes"),
        ([node("a", "x", "w", "y", pads=[1])], {"w": (6, 4, 3, 3)}, (1, 4, 9, 7), "unpack|pads|shapes"),
        ([onnx.helper.make_node("Relu", ["x"], ["y"])], {}, (1, 4, 9, 7), "holds no 2-D convolution"),
        ([node("a", "x", "w", "y")], {"w": (6, 4, 3)}, (1, 4, 9), "holds no 2-D convolution"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, nodes: list[Any], weights: dict[str, tuple[int, ...]], x: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        layers.load(model(tmp_path / "net.onnx", nodes, weights, x))
    assert "net.onnx" in str(refused.value) and str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 100])
def test_files_that_are_no_models_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.onnx"):
        layers.load(str(path))
    with pytest.raises(ValueError, match=r"cannot read none\.onnx"):
        layers.load(str(tmp_path / "none.onnx"))


def test_names_are_cleaned(tmp_path: Path) -> None:
    path = model(tmp_path / "net.onnx", [node("a\x1b[2J<script>", "x", "w", "y")], {"w": (6, 4, 3, 3)})
    assert layers.load(path)[1][0].name == "a\ufffd[2J<script>"
