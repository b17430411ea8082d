"""Products of a transposed convolution's points with its weights, whose rows are transformed between the products."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.phase_tile import axis_matrix
from fastconv.kernels.simd import (
    SCALARS,
    close_loop,
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
from fastconv.kernels.winograd_matrices import phase_matrices
from fastconv.kernels.winograd_tile import Linear

#: Bytes of a cache line.
LINE = 64


class Group(NamedTuple):
    """Sums that are held in registers together: of a row of kernel points some columns, with rows of V for each.

    Attributes
    ----------
    row : int
    columns : tuple of (column, rows of V)
        One after the other from row `first` of V on.
    first : int
    """

    row: int
    columns: tuple[tuple[int, int], ...]
    first: int

    @property
    def total(self) -> int:
        """Rows of V, and sums."""
        return sum(rows for _, rows in self.columns)


def groups(down: tuple[int, ...], across: tuple[int, ...], tiles: int, most: int) -> list[Group]:
    """Return the groups of at most `most` rows each, in the order of V: by kernel point, then point, then tile.

    `down` and `across` say how many points share each kernel point of an axis.
    """
    found: list[Group] = []
    first = 0
    for i, high in enumerate(down):
        open_columns: list[tuple[int, int]] = []
        for j, wide in enumerate(across):
            rows = high * wide * tiles
            pieces = -(-rows // most)
            for piece in range(pieces):
                size = rows * (piece + 1) // pieces - rows * piece // pieces
                if open_columns and sum(count for _, count in open_columns) + size > most:
                    found.append(Group(i, tuple(open_columns), first))
                    first += found[-1].total
                    open_columns = []
                open_columns.append((j, size))
        found.append(Group(i, tuple(open_columns), first))
        first += found[-1].total
    return found


def sharing(m: int, taps: int, stride: int, pad: int) -> tuple[int, ...]:
    """Return how many points share each kernel point of an axis."""
    matrices = phase_matrices(m, taps, stride, pad)
    return tuple(matrices.shared.count(point) for point in range(len(matrices.kernels)))


def _emit_points(builder: Any, *constants: Any) -> Any:
    m, kh, sh, top, kw, sw, left, tiles, most, deep, lanes, dtype = constants
    function, done = internal_function(builder, f"multiply_points_{'_'.join(map(str, constants))}", 6)
    if done:
        return function
    v, half, sums, count, kernels, following_step = function.args
    size, kind = item_bytes(dtype), vector_type(dtype, lanes)
    vector = lanes * size
    matrix = axis_matrix("bare_kernels", m, kw, sw, left)
    down, across = sharing(m, kh, sh, top), sharing(m, kw, sw, left)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    parts = groups(down, across, tiles, most)
    # Kernels begin anywhere in a line.
    lines = -(-kh * kw * vector // LINE) + 1
    for number, group in enumerate(parts):
        loop, end = function.append_basic_block("steps"), function.append_basic_block("stored")
        at = [b.add(sums, i64((group.first + r) * vector)) for r in range(group.total)]
        start = [emit_load(b, place, kind, size) for place in at]
        # The rows of the next group come into L1 meanwhile; behind the last one, those of the next input channels.
        behind = b.add(v, i64((group.first + group.total) * deep * size))
        shares = -(-parts[(number + 1) % len(parts)].total * deep * size // LINE // deep)
        phis = enter_loop(b, loop, [count, v, half, behind, kernels, *start])
        left_over, a, d, ahead, fetched, *totals = phis
        for line in range(number, lines, len(parts)):
            emit_prefetch(b, b.add(fetched, i64(LINE * line)), write=False)
        for share in range(shares):
            emit_prefetch(b, b.add(ahead, i64(LINE * share)), write=False)
        columns = [emit_load(b, b.add(d, i64((group.row * kw + s) * vector)), kind, size) for s in range(kw)]
        weights = Linear(b, dtype, lanes).apply(matrix, columns)
        following, row = [], 0
        for column, rows in group.columns:
            for _ in range(rows):
                place = b.add(a, i64((group.first + row) * deep * size))
                value = emit_splat(b, emit_load(b, place, SCALARS[dtype][0], size), lanes)
                following.append(emit_fma(b, dtype, value, weights[column], totals[row]))
                row += 1
        rest = b.sub(left_over, i64(1))
        moved = [
            rest, b.add(a, i64(size)), b.add(d, i64(len(down) * kw * vector)), b.add(ahead, i64(LINE * shares)),
            b.add(fetched, following_step),
        ]  # fmt: skip
        close_loop(b, loop, phis, [*moved, *following], b.icmp_signed(">", rest, i64(0)), end)
        for place, total in zip(at, following, strict=True):
            emit_store(b, total, place, size)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def multiply_points(
    context: Any, m: Any, kh: Any, sh: Any, top: Any, kw: Any, sw: Any, left: Any, tiles: Any, most: Any, deep: Any,
    lanes: Any, dtype: Any, v: Any, half: Any, sums: Any, count: Any, following: Any, following_step: Any,
) -> Any:  # fmt: skip
    """Add to the sums of every point of `tiles` tiles its products with the weights of `count` input channels.

    At most `most` sums are held in registers at a time. The weights of their points are made of a row of kernel points,
    beside the products: nothing of them is stored.

    Shapes   V (rows, deep): element k of row r at ``v + (r*deep + k)*size``; half: what `transform_weights` wrote; sums
             (rows) vectors; rows by kernel point, then point, then tile
    Assumes  1 <= count <= deep
    Touches  reads and writes sums; brings into L1, a hint that never faults, the lines behind V, and those of `deep`
             vectors of kernels that are transformed next, at ``following + c*following_step``
    Source   arXiv:1509.09308
    """
    return emitted(_emit_points, (m, kh, sh, top, kw, sw, left, tiles, most, deep, lanes, dtype), 6)
