"""Kernels that are a column times a row, on images whose channels stand side by side: vectors of a row of pixels.

Neighbours of a pixel are `channels` elements away, so a row of any number of channels is one row of numbers. Pixels of
any kind are made floats as they are loaded, sums are made pixels as they are stored. Down the columns, each row that is
loaded serves up to four output rows; along the rows, taps are loads at a distance. Vectors at the end of a row are
moved back until they end with it: nothing is masked and nothing outside is touched, some sums are made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.simd import (
    I8,
    I32,
    I64,
    SCALARS,
    close_loop,
    declare,
    emit_fma,
    emit_load,
    emit_prefetch,
    emit_splat,
    emit_store,
    emitted,
    enter_loop,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)

#: Vectors of a tile: as many sums as the latency of products hides, for four rows of them half of the registers.
VECTORS = 4
#: Bytes of a line of memory.
LINE = 64
#: Adds a row, given where its address and its weights are, to sums; of those output rows only.
AddRow = Callable[[Any, Any, list[Any], range], list[Any]]
_I16 = ir.IntType(16)
#: Kinds of pixels: LLVM's type of one, its bytes, and for integers whether they have a sign.
PIXELS: dict[str, tuple[Any, int, bool | None]] = {
    "uint8": (I8, 1, False),
    "int8": (I8, 1, True),
    "uint16": (_I16, 2, False),
    "int16": (_I16, 2, True),
    "int32": (I32, 4, True),
    "float32": (SCALARS["float32"][0], 4, None),
    "float64": (SCALARS["float64"][0], 8, None),
}
#: 1.5 * 2**23 and 1.5 * 2**52: to add them rounds to a whole number, halves to even, and leaves it in the low bits.
_ROUNDERS = {"float32": (12582912.0, I32), "float64": (6755399441055744.0, I64)}


class _Column(NamedTuple):
    """Constants of the sums down columns: output rows at once, and kinds of numbers."""

    rows: int
    lanes: int
    pixel: str
    dtype: str


class _Window(NamedTuple):
    """Constants of the sums over whole windows: as of those down columns, with the pixels that are stored."""

    rows: int
    lanes: int
    dtype: str
    pixel: str


class _Row(NamedTuple):
    """Constants of the sums along rows; of two kernels the root of the sum of squares is stored."""

    kernels: int
    lanes: int
    dtype: str
    pixel: str


def _emit_tiles(b: Any, width: Any, tile: int) -> tuple[Any, Any]:
    """Begin the loop over tiles of a row at least one tile wide; return where the tile begins, and how to go on."""
    block, end = b.function.append_basic_block("tiles"), b.function.append_basic_block("end")
    phis = enter_loop(b, block, [i64(0)])
    last = b.sub(width, i64(tile))
    at = b.select(b.icmp_signed("<", phis[0], last), phis[0], last)

    def close() -> None:
        following = b.add(phis[0], i64(tile))
        close_loop(b, block, phis, [following], b.icmp_signed("<", following, width), end)
        b.ret_void()

    return at, close


def _emit_pixels(b: Any, tile: _Column, place: Any) -> Any:
    """Load a vector of pixels and return it in the dtype to compute in."""
    scalar, size, signed = PIXELS[tile.pixel]
    loaded = emit_load(b, place, ir.VectorType(scalar, tile.lanes), size)
    if signed is not None:
        return (b.sitofp if signed else b.uitofp)(loaded, vector_type(tile.dtype, tile.lanes))
    return b.fpext(loaded, vector_type(tile.dtype, tile.lanes)) if tile.pixel != tile.dtype else loaded


def _emit_fetch(b: Any, table: Any, rows: int, shift: Any, count: int) -> None:
    """Ask for `count` bytes of each of some rows into L2: too short a piece for the hardware to see it coming."""
    for i in range(rows):
        place = b.add(emit_load(b, b.add(table, i64(8 * i)), I64, 8), shift)
        for line in range(0, count, LINE):
            emit_prefetch(b, b.add(place, i64(line)), write=False, locality=2)


def _emit_sliding(
    b: Any, rows: int, kh: Any, table: Any, weights: Any, w_row: Any, sums: list[Any], row: AddRow
) -> list[Any]:
    """Emit the sums over the rows of the table: each serves all output rows that have a tap row on it.

    The first and the last rows serve fewer output rows than those between, as in `rows_tile`.
    """
    last = rows - 1
    for p in range(last):
        sums = row(b.add(table, i64(8 * p)), weights, sums, range(p + 1))
    block, end = b.function.append_basic_block("rows"), b.function.append_basic_block("rows_done")
    phis = enter_loop(b, block, [b.sub(kh, i64(last)), b.add(table, i64(8 * last)), weights, *sums])
    left, entry, weight, now = phis[0], phis[1], phis[2], phis[3:]
    sums = row(entry, weight, now, range(rows))
    rest = b.sub(left, i64(1))
    entry, weight = b.add(entry, i64(8)), b.add(weight, w_row)
    close_loop(b, block, phis, [rest, entry, weight, *sums], b.icmp_signed(">", rest, i64(0)), end)
    for p in range(1, rows):
        sums = row(entry, weight, sums, range(p, rows))
        entry, weight = b.add(entry, i64(8)), b.add(weight, w_row)
    return sums


def _emit_column_sums(builder: Any, tile: _Column) -> Any:
    function, done = internal_function(builder, "column_sums_" + "_".join(map(str, tile)), 8)
    if done:
        return function
    table, shift, width, kh, weights, target, target_row, ahead = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    size, pixel_size = item_bytes(tile.dtype), PIXELS[tile.pixel][1]
    scalar = SCALARS[tile.dtype][0]
    zero = ir.Constant(vector_type(tile.dtype, tile.lanes), None)
    at, close = _emit_tiles(b, width, VECTORS * tile.lanes)
    column = b.add(shift, b.mul(at, i64(pixel_size)))

    def row(entry: Any, weight: Any, sums: list[Any], active: range) -> list[Any]:
        """Add one row of pixels; `weight` is the address of the weight of the last active output row."""
        place = b.add(emit_load(b, entry, I64, 8), column)
        pixels = [
            _emit_pixels(b, tile, b.add(place, i64(j * tile.lanes * pixel_size))) for j in range(VECTORS)
        ]
        sums = list(sums)
        for i in active:
            tap = emit_load(b, b.add(weight, i64((active[-1] - i) * size)), scalar, size)
            factor = emit_splat(b, tap, tile.lanes)
            for j in range(VECTORS):
                sums[i * VECTORS + j] = emit_fma(b, tile.dtype, factor, pixels[j], sums[i * VECTORS + j])
        return sums

    _emit_fetch(b, b.add(table, ahead), tile.rows, column, VECTORS * tile.lanes * pixel_size)
    sums = _emit_sliding(b, tile.rows, kh, table, weights, i64(size), [zero] * (tile.rows * VECTORS), row)
    to = b.add(target, b.mul(at, i64(size)))
    for i in range(tile.rows):
        line = b.add(to, b.mul(target_row, i64(i)))
        for j in range(VECTORS):
            emit_store(b, sums[i * VECTORS + j], b.add(line, i64(j * tile.lanes * size)), size)
    close()
    return function


@intrinsic(prefer_literal=True)
def column_sums(
    context: Any, rows: Any, lanes: Any, pixel: Any, dtype: Any,
    table: Any, shift: Any, width: Any, kh: Any, weights: Any, target: Any, target_row: Any, ahead: Any,
) -> Any:  # fmt: skip
    """Sum pixels down columns for `rows` output rows.

    Shapes   table: rows + kh - 1 addresses of rows of pixels, to each of which `shift` bytes are added; target row i at
             ``target + i*target_row``: element q is the sum over r < kh of ``weights[r] * row[i + r][q]``, q < width;
             `ahead` bytes behind the table are the addresses of `rows` rows that are fetched into L2
    Assumes  kh >= rows; width >= VECTORS * lanes
    Touches  writes `width` elements of each row of target
    Source   none
    """
    constants = (rows, lanes, pixel, dtype)

    return emitted(lambda builder, *literals: _emit_column_sums(builder, _Column(*literals)), constants, 8)


def _emit_as_pixels(b: Any, tile: _Row | _Window, value: Any) -> Any:
    """Return sums as pixels: integers rounded, halves to even, and limited to what there is."""
    kind, size, signed = PIXELS[tile.pixel]
    vector = ir.VectorType(kind, tile.lanes)
    if signed is None:
        if tile.pixel == tile.dtype:
            return value
        return (b.fptrunc if size < item_bytes(tile.dtype) else b.fpext)(value, vector)
    least, most = (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << 8 * size) - 1)
    for limit, beyond in ((least, "<"), (most, ">")):
        bound = ir.Constant(value.type, [float(limit)] * tile.lanes)
        # In this order a NaN becomes the bound.
        within = b.fcmp_ordered(">" if beyond == "<" else "<", value, bound)
        value = b.select(within, value, bound)
    rounder, bits = _ROUNDERS[tile.dtype]
    whole = b.fadd(value, ir.Constant(value.type, [rounder] * tile.lanes))
    whole = b.bitcast(whole, ir.VectorType(bits, tile.lanes))
    return b.trunc(whole, vector) if bits.width > kind.width else whole


def _emit_row_sums(builder: Any, tile: _Row) -> Any:
    function, done = internal_function(builder, "row_sums_" + "_".join(map(str, tile)), 9)
    if done:
        return function
    source, width, kw, step, weights, target, source_gap, weights_gap, ahead = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    size, pixel_size = item_bytes(tile.dtype), PIXELS[tile.pixel][1]
    vector, scalar = vector_type(tile.dtype, tile.lanes), SCALARS[tile.dtype][0]
    at, close = _emit_tiles(b, width, VECTORS * tile.lanes)
    block, end = b.function.append_basic_block("taps"), b.function.append_basic_block("taps_done")
    zeros = [ir.Constant(vector, None)] * (tile.kernels * VECTORS)
    phis = enter_loop(b, block, [kw, b.add(source, b.mul(at, i64(size))), weights, *zeros])
    left, place, weight, now = phis[0], phis[1], phis[2], phis[3:]
    sums = []
    for k in range(tile.kernels):
        line = b.add(place, b.mul(source_gap, i64(k)))
        tap = emit_load(b, b.add(weight, b.mul(weights_gap, i64(k))), scalar, size)
        factor = emit_splat(b, tap, tile.lanes)
        for j in range(VECTORS):
            held = emit_load(b, b.add(line, i64(j * tile.lanes * size)), vector, size)
            sums.append(emit_fma(b, tile.dtype, factor, held, now[k * VECTORS + j]))
    rest = b.sub(left, i64(1))
    following = [rest, b.add(place, step), b.add(weight, i64(size)), *sums]
    close_loop(b, block, phis, following, b.icmp_signed(">", rest, i64(0)), end)
    to = b.add(target, b.mul(at, i64(pixel_size)))
    # Where the caller goes on below: lines that are to be written must be fetched first.
    for line in range(0, VECTORS * tile.lanes * pixel_size, LINE):
        emit_prefetch(b, b.add(to, b.add(ahead, i64(line))), write=True, locality=2)
    for j in range(VECTORS):
        value = sums[j]
        if tile.kernels == 2:
            other = sums[VECTORS + j]
            squares = emit_fma(b, tile.dtype, value, value, b.fmul(other, other))
            root = declare(b, f"llvm.sqrt.v{tile.lanes}{SCALARS[tile.dtype][3]}", vector, [vector])
            value = b.call(root, [squares])
        place = b.add(to, i64(j * tile.lanes * pixel_size))
        emit_store(b, _emit_as_pixels(b, tile, value), place, pixel_size)
    close()
    return function


@intrinsic(prefer_literal=True)
def row_sums(
    context: Any, kernels: Any, lanes: Any, dtype: Any, pixel: Any,
    source: Any, width: Any, kw: Any, step: Any, weights: Any, target: Any, source_gap: Any, weights_gap: Any,
    ahead: Any,
) -> Any:  # fmt: skip
    """Sum along a row and store pixels; of two kernels the root of the sum of the squares of both sums.

    Shapes   element q is the sum over s < kw of ``weights[s] * source[q + s*step]``, q < width, `step` in bytes; those
             of the second kernel are `source_gap` and `weights_gap` bytes further; target: pixels; `ahead` bytes
             behind it is what will be written next
    Assumes  width >= VECTORS * lanes
    Touches  writes `width` pixels
    Source   none
    """
    constants = (kernels, lanes, dtype, pixel)

    return emitted(lambda builder, *literals: _emit_row_sums(builder, _Row(*literals)), constants, 9)


def _emit_window_sums(builder: Any, tile: _Window) -> Any:
    function, done = internal_function(builder, "window_sums_" + "_".join(map(str, tile)), 12)
    if done:
        return function
    table, shift, width, kh, kw, step, weights, target, target_row, live, ahead, below = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    size, pixel_size = item_bytes(tile.dtype), PIXELS[tile.pixel][1]
    vector, scalar = vector_type(tile.dtype, tile.lanes), SCALARS[tile.dtype][0]
    at, close = _emit_tiles(b, width, VECTORS * tile.lanes)
    column = b.add(shift, b.mul(at, i64(size)))
    w_row = b.mul(kw, i64(size))
    _emit_fetch(b, b.add(table, ahead), tile.rows, column, VECTORS * tile.lanes * size)

    def row(entry: Any, weight: Any, sums: list[Any], active: range) -> list[Any]:
        """Add one row; `weight` is the address of the weights of the last active output row."""
        place = b.add(emit_load(b, entry, I64, 8), column)
        taps, taps_done = b.function.append_basic_block("taps"), b.function.append_basic_block("taps_done")
        phis = enter_loop(b, taps, [kw, place, weight, *sums])
        left, here, tap, now = phis[0], phis[1], phis[2], phis[3:]
        held = [emit_load(b, b.add(here, i64(j * tile.lanes * size)), vector, size) for j in range(VECTORS)]
        following = list(now)
        for i in active:
            back = b.mul(w_row, i64(active[-1] - i))
            factor = emit_splat(b, emit_load(b, b.add(tap, back), scalar, size), tile.lanes)
            for j in range(VECTORS):
                cell = i * VECTORS + j
                following[cell] = emit_fma(b, tile.dtype, factor, held[j], now[cell])
        rest = b.sub(left, i64(1))
        moved = [rest, b.add(here, step), b.add(tap, i64(size)), *following]
        close_loop(b, taps, phis, moved, b.icmp_signed(">", rest, i64(0)), taps_done)
        return following

    zeros = [ir.Constant(vector, None)] * (tile.rows * VECTORS)
    sums = _emit_sliding(b, tile.rows, kh, table, weights, w_row, zeros, row)
    to = b.add(target, b.mul(at, i64(pixel_size)))
    stored = b.function.append_basic_block("stored")
    for i in range(tile.rows):
        line = b.add(to, b.mul(target_row, i64(i)))
        for place in range(0, VECTORS * tile.lanes * pixel_size, LINE):
            emit_prefetch(b, b.add(line, b.add(below, i64(place))), write=True, locality=2)
        for j in range(VECTORS):
            value = _emit_as_pixels(b, tile, sums[i * VECTORS + j])
            emit_store(b, value, b.add(line, i64(j * tile.lanes * pixel_size)), pixel_size)
        if i + 1 < tile.rows:
            more = b.function.append_basic_block("row")
            b.cbranch(b.icmp_signed("<", i64(i + 1), live), more, stored)
            b.position_at_end(more)
    b.branch(stored)
    b.position_at_end(stored)
    close()
    return function


@intrinsic(prefer_literal=True)
def window_sums(
    context: Any, rows: Any, lanes: Any, dtype: Any, pixel: Any,
    table: Any, shift: Any, width: Any, kh: Any, kw: Any, step: Any, weights: Any,
    target: Any, target_row: Any, live: Any, ahead: Any, below: Any,
) -> Any:  # fmt: skip
    """Sum over whole windows for up to `rows` output rows, and store pixels.

    Shapes   table: rows + kh - 1 addresses of rows of `dtype`, to each of which `shift` bytes are added; weights
             (kh, kw); target row i at ``target + i*target_row``: element q is the sum over r < kh, s < kw of
             ``weights[r, s] * row[i + r][q + s*step]``, q < width, `step` in bytes; `ahead` as in `column_sums`;
             `below` bytes behind the target is what will be written next
    Assumes  kh >= rows; width >= VECTORS * lanes; 1 <= live <= rows; all rows may be read, whatever live says
    Touches  writes `width` pixels of the first `live` rows of target
    Source   none
    """
    constants = (rows, lanes, dtype, pixel)

    return emitted(lambda builder, *literals: _emit_window_sums(builder, _Window(*literals)), constants, 12)


def _emit_gather(builder: Any, pixel: str) -> Any:
    function, done = internal_function(builder, f"gather_pixels_{pixel}", 6)
    if done:
        return function
    row, outside, columns, count, channels, target = function.args
    b = ir.IRBuilder(function.append_basic_block("entry"))
    kind, size, _ = PIXELS[pixel]
    block, inner = function.append_basic_block("pixels"), function.append_basic_block("channels")
    after, end = function.append_basic_block("channels_done"), function.append_basic_block("end")
    phis = enter_loop(b, block, [count, columns, target])
    left, entry, to = phis
    column = emit_load(b, entry, I64, 8)
    inside = b.icmp_signed(">=", column, i64(0))
    place = b.add(row, b.mul(column, b.mul(channels, i64(size))))
    each = enter_loop(b, inner, [channels, b.select(inside, place, outside), to])
    more = b.sub(each[0], i64(1))
    emit_store(b, emit_load(b, each[1], kind, size), each[2], size)
    moved = [more, b.add(each[1], i64(size)), b.add(each[2], i64(size))]
    close_loop(b, inner, each, moved, b.icmp_signed(">", more, i64(0)), after)
    rest = b.sub(left, i64(1))
    close_loop(b, block, phis, [rest, b.add(entry, i64(8)), moved[2]], b.icmp_signed(">", rest, i64(0)), end)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def gather_pixels(
    context: Any, pixel: Any, row: Any, outside: Any, columns: Any, count: Any, channels: Any, target: Any
) -> Any:
    """Copy pixels of one row side by side: those whose columns are listed.

    Shapes   columns (count,) int64; -1 stands for the pixel at `outside`
    Assumes  count >= 1, channels >= 1
    Touches  writes ``count * channels`` elements
    Source   none
    """
    return emitted(_emit_gather, (pixel,), 6)
