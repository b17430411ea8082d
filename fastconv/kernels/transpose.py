"""Transposes of a block in registers: images between their layouts, weights into their panels."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    I64,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_report,
    emit_splat,
    emitted,
    i64,
    internal_function,
    is_float,
    vector_type,
)


def transposed(b: Any, rows: list[Any]) -> list[Any]:
    """Return the transpose of a square of vectors, in log2(lanes) rounds of interleaving."""
    lanes = len(rows)
    half = lanes // 2
    index = ir.VectorType(ir.IntType(32), lanes)
    low = ir.Constant(index, [v for i in range(half) for v in (i, lanes + i)])
    high = ir.Constant(index, [v for i in range(half, lanes) for v in (i, lanes + i)])
    for _ in range(lanes.bit_length() - 1):
        pairs = [(rows[i], rows[i + half]) for i in range(half)]
        rows = [b.shuffle_vector(x, y, pick) for x, y in pairs for pick in (low, high)]
    return rows


def _emit_rows(b: Any, dtype: str, lanes: int, source: Any, step: Any, rows: Any, columns: Any) -> list[Any]:
    """Load `lanes` rows of `columns` elements; those from `rows` on are zero."""
    load_mask = emit_lane_mask(b, lanes, columns)
    loaded = []
    for i in range(lanes):
        # Rows that are not there read the first one, under an empty mask.
        there = b.icmp_signed("<", i64(i), rows)
        place = b.select(there, b.add(source, b.mul(step, i64(i))), source)
        loaded.append(emit_masked_load(b, dtype, place, b.and_(load_mask, emit_splat(b, there, lanes))))
    return loaded


def _emit_transpose(builder: Any, dtype: str, lanes: int, activation: str) -> Any:
    function, done = internal_function(builder, f"transpose_{dtype}_{lanes}_{activation}", 8)
    if done:
        return function
    source, source_row, target, target_row, residual, rows, columns, stored = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    store_mask = emit_lane_mask(b, lanes, stored)
    turned = transposed(b, _emit_rows(b, dtype, lanes, source, source_row, rows, columns))
    has_residual = b.icmp_signed("!=", residual, i64(0))
    residual_mask = b.and_(store_mask, emit_splat(b, has_residual, lanes))
    end = function.append_basic_block("end")
    for j, value in enumerate(turned):
        shift = b.mul(target_row, i64(j))
        place = b.select(has_residual, b.add(residual, shift), source)
        held = emit_masked_load(b, dtype, place, residual_mask)
        value = b.fadd(value, held) if is_float(dtype) else b.add(value, held)
        value = emit_activation(b, dtype, activation, value)
        emit_masked_store(b, dtype, value, b.add(target, shift), store_mask)
        if j + 1 < lanes:
            following = function.append_basic_block("column")
            b.cbranch(b.icmp_signed("<", i64(j + 1), columns), following, end)
            b.position_at_end(following)
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def transpose_block(
    context: Any, dtype: Any, lanes: Any, activation: Any,
    source: Any, source_row: Any, target: Any, target_row: Any, residual: Any,
    rows: Any, columns: Any, stored: Any,
) -> Any:  # fmt: skip
    """Transpose a block of at most lanes x lanes elements, add the residual and apply the activation.

    Shapes   source row i at ``source + i*source_row``, `columns` elements; target row j at ``target + j*target_row``
    Assumes  1 <= rows, columns <= lanes; rows <= stored <= lanes; residual is 0 or laid out as target
    Touches  writes `stored` elements (zeros from `rows` on) of `columns` rows of target
    """
    words = (dtype, lanes, activation)

    return emitted(_emit_transpose, words, 8)


def _emit_scatter(builder: Any, dtype: str, lanes: int) -> Any:
    function, done = internal_function(builder, f"transpose_to_rows_{dtype}_{lanes}", 9)
    if done:
        return function
    source, source_row, target, target_row, index, rows, columns, stored, flag = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loaded = _emit_rows(b, dtype, lanes, source, source_row, rows, columns)
    if is_float(dtype):
        zero = ir.Constant(vector_type(dtype, lanes), None)
        check = zero
        for value in loaded:
            check = emit_fma(b, dtype, value, zero, check)
        emit_report(b, check, flag)
    mask = emit_lane_mask(b, lanes, stored)
    end = function.append_basic_block("end")
    for j, value in enumerate(transposed(b, loaded)):
        row = emit_load(b, b.add(index, i64(8 * j)), I64, 8)
        emit_masked_store(b, dtype, value, b.add(target, b.mul(row, target_row)), mask)
        if j + 1 < lanes:
            following = function.append_basic_block("column")
            b.cbranch(b.icmp_signed("<", i64(j + 1), columns), following, end)
            b.position_at_end(following)
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def transpose_to_rows(
    context: Any, dtype: Any, lanes: Any,
    source: Any, source_row: Any, target: Any, target_row: Any, index: Any,
    rows: Any, columns: Any, stored: Any, flag: Any,
) -> Any:  # fmt: skip
    """Transpose a block of at most lanes x lanes elements into rows named by an index.

    Shapes   source row i at ``source + i*source_row``, `columns` elements; element j of all rows goes side by side to
             ``target + index[j]*target_row``
    Assumes  1 <= rows, columns <= lanes; rows <= stored <= lanes
    Touches  writes `stored` elements (zeros from `rows` on) of `columns` rows; 1 at `flag` when one is not finite
    """
    words = (dtype, lanes)

    return emitted(_emit_scatter, words, 9)
