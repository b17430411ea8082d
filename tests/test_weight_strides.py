"""Weights are packed from wherever they lie: transposed, turned round, every second tap of a larger kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastconv import runtime
from fastconv.algorithms import registry
from fastconv.algorithms.interface import WeightsDoNotFitError
from fastconv.arrays import address
from fastconv.machine import Machine
from fastconv.problem import Problem

Array = npt.NDArray[Any]


def turned_round(w: Array) -> Array:
    """As the input gradient reads them: in memory (I, O, kh, kw), taps backwards."""
    return np.ascontiguousarray(w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]).transpose(1, 0, 2, 3)[
        :, :, ::-1, ::-1
    ]


def every_second_tap(w: Array) -> Array:
    """As a phase of a transposed convolution reads them; what lies between is NaN, or a value nobody else has."""
    o, c, kh, kw = w.shape
    large = np.full((c, o, 2 * kh + 1, 2 * kw), 99 if w.dtype.kind == "i" else np.nan, w.dtype)
    view = large[:, :, 1::2, ::2].transpose(1, 0, 2, 3)[:, :, ::-1]
    view[...] = w
    return view


def outputs_on_two_axes(w: Array) -> Array:
    """As the joined phases of a transposed convolution are read: no one step leads from output to output."""
    o, c, kh, kw = w.shape
    halves = w.reshape(2, o // 2, c, kh, kw)
    return np.ascontiguousarray(halves.transpose(2, 1, 3, 4, 0)).transpose(4, 1, 0, 2, 3)


WAYS: dict[str, Callable[[Array], Array]] = {
    "HWIO": lambda w: np.ascontiguousarray(w.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1),
    "OHWI": lambda w: np.ascontiguousarray(w.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "turned round": turned_round,
    "every second tap": every_second_tap,
    "outputs on two axes": outputs_on_two_axes,
}
#: Channels on both sides of a vector, of two, of a block of 32; few; a large kernel; groups; a single tap.
LAYERS = (
    "n1c5h6w7_o4k3x3_s1p1d1g1", "n1c66h9w9_o34k3x3_s1p1d1g1", "n1c20h9w12_o40k3x2_s2p1d1g1",
    "n1c3h20w20_o8k5x5_s1p2d1g1", "n1c2h60w60_o2k25x25_s1p12d1g1",
    "n1c6h12w11_o8k5x3_s1p2d1g2", "n1c40h8w8_o40k1x1_s1p0d1g1", "n1c16h9w9_o16k3x3_s1p1d1g16",
    "n1c24h9w9_o24k3x3_s1p1d1g3",
)  # fmt: skip


@pytest.mark.parametrize("name", registry.all())
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_weights_are_read_where_they_lie(name: str, layout: str, dtype: str) -> None:
    algorithm, machine, random = registry.get(name), Machine.host(), np.random.default_rng(3)
    ran = 0
    for layer in LAYERS:
        problem = Problem.parse(f"{layer}_{layout}_{dtype}")
        if algorithm.why_not(problem, machine) is not None:
            continue
        x, w = (
            random.integers(-4, 5, shape).astype(problem.dtype)
            for shape in (problem.x_shape, problem.w_shape)
        )
        description = algorithm.layout(problem, machine, algorithm.configs(problem, machine)[0])
        results = {}
        try:
            for way, lying in {"OIHW": np.array, **WAYS}.items():
                work = algorithm.prepare(description, lying(w), None)
                results[way] = np.full(problem.y_shape, np.nan, problem.dtype)
                runtime.run(work, address(x), address(results[way]), 0, 1)
        except WeightsDoNotFitError:
            continue
        for way, y in results.items():
            np.testing.assert_array_equal(y, results["OIHW"], f"{problem.word}, weights {way}")
        ran += 1
    if not ran:
        pytest.skip(f"{name} computes none of these layers with any weights here")


@pytest.mark.parametrize("way", WAYS)
def test_values_that_are_not_finite_are_noticed_anyhow(way: str) -> None:
    machine, noticed = Machine.host(), []
    for layout in ("nchw", "nhwc"):
        problem = Problem.parse(f"n1c34h9w9_o40k3x3_s1p1d1g1_{layout}_f32")
        w = np.ones(problem.w_shape, np.float32)
        w[39, 33, 1, 2] = np.inf
        for name, algorithm in registry.all().items():
            if algorithm.why_not(problem, machine) is not None or algorithm.needs_of_weights:
                continue
            description = algorithm.layout(problem, machine, algorithm.configs(problem, machine)[0])
            if description.pads_with_zeros:
                with pytest.raises(WeightsDoNotFitError, match="infinite or NaN"):
                    algorithm.prepare(description, WAYS[way](w), None)
                noticed.append(name)
    assert noticed
