"""The way NumPy users write a convolution: windows copied into a matrix, then one matrix product (BLAS)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_info

from fastconv.compare.data import Array, Arrays
from fastconv.compare.peers.interface import Contestant, Peer, why_not_plain
from fastconv.problem import Problem

LARGEST_MATRIX = 1 << 30


class NumpyIm2col(Peer):
    name = "numpy_im2col"
    package = "numpy"
    distribution = "numpy"
    rank = 0

    def why_not(self, problem: Problem) -> str | None:
        matrix_bytes = problem.n * problem.c * problem.taps * problem.oh * problem.ow
        matrix_bytes *= np.dtype(problem.dtype).itemsize
        if matrix_bytes > LARGEST_MATRIX:
            return f"its matrix of windows would take more than {LARGEST_MATRIX >> 30} GiB"
        return why_not_plain(problem, ("float32", "float64"))

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        yield Contestant(
            name=self.name,
            layout="NCHW",
            call=lambda: convolve(problem, arrays.x, arrays.w, arrays.bias),
            result=lambda y: y,
            facts={"threads": _blas_threads()},
        )


def _blas_threads() -> int:
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=0)


def convolve(problem: Problem, x: Array, w: Array, bias: Array | None) -> Array:
    """Return the NCHW convolution of `x` with `w`."""
    pt, pb, pl, pr = problem.padding
    (sh, sw), (dh, dw), g = problem.stride, problem.dilation, problem.groups
    if any(problem.padding):
        x = np.pad(x, ((0, 0), (0, 0), (pt, pb), (pl, pr)))
    extent = ((problem.kh - 1) * dh + 1, (problem.kw - 1) * dw + 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
    windows = windows[:, :, ::sh, ::sw, ::dh, ::dw].transpose(0, 1, 4, 5, 2, 3)
    columns = windows.reshape(problem.n, g, -1, problem.oh * problem.ow)
    y: Array = np.matmul(w.reshape(g, problem.o_per_group, -1), columns)
    y = y.reshape(problem.n, problem.o, problem.oh, problem.ow)
    if bias is not None:
        y += bias[:, None, None]
    return y


PEER = NumpyIm2col()
