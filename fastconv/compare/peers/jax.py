"""JAX: `lax.conv_general_dilated` compiled by XLA for the CPU, weights as constants, NCHW and NHWC."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastconv.compare.data import Array, Arrays, to_nchw
from fastconv.compare.peers.interface import Contestant, Peer, why_not_plain
from fastconv.problem import Problem


class Jax(Peer):
    name = "jax"
    package = "jax"
    distribution = "jax"
    rank = 4

    def why_not(self, problem: Problem) -> str | None:
        return why_not_plain(problem, ("float32",))

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        # XLA has no way to say a number of threads: it starts one per core that it sees when it starts.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        for layout in ("NCHW", "NHWC"):
            yield _contestant(problem, arrays, layout, functional)


def _contestant(problem: Problem, arrays: Arrays, layout: str, functional: bool) -> Contestant:
    import jax

    pt, pb, pl, pr = problem.padding
    axes = (layout, "OIHW" if layout == "NCHW" else "HWIO", layout)
    kernel = arrays.w if layout == "NCHW" else arrays.w.transpose(2, 3, 1, 0)
    x, w = jax.device_put(arrays.x_in(layout)), jax.device_put(np.ascontiguousarray(kernel))
    bias = None
    if arrays.bias is not None:
        bias = arrays.bias.reshape((-1, 1, 1) if layout == "NCHW" else (-1,))

    def convolve(x: Any, w: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x,
            w,
            problem.stride,
            ((pt, pb), (pl, pr)),
            rhs_dilation=problem.dilation,
            dimension_numbers=axes,
            feature_group_count=problem.groups,
            precision=jax.lax.Precision.HIGHEST,
        )
        return y if bias is None else y + bias

    compiled = jax.jit(convolve if functional else lambda x: convolve(x, w))
    operands = (x, w) if functional else (x,)
    return Contestant(
        name=f"jax {layout.lower()}",
        layout=layout,
        call=lambda: compiled(*operands).block_until_ready(),
        result=lambda y: to_nchw(_to_numpy(y), layout),
    )


def _to_numpy(y: Any) -> Array:
    return np.asarray(y)


PEER = Jax()
