"""Weights of the bfloat16 split: every weight cut into parts, in the order in which matrix tiles read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.weights import LINE, PackedLayout, weight_index
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.matrix_tile import DEPTH, TILE_BYTES, parts
from fastconv.kernels.simd import copy_bytes, load, store, words, zero_bytes
from fastconv.kernels.split_tile import split_pairs, split_rows
from fastconv.kernels.transpose import transpose_to_rows
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Output channels of a block: two tiles side by side.
WIDTH = 32
#: Seconds to cut and place one weight on one core, in either order.
SECONDS_PER_WEIGHT = {"NHWC": 0.6e-9, "NCHW": 0.9e-9}


@task_factory
def pack_split_weights(cuts: int, planar: int) -> Task:
    """Return the task that packs one block of 32 output channels.

    Shapes   w (O, k) float32; target [block][item][part][2 tiles][1 KiB], an item being 32 channels of one tap: rows
             of 16 pairs of channels (B tiles), or if `planar` rows of 32 channels (A tiles); index: k -> item * 32 +
             channel
    Assumes  scratch holds the block as float32
    Touches  writes its block of target, its biases and its word of flags: 1 when a weight is not finite
    Source   arXiv:1904.06376
    """
    lanes, width = 16, 32
    size, tile, depth = 4, 1024, 32

    def task(ctx: int, i: int, scratch: int) -> None:
        w, target, bias_in, index, k, items, per_group, blocks, bias_offset, flags_offset, taps = words(
            ctx, 11
        )
        group, block = i // blocks, i % blocks
        live = min(width, per_group - block * width)
        first = group * per_group + block * width
        part = 2 * tile
        base = target + i * items * cuts * part
        flag = target + flags_offset + 8 * i
        store("int64", flag, 0)
        if planar != 0:
            row = items * depth * size
            zero_bytes(scratch, row)
            for o in range(width):
                place = base + o // lanes * tile + o % lanes * 64
                if o < live and taps == 1:
                    source, whole = w + (first + o) * k * size, k // depth
                    split_rows(cuts, source, depth * size, place, cuts * part, part, whole, depth, flag)
                    rest = k % depth
                    if rest != 0:
                        source, place = source + whole * depth * size, place + whole * cuts * part
                        split_rows(cuts, source, 0, place, 0, part, 1, rest, flag)
                    continue
                if o < live:
                    for j in range(k):
                        to = scratch + load("int64", index + 8 * j) * size
                        store("float32", to, load("float32", w + ((first + o) * k + j) * size))
                else:
                    zero_bytes(scratch, row)
                split_rows(cuts, scratch, depth * size, place, cuts * part, part, items, depth, flag)
        else:
            row = width * size
            zero_bytes(scratch, items * depth * row)
            for o in range(0, live, lanes):
                for j in range(0, k, lanes):
                    transpose_to_rows(
                        "float32", lanes, w + ((first + o) * k + j) * size, k * size, scratch + o * size, row,
                        index + 8 * j, min(lanes, live - o), min(lanes, k - j), lanes, flag,
                    )  # fmt: skip
            for item in range(items):
                for pair in range(lanes):
                    for half in range(2):
                        split_pairs(
                            cuts, 1, scratch + (item * depth + 2 * pair) * row + half * 64, row,
                            base + item * cuts * part + half * tile + pair * 64, part, lanes, flag,
                        )  # fmt: skip
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
    index = weight_index(problem, DEPTH, taps_first=False)
    per_block = -(-per_group // WIDTH)
    blocks = problem.groups * per_block
    block_bytes = items * cuts * 2 * TILE_BYTES
    bias = aligned_up(blocks * block_bytes, LINE)
    flags = bias + blocks * WIDTH * 4
    planar = problem.layout == "NCHW"
    numbers = (address(index), len(index), items, per_group, per_block, bias, flags, problem.taps)
    layout = PackedLayout(
        problem.compute_dtype,
        pack_split_weights(cuts, int(planar)),
        np.array([0, 0, 0, *numbers], dtype=np.int64),
        blocks,
        packing_seconds(problem),
        bias,
        flags,
        (index,),
        scratch_bytes=items * DEPTH * 4 * (1 if planar else WIDTH),
    )
    return layout, block_bytes


def packing_seconds(problem: Problem) -> float:
    """Return the estimated time to pack all weights on one thread."""
    return SECONDS_PER_WEIGHT[problem.layout] * (problem.c // problem.groups) * problem.taps * problem.o
