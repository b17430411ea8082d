"""Transposed convolution of few pixels by many weights on a matrix unit (AMX): when, and in what memory."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastconv import arrays, runtime
from fastconv.arrays import Array
from fastconv.kernels.matrix_tile import DEPTH, TILE_BYTES, parts, tile_configuration
from fastconv.machine import Machine
from fastconv.operators import running, split_spread_kernels
from fastconv.operators.phases import Transposed
from fastconv.operators.split_gradient import PRODUCTS_OF
from fastconv.operators.unfolding import covering, lists
from fastconv.runtime import Work

#: Products keep their class from this depth on (`fastconv.algorithms.split_bfloat16`).
ENOUGH_DEPTH = 64
#: Pixels of all images up to which, and weights from which on, these are cut where they stand. So many times as many
#: pixels as there are phases of the stride, which would be a convolution each: 784 of 128 channels by 3x3 with stride 2
#: take 0.80 ms instead of 0.86, with stride 1 0.70 instead of 0.48; 196 of 256 with stride 2 0.71 instead of 1.22.
FEW_PIXELS, MANY_WEIGHTS = 256, 1 << 17
#: Output channels of a block; cycles of a product of tiles, of one weight that is cut, of one vector that is added.
BLOCK, TILE_CYCLES, CUT_CYCLES, ADD_CYCLES = 32, 16.0, 0.7, 16.0


def suits(t: Transposed) -> bool:
    """Return whether contiguous weights (C, O / groups, kh, kw) are better cut where they stand than packed."""
    return (
        t.w_bytes >= 4 * MANY_WEIGHTS
        and "amx-bf16" in Machine.host().features
        and t.dtype == "float32"
        and t.plain
        and dict(t.words)["accuracy"] in PRODUCTS_OF
        and t.c // t.groups >= ENOUGH_DEPTH
        and t.o // t.groups >= BLOCK // 2
        and 0 < t.n * t.h * t.w <= FEW_PIXELS * len(t.parts)
    )


def run(t: Transposed, x: Array, w: Array, y: Array, threads: int) -> bool:
    """Compute into y, all contiguous; return False when the layer is none for it, or a value was not finite."""
    if not suits(t) or not w.flags.c_contiguous:
        return False
    words = np.array([arrays.address(w), 0], np.int64)
    work = _work(t, 1 if threads == 1 else 2 * threads)
    runtime.run(work, arrays.address(x), arrays.address(y), arrays.address(words), threads)
    return not words[1]


@lru_cache(maxsize=256)
def _work(t: Transposed, pieces: int) -> Work:
    """Return the work on images, result, and a pair of words: address of the weights, and a flag.

    Each group is divided into as many as `pieces`; no bit of the result depends on that.
    """
    nhwc, products = t.layout == "NHWC", PRODUCTS_OF[dict(t.words)["accuracy"]]
    cuts = parts(products)
    (kh, kw), (sh, sw), (dh, dw), (top, left) = t.kernel, t.stride, t.dilation, t.pads
    taps, depth, per_group, pixels = kh * kw, t.c // t.groups, t.o // t.groups, t.h * t.w
    items, tiles = -(-depth // DEPTH), 2 * -(-pixels // 32)
    blocks = -(-per_group // BLOCK)
    each = -(-blocks // pieces)
    splits = -(-blocks // each)
    # An odd number of lines from one pair of channels to the next: else they fall on few sets of L1.
    pitch = (BLOCK * taps * 4 // 64 | 1) * 64
    b_at = t.n * tiles * items * cuts * TILE_BYTES
    windows_at = b_at + items * cuts * 16 * pitch
    room_at = windows_at + tiles // 2 * taps * 4 * TILE_BYTES
    zeros_at = room_at + max(16, t.oh * t.ow) * 128
    pixel, column = np.arange(pixels), np.arange(BLOCK)[None, :] * taps + np.arange(taps)[:, None]
    pixels_at = pixel // 32 * taps * 4096 + pixel // 16 % 2 * 2048 + pixel % 16 * 64
    lanes = column // 32 * 4096 + column // 16 % 2 * 1024 + column % 16 * 4
    rows = [
        [value for r, i in pairs for value in (r * kw * BLOCK * 8, i * t.w * 8)]
        for pairs in covering(t.oh, kh, t.h, sh, top, dh)
    ]
    columns = [
        [value for s, j in pairs for value in (s * BLOCK * 8, j * 8)]
        for pairs in covering(t.ow, kw, t.w, sw, left, dw)
    ]
    step = np.arange(items, dtype=np.int64)
    table = np.stack([step * cuts * TILE_BYTES, step * cuts * 16 * pitch], axis=1)
    x_pixel, x_channel = (t.c * 4, 4) if nhwc else (4, pixels * 4)
    y_pixel, y_channel = (t.o * 4, 4) if nhwc else (4, t.oh * t.ow * 4)
    cycles = t.n * t.groups * blocks * taps * tiles * 2 * items * products * TILE_CYCLES
    cycles += CUT_CYCLES * t.w_bytes / 4 + ADD_CYCLES * t.n * pixels * taps * t.o / 16
    return running.work(
        split_spread_kernels.split_spread(products, cuts, int(nhwc)),
        [tile_configuration(), table, _counted(rows, kh), _counted(columns, kw)],
        [pixels_at.astype(np.int64), lanes.astype(np.int64), t.n],
        [pixels, depth, taps, per_group, blocks, each, splits, t.oh, t.ow, kh],
        [kw, items, tiles, pitch, tiles * items * cuts * TILE_BYTES, b_at, windows_at, room_at, zeros_at],
        [per_group * taps * 4, t.c * pixels * 4, x_pixel, x_channel],
        [t.o * t.oh * t.ow * 4, y_pixel, y_channel],
        tasks=t.groups * splits, scratch=zeros_at + pitch, cycles=cycles,
    )  # fmt: skip


def _counted(pairs: list[list[int]], most: int) -> Array:
    """Return a table of rows: how many pairs, then their values."""
    table = lists(pairs, 2 * most)
    table[:, 0] //= 2
    return table
