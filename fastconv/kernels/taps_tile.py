"""From the sums of Winograd's kernel points to the taps of a gradient by the kernels, in the order of the result."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.phase_tile import axis_matrix
from fastconv.kernels.simd import (
    I32,
    close_loop,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_store,
    emit_prefetch,
    emit_report,
    emit_store,
    emitted,
    enter_loop,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)
from fastconv.kernels.transpose import transposed
from fastconv.kernels.winograd_tile import Linear


def _interleaved(b: Any, values: list[Any], lanes: int) -> list[Any]:
    """Return the elements of the vectors `values` one by one: the first of each, the second of each, and so on."""
    count = len(values)
    zero = ir.Constant(values[0].type, None)
    # Squares of vectors are transposed; what is left over is taken from where it is.
    squares = max(count // lanes, 1) * lanes
    turned = [
        transposed(b, (values + [zero] * lanes)[at : at + lanes])
        for at in range(0, min(squares, count), lanes)
    ]
    results = []
    for first in range(0, count * lanes, lanes):
        places = [divmod(first + j, count) for j in range(lanes)]
        found = [(turned[i // lanes][c], i % lanes) if i < squares else (values[i], c) for c, i in places]
        results.append(_gathered(b, found))
    return results


def _gathered(b: Any, elements: list[tuple[Any, int]]) -> Any:
    """Return the vector of these elements, each a vector and a lane of it."""
    lanes = len(elements)
    total, *others = {id(source): source for source, _ in elements}.values()
    lane = [at if source is total else 0 for source, at in elements]
    for other in others or [total]:
        picked = [lanes + at if source is other else lane[j] for j, (source, at) in enumerate(elements)]
        total = b.shuffle_vector(total, other, ir.Constant(ir.VectorType(I32, lanes), picked))
        lane = list(range(lanes))
    return total


def _emit_taps(builder: Any, *constants: Any) -> Any:
    *axes, dtype, lanes = constants
    function, done = internal_function(builder, f"taps_{'_'.join(map(str, constants))}", 6)
    if done:
        return function
    source, step, target, count, last, flag = function.args
    down, across = (axis_matrix("kernel_gradients", *axes[k : k + 4]) for k in (0, 4))
    high, wide, taps, size = len(down[0]), len(across[0]), len(down) * len(across), item_bytes(dtype)
    vector = vector_type(dtype, lanes)
    zero = ir.Constant(vector, None)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loop, end = function.append_basic_block("loop"), function.append_basic_block("end")
    left, here, there, bad = enter_loop(b, loop, [count, source, target, zero])
    # The lines of the next vector come from L2 while this one is computed.
    ahead = b.add(there, i64(lanes * taps * size))
    for line in range(0, lanes * taps * size, 64):
        emit_prefetch(b, b.add(ahead, i64(line)), write=True)
    linear = Linear(b, dtype, lanes)
    columns = []
    for j in range(wide):
        places = [b.add(here, b.mul(step, i64(i * wide + j))) for i in range(high)]
        columns.append(linear.apply(down, [emit_load(b, place, vector, size) for place in places]))
    values = [
        value for i in range(len(down)) for value in linear.apply(across, [column[i] for column in columns])
    ]
    still_bad = bad
    for value in values:
        still_bad = emit_fma(b, dtype, value, zero, still_bad)
    rest = b.sub(left, i64(1))
    live = b.select(b.icmp_signed(">", rest, i64(0)), i64(lanes), last)
    vectors = _interleaved(b, values, lanes)
    whole, edge = function.append_basic_block("whole"), function.append_basic_block("edge")
    after = function.append_basic_block("after")
    b.cbranch(b.icmp_signed("==", live, i64(lanes)), whole, edge)
    b.position_at_end(whole)
    for k, value in enumerate(vectors):
        emit_store(b, value, b.add(there, i64(k * lanes * size)), size)
    b.branch(after)
    b.position_at_end(edge)
    stored = b.mul(live, i64(taps))
    for k, value in enumerate(vectors):
        mask = emit_lane_mask(b, lanes, b.sub(stored, i64(k * lanes)))
        emit_masked_store(b, dtype, value, b.add(there, i64(k * lanes * size)), mask)
    b.branch(after)
    b.position_at_end(after)
    following = [rest, b.add(here, i64(lanes * size)), b.add(there, i64(lanes * taps * size)), still_bad]
    close_loop(b, loop, [left, here, there, bad], following, b.icmp_signed(">", rest, i64(0)), end)
    emit_report(b, still_bad, flag)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def store_taps(
    context: Any,
    mh: Any, kh: Any, sh: Any, top: Any, mw: Any, kw: Any, sw: Any, left: Any, dtype: Any, lanes: Any,
    source: Any, step: Any, target: Any, count: Any, last: Any, flag: Any,
) -> Any:  # fmt: skip
    """Transform the sums of `count` vectors of channels to taps, and store them channel by channel.

    Shapes   sums of kernel point u, vector v at ``source + u*step + v*lanes*size``; target (channels, kh, kw) without
             gaps, all vectors whole but the last, of which `last` channels are stored; strides in bytes
    Assumes  count >= 1, 1 <= last <= lanes; the taps of two channels fill their vectors
    Touches  writes target, and 1 at `flag` when a result is not finite
    Source   arXiv:1509.09308
    """
    words = (mh, kh, sh, top, mw, kw, sw, left, dtype, lanes)
    return emitted(_emit_taps, words, 6)
