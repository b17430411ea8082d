"""Winograd's matrices in exact arithmetic, and where its tiles are too inexact."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from fastconv.algorithms import registry
from fastconv.kernels.winograd_matrices import Matrix, phase_matrices, transforms
from fastconv.machine import Machine
from fastconv.problem import Problem

HOST = Machine.host()
WINOGRAD = registry.get("winograd")


@pytest.mark.parametrize(
    ("m", "taps"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (2, 3), (4, 3), (6, 3), (2, 5), (4, 5)]
)
def test_matrices_are_exact(m: int, taps: int) -> None:
    a_t, g, b_t = transforms(m, taps)
    size = m + taps - 1
    assert (len(a_t), len(g), len(b_t)) == (m, size, size)
    data = [Fraction(3 * i * i - 7 * i + 2) for i in range(size)]
    kernel = [Fraction(5 - 3 * i, i + 1) for i in range(taps)]
    v = [sum(f * d for f, d in zip(row, data, strict=True)) for row in b_t]
    u = [sum(f * w for f, w in zip(row, kernel, strict=True)) for row in g]
    outputs = [sum(f * p * q for f, p, q in zip(row, u, v, strict=True)) for row in a_t]
    assert outputs == [sum(kernel[k] * data[i + k] for k in range(taps)) for i in range(m)]


PHASES = [
    (2, 3, 1, 0),
    (4, 3, 1, 1),
    (2, 3, 2, 0),
    (4, 3, 2, 1),
    (4, 4, 2, 1),
    (2, 2, 2, 0),
    (2, 5, 2, 3),
    (3, 2, 3, 1),
]


@pytest.mark.parametrize(("m", "taps", "stride", "pad"), PHASES)
def test_matrices_of_phases_are_exact(m: int, taps: int, stride: int, pad: int) -> None:
    """A tile of a transposed convolution and the gradient by its kernels, both by the definition."""
    outputs, kernels, inputs, shared, first = phase_matrices(m, taps, stride, pad)
    window = len(inputs[0])
    data = [Fraction(3 * i * i - 7 * i + 2) for i in range(window)]
    kernel = [Fraction(5 - 3 * i, i + 1) for i in range(taps)]
    gradient = [Fraction(i * i - 4 * i + 1, i + 2) for i in range(stride * m)]
    met = [
        (i, r, (i + pad - r) // stride - first)
        for i in range(stride * m)
        for r in range(taps)
        if (i + pad - r) % stride == 0
    ]
    assert {place for *_, place in met} == set(range(window))

    def times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
        return [sum((f * v for f, v in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]

    d, u = times(inputs, data), times(kernels, kernel)
    tile = times(outputs, [u[k] * v for k, v in zip(shared, d, strict=True)])
    assert tile == [sum(kernel[r] * data[q] for j, r, q in met if i == j) for i in range(stride * m)]
    e = times(tuple(zip(*outputs, strict=True)), gradient)
    sums = [Fraction(0)] * len(kernels)
    for k, v, w in zip(shared, d, e, strict=True):
        sums[k] += v * w
    by_taps = times(tuple(zip(*kernels, strict=True)), sums)
    assert by_taps == [sum(gradient[i] * data[q] for i, r, q in met if r == tap) for tap in range(taps)]


def _problem(kernel: str, channels: int, accuracy: str) -> Problem:
    word = f"n1c{channels}h28w28_o32k{kernel}_s1p0d1g1_nhwc_f32"
    return replace(Problem.parse(word), accuracy=accuracy)


@pytest.mark.parametrize(
    ("kernel", "channels", "accuracy", "sides"),
    [
        ("3x3", 64, "standard", {2, 4}),
        ("3x3", 2560, "standard", {2}),
        ("3x3", 64, "fast", {2, 4, 6}),
        ("1x3", 64, "standard", {2, 4}),
        ("2x2", 64, "standard", {3, 5}),
        ("2x1", 2560, "standard", {3}),
        ("5x5", 64, "standard", {2}),
        ("5x5", 64, "fast", {2, 4}),
    ],
)
def test_tiles_keep_the_accuracy_class(kernel: str, channels: int, accuracy: str, sides: set[int]) -> None:
    problem = _problem(kernel, channels, accuracy)
    assert WINOGRAD.why_not(problem, HOST) is None
    assert {config.m for config in WINOGRAD.configs(problem, HOST)} <= sides


def test_long_sums_of_large_kernels_are_refused() -> None:
    reason = str(WINOGRAD.why_not(_problem("5x5", 2560, "standard"), HOST))
    assert "at most 1536 channels" in reason
    assert "got 2560" in reason
