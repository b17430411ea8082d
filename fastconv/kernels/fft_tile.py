"""Fourier transforms of columns as straight vector code: one transform in every lane.

A panel is `points` rows of one vector of real parts and one of imaginary parts, side by side. The forward transform
splits by frequency and leaves its result in digit-reversed order; the inverse splits by time, takes that order and
gives the natural one: no pass is spent on putting things in order, since what happens between the two is elementwise.
Twiddle factors come from a table, rounded once from float64.

Source: W. M. Gentleman & G. Sande, AFIPS 1966 (by frequency); J. W. Cooley & J. W. Tukey, Math. Comp. 19, 1965 (by
time). Start reading at `_emit_pass`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    SCALARS,
    close_loop,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_report,
    emit_splat,
    emit_store,
    emitted,
    enter_loop,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)
from fastconv.kernels.transpose import transposed

Complex = tuple[Any, Any]


def radices(points: int, most: int) -> tuple[int, ...]:
    """Return the radices of the passes of a transform: `most` (8 where 16 vectors fit the registers) and 4, 2."""
    found: list[int] = []
    while points > 1:
        # 2 * 8 takes as many passes as 4 * 4, which are cheaper.
        radix = (
            next(r for r in (most, 4, 2) if points % r == 0 and points // r != 2) if points > 4 else points
        )
        found.append(radix)
        points //= radix
    return tuple(found)


def digit_order(points: int, most: int) -> npt.NDArray[np.int64]:
    """Return the frequency that stands at each place after the forward transform."""
    order = np.zeros(1, np.int64)
    step = 1
    for radix in radices(points, most):
        order = (order[:, None] + step * np.arange(radix)).ravel()
        step *= radix
    return order


def twiddles(points: int, most: int) -> npt.NDArray[np.float64]:
    """Return real and imaginary parts of the factors of all passes but the last, as the kernels walk them."""
    found = [np.zeros((0, 2))]
    size = points
    for radix in radices(points, most)[:-1]:
        j, k = np.ogrid[: size // radix, 1:radix]
        angle = -2 * np.pi * (j * k % size) / size
        found.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(-1, 2))
        size //= radix
    return np.concatenate(found)


class _Fft:
    """Constants of one transform, and complex arithmetic on its vectors."""

    def __init__(self, builder: Any, points: int, most: int, sign: int, lanes: int, dtype: str) -> None:
        self.b, self.points, self.sign, self.dtype = builder, points, sign, dtype
        self.radices = radices(points, most)
        self.size = item_bytes(dtype)
        self.lanes, self.bytes = lanes, lanes * self.size
        self.row = 2 * self.bytes
        self.vector, self.scalar = vector_type(dtype, lanes), SCALARS[dtype][0]

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return emit_fma(self.b, self.dtype, x, y, z)

    def number(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.lanes)

    def add(self, x: Complex, y: Complex) -> Complex:
        return self.b.fadd(x[0], y[0]), self.b.fadd(x[1], y[1])

    def sub(self, x: Complex, y: Complex) -> Complex:
        return self.b.fsub(x[0], y[0]), self.b.fsub(x[1], y[1])

    def times(self, x: Complex, factor: Complex, conjugate: bool) -> Complex:
        """Return x times the factor, or times its conjugate."""
        (re, im), (c, s) = x, factor
        b = self.b
        if conjugate:
            return self.fma(im, s, b.fmul(re, c)), self.fma(b.fneg(re), s, b.fmul(im, c))
        return self.fma(b.fneg(im), s, b.fmul(re, c)), self.fma(re, s, b.fmul(im, c))

    def turned(self, x: Complex) -> Complex:
        """Return x times i, or times -i where the sign of the transform is negative; a negation that FMAs absorb."""
        return (self.b.fneg(x[1]), x[0]) if self.sign > 0 else (x[1], self.b.fneg(x[0]))

    def dft(self, values: list[Complex]) -> list[Complex]:
        """Return the transform of 1, 2, 4 or 8 values."""
        count = len(values)
        if count == 1:
            return values
        even, odd = self.dft(values[::2]), self.dft(values[1::2])
        low, high = [], []
        for k, (e, o) in enumerate(zip(even, odd, strict=True)):
            if 8 * k == count or 8 * k == 3 * count:
                # exp(i pi / 4) and its like: (1 + i) / sqrt 2 times o, the scaling folded into the additions.
                turn = self.turned(o)
                raw = self.add(o, turn) if 8 * k == count else self.sub(turn, o)
                half, minus = self.number(math.sqrt(0.5)), self.number(-math.sqrt(0.5))
                low.append((self.fma(raw[0], half, e[0]), self.fma(raw[1], half, e[1])))
                high.append((self.fma(raw[0], minus, e[0]), self.fma(raw[1], minus, e[1])))
                continue
            value = self.turned(o) if k else o
            low.append(self.add(e, value))
            high.append(self.sub(e, value))
        return low + high

    def factor(self, table: Any, index: int) -> Complex:
        at = self.b.add(table, i64(2 * index * self.size))
        re = emit_load(self.b, at, self.scalar, self.size)
        im = emit_load(self.b, self.b.add(at, i64(self.size)), self.scalar, self.size)
        return emit_splat(self.b, re, self.lanes), emit_splat(self.b, im, self.lanes)


def _emit_pass(t: _Fft, size: int, radix: int, re: Any, im: Any, step: Any, target: Any, table: Any) -> None:
    """Emit one pass: transforms of `radix` rows, ``size // radix`` apart, in every block of `size` rows.

    Rows are read at ``re + row*step`` and ``im + row*step`` and written to the panel at `target`.
    """
    b, function, apart = t.b, t.b.function, size // radix
    blocks = t.points // size
    block, inner = function.append_basic_block("block"), function.append_basic_block("butterfly")
    inner_end, end = function.append_basic_block("block_end"), function.append_basic_block("pass_done")
    outer = enter_loop(b, block, [i64(blocks), re, im, target])
    phis = enter_loop(b, inner, [i64(apart), *outer[1:], table])
    left, re_now, im_now, to, factors = phis
    shifts = [b.mul(step, i64(k * apart)) for k in range(radix)]
    values = [
        tuple(emit_load(b, b.add(place, shift), t.vector, t.size) for place in (re_now, im_now))
        for shift in shifts
    ]
    turns = [t.factor(factors, k - 1) if apart > 1 and k else None for k in range(radix)]
    if t.sign > 0:
        values = [t.times(v, f, True) if f else v for v, f in zip(values, turns, strict=True)]
    values = t.dft(values)
    if t.sign < 0:
        values = [t.times(v, f, False) if f else v for v, f in zip(values, turns, strict=True)]
    for k, parts in enumerate(values):
        for part, value in enumerate(parts):
            emit_store(b, value, b.add(to, i64(k * apart * t.row + part * t.bytes)), t.size)
    rest = b.sub(left, i64(1))
    moved = [b.add(re_now, step), b.add(im_now, step), b.add(to, i64(t.row))]
    moved.append(b.add(factors, i64(2 * (radix - 1) * t.size)))
    close_loop(b, inner, phis, [rest, *moved], b.icmp_signed(">", rest, i64(0)), inner_end)
    rest = b.sub(outer[0], i64(1))
    jump = b.mul(step, i64(size))
    moved = [b.add(outer[1], jump), b.add(outer[2], jump), b.add(outer[3], i64(size * t.row))]
    close_loop(b, block, outer, [rest, *moved], b.icmp_signed(">", rest, i64(0)), end)


def _emit_columns(builder: Any, points: int, most: int, sign: int, lanes: int, dtype: str) -> Any:
    name = f"fft_{points}_{most}_{'inverse' if sign > 0 else 'forward'}_{lanes}_{dtype}"
    function, done = internal_function(builder, name, 5)
    if done:
        return function
    re, im, step, target, table = function.args
    t = _Fft(ir.IRBuilder(function.append_basic_block("entry")), points, most, sign, lanes, dtype)
    passes, size, start = [], points, 0
    for radix in t.radices:
        passes.append((size, radix, start))
        start += (size // radix) * (radix - 1) * 2 * t.size
        size //= radix
    for i, (size, radix, start) in enumerate(passes if sign < 0 else passes[::-1]):
        at = t.b.add(table, i64(start))
        if i == 0:
            _emit_pass(t, size, radix, re, im, step, target, at)
        else:
            _emit_pass(t, size, radix, target, t.b.add(target, i64(t.bytes)), i64(t.row), target, at)
    t.b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def fft_columns(
    context: Any, points: Any, most: Any, sign: Any, lanes: Any, dtype: Any,
    re: Any, im: Any, step: Any, target: Any, table: Any,
) -> Any:  # fmt: skip
    """Transform one vector of columns: forward where `sign` is -1, inverse (times `points`) where it is 1.

    Shapes   row i of the source at ``re + i*step`` and ``im + i*step``; target: panel of `points` rows; `table`:
             `twiddles` in `dtype`; the forward result, and what the inverse takes, are in `digit_order`
    Assumes  source and target are the same panel (im = re + one vector, step = two), or apart; the inverse: the same
    Touches  writes target
    Source   Gentleman & Sande 1966; Cooley & Tukey 1965
    """
    constants = (points, most, sign, lanes, dtype)

    return emitted(_emit_columns, constants, 5)


def _emit_multiply(builder: Any, lanes: int, dtype: str) -> Any:
    function, done = internal_function(builder, f"spectrum_multiply_{lanes}_{dtype}", 5)
    if done:
        return function
    target, z, w, rows, resume = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    t = _Fft(b, 1, 2, 1, lanes, dtype)
    # The sum so far counts times 0 or 1 by a mask: what an earlier task left there may be anything.
    keep = emit_lane_mask(b, lanes, b.mul(resume, i64(lanes)))
    loop, end = function.append_basic_block("rows"), function.append_basic_block("end")
    phis = enter_loop(b, loop, [rows, target, z, w])

    def parts(place: Any) -> Complex:
        return tuple(emit_load(b, b.add(place, i64(k * t.bytes)), t.vector, t.size) for k in (0, 1))

    (x, y), (c, s) = parts(phis[2]), parts(phis[3])
    held = [emit_masked_load(b, dtype, b.add(phis[1], i64(k * t.bytes)), keep) for k in (0, 1)]
    re = t.fma(b.fneg(y), s, t.fma(x, c, held[0]))
    im = t.fma(x, s, t.fma(y, c, held[1]))
    emit_store(b, re, phis[1], t.size)
    emit_store(b, im, b.add(phis[1], i64(t.bytes)), t.size)
    rest = b.sub(phis[0], i64(1))
    moved = [b.add(place, i64(t.row)) for place in phis[1:]]
    close_loop(b, loop, phis, [rest, *moved], b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def spectrum_multiply(
    context: Any, lanes: Any, dtype: Any, target: Any, z: Any, w: Any, rows: Any, resume: Any
) -> Any:
    """Multiply two panels of complex numbers; add to the target's where `resume` is 1, replace them where it is 0.

    Shapes   target, z, w: panels of `rows` rows
    Assumes  rows >= 1
    Touches  writes target
    Source   none
    """
    return emitted(_emit_multiply, (lanes, dtype), 5)


def _emit_turn(builder: Any, lanes: int, dtype: str) -> Any:
    function, done = internal_function(builder, f"turn_panel_{lanes}_{dtype}", 4)
    if done:
        return function
    source, target, step, count = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    size = item_bytes(dtype)
    vector, span = vector_type(dtype, lanes), lanes * size
    loop, end = function.append_basic_block("blocks"), function.append_basic_block("end")
    phis = enter_loop(b, loop, [count, source, target])
    for part in (0, span):
        rows = [emit_load(b, b.add(phis[1], i64(2 * span * i + part)), vector, size) for i in range(lanes)]
        for i, value in enumerate(transposed(b, rows)):
            emit_store(b, value, b.add(phis[2], i64(2 * span * i + part)), size)
    rest = b.sub(phis[0], i64(1))
    moved = [b.add(phis[1], i64(2 * span * lanes)), b.add(phis[2], step)]
    close_loop(b, loop, phis, [rest, *moved], b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def turn_panel(context: Any, lanes: Any, dtype: Any, source: Any, target: Any, step: Any, count: Any) -> Any:
    """Transpose a panel, block by block of `lanes` rows, each into a panel of its own.

    Shapes   source: panel of ``count * lanes`` rows; target: block k goes to the `lanes` rows at ``target + k*step``
    Assumes  count >= 1; source and target are apart
    Touches  writes target
    Source   none
    """
    return emitted(_emit_turn, (lanes, dtype), 4)


def _emit_finish(builder: Any, lanes: int, dtype: str, activation: str) -> Any:
    function, done = internal_function(builder, f"finish_rows_{lanes}_{dtype}_{activation}", 9)
    if done:
        return function
    source, step, y, y_row, residual, bias_at, rows, live, flag = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    size, zero = item_bytes(dtype), ir.Constant(vector_type(dtype, lanes), None)
    mask = emit_lane_mask(b, lanes, live)
    bias = emit_splat(b, emit_load(b, bias_at, SCALARS[dtype][0], size), lanes)
    # As in the micro-kernel: the empty load of an absent residual needs a good address all the same.
    has_residual = b.icmp_signed("!=", residual, i64(0))
    residual_mask = b.and_(mask, emit_splat(b, has_residual, lanes))
    loop, end = function.append_basic_block("rows"), function.append_basic_block("end")
    phis = enter_loop(b, loop, [rows, source, y, residual, zero])
    value = emit_load(b, phis[1], zero.type, size)
    # Only lanes that are stored count; a product of 0 and a special value is not a number.
    check = emit_fma(b, dtype, b.select(mask, value, zero), zero, phis[4])
    held = emit_masked_load(b, dtype, b.select(has_residual, phis[3], bias_at), residual_mask)
    value = emit_activation(b, dtype, activation, b.fadd(b.fadd(value, bias), held))
    emit_masked_store(b, dtype, value, phis[2], mask)
    rest = b.sub(phis[0], i64(1))
    moved = [b.add(phis[1], step), b.add(phis[2], y_row), b.add(phis[3], y_row), check]
    close_loop(b, loop, phis, [rest, *moved], b.icmp_signed(">", rest, i64(0)), end)
    emit_report(b, check, flag)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def finish_rows(
    context: Any, lanes: Any, dtype: Any, activation: Any,
    source: Any, step: Any, y: Any, y_row: Any, residual: Any, bias: Any, rows: Any, live: Any, flag: Any,
) -> Any:  # fmt: skip
    """Store vectors one below the other with bias, residual and activation.

    Shapes   source: vector i at ``source + i*step``; y row i at ``y + i*y_row``; bias: one value
    Assumes  rows >= 1, 1 <= live <= lanes; whole vectors may be read; residual is 0 or laid out as y
    Touches  writes the first `live` elements of the rows of y, and 1 at `flag` when one of the source's is not finite
    Source   none
    """
    constants = (lanes, dtype, activation)

    return emitted(_emit_finish, constants, 9)
