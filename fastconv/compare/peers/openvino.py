"""OpenVINO: a one-operator model with constant weights, its input and output in NCHW or declared as NHWC."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastconv.compare.data import Arrays, to_nchw
from fastconv.compare.peers.interface import Contestant, Peer, why_not_plain
from fastconv.problem import Problem


class OpenVino(Peer):
    name = "openvino"
    package = "openvino"
    distribution = "openvino"

    def why_not(self, problem: Problem) -> str | None:
        return why_not_plain(problem, ("float32",))

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        if functional:
            return
        for layout in ("NCHW", "NHWC"):
            yield _contestant(problem, arrays, layout)


def _model(problem: Problem, arrays: Arrays, layout: str) -> Any:
    import openvino
    from openvino import opset13 as ops
    from openvino.preprocess import PrePostProcessor

    pt, pb, pl, pr = problem.padding
    g, (o, cg, kh, kw) = problem.groups, arrays.w.shape
    x = ops.parameter(list(arrays.x.shape), np.float32, name="x")
    if g == 1:
        convolution, weights = ops.convolution, arrays.w
    else:
        convolution, weights = ops.group_convolution, arrays.w.reshape(g, o // g, cg, kh, kw)
    y = convolution(
        x, ops.constant(weights), list(problem.stride), [pt, pl], [pb, pr], list(problem.dilation)
    )
    if arrays.bias is not None:
        y = ops.add(y, ops.constant(arrays.bias.reshape(1, -1, 1, 1)))
    model = openvino.Model([y], [x], "layer")
    if layout == "NHWC":
        outside, inside = openvino.Layout("NHWC"), openvino.Layout("NCHW")
        steps = PrePostProcessor(model)
        for port in (steps.input(), steps.output()):
            port.tensor().set_layout(outside)
            port.model().set_layout(inside)
        model = steps.build()
    return model


def _contestant(problem: Problem, arrays: Arrays, layout: str) -> Contestant:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": problem.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Left alone it computes in bfloat16 where the CPU has tiles for it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with _signal_stack_kept():
        compiled = openvino.Core().compile_model(_model(problem, arrays, layout), "CPU", settings)
    request = compiled.create_infer_request()
    x = openvino.Tensor(arrays.x_in(layout), shared_memory=True)
    request.set_input_tensor(x)

    return Contestant(
        name=f"openvino {layout.lower()}",
        layout=layout,
        call=lambda: request.infer(share_outputs=True),
        result=lambda _: to_nchw(request.get_output_tensor().data, layout),
        keep=(x,),
        facts={"threads": int(compiled.get_property("INFERENCE_NUM_THREADS"))},
    )


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """Give back the alternate stack for signals that was there before.

    OpenVINO puts its own in place, with room for little more than the registers. Once another library uses
    AMX tiles, Python's handler overflows it: Ctrl-C would end in a segmentation fault.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    exchange = ctypes.CDLL(None).sigaltstack
    before = _SignalStack()
    exchange(None, ctypes.byref(before))
    try:
        yield
    finally:
        exchange(ctypes.byref(before), None)


PEER = OpenVino()
