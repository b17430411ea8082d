"""Transforms of columns against NumPy's, and tiles of odd numbers, shapes and values."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Array, data, evaluate
from running import compute, judge

from fastconv import runtime
from fastconv.algorithms import registry
from fastconv.algorithms.fft import Config
from fastconv.kernels.fft_tile import digit_order, fft_columns, radices, turn_panel, twiddles
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import words
from fastconv.machine import Machine
from fastconv.problem import Problem

HOST = Machine.host()
FFT = registry.get("fft")


@task_factory
def transformed(points: int, most: int, sign: int, lanes: int, dtype: str):  # type: ignore[no-untyped-def]
    """Transform one panel in place."""
    vector = lanes * (4 if dtype == "float32" else 8)

    def task(ctx: int, i: int, scratch: int) -> None:
        panel, table = words(ctx, 2)
        fft_columns(points, most, sign, lanes, dtype, panel, panel + vector, 2 * vector, panel, table)

    return task


@task_factory
def turned(lanes: int, dtype: str):  # type: ignore[no-untyped-def]
    """Transpose the blocks of a panel."""

    def task(ctx: int, i: int, scratch: int) -> None:
        source, target, step, count = words(ctx, 4)
        turn_panel(lanes, dtype, source, target, step, count)

    return task


def on_panel(values: Array, most: int, sign: int) -> Array:
    """Return the transform of the rows of a complex array (points, lanes)."""
    points, lanes = values.shape
    dtype = "float32" if values.dtype == np.complex64 else "float64"
    panel = np.ascontiguousarray(np.stack([values.real, values.imag], axis=1))
    table = np.ascontiguousarray(twiddles(points, most), dtype)
    kernel = transformed(points, most, sign, lanes, dtype)
    runtime.run(
        runtime.Work(kernel, np.zeros(3, np.int64), 1, 0, 0.0), panel.ctypes.data, table.ctypes.data, 0, 1
    )
    result: Array = panel[:, 0] + 1j * panel[:, 1]
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("most", [4, 8])
@pytest.mark.parametrize("points", [16, 32, 64, 128, 256])
def test_transforms_are_those_of_numpy(points: int, most: int, dtype: str) -> None:
    lanes = HOST.lanes(dtype)
    rng = np.random.default_rng(points)
    values = rng.standard_normal((points, lanes)) + 1j * rng.standard_normal((points, lanes))
    values = values.astype(np.result_type(dtype, np.complex64))
    exact = np.fft.fft(values.astype(np.complex128), axis=0)
    forward = on_panel(values, most, -1)
    allowed = 8 * np.finfo(dtype).eps * np.abs(exact).max()
    np.testing.assert_allclose(forward, exact[digit_order(points, most)], rtol=0, atol=allowed)
    back = on_panel(forward.astype(values.dtype), most, 1)
    np.testing.assert_allclose(back, points * values, rtol=0, atol=points * allowed)


@pytest.mark.parametrize("most", [4, 8])
@pytest.mark.parametrize("points", [4, 8, 16, 32, 64, 128, 256, 512])
def test_passes_multiply_to_the_points(points: int, most: int) -> None:
    found = radices(points, most)
    assert np.prod(found) == points
    assert max(found) <= most
    assert sorted(digit_order(points, most)) == list(range(points))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_panels_are_transposed_block_by_block(dtype: str) -> None:
    lanes, count = HOST.lanes(dtype), 3
    panel = np.random.default_rng(1).standard_normal((count, lanes, 2, lanes)).astype(dtype)
    target = np.zeros_like(panel)
    context = np.array([0, 0, target[0].nbytes, count], np.int64)
    runtime.run(
        runtime.Work(turned(lanes, dtype), context, 1, 0, 0.0), panel.ctypes.data, target.ctypes.data,
        target[0].nbytes, 1,
    )  # fmt: skip
    np.testing.assert_array_equal(target, panel.transpose(0, 3, 2, 1))


#: One tile, two, an odd number; kernels of even sides; dilation; tiles that are no squares.
WORDS = (
    "n1c1h20w20_o1k9x9_s1p4d1g1_nchw_f32",
    "n2c1h20w60_o3k8x14_s1p4.3.7.6d1g1_nchw_f32_relu_bias",
    "n1c2h70w90_o2k13x11_s1p6.6.5.5d1g1_nchw_f32_reflect_residual",
    "n1c3h64w50_o3k5x4_s1p6.6.3.3d3x2g3_nchw_f64_circular_bias",
    "n1c1h130w40_o1k63x2_s1p31.31.0.1d1g1_nchw_f32",
)


@pytest.mark.parametrize("word", WORDS)
def test_every_tile(word: str) -> None:
    problem = Problem.parse(word)
    case = data(problem, "normal")
    expected, magnitude = evaluate(problem, case)
    sides = [side for side in (32, 64, 128)]
    for ty in sides:
        for tx in sides:
            if ty > problem.dilation[0] * (problem.kh - 1) and tx > problem.dilation[1] * (problem.kw - 1):
                for splits in {1, problem.o // problem.groups}:
                    y = compute(FFT, problem, case, Config(ty, tx, splits))
                    judge(FFT, problem, y, expected, magnitude)


def test_only_tiles_with_special_values_are_computed_by_the_definition() -> None:
    problem = Problem.parse("n1c1h64w200_o2k9x9_s1p4d1g1_nchw_f32")
    case = data(problem, "normal")
    clean = compute(FFT, problem, case, Config(32, 32))
    case.x[0, 0, 1, 2] = np.inf
    y = compute(FFT, problem, case, Config(32, 32))
    np.testing.assert_array_equal(y[..., 50:], clean[..., 50:])
    expected, _ = evaluate(problem, case)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))


def test_sums_that_overflow_inside_a_transform_come_out_right() -> None:
    problem = Problem.parse("n1c1h40w40_o1k9x9_s1p4d1g1_nchw_f32")
    case = data(problem, "uniform")
    case.x[...] *= 1e37
    case.w[...] /= 1e3
    expected, magnitude = evaluate(problem, case)
    judge(FFT, problem, compute(FFT, problem, case), expected, magnitude)
