"""Winograd transforms of one tile as straight vector code, and a block transpose with the epilogue.

The matrices come from `winograd_matrices` as exact fractions; here they become additions and fused
multiply-adds on vectors of channels. Rows that belong to points p and -p share their even and odd parts, which
halves the work.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from llvmlite import ir
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
from fastconv.kernels.winograd_matrices import Matrix, transforms


class Linear:
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
            (twin, sign), e = twins[0], self._combine(even)
            if len(odd) == 1 and sign == 1 and abs(odd[0][0]) != 1:
                ((factor, vector),) = odd
                for place, signed in ((i, factor), (twin, -factor)):
                    results[place] = emit_fma(self.b, self.dtype, vector, self._number(signed), e)
                continue
            o = self._combine(odd)
            results[i] = self.b.fadd(e, o)
            results[twin] = self.b.fsub(e, o) if sign == 1 else self.b.fsub(o, e)
        return results


def _emit_input(builder: Any, mh: int, mw: int, kh: int, kw: int, dtype: str, lanes: int) -> Any:
    function, done = internal_function(builder, f"winograd_input_{mh}{mw}{kh}{kw}_{dtype}_{lanes}", 6)
    if done:
        return function
    source, offsets, target, step, count, flag = function.args
    high, wide, size = mh + kh - 1, mw + kw - 1, item_bytes(dtype)
    vector = vector_type(dtype, lanes)
    down, across = transforms(mh, kh)[2], transforms(mw, kw)[2]
    b = ir.IRBuilder(function.append_basic_block("entry"))
    entry, loop, end = b.block, function.append_basic_block("loop"), function.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    left, moved, bad = b.phi(I64), b.phi(I64), b.phi(vector)
    left.add_incoming(count, entry)
    moved.add_incoming(i64(0), entry)
    bad.add_incoming(ir.Constant(vector, None), entry)
    linear = Linear(b, dtype, lanes)
    columns = []
    here = b.add(source, moved)
    for j in range(wide):
        places = [emit_load(b, b.add(offsets, i64(8 * (i * wide + j))), I64, 8) for i in range(high)]
        loaded = [emit_load(b, b.add(here, place), vector, size) for place in places]
        columns.append(linear.apply(down, loaded))
    total = None
    for i in range(high):
        for j, value in enumerate(linear.apply(across, [column[i] for column in columns])):
            place = b.add(b.add(target, moved), b.mul(step, i64(i * wide + j)))
            emit_store(b, value, place, size)
            if i in (0, high - 1) and j in (0, wide - 1):
                total = value if total is None else b.fadd(total, value)
    # The first row of B^T has the even places of d and the last row the odd ones, so every element of d is in one of
    # the corners of V: Inf or NaN anywhere shows there, for four additions a tile.
    still_bad = emit_fma(b, dtype, total, ir.Constant(vector, None), bad)
    bad.add_incoming(still_bad, b.block)
    rest = b.sub(left, i64(1))
    left.add_incoming(rest, b.block)
    moved.add_incoming(b.add(moved, i64(lanes * size)), b.block)
    b.cbranch(b.icmp_signed(">", rest, i64(0)), loop, end)
    b.position_at_end(end)
    emit_report(b, still_bad, flag)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def winograd_input(
    context: Any, mh: Any, mw: Any, kh: Any, kw: Any, dtype: Any, lanes: Any,
    source: Any, offsets: Any, target: Any, step: Any, count: Any, flag: Any,
) -> Any:  # fmt: skip
    """Transform one tile: V = B^T d B, for `count` vectors of channels.

    Shapes   d (h, w) pixels: (i, j) at ``source + offsets[i*w + j]``, channels side by side; V element (i, j) at
             ``target + (i*w + j)*step``; h = mh + kh - 1, w = mw + kw - 1; offsets (int64) and strides in bytes
    Assumes  whole vectors may be read and written
    Touches  writes target, and 1 at `flag` when an element of d is not finite (or its sums overflow)
    Source   arXiv:1509.09308
    """
    words = (mh, mw, kh, kw, dtype, lanes)

    return emitted(_emit_input, words, 6)


def _emit_kernels(builder: Any, mh: int, mw: int, kh: int, kw: int, dtype: str, lanes: int) -> Any:
    function, done = internal_function(builder, f"winograd_kernels_{mh}{mw}{kh}{kw}_{dtype}_{lanes}", 5)
    if done:
        return function
    source, target, step, row, count = function.args
    size = item_bytes(dtype)
    vector, double = vector_type(dtype, lanes), vector_type("float64", lanes)
    down, across = transforms(mh, kh)[1], transforms(mw, kw)[1]
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loop, end = function.append_basic_block("loop"), function.append_basic_block("end")
    left, kernel, place = enter_loop(b, loop, [count, source, target])
    linear = Linear(b, "float64", lanes)
    columns = []
    for j in range(kw):
        taps = [b.add(kernel, i64((i * kw + j) * lanes * size)) for i in range(kh)]
        loaded = [emit_load(b, tap, vector, size) for tap in taps]
        columns.append(
            linear.apply(down, [b.fpext(v, double) for v in loaded] if vector != double else loaded)
        )
    for i in range(len(down)):
        for j, value in enumerate(linear.apply(across, [column[i] for column in columns])):
            rounded = b.fptrunc(value, vector) if vector != double else value
            emit_store(b, rounded, b.add(place, b.mul(step, i64(i * len(across) + j))), size)
    rest = b.sub(left, i64(1))
    following = [rest, b.add(kernel, i64(kh * kw * lanes * size)), b.add(place, row)]
    close_loop(b, loop, [left, kernel, place], following, b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def winograd_kernels(
    context: Any, mh: Any, mw: Any, kh: Any, kw: Any, dtype: Any, lanes: Any,
    source: Any, target: Any, step: Any, row: Any, count: Any,
) -> Any:  # fmt: skip
    """Transform `count` kernels of `lanes` output channels: U = G g G^T, in float64, rounded once.

    Shapes   g (count, kh, kw, lanes) without gaps; U element (i, j) of kernel c at
             ``target + c*row + (i*w + j)*step``; w = mw + kw - 1; strides in bytes
    Assumes  count >= 1
    Touches  writes target
    Source   arXiv:1509.09308
    """
    words = (mh, mw, kh, kw, dtype, lanes)

    return emitted(_emit_kernels, words, 5)


def _emit_output(
    builder: Any, mh: int, mw: int, kh: int, kw: int, dtype: str, lanes: int, activation: str
) -> Any:
    name = f"winograd_output_{mh}{mw}{kh}{kw}_{dtype}_{lanes}_{activation}"
    function, done = internal_function(builder, name, 10)
    if done:
        return function
    source, step, bias_at, y, residual, row, pixel, rows, columns, live = function.args
    high, wide, size = mh + kh - 1, mw + kw - 1, item_bytes(dtype)
    vector = vector_type(dtype, lanes)
    down, across = transforms(mh, kh)[0], transforms(mw, kw)[0]
    b = ir.IRBuilder(function.append_basic_block("entry"))
    linear = Linear(b, dtype, lanes)
    halves = []
    for j in range(wide):
        places = [b.add(source, b.mul(step, i64(i * wide + j))) for i in range(high)]
        halves.append(linear.apply(down, [emit_load(b, place, vector, size) for place in places]))
    bias = emit_load(b, bias_at, vector, size)
    mask = emit_lane_mask(b, lanes, live)
    # As in the micro-kernel: the empty load of an absent residual needs a good address all the same.
    has_residual = b.icmp_signed("!=", residual, i64(0))
    residual_mask = b.and_(mask, emit_splat(b, has_residual, lanes))
    end = function.append_basic_block("end")
    for i in range(mh):
        values = linear.apply(across, [half[i] for half in halves])
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
    context: Any, mh: Any, mw: Any, kh: Any, kw: Any, dtype: Any, lanes: Any, activation: Any,
    source: Any, step: Any, bias: Any, y: Any, residual: Any,
    row: Any, pixel: Any, rows: Any, columns: Any, live: Any,
) -> Any:  # fmt: skip
    """Transform one tile of products back and store it: A^T M A + bias + residual, activated.

    Shapes   M element (i, j) at ``source + (i*w + j)*step``, w = mw + kw - 1; y pixel (i, j) at
             ``y + i*row + j*pixel``; `bias` one vector
    Assumes  1 <= rows <= mh, 1 <= columns <= mw and 1 <= live <= lanes; residual is 0 or laid out as y
    Touches  writes the first `live` channels of the first rows x columns pixels
    Source   arXiv:1509.09308
    """
    words = (mh, mw, kh, kw, dtype, lanes, activation)

    return emitted(_emit_output, words, 10)
