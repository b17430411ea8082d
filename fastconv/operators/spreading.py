"""Transposed convolution of few pixels, whose weights take longer to put in order than to multiply."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import aligned_up, column_segments, one_item
from fastconv.arrays import Array
from fastconv.machine import Machine
from fastconv.operators import running, spread_kernels
from fastconv.operators.phases import Transposed
from fastconv.operators.unfolding import covering, lists
from fastconv.runtime import Work

#: Pixels of all images up to which weights are read as they stand: at 49 of 512 channels in 1.7 ms instead of 3.3. So
#: many times as many pixels as there are convolutions instead, one for each phase of the stride: 196 of 256 channels by
#: 3x3 with stride 2, float64, in 2.6 ms instead of 3.3.
FEW_PIXELS = 128
#: Products for each of these convolutions up to which a call is over before weights would be packed: 16 to 16 channels
#: at 8x8 by 3x3 with stride 2 in 15 us instead of 75 to 90, 64 to 64 at 14x14 in 121 instead of 154 to 206; from 3
#: million on there is nothing to gain.
SMALL_PRODUCTS = 2_500_000
#: Rows of the register tiles, by their vectors: the last fits 16 registers.
TILES = ((8, 3), (7, 3), (4, 2))


def suits(t: Transposed) -> bool:
    """Return whether contiguous weights (C, O / groups, kh, kw) are better read as they stand than packed once."""
    pixels = t.n * t.h * t.w
    few = t.h * t.w >= TILES[0][0] and 0 < pixels <= FEW_PIXELS * len(t.parts)
    if not few or not t.plain:
        return False
    machine = Machine.host()
    # Each task has a vector of channels of the whole result at hand.
    in_cache = t.oh * t.ow * machine.vector_bytes <= machine.l2_bytes // 4
    return t.w_bytes >= machine.l2_bytes or (in_cache and t.products <= SMALL_PRODUCTS * len(t.parts))


def reads(t: Transposed, contiguous: bool) -> bool:
    """Return whether weights, contiguous or not, are read as they stand, or copied where that takes no time."""
    return suits(t) and (contiguous or t.w_bytes < Machine.host().l2_bytes)


def work(t: Transposed, w: Array) -> Work | None:
    """Return the work on images, result, and weights as a third array; None where phases are quicker.

    `w` is (C, O / groups, kh, kw).
    """
    return _work(t) if reads(t, w.flags.c_contiguous) else None


def seconds(t: Transposed) -> float:
    """Return the estimated time of a call on one thread."""
    return _work(t).seconds


def _tile(machine: Machine, pixels: int) -> tiles.Tile:
    """Return the widest of the register tiles that leaves the fewest rows over."""
    fitting = [tile for tile in tiles.tiles(machine) if tile in TILES]
    return min(fitting, key=lambda tile: (-tile.nv, -(-pixels // tile.mr) * tile.mr, -tile.mr))


@lru_cache(maxsize=256)
def _work(t: Transposed) -> Work:
    machine, dtype = Machine.host(), np.dtype(t.dtype)
    lanes, size, nhwc = machine.lanes(t.dtype), dtype.itemsize, t.layout == "NHWC"
    tile = _tile(machine, t.h * t.w)
    width = tile.nv * lanes
    (kh, kw), (sh, sw), (dh, dw), (top, left) = t.kernel, t.stride, t.dilation, t.pads
    taps, depth, per_group = kh * kw, t.c // t.groups, t.o // t.groups
    columns = aligned_up(lanes * taps, width)
    # An odd number of lines from one window to the next: else they fall on few sets of L1.
    window = (aligned_up(columns * size, 64) // 64 | 1) * 64
    rows = [
        [r * kw * size + i * t.w * window for r, i in pairs] for pairs in covering(t.oh, kh, t.h, sh, top, dh)
    ]
    cols = [[s * size + j * window for s, j in pairs] for pairs in covering(t.ow, kw, t.w, sw, left, dw)]
    full = column_segments(width, tile.nv, lanes, size)
    places = np.arange(lanes, dtype=np.int64) * taps * size
    blocks = -(-per_group // lanes)
    sums = aligned_up(t.h * t.w * window, 64)
    panel = sums + t.oh * t.ow * lanes * size
    x_pixel, x_channel = (t.c * size, size) if nhwc else (size, t.h * t.w * size)
    y_pixel, y_channel = (t.o * size, size) if nhwc else (size, t.oh * t.ow * size)
    products = tiles.tiled_cycles(tile, machine, t.h * t.w, columns, depth, lanes) * t.n
    return running.work(
        spread_kernels.spread(tile.mr, tile.nv, lanes, t.dtype, int(nhwc)),
        [one_item(), full, np.zeros(width, dtype), lists(rows, kh), lists(cols, kw), places],
        [t.n, t.h * t.w, depth, taps, per_group, blocks, t.oh, t.ow, kh, kw, window],
        [sums, panel, per_group * taps * size, depth * per_group * taps * size],
        [t.c * t.h * t.w * size, x_pixel, x_channel, depth * x_channel],
        [t.o * t.oh * t.ow * size, y_pixel, y_channel, per_group * y_channel],
        tasks=blocks * t.groups,
        scratch=panel + depth * columns * size,
        cycles=blocks * t.groups * (products + depth * columns * size / 16),
    )
