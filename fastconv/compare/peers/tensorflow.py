"""TensorFlow: `tf.nn.conv2d` in NHWC, the only layout that it computes on a CPU, inside a `tf.function`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from fastconv.compare.data import Arrays, to_nchw
from fastconv.compare.peers.interface import Contestant, Peer, why_not_plain
from fastconv.problem import Problem


class TensorFlow(Peer):
    name = "tensorflow"
    package = "tensorflow"
    distribution = "tensorflow-cpu"
    rank = 4

    def version(self) -> str:
        # The same package comes in two distributions.
        found = [name for name in (self.distribution, "tensorflow") if _installed(name)]
        return version(found[0]) if found else "unknown"

    def why_not(self, problem: Problem) -> str | None:
        if problem.groups > 1 and problem.c_per_group > 1:
            return "no grouped convolution on CPUs but depthwise"
        if problem.groups > 1 and (problem.stride[0] != problem.stride[1] or max(problem.dilation) > 1):
            return "no depthwise convolution with two strides or with dilation"
        return why_not_plain(problem, ("float32",))

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        # Its pools take a size only before they start: with the first layer of the process.
        with suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(problem.threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        x, convolve = tf.constant(arrays.x_in("NHWC")), tf.function(_convolution(tf, problem, arrays))
        yield Contestant(
            name="tensorflow nhwc",
            layout="NHWC",
            call=lambda: convolve(x),
            result=lambda y: to_nchw(y.numpy(), "NHWC"),
            facts={"threads": tf.config.threading.get_intra_op_parallelism_threads()},
        )


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _convolution(tf: Any, problem: Problem, arrays: Arrays) -> Any:
    """Return the function of x; the weights are constants of its graph."""
    pt, pb, pl, pr = problem.padding
    borders = [[0, 0], [pt, pb], [pl, pr], [0, 0]]
    if problem.groups == 1:
        w = tf.constant(np.ascontiguousarray(arrays.w.transpose(2, 3, 1, 0)))
    else:
        # (o, 1, kh, kw) with o = c * several becomes (kh, kw, c, several).
        kernels = arrays.w.reshape(problem.c, problem.o_per_group, problem.kh, problem.kw)
        w = tf.constant(np.ascontiguousarray(kernels.transpose(2, 3, 0, 1)))

    def convolve(x: Any) -> Any:
        if problem.groups == 1:
            y = tf.nn.conv2d(x, w, list(problem.stride), borders, dilations=list(problem.dilation))
        else:
            y = tf.nn.depthwise_conv2d(x, w, [1, *problem.stride, 1], borders)
        return y if arrays.bias is None else tf.nn.bias_add(y, arrays.bias)

    return convolve


PEER = TensorFlow()
