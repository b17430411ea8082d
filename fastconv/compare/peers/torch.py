"""PyTorch (oneDNN inside): contiguous and channels_last tensors, weights reordered once, and bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastconv.compare.data import Array, Arrays
from fastconv.compare.peers.interface import Contestant, Peer, why_not_plain
from fastconv.problem import Problem


class Torch(Peer):
    name = "torch"
    package = "torch"
    distribution = "torch"

    def why_not(self, problem: Problem) -> str | None:
        return why_not_plain(problem, ("float32", "float64"))

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        import torch

        torch.set_num_threads(problem.threads)
        # The whole float32 mantissa: oneDNN may otherwise take bfloat16 tiles where the CPU has them.
        torch.set_float32_matmul_precision("highest")
        x, w = torch.from_numpy(arrays.x), torch.from_numpy(arrays.w)
        bias = None if arrays.bias is None else torch.from_numpy(arrays.bias)
        last = torch.channels_last
        x_last, w_last = x.to(memory_format=last), w.to(memory_format=last)
        yield _contestant("contiguous", "NCHW", _plain(problem, x, w, bias))
        yield _contestant("channels_last", "NHWC", _plain(problem, x_last, w_last, bias))
        if not functional and problem.dtype == "float32" and _symmetric(problem):
            for layout, data in (("NCHW", x), ("NHWC", x_last)):
                call = _reordered_once(problem, data, w, bias)
                if call is not None:
                    yield _contestant(f"prepacked {layout.lower()}", layout, call)
        if problem.dtype == "float32":
            half = [None if t is None else t.to(torch.bfloat16) for t in (x_last, w_last, bias)]
            yield _contestant("bfloat16", "NHWC", _plain(problem, *half))


def _contestant(variant: str, layout: str, call: Callable[[], Any]) -> Contestant:
    import torch

    facts = {"threads": torch.get_num_threads()}
    return Contestant(name=f"torch {variant}", layout=layout, call=call, result=_to_numpy, facts=facts)


def _to_numpy(y: Any) -> Array:
    import torch

    # NumPy has no bfloat16.
    array: Array = y.float().numpy() if y.dtype is torch.bfloat16 else y.numpy()
    return array


def _symmetric(problem: Problem) -> bool:
    pt, pb, pl, pr = problem.padding
    return pt == pb and pl == pr


def _plain(problem: Problem, x: Any, w: Any, bias: Any) -> Callable[[], Any]:
    import torch

    pt, pb, pl, pr = problem.padding
    stride, dilation, groups = problem.stride, problem.dilation, problem.groups
    conv2d, pad = torch.nn.functional.conv2d, torch.nn.functional.pad
    symmetric = _symmetric(problem)

    def call() -> Any:
        with torch.inference_mode():
            if symmetric:
                return conv2d(x, w, bias, stride, (pt, pl), dilation, groups)
            return conv2d(pad(x, (pl, pr, pt, pb)), w, bias, stride, 0, dilation, groups)

    return call


def _reordered_once(problem: Problem, x: Any, w: Any, bias: Any) -> Callable[[], Any] | None:
    """Return the form that torch.compile uses for frozen weights, or None where this build lacks it."""
    import torch

    padding, stride, dilation = (
        [problem.padding[0], problem.padding[2]],
        list(problem.stride),
        list(problem.dilation),
    )
    try:
        reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
        convolve = torch.ops.mkldnn._convolution_pointwise
        packed = reorder(w.to_mkldnn(), padding, stride, dilation, problem.groups, list(x.shape))
    except (AttributeError, RuntimeError):
        return None

    def call() -> Any:
        with torch.inference_mode():
            return convolve(x, packed, bias, padding, stride, dilation, problem.groups, "none", [], "")

    return call


PEER = Torch()
