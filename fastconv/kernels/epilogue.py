"""Activations as vector IR: what happens to a sum between the register and the store.

Every activation is a function of one vector, written with arithmetic only (no library call per lane), so it costs
a few cycles for 16 outputs while the tile is still in registers. NaN goes in and comes out: `relu` is written as
"0 if x < 0 else x", which keeps NaN, not as max(0, x), which loses it. Polynomials are made here, from series and
Chebyshev interpolation, rather than typed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from fastconv.kernels.simd import I32, I64, emit_fma, is_float

LEAKY_SLOPE = 0.01  # of leaky_relu, as in PyTorch
ELU_ALPHA = 1.0


class _Math:
    """Arithmetic on vectors of one type, so that formulas below read as formulas."""

    def __init__(self, builder: Any, dtype: str, like: Any) -> None:
        self.builder, self.dtype, self.type = builder, dtype, like.type
        self.lanes = like.type.count

    def number(self, value: float) -> Any:
        whole = value if is_float(self.dtype) else int(value)
        return ir.Constant(self.type, [whole] * self.lanes)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return emit_fma(self.builder, self.dtype, x, y, z)

    def less(self, x: Any, y: Any) -> Any:
        compare = self.builder.fcmp_ordered if is_float(self.dtype) else self.builder.icmp_signed
        return compare("<", x, y)

    def clamp(self, x: Any, low: float, high: float) -> Any:
        """Return x limited to [low, high]; NaN stays NaN."""
        lo, hi = self.number(low), self.number(high)
        x = self.builder.select(self.less(x, lo), lo, x)
        return self.builder.select(self.less(hi, x), hi, x)

    def exp(self, x: Any) -> Any:
        """Return e**x to within about 2 ulp for finite results, saturated just inside the range of the type."""
        single = self.dtype == "float32"
        mantissa, bias, degree = (23, 127, 7) if single else (52, 1023, 13)
        b = self.builder
        limit = (bias + 0.49) * math.log(2)
        x = self.clamp(x, -limit, limit)
        # Adding 1.5 * 2**mantissa rounds to the nearest integer and leaves it in the low bits: no conversion
        # instruction, and nothing undefined when x is NaN.
        magic = self.number(1.5 * 2.0**mantissa)
        shifted = self.fma(x, self.number(1 / math.log(2)), magic)
        power = b.fsub(shifted, magic)
        # ln 2 in two parts: the first has trailing zero bits, so its product with the power is exact.
        high = np.floor(math.log(2) * 2.0 ** (mantissa // 2)) / 2.0 ** (mantissa // 2)
        rest = self.fma(power, self.number(-float(high)), x)
        rest = self.fma(power, self.number(float(high) - math.log(2)), rest)
        total = self.number(1 / math.factorial(degree))
        for order in range(degree - 1, -1, -1):
            total = self.fma(total, rest, self.number(1 / math.factorial(order)))
        word = ir.VectorType(I32 if single else I64, self.lanes)
        magic_bits = b.bitcast(magic, word)
        exponent = b.sub(b.bitcast(shifted, word), magic_bits)
        exponent = b.add(exponent, ir.Constant(word, [bias] * self.lanes))
        scale = b.bitcast(b.shl(exponent, ir.Constant(word, [mantissa] * self.lanes)), self.type)
        return b.fmul(total, scale)

    def sigmoid(self, x: Any) -> Any:
        b, one = self.builder, self.number(1.0)
        return b.fdiv(one, b.fadd(one, self.exp(b.fneg(x))))

    def tanh(self, x: Any) -> Any:
        b, one = self.builder, self.number(1.0)
        negative = self.less(x, self.number(0.0))
        size = b.select(negative, b.fneg(x), x)
        decay = self.exp(b.fmul(size, self.number(-2.0)))
        value = b.fdiv(b.fsub(one, decay), b.fadd(one, decay))
        return b.select(negative, b.fneg(value), value)

    def gelu(self, x: Any) -> Any:
        """Return x * P(X <= x) of a normal X, as max(x, 0) - |x| P(X > |x|): no cancellation, exact limits.

        With z = |x| / sqrt 2 the second term is z exp(-z**2) / sqrt 2 * t * C(t), where t = 1 / (1 + z/2) and C is a
        Chebyshev series summed by Clenshaw's recurrence. z stops where the term is 0 beside any output.
        """
        limit, coefficients = _erfc_series(self.dtype)
        b, one, half = self.builder, self.number(1.0), self.number(0.5)
        size = b.select(self.less(x, self.number(0.0)), b.fneg(x), x)
        z = self.clamp(b.fmul(size, self.number(math.sqrt(0.5))), 0.0, limit)
        t = b.fdiv(one, self.fma(z, half, one))
        least = 1 / (1 + limit / 2)
        u = self.fma(t, self.number(2 / (1 - least)), self.number(-(1 + least) / (1 - least)))
        twice = b.fadd(u, u)
        last, before = self.number(coefficients[-1]), self.number(0.0)
        for value in coefficients[-2:0:-1]:
            last, before = self.fma(twice, last, b.fsub(self.number(value), before)), last
        series = self.fma(u, last, b.fsub(self.number(coefficients[0]), before))
        tail = b.fmul(self.exp(b.fneg(b.fmul(z, z))), b.fmul(t, series))
        return b.fsub(_relu(self, x), b.fmul(b.fmul(z, self.number(math.sqrt(0.5))), tail))


@cache
def _erfc_series(dtype: str) -> tuple[float, list[float]]:
    """Return where z ends, and the series of exp(z**2) erfc(z) / t in t = 1 / (1 + z/2), scaled to [-1, 1].

    Largest error of gelu measured, in eps of the larger of 1 and the result: 0.7 for float32, 1 for float64.
    """
    limit, degree = (9.3, 8) if dtype == "float32" else (26.5, 24)
    least = 1 / (1 + limit / 2)
    angles = (np.arange(8 * degree) + 0.5) * np.pi / (8 * degree)
    places = least + (np.cos(angles) + 1) / 2 * (1 - least)
    values = [_scaled_erfc(2 * (1 / t - 1)) / t for t in places]
    # fsum: the rounding of a plain sum would be the largest error of all.
    sums = [math.fsum(values * np.cos(k * angles)) / (4 * degree) for k in range(degree + 1)]
    return limit, [sums[0] / 2, *sums[1:]]


def _scaled_erfc(z: float) -> float:
    """Return exp(z**2) erfc(z)."""
    if z < 2:
        return math.exp(z * z) * math.erfc(z)
    fraction = z
    for k in range(120, 0, -1):
        fraction = z + k / 2 / fraction
    return 1 / (math.sqrt(math.pi) * fraction)


def _relu(m: _Math, x: Any) -> Any:
    zero = m.number(0.0)
    return m.builder.select(m.less(x, zero), zero, x)


def _leaky_relu(m: _Math, x: Any) -> Any:
    return m.builder.select(m.less(x, m.number(0.0)), m.builder.fmul(x, m.number(LEAKY_SLOPE)), x)


def _silu(m: _Math, x: Any) -> Any:
    # sigmoid stops at the smallest number, which times -1e38 is not 0: x stops where their product is.
    least = m.number(-100.0 if m.dtype == "float32" else -800.0)
    return m.builder.fmul(m.builder.select(m.less(x, least), least, x), m.sigmoid(x))


def _hardswish(m: _Math, x: Any) -> Any:
    gate = m.clamp(m.builder.fadd(x, m.number(3.0)), 0.0, 6.0)
    # The gate first: 6 * x can overflow where the result does not.
    return m.builder.fmul(x, m.builder.fmul(gate, m.number(1 / 6)))


def _elu(m: _Math, x: Any) -> Any:
    below = m.builder.fmul(m.builder.fsub(m.exp(x), m.number(1.0)), m.number(ELU_ALPHA))
    return m.builder.select(m.less(x, m.number(0.0)), below, x)


_FORMULAS: dict[str, Callable[[_Math, Any], Any]] = {
    "none": lambda m, x: x,
    "relu": _relu,
    "relu6": lambda m, x: m.clamp(x, 0.0, 6.0),
    "leaky_relu": _leaky_relu,
    "sigmoid": lambda m, x: m.sigmoid(x),
    "tanh": lambda m, x: m.tanh(x),
    "silu": _silu,
    "hardswish": _hardswish,
    "gelu": lambda m, x: m.gelu(x),
    "elu": _elu,
}


def emit_activation(builder: Any, dtype: str, activation: str, vector: Any) -> Any:
    """Return `activation` applied to every lane of `vector`."""
    return _FORMULAS[activation](_Math(builder, dtype, vector), vector)
