"""Bias, residual and activation at the store: every activation in every algorithm, on values that tell them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import ACTIVATION_EPS, Array, Case, activated, evaluate
from problems import FAMILIES
from running import NAMES, accepting, compute, is_exact, judge, rank_one

import fastconv
from fastconv.algorithms import registry
from fastconv.problem import ACTIVATIONS, INTEGER_ACTIVATIONS, Problem

#: Beyond, inside and around the middle of every activation, and where their arithmetic could over- or underflow.
SIZES = (
    1e-30,
    1e-10,
    1e-6,
    1e-3,
    0.02,
    0.3,
    0.5,
    1,
    2,
    2.99,
    3.01,
    4,
    5.7,
    6.01,
    9,
    17,
    45,
    87,
    89,
    104,
    710,
    1e4,
    1e15,
    1e38,
)
VALUES = np.array([0.0, *SIZES, *(-size for size in SIZES)])


def identity(problem: Problem) -> Array:
    """Return weights that copy every channel to itself: the result is the activation of x."""
    w = np.zeros(problem.w_shape, problem.dtype)
    channels = np.arange(problem.o)
    w[channels, channels % problem.c_per_group, problem.kh // 2, problem.kw // 2] = 1
    return w


def compared(name: str, word: str, activation: str, dtype: str) -> None:
    problem = replace(Problem.parse(word), activation=activation, dtype=dtype)
    algorithm = registry.get(name)
    rng = np.random.default_rng(1)
    x = rng.permutation(np.resize(VALUES, problem.x_shape).ravel()).reshape(problem.x_shape)
    exact = is_exact(algorithm, problem)
    if not exact:
        # Transforms mix neighbours: values must be of one size for errors to be small beside them.
        x = np.clip(x, -10, 10)
    case = Case(x.astype(dtype), identity(problem), None, None)
    y = compute(algorithm, problem, case)
    if not exact:
        judge(algorithm, problem, y, *evaluate(problem, case))
        return
    expected = activated(activation, case.x.astype(np.float64))
    allowed = ACTIVATION_EPS * np.finfo(dtype).eps * np.maximum(1, np.abs(expected))
    wrong = ~(np.abs(y - expected) <= allowed)
    shown = sorted(
        {
            (float(a), float(b), float(c))
            for a, b, c in zip(case.x[wrong], y[wrong], expected[wrong], strict=True)
        }
    )
    assert not wrong.any(), f"{activation} in {dtype}: (x, got, expected) {shown[:6]}"


# Each pair is a kernel to compile, and the formulas are the same functions everywhere: one algorithm has them all.
@pytest.mark.parametrize(
    ("name", "activation"),
    [(NAMES[0], activation) for activation in ACTIVATIONS]
    + [(name, activation) for name in NAMES[1:] for activation in ("relu6", "leaky_relu", "silu", "gelu")],
)
def test_activations(name: str, activation: str) -> None:
    compared(name, accepting(name, FAMILIES), activation, "float32")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_float64(activation: str) -> None:
    compared(NAMES[0], accepting(NAMES[0], FAMILIES), activation, "float64")


@pytest.mark.parametrize("name", NAMES[1:])
def test_float64_in_every_algorithm(name: str) -> None:
    word = accepting(name, tuple(word.replace("f32", "f64") for word in FAMILIES))
    compared(name, word, "gelu", "float64")


@pytest.mark.parametrize("activation", INTEGER_ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["int8", "int32"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_activations_of_integers(layout: str, dtype: str, activation: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(-5, 5, (1, 9, 7, 6) if layout == "NCHW" else (1, 7, 6, 9)).astype(dtype)
    w, bias = np.ones((11, 9, 1, 1), dtype), np.arange(-5, 6).astype(dtype)
    y = fastconv.conv2d(x, w, bias, layout=layout, activation=activation)
    sums = x.astype(np.int64).sum(axis=layout.index("C"), keepdims=True)
    sums = sums + bias.reshape((-1, 1, 1) if layout == "NCHW" else (1, 1, -1))
    np.testing.assert_array_equal(y, activated(activation, sums))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", NAMES)
def test_bias_and_residual_in_every_combination(name: str, layout: str) -> None:
    words = tuple(word.replace("nchw", layout).replace("nhwc", layout) for word in FAMILIES)
    plain = Problem.parse(accepting(name, words))
    algorithm = registry.get(name)
    rng = np.random.default_rng(3)
    x, w, bias, residual = (
        rng.integers(-4, 4, shape).astype(np.float32)
        for shape in (plain.x_shape, plain.w_shape, (plain.o,), plain.y_shape)
    )
    if rank_one(name):
        w = np.repeat(w[:, :, :1, :], plain.kh, axis=2)
    for has_bias in (False, True):
        for has_residual in (False, True):
            problem = replace(plain, bias=has_bias, residual=has_residual, activation="relu")
            case = Case(x, w, bias if has_bias else None, residual if has_residual else None)
            y = compute(algorithm, problem, case)
            expected, magnitude = evaluate(problem, case)
            if is_exact(algorithm, problem):
                np.testing.assert_array_equal(y, expected)
            judge(algorithm, problem, y, expected, magnitude)


def test_not_a_number_passes_every_activation() -> None:
    x = np.array([np.nan, 1.0, np.nan, -1.0] * 8, np.float32).reshape(1, 1, 4, 8)
    w = np.ones((1, 1, 1, 1), np.float32)
    for activation in ACTIVATIONS:
        y = fastconv.conv2d(x, w, activation=activation)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(x), err_msg=activation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinity_has_the_limit_where_there_is_one(dtype: str) -> None:
    limits = {
        "none": (-np.inf, np.inf),
        "relu": (0, np.inf),
        "relu6": (0, 6),
        "leaky_relu": (-np.inf, np.inf),
        "sigmoid": (0, 1),
        "tanh": (-1, 1),
        "silu": (None, np.inf),
        "hardswish": (None, np.inf),
        "gelu": (None, np.inf),
        "elu": (-1, np.inf),
    }
    x = np.array([-np.inf, np.inf] * 16, dtype).reshape(1, 1, 1, 32)
    w = np.ones((1, 1, 1, 1), dtype)
    for activation, (low, high) in limits.items():
        y = fastconv.conv2d(x, w, activation=activation).ravel()
        np.testing.assert_allclose(y[1::2], high, atol=1e-30, err_msg=activation)
        if low is not None:
            np.testing.assert_allclose(y[::2], low, atol=1e-30, err_msg=activation)
        else:
            # inf times zero by the formula, zero in the limit: either will do.
            assert np.all(np.isnan(y[::2]) | (np.abs(y[::2]) < 1e-30)), activation
