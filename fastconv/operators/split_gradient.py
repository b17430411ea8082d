"""The gradient of convolution by its kernels on a matrix unit (AMX): which layers, in what pieces, in what memory."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv.algorithms.geometry import aligned_up
from fastconv.kernels.matrix_tile import DEPTH, TILE_BYTES, parts, tile_configuration
from fastconv.machine import Machine
from fastconv.operators import running, split_gradient_kernels
from fastconv.operators.split_gradient_kernels import SUMS_BYTES
from fastconv.problem import Problem
from fastconv.runtime import Work

#: Products of parts that keep a class of accuracy.
PRODUCTS_OF = {"standard": 3, "fast": 1}
#: Three products keep class `standard` on average, as `fastconv.algorithms.split_bfloat16` says: sums of fewer pixels
#: are left to the vector units; and so are few channels, which would leave most of a tile empty.
ENOUGH_PIXELS, ENOUGH_CHANNELS = 64, 16
#: Channels of a block, both ways; cycles of one product of tiles, of one value that is cut, of one gradient stored.
BLOCK, TILE_CYCLES, CUT_CYCLES, STORE_CYCLES = 32, 16.0, 1.0, 0.8


class _Taps(NamedTuple):
    """Along one axis: phase and shift of each tap, in steps of the stride."""

    phases: npt.NDArray[np.int64]
    shifts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, count: int, dilation: int, before: int, stride: int) -> _Taps:
        places = np.arange(count, dtype=np.int64) * dilation - before
        return cls(places % stride, places // stride)


class _Sizes:
    """What a problem comes to in bands of so many rows: lines, positions, bytes."""

    def __init__(self, p: Problem, rows: int) -> None:
        (sh, sw), (dh, dw), (top, _, left, _) = p.stride, p.dilation, p.padding
        down, across = _Taps.of(p.kh, dh, top, sh), _Taps.of(p.kw, dw, left, sw)
        widths = -(-(p.w - across.phases) // sw)
        before = max(0, -int(across.shifts.min()))
        after = max(0, int((p.ow - 1 + across.shifts - (widths - 1)).max()))
        # Zeros behind a line are those before the next; pairs of positions are never of two lines.
        self.pitch = aligned_up(max(p.ow, int(widths.max()) + max(before, after)), 2)
        self.lead = aligned_up(before, DEPTH)
        lines, starts, position = [], {}, self.lead
        for row in sorted(set(down.phases.tolist())):
            shifts = down.shifts[down.phases == row]
            first, last = int(shifts.min()), rows - 1 + int(shifts.max())
            for column in sorted(set(across.phases.tolist())):
                starts[row, column] = position - first * self.pitch
                for t in range(first, last + 1):
                    lines.append((t * sh + row, column, position))
                    position += self.pitch
        self.lines, self.end = np.array(lines, np.int64), position
        self.offsets = np.array(
            [
                2 * (starts[row, column] + int(r) * self.pitch + int(s))
                for row, r in zip(down.phases.tolist(), down.shifts, strict=True)
                for column, s in zip(across.phases.tolist(), across.shifts, strict=True)
            ],
            np.int64,
        )
        self.items = -(-rows * self.pitch // DEPTH)
        self.total = max(self.end, int(self.offsets.max()) // 2 + self.items * DEPTH)
        # An odd number of lines from channel to channel: a power of two would put them into one set of L1.
        self.plane = (aligned_up(2 * self.total + 64 + 64, 64) // 64 | 1) * 64
        self.pair_plane = (self.items + 1 | 1) * 64


def works(p: Problem, machine: Machine) -> bool:
    """Return whether a layer is one for the matrix unit."""
    return (
        "amx-bf16" in machine.features
        and p.dtype == "float32"
        and p.accuracy in PRODUCTS_OF
        and p.stride[1] <= 2
        and p.n * p.oh * p.ow >= ENOUGH_PIXELS
        and min(p.c_per_group, p.o_per_group) >= ENOUGH_CHANNELS
    )


@lru_cache(maxsize=256)
def work(p: Problem, pieces: int) -> Work:
    """Return the work on images, result, and a pair of words: address of the gradients, and a flag.

    Each group is divided into at least so many `pieces`; no bit of the result depends on that.
    """
    machine, nhwc = Machine.host(), p.layout == "NHWC"
    products = PRODUCTS_OF[p.accuracy]
    cuts = parts(products)
    c_blocks, o_blocks = -(-p.c_per_group // BLOCK), -(-p.o_per_group // BLOCK)

    def cut_bytes(s: _Sizes) -> int:
        return cuts * (c_blocks * BLOCK * s.plane + o_blocks * 2 * s.items * TILE_BYTES)

    rows = p.oh
    while rows > 1 and cut_bytes(_Sizes(p, rows)) > machine.l2_bytes * 3 // 4:
        rows = -(-rows // 2)
    s, bands = _Sizes(p, rows), -(-p.oh // rows)
    steps = p.n * bands
    c_each, o_each = c_blocks, o_blocks
    kept_bytes = p.taps * SUMS_BYTES if steps > 1 else 0
    while max(c_each, o_each) > 1 and (
        c_each * o_each * kept_bytes > machine.l2_bytes // 2
        or -(-c_blocks // c_each) * -(-o_blocks // o_each) < pieces
    ):
        c_each, o_each = (c_each, -(-o_each // 2)) if o_each >= c_each else (-(-c_each // 2), o_each)
    c_splits, o_splits = -(-c_blocks // c_each), -(-o_blocks // o_each)
    part, g_tile = c_each * BLOCK * s.plane, s.items * cuts * TILE_BYTES
    pairs_at = aligned_up(cuts * part + 64, 64)
    room_at = pairs_at + 2 * o_each * g_tile
    sums_at = room_at + cuts * max(4096, 16 * s.pair_plane)
    zeros_at = sums_at + 4096
    kept_at = zeros_at + 256
    scratch = kept_at + max(c_each * o_each * kept_bytes, p.taps * SUMS_BYTES)
    step = np.arange(s.items, dtype=np.int64)
    table = np.stack([step * 2 * DEPTH, step * cuts * TILE_BYTES], axis=1)
    x_pixel, x_channel = (p.c * 4, 4) if nhwc else (4, p.h * p.w * 4)
    g_pixel, g_channel = (p.o * 4, 4) if nhwc else (4, p.oh * p.ow * 4)
    blocks = c_blocks * o_blocks * p.groups
    cycles = blocks * steps * p.taps * s.items * 4 * products * TILE_CYCLES
    cycles += (
        CUT_CYCLES
        * steps
        * p.groups
        * (c_blocks * o_splits * s.total + o_blocks * c_splits * s.items * DEPTH)
        * BLOCK
    )
    cycles += STORE_CYCLES * p.o * p.c_per_group * p.taps
    return running.work(
        split_gradient_kernels.split_gradient(products, cuts, p.stride[1], int(nhwc)),
        [tile_configuration(), table, s.offsets, s.lines, len(s.lines), p.n, p.h],
        [p.w, p.oh, p.ow, p.taps, p.o_per_group, p.c_per_group, rows, bands, s.pitch, p.stride[0]],
        [c_blocks, c_each, c_splits, o_blocks, o_each, o_splits, s.lead, s.end, s.total, s.items],
        [s.plane, part, g_tile, pairs_at, room_at, sums_at, kept_at, kept_bytes, s.pair_plane, zeros_at],
        [p.c * p.h * p.w * 4, p.w * x_pixel, x_pixel, x_channel],
        [p.o * p.oh * p.ow * 4, p.ow * g_pixel, g_pixel, g_channel],
        tasks=p.groups * c_splits * o_splits, scratch=scratch, cycles=cycles,
    )  # fmt: skip
