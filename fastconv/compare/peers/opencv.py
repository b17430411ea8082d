"""OpenCV: `filter2D` on an image of one channel, once per output channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastconv.compare.data import Array, Arrays
from fastconv.compare.peers.interface import Contestant, Peer, why_not_one_channel
from fastconv.problem import Problem


class OpenCv(Peer):
    name = "opencv"
    package = "cv2"
    distribution = "opencv-python-headless"
    rank = 2

    def why_not(self, problem: Problem) -> str | None:
        pt, pb, pl, pr = problem.padding
        if max(pt, pb) >= problem.kh or max(pl, pr) >= problem.kw:
            return "its border is never wider than the kernel"
        return why_not_one_channel(problem)

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        import cv2

        cv2.setNumThreads(problem.threads)
        pt, _, pl, _ = problem.padding
        # The anchor is the tap over the first pixel, so that the answer begins where ours does.
        anchor = (pl, pt)
        image, kernels = arrays.x[0, 0], arrays.w[:, 0]
        y = np.empty((problem.o, problem.h, problem.w), image.dtype)
        delta = np.zeros(problem.o) if arrays.bias is None else arrays.bias

        def call() -> Array:
            for kernel, plane, offset in zip(kernels, y, delta, strict=True):
                cv2.filter2D(image, -1, kernel, plane, anchor, float(offset), cv2.BORDER_CONSTANT)
            return y

        yield Contestant(
            name="opencv filter2D",
            layout="NCHW",
            call=call,
            result=lambda found: found[None, :, : problem.oh, : problem.ow],
            facts={"threads": cv2.getNumThreads()},
        )


PEER = OpenCv()
