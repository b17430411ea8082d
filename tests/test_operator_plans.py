"""Plans, explanations and tuning of the operators that are made of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest

import fastconv
from fastconv.algorithms.weights import PackedWeights
from fastconv.operators import spreading, strips

RNG = np.random.default_rng(0)


def integers(*shape: int) -> Any:
    return RNG.integers(-4, 5, shape).astype(np.float32)


X, W = integers(2, 6, 9, 8), integers(6, 5, 3, 3)
BIAS, PIXELS = integers(5), integers(2, 9, 8, 6)
#: Of each operator: its call, its plan, and what the plan is then called with.
CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], Any]] = {
    "transposed, kernel divided by the stride": (
        lambda: fastconv.conv_transpose2d(X, integers_of(6, 5, 4, 4), BIAS, 2, 1, accuracy="strict"),
        lambda: fastconv.plan_conv_transpose2d(
            X.shape, integers_of(6, 5, 4, 4), BIAS, 2, 1, dtype="float32", accuracy="strict"
        ),
        X,
    ),
    "transposed, phase by phase": (
        lambda: fastconv.conv_transpose2d(X, W, BIAS, 2, 1, activation="relu", accuracy="strict"),
        lambda: fastconv.plan_conv_transpose2d(X, W, BIAS, 2, 1, activation="relu", accuracy="strict"),
        X,
    ),
    "transposed, phases without a tap": (
        lambda: fastconv.conv_transpose2d(X, W, BIAS, 4, accuracy="strict"),
        lambda: fastconv.plan_conv_transpose2d(X, W, BIAS, 4, accuracy="strict"),
        X,
    ),
    "transposed, stride 1": (
        lambda: fastconv.conv_transpose2d(X, W, padding=1, threads=2, accuracy="strict"),
        lambda: fastconv.plan_conv_transpose2d(X, W, padding=1, threads=2, accuracy="strict"),
        X,
    ),
    "transposed, one image without its axis": (
        lambda: fastconv.conv_transpose2d(X[0], W, stride=2, accuracy="strict"),
        lambda: fastconv.plan_conv_transpose2d(X[0], W, stride=2, accuracy="strict"),
        X[0],
    ),
    "transposed, NHWC": (
        lambda: fastconv.conv_transpose2d(
            X.transpose(0, 2, 3, 1),
            W.transpose(2, 3, 1, 0),
            stride=2,
            layout="NHWC",
            weight_layout="HWOI",
            accuracy="strict",
        ),
        lambda: fastconv.plan_conv_transpose2d(
            (2, 9, 8, 6),
            W.transpose(2, 3, 1, 0),
            stride=2,
            layout="NHWC",
            weight_layout="HWOI",
            accuracy="strict",
        ),
        X.transpose(0, 2, 3, 1),
    ),
    "gradient by images": (
        lambda: fastconv.conv2d_input_grad((2, 5, 17, 15), W, X, 2, 1, accuracy="strict"),
        lambda: fastconv.plan_conv2d_input_grad((2, 5, 17, 15), W, 2, 1, accuracy="strict"),
        X,
    ),
    "depthwise": (
        lambda: fastconv.depthwise_conv2d(X, integers_of(3, 3, 6, 2), padding=1, accuracy="strict"),
        lambda: fastconv.plan_depthwise_conv2d(X, integers_of(3, 3, 6, 2), padding=1, accuracy="strict"),
        X,
    ),
    "separable, whole images": (
        lambda: fastconv.separable_conv2d(
            X,
            integers_of(3, 3, 6, 2),
            integers_of(1, 1, 12, 7),
            depthwise_bias=integers_of(12),
            accuracy="strict",
        ),
        lambda: fastconv.plan_separable_conv2d(
            X,
            integers_of(3, 3, 6, 2),
            integers_of(1, 1, 12, 7),
            depthwise_bias=integers_of(12),
            accuracy="strict",
        ),
        X,
    ),
    "separable, strips": (
        lambda: fastconv.separable_conv2d(
            PIXELS,
            integers_of(3, 3, 6, 1),
            integers_of(1, 1, 6, 5),
            BIAS,
            padding=1,
            layout="NHWC",
            accuracy="strict",
        ),
        lambda: fastconv.plan_separable_conv2d(
            PIXELS,
            integers_of(3, 3, 6, 1),
            integers_of(1, 1, 6, 5),
            BIAS,
            padding=1,
            layout="NHWC",
            accuracy="strict",
        ),
        PIXELS,
    ),
    "sequences": (
        lambda: fastconv.conv1d(X[0], integers_of(4, 9, 3), padding="causal", accuracy="strict"),
        lambda: fastconv.plan_conv1d(X[0].shape, integers_of(4, 9, 3), padding="causal", accuracy="strict"),
        X[0],
    ),
    "sequences of integers": (
        lambda: fastconv.conv1d(
            X[0].astype(np.int8), integers_of(4, 9, 3).astype(np.int8), accuracy="strict"
        ),
        lambda: fastconv.plan_conv1d(X[0].shape, integers_of(4, 9, 3).astype(np.int8), accuracy="strict"),
        X[0].astype(np.int8),
    ),
}


def integers_of(*shape: int) -> Any:
    """Return the same small integers whenever they are asked for."""
    return np.random.default_rng(1).integers(-4, 5, shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_a_plan_runs_again_and_again_and_packs_once(case: str) -> None:
    call, make, x = CASES[case]
    expected, plan = call(), make()
    with mock.patch.object(PackedWeights, "__init__", side_effect=AssertionError("weights are packed again")):
        first, second = plan(x), plan(x)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)
    assert first.dtype == expected.dtype
    out = np.empty_like(expected)
    assert plan(x, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_a_plan_keeps_its_own_weights() -> None:
    w, bias = W.copy(), BIAS.copy()
    plan = fastconv.plan_conv_transpose2d(X, w, bias, 4, accuracy="strict")
    expected = fastconv.conv_transpose2d(X, w, bias, 4, accuracy="strict")
    w[...], bias[...] = 0, 0
    np.testing.assert_array_equal(plan(X), expected)


def test_an_empty_batch_is_planned() -> None:
    plan = fastconv.plan_conv_transpose2d((0, 6, 9, 8), W, stride=2)
    assert plan(X[:0]).shape == (0, 5, 19, 17)
    report = fastconv.explain_conv_transpose2d((0, 6, 9, 8), W, stride=2)
    assert len(report.convolutions) == 4


@pytest.mark.parametrize("case", CASES)
def test_wrong_images_are_refused(case: str) -> None:
    _, make, x = CASES[case]
    plan = make()
    with pytest.raises(ValueError, match="x must have the planned shape"):
        plan(x[..., :-1])
    with pytest.raises(ValueError, match="x must have the planned dtype"):
        plan(x.astype(np.float64))
    with pytest.raises(ValueError, match="out must have the shape of the result"):
        plan(x, out=np.empty((1, 2), x.dtype))
    with pytest.raises(TypeError, match="x must be an array"):
        plan("x")


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rigor": (lambda: fastconv.plan_conv_transpose2d(X, W, rigor="much"), ValueError, "rigor must be one of"),
    "shape of x": (
        lambda: fastconv.plan_conv_transpose2d(7, W),
        TypeError,
        "x_shape must be a tuple of integers, or an array",
    ),
    "axes of x": (
        lambda: fastconv.plan_conv_transpose2d((6, 9), W),
        ValueError,
        "x_shape must have 3 or 4 axes",
    ),
    "channels": (
        lambda: fastconv.plan_conv_transpose2d((1, 7, 9, 8), W),
        ValueError,
        "x has 7 channels and w takes 6",
    ),
    "dtype": (
        lambda: fastconv.plan_conv_transpose2d(X.shape, W, dtype="float64"),
        ValueError,
        "w must have the dtype of x, float64, got float32",
    ),
    "integers": (
        lambda: fastconv.explain_conv_transpose2d(X.shape, W.shape, dtype="int8"),
        TypeError,
        "x must be of float32 or float64, got int8",
    ),
    "shape of w": (
        lambda: fastconv.explain_conv_transpose2d(X.shape, (6, 5, 3)),
        ValueError,
        "w_shape must have 4 axes",
    ),
    "gradient of integers": (
        lambda: fastconv.explain_conv2d_weight_grad(X.shape, (5, 6, 3, 3), dtype="int32"),
        TypeError,
        "dtype must be of float32 or float64",
    ),
    "channels of a gradient": (
        lambda: fastconv.plan_conv2d_input_grad((1, 7, 9, 8), W),
        ValueError,
        "channels",
    ),
    "kernels of a sequence": (
        lambda: fastconv.explain_conv1d((6, 9), (4, 6, 3, 3)),
        ValueError,
        "w_shape must have 3 axes",
    ),
    "pointwise kernels": (
        lambda: fastconv.plan_separable_conv2d(X, integers(3, 3, 6, 2), integers(1, 1, 6, 5)),
        ValueError,
        "pointwise_w must have shape",
    ),
    "layout of separable kernels": (
        lambda: fastconv.explain_separable_conv2d(X, (3, 3, 6, 2), (1, 1, 12, 5), weight_layout="HWIO"),
        ValueError,
        "weight_layout must be one of",
    ),
    "depthwise kernels": (
        lambda: fastconv.explain_depthwise_conv2d((1, 6, 9, 8), (3, 3, 5, 1)),
        ValueError,
        "w must have C = 6 channels",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case: str) -> None:
    make, error, text = WRONG[case]
    with pytest.raises(error, match=text):
        make()


ROUTES = [
    (4, 2, "one convolution for all 4 phases of the stride", ["o20k2x2"]),
    (3, 2, "4 convolutions, one for each phase of the stride", ["o5k2x2", "o5k2x1", "o5k1x2", "o5k1x1"]),
    (3, 1, "one convolution by the kernel turned round", ["o5k3x3"]),
    (1, 2, "one convolution for one phase of the stride; 3 phases meet no pixel", ["o5k1x1"]),
    (2, 3, "4 convolutions, one for each phase of the stride; 5 phases meet no pixel", ["o5k1x1"] * 4),
]


@pytest.mark.parametrize(("kernel", "stride", "route", "words"), ROUTES)
def test_an_explanation_names_what_plans_and_calls_run(
    kernel: int, stride: int, route: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that calls of any size go the way of plans.
    monkeypatch.setattr(spreading, "SMALL_PRODUCTS", 0)
    w = integers_of(6, 5, kernel, kernel)
    report = fastconv.explain_conv_transpose2d(X, w, stride=stride, threads=1)
    plan = fastconv.plan_conv_transpose2d(X, w, stride=stride, threads=1)
    assert report.route == route
    assert [problem.word.split("_")[1] for problem in report.problems] == words
    assert report.problems == plan.problems
    chosen = [found.chosen.algorithm for found in report.convolutions]
    assert chosen == [inner.algorithm for inner in plan.convolutions]
    with mock.patch.object(strips, "prepared", wraps=strips.prepared) as prepared:
        fastconv.conv_transpose2d(X, w, stride=stride, threads=1)
    assert [p for call in prepared.call_args_list for p in call.args[0] if p.n > 1] == list(report.problems)
    text = str(report)
    assert all(problem.word in text for problem in report.problems)
    assert report.seconds == sum(stage.seconds for stage in report.stages) > 0


def test_an_explanation_says_when_a_call_reads_weights_as_they_stand() -> None:
    shapes: tuple[Any, Any] = ((1, 1024, 7, 7), (1024, 1024, 2, 2))
    assert "a call without a plan reads contiguous weights as they stand, since 49 pixels" in str(
        fastconv.explain_conv_transpose2d(*shapes, stride=2)
    )
    assert "as they stand" not in fastconv.explain_conv_transpose2d(*shapes, bias=True, stride=2).route


def test_gradients_are_explained() -> None:
    words: tuple[Any, ...] = ((2, 8, 14, 14), (16, 8, 3, 3), 1, 1)
    by_images = fastconv.explain_conv2d_input_grad(*words, threads=1)
    assert [problem.word for problem in by_images.problems] == ["n2c16h14w14_o8k3x3_s1p1d1g1_nchw_f32"]
    assert str(by_images).startswith("conv2d_input_grad: x (2, 16, 14, 14) -> (2, 8, 14, 14) float32")
    by_kernels = fastconv.explain_conv2d_weight_grad(*words, accuracy="strict")
    assert by_kernels.seconds > 0 and not by_kernels.problems
    assert "for each of 9 taps" in str(by_kernels)


def test_separable_convolution_is_explained() -> None:
    report = fastconv.explain_separable_conv2d(
        (3, 20, 16, 8), (3, 3, 8, 1), (1, 1, 8, 4), True, padding=1, depthwise_bias=True, layout="NHWC"
    )
    words: dict[str, Any] = {"padding": 1, "depthwise_bias": integers(8), "layout": "NHWC"}
    plan = fastconv.plan_separable_conv2d(
        (3, 20, 16, 8), integers(3, 3, 8, 1), integers(1, 1, 8, 4), integers(4), **words
    )
    assert report.problems == plan.problems
    assert {problem.groups for problem in report.problems} == {1, 8}
    assert all(problem.bias for problem in report.problems)
    assert "on each of 3 strips of rows" in report.route
    once = [found.chosen.seconds for found in report.convolutions]
    assert report.seconds == pytest.approx(3 * sum(once))


def test_explanations_of_one_convolution() -> None:
    assert fastconv.explain_conv1d((6, 90), (4, 6, 3)).problem.w_shape == (4, 6, 1, 3)
    report = fastconv.explain_depthwise_conv2d(X, (3, 3, 6, 2), True, residual=True)
    assert (report.problem.groups, report.problem.o) == (6, 12)
    assert report.problem.bias and report.problem.residual


def test_tuned_convolutions_serve_plans_and_explanations() -> None:
    words: tuple[Any, ...] = ((1, 6, 5, 4), (6, 5, 4, 4), None, 2, 1)
    before = fastconv.explain_conv_transpose2d(*words, threads=1)
    assert before.convolutions[0].source == "estimate" and not before.convolutions[0].tuned
    (decision,) = fastconv.tune(before.problems)
    after = fastconv.explain_conv_transpose2d(*words, threads=1).convolutions[0]
    assert after.source == "stored" and after.tuned
    assert after.chosen.algorithm == min(decision.timings, key=lambda row: row.seconds).algorithm
    plan = fastconv.plan_conv_transpose2d(words[0], integers_of(6, 5, 4, 4), *words[2:], threads=1)
    assert plan.convolutions[0].source == "stored"


def test_plans_and_calls_tune_their_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "SMALL_PRODUCTS", 0)
    w, x = integers_of(6, 5, 4, 4), integers_of(1, 6, 4, 4)
    plan = fastconv.plan_conv_transpose2d(x, w, stride=2, threads=1, rigor="measure", accuracy="strict")
    assert plan.convolutions[0].source == "measure"
    np.testing.assert_array_equal(plan(x), fastconv.conv_transpose2d(x, w, stride=2, accuracy="strict"))
    wide = integers_of(1, 6, 4, 6)
    with fastconv.autotune():
        fastconv.conv_transpose2d(wide, w, stride=2, threads=1)
    report = fastconv.explain_conv_transpose2d(wide, w, stride=2, threads=1)
    assert report.convolutions[0].source == "stored"


def test_a_plan_says_what_it_is() -> None:
    plan = fastconv.plan_conv_transpose2d(X, W, stride=2, threads=1)
    assert repr(plan).startswith(
        "OperatorPlan('conv_transpose2d', (2, 6, 9, 8) -> (2, 5, 19, 17) float32, convolutions="
    )
    assert plan.workspace_bytes >= max(problem.y_bytes for problem in plan.problems)
