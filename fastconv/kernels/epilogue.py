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
from numpy.polynomial import chebyshev

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

    def erf(self, x: Any) -> Any:
        """Return erf(x) = x * C(x**2), C a Chebyshev series summed by Clenshaw's recurrence."""
        limit, coefficients = _erf_series(self.dtype)
        b = self.builder
        x = self.clamp(x, -limit, limit)
        t = self.fma(b.fmul(x, x), self.number(2 / limit**2), self.number(-1.0))
        twice = b.fadd(t, t)
        last, before = self.number(coefficients[-1]), self.number(0.0)
        for value in coefficients[-2:0:-1]:
            last, before = self.fma(twice, last, b.fsub(self.number(value), before)), last
        return b.fmul(x, self.fma(t, last, b.fsub(self.number(coefficients[0]), before)))


@cache
def _erf_series(dtype: str) -> tuple[float, list[float]]:
    """Return the interval beyond which erf is 1 in `dtype`, and the series of erf(x)/x in 2(x/limit)**2 - 1."""
    limit, degree = (4.0, 18) if dtype == "float32" else (6.0, 44)

    def ratio(t: Any) -> Any:
        x = limit * np.sqrt((t + 1) / 2)
        return np.array([math.erf(v) / v if v else 2 / math.sqrt(math.pi) for v in x])

    return limit, [float(c) for c in chebyshev.chebinterpolate(ratio, degree)]


def _relu(m: _Math, x: Any) -> Any:
    zero = m.number(0.0)
    return m.builder.select(m.less(x, zero), zero, x)


def _leaky_relu(m: _Math, x: Any) -> Any:
    return m.builder.select(m.less(x, m.number(0.0)), m.builder.fmul(x, m.number(LEAKY_SLOPE)), x)


def _hardswish(m: _Math, x: Any) -> Any:
    gate = m.clamp(m.builder.fadd(x, m.number(3.0)), 0.0, 6.0)
    return m.builder.fmul(m.builder.fmul(x, gate), m.number(1 / 6))


def _gelu(m: _Math, x: Any) -> Any:
    half = m.builder.fmul(x, m.number(0.5))
    return m.fma(half, m.erf(m.builder.fmul(x, m.number(math.sqrt(0.5)))), half)


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
    "silu": lambda m, x: m.builder.fmul(x, m.sigmoid(x)),
    "hardswish": _hardswish,
    "gelu": _gelu,
    "elu": _elu,
}


def emit_activation(builder: Any, dtype: str, activation: str, vector: Any) -> Any:
    """Return `activation` applied to every lane of `vector`."""
    return _FORMULAS[activation](_Math(builder, dtype, vector), vector)
