"""Pixels of a few channels taken apart into planes, and put together again: NHWC images for kernels on planes.

Two shuffles of registers per vector each way; borders and tails are the callers' and masks' job.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    I32,
    close_loop,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emit_store,
    emitted,
    enter_loop,
    i64,
    internal_function,
    is_float,
    item_bytes,
    vector_type,
)


def _shuffled(b: Any, x: Any, y: Any, picks: list[int]) -> Any:
    """Return those elements of the concatenation of x and y."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(picks)), picks))


def _joined(b: Any, vectors: list[Any]) -> Any:
    """Return the concatenation of vectors of one size, filled up to a power of two of them."""
    while len(vectors) > 1:
        if len(vectors) % 2:
            vectors = [*vectors, ir.Constant(vectors[0].type, ir.Undefined)]
        size = vectors[0].type.count
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [_shuffled(b, x, y, list(range(2 * size))) for x, y in pairs]
    return vectors[0]


def _emit_split(builder: Any, channels: int, lanes: int, dtype: str) -> Any:
    function, done = internal_function(builder, f"split_pixels_{channels}_{lanes}_{dtype}", 4)
    if done:
        return function
    source, target, plane, count = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    vector, size = vector_type(dtype, lanes), item_bytes(dtype)
    loop, end = function.append_basic_block("pixels"), function.append_basic_block("end")
    phis = enter_loop(b, loop, [count, source, target])
    left, here, to = phis
    loaded = [emit_load(b, b.add(here, i64(k * lanes * size)), vector, size) for k in range(channels)]
    pixels = _joined(b, loaded)
    for c in range(channels):
        picked = _shuffled(b, pixels, pixels, list(range(c, channels * lanes, channels)))
        emit_store(b, picked, b.add(to, b.mul(plane, i64(c))), size)
    rest = b.sub(left, i64(1))
    moved = [b.add(here, i64(channels * lanes * size)), b.add(to, i64(lanes * size))]
    close_loop(b, loop, phis, [rest, *moved], b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def split_pixels(
    context: Any, channels: Any, lanes: Any, dtype: Any, source: Any, target: Any, plane: Any, count: Any
) -> Any:
    """Take ``count * lanes`` pixels that lie side by side apart into planes.

    Shapes   source: pixels of `channels` elements; target: element p of channel c at ``target + c*plane + p*size``
    Assumes  count >= 1
    Touches  writes target
    Source   none
    """
    constants = (channels, lanes, dtype)

    return emitted(_emit_split, constants, 4)


def _emit_merge(builder: Any, channels: int, lanes: int, dtype: str, activation: str) -> Any:
    function, done = internal_function(builder, f"merge_pixels_{channels}_{lanes}_{dtype}_{activation}", 5)
    if done:
        return function
    source, plane, target, residual, count = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    vector, size = vector_type(dtype, lanes), item_bytes(dtype)
    planes = _joined(
        b, [emit_load(b, b.add(source, b.mul(plane, i64(c))), vector, size) for c in range(channels)]
    )
    live = b.mul(count, i64(channels))
    # As in the micro-kernel: the empty load of an absent residual needs a good address all the same.
    has_residual = b.icmp_signed("!=", residual, i64(0))
    present = emit_splat(b, has_residual, lanes)
    for k in range(channels):
        places = range(k * lanes, (k + 1) * lanes)
        value = _shuffled(b, planes, planes, [p % channels * lanes + p // channels for p in places])
        mask = emit_lane_mask(b, lanes, b.sub(live, i64(k * lanes)))
        shift = i64(k * lanes * size)
        place = b.select(has_residual, b.add(residual, shift), source)
        held = emit_masked_load(b, dtype, place, b.and_(mask, present))
        value = b.fadd(value, held) if is_float(dtype) else b.add(value, held)
        value = emit_activation(b, dtype, activation, value)
        emit_masked_store(b, dtype, value, b.add(target, shift), mask)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def merge_pixels(
    context: Any, channels: Any, lanes: Any, dtype: Any, activation: Any,
    source: Any, plane: Any, target: Any, residual: Any, count: Any,
) -> Any:  # fmt: skip
    """Put one vector of each plane together to pixels, add the residual and apply the activation.

    Shapes   source: element p of channel c at ``source + c*plane + p*size``; target: pixels of `channels` elements
    Assumes  1 <= count <= lanes; whole vectors may be read; residual is 0 or laid out as target
    Touches  writes the first `count` pixels of target
    Source   none
    """
    constants = (channels, lanes, dtype, activation)

    return emitted(_emit_merge, constants, 5)
