"""Transposed convolution by Winograd's transforms, with weights that are transformed as they are read.

For a layer of few pixels and many weights, putting transformed weights down in memory takes longer than multiplying by
them: 75 MB for 512 channels by 3x3. So a block of tiles goes through the weights once, a vector of output channels and
a few input channels at a time; what is transformed of those stays in L1. A layer of stride 2 has the points of all
phases side by side: 81 products for 64 outputs instead of 144.

The largest error is within `error_bound` of the largest output: the bound of `fastconv.algorithms.winograd`, which
serves class `standard` and, being tighter, class `fast`; not `strict`, for sums are reassociated. Values that are not
finite would spread over a tile, so a result that meets one is left to the other ways.

Source: A. Lavin & S. Gray, arXiv:1509.09308. Start reading at `winograd_spread` in `winograd_spread_kernels`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fastconv import arrays, runtime
from fastconv.algorithms import tiles
from fastconv.algorithms.geometry import aligned_up
from fastconv.arrays import Array
from fastconv.kernels.winograd_matrices import phase_matrices
from fastconv.machine import Machine
from fastconv.operators import running, winograd_spread_kernels
from fastconv.operators.phases import Transposed
from fastconv.runtime import Work

#: Outputs of a phase along a side of a tile; tiles of a block: 2 take 1.2 to 1.5 times as long, and 8 serve where what
#: belongs to a vector of output channels stays in L1 (196 pixels of 256 channels: 1.56 ms instead of 1.81).
SIDE, TILES = 4, (4, 8)
#: Sums held in registers, of 32 and of 16: the others are for weights.
HELD, FEW_HELD = 24, 8
#: Cycles to transform a vector of weights; of each product with it, and how much longer that takes beyond L1; of each
#: element of a tile that is transformed, of images and outputs.
WEIGHT_CYCLES, ROW_CYCLES, BEYOND_L1, TURN_CYCLES = 45.0, 0.9, 1.15, 7.0
#: Part of the way of weights from beyond L2 that products do not hide.
WAIT_SHARE = 0.25


def suits(t: Transposed) -> bool:
    """Return whether this layer can be computed so, from contiguous weights."""
    return (
        t.plain
        and t.dtype == "float64"
        and dict(t.words)["accuracy"] != "strict"
        and t.kernel == (3, 3)
        and t.dilation == (1, 1)
        and t.stride in ((1, 1), (2, 2))
        and t.n > 0
    )


def error_bound(t: Transposed) -> float:
    """Return the largest error, as a share of the largest output."""
    return float(np.finfo(t.dtype).eps) * 24.0 * (1 + math.sqrt(t.c // t.groups) / 4)


def seconds(t: Transposed) -> float:
    """Return the estimated time of a call on one thread."""
    return _work(t, 1).seconds


def run(t: Transposed, x: Array, w: Array, y: Array, threads: int) -> bool:
    """Compute into y, all contiguous; return False when a value was not finite, and y is not the result."""
    words = np.array([arrays.address(w), 0], np.int64)
    work = _work(t, 1 if threads == 1 else 2 * threads)
    runtime.run(work, arrays.address(x), arrays.address(y), arrays.address(words), threads)
    return not words[1]


@lru_cache(maxsize=256)
def _work(t: Transposed, pieces: int) -> Work:
    """Return the work on images, result, and a pair of words: address of the weights, and a flag.

    It is divided into at least as many as `pieces`, if it can be; no bit of the result depends on that.
    """
    machine, dtype = Machine.host(), np.dtype(t.dtype)
    lanes, size, nhwc = machine.lanes(t.dtype), dtype.itemsize, t.layout == "NHWC"
    vector = lanes * size
    held = HELD if machine.vector_registers >= 32 else FEW_HELD
    (kh, kw), (sh, sw), (top, left) = t.kernel, t.stride, t.pads
    # Whole strides of padding only shift the windows.
    down, across = phase_matrices(SIDE, kh, sh, top % sh), phase_matrices(SIDE, kw, sw, left % sw)
    above, before = down.first + top // sh, across.first + left // sw
    th, tw = -(-t.oh // (sh * SIDE)), -(-t.ow // (sw * SIDE))
    depth, per_group, taps = t.c // t.groups, t.o // t.groups, kh * kw
    # The kernel point of every point, and which of those with the same it is.
    shared = [r * len(across.kernels) + s for r in down.shared for s in across.shared]
    rank = [shared[:place].count(point) for place, point in enumerate(shared)]
    before_it = [sum(other < point for other in shared) for point in shared]
    count = t.n * th * tw
    half = len(down.kernels) * kw * lanes * vector
    near = [some for some in TILES if half + 2 * len(shared) * some * vector <= machine.l1_bytes]
    each_step = {
        some: -(-count // some)
        * (WEIGHT_CYCLES + ROW_CYCLES * len(shared) * some * (1.0 if near else BEYOND_L1))
        for some in near or TILES[:1]
    }
    most = min(each_step, key=each_step.__getitem__)
    blocks = -(-count // most)
    at = np.array([(a + b) * most for a, b in zip(before_it, rank, strict=True)], np.int64)
    high, wide = len(down.inputs[0]), len(across.inputs[0])
    patch_pixel = aligned_up(depth, lanes) * size
    patch = max(high * wide * patch_pixel, sh * sw * SIDE * SIDE * vector)
    rows = len(shared) * most
    v_at = aligned_up(patch, 64)
    half_at = v_at + -(-depth // lanes) * rows * vector
    sums_at = half_at + half
    o_vectors = -(-per_group // lanes)
    splits = min(o_vectors, -(-pieces // (blocks * t.groups)))
    each = -(-o_vectors // splits)
    splits = -(-o_vectors // each)
    x_pixel, x_channel = (t.c * size, size) if nhwc else (size, t.h * t.w * size)
    y_pixel, y_channel = (t.o * size, size) if nhwc else (size, t.oh * t.ow * size)
    cycles = depth * o_vectors * each_step[most]
    elements = high * wide + len(shared), len(shared) + sh * sw * SIDE * SIDE
    cycles += TURN_CYCLES * count * (-(-depth // lanes) * elements[0] + o_vectors * elements[1]) / 2
    cycles += WAIT_SHARE * blocks * t.w_bytes / t.groups / tiles.far_rate(machine, t.w_bytes)
    return running.work(
        winograd_spread_kernels.winograd_spread(
            SIDE, kh, kw, sh, sw, top % sh, left % sw, most, held, lanes, t.dtype, int(nhwc)
        ),
        [np.arange(high * wide, dtype=np.int64) * patch_pixel, at * vector, at * vector],
        [np.arange(sh * sw * SIDE * SIDE, dtype=np.int64) * vector, count, blocks, splits],
        [each, o_vectors, depth, per_group, t.h, t.w, t.oh, t.ow, th, tw],
        [above, before, rows * vector, t.c * t.h * t.w * size, t.w * x_pixel, x_pixel, x_channel],
        [t.o * t.oh * t.ow * size, t.ow * y_pixel, y_pixel, y_channel, patch_pixel, per_group * taps * size],
        [v_at, half_at, sums_at, rows * vector],
        tasks=t.groups * blocks * splits,
        scratch=sums_at + rows * vector,
        cycles=t.groups * cycles * running.CLOCK / tiles.cycles_per_second(machine),
    )
