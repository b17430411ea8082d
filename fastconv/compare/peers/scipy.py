"""SciPy on an image of one channel: `ndimage.correlate` (direct) and `signal.oaconvolve` (by FFT, in pieces)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastconv.compare.data import Array, Arrays
from fastconv.compare.peers.interface import Contestant, Peer, why_not_one_channel
from fastconv.problem import Problem

#: What the direct form of 1e9 multiply-adds takes, about a second, is as long as anybody waits for a round.
MOST_FLOP = 4e9


class SciPy(Peer):
    name = "scipy"
    package = "scipy"
    distribution = "scipy"
    rank = 3

    def why_not(self, problem: Problem) -> str | None:
        pt, pb, pl, pr = problem.padding
        if max(pt, pb) >= problem.kh or max(pl, pr) >= problem.kw:
            return "its border is never wider than the kernel"
        return why_not_one_channel(problem)

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        if problem.flop <= MOST_FLOP:
            yield _contestant("ndimage", problem, arrays, _Direct(problem, arrays))
        yield _contestant("oaconvolve", problem, arrays, _ByFft(problem, arrays))


def _contestant(form: str, problem: Problem, arrays: Arrays, call: _Direct | _ByFft) -> Contestant:
    return Contestant(
        name=f"scipy {form}", layout="NCHW", call=call, result=call.result, facts={"threads": 1}
    )


class _Direct:
    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        self.problem, self.arrays = problem, arrays
        pt, _, pl, _ = problem.padding
        # SciPy counts the origin from the middle of the kernel.
        self.origin = (pt - problem.kh // 2, pl - problem.kw // 2)
        self.y = np.empty((problem.o, problem.h, problem.w), problem.dtype)

    def __call__(self) -> Array:
        from scipy.ndimage import correlate

        image = self.arrays.x[0, 0]
        for kernel, plane in zip(self.arrays.w[:, 0], self.y, strict=True):
            correlate(image, kernel, plane, mode="constant", origin=self.origin)
        if self.arrays.bias is not None:
            self.y += self.arrays.bias[:, None, None]
        return self.y

    def result(self, found: Array) -> Array:
        return found[None, :, : self.problem.oh, : self.problem.ow]


class _ByFft:
    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        self.problem, self.arrays = problem, arrays

    def __call__(self) -> Array:
        from scipy.signal import oaconvolve

        p = self.problem
        full = oaconvolve(self.arrays.x[0], self.arrays.w[:, 0, ::-1, ::-1], mode="full", axes=(1, 2))
        top, left = p.kh - 1 - p.padding[0], p.kw - 1 - p.padding[2]
        y: Array = full[:, top : top + p.oh, left : left + p.ow]
        return y if self.arrays.bias is None else y + self.arrays.bias[:, None, None]

    def result(self, found: Array) -> Array:
        return found[None]


PEER = SciPy()
