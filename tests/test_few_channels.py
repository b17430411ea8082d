"""Register tiles of few channels: the same bits from each, wherever image and result begin, past the caches or not."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Array, known
from running import judge, prepared

from fastconv import runtime
from fastconv.algorithms import registry
from fastconv.algorithms.few_channels import Config
from fastconv.machine import Machine
from fastconv.problem import Problem
from fastconv.runtime import Work

HOST = Machine.host()
FEW = registry.get("few_channels")

WORDS = (
    "n1c1h37w192_o1k3x3_s1p1d1g1_nchw_f32_reflect",
    "n2c2h29w160_o3k5x5_s1p2d1g1_nchw_f32_relu_bias_residual",
    "n1c1h40w176_o2k8x6_s1p3.4.2.3d1g1_nchw_f64_circular",
    "n1c3h33w97_o2k4x3_s2x1p1d3x2g1_nchw_f32_bias",
    "n1c4h30w64_o4k7x7_s1p3d1g4_nchw_f32_symmetric",
    "n2c3h19w83_o1k5x5_s1p2d1g1_nhwc_f32_reflect_relu_bias_residual",
    "n1c3h31w70_o3k3x3_s1p1d1g3_nhwc_f32_gelu_bias_residual",
    "n1c2h23w48_o4k4x2_s2x1p3.1.2.5d2x3g2_nhwc_f64_circular_bias",
    "n1c4h18w35_o4k3x6_s1p1.1.2.3d1g1_nhwc_i8",
    "n1c1h14w33_o2k2x1_s1p0d1g1_nhwc_f32",
)


def placed(shape: tuple[int, ...], dtype: str, elements: int) -> tuple[Array, Array]:
    """Return memory of 7s, and an array in its middle that begins so many elements behind a line."""
    size = int(np.prod(shape))
    memory = np.full(size + 256, 7, dtype)
    behind = memory.ctypes.data % 64 // memory.itemsize
    start = 128 - behind + elements
    return memory, memory[start : start + size].reshape(shape)


def run(problem: Problem, work: Work, x: Array, residual: Array | None, elements: int) -> Array:
    memory, y = placed(problem.y_shape, problem.compute_dtype, elements)
    at = 0 if residual is None else residual.ctypes.data
    runtime.run(work, x.ctypes.data, y.ctypes.data, at, 1)
    result = y.copy()
    y[...] = 7
    assert (memory == 7).all()
    return result


def tiles_of(problem: Problem) -> list[Config]:
    """Return the settings of the algorithm, each with other rows, in place and not, past the caches and not."""
    line = HOST.vector_bytes // np.dtype(problem.compute_dtype).itemsize
    found: dict[Config, None] = {}
    for config in FEW.configs(problem, HOST):
        found[config] = None
        in_planes = problem.layout == "NCHW" and problem.stride[1] == 1
        for in_place in (0, 1) if in_planes else (0,):
            for stream in (0, 1) if in_planes and problem.ow % line == 0 else (0,):
                found[config._replace(in_place=in_place, stream=stream)] = None
                found[config._replace(rows=config.tile_rows * 2, in_place=in_place, stream=stream)] = None
    return list(found)


@pytest.mark.parametrize("word", WORDS)
def test_every_setting_gives_the_same_bits(word: str) -> None:
    problem = Problem.parse(word)
    case, expected, magnitude = known(word, "normal")
    first = None
    for config in tiles_of(problem):
        _, work = prepared(FEW, problem, config, case)
        x = np.ascontiguousarray(case.x, problem.compute_dtype)
        for elements in (0, 1, 5):
            y = run(problem, work, x, case.residual, elements)
            if first is None:
                judge(FEW, problem, y, expected, magnitude)
                first = y
            np.testing.assert_array_equal(y, first, err_msg=str(config))


def test_large_results_go_past_the_caches() -> None:
    size = 4 * HOST.l2_bytes
    small, large = (
        Problem.parse(f"n1c1h{rows}w1024_o1k3x3_s1p1d1g1_nchw_f32") for rows in (8, size // 4096 + 8)
    )
    assert [config.stream for config in FEW.configs(small, HOST)] == [0] * len(FEW.configs(small, HOST))
    assert FEW.configs(large, HOST)[0].stream == 1
