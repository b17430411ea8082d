"""The convolutions of an ONNX model as a workload: shapes only, its weights are not read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastconv.arguments import pads
from fastconv.compare.reading import clean
from fastconv.problem import Problem

#: Protocol buffers end there.
MOST_BYTES = 2 << 30
MOST_NODES = 100_000
_PADDINGS = {"VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}

Found = tuple[str, Problem, int]


def convolutions(path: Path) -> list[Found]:
    """Return name, problem and count of every different 2-D convolution of the model, in its order.

    Axes of x without a number are one image for the batch; any other axis without one is refused.

    Raises
    ------
    ValueError
        When onnx is not installed, when the file is no ONNX model, or when it holds no convolution whose
        shape is known; with the node.
    """
    if find_spec("onnx") is None:
        raise ValueError(f"workload: {path.name} needs the onnx package (pip install onnx)")
    graph = _graph(path)
    shapes = dict(_shapes(graph))
    found: dict[Problem, tuple[str, int]] = {}
    for place, node in enumerate(graph.node):
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        name = clean(node.name or (node.output[0] if node.output else "") or f"node{place}")
        where = f"workload: {path.name}: {name}"
        problem = _problem(node, shapes, where)
        if problem is not None:
            first, count = found.get(problem, (name, 0))
            found[problem] = (first, count + 1)
    if not found:
        raise ValueError(f"workload: {path.name} holds no 2-D convolution")
    return [(name, problem, count) for problem, (name, count) in found.items()]


def _graph(path: Path) -> Any:
    """Return the graph with the shapes that can be inferred; external weights are left where they are."""
    import onnx

    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"workload: {path.name} is larger than {MOST_BYTES >> 30} GiB")
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ValueError(f"workload: cannot read {path.name}: {error.strerror or error}") from None
    except ValueError:
        raise
    except Exception as error:
        # Whatever its parser raises: its classes differ between versions of protobuf.
        raise ValueError(f"workload: {path.name} is not an ONNX model: {clean(str(error))[:200]}") from None
    if len(model.graph.node) > MOST_NODES:
        raise ValueError(f"workload: {path.name} has more than {MOST_NODES} nodes")
    try:
        return onnx.shape_inference.infer_shapes(model).graph
    except Exception as error:
        raise ValueError(f"workload: {path.name}: shapes: {clean(str(error))[:200]}") from None


def _shapes(graph: Any) -> Iterator[tuple[str, list[int | None]]]:
    """Yield the sizes of every value by name; None for axes without a number."""
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            yield value.name, [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    for tensor in graph.initializer:
        yield tensor.name, list(tensor.dims)


def _problem(node: Any, shapes: dict[str, list[int | None]], where: str) -> Problem | None:
    """Return the problem of a node; None for convolutions of other than two axes."""
    from onnx import helper

    if len(node.input) < 2:
        raise ValueError(f"{where} has no weights")
    sizes = [shapes.get(name) for name in node.input[:2]]
    for name, size in zip(("x", "w"), sizes, strict=True):
        if size is None:
            raise ValueError(f"{where}: the shape of {name} is not known")
    x, w = (size or [] for size in sizes)
    if len(w) != 4 or len(x) != 4:
        return None
    for name, size in (("x", x[1:]), ("w", w)):
        if None in size:
            raise ValueError(f"{where}: the shape of {name} has axes without a number")
    n, c, h, width = (1 if size is None else size for size in x)
    o, _, kh, kw = (size or 0 for size in w)
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    try:
        stride, dilation = (tuple(given.get(name, (1, 1))) for name in ("strides", "dilations"))
        top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
        word = _PADDINGS.get(given.get("auto_pad", b"NOTSET").decode())
        return Problem(
            n=n,
            c=c,
            h=h,
            w=width,
            o=o,
            kh=kh,
            kw=kw,
            stride=stride,
            dilation=dilation,
            padding=pads(word or ((top, bottom), (left, right)), (h, width), (kh, kw), stride, dilation),
            groups=int(given.get("group", 1)),
            bias=len(node.input) > 2 and bool(node.input[2]),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {clean(str(error))}") from None
