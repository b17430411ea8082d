"""ONNX Runtime: a one-node model with constant weights, with its blocked layout (NCHWc) and without."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastconv.compare.data import Arrays
from fastconv.compare.peers.interface import Contestant, Peer, why_not_plain
from fastconv.problem import Problem


class OnnxRuntime(Peer):
    name = "onnxruntime"
    package = "onnxruntime"
    distribution = "onnxruntime"
    # The threads of one session spin after a call, where the other's then would compute.
    pools = 2

    def missing(self) -> str | None:
        if find_spec("onnx") is None:
            return "onnxruntime needs the onnx package to build its model (pip install onnx)"
        return super().missing()

    def why_not(self, problem: Problem) -> str | None:
        return why_not_plain(problem, ("float32",))

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        if functional:
            return
        model = _model(problem, arrays)
        for variant, level in (("nchwc", "ORT_ENABLE_ALL"), ("nchw", "ORT_ENABLE_EXTENDED")):
            yield _contestant(variant, _session(model, level, problem.threads), problem, arrays)


def _model(problem: Problem, arrays: Arrays) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    pt, pb, pl, pr = problem.padding
    constants = {"w": arrays.w} if arrays.bias is None else {"w": arrays.w, "b": arrays.bias}
    node = helper.make_node(
        "Conv",
        ["x", *constants],
        ["y"],
        strides=problem.stride,
        pads=[pt, pl, pb, pr],
        dilations=problem.dilation,
        group=problem.groups,
    )
    y_shape = (problem.n, problem.o, problem.oh, problem.ow)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, arrays.x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # Old versions of the format and of the operator set, so that any runtime of recent years reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _session(model: bytes, level: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _contestant(variant: str, session: Any, problem: Problem, arrays: Arrays) -> Contestant:
    import onnxruntime

    y = np.empty((problem.n, problem.o, problem.oh, problem.ow), np.float32)
    x_value = onnxruntime.OrtValue.ortvalue_from_numpy(arrays.x)
    y_value = onnxruntime.OrtValue.ortvalue_from_numpy(y)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x_value)
    binding.bind_ortvalue_output("y", y_value)
    return Contestant(
        name=f"onnxruntime {variant}",
        layout="NCHW",
        call=lambda: session.run_with_iobinding(binding),
        result=lambda _: y_value.numpy(),
        facts={"threads": session.get_session_options().intra_op_num_threads},
    )


PEER = OnnxRuntime()
