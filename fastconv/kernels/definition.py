"""The definition of one output, as loops: what computes a tile with NaN or Inf in it."""

from __future__ import annotations

from fastconv.kernels.jit import device
from fastconv.kernels.simd import load


@device
def window_sum(
    size: int,
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

    Shapes   x: first channel, by strides in bytes; w (C/g, kh, kw); both of floats of `size` bytes; rows, cols: maps
             from the window's first row and column
    """
    total = 0.0
    for r in range(kh):
        h = load("int64", rows + 8 * r * dh)
        for s in range(kw):
            column = load("int64", cols + 8 * s * dw)
            if h >= 0 and column >= 0:
                for c in range(channels):
                    at, weight = x + c * xc + h * xh + column * xw, w + ((c * kh + r) * kw + s) * size
                    if size == 4:
                        total += float(load("float32", at)) * float(load("float32", weight))
                    else:
                        total += load("float64", at) * load("float64", weight)
    return total
