"""From the sums of Winograd's kernel points to the taps of a gradient by the kernels, in the order of the result."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.phase_tile import axis_matrix
from fastconv.kernels.simd import (
    close_loop,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_store,
    emit_prefetch,
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
    chunks = range(0, taps, lanes)
    # Vectors of taps end behind their channel: the next channel is written over that, and is as long as that.
    assert len(chunks) * lanes <= 2 * taps
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
    turned = [transposed(b, [*values[at : at + lanes], *[zero] * (at + lanes - taps)]) for at in chunks]
    after = function.append_basic_block("after")
    for channel in range(lanes):
        whole, masked = function.append_basic_block("whole"), function.append_basic_block("masked")
        # A vector's last channel may be the last of all.
        more = b.icmp_signed("<", i64(channel + 1), live)
        b.cbranch(more, whole, masked)
        b.position_at_end(masked)
        for at, rows in zip(chunks, turned, strict=True):
            mask = emit_lane_mask(b, lanes, i64(taps - at))
            emit_masked_store(b, dtype, rows[channel], b.add(there, i64((channel * taps + at) * size)), mask)
        b.branch(after)
        b.position_at_end(whole)
        for at, rows in zip(chunks, turned, strict=True):
            emit_store(b, rows[channel], b.add(there, i64((channel * taps + at) * size)), size)
    b.branch(after)
    b.position_at_end(after)
    following = [rest, b.add(here, i64(lanes * size)), b.add(there, i64(lanes * taps * size)), still_bad]
    close_loop(b, loop, [left, here, there, bad], following, b.icmp_signed(">", rest, i64(0)), end)
    found = b.bitcast(b.fcmp_unordered("uno", still_bad, still_bad), ir.IntType(lanes))
    report, finished = function.append_basic_block("report"), function.append_basic_block("finished")
    b.cbranch(b.icmp_unsigned("!=", found, ir.Constant(ir.IntType(lanes), 0)), report, finished)
    b.position_at_end(report)
    emit_store(b, i64(1), flag, 8)
    b.branch(finished)
    b.position_at_end(finished)
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
