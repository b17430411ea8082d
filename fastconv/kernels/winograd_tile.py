"""Winograd transforms of one tile as straight vector code, and a block transpose with the epilogue.

The matrices come from `fastconv.algorithms.winograd` as exact fractions; here they become additions and fused
multiply-adds on vectors of channels. Rows that belong to points p and -p share their even and odd parts, which
halves the work.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    I64,
    close_loop,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emit_store,
    enter_loop,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)

Matrix = tuple[tuple[Fraction, ...], ...]

#: Points of evaluation beside infinity. F(4): +-3/4 and +-3/2 are rational and as accurate as the best known
#: (+-1/sqrt 2 and +-sqrt 2): half the error of +-1 and +-2. F(6): the standard set.
POINTS: dict[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
    6: tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2")),
}
TAPS = 3


def _times_linear(polynomial: list[Fraction], root: Fraction) -> list[Fraction]:
    """Return the coefficients of polynomial * (x - root), lowest first."""
    shifted = [Fraction(0), *polynomial]
    return [high - root * low for high, low in zip(shifted, [*polynomial, Fraction(0)], strict=True)]


def transforms(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T (m, m+2), G (m+2, 3) and B^T (m+2, m+2) of F(m, 3): y = A^T ((G g) * (B^T d)).

    Toom-Cook interpolation at `POINTS` and infinity, in exact fractions; A. Lavin & S. Gray, arXiv:1509.09308.
    """
    points = POINTS[m]
    size = m + TAPS - 1
    a_t = tuple((*(point**i for point in points), Fraction(int(i == m - 1))) for i in range(m))
    g_rows, b_rows = [], []
    everything = [Fraction(1)]
    for point in points:
        product, scale = [Fraction(1)], Fraction(1)
        for other in points:
            if other != point:
                product = _times_linear(product, other)
                scale *= point - other
        g_rows.append(tuple(point**k / scale for k in range(TAPS)))
        b_rows.append((*product, Fraction(0)))
        everything = _times_linear(everything, point)
    g_rows.append((*([Fraction(0)] * (TAPS - 1)), Fraction(1)))
    b_rows.append(tuple(everything))
    assert len(b_rows) == size
    return a_t, tuple(g_rows), tuple(b_rows)


class _Linear:
    """Emits products of constant matrices with vectors of vectors."""

    def __init__(self, builder: Any, dtype: str, lanes: int) -> None:
        self.b, self.dtype, self.type = builder, dtype, vector_type(dtype, lanes)

    def _combine(self, terms: list[tuple[Fraction, Any]]) -> Any:
        """Return the sum of coefficient * vector; None for the empty sum."""
        total = None
        # Coefficients of 1 first: they cost an addition, or nothing, instead of a multiplication.
        for factor, vector in sorted(terms, key=lambda term: term[0] != 1):
            if total is None:
                total = vector if factor == 1 else self.b.fmul(vector, self._number(factor))
            elif abs(factor) == 1:
                total = self.b.fadd(total, vector) if factor == 1 else self.b.fsub(total, vector)
            else:
                total = emit_fma(self.b, self.dtype, vector, self._number(factor), total)
        return total

    def _number(self, value: Fraction) -> Any:
        return ir.Constant(self.type, [float(value)] * self.type.count)

    def apply(self, matrix: Matrix, vectors: list[Any]) -> list[Any]:
        """Return matrix @ vectors."""
        results: list[Any] = [None] * len(matrix)
        for i, row in enumerate(matrix):
            if results[i] is not None:
                continue
            even = [(f, v) for j, (f, v) in enumerate(zip(row, vectors, strict=True)) if f and j % 2 == 0]
            odd = [(f, v) for j, (f, v) in enumerate(zip(row, vectors, strict=True)) if f and j % 2]
            mirrored = tuple(-f if j % 2 else f for j, f in enumerate(row))
            twins = [
                (k, sign)
                for k in range(i + 1, len(matrix))
                for sign in (1, -1)
                if even and odd and matrix[k] == tuple(sign * f for f in mirrored)
            ]
            if not twins:
                results[i] = self._combine(even + odd)
                continue
            (twin, sign), e, o = twins[0], self._combine(even), self._combine(odd)
            results[i] = self.b.fadd(e, o)
            results[twin] = self.b.fsub(e, o) if sign == 1 else self.b.fsub(o, e)
        return results


def _emit_input(builder: Any, m: int, dtype: str, lanes: int) -> Any:
    function, done = internal_function(builder, f"winograd_input_{m}_{dtype}_{lanes}", 6)
    if done:
        return function
    source, offsets, target, step, count, flag = function.args
    t, size = m + TAPS - 1, item_bytes(dtype)
    vector = vector_type(dtype, lanes)
    _, _, b_t = transforms(m)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    entry, loop, end = b.block, function.append_basic_block("loop"), function.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    left, moved, bad = b.phi(I64), b.phi(I64), b.phi(vector)
    left.add_incoming(count, entry)
    moved.add_incoming(i64(0), entry)
    bad.add_incoming(ir.Constant(vector, None), entry)
    linear = _Linear(b, dtype, lanes)
    columns = []
    here = b.add(source, moved)
    for j in range(t):
        places = [emit_load(b, b.add(offsets, i64(8 * (i * t + j))), I64, 8) for i in range(t)]
        loaded = [emit_load(b, b.add(here, place), vector, size) for place in places]
        columns.append(linear.apply(b_t, loaded))
    corners = []
    for i in range(t):
        for j, value in enumerate(linear.apply(b_t, [columns[q][i] for q in range(t)])):
            place = b.add(b.add(target, moved), b.mul(step, i64(i * t + j)))
            emit_store(b, value, place, size)
            corners += [value] if i in (0, t - 1) and j in (0, t - 1) else []
    # The first row of B^T has the even places of d and the last row the odd ones, so every element of d is in one of
    # the corners of V: Inf or NaN anywhere shows there, for four additions a tile.
    total = b.fadd(b.fadd(corners[0], corners[1]), b.fadd(corners[2], corners[3]))
    still_bad = emit_fma(b, dtype, total, ir.Constant(vector, None), bad)
    bad.add_incoming(still_bad, b.block)
    rest = b.sub(left, i64(1))
    left.add_incoming(rest, b.block)
    moved.add_incoming(b.add(moved, i64(lanes * size)), b.block)
    b.cbranch(b.icmp_signed(">", rest, i64(0)), loop, end)
    b.position_at_end(end)
    found = b.bitcast(b.fcmp_unordered("uno", still_bad, still_bad), ir.IntType(lanes))
    report, done_block = function.append_basic_block("report"), function.append_basic_block("done")
    b.cbranch(b.icmp_unsigned("!=", found, ir.Constant(ir.IntType(lanes), 0)), report, done_block)
    b.position_at_end(report)
    emit_store(b, i64(1), flag, 8)
    b.branch(done_block)
    b.position_at_end(done_block)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def winograd_input(
    context: Any, m: Any, dtype: Any, lanes: Any,
    source: Any, offsets: Any, target: Any, step: Any, count: Any, flag: Any,
) -> Any:  # fmt: skip
    """Transform one tile: V = B^T d B, for `count` vectors of channels.

    Shapes   d (t, t) pixels: (i, j) at ``source + offsets[i*t + j]``, channels side by side; V element (i, j) at
             ``target + (i*t + j)*step``; t = m + 2; offsets (int64) and strides in bytes
    Assumes  whole vectors may be read and written
    Touches  writes target, and 1 at `flag` when an element of d is not finite (or its sums overflow)
    Source   arXiv:1509.09308
    """
    words = (m, dtype, lanes)

    def generate(ctx: Any, builder: Any, _s: Any, args: Any) -> Any:
        builder.call(_emit_input(builder, *(w.literal_value for w in words)), args[3:])
        return ctx.get_dummy_value()

    return types.void(*words, *[types.intp] * 6), generate


def _emit_kernels(builder: Any, m: int, dtype: str, lanes: int) -> Any:
    function, done = internal_function(builder, f"winograd_kernels_{m}_{dtype}_{lanes}", 5)
    if done:
        return function
    source, target, step, row, count = function.args
    t, size = m + TAPS - 1, item_bytes(dtype)
    vector, wide = vector_type(dtype, lanes), vector_type("float64", lanes)
    _, g, _ = transforms(m)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loop, end = function.append_basic_block("loop"), function.append_basic_block("end")
    left, kernel, place = enter_loop(b, loop, [count, source, target])
    linear = _Linear(b, "float64", lanes)
    columns = []
    for j in range(TAPS):
        taps = [b.add(kernel, i64((i * TAPS + j) * lanes * size)) for i in range(TAPS)]
        loaded = [emit_load(b, tap, vector, size) for tap in taps]
        columns.append(linear.apply(g, [b.fpext(v, wide) for v in loaded] if vector != wide else loaded))
    for i in range(t):
        for j, value in enumerate(linear.apply(g, [column[i] for column in columns])):
            rounded = b.fptrunc(value, vector) if vector != wide else value
            emit_store(b, rounded, b.add(place, b.mul(step, i64(i * t + j))), size)
    rest = b.sub(left, i64(1))
    following = [rest, b.add(kernel, i64(TAPS * TAPS * lanes * size)), b.add(place, row)]
    close_loop(b, loop, [left, kernel, place], following, b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def winograd_kernels(
    context: Any, m: Any, dtype: Any, lanes: Any, source: Any, target: Any, step: Any, row: Any, count: Any
) -> Any:
    """Transform `count` kernels of `lanes` output channels: U = G g G^T, in float64, rounded once.

    Shapes   g (count, 3, 3, lanes) without gaps; U element (i, j) of kernel c at ``target + c*row + (i*t + j)*step``;
             t = m + 2; strides in bytes
    Assumes  count >= 1
    Touches  writes target
    Source   arXiv:1509.09308
    """
    words = (m, dtype, lanes)

    def generate(ctx: Any, builder: Any, _s: Any, args: Any) -> Any:
        builder.call(_emit_kernels(builder, *(w.literal_value for w in words)), args[3:])
        return ctx.get_dummy_value()

    return types.void(*words, *[types.intp] * 5), generate


def _emit_output(builder: Any, m: int, dtype: str, lanes: int, activation: str) -> Any:
    function, done = internal_function(builder, f"winograd_output_{m}_{dtype}_{lanes}_{activation}", 10)
    if done:
        return function
    source, step, bias_at, y, residual, row, pixel, rows, columns, live = function.args
    t, size = m + TAPS - 1, item_bytes(dtype)
    vector = vector_type(dtype, lanes)
    a_t, _, _ = transforms(m)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    linear = _Linear(b, dtype, lanes)
    halves = []
    for j in range(t):
        loaded = [emit_load(b, b.add(source, b.mul(step, i64(i * t + j))), vector, size) for i in range(t)]
        halves.append(linear.apply(a_t, loaded))
    bias = emit_load(b, bias_at, vector, size)
    mask = emit_lane_mask(b, lanes, live)
    # As in the micro-kernel: the empty load of an absent residual needs a good address all the same.
    has_residual = b.icmp_signed("!=", residual, i64(0))
    residual_mask = b.and_(mask, emit_splat(b, has_residual, lanes))
    end = function.append_basic_block("end")
    for i in range(m):
        values = linear.apply(a_t, [halves[j][i] for j in range(t)])
        for j, value in enumerate(values):
            store, after = function.append_basic_block("store"), function.append_basic_block("after")
            b.cbranch(b.icmp_signed("<", i64(j), columns), store, after)
            b.position_at_end(store)
            shift = b.add(b.mul(row, i64(i)), b.mul(pixel, i64(j)))
            place = b.select(has_residual, b.add(residual, shift), bias_at)
            total = b.fadd(b.fadd(value, bias), emit_masked_load(b, dtype, place, residual_mask))
            total = emit_activation(b, dtype, activation, total)
            emit_masked_store(b, dtype, total, b.add(y, shift), mask)
            b.branch(after)
            b.position_at_end(after)
        following = function.append_basic_block("row")
        b.cbranch(b.icmp_signed("<", i64(i + 1), rows), following, end)
        b.position_at_end(following)
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def winograd_output(
    context: Any, m: Any, dtype: Any, lanes: Any, activation: Any,
    source: Any, step: Any, bias: Any, y: Any, residual: Any,
    row: Any, pixel: Any, rows: Any, columns: Any, live: Any,
) -> Any:  # fmt: skip
    """Transform one tile of products back and store it: A^T M A + bias + residual, activated.

    Shapes   M element (i, j) at ``source + (i*t + j)*step``; y pixel (i, j) at
             ``y + i*row + j*pixel``; `bias` one vector
    Assumes  1 <= rows, columns <= m and 1 <= live <= lanes; residual is 0 or laid out as y
    Touches  writes the first `live` channels of the first rows x columns pixels
    Source   arXiv:1509.09308
    """
    words = (m, dtype, lanes, activation)

    def generate(ctx: Any, builder: Any, _s: Any, args: Any) -> Any:
        builder.call(_emit_output(builder, *(w.literal_value for w in words)), args[4:])
        return ctx.get_dummy_value()

    return types.void(*words, *[types.intp] * 10), generate
