"""NaN and infinity: they come out where the definition puts them, and taps on zero padding never bring them in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracle import Array, Case, data, evaluate, excess
from problems import FAMILIES
from running import NAMES, accepted, accepting, compute, promise, rank_one

import fastconv
from fastconv.algorithms import registry
from fastconv.algorithms.interface import Algorithm, WeightsNotFiniteError
from fastconv.problem import Problem

SPECIAL = (np.nan, np.inf, -np.inf)
#: With and without padding, strided, dilated, grouped.
WORDS = (
    *FAMILIES,
    "n2c5h13w17_o7k3x3_s1p0d1g1_nhwc_f32",
    "n2c5h13w17_o7k3x3_s1p2.1.0.3d1g1_nchw_f32_bias_residual",
    "n1c17h16w33_o33k3x3_s2x3p1d1g1_nhwc_f64",
    "n1c3h10w9_o7k3x3_s1p4d4g1_nchw_f32",
    "n1c3h7w6_o7k3x5_s1p2d1g1_nhwc_f32_reflect",
)


def same_specials(problem: Problem, algorithm: Algorithm, y: Array, case: Case) -> None:
    """Raise AssertionError unless NaN and infinity stand where they must, and the rest is within the bound."""
    expected, magnitude = evaluate(problem, case)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected), err_msg=problem.word)
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(y[infinite], expected[infinite], err_msg=problem.word)
    finite = np.isfinite(expected)
    kept, bound = promise(algorithm, problem, np.where(finite, magnitude, 0))
    assert excess(problem, np.where(finite, y, 0), np.where(finite, expected, 0), kept, bound) <= 1


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", NAMES)
def test_special_pixels(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    rng = np.random.default_rng(4)
    for special in SPECIAL:
        case = data(problem, "normal", rank_one(name))
        places = [0, case.x.size - 1, int(rng.integers(case.x.size))]
        case.x.ravel()[places] = special
        y = compute(algorithm, problem, case)
        same_specials(problem, algorithm, y, case)


@pytest.mark.parametrize("name", NAMES)
def test_special_pixels_stay_in_their_image_and_group(name: str) -> None:
    problem = replace(Problem.parse(accepting(name, FAMILIES)), n=3)
    algorithm = accepted(name, problem)
    case = data(problem, "normal", rank_one(name))
    clean = compute(algorithm, problem, case)
    case.x[1] = np.nan
    y = compute(algorithm, problem, case)
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[::2], clean[::2])


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", NAMES)
def test_special_weights(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    for special in SPECIAL:
        for place in (0, -1, problem.taps // 2):
            case = data(problem, "normal", rank_one(name))
            case.w.ravel()[place] = special
            try:
                y = compute(algorithm, problem, case)
            except WeightsNotFiniteError:
                continue
            same_specials(problem, algorithm, y, case)


@pytest.mark.parametrize("name", NAMES)
def test_special_bias_and_residual(name: str) -> None:
    problem = replace(Problem.parse(accepting(name, FAMILIES)), bias=True, residual=True)
    algorithm = accepted(name, problem)
    for special in SPECIAL:
        case = data(problem, "normal", rank_one(name))
        assert case.bias is not None and case.residual is not None
        case.bias[problem.o // 2] = special
        case.residual.ravel()[[0, -1]] = -special
        same_specials(problem, algorithm, compute(algorithm, problem, case), case)


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "words",
    [
        {"padding": 1},
        {"padding": ((0, 3), (2, 0)), "stride": (2, 3)},
        {"padding": "full", "dilation": 2},
        {"padding": 1, "groups": 3},
        {"padding": 1, "groups": 9},
        {"padding": 2, "padding_mode": "symmetric"},
    ],
    ids=str,
)
def test_calls_with_special_weights_are_right(words: dict[str, Any], layout: str, special: float) -> None:
    """The public call finds an algorithm that skips taps on padding, whatever it would choose otherwise."""
    rng = np.random.default_rng(6)
    groups = words.get("groups", 1)
    x = rng.standard_normal((2, 9, 10, 11)).astype(np.float32)
    w = rng.standard_normal((18, 9 // groups, 3, 3)).astype(np.float32)
    w[4, 0, 0, 0] = w[7, -1, 2, 2] = special
    x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    plan = fastconv.plan(x, w, layout=layout, **words)
    algorithm = registry.get(plan.algorithm)
    for y in (fastconv.conv2d(x, w, layout=layout, **words), plan(x)):
        same_specials(plan.problem, algorithm, y, Case(x, w, None, None))


@pytest.mark.parametrize("name", NAMES)
def test_forced_algorithms_are_right_or_refuse(name: str) -> None:
    problem = replace(Problem.parse(accepting(name, FAMILIES)), dtype="float64")
    algorithm = accepted(name, problem)
    case = data(problem, "normal", rank_one(name))
    case.w[..., 0, 0] = np.inf
    top, bottom, left, right = problem.padding
    try:
        y = fastconv.conv2d(
            case.x,
            case.w,
            padding=((top, bottom), (left, right)),
            groups=problem.groups,
            layout=problem.layout,
            algorithm=name,
        )
    except ValueError as refusal:
        assert "infinite or NaN" in str(refusal)
    else:
        same_specials(problem, algorithm, y, case)


def test_sums_of_both_infinities_are_not_a_number() -> None:
    x = np.array([np.inf, -np.inf, 1, np.inf], np.float32).reshape(1, 1, 1, 4)
    y = fastconv.conv2d(x, np.ones((1, 1, 1, 2), np.float32)).ravel()
    np.testing.assert_array_equal(y, [np.nan, -np.inf, np.inf])


def test_huge_values_overflow_to_infinity() -> None:
    x = np.full((1, 4, 5, 6), 3e38, np.float32)
    w = np.ones((8, 4, 1, 1), np.float32)
    assert np.isposinf(fastconv.conv2d(x, w)).all()
    assert np.isneginf(fastconv.conv2d(x, -w)).all()


def test_tiny_values_are_kept() -> None:
    x = np.full((1, 4, 5, 6), 2.0**-140, np.float32)
    y = fastconv.conv2d(x, np.full((8, 4, 1, 1), 2, np.float32), accuracy="strict")
    np.testing.assert_array_equal(y, np.float32(2.0**-137))
