"""The micro-kernel of depthwise and small groups in NHWC: sums slide along rows of pixels, groups side by side.

Groups have as many inputs as outputs, g, a power of two (1 is depthwise), so that a vector of inputs holds the inputs
of exactly those groups whose outputs a vector of sums holds. Output o of a group meets input o ^ k in turn k: one
shuffle of constant pattern within each group, none for k = 0, and each shuffle serves all taps of a kernel that meet
the input.

Some output rows stand across the walk. By the definition each of them has a sum of its own; by Winograd's F(m, kh) down
the columns their m + kh - 1 input rows become as many points, which are multiplied instead: 6 products for 4 rows of a
3x3 kernel in place of 12. Along the row nothing is transformed.

A strip is walked once for each vector of channels, which jumps through memory. Where the image is beyond L2 the walk
asks for the next strip meanwhile, line after line in the order of memory, for only then does the machine fetch further
ahead by itself: 180 us become 149 with 128 channels at 56x56. In the order of the walk the same prefetches gain 3 %.
Start reading at `_emit_strip`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.depthwise_walk_tile import Stores, Strip, Walk, emit_each, emit_walk
from fastconv.kernels.simd import (
    I32,
    I64,
    emit_fma,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_prefetch,
    emit_store,
    emitted,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)
from fastconv.kernels.winograd_matrices import transforms
from fastconv.kernels.winograd_tile import Linear

ARGUMENTS = tuple(
    "rows shift pixel weights y y_rows residual bias flag x_ahead y_ahead ow before w live channels count".split()
)  # in the order of `strips_tile`, after the constants
#: Bytes of a cache line.
LINE = 64
#: Most input rows whose addresses are held during a walk. LLVM keeps one for each row and phase of the columns, and
#: where no register is left moves up to 75 of them on in memory each turn (7 rows, stride 2): more are read anew.
MOST_HELD = 8


class _Strips(NamedTuple):
    """Constants of one micro-kernel.

    `pitch` taps make a row of the weights; `points` is 1 for Winograd, `far` 1 beyond L2, `full` 0 where lanes are
    masked.
    """

    rows: int
    kh: int
    kw: int
    pitch: int
    sh: int
    sw: int
    group: int
    points: int
    far: int
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

    @property
    def step(self) -> int:
        """Bytes of one vector."""
        return self.lanes * self.size

    @property
    def lines(self) -> int:
        """Input rows under a strip."""
        return (self.rows - 1) * self.sh + self.kh

    @property
    def heights(self) -> int:
        """Rows of the packed weights: those of the kernel, or its points."""
        return self.lines if self.points else self.kh


def _emit_strips(builder: Any, tile: _Strips) -> Any:
    function, done = internal_function(builder, tile.name, len(ARGUMENTS))
    if done:
        return function
    arg = dict(zip(ARGUMENTS, function.args, strict=True))
    b = ir.IRBuilder(function.append_basic_block("entry"))
    mask = None if tile.full else emit_lane_mask(b, tile.lanes, arg["channels"])
    step = i64(tile.step)
    # What a walk asks for follows what the walk before asked for.
    steps = dict.fromkeys(("shift", "y", "bias"), step) | {
        "weights": i64(tile.heights * tile.pitch * tile.group * tile.step),
        "x_ahead": b.mul(arg["ow"], i64(tile.rows * tile.sh * tile.sw * LINE)),
        "y_ahead": b.mul(arg["ow"], i64(tile.rows * LINE)),
    }
    emit_each(b, arg, steps, step, lambda now: _emit_strip(b, tile, now, mask))
    return function


def _emit_partner(b: Any, tile: _Strips, value: Any, k: int) -> Any:
    """Return the vector whose lane l is lane l ^ k of `value`."""
    if k == 0:
        return value
    places = ir.Constant(ir.VectorType(I32, tile.lanes), [lane ^ k for lane in range(tile.lanes)])
    return b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places)


def _emit_ahead(b: Any, base: Any, place: Any, lines: int, *, write: bool) -> None:
    """Emit the request for the next `lines` lines from `base` on, after those of the places before."""
    at = b.add(base, b.mul(place, i64(lines * LINE)))
    for line in range(lines):
        emit_prefetch(b, b.add(at, i64(line * LINE)), write=write, locality=2)


def _emit_strip(b: Any, tile: _Strips, arg: dict[str, Any], mask: Any) -> None:
    """Emit the walk along the columns of some rows, for one vector of channels."""
    vector = vector_type(tile.dtype, tile.lanes)

    def pointer(table: str, i: int) -> Any:
        return emit_load(b, b.add(arg[table], i64(8 * i)), I64, 8)

    counts = {"rows": tile.lines, "y_rows": tile.rows}
    held = {table: [pointer(table, i) for i in range(count)] for table, count in counts.items()}

    def row(table: str, i: int, shift: Any) -> Any:
        return b.add(held[table][i] if tile.lines <= MOST_HELD else pointer(table, i), shift)

    linear = Linear(b, tile.dtype, tile.lanes)
    back, _, into = transforms(tile.rows, tile.kh) if tile.points else ((), (), ())

    def load(at: Any) -> Any:
        if mask is None:
            return emit_load(b, at, vector, tile.size)
        return emit_masked_load(b, tile.dtype, at, mask)

    def weight(r: int, s: int, k: int) -> Any:
        at = b.add(arg["weights"], i64(((r * tile.pitch + s) * tile.group + k) * tile.step))
        return emit_load(b, at, vector, tile.size)

    def add(place: Any, windows: list[tuple[int, int]], sums: list[list[Any]]) -> list[list[Any]]:
        sums = [list(window) for window in sums]
        shift = b.add(b.mul(place, arg["pixel"]), arg["shift"])
        inputs = [load(row("rows", i, shift)) for i in range(tile.lines)]
        if tile.far:
            _emit_ahead(b, arg["x_ahead"], b.add(place, arg["before"]), tile.rows * tile.sh, write=False)
        multiply = _products_of_points if tile.points else _products_of_rows
        if tile.points:
            inputs = linear.apply(into, inputs)
        multiply(b, tile, inputs, weight, windows, sums)
        return sums

    stores = Stores.of(b, tile.dtype, tile.activation, arg["residual"])

    def finish(output: Any, sums: list[Any]) -> None:
        if tile.points:
            sums = linear.apply(back, sums)
            _emit_check(b, tile, sums, arg["flag"])
        if tile.far:
            _emit_ahead(b, arg["y_ahead"], output, tile.rows, write=True)
        end = b.function.append_basic_block("stored")
        place = b.sub(b.add(b.mul(output, arg["pixel"]), arg["shift"]), arg["y"])
        for t, value in enumerate(sums):
            stores.emit(b, value, arg["y"], row("y_rows", t, place), mask)
            if t + 1 < tile.rows:
                more = b.function.append_basic_block("row")
                b.cbranch(b.icmp_signed("<", i64(t + 1), arg["live"]), more, end)
                b.position_at_end(more)
        b.branch(end)
        b.position_at_end(end)

    bias = emit_load(b, arg["bias"], vector, tile.size)
    start = [bias] * tile.rows
    if tile.points:
        start = [
            b.fmul(bias, ir.Constant(vector, [float(share)] * tile.lanes))
            if share
            else ir.Constant(vector, None)
            for share in shares_of_one(back)
        ]
    whole = arg | {"first": i64(0), "last": arg["ow"]}
    emit_walk(b, Walk(tile.kw, tile.sw), whole, Strip(arg["w"], start, add, finish))


def _products_of_rows(
    b: Any,
    tile: _Strips,
    inputs: list[Any],
    weight: Callable[[int, int, int], Any],
    windows: list[tuple[int, int]],
    sums: list[list[Any]],
) -> None:
    """Emit all products of the inputs of one column with the kernel's rows."""
    for k in range(tile.group):
        partners = [_emit_partner(b, tile, value, k) for value in inputs]
        for r in range(tile.kh):
            for s, age in windows:
                factor = weight(r, s, k)
                for t in range(tile.rows):
                    sums[age][t] = emit_fma(b, tile.dtype, partners[t * tile.sh + r], factor, sums[age][t])


def _products_of_points(
    b: Any,
    tile: _Strips,
    inputs: list[Any],
    weight: Callable[[int, int, int], Any],
    windows: list[tuple[int, int]],
    sums: list[list[Any]],
) -> None:
    """Emit all products of the points of one column with those of the kernel."""
    for k in range(tile.group):
        for p, value in enumerate(inputs):
            partner = _emit_partner(b, tile, value, k)
            for s, age in windows:
                sums[age][p] = emit_fma(b, tile.dtype, partner, weight(p, s, k), sums[age][p])


def _emit_check(b: Any, tile: _Strips, outputs: list[Any], flag: Any) -> None:
    """Emit the note at `flag` of results that are not finite.

    The first row of B^T has the even rows of the image and the last one the odd ones; A^T brings the first point into
    the first output only and the last one into the last output, and all the others into both. So Inf or NaN anywhere
    shows in one of the two.
    """
    noted = emit_load(b, flag, outputs[0].type, tile.size)
    zero = ir.Constant(outputs[0].type, None)
    for value in {0: outputs[0], -1: outputs[-1]}.values():
        noted = emit_fma(b, tile.dtype, value, zero, noted)
    emit_store(b, noted, flag, tile.size)


def shares_of_one(back: tuple[tuple[Fraction, ...], ...]) -> list[Fraction]:
    """Return e with A^T e = (1, ..., 1): sums of points that begin with e times the bias end with the bias."""
    count = len(back)
    # The last points but infinity, as many as there are outputs: their columns of A^T are those of Vandermonde.
    chosen = range(len(back[0]) - 1 - count, len(back[0]) - 1)
    rows = [[*(row[p] for p in chosen), Fraction(1)] for row in back]
    for i in range(count):
        pivot = next(j for j in range(i, count) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(count):
            if j != i:
                rows[j] = [a - rows[j][i] * c for a, c in zip(rows[j], rows[i], strict=True)]
    shares = [Fraction(0)] * len(back[0])
    for p, row in zip(chosen, rows, strict=True):
        shares[p] = row[-1]
    return shares


@intrinsic(prefer_literal=True)
def strips_tile(
    context: Any, tile_rows: Any, kh: Any, kw: Any, pitch: Any, sh: Any, sw: Any, group: Any, points: Any, far: Any,
    full: Any, lanes: Any, dtype: Any, activation: Any, rows: Any, shift: Any, pixel: Any, weights: Any, y: Any,
    y_rows: Any, residual: Any, bias: Any, flag: Any, x_ahead: Any, y_ahead: Any, ow: Any, before: Any, w: Any,
    live: Any, channels: Any, count: Any,
) -> Any:  # fmt: skip
    """Compute `count` vectors of channels of some output rows.

    Shapes   rows ((tile_rows - 1) * sh + kh) int64: where pixel 0 of each input row is; weights (count, kh, pitch,
             group, lanes), turn k of lane l being input l ^ k, with `points` tile_rows + kh - 1 of these in place of
             kh; y: pixel 0 of the first output row; y_rows (tile_rows) int64: of each, without `shift`; bias (count,
             lanes); flag: one vector; x_ahead, y_ahead: where the image and the result go on behind the strip
    Assumes  group divides lanes and is a power of two; sh is 1 with `points`; `channels` fill the vectors where `full`;
             `before` columns of padding at the left; `shift`: bytes of the first vector in a pixel; residual is 0 or
             laid out as y
    Touches  writes the first `channels` channels of the first `live` rows; with `points` NaN at `flag` when a result
             is not finite
    Source   with `points` arXiv:1509.09308, in one dimension
    """
    values = (tile_rows, kh, kw, pitch, sh, sw, group, points, far, full, lanes, dtype, activation)

    return emitted(
        lambda builder, *literals: _emit_strips(builder, _Strips(*literals)), values, len(ARGUMENTS)
    )
