"""The micro-kernel of depthwise convolution in NHWC: it walks along rows of pixels, some rows stand across.

One vector of channels after the other; each input vector serves all rows whose windows it lies in. Rows beside the
image come by address and are a row of zeros. Start reading at `_emit_strip`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.depthwise_walk_tile import Stores, Strip, Walk, emit_each, emit_walk
from fastconv.kernels.simd import (
    I64,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emitted,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)

ARGUMENTS = (
    "rows shift x_pixel weights y y_row y_pixel residual bias first last before w live channels count".split()
)  # in the order of `strips_tile`, after the constants


class _Strips(NamedTuple):
    """Constants of one micro-kernel; `pitch` taps make a row of the weights, `full` is 0 where lanes are masked."""

    rows: int
    kh: int
    kw: int
    pitch: int
    sh: int
    sw: int
    full: int
    lanes: int
    dtype: str
    activation: str

    @property
    def name(self) -> str:
        return "strips_tile_" + "_".join(map(str, self))

    @property
    def size(self) -> int:
        return item_bytes(self.dtype)


def _emit_strips(builder: Any, tile: _Strips) -> Any:
    function, done = internal_function(builder, tile.name, len(ARGUMENTS))
    if done:
        return function
    arg = dict(zip(ARGUMENTS, function.args, strict=True))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    mask = None if tile.full else emit_lane_mask(b, tile.lanes, arg["channels"])
    step = i64(tile.lanes * tile.size)
    steps = dict.fromkeys(("shift", "y", "bias"), step) | {
        "weights": i64(tile.kh * tile.pitch * tile.lanes * tile.size)
    }
    emit_each(b, arg, steps, step, lambda now: _emit_strip(b, tile, now, mask))
    return function


def _emit_strip(b: Any, tile: _Strips, arg: dict[str, Any], mask: Any) -> None:
    """Emit the walk along the columns of some rows, for one vector of channels."""
    vector = vector_type(tile.dtype, tile.lanes)
    count = (tile.rows - 1) * tile.sh + tile.kh
    rows = [b.add(emit_load(b, b.add(arg["rows"], i64(8 * i)), I64, 8), arg["shift"]) for i in range(count)]

    def load(at: Any) -> Any:
        if mask is None:
            return emit_load(b, at, vector, tile.size)
        return emit_masked_load(b, tile.dtype, at, mask)

    def add(place: Any, windows: list[tuple[int, int]], sums: list[list[Any]]) -> list[list[Any]]:
        sums = [list(window) for window in sums]
        shift = b.mul(place, arg["x_pixel"])
        inputs: dict[int, Any] = {}
        for r in range(tile.kh):
            for row in range(r, r + tile.rows * tile.sh, tile.sh):
                inputs[row] = inputs[row] if row in inputs else load(b.add(rows[row], shift))
            for s, age in windows:
                at = b.add(arg["weights"], i64((r * tile.pitch + s) * tile.lanes * tile.size))
                factor = emit_load(b, at, vector, tile.size)
                for t in range(tile.rows):
                    sums[age][t] = emit_fma(b, tile.dtype, inputs[t * tile.sh + r], factor, sums[age][t])
        return sums

    stores = Stores.of(b, tile.dtype, tile.activation, arg["residual"])

    def finish(output: Any, sums: list[Any]) -> None:
        end = b.function.append_basic_block("stored")
        for t, value in enumerate(sums):
            shift = b.add(b.mul(output, arg["y_pixel"]), b.mul(arg["y_row"], i64(t)))
            stores.emit(b, value, arg["y"], shift, mask)
            if t + 1 < tile.rows:
                more = b.function.append_basic_block("row")
                b.cbranch(b.icmp_signed("<", i64(t + 1), arg["live"]), more, end)
                b.position_at_end(more)
        b.branch(end)
        b.position_at_end(end)

    start = [emit_load(b, arg["bias"], vector, tile.size)] * tile.rows
    emit_walk(b, Walk(tile.kw, tile.sw), arg, Strip(arg["w"], start, add, finish))


@intrinsic(prefer_literal=True)
def strips_tile(
    context: Any, tile_rows: Any, kh: Any, kw: Any, pitch: Any, sh: Any, sw: Any, full: Any, lanes: Any,
    dtype: Any, activation: Any, rows: Any, shift: Any, x_pixel: Any, weights: Any, y: Any, y_row: Any, y_pixel: Any,
    residual: Any, bias: Any, first: Any, last: Any, before: Any, w: Any, live: Any, channels: Any, count: Any,
) -> Any:  # fmt: skip
    """Compute `count` vectors of channels of output columns `first` to `last` - 1 of some output rows.

    Shapes   rows ((tile_rows - 1) * sh + kh) int64: where pixel 0 of each input row is; weights (count, kh, pitch,
             lanes); y: pixel 0 of the first output row; bias (count, lanes)
    Assumes  `channels` fill the vectors where `full`; `before` columns of padding at the left; `shift`: bytes of the
             first vector in a pixel; residual is 0 or laid out as y
    Touches  writes the first `channels` channels of its columns of the first `live` rows
    Source   none
    """
    values = (tile_rows, kh, kw, pitch, sh, sw, full, lanes, dtype, activation)

    return emitted(
        lambda builder, *literals: _emit_strips(builder, _Strips(*literals)), values, len(ARGUMENTS)
    )
