"""The definition of one output, as loops: what computes a tile with NaN or Inf in it."""

from __future__ import annotations

from fastconv.kernels.jit import device
from fastconv.kernels.simd import load


@device
def window_sum_float32(
    x: int,
    w: int,
    rows: int,
    cols: int,
    channels: int,
    kh: int,
    kw: int,
    dh: int,
    dw: int,
    xc: int,
    xh: int,
    xw: int,
) -> float:
    """Return the sum over one window in float64; taps on zero padding are left out.

    Shapes   x: first channel, by strides in bytes; w (C/g, kh, kw); rows, cols: maps from the window's first place
    """
    total = 0.0
    for r in range(kh):
        h = load("int64", rows + 8 * r * dh)
        for s in range(kw):
            column = load("int64", cols + 8 * s * dw)
            if h >= 0 and column >= 0:
                for c in range(channels):
                    value = load("float32", x + c * xc + h * xh + column * xw)
                    total += float(value) * float(load("float32", w + ((c * kh + r) * kw + s) * 4))
    return total


@device
def window_sum_float64(
    x: int,
    w: int,
    rows: int,
    cols: int,
    channels: int,
    kh: int,
    kw: int,
    dh: int,
    dw: int,
    xc: int,
    xh: int,
    xw: int,
) -> float:
    """As `window_sum_float32`, of float64."""
    total = 0.0
    for r in range(kh):
        h = load("int64", rows + 8 * r * dh)
        for s in range(kw):
            column = load("int64", cols + 8 * s * dw)
            if h >= 0 and column >= 0:
                for c in range(channels):
                    value = load("float64", x + c * xc + h * xh + column * xw)
                    total += value * load("float64", w + ((c * kh + r) * kw + s) * 8)
    return total
