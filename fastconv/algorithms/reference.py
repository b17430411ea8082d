"""The definition, written as loops in double precision: slow, exact in its rules, and right for everything.

It is the oracle of the tests, the yardstick of ``fastconv bench``, and what computes a call that no other algorithm
may: taps on zero padding are left out here, not multiplied, so an infinite weight does not leak out of the padding.
float32 is summed in float64 and rounded once; integers are summed in their own type. Nothing is shared with the fast
kernels but the maps of padded rows and columns: activations are the library functions of `math`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import column_map, context, rounding, row_map
from fastconv.algorithms.interface import Algorithm, Layout
from fastconv.algorithms.needs import Need
from fastconv.arrays import address
from fastconv.kernels.jit import device, task_factory
from fastconv.kernels.simd import is_float, load, store, words
from fastconv.machine import Machine
from fastconv.problem import ACTIVATIONS, Problem

Task = Callable[[int, int, int], None]

_NONE, _RELU, _RELU6, _LEAKY, _SIGMOID, _TANH, _SILU, _HARDSWISH, _GELU, _ELU = range(len(ACTIVATIONS))


class Config(NamedTuple):
    """Nothing to tune."""


@device
def _activate(kind: int, v: float) -> float:
    """Return the activation of one number; comparisons are written so that NaN comes out as NaN."""
    if kind == _RELU:
        return 0.0 if v < 0 else v
    if kind == _RELU6:
        return 0.0 if v < 0 else (6.0 if v > 6 else v)
    if kind == _LEAKY:
        return 0.01 * v if v < 0 else v
    if kind == _SIGMOID:
        return 1 / (1 + math.exp(-v))
    if kind == _TANH:
        return math.tanh(v)
    if kind == _SILU:
        return v / (1 + math.exp(-v))
    if kind == _HARDSWISH:
        return v * (0.0 if v < -3 else (6.0 if v > 3 else v + 3)) / 6
    if kind == _GELU:
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2.0)))
    if kind == _ELU:
        return math.expm1(v) if v < 0 else v
    return v


@task_factory
def reference(dtype: str, activation: str) -> Task:
    """Return the task that computes one row of one output channel.

    Shapes   x, y by strides, so either layout; w (O, C/g, kh, kw)
    Assumes  maps give the input row and column at each padded place, -1 for zero padding
    Touches  writes its row of y
    Source   the definition of cross-correlation
    """
    kind = ACTIVATIONS.index(activation)
    floating = is_float(dtype)
    zero = 0.0 if floating else 0

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, residual, weights, bias, rows, cols, o, oh, ow = words(ctx, 10)
        per_group, channels, kh, kw, sh, sw, dh, dw, size, _ = words(ctx + 80, 10)
        xn, xc, xh, xw, yn, yo, yh, yw = words(ctx + 160, 8)
        row, rest = i % oh, i // oh
        image, channel = rest // o, rest % o
        first = x + image * xn + channel // per_group * channels * xc
        for column in range(ow):
            total = zero
            for r in range(kh):
                h = load("int64", rows + 8 * (row * sh + r * dh))
                for s in range(kw):
                    w = load("int64", cols + 8 * (column * sw + s * dw))
                    if h >= 0 and w >= 0:
                        for c in range(channels):
                            tap = ((channel * channels + c) * kh + r) * kw + s
                            value = load(dtype, first + c * xc + h * xh + w * xw)
                            weight = load(dtype, weights + tap * size)
                            if floating:
                                total += float(value) * float(weight)
                            else:
                                total += value * weight
            if bias != 0:
                total += load(dtype, bias + channel * size)
            place = image * yn + channel * yo + row * yh + column * yw
            if residual != 0:
                total += load(dtype, residual + place)
            store(dtype, y + place, _activate(kind, total) if floating else _integer(kind, int(total)))

    return task


@device
def _integer(kind: int, v: int) -> int:
    """Return the activation of one whole number."""
    if kind != _NONE and v < 0:
        return 0
    if kind == _RELU6 and v > 6:
        return 6
    return v


class Reference(Algorithm[Config]):
    """See the head of this file."""

    name = "reference"
    summary = "the definition as float64 loops: the oracle, slow, takes everything"

    def needs(self, problem: Problem, machine: Machine) -> Iterable[Need]:
        """Take everything."""
        return ()

    def configs(self, problem: Problem, machine: Machine) -> tuple[Config, ...]:
        """There is one way."""
        return (Config(),)

    def cost(self, problem: Problem, machine: Machine, config: Config) -> float:
        """About four cycles a product: a chain of dependent scalar additions."""
        tasks = problem.n * problem.o * problem.oh
        return tiles.seconds(problem, machine, 2.0 * problem.flop + 60.0 * math.prod(problem.y_shape), tasks)

    def error_bound(self, problem: Problem) -> float:
        """One rounding of a sum in double precision; of a float64 problem, that sum itself."""
        eps = rounding(problem)
        terms = problem.taps * problem.c // problem.groups + 3
        return eps * terms if problem.compute_dtype == "float64" else eps

    def workspace(self, problem: Problem, machine: Machine, config: Config) -> int:
        """None."""
        return 0

    def layout(self, problem: Problem, machine: Machine, config: Config) -> Layout:
        """Give strides instead of a layout."""
        size = np.dtype(problem.compute_dtype).itemsize
        rows, cols = row_map(problem), column_map(problem)
        oh, ow, o = problem.oh, problem.ow, problem.o
        if problem.layout == "NHWC":
            x_strides = (problem.h * problem.w * problem.c, 1, problem.w * problem.c, problem.c)
            y_strides = (oh * ow * o, 1, ow * o, o)
        else:
            x_strides = (problem.c * problem.h * problem.w, problem.h * problem.w, problem.w, 1)
            y_strides = (o * oh * ow, oh * ow, ow, 1)
        values = context(
            *(address(rows), address(cols), o, oh, ow),
            *(o // problem.groups, problem.c // problem.groups, problem.kh, problem.kw),
            *(*problem.stride, *problem.dilation, size, 0),
            *(stride * size for stride in (*x_strides, *y_strides)),
        )
        kernel = reference(problem.compute_dtype, problem.activation)
        seconds = self.seconds_alone(problem, machine, config)
        return Layout(kernel, values, problem.n * o * oh, 0, seconds, None, False, (rows, cols))


ALGORITHM = Reference()
