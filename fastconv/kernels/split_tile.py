"""Cutting float32 into bfloat16 parts, in the two orders in which matrix tiles read them.

Part 0 is x rounded to 8 significant bits, part 1 what is left of it rounded likewise, part 2 the rest, which is exact.
Half a unit is added and the low bits are cut off: ties go away from zero, which no later part notices. NaN keeps its
bits, so that adding cannot carry it into the sign; from 3.39e38 on a value becomes Inf. Both are seen in the sums.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.simd import (
    I32,
    I64,
    emit_lane_mask,
    emit_masked_load,
    emit_masked_store,
    emit_store,
    emitted,
    i64,
    internal_function,
    vector_type,
)

LANES = 16
WORDS = ir.VectorType(I32, LANES)
FLOATS = vector_type("float32", LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
HALVES = ir.VectorType(ir.IntType(16), 2 * LANES)


def _all(value: int) -> Any:
    return ir.Constant(WORDS, [value] * LANES)


def _cut(b: Any, x: Any, parts: int) -> list[Any]:
    """Return the parts of the vector `x` as words whose high halves are bfloat16 and whose low halves are zero."""
    found = []
    for part in range(parts):
        bits = b.bitcast(x, WORDS)
        rounded = b.add(bits, _all(0x8000))
        if part == 0:
            rounded = b.select(b.fcmp_unordered("uno", x, x), b.or_(bits, _all(0x400000)), rounded)
        word = b.and_(rounded, _all(0xFFFF0000))
        found.append(word)
        if part + 1 < parts:
            x = b.fsub(x, b.bitcast(word, FLOATS))
    return found


def _high_halves(b: Any, first: Any, second: Any) -> Any:
    """Return the high halves of the words of two vectors, one after the other."""
    odd = ir.Constant(ir.VectorType(I32, 2 * LANES), list(range(1, 4 * LANES, 2)))
    return b.shuffle_vector(b.bitcast(first, HALVES), b.bitcast(second, HALVES), odd)


def _infinite(b: Any, word: Any) -> Any:
    """Return the lanes of part 0 that are Inf or NaN."""
    exponent = _all(0x7F800000)
    return b.icmp_unsigned("==", b.and_(word, exponent), exponent)


def _report(b: Any, bad: Any, flag: Any) -> None:
    """Emit a store of 1 at `flag` if any lane of `bad` is set, and return."""
    function, bits = b.function, ir.IntType(LANES)
    report, end = function.append_basic_block("report"), function.append_basic_block("return")
    b.cbranch(b.icmp_unsigned("!=", b.bitcast(bad, bits), ir.Constant(bits, 0)), report, end)
    b.position_at_end(report)
    emit_store(b, i64(1), flag, 8)
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()


def _emit_every(b: Any, step: int, address: Any, count: Any) -> Any:
    """Return the first `count` of 16 float32 that stand `step` apart, 1 or 2; no byte beyond the last is read."""
    if step == 1:
        return emit_masked_load(b, "float32", address, emit_lane_mask(b, LANES, count))
    last = b.sub(b.mul(count, i64(step)), i64(step - 1))
    low = emit_masked_load(b, "float32", address, emit_lane_mask(b, LANES, last))
    rest = b.sub(last, i64(LANES))
    # An empty mask needs a good address all the same.
    second = b.select(b.icmp_signed(">", rest, i64(0)), b.add(address, i64(4 * LANES)), address)
    high = emit_masked_load(b, "float32", second, emit_lane_mask(b, LANES, rest))
    even = ir.Constant(WORDS, list(range(0, 2 * LANES, step)))
    return b.shuffle_vector(low, high, even)


def _emit_rows(builder: Any, parts: int, every: int) -> Any:
    function, done = internal_function(builder, f"split_rows_{parts}_{every}", 8)
    if done:
        return function
    source, step, target, target_step, part, count, live, flag = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    # An empty mask needs a good address all the same: the second vector may lie on a page that is not there.
    second = b.select(b.icmp_signed(">", live, i64(LANES)), i64(4 * LANES * every), i64(0))
    entry, loop, end = b.block, function.append_basic_block("loop"), function.append_basic_block("end")
    done_block = function.append_basic_block("done")
    b.cbranch(b.icmp_signed(">", count, i64(0)), loop, end)
    b.position_at_end(loop)
    left, here, to = b.phi(I64), b.phi(I64), b.phi(I64)
    bad = b.phi(MASK)
    for phi, start in ((left, count), (here, source), (to, target), (bad, ir.Constant(MASK, None))):
        phi.add_incoming(start, entry)
    low = _cut(b, _emit_every(b, every, here, live), parts)
    high = _cut(b, _emit_every(b, every, b.add(here, second), b.sub(live, i64(LANES))), parts)
    for p in range(parts):
        emit_store(b, _high_halves(b, low[p], high[p]), b.add(to, b.mul(part, i64(p))), 2)
    rest = b.sub(left, i64(1))
    following = b.or_(bad, b.or_(_infinite(b, low[0]), _infinite(b, high[0])))
    steps = ((left, rest), (here, b.add(here, step)), (to, b.add(to, target_step)), (bad, following))
    for phi, value in steps:
        phi.add_incoming(value, loop)
    b.cbranch(b.icmp_signed(">", rest, i64(0)), loop, done_block)
    b.position_at_end(done_block)
    _report(b, following, flag)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def split_rows(
    context: Any, parts: Any, source: Any, step: Any, target: Any, target_step: Any, part: Any,
    count: Any, live: Any, flag: Any,
) -> Any:  # fmt: skip
    """Cut `count` rows of up to 32 float32: the order of A tiles.

    Shapes   source row i: `live` float32 at ``source + i*step``; target: part p of row i, 32 bfloat16, at
             ``target + i*target_step + p*part``
    Assumes  source is readable even where live is 0; more than 32 count as 32
    Touches  writes 64 bytes per row and part, zeros beyond `live`; 1 at `flag` when a value is not finite
             (or rounds to Inf)
    """
    return emitted(lambda builder, cuts: _emit_rows(builder, cuts, 1), (parts,), 8)


@intrinsic(prefer_literal=True)
def split_every(
    context: Any, parts: Any, every: Any, source: Any, step: Any, target: Any, target_step: Any, part: Any,
    count: Any, live: Any, flag: Any,
) -> Any:  # fmt: skip
    """Cut `count` rows of up to 32 float32 that stand `every` (1 or 2) apart; else as `split_rows`."""
    return emitted(_emit_rows, (parts, every), 8)


def _emit_pairs(builder: Any, parts: int, step: int) -> Any:
    function, done = internal_function(builder, f"split_pairs_{parts}_{step}", 6)
    if done:
        return function
    source, plane, target, part, count, flag = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    entry, loop, end = b.block, function.append_basic_block("loop"), function.append_basic_block("end")
    done_block = function.append_basic_block("done")
    b.cbranch(b.icmp_signed(">", count, i64(0)), loop, end)
    b.position_at_end(loop)
    left, moved, bad = b.phi(I64), b.phi(I64), b.phi(MASK)
    for phi, start in ((left, count), (moved, i64(0)), (bad, ir.Constant(MASK, None))):
        phi.add_incoming(start, entry)
    mask = emit_lane_mask(b, LANES, left)
    here = b.add(source, b.mul(moved, i64(step)))
    even = _cut(b, _emit_every(b, step, here, left), parts)
    odd = _cut(b, _emit_every(b, step, b.add(here, plane), left), parts)
    for p in range(parts):
        word = b.or_(odd[p], b.lshr(even[p], _all(16)))
        place = b.add(b.add(target, moved), b.mul(part, i64(p)))
        emit_masked_store(b, "int32", word, place, mask)
    rest = b.sub(left, i64(LANES))
    following = b.or_(bad, b.or_(_infinite(b, even[0]), _infinite(b, odd[0])))
    for phi, value in ((left, rest), (moved, b.add(moved, i64(4 * LANES))), (bad, following)):
        phi.add_incoming(value, loop)
    b.cbranch(b.icmp_signed(">", rest, i64(0)), loop, done_block)
    b.position_at_end(done_block)
    _report(b, following, flag)
    b.position_at_end(end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def split_pairs(
    context: Any,
    parts: Any,
    step: Any,
    source: Any,
    plane: Any,
    target: Any,
    part: Any,
    count: Any,
    flag: Any,
) -> Any:
    """Cut two rows of `count` float32 and lay them side by side: a row of B tiles.

    Shapes   source: one row at `source`, `step` (1 or 2) from one to the next, the other `plane` bytes on;
             target: part p, `count` pairs of bfloat16, at
             ``target + p*part``
    Touches  writes 4*count bytes per part; 1 at `flag` when a value is not finite (or rounds to Inf)
    """
    return emitted(_emit_pairs, (parts, step), 6)
