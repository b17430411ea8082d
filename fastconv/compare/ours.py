"""fastconv as a contestant: a plan made once, or `conv2d` from scratch at every call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fastconv.api import conv2d, plan
from fastconv.arrays import fresh
from fastconv.compare.data import Array, Arrays, in_layout, to_nchw, words
from fastconv.compare.peers.interface import Contestant, Peer
from fastconv.planning.plan import Plan
from fastconv.problem import Problem


class Fastconv(Peer):
    """Not in the registry of peers: it is what they are measured against."""

    name = "fastconv"
    package = "fastconv"
    distribution = "fastconv"
    rank = -1

    def __init__(
        self,
        layouts: tuple[str, ...] = ("NCHW", "NHWC"),
        algorithm: str = "auto",
        classes: tuple[str, ...] = (),
    ) -> None:
        self.layouts = layouts
        self.algorithm = algorithm
        self.classes = classes

    def why_not(self, problem: Problem) -> str | None:
        return None

    def contestants(self, problem: Problem, arrays: Arrays, functional: bool) -> Iterator[Contestant]:
        for layout in self.layouts:
            yield self._contestant(problem, arrays, layout, functional)
        # Other accuracy classes are beside the comparison: their title says which.
        for accuracy in self.classes:
            other = replace(problem, accuracy=accuracy)
            for layout in self.layouts if accuracy != problem.accuracy else ():
                found = self._contestant(other, arrays, layout, functional)
                facts = {**found.facts, "accuracy": accuracy}
                yield replace(found, name=f"{found.name} {accuracy}", facts=facts)

    def _contestant(self, problem: Problem, arrays: Arrays, layout: str, functional: bool) -> Contestant:
        made = self._called_anew if functional else self._planned
        return made(problem, arrays, layout)

    def _words(self, problem: Problem, arrays: Arrays, layout: str) -> dict[str, Any]:
        own = {"layout": layout, "algorithm": self.algorithm, "bias": arrays.bias}
        limits = {"threads": problem.threads, "workspace_limit": problem.workspace_limit}
        return {**words(problem), **own, **limits}

    def _planned(self, problem: Problem, arrays: Arrays, layout: str) -> Contestant:
        x, residual, ready = self._ready(problem, arrays, layout)
        y = fresh(ready.problem.y_shape, np.dtype(ready.problem.result_dtype))
        with_residual = {} if residual is None else {"residual": residual}
        return Contestant(
            name=f"{self.name} {layout.lower()}",
            layout=layout,
            call=lambda: ready(x, out=y, **with_residual),
            result=lambda _: to_nchw(y, layout),
            facts=_facts(ready),
        )

    def _called_anew(self, problem: Problem, arrays: Arrays, layout: str) -> Contestant:
        x, residual, ready = self._ready(problem, arrays, layout)
        spoken = self._words(problem, arrays, layout)
        return Contestant(
            name=f"{self.name} {layout.lower()}",
            layout=layout,
            call=lambda: conv2d(x, arrays.w, residual=residual, **spoken),
            result=lambda y: to_nchw(y, layout),
            facts=_facts(ready),
        )

    def _ready(self, problem: Problem, arrays: Arrays, layout: str) -> tuple[Array, Array | None, Plan]:
        """Return input and residual in `layout`, and the plan for them."""
        x = arrays.x_in(layout)
        residual = None if arrays.residual is None else in_layout(arrays.residual, layout)
        spoken = self._words(problem, arrays, layout)
        return x, residual, plan(x.shape, arrays.w, dtype=problem.dtype, residual=problem.residual, **spoken)


def _facts(ready: Plan) -> dict[str, Any]:
    return {
        "algorithm": ready.algorithm,
        "config": str(ready.config),
        "source": ready.source,
        "workspace_bytes": ready.workspace_bytes,
        "threads": ready.problem.threads,
    }
