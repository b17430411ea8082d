"""Which kernels are a column times a row, and what the planner makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Array

import fastconv
from fastconv.algorithms.interface import WeightsDoNotFitError, WeightsNotFiniteError
from fastconv.algorithms.separable import column_and_row

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
IMAGE = (1, 1, 600, 800)


def gauss(side: int, dtype: type = np.float32) -> Array:
    """Return a Gaussian kernel, rounded to `dtype` from its float64 values."""
    at = np.arange(side) - side // 2
    profile = np.exp(-((at / (side / 5)) ** 2))
    return np.asarray(np.outer(profile, profile / 3), dtype).reshape(1, 1, side, side)


def plane(kernel: Array) -> Array:
    return kernel.reshape(1, 1, *kernel.shape[-2:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("side", [3, 7, 31])
def test_factors_give_the_weights_back(side: int, dtype: type) -> None:
    w = gauss(side, dtype)
    factors = column_and_row(w)
    made = np.outer(factors[0, :side], factors[0, side:])
    assert (np.abs(made - w[0, 0]) <= 4.5 * np.finfo(dtype).eps * np.abs(w[0, 0])).all()


def test_whole_numbers_stay_whole() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(-9, 9, IMAGE).astype(np.float32)
    y = fastconv.conv2d(x, plane(SOBEL), algorithm="separable")
    np.testing.assert_array_equal(y, fastconv.conv2d(x, plane(SOBEL), accuracy="strict"))


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("at", [(0, 0), (3, 4), (8, 8)])
def test_one_weight_that_is_off_is_noticed(at: tuple[int, int], step: int) -> None:
    w = gauss(9)
    w[0, 0][at] *= 1 + step * 2.0**-19
    with pytest.raises(WeightsDoNotFitError, match="a column times a row"):
        column_and_row(w)


def test_one_kernel_of_many_is_enough_to_refuse() -> None:
    w = np.repeat(gauss(5), 4, axis=0)
    column_and_row(w)
    w[2, 0, 0, 0] = 0
    with pytest.raises(WeightsDoNotFitError):
        column_and_row(w)


def test_zeros_and_values_that_are_not_finite() -> None:
    assert not column_and_row(np.zeros((2, 1, 3, 5), np.float32)).any()
    w = gauss(5)
    w[0, 0, 1, 1] = np.nan
    with pytest.raises(WeightsNotFiniteError):
        column_and_row(w)


def test_the_weights_decide_what_a_plan_takes() -> None:
    x = np.random.default_rng(3).standard_normal(IMAGE).astype(np.float32)
    smooth, rough = gauss(11), np.random.default_rng(4).standard_normal((1, 1, 11, 11)).astype(np.float32)
    for w, taken in ((smooth, True), (rough, False)):
        plan = fastconv.plan(x, w, padding=5)
        assert (plan.algorithm == "separable") is taken
        exact = fastconv.conv2d(x.astype(np.float64), w.astype(np.float64), padding=5, accuracy="strict")
        for y in (plan(x), fastconv.conv2d(x, w, padding=5)):
            assert np.linalg.norm(y - exact) < 5e-6 * np.linalg.norm(exact)
        assert fastconv.plan(x, w, padding=5, accuracy="strict").algorithm != "separable"


def test_the_number_of_threads_does_not_decide() -> None:
    x = np.random.default_rng(5).standard_normal(IMAGE).astype(np.float32)
    plans = [fastconv.plan(x, gauss(11), threads=threads) for threads in (1, 2, 7)]
    assert [plan.algorithm for plan in plans] == ["separable"] * 3
    for plan in plans[1:]:
        np.testing.assert_array_equal(plan(x), plans[0](x))


def test_measured_plans_race_it_only_where_it_fits() -> None:
    shape = (1, 1, 40, 50)
    rough = np.random.default_rng(4).standard_normal((1, 1, 5, 5)).astype(np.float32)
    assert fastconv.plan(shape, rough, rigor="measure").algorithm != "separable"
    assert fastconv.plan(shape, gauss(5), rigor="measure", algorithm="separable").algorithm == "separable"


def test_named_it_refuses_with_its_reason() -> None:
    w = np.random.default_rng(4).standard_normal((1, 1, 5, 5)).astype(np.float32)
    with pytest.raises(ValueError, match="separable: needs kernels that are a column times a row"):
        fastconv.plan(IMAGE, w, algorithm="separable")


def test_explain_says_what_it_hangs_on() -> None:
    explanation = fastconv.explain(IMAGE, (1, 1, 11, 11))
    row = next(row for row in explanation.rows if row.algorithm == "separable")
    assert row.accepted and not row.chosen
    assert f"if {row.weights}" in str(explanation)
    assert explanation.chosen.weights == ""


def test_factors_of_whole_numbers_are_whole() -> None:
    """Also where no weight divides the others, and whatever the signs: their sums are then exact."""
    for column, row in (
        ([6, 4], [9]),
        ([-2, 3, 5], [4, -6]),
        ([1, 2, 1], [-1, 0, 1]),
        ([3], [-5, 7]),
        ([0, 5], [0, 3]),
    ):
        w = np.outer(column, row)[None, None].astype(np.float32)
        factors = column_and_row(w)[0]
        np.testing.assert_array_equal(factors, np.rint(factors))
        np.testing.assert_array_equal(np.outer(factors[: len(column)], factors[len(column) :]), w[0, 0])
