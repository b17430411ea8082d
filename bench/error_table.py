"""Print a table of measured errors: every algorithm, in every setting that decides the bits, on four kinds of data.

usage: python bench/error_table.py [problem ...]    (problem words; by default layers that every algorithm finds one of)

Cells are ``relative L2 error / largest error beside the largest output``, against the definition in float64
(extended precision for float64 problems). "scaled" data have magnitudes from 1e-20 to 1e20, so that few products make
up each sum. The last column is the published bound, in the sense of `fastconv.explain`, and in brackets how much of
it the worst output took. Kernels are a column times a row where an algorithm takes no others.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import runtime
from fastconv.algorithms import registry
from fastconv.algorithms.interface import AnyAlgorithm, Config
from fastconv.machine import Machine
from fastconv.problem import Problem

Array = npt.NDArray[Any]

PROBLEMS = (
    "n1c256h28w30_o40k3x3_s1p1d1g1_nchw_f32",
    "n1c256h7w6_o40k3x3_s1p1d1g1_nchw_f32",
    "n1c256h28w30_o40k1x1_s1p0d1g1_nhwc_f32",
    "n1c1h120w130_o4k15x15_s1p7d1g1_nchw_f32",
    "n1c1h120w130_o2k31x31_s1p15d1g1_nchw_f32",
    "n1c64h28w30_o64k3x3_s1p1d1g64_nchw_f32",
    "n1c64h28w30_o40k3x3_s1p1d1g1_nchw_f64",
)
KINDS = ("uniform", "normal", "relu", "scaled")


def arrays(problem: Problem, kind: str, rank_one: bool) -> tuple[Array, Array]:
    """Return x and w of the problem, rounded to its dtype."""
    rng = np.random.default_rng(0)
    draw = rng.random if kind == "uniform" else rng.standard_normal
    x, w = draw(problem.x_shape), draw(problem.w_shape)
    if kind == "relu":
        x = np.maximum(x, 0)
    if kind == "scaled":
        x *= 10.0 ** rng.uniform(-20, 20, x.shape)
        w *= 10.0 ** rng.uniform(-10, 10, w.shape)
    if rank_one:
        w = w[:, :, :1, :] * rng.uniform(0.5, 2, (*problem.w_shape[:3], 1))
    return x.astype(problem.dtype), w.astype(problem.dtype)


def definition(problem: Problem, x: Array, w: Array) -> Array:
    """Return the sums of the definition, tap by tap, in a wider type than the problem's."""
    wide = np.longdouble if problem.dtype == "float64" else np.float64
    planes = x if problem.layout == "NCHW" else x.transpose(0, 3, 1, 2)
    top, bottom, left, right = problem.padding
    padded = np.pad(planes.astype(wide), ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, groups, per_group = problem.n, problem.groups, problem.o_per_group
    padded = padded.reshape(n, groups, problem.c_per_group, *padded.shape[2:])
    kernels = w.astype(wide).reshape(groups, per_group, *problem.w_shape[1:])
    y = np.zeros((n, groups, per_group, problem.oh, problem.ow), wide)
    for r in range(problem.kh):
        for s in range(problem.kw):
            window = padded[..., r : r + problem.oh, s : s + problem.ow]
            y += np.einsum("ngchw,goc->ngohw", window, kernels[..., r, s], optimize=wide is np.float64)
    y = y.reshape(n, problem.o, problem.oh, problem.ow)
    return y if problem.layout == "NCHW" else y.transpose(0, 2, 3, 1)


def computed(problem: Problem, algorithm: AnyAlgorithm, config: Config, x: Array, w: Array) -> Array:
    """Return the result of one algorithm in one setting."""
    layout = algorithm.layout(problem, Machine.host(), config)
    work = algorithm.prepare(layout, w, None)
    y = np.empty(problem.y_shape, problem.dtype)
    runtime.run(work, x.ctypes.data, y.ctypes.data, 0, 1)
    return y


def settings(problem: Problem, algorithm: AnyAlgorithm) -> dict[Config, tuple[Problem, Config]]:
    """Return for each numerics of an algorithm the narrowest class of accuracy that uses it, and a setting."""
    found: dict[Config, tuple[Problem, Config]] = {}
    for accuracy in ("strict", "standard", "fast"):
        classed = replace(problem, accuracy=accuracy)
        if algorithm.why_not(classed, Machine.host()) is None:
            for config in algorithm.configs(classed, Machine.host()):
                found.setdefault(algorithm.numerics(config), (classed, config))
    return found


def table(problem: Problem) -> None:
    """Print the rows of one problem."""
    print(
        f"\n{problem.word}\n{'algorithm':26s}{'class':10s}"
        + "".join(f"{kind:20s}" for kind in KINDS)
        + "bound"
    )
    known: dict[tuple[str, bool], tuple[Array, Array, Array, Array]] = {}
    for algorithm in registry.all().values():
        rank_one = bool(algorithm.needs_of_weights)
        for numerics, (classed, config) in settings(problem, algorithm).items():
            cells, worst = [], 0.0
            for kind in KINDS:
                if (kind, rank_one) not in known:
                    x, w = arrays(problem, kind, rank_one)
                    sums = definition(problem, x, w), definition(problem, np.abs(x), np.abs(w))
                    known[kind, rank_one] = (x, w, *sums)
                x, w, exact, size = known[kind, rank_one]
                error = np.abs(computed(classed, algorithm, config, x, w) - exact)
                l2 = np.linalg.norm(error.astype(np.float64)) / np.linalg.norm(exact.astype(np.float64))
                cells.append(f"{l2:.1e} / {error.max() / np.abs(exact).max():.1e}")
                least = size if algorithm.bound_is_local else size.max()
                allowed = np.broadcast_to(algorithm.error_bound(classed) * least, error.shape)
                share = np.divide(
                    error, allowed, out=np.zeros(error.shape), where=allowed > 0, casting="same_kind"
                )
                worst = max(worst, float(share.max()))
            name = " ".join([algorithm.name, *map(str, numerics)])
            bound = f"{algorithm.error_bound(classed):.1e} ({worst:.0%})"
            print(
                f"{name:26s}{classed.accuracy:10s}" + "".join(f"{cell:20s}" for cell in cells) + bound,
                flush=True,
            )


def main(words: list[str]) -> None:
    for word in words or PROBLEMS:
        table(Problem.parse(word))


if __name__ == "__main__":
    main(sys.argv[1:])
