"""The micro-kernel for small groups: one vector of output channels of some pixels, inputs permuted into its lanes.

With g inputs and p outputs per group, lanes / p groups stand side by side in a vector of outputs, and input j of each
group is brought into all lanes of its group by one constant shuffle of the lanes * g / p inputs these groups have.
Depthwise convolution is g = p = 1, where the shuffle is nothing at all. Pixels come by address, so that those of the
padding are one pixel of zeros and nothing is copied. Start reading at `_emit_row`.
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
    close_loop,
    emit_fma,
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
    item_bytes,
    vector_type,
)

ARGUMENTS = (
    "pointers columns shift weights kh kw sw dw y y_pixel residual live inputs outputs bias".split()
)  # in the order of `grouped_tile`, after the constants


class _Tile(NamedTuple):
    """Constants of one micro-kernel; `kw` is 0 where taps are counted at run time, `full` 0 where lanes are masked."""

    pixels: int
    kw: int
    sw: int
    g: int
    p: int
    full: int
    lanes: int
    dtype: str
    activation: str

    @property
    def name(self) -> str:
        return "grouped_tile_" + "_".join(map(str, self))

    @property
    def size(self) -> int:
        return item_bytes(self.dtype)

    @property
    def step(self) -> int:
        """Bytes of one vector of outputs, and of its weights for one input of one tap."""
        return self.lanes * self.size

    @property
    def inputs(self) -> int:
        """Inputs of the groups in one vector of outputs."""
        return self.lanes * self.g // self.p


def _emit_inputs(b: Any, tile: _Tile, arg: dict[str, Any], pointer: Any) -> list[Any]:
    """Emit the load of one pixel; return for each input of a group the vector that has it in the group's lanes."""
    at = b.add(emit_load(b, pointer, I64, 8), arg["shift"])
    if tile.full:
        loaded = emit_load(b, at, vector_type(tile.dtype, tile.inputs), tile.size)
    else:
        loaded = emit_masked_load(b, tile.dtype, at, emit_lane_mask(b, tile.inputs, arg["inputs"]))
    if tile.p == 1:
        return [loaded]
    places = [[lane // tile.p * tile.g + j for lane in range(tile.lanes)] for j in range(tile.g)]
    undefined = ir.Constant(loaded.type, ir.Undefined)
    return [
        b.shuffle_vector(loaded, undefined, ir.Constant(ir.VectorType(I32, tile.lanes), place))
        for place in places
    ]


def _emit_weights(b: Any, tile: _Tile, at: Any, count: int) -> list[Any]:
    vector = vector_type(tile.dtype, tile.lanes)
    return [emit_load(b, b.add(at, i64(i * tile.step)), vector, tile.size) for i in range(count)]


def _emit_row(b: Any, tile: _Tile, arg: dict[str, Any], pointers: Any, at: Any, sums: list[Any]) -> list[Any]:
    """Emit all taps of one kernel row: each pixel under the tile is loaded once for all taps that fall on it."""
    sums = list(sums)
    weights = _emit_weights(b, tile, at, tile.kw * tile.g)
    for q in range((tile.pixels - 1) * tile.sw + tile.kw):
        inputs = _emit_inputs(b, tile, arg, b.add(pointers, i64(8 * q)))
        for u in range(tile.pixels):
            s = q - u * tile.sw
            if 0 <= s < tile.kw:
                for j, x in enumerate(inputs):
                    sums[u] = emit_fma(b, tile.dtype, x, weights[s * tile.g + j], sums[u])
    return sums


def _emit_taps(
    b: Any, tile: _Tile, arg: dict[str, Any], pointers: Any, at: Any, sums: list[Any]
) -> list[Any]:
    """Emit the loop over the taps of one kernel row, whatever their number, stride and dilation."""
    block, end = b.function.append_basic_block("taps"), b.function.append_basic_block("taps_done")
    phis = enter_loop(b, block, [arg["kw"], pointers, at, *sums])
    left, here, place, now = phis[0], phis[1], phis[2], phis[3:]
    weights = _emit_weights(b, tile, place, tile.g)
    following = []
    for u in range(tile.pixels):
        total = now[u]
        inputs = _emit_inputs(b, tile, arg, b.add(here, b.mul(arg["sw"], i64(8 * u))))
        for x, weight in zip(inputs, weights, strict=True):
            total = emit_fma(b, tile.dtype, x, weight, total)
        following.append(total)
    rest = b.sub(left, i64(1))
    moved = [b.add(here, b.mul(arg["dw"], i64(8))), b.add(place, i64(tile.g * tile.step))]
    close_loop(b, block, phis, [rest, *moved, *following], b.icmp_signed(">", rest, i64(0)), end)
    return following


def _emit_products(b: Any, tile: _Tile, arg: dict[str, Any]) -> list[Any]:
    """Emit the loop over kernel rows; return the sums."""
    zero = ir.Constant(vector_type(tile.dtype, tile.lanes), None)
    rows, end = b.function.append_basic_block("rows"), b.function.append_basic_block("finish")
    phis = enter_loop(b, rows, [arg["kh"], arg["pointers"], arg["weights"], *[zero] * tile.pixels])
    left, pointers, at, now = phis[0], phis[1], phis[2], phis[3:]
    emit = _emit_row if tile.kw else _emit_taps
    sums = emit(b, tile, arg, pointers, at, now)
    rest = b.sub(left, i64(1))
    row_bytes = b.mul(arg["kw"], i64(tile.g * tile.step))
    moved = [b.add(pointers, b.mul(arg["columns"], i64(8))), b.add(at, row_bytes)]
    close_loop(b, rows, phis, [rest, *moved, *sums], b.icmp_signed(">", rest, i64(0)), end)
    return sums


def _emit_stores(b: Any, tile: _Tile, arg: dict[str, Any], sums: list[Any]) -> None:
    """Emit bias, residual, activation and the store of each live pixel."""
    function = b.function
    bias = emit_load(b, arg["bias"], vector_type(tile.dtype, tile.lanes), tile.size)
    mask = emit_lane_mask(b, tile.lanes, arg["outputs"])
    # As in the micro-kernel of `gemm_tile`: the empty load of an absent residual needs a good address all the same.
    has_residual = b.icmp_signed("!=", arg["residual"], i64(0))
    residual_mask = b.and_(mask, emit_splat(b, has_residual, tile.lanes))
    end = function.append_basic_block("end")
    for u in range(tile.pixels):
        shift = b.mul(arg["y_pixel"], i64(u))
        place = b.select(has_residual, b.add(arg["residual"], shift), arg["bias"])
        held = emit_masked_load(b, tile.dtype, place, residual_mask)
        value = emit_activation(b, tile.dtype, tile.activation, b.fadd(b.fadd(sums[u], bias), held))
        if tile.full:
            emit_store(b, value, b.add(arg["y"], shift), tile.size)
        else:
            emit_masked_store(b, tile.dtype, value, b.add(arg["y"], shift), mask)
        if u + 1 < tile.pixels:
            more = function.append_basic_block("pixel")
            b.cbranch(b.icmp_signed("<", i64(u + 1), arg["live"]), more, end)
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
def grouped_tile(
    context: Any, pixels: Any, tap_columns: Any, stride: Any, g: Any, p: Any, full: Any, lanes: Any, dtype: Any,
    activation: Any, pointers: Any, columns: Any, shift: Any, weights: Any, kh: Any, kw: Any, sw: Any, dw: Any,
    y: Any, y_pixel: Any, residual: Any, live: Any, inputs: Any, outputs: Any, bias: Any,
) -> Any:  # fmt: skip
    """Compute one vector of output channels of some pixels of one output row.

    Shapes   pointers (kh, columns) int64: addresses of the pixels under the tile, output u meets tap s at column
             u*sw + s*dw; weights (kh, kw, g, lanes); y pixel u at ``y + u*y_pixel``; `shift`: bytes of the vector's
             first input in a pixel; bias: lanes values
    Assumes  kw, sw are tap_columns, stride and dw is 1 where tap_columns is not 0; `inputs` and `outputs` fill the
             vectors where `full`; residual is 0 or laid out as y
    Touches  writes the first `outputs` channels of the first `live` pixels
    Source   none
    """
    values = (pixels, tap_columns, stride, g, p, full, lanes, dtype, activation)

    return emitted(lambda builder, *literals: _emit_tile(builder, _Tile(*literals)), values, len(ARGUMENTS))


#: Addresses made at a time.
WIDTH = 8


@intrinsic
def window_pointers(context: Any, target: Any, row: Any, offsets: Any, count: Any, outside: Any) -> Any:
    """Write the addresses of `count` pixels of one row: `row` plus an offset, or `outside` where that is negative.

    Assumes  offsets and target have room for a multiple of 8
    Touches  writes target
    """

    def generate(ctx: Any, builder: Any, _signature: Any, args: Any) -> Any:
        function, done = internal_function(builder, "window_pointers", 5)
        if not done:
            to, base, at, left, other = function.args
            vector = ir.VectorType(I64, WIDTH)
            b = ir.IRBuilder(function.append_basic_block("entry"))
            block, end = function.append_basic_block("loop"), function.append_basic_block("end")
            bases, others = emit_splat(b, base, WIDTH), emit_splat(b, other, WIDTH)
            phis = enter_loop(b, block, [left, to, at])
            offset = emit_load(b, phis[2], vector, 8)
            outside_lanes = b.icmp_signed("<", offset, ir.Constant(vector, None))
            emit_store(b, b.select(outside_lanes, others, b.add(offset, bases)), phis[1], 8)
            rest = b.sub(phis[0], i64(WIDTH))
            step = i64(8 * WIDTH)
            following = [rest, b.add(phis[1], step), b.add(phis[2], step)]
            close_loop(b, block, phis, following, b.icmp_signed(">", rest, i64(0)), end)
            b.ret_void()
        builder.call(function, args)
        return ctx.get_dummy_value()

    return types.void(*[types.intp] * 5), generate
