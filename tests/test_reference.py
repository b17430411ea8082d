"""The oracle against answers worked out by hand, PyTorch and SciPy; the `reference` algorithm against the oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from oracle import ACTIVATION_EPS, Array, Case, activated, evaluate, known
from problems import PROBLEMS, SHORT
from running import compute, judge

from fastconv.algorithms import registry
from fastconv.problem import ACTIVATIONS, INTEGER_ACTIVATIONS, Problem

ROW = [1.0, 2.0, 3.0, 4.0]


def expected(word: str, x: Any, w: Any, bias: Any = None, residual: Any = None) -> Any:
    """Return what the oracle says, after the `reference` algorithm said the same."""
    p = Problem.parse(word)
    arrays = [None if a is None else np.array(a, p.dtype) for a in (x, w, bias, residual)]
    shapes = [p.x_shape, p.w_shape, (p.o,), p.y_shape]
    made: list[Any] = [None if a is None else a.reshape(s) for a, s in zip(arrays, shapes, strict=True)]
    case = Case(*made)
    y, _ = evaluate(p, case)
    np.testing.assert_allclose(compute(registry.get("reference"), p, case), y, rtol=1e-15)
    return y.ravel().tolist()


def test_kernels_are_not_flipped() -> None:
    assert expected("n1c1h1w4_o1k1x2_s1p0d1g1_nchw_f64", ROW, [10, 1]) == [12, 23, 34]


def test_rows_and_columns() -> None:
    x = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert expected("n1c1h3w3_o1k2x2_s1p0d1g1_nchw_f64", x, [[1, 10], [100, 1000]]) == [
        5421,
        6532,
        8754,
        9865,
    ]
    assert expected("n1c1h3w3_o1k1x2_s2x1p0d1g1_nchw_f64", x, [1, 10]) == [21, 32, 87, 98]
    assert expected("n1c1h3w3_o1k2x1_s1x2p0d1g1_nchw_f64", x, [1, 10]) == [41, 63, 74, 96]


def test_zero_padding_on_each_side() -> None:
    word = "n1c1h1w4_o1k1x3_s1p0.0.{}d1g1_nchw_f64"
    assert expected(word.format("2.0"), ROW, [100, 10, 1]) == [1, 12, 123, 234]
    assert expected(word.format("0.2"), ROW, [100, 10, 1]) == [123, 234, 340, 400]
    assert expected("n1c1h2w1_o1k2x1_s1p1.2.0.0d1g1_nchw_f64", [3, 4], [10, 1]) == [3, 34, 40, 0]


@pytest.mark.parametrize(
    ("mode", "padded"),
    [
        ("reflect", [3, 2, 1, 2, 3, 4, 3]),
        ("symmetric", [2, 1, 1, 2, 3, 4, 4]),
        ("replicate", [1, 1, 1, 2, 3, 4, 4]),
        ("circular", [3, 4, 1, 2, 3, 4, 1]),
    ],
)
def test_padding_modes(mode: str, padded: list[float]) -> None:
    assert expected(f"n1c1h1w4_o1k1x1_s1p0.0.2.1d1g1_nchw_f64_{mode}", ROW, [1]) == padded
    assert expected(f"n1c1h4w1_o1k1x1_s1p2.1.0.0d1g1_nchw_f64_{mode}", ROW, [1]) == padded


def test_stride_and_dilation() -> None:
    x = list(range(1, 8))
    assert expected("n1c1h1w7_o1k1x3_s1p0d2g1_nchw_f64", x, [100, 10, 1]) == [135, 246, 357]
    assert expected("n1c1h1w7_o1k1x3_s1x2p0d1g1_nchw_f64", x, [100, 10, 1]) == [123, 345, 567]
    assert expected("n1c1h1w7_o1k1x2_s1x5p0d1x1g1_nchw_f64", x, [10, 1]) == [12, 67]
    assert expected("n1c1h7w1_o1k2x1_s2x1p1.0.0.0d3x1g1_nchw_f64", x, [10, 1]) == [3, 25, 47]


def test_channels_groups_and_images() -> None:
    x = [[1, 2], [3, 4]]  # two images of two channels
    assert expected("n2c2h1w1_o1k1x1_s1p0d1g1_nchw_f64", x, [10, 1]) == [12, 34]
    assert expected("n2c2h1w1_o2k1x1_s1p0d1g2_nchw_f64", x, [10, 100]) == [10, 200, 30, 400]
    assert expected("n2c2h1w1_o4k1x1_s1p0d1g2_nchw_f64", x, [1, 2, 3, 4]) == [1, 2, 6, 8, 3, 6, 12, 16]
    x = [1, 2, 3, 4]  # four channels, two groups of two
    assert expected("n1c4h1w1_o2k1x1_s1p0d1g2_nchw_f64", x, [[10, 1], [10, 1]]) == [12, 34]


def test_layouts() -> None:
    x = [[[1, 10], [2, 20], [3, 30]]]  # one row of three pixels with two channels
    assert expected("n1c2h1w3_o2k1x2_s1p0d1g1_nhwc_f64", x, [[[1, 0], [0, 1]], [[0, 0], [1, 0]]]) == [
        21,
        10,
        32,
        20,
    ]


def test_bias_residual_and_activation_come_in_this_order() -> None:
    word = "n1c1h1w2_o2k1x1_s1p0d1g1_{}_f64_relu_bias_residual"
    values = [1, 2], [1, -1], [5, 0.5]
    assert expected(word.format("nchw"), *values, [[-10, 1], [1, 2]]) == [0, 8, 0.5, 0.5]
    assert expected(word.format("nhwc"), *values, [[-10, 1], [1, 2]]) == [0, 0.5, 8, 0.5]


def test_integers_wrap_around() -> None:
    assert expected("n1c3h1w1_o1k1x1_s1p0d1g1_nchw_i8", [-128, 127, 1], [-128, -128, 127]) == [
        16384 - 16256 + 127
    ]
    big = 2**62
    assert expected("n1c2h1w1_o1k1x1_s1p0d1g1_nchw_i64", [big, big], [1, 1]) == [-(2**63)]
    assert expected("n1c1h1w3_o1k1x1_s1p0d1g1_nchw_i32_relu6", [-3, 3, 30], [1]) == [0, 3, 6]


def test_taps_on_zero_padding_are_skipped() -> None:
    inf = math.inf
    assert expected("n1c1h1w2_o1k1x3_s1p0.0.1.1d1g1_nchw_f64", [1, 2], [inf, 1, 1]) == [3, inf]


def test_activations_by_hand() -> None:
    known_values = {
        "none": {-2.5: -2.5, 3: 3},
        "relu": {-1: 0, 0: 0, 2: 2},
        "relu6": {-1: 0, 5: 5, 7: 6},
        "leaky_relu": {-100: -1, 3: 3},
        "sigmoid": {0: 0.5, math.log(3): 0.75, -math.log(3): 0.25},
        "tanh": {0: 0, math.atanh(0.5): 0.5},
        "silu": {0: 0, math.log(3): 0.75 * math.log(3)},
        "hardswish": {-4: 0, -3: 0, 0: 0, 1: 2 / 3, 3: 3, 5: 5},
        "gelu": {0: 0, 1: 0.8413447460685429, -1: -0.15865525393145707},
        "elu": {-math.log(2): -0.5, 0: 0, 2: 2},
    }
    assert set(known_values) == set(ACTIVATIONS)
    for name, values in known_values.items():
        y = activated(name, np.array(list(values), np.float64))
        np.testing.assert_allclose(y, list(values.values()), rtol=1e-14, atol=1e-16, err_msg=name)
    for name in INTEGER_ACTIVATIONS:
        x = np.array([-3, 2, 9])
        np.testing.assert_array_equal(activated(name, x), activated(name, x.astype(float)))


def test_scipy_agrees() -> None:
    signal = pytest.importorskip("scipy.signal", reason="scipy is not installed")
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((9, 13)), rng.standard_normal((4, 3))
    for word, mode in (("p0", "valid"), ("p3.3.2.2", "full")):
        p = Problem.parse(f"n1c1h9w13_o1k4x3_s1{word}d1g1_nchw_f64")
        y, _ = evaluate(p, Case(x[None, None], w[None, None], None, None))
        np.testing.assert_allclose(
            y[0, 0].astype(float), signal.correlate(x, w, mode), rtol=1e-12, atol=1e-12
        )


# ------------------------------------------------------------------------------------------------ PyTorch

TORCH_MODES = {"reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def by_torch(torch: Any, p: Problem, case: Case) -> Array:
    """Return what PyTorch computes in float64."""
    functional = torch.nn.functional
    x, w = torch.from_numpy(case.x.astype(np.float64)), torch.from_numpy(case.w.astype(np.float64))
    if p.layout == "NHWC":
        x = x.permute(0, 3, 1, 2)
    top, bottom, left, right = p.padding
    if any(p.padding):
        mode = TORCH_MODES.get(p.padding_mode, "constant")
        x = functional.pad(x, (left, right, top, bottom), mode=mode)
    bias = None if case.bias is None else torch.from_numpy(case.bias.astype(np.float64))
    y = functional.conv2d(x, w, bias, p.stride, 0, p.dilation, p.groups)
    if case.residual is not None:
        residual = torch.from_numpy(case.residual.astype(np.float64))
        y = y + (residual if p.layout == "NCHW" else residual.permute(0, 3, 1, 2))
    if p.activation != "none":
        y = getattr(functional, p.activation)(y)
    array: Array = (y if p.layout == "NCHW" else y.permute(0, 2, 3, 1)).numpy()
    return array


@pytest.mark.peer
@pytest.mark.parametrize(
    "word",
    [word for word in PROBLEMS if Problem.parse(word).dtype.startswith("float") and "symmetric" not in word],
)
def test_torch_agrees_with_the_oracle(word: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    p = Problem.parse(word)
    case, y, magnitude = known(word, "normal")
    got = by_torch(torch, p, case)
    assert got.shape == y.shape
    terms = p.taps * p.c_per_group + 3
    assert np.all(np.abs(got - y) <= 2**-52 * terms * magnitude)


@pytest.mark.peer
@pytest.mark.parametrize("name", ACTIVATIONS[1:])
def test_torch_has_the_same_activations(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.linspace(-12, 12, 999)
    got = getattr(torch.nn.functional, name)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, activated(name, x), rtol=0, atol=1e-14)
    word = f"n1c1h1w{x.size}_o1k1x1_s1p0d1g1_nchw_f64_{name}"
    case = Case(x.reshape(1, 1, 1, -1), np.ones((1, 1, 1, 1)), None, None)
    y = compute(registry.get("reference"), Problem.parse(word), case)
    np.testing.assert_allclose(y.ravel(), got, rtol=0, atol=ACTIVATION_EPS * 2**-52 * 12)


# --------------------------------------------------------------------------------- the oracle's own limits


@pytest.mark.parametrize("word", SHORT)
def test_reference_rounds_once(word: str) -> None:
    p = Problem.parse(word)
    case, y, magnitude = known(word, "normal")
    algorithm = registry.get("reference")
    judge(algorithm, p, compute(algorithm, p, case), y, magnitude)
    if p.compute_dtype == "float32":
        assert algorithm.error_bound(p) <= np.finfo(np.float32).eps


def test_the_problem_list_covers_every_argument() -> None:
    problems = [Problem.parse(word) for word in PROBLEMS]
    assert len({p.word for p in problems}) == len(PROBLEMS)
    assert {p.layout for p in problems} == {"NCHW", "NHWC"}
    assert {p.compute_dtype for p in problems} == {"float32", "float64", "int32", "int64"}
    assert {p.padding_mode for p in problems} == {"zeros", "reflect", "symmetric", "replicate", "circular"}
    assert {p.n for p in problems} >= {1, 2, 3}
    assert {p.w for p in problems} >= {*range(1, 11), 13, 14, 15, 16, 17, 31, 33}
    assert any(s > k for p in problems for s, k in zip(p.stride, (p.kh, p.kw), strict=True))
    assert any(max(p.padding) > max(p.h, p.w) for p in problems)
    assert any(1 < p.groups < p.c for p in problems) and any(p.groups == p.c < p.o for p in problems)
    assert any(p.dilation[0] != p.dilation[1] for p in problems)
    assert any((p.kh, p.kw) == (p.h, p.w) for p in problems)
