"""The micro-kernel of depthwise convolution in NCHW: it walks down planes, vectors of columns stand across.

What lies beside the image in a row is masked: where a whole vector may be read, since it lies inside x, only the sums
of the few taps that can meet it are, which costs nothing. Several output channels of a group share what is loaded, and
with more than one input channel a loop over these stands inside each turn of the walk. Start reading at `_emit_plane`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.depthwise_walk_tile import Stores, Strip, Walk, emit_each, emit_walk
from fastconv.kernels.simd import (
    I32,
    SCALARS,
    close_loop,
    emit_fma,
    emit_load,
    emit_masked_load,
    emit_splat,
    emitted,
    enter_loop,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)

ARGUMENTS = (
    "x x_row x_plane low high weights y y_row y_plane residual bias first last before h g live count".split()
)  # in the order of `planes_tile`, after the constants
#: Most weights held in registers for a whole walk.
HELD_WEIGHTS = 9
#: What a tile of planes masks beside what it stores: all it reads, or what it adds up, for what it reads is inside x;
#: the last kind stores whole vectors from inside the image only.
READS, SUMS, NOTHING = 0, 1, 2


def _emit_range_mask(b: Any, lanes: int, begin: int, step: int, low: Any, high: Any) -> Any:
    """Return the mask of lanes whose element, `begin` + `step` * lane, is from `low` to `high` - 1."""
    index = ir.Constant(ir.VectorType(I32, lanes), [begin + step * lane for lane in range(lanes)])
    low, high = (emit_splat(b, b.trunc(value, I32), lanes) for value in (low, high))
    return b.and_(b.icmp_signed(">=", index, low), b.icmp_signed("<", index, high))


def _emit_broadcast(b: Any, dtype: str, at: Any, lanes: int) -> Any:
    return emit_splat(b, emit_load(b, at, SCALARS[dtype][0], item_bytes(dtype)), lanes)


class _Planes(NamedTuple):
    """Constants of one micro-kernel.

    Bit v * kw + s of `beside` says that tap column s of vector v may lie beside the image; from vector `last` on, lanes
    may be dead.
    """

    vectors: int
    outputs: int
    grouped: int
    kh: int
    kw: int
    sh: int
    sw: int
    beside: int
    last: int
    masked: int
    lanes: int
    dtype: str
    activation: str

    @property
    def name(self) -> str:
        return "planes_tile_" + "_".join(map(str, self))

    @property
    def size(self) -> int:
        return item_bytes(self.dtype)

    def pieces(self, v: int, s: int) -> tuple[int, ...]:
        """Return the elements where the loads begin that tap column s of vector v is made of."""
        begin = v * self.lanes * self.sw + s - s % self.sw
        return tuple(begin + i * self.lanes for i in range(self.sw))


class _Columns:
    """Inputs of one row under a tile: for each tap column the vectors of columns it meets."""

    def __init__(self, b: Any, tile: _Planes, arg: dict[str, Any]) -> None:
        self.tile = tile
        places = [(v, s) for v in range(tile.vectors) for s in range(tile.kw)]
        low, high = arg["low"], arg["high"]
        self.reads: dict[int, Any] = {}
        self.sums: dict[tuple[int, int], Any] = {}
        if tile.masked == READS:
            begins = {begin for place in places for begin in tile.pieces(*place)}
            self.reads = {
                begin: _emit_range_mask(b, tile.lanes, begin, 1, low, high) for begin in sorted(begins)
            }
        elif tile.masked == SUMS:
            self.sums = {
                (v, s): _emit_range_mask(b, tile.lanes, v * tile.lanes * tile.sw + s, tile.sw, low, high)
                for v, s in places
                if tile.beside >> (v * tile.kw + s) & 1
            }

    def load(self, b: Any, row: Any, v: int, s: int, loaded: dict[int, Any]) -> Any:
        """Emit the vector of tap column s; `loaded` are the loads of this row made so far."""
        tile = self.tile
        pieces = tile.pieces(v, s)
        for begin in pieces:
            if begin not in loaded:
                at = b.add(row, i64(begin * tile.size))
                loaded[begin] = (
                    emit_masked_load(b, tile.dtype, at, self.reads[begin])
                    if self.reads
                    else emit_load(b, at, vector_type(tile.dtype, tile.lanes), tile.size)
                )
        if tile.sw == 1:
            return loaded[pieces[0]]
        picked = [s % tile.sw + tile.sw * lane for lane in range(tile.lanes)]
        return b.shuffle_vector(
            loaded[pieces[0]], loaded[pieces[1]], ir.Constant(ir.VectorType(I32, tile.lanes), picked)
        )

    def multiply(self, b: Any, x: Any, factor: Any, total: Any, v: int, s: int) -> Any:
        """Emit total + x * factor, `total` where tap column s is outside the image."""
        made = emit_fma(b, self.tile.dtype, x, factor, total)
        return b.select(self.sums[v, s], made, total) if (v, s) in self.sums else made


def _emit_planes(builder: Any, tile: _Planes) -> Any:
    function, done = internal_function(builder, tile.name, len(ARGUMENTS))
    if done:
        return function
    arg = dict(zip(ARGUMENTS, function.args, strict=True))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    columns = _Columns(b, tile, arg)
    live = [
        None
        if tile.masked == NOTHING or v < tile.last
        else _emit_range_mask(b, tile.lanes, v * tile.lanes, 1, i64(0), arg["live"])
        for v in range(tile.vectors)
    ]
    tap_bytes = tile.kh * tile.kw * tile.outputs * tile.size
    y_step = b.mul(arg["y_plane"], i64(tile.outputs))
    steps = {
        "x": b.mul(arg["x_plane"], arg["g"]),
        "weights": b.mul(arg["g"], i64(tap_bytes)),
        "y": y_step,
        "bias": i64(tile.outputs * tile.size),
    }
    emit_each(b, arg, steps, y_step, lambda now: _emit_plane(b, tile, now, columns, live))
    return function


def _emit_plane(b: Any, tile: _Planes, arg: dict[str, Any], columns: _Columns, live: list[Any]) -> None:
    """Emit the walk down one plane."""
    function = b.function
    tap_bytes = tile.outputs * tile.size

    def weight(at: Any, r: int, s: int, u: int) -> Any:
        shift = (r * tile.kw + s) * tap_bytes + u * tile.size
        return _emit_broadcast(b, tile.dtype, b.add(at, i64(shift)), tile.lanes)

    taps = [(r, s, u) for r in range(tile.kh) for s in range(tile.kw) for u in range(tile.outputs)]
    hold = not tile.grouped and len(taps) <= HELD_WEIGHTS
    held = {tap: weight(arg["weights"], *tap) for tap in taps} if hold else {}

    def products(at: Any, row: Any, windows: list[tuple[int, int]], sums: list[list[Any]]) -> list[list[Any]]:
        sums = [list(window) for window in sums]
        loaded: dict[int, Any] = {}
        for s in range(tile.kw):
            inputs = [columns.load(b, row, v, s, loaded) for v in range(tile.vectors)]
            for r, age in windows:
                for u in range(tile.outputs):
                    factor = held[r, s, u] if hold else weight(at, r, s, u)
                    for v, x in enumerate(inputs):
                        i = u * tile.vectors + v
                        sums[age][i] = columns.multiply(b, x, factor, sums[age][i], v, s)
        return sums

    def add(place: Any, windows: list[tuple[int, int]], sums: list[list[Any]]) -> list[list[Any]]:
        row = b.add(arg["x"], b.mul(place, arg["x_row"]))
        if not tile.grouped:
            return products(arg["weights"], row, windows, sums)
        across = len(sums[0])
        loop, end = function.append_basic_block("inputs"), function.append_basic_block("inputs_done")
        phis = enter_loop(
            b, loop, [arg["g"], row, arg["weights"], *(value for window in sums for value in window)]
        )
        now = [list(phis[i : i + across]) for i in range(3, len(phis), across)]
        now = products(phis[2], phis[1], windows, now)
        left = b.sub(phis[0], i64(1))
        moved = [left, b.add(phis[1], arg["x_plane"]), b.add(phis[2], i64(tile.kh * tile.kw * tap_bytes))]
        following = [*moved, *(value for window in now for value in window)]
        close_loop(b, loop, phis, following, b.icmp_signed(">", left, i64(0)), end)
        return now

    stores = Stores.of(b, tile.dtype, tile.activation, arg["residual"])

    def finish(output: Any, sums: list[Any]) -> None:
        for i, value in enumerate(sums):
            u, v = divmod(i, tile.vectors)
            shift = b.add(b.mul(output, arg["y_row"]), b.mul(arg["y_plane"], i64(u)))
            stores.emit(b, value, arg["y"], b.add(shift, i64(v * tile.lanes * tile.size)), live[v])

    start = [
        _emit_broadcast(b, tile.dtype, b.add(arg["bias"], i64(u * tile.size)), tile.lanes)
        for u in range(tile.outputs)
        for _ in range(tile.vectors)
    ]
    emit_walk(b, Walk(tile.kh, tile.sh), arg, Strip(arg["h"], start, add, finish))


@intrinsic(prefer_literal=True)
def planes_tile(
    context: Any, vectors: Any, outputs: Any, grouped: Any, kh: Any, kw: Any, sh: Any, sw: Any, beside: Any,
    last_vector: Any, masked: Any, lanes: Any, dtype: Any, activation: Any, x: Any, x_row: Any, x_plane: Any,
    low: Any, high: Any, weights: Any, y: Any, y_row: Any, y_plane: Any, residual: Any, bias: Any, first: Any,
    last: Any, before: Any, h: Any, g: Any, live: Any, count: Any,
) -> Any:  # fmt: skip
    """Compute some vectors of columns of output rows `first` to `last` - 1 of some output channels of `count` groups.

    Shapes   x: where tap column 0 of output column 0 of the tile is in input row 0; elements `low` to `high` - 1 from
             there are inside the image; weights (count, g, kh, kw, outputs); y: output column 0 of the tile in row 0;
             bias (count, outputs); the planes of each group lie behind those of the one before; constants as in
             `_Planes`
    Assumes  sw is 1 or 2; g is 1 unless `grouped`; `before` rows of padding above; residual is 0 or laid out as y;
             where `masked` is not READS whole vectors may be read beside the image, where it is NOTHING they are all
             inside the image and live
    Touches  writes the first `live` columns of its rows
    Source   none
    """
    taps = (kh, kw, sh, sw, beside, last_vector)
    values = (vectors, outputs, grouped, *taps, masked, lanes, dtype, activation)

    return emitted(
        lambda builder, *literals: _emit_planes(builder, _Planes(*literals)), values, len(ARGUMENTS)
    )
