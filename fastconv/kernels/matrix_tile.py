"""Products on AMX matrix tiles: batch-reduce GEMM whose float32 operands are sums of bfloat16 parts.

A float32 has 24 significant bits and a bfloat16 has 8, so x = x0 + x1 + x2 exactly, each part rounded from what the
ones before left. Of the nine products of parts six carry everything above 2**-26 of the result, three everything above
2**-17. A matrix unit multiplies 16 x 32 by 32 x 16 bfloat16 in 16 cycles and adds in float32: measured 3.1 TFLOP/s on
a core whose vector units reach 0.24, so six products are twice as fast as float32 itself, and as exact.

Tile registers: sums 0-3, A 4-5, B 6-7. All products of one step run before the next is loaded, each sharing an operand
with its neighbour, so six products cost 14 tile loads instead of 24; the sums stay in their registers to the end.

Source: G. Henry, P. Tang & A. Heinecke, arXiv:1904.06376 (float32 from bfloat16 parts); arXiv:1906.06440 (batch-reduce
GEMM). Start reading at `_emit_products`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    I8,
    I64,
    declare,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emit_store,
    emitted,
    i64,
    internal_function,
    vector_type,
)

#: Products -> (part of A, part of B) of each, in an order in which neighbours share an operand.
PRODUCTS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0, 0),),
    3: ((1, 0), (0, 0), (0, 1)),
    6: ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0)),
}
#: Rows of a tile, bytes of a row, bytes of a tile, values of the depth in one step.
ROWS, ROW_BYTES, TILE_BYTES, DEPTH = 16, 64, 1024, 32
A_TILE, B_TILE = 4, 6
LANES = 16
MASK = ir.VectorType(ir.IntType(1), LANES)
POINTER = I8.as_pointer()


def parts(products: int) -> int:
    """Return into how many parts each operand is cut for so many products."""
    return 1 + max(part for pair in PRODUCTS[products] for part in pair)


def tile_configuration() -> npt.NDArray[np.uint8]:
    """Return the 64 bytes that shape the tile registers: all of 16 rows of 64 bytes (fewer rows take as long)."""
    palette, row_bytes_at, rows_at = 1, 16, 48
    found = np.zeros(64, np.uint8)
    found[0] = palette
    found[row_bytes_at : row_bytes_at + 16].view(np.uint16)[:] = ROW_BYTES
    found[rows_at : rows_at + 8] = ROWS
    return found


def _operate(b: Any, name: str, *operands: Any) -> None:
    b.call(declare(b, f"llvm.x86.{name}", ir.VoidType(), [value.type for value in operands]), operands)


def _register(number: int) -> Any:
    return ir.Constant(I8, number)


def _emit_step(b: Any, arg: dict[str, Any], products: int, mt: int, nt: int, table: Any) -> None:
    """Emit the loads and products of one item."""
    a_offset, b_offset = emit_load(b, table, I64, 8), emit_load(b, b.add(table, i64(8)), I64, 8)
    a = [b.add(arg[f"a{m}"], a_offset) for m in range(mt)]
    columns = [b.add(arg[f"b{n}"], b_offset) for n in range(nt)]
    held_a, held_b = -1, -1
    for part_a, part_b in PRODUCTS[products]:
        for m in range(mt if part_a != held_a else 0):
            place = b.inttoptr(b.add(a[m], b.mul(arg["a_part"], i64(part_a))), POINTER)
            _operate(b, "tileloadd64", _register(A_TILE + m), place, arg["a_row"])
        for n in range(nt if part_b != held_b else 0):
            place = b.inttoptr(b.add(columns[n], b.mul(arg["b_part"], i64(part_b))), POINTER)
            _operate(b, "tileloadd64", _register(B_TILE + n), place, arg["b_row"])
        held_a, held_b = part_a, part_b
        for m in range(mt):
            for n in range(nt):
                _operate(b, "tdpbf16ps", _register(2 * m + n), _register(A_TILE + m), _register(B_TILE + n))


ARGUMENTS = "a0 a1 a_row a_part b0 b1 b_row b_part table items sums".split()


def _emit_products(builder: Any, products: int, mt: int, nt: int) -> Any:
    function, done = internal_function(builder, f"matrix_products_{products}_{mt}x{nt}", len(ARGUMENTS))
    if done:
        return function
    arg = dict(zip(ARGUMENTS, function.args, strict=True))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    for m in range(mt):
        for n in range(nt):
            _operate(b, "tilezero", _register(2 * m + n))
    entry, loop, end = b.block, function.append_basic_block("loop"), function.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    left, table = b.phi(I64), b.phi(I64)
    left.add_incoming(arg["items"], entry)
    table.add_incoming(arg["table"], entry)
    _emit_step(b, arg, products, mt, nt, table)
    rest = b.sub(left, i64(1))
    left.add_incoming(rest, loop)
    table.add_incoming(b.add(table, i64(16)), loop)
    b.cbranch(b.icmp_signed(">", rest, i64(0)), loop, end)
    b.position_at_end(end)
    for m in range(mt):
        for n in range(nt):
            place = b.inttoptr(b.add(arg["sums"], i64(TILE_BYTES * (2 * m + n))), POINTER)
            _operate(b, "tilestored64", _register(2 * m + n), place, i64(ROW_BYTES))
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def matrix_products(
    context: Any, products: Any, mt: Any, nt: Any,
    a0: Any, a1: Any, a_row: Any, a_part: Any, b0: Any, b1: Any, b_row: Any, b_part: Any,
    table: Any, items: Any, sums: Any,
) -> Any:  # fmt: skip
    """Compute the sums of MT x NT tiles over a batch of steps of depth 32.

    Shapes   part p of tile m of A of item t: rows of 32 bfloat16 at ``a_m + table[t][0] + p*a_part + row*a_row``; of B:
             16 rows of 16 columns, each a pair of neighbours in depth, at ``b_n + table[t][1] + p*b_part + row*b_row``;
             sums: tile (m, n), 16 rows of 16 float32, at ``sums + (2*m + n) * 1024``
    Assumes  `tile_configure` was called by this thread; items >= 1; MT, NT <= 2
    Touches  writes sums
    Source   arXiv:1904.06376, arXiv:1906.06440
    """
    words = (products, mt, nt)

    return emitted(_emit_products, words, len(ARGUMENTS))


@intrinsic
def tile_configure(context: Any, configuration: Any) -> Any:
    """Shape the tile registers of this thread by the 64 bytes at `configuration`; `tile_release` must follow."""

    def generate(target: Any, builder: Any, _s: Any, args: Any) -> Any:
        _operate(builder, "ldtilecfg", builder.inttoptr(args[0], POINTER))
        return target.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def tile_release(context: Any) -> Any:
    """Empty the tile registers, so that switching threads need not save 8 KiB of them."""

    def generate(target: Any, builder: Any, _s: Any, _args: Any) -> Any:
        _operate(builder, "tilerelease")
        return target.get_dummy_value()

    return types.void(), generate


class _Finish:
    """What becomes of a vector of sums: bias, residual, activation, store; and which lanes were not finite."""

    def __init__(self, b: Any, activation: str, y: Any, residual: Any | None) -> None:
        self.b, self.activation, self.y, self.residual = b, activation, y, residual

    def store(self, sums: Any, bias: Any, offset: Any, mask: Any) -> Any:
        """Emit the store of `sums` under `mask` but for lanes that are Inf or NaN; return these.

        They are left as they are, for the residual may stand there and is needed again.
        """
        b = self.b
        difference = b.fsub(sums, sums)
        bad = b.and_(mask, b.fcmp_unordered("uno", difference, difference))
        value = b.fadd(sums, bias)
        if self.residual is not None:
            value = b.fadd(value, emit_masked_load(b, "float32", b.add(self.residual, offset), mask))
        value = emit_activation(b, "float32", self.activation, value)
        emit_masked_store(b, "float32", value, b.add(self.y, offset), b.xor(mask, bad))
        return bad


def _loop(b: Any, count: Any, carried: Any, body: Callable[[Any, Any], Any]) -> Any:
    """Emit ``for i in range(count): carried = body(i, carried)``, at least once; return `carried`."""
    function = b.function
    entry, loop, end = b.block, function.append_basic_block("row"), function.append_basic_block("rows_done")
    b.branch(loop)
    b.position_at_end(loop)
    i, value = b.phi(I64), b.phi(carried.type)
    i.add_incoming(i64(0), entry)
    value.add_incoming(carried, entry)
    after = body(i, value)
    following = b.add(i, i64(1))
    i.add_incoming(following, b.block)
    value.add_incoming(after, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, end)
    b.position_at_end(end)
    return after


def _return_noting(b: Any, bad: Any, flag: Any) -> None:
    """Emit a store of 1 at `flag` if any lane of `bad` is set, and the return."""
    function, lanes = b.function, ir.IntType(LANES)
    report, end = function.append_basic_block("report"), function.append_basic_block("return")
    b.cbranch(b.icmp_unsigned("!=", b.bitcast(bad, lanes), ir.Constant(lanes, 0)), report, end)
    b.position_at_end(report)
    emit_store(b, i64(1), flag, 8)
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()


def _with_and_without_residual(b: Any, residual: Any, emit: Callable[[Any | None], None]) -> None:
    """Emit both forms: one pass over a tile is a few hundred instructions, a third of them for the residual."""
    some, none = b.function.append_basic_block("residual"), b.function.append_basic_block("no_residual")
    b.cbranch(b.icmp_signed("!=", residual, i64(0)), some, none)
    for block, held in ((some, residual), (none, None)):
        b.position_at_end(block)
        emit(held)


def _mask(b: Any, bits: Any) -> Any:
    return b.bitcast(b.trunc(bits, ir.IntType(LANES)), MASK)


def _emit_pixels(builder: Any, activation: str) -> Any:
    function, done = internal_function(builder, f"finish_pixels_{activation}", 10)
    if done:
        return function
    sums, y, residual, bias, places, limit, step, rows, live, flag = function.args
    vector = vector_type("float32", LANES)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    biases = [emit_load(b, b.add(bias, i64(ROW_BYTES * n)), vector, 4) for n in range(2)]
    masks = [_mask(b, b.lshr(live, i64(LANES * n))) for n in range(2)]

    def emit(held: Any | None) -> None:
        finish = _Finish(b, activation, y, held)

        def row(i: Any, bad: Any) -> Any:
            place = emit_load(b, b.add(places, b.mul(i, i64(8))), I64, 8)
            before, store = b.block, function.append_basic_block("store")
            after = function.append_basic_block("after")
            b.cbranch(b.icmp_unsigned("<", place, limit), store, after)
            b.position_at_end(store)
            here, offset = b.add(sums, b.mul(i, i64(ROW_BYTES))), b.mul(place, step)
            found = bad
            for n in range(2):
                value = emit_load(b, b.add(here, i64(TILE_BYTES * n)), vector, 4)
                worse = finish.store(value, biases[n], b.add(offset, i64(ROW_BYTES * n)), masks[n])
                found = b.or_(found, worse)
            b.branch(after)
            b.position_at_end(after)
            total = b.phi(MASK)
            total.add_incoming(bad, before)
            total.add_incoming(found, store)
            return total

        _return_noting(b, _loop(b, rows, ir.Constant(MASK, None), row), flag)

    _with_and_without_residual(b, residual, emit)
    return function


@intrinsic(prefer_literal=True)
def finish_pixels(
    context: Any, activation: Any, sums: Any, y: Any, residual: Any, bias: Any,
    places: Any, limit: Any, step: Any, rows: Any, live: Any, flag: Any,
) -> Any:  # fmt: skip
    """Store two tiles of sums whose rows are pixels and whose 32 columns are output channels.

    Shapes   sums: as `matrix_products` leaves one row of tiles; row i goes to ``y + places[i]*step`` unless places[i]
             is -1 or beyond `limit`; bias 32 float32; `live`: one bit per channel
    Assumes  residual is 0 or laid out as y
    Touches  writes the live channels of its pixels but for sums that are Inf or NaN, which set 1 at `flag`
    """
    return emitted(_emit_pixels, (activation,), 10)


def _emit_planes(builder: Any, activation: str) -> Any:
    function, done = internal_function(builder, f"finish_planes_{activation}", 8)
    if done:
        return function
    sums, y, residual, bias, segments, step, rows, flag = function.args
    vector = vector_type("float32", LANES)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    count, first = emit_load(b, segments, I64, 8), b.add(segments, i64(8))
    some, nothing = function.append_basic_block("some"), function.append_basic_block("nothing")
    b.cbranch(b.icmp_signed(">", count, i64(0)), some, nothing)
    b.position_at_end(nothing)
    b.ret_void()
    b.position_at_end(some)

    def emit(held: Any | None) -> None:
        finish = _Finish(b, activation, y, held)

        def segment(j: Any, bad: Any) -> Any:
            here = b.add(first, b.mul(j, i64(16)))
            offset = emit_load(b, here, I64, 8)
            mask = _mask(b, emit_load(b, b.add(here, i64(8)), I64, 8))

            def row(i: Any, found: Any) -> Any:
                value = emit_load(b, b.add(sums, b.mul(i, i64(ROW_BYTES))), vector, 4)
                scalar = emit_load(b, b.add(bias, b.mul(i, i64(4))), ir.FloatType(), 4)
                place = b.add(offset, b.mul(i, step))
                return b.or_(found, finish.store(value, emit_splat(b, scalar, LANES), place, mask))

            return _loop(b, rows, bad, row)

        _return_noting(b, _loop(b, count, ir.Constant(MASK, None), segment), flag)

    _with_and_without_residual(b, residual, emit)
    return function


@intrinsic(prefer_literal=True)
def finish_planes(
    context: Any, activation: Any, sums: Any, y: Any, residual: Any, bias: Any,
    segments: Any, step: Any, rows: Any, flag: Any,
) -> Any:  # fmt: skip
    """Store one tile of sums whose rows are output channels and whose 16 columns are flat positions.

    Shapes   sums (16, 16); row i goes to ``y + i*step + offset`` for each segment (offset, lane mask); bias: one per
             row
    Assumes  1 <= rows <= 16; residual is 0 or laid out as y
    Touches  writes the first `rows` channels under the masks but for sums that are Inf or NaN, which set 1 at `flag`
    """
    return emitted(_emit_planes, (activation,), 8)
