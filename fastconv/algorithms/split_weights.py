"""Weights of the bfloat16 split: every weight cut into parts, in the order in which matrix tiles read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.weights import LINE, PackedLayout
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.matrix_tile import DEPTH, LANES, TILE_BYTES, parts
from fastconv.kernels.simd import copy_bytes, store, words, zero_bytes
from fastconv.kernels.split_tile import split_pairs, split_rows
from fastconv.kernels.transpose import transpose_block
from fastconv.kernels.weight_rows import SOURCE_WORDS, weight_rows
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Output channels of a block: two tiles side by side.
WIDTH = 32
#: Seconds to pack one weight of a whole block of channels (measured: 0.27-0.45 ns in both layouts).
SECONDS_PER_WEIGHT = 0.45e-9


@task_factory
def pack_split_weights(cuts: int, planar: int) -> Task:
    """Return the task that packs one block of 32 output channels.

    Shapes   w: float32 as `weight_rows`; target [block][item][part][2 tiles][1 KiB], an item being 32 channels of one
             tap: rows of 16 pairs of channels (B tiles), or if `planar` rows of 32 channels (A tiles); index: (channel,
             tap) of 32 channels -> tap * 32 + channel
    Assumes  scratch holds 32 channels of the block as float32, and a tile more
    Touches  writes its block of target, its biases and its word of flags: 1 when a weight is not finite
    Source   arXiv:1904.06376
    """
    lanes, width = 16, 32
    size, tile, depth = 4, 1024, 32

    def task(ctx: int, i: int, scratch: int) -> None:
        w, target, bias_in, _, _, _, taps, o_step, k_step = words(ctx, 9)
        index, channels, per_group, blocks, bias_offset, flags_offset = words(ctx + 24 + 8 * SOURCE_WORDS, 6)
        group, block = i // blocks, i % blocks
        live = min(width, per_group - block * width)
        first = group * per_group + block * width
        part, row, items = 2 * tile, width * size, (channels + depth - 1) // depth * taps
        base = target + i * items * cuts * part
        flag = target + flags_offset + 8 * i
        store("int64", flag, 0)
        # Rows of channels that follow each other as they are stored need not be turned twice.
        ready = planar != 0 and taps == 1 and k_step == size and o_step != 0
        room = scratch + taps * depth * row
        for c in range(0, channels, depth):
            here = min(depth, channels - c)
            to = base + c // depth * taps * cuts * part
            if here < depth or (live < width and c == 0):
                zero_bytes(scratch, taps * depth * row)
            if not ready:
                weight_rows(
                    "float32", lanes, size, w, ctx + 24, first, live, c, here, scratch, row, index, flag
                )
            for tap in range(taps):
                item = scratch + tap * depth * row
                for half in range(2):
                    place = to + tap * cuts * part + half * tile
                    if planar == 0:
                        for pair in range(lanes):
                            split_pairs(
                                cuts, 1, item + 2 * pair * row + half * 64, row, place + pair * 64, part, lanes, flag
                            )  # fmt: skip
                        continue
                    rows = min(lanes, live - half * lanes)
                    if ready and rows > 0:
                        at = w + (first + half * lanes) * o_step + c * size
                        split_rows(cuts, at, o_step, place, 64, part, rows, here, flag)
                    elif rows > 0:
                        for pick in range(0, depth, lanes):
                            transpose_block(
                                "float32", lanes, "none", item + pick * row + half * 64, row, room + pick * size,
                                depth * size, 0, lanes, lanes, lanes,
                            )  # fmt: skip
                        split_rows(cuts, room, depth * size, place, 64, part, rows, depth, flag)
                    for p in range(cuts):
                        if rows < lanes:
                            gone = max(rows, 0) * 64
                            zero_bytes(place + p * part + gone, tile - gone)
        bias = target + bias_offset + i * width * size
        zero_bytes(bias, width * size)
        if bias_in != 0:
            copy_bytes(bias, bias_in + first * size, live * size)

    return task


def split_weights(problem: Problem, products: int) -> tuple[PackedLayout, int]:
    """Return the layout of the packed weights for so many products, and the bytes of a block."""
    channels, per_group = problem.c // problem.groups, problem.o // problem.groups
    cuts = parts(products)
    items = -(-channels // DEPTH) * problem.taps
    channel, tap = np.ogrid[:DEPTH, : problem.taps]
    index = np.ascontiguousarray((tap * DEPTH + channel).ravel(), dtype=np.int64)
    per_block = -(-per_group // WIDTH)
    blocks = problem.groups * per_block
    block_bytes = items * cuts * 2 * TILE_BYTES
    bias = aligned_up(blocks * block_bytes, LINE)
    flags = bias + blocks * WIDTH * 4
    numbers = (address(index), channels, per_group, per_block, bias, flags)
    layout = PackedLayout(
        problem.compute_dtype,
        pack_split_weights(cuts, int(problem.layout == "NCHW")),
        numbers,
        blocks,
        packing_seconds(problem),
        bias,
        flags,
        (index,),
        scratch_bytes=(problem.taps * DEPTH + LANES) * WIDTH * 4,
    )
    return layout, block_bytes


def packing_seconds(problem: Problem) -> float:
    """Return the estimated time to pack all weights on one thread."""
    return SECONDS_PER_WEIGHT * aligned_up(problem.c // problem.groups, DEPTH) * problem.taps * problem.o
