"""The definition of convolution in NumPy, data for it, and how far a result may be from it.

Nothing of fastconv is used but `Problem`: padding, strides, groups and activations are written a second time, in
other words, so that one mistake cannot hide another. `tests/test_reference.py` holds the hand-written cases that
prove this file.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fastconv.problem import Problem

Array = np.ndarray[Any, Any]

#: NumPy's word for each padding mode but zeros.
MODES = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}
#: Largest slope of an activation, where it exceeds 1.
SLOPES = {"hardswish": 1.5, "gelu": 1.13, "silu": 1.1}
SMOOTH = ("sigmoid", "tanh", "silu", "hardswish", "gelu", "elu")
#: An activation may add this many eps, of the larger of 1 and its value.
ACTIVATION_EPS = 4


@dataclass(frozen=True)
class Case:
    """Arrays of one problem: x, residual in its layout, w OIHW."""

    x: Array
    w: Array
    bias: Array | None
    residual: Array | None


# --------------------------------------------------------------------------------------------- definition


def live(size: int, before: int, tap: int, stride: int, out: int) -> tuple[slice, slice]:
    """Return which outputs have this tap inside the image, and the inputs they meet there."""
    first = max(0, math.ceil((before - tap) / stride))
    last = min(out, (size - 1 + before - tap) // stride + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    start = first * stride + tap - before
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


def correlate(p: Problem, x: Array, w: Array) -> Array:
    """Return the cross-correlation of x (NCHW) and w (OIHW) in their own dtype, tap by tap."""
    top, _, left, _ = p.padding
    if p.padding_mode != "zeros":
        pads = ((0, 0), (0, 0), p.padding[:2], p.padding[2:])
        x = np.pad(x, pads, mode=MODES[p.padding_mode])  # type: ignore[call-overload]
        top = left = 0
    n, c, h, width = x.shape
    g = p.groups
    x = x.reshape(n, g, c // g, h, width)
    w = w.reshape(g, p.o // g, c // g, p.kh, p.kw)
    y = np.zeros((n, g, p.o // g, p.oh, p.ow), x.dtype)
    for r in range(p.kh):
        to_rows, from_rows = live(h, top, r * p.dilation[0], p.stride[0], p.oh)
        for s in range(p.kw):
            to_cols, from_cols = live(width, left, s * p.dilation[1], p.stride[1], p.ow)
            part = x[:, :, :, from_rows, from_cols]
            if part.size:
                y[..., to_rows, to_cols] += np.einsum("ngchw,goc->ngohw", part, w[..., r, s])
    return y.reshape(n, p.o, p.oh, p.ow)


def activated(name: str, v: Array) -> Array:
    """Return the activation by the functions of `math`."""
    if name == "none":
        return v
    if v.dtype.kind == "i":
        return np.clip(v, 0, {"relu": None, "relu6": 6}[name])
    scalar = {
        "relu": lambda t: t if t > 0 or t != t else 0.0,
        "relu6": lambda t: min(max(t, 0.0), 6.0) if t == t else t,
        "leaky_relu": lambda t: t if t > 0 else 0.01 * t,
        "sigmoid": _sigmoid,
        "tanh": math.tanh,
        "silu": lambda t: t * _sigmoid(t),
        "hardswish": lambda t: t * (min(max(t + 3, 0.0), 6.0) / 6) if t == t else t,
        "gelu": lambda t: 0.5 * t * math.erfc(-t / math.sqrt(2)),
        "elu": lambda t: math.expm1(t) if t < 0 else t,
    }[name]
    result: Array = np.array([scalar(float(t)) for t in v.ravel()], np.float64).reshape(v.shape)
    return result


def _sigmoid(t: float) -> float:
    if t < -700:
        return 0.0
    return 1 / (1 + math.exp(-t))


def moved(p: Problem, array: Array) -> Array:
    """Return an array of the problem's layout as NCHW, or the other way round."""
    if p.layout == "NCHW":
        return array
    return array.transpose(0, 3, 1, 2)


def in_layout(p: Problem, array: Array) -> Array:
    """Return an NCHW array in the problem's layout, contiguous."""
    return np.ascontiguousarray(array if p.layout == "NCHW" else array.transpose(0, 2, 3, 1))


def wide(p: Problem) -> np.dtype[Any]:
    """Return the dtype in which the definition is evaluated: more exact than the compute dtype."""
    if p.compute_dtype.startswith("int"):
        return np.dtype(p.compute_dtype)
    return np.dtype(np.longdouble if p.compute_dtype == "float64" else np.float64)


def evaluate(p: Problem, case: Case) -> tuple[Array, Array]:
    """Return the expected result in the problem's layout, and sum(|x| |w|) + |bias| + |residual| beside it."""
    kind = wide(p)
    x, w = moved(p, case.x).astype(kind), case.w.astype(kind)
    with np.errstate(all="ignore"):
        y, size = correlate(p, x, w), correlate(p, np.abs(x), np.abs(w))
        if case.bias is not None:
            bias = case.bias.astype(kind)[:, None, None]
            y, size = y + bias, size + np.abs(bias)
        if case.residual is not None:
            residual = moved(p, case.residual).astype(kind)
            y, size = y + residual, size + np.abs(residual)
        return in_layout(p, activated(p.activation, y)), in_layout(p, size)


# --------------------------------------------------------------------------------------------------- data


def data(p: Problem, kind: str, rank_one: bool = False) -> Case:
    """Return seeded arrays of the problem's storage dtype; with `rank_one` each kernel is a column times a row.

    "integers": small ones, whose sums every float type holds exactly. For integer dtypes they fill the type.
    "normal", "uniform", "relu" (half zeros), "scaled" (magnitudes from 1e-20 to 1e20, sums within float32).
    """
    rng = np.random.default_rng(zlib.crc32(f"{p.word} {kind}".encode()))
    y_shape = p.y_shape
    shapes: list[tuple[int, ...]] = [p.x_shape, p.w_shape, (p.o,), y_shape]
    if not p.dtype.startswith("float"):
        info = np.iinfo(p.dtype)
        whole = [rng.integers(info.min, info.max, shape, p.dtype, endpoint=True) for shape in shapes[:3]]
        whole.append(rng.integers(-1000, 1000, y_shape).astype(p.result_dtype))
        return _case(p, whole)
    most = 2 if p.dtype == "float16" else 8
    if kind == "integers":
        made = [rng.integers(-most, most, shape, endpoint=True).astype(np.float64) for shape in shapes]
    elif kind == "uniform":
        made = [rng.random(shape) for shape in shapes]
    else:
        made = [rng.standard_normal(shape) for shape in shapes]
    if kind == "relu":
        made[0] = np.maximum(made[0], 0)
    if kind == "scaled":
        x, w, bias, residual = made
        made = [
            x * 10.0 ** rng.uniform(-20, 20, x.shape),
            w * 10.0 ** rng.uniform(-10, 10, w.shape),
            bias * 1e20,
            residual * 10.0 ** rng.uniform(-20, 20, residual.shape),
        ]
    made = [array.astype(p.dtype) for array in made]
    if rank_one:
        # Powers of two: the products are exact in every type.
        column = 2.0 ** rng.integers(0, 3, (*p.w_shape[:3], 1))
        made[1] = (made[1][:, :, :1, :] * column).astype(p.dtype)
    return _case(p, made)


def _case(p: Problem, arrays: list[Array]) -> Case:
    x, w, bias, residual = arrays
    return Case(x, w, bias if p.bias else None, residual if p.residual else None)


@cache
def known(word: str, kind: str, rank_one: bool = False) -> tuple[Case, Array, Array]:
    """Return data of the problem named `word`, the expected result, and the magnitude of its sums; kept."""
    p = Problem.parse(word)
    case = data(p, kind, rank_one)
    return case, *evaluate(p, case)


# ----------------------------------------------------------------------------------------------- judgement


def tolerance(p: Problem, expected: Array, magnitude: Array, bound: float) -> Array:
    """Return how far each output may be from `expected` when sums are exact to `bound` of their magnitude."""
    info = np.finfo(p.compute_dtype)
    allowed = bound * SLOPES.get(p.activation, 1.0) * magnitude + info.tiny
    if p.activation in SMOOTH:
        allowed = allowed + ACTIVATION_EPS * info.eps * np.maximum(1, np.abs(expected))
    if p.result_dtype == "float16":
        allowed = allowed + 2.0**-11 * np.abs(expected) + 2.0**-25
    return allowed


def excess(p: Problem, y: Array, expected: Array, magnitude: Array, bound: float) -> float:
    """Return the largest error as a multiple of what is allowed; infinite when an output is missing."""
    with np.errstate(all="ignore"):
        ratio = np.abs(y.astype(wide(p)) - expected) / tolerance(p, expected, magnitude, bound)
    ratio = np.where(np.isfinite(y), ratio, np.inf)
    return float(ratio.max(initial=0))


def check(p: Problem, y: Array, expected: Array, magnitude: Array, bound: float) -> None:
    """Raise AssertionError unless every output is within the bound; integers must be equal."""
    assert y.shape == p.y_shape
    if not p.dtype.startswith("float"):
        np.testing.assert_array_equal(y, expected, err_msg=p.word)
        return
    worst = excess(p, y, expected, magnitude, bound)
    if not worst <= 1:
        error = np.abs(y.astype(np.float64) - expected.astype(np.float64))
        at = tuple(
            int(i)
            for i in np.unravel_index(int(np.nanargmax(np.where(np.isfinite(y), error, np.inf))), y.shape)
        )
        raise AssertionError(
            f"{p.word}: {worst:.3g} times the allowed error; at {at} got {y[at]!r}, expected {expected[at]!r}"
        )
