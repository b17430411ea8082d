"""Winograd's transform of the weights of a transposed convolution as they lie: turned and transformed in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.phase_tile import axis_matrix
from fastconv.kernels.simd import (
    I1,
    I32,
    SCALARS,
    close_loop,
    declare,
    emit_load,
    emit_masked_load,
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
from fastconv.kernels.winograd_tile import Linear

#: Taps beside whole vectors that are gathered; more are turned like the others.
GATHERED = 2


def _emit_gather(b: Any, dtype: str, places: Any) -> Any:
    """Return the elements at a vector of addresses."""
    lanes = places.type.count
    vector = vector_type(dtype, lanes)
    pointers, mask = ir.VectorType(SCALARS[dtype][0].as_pointer(), lanes), ir.VectorType(I1, lanes)
    name = f"llvm.masked.gather.v{lanes}{SCALARS[dtype][3]}.v{lanes}p0"
    function = declare(b, name, vector, [pointers, I32, mask, vector])
    everywhere, undefined = ir.Constant(mask, [1] * lanes), ir.Constant(vector, ir.Undefined)
    return b.call(
        function, [b.inttoptr(places, pointers), ir.Constant(I32, item_bytes(dtype)), everywhere, undefined]
    )


def _emit_turned(b: Any, dtype: str, lanes: int, taps: int, rows: list[Any], places: Any) -> list[Any]:
    """Return for each tap the vector of it of all kernels, which begin at the addresses `rows`, also in `places`."""
    size, found = item_bytes(dtype), []
    for first in range(0, taps, lanes):
        live = min(lanes, taps - first)
        if live < lanes and live <= GATHERED:
            for tap in range(first, taps):
                shift = emit_splat(b, i64(tap * size), lanes)
                found.append(_emit_gather(b, dtype, b.add(places, shift)))
            continue
        mask = ir.Constant(ir.VectorType(I1, lanes), [int(lane < live) for lane in range(lanes)])
        starts = [b.add(row, i64(first * size)) for row in rows]
        if live == lanes:
            loaded = [emit_load(b, start, vector_type(dtype, lanes), size) for start in starts]
        else:
            loaded = [emit_masked_load(b, dtype, start, mask) for start in starts]
        found += transposed(b, loaded)[:live]
    return found


def _emit_weights(builder: Any, *constants: Any) -> Any:
    m, kh, sh, top, kw, dtype, lanes = constants
    function, done = internal_function(builder, f"phase_weights_{'_'.join(map(str, constants))}", 5)
    if done:
        return function
    source, target, source_step, count, live = function.args
    down = axis_matrix("bare_kernels", m, kh, sh, top)
    taps, size = kh * kw, item_bytes(dtype)
    vector = lanes * size
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loop, end = function.append_basic_block("loop"), function.append_basic_block("end")
    # Lanes from `live` on read the last kernel that is there.
    last = b.sub(live, i64(1))
    steps = []
    places = ir.Constant(vector_type("int64", lanes), ir.Undefined)
    for lane in range(lanes):
        there = b.icmp_signed("<", i64(lane), last)
        steps.append(b.mul(b.select(there, i64(lane), last), i64(taps * size)))
        places = b.insert_element(places, steps[-1], ir.Constant(I32, lane))
    left, here, there = enter_loop(b, loop, [count, source, target])
    linear = Linear(b, dtype, lanes)
    rows = [b.add(here, step) for step in steps]
    turned = _emit_turned(b, dtype, lanes, taps, rows, b.add(places, emit_splat(b, here, lanes)))
    for j in range(kw):
        for i, value in enumerate(linear.apply(down, [turned[r * kw + j] for r in range(kh)])):
            emit_store(b, value, b.add(there, i64((i * kw + j) * vector)), size)
    rest = b.sub(left, i64(1))
    following = [rest, b.add(here, source_step), b.add(there, i64(len(down) * kw * vector))]
    close_loop(b, loop, [left, here, there], following, b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def transform_weights(
    context: Any, m: Any, kh: Any, sh: Any, top: Any, kw: Any, dtype: Any, lanes: Any,
    source: Any, target: Any, source_step: Any, count: Any, live: Any,
) -> Any:  # fmt: skip
    """Transform the columns of a vector of kernels of each of `count` input channels: "bare_kernels" of `axis_matrix`.

    Shapes   w: kernel of output channel l of input channel c, its taps side by side, at
             ``source + c*source_step + l*kh*kw*size``; target (count, kernel points of rows, kw) vectors
    Assumes  count >= 1, 1 <= live <= lanes
    Touches  reads `live` kernels of each input channel; writes whole vectors, the last kernel's in lanes from `live` on
    Source   arXiv:1509.09308
    """
    return emitted(_emit_weights, (m, kh, sh, top, kw, dtype, lanes), 5)
