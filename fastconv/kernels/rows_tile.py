"""The micro-kernel for few channels: some rows and some vectors of columns of one output channel.

Columns of the image lie in the lanes. A vector of an input row, loaded once for each column of taps, serves every
output row that has a tap on it: with 4 output rows and 4 vectors 8 loads feed 16 products, where one output row
alone would need a load for each. Input row p meets output row i by tap row ``p - i``, so the first and the last rows of
the window serve fewer output rows; they are loops of their own, and no product is computed for nothing.

Kernels of constant size are written out as straight code, others are loops over runtime sizes. Start reading at
`_emit_window`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.epilogue import emit_activation
from fastconv.kernels.simd import (
    I32,
    I64,
    SCALARS,
    close_loop,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_masked_store,
    emit_splat,
    emitted,
    enter_loop,
    i64,
    internal_function,
    is_float,
    item_bytes,
    vector_type,
)

#: int64 words of one item: byte offsets of its image and its weights, tap rows, tap columns.
ITEM_WORDS = 4

ARGUMENTS = "x x_row x_step table items weights w_row w_step y y_row residual mr live bias stream".split()


class _Tile(NamedTuple):
    """Constants of one micro-kernel; `kh` and `kw` are 0 where the tap rows or columns are counted at run time."""

    rows: int
    nv: int
    kh: int
    kw: int
    lanes: int
    dtype: str
    activation: str

    @property
    def name(self) -> str:
        return "rows_tile_" + "_".join(map(str, self))

    @property
    def size(self) -> int:
        return item_bytes(self.dtype)


def _emit_taps(
    b: Any, tile: _Tile, place: Any, weights: list[Any], sums: list[Any], active: range
) -> list[Any]:
    """Emit one column of taps on one input row: `weights` are the addresses of those of the `active` output rows."""
    scalar = SCALARS[tile.dtype][0]
    vector = vector_type(tile.dtype, tile.lanes)
    step = tile.lanes * tile.size
    columns = [emit_load(b, b.add(place, i64(step * j)), vector, tile.size) for j in range(tile.nv)]
    sums = list(sums)
    for i, at in zip(active, weights, strict=True):
        weight = emit_splat(b, emit_load(b, at, scalar, tile.size), tile.lanes)
        for j in range(tile.nv):
            cell = i * tile.nv + j
            sums[cell] = emit_fma(b, tile.dtype, weight, columns[j], sums[cell])
    return sums


def _emit_row(
    b: Any, tile: _Tile, arg: dict[str, Any], x: Any, w: Any, sums: list[Any], active: range
) -> list[Any]:
    """Emit all columns of taps on the input row at `x`; `w` is the weight row of the last of the `active` rows."""
    if tile.kw:
        for s in range(tile.kw):
            rows = [b.add(w, i64(((active[-1] - i) * tile.kw + s) * tile.size)) for i in active]
            sums = _emit_taps(b, tile, b.add(x, i64(s * tile.size)), rows, sums, active)
        return sums
    block, end = b.function.append_basic_block("taps"), b.function.append_basic_block("taps_done")
    phis = enter_loop(b, block, [arg["kw"], x, w, *sums])
    left, place, weight, now = phis[0], phis[1], phis[2], phis[3:]
    rows = [b.add(weight, b.mul(arg["w_row"], i64(active[-1] - i))) for i in active]
    following = _emit_taps(b, tile, place, rows, now, active)
    rest = b.sub(left, i64(1))
    moved = [b.add(place, arg["x_step"]), b.add(weight, arg["w_step"])]
    close_loop(b, block, phis, [rest, *moved, *following], b.icmp_signed(">", rest, i64(0)), end)
    return following


def _emit_window(b: Any, tile: _Tile, arg: dict[str, Any], x: Any, w: Any, sums: list[Any]) -> list[Any]:
    """Emit the products of one item: all input rows under the tile."""
    step = i64(tile.kw * tile.size) if tile.kw else arg["w_row"]
    arg = {**arg, "w_row": step}
    if tile.kh:
        place = x
        for p in range(tile.kh + tile.rows - 1):
            active = range(max(0, p - tile.kh + 1), min(tile.rows - 1, p) + 1)
            row = b.add(w, b.mul(step, i64(p - active[-1])))
            sums = _emit_row(b, tile, arg, place, row, sums, active)
            place = b.add(place, arg["x_row"])
        return sums
    last = tile.rows - 1
    for p in range(last):
        sums = _emit_row(b, tile, arg, x, w, sums, range(p + 1))
        x = b.add(x, arg["x_row"])
    block, end = b.function.append_basic_block("rows"), b.function.append_basic_block("rows_done")
    phis = enter_loop(b, block, [b.sub(arg["kh"], i64(last)), x, w, *sums])
    left, place, weight, now = phis[0], phis[1], phis[2], phis[3:]
    sums = _emit_row(b, tile, arg, place, weight, now, range(tile.rows))
    rest = b.sub(left, i64(1))
    x, w = b.add(place, arg["x_row"]), b.add(weight, step)
    close_loop(b, block, phis, [rest, x, w, *sums], b.icmp_signed(">", rest, i64(0)), end)
    for p in range(1, tile.rows):
        # The last row of the tile goes on downwards, one tap row further each time.
        sums = _emit_row(b, tile, arg, x, w, sums, range(p, tile.rows))
        x, w = b.add(x, arg["x_row"]), b.add(w, step)
    return sums


def _emit_products(b: Any, tile: _Tile, arg: dict[str, Any]) -> list[Any]:
    """Emit the loop over items; return the sums."""
    zero = ir.Constant(vector_type(tile.dtype, tile.lanes), None)
    items, end = b.function.append_basic_block("items"), b.function.append_basic_block("finish")
    phis = enter_loop(b, items, [arg["items"], arg["table"], *[zero] * (tile.rows * tile.nv)])
    left, item, now = phis[0], phis[1], phis[2:]
    x_shift, w_shift, kh, kw = (emit_load(b, b.add(item, i64(8 * i)), I64, 8) for i in range(ITEM_WORDS))
    x, w = b.add(arg["x"], x_shift), b.add(arg["weights"], w_shift)
    sums = _emit_window(b, tile, {**arg, "kh": kh, "kw": kw}, x, w, now)
    rest = b.sub(left, i64(1))
    following = b.add(item, i64(8 * ITEM_WORDS))
    close_loop(b, items, phis, [rest, following, *sums], b.icmp_signed(">", rest, i64(0)), end)
    return sums


def _emit_stores(b: Any, tile: _Tile, arg: dict[str, Any], sums: list[Any]) -> None:
    """Emit bias, residual, activation and the stores, row by row."""
    function, step = b.function, tile.lanes * tile.size
    scalar = SCALARS[tile.dtype][0]
    add = b.fadd if is_float(tile.dtype) else b.add
    bias = emit_splat(b, emit_load(b, arg["bias"], scalar, tile.size), tile.lanes)
    masks = [emit_lane_mask(b, tile.lanes, b.sub(arg["live"], i64(j * tile.lanes))) for j in range(tile.nv)]
    has_residual = b.icmp_signed("!=", arg["residual"], i64(0))
    streams = b.icmp_signed("!=", arg["stream"], i64(0))
    end = function.append_basic_block("end")
    for i in range(tile.rows):
        row = b.mul(arg["y_row"], i64(i))
        biased = [add(sums[i * tile.nv + j], bias) for j in range(tile.nv)]
        before = b.block
        more, joined = function.append_basic_block("residual"), function.append_basic_block("joined")
        b.cbranch(has_residual, more, joined)
        b.position_at_end(more)
        place = b.add(arg["residual"], row)
        added = []
        for j, mask in enumerate(masks):
            held = emit_masked_load(b, tile.dtype, b.add(place, i64(j * step)), mask)
            added.append(add(biased[j], held))
        b.branch(joined)
        b.position_at_end(joined)
        totals = [b.phi(bias.type) for _ in biased]
        for total, without, with_residual in zip(totals, biased, added, strict=True):
            total.add_incoming(without, before)
            total.add_incoming(with_residual, more)
        values = [
            (
                emit_activation(b, tile.dtype, tile.activation, total),
                b.add(b.add(arg["y"], row), i64(j * step)),
            )
            for j, total in enumerate(totals)
        ]
        past, kept, after = (function.append_basic_block(name) for name in ("past", "kept", "row_done"))
        b.cbranch(streams, past, kept)
        b.position_at_end(past)
        for value, to in values:
            pointer = b.inttoptr(to, value.type.as_pointer())
            stored = b.store(value, pointer, align=step)
            stored.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))
        b.branch(after)
        b.position_at_end(kept)
        for (value, to), mask in zip(values, masks, strict=True):
            emit_masked_store(b, tile.dtype, value, to, mask)
        b.branch(after)
        b.position_at_end(after)
        if i + 1 < tile.rows:
            more = function.append_basic_block("row")
            b.cbranch(b.icmp_signed("<", i64(i + 1), arg["mr"]), more, end)
            b.position_at_end(more)
    b.branch(end)
    b.position_at_end(end)
    b.ret_void()


def _emit_tile(builder: Any, tile: _Tile) -> Any:
    function, done = internal_function(builder, tile.name, len(ARGUMENTS))
    if done:
        return function
    arg = dict(zip(ARGUMENTS, function.args, strict=True))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    _emit_stores(b, tile, arg, _emit_products(b, tile, arg))
    return function


@intrinsic(prefer_literal=True)
def rows_tile(
    context: Any,
    tile_rows: Any,
    tile_vectors: Any,
    tap_rows: Any,
    tap_columns: Any,
    lanes: Any,
    dtype: Any,
    activation: Any,
    x: Any,
    x_row: Any,
    x_step: Any,
    table: Any,
    items: Any,
    weights: Any,
    w_row: Any,
    w_step: Any,
    y: Any,
    y_row: Any,
    residual: Any,
    mr: Any,
    live: Any,
    bias: Any,
    stream: Any,
) -> Any:
    """Compute one tile of outputs: tile_rows rows of tile_vectors vectors of columns, of one output channel.

    Shapes   item (x offset, w offset, kh, kw): output (i, q) += w[r, s] * x[i + r, q + s] for r < kh, s < kw, where
             w[r, s] is at ``weights + w offset + r*w_row + s*w_step`` and x[p, q + s] at
             ``x + x offset + p*x_row + s*x_step + q*size``; y row i at ``y + i*y_row``; `bias` one value
    Assumes  items >= 1; kh and kw are tap_rows and tap_columns where these are not 0, and kh >= tile_rows where
             tap_rows is 0; steps are those of dense weights and pixels where tap_columns is not 0; all rows of the
             tile and its whole vectors may be read, whatever mr and live say; residual is 0 or laid out as y;
             `stream` is 0, or live columns fill the tile and each of its vectors in y is aligned to its size
    Touches  writes the first `live` columns of the first `mr` rows; past the caches where `stream` is not 0
    Source   none; register tile as in `gemm_tile`, with rows of the image in place of output channels
    """
    values = (tile_rows, tile_vectors, tap_rows, tap_columns, lanes, dtype, activation)

    return emitted(lambda builder, *literals: _emit_tile(builder, _Tile(*literals)), values, len(ARGUMENTS))


@intrinsic
def stores_done(context: Any) -> Any:
    """Make stores past the caches visible to other threads before anything that is stored later."""

    def generate(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return target.get_dummy_value()

    return types.void(), generate
