"""Compile ahead of time what calls to come will need; the next processes load it from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from fastconv import runtime
from fastconv.planning import facts, planner
from fastconv.problem import Problem

#: What is compiled when nothing is named: the layers that nearly every network has.
COMMON = (
    "n1c3h224w224_o64k7x7_s2p3d1g1_{layout}_f32",
    "n1c64h56w56_o64k3x3_s1p1d1g1_{layout}_f32",
    "n1c128h56w56_o128k3x3_s2p1d1g1_{layout}_f32",
    "n1c256h14w14_o1024k1x1_s1p0d1g1_{layout}_f32",
    "n1c384h14w14_o384k3x3_s1p1d1g384_{layout}_f32",
)


def warmup(
    problems: Iterable[Problem | str] | None = None, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Compile the kernels of `problems`, or load them from disk: no later call waits for the compiler.

    Parameters
    ----------
    problems : iterable of Problem or str, optional
        Problems, or the words they print themselves as. Default: a few layers that nearly every network has.
    progress : callable, optional
        Called as ``progress(done, total)``, first with 0.

    Raises
    ------
    ValueError
        When a word is not a problem.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.warmup(["n1c8h16w16_o8k3x3_s1p1d1g1_nchw_f32"])
    """
    if problems is None:
        problems = [word.format(layout=layout) for layout in ("nchw", "nhwc") for word in COMMON]
    wanted = [Problem.parse(problem) if isinstance(problem, str) else problem for problem in problems]
    if progress:
        progress(0, len(wanted))
    runtime.compile_ahead()
    for done, problem in enumerate(wanted, start=1):
        _compile(problem)
        if progress:
            progress(done, len(wanted))


def _compile(problem: Problem) -> None:
    # Packing zeros compiles what packs real weights; an empty batch has the kernels of one image.
    asked = problem if problem.n else replace(problem, n=1)
    weights = np.zeros(asked.w_shape, asked.compute_dtype)
    bias = np.zeros(asked.o, asked.compute_dtype) if asked.bias else None
    machine = facts.host()
    _, work = planner.prepare(asked, machine, planner.choose(asked, machine), weights, bias)
    work.kernel.address  # noqa: B018  # asking for the address compiles
