"""Weights of Winograd convolution: U = G g G^T of every kernel, in float64, rounded once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.weights import PackedLayout
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import copy_bytes, item_bytes, store, words, zero_bytes
from fastconv.kernels.transpose import transpose_block
from fastconv.kernels.weight_rows import SOURCE_WORDS, weight_rows
from fastconv.kernels.winograd_tile import winograd_kernels
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Kernels of one output channel that are transposed at a time: with 16 output channels 9 KiB.
CHUNK = 16

#: Time to make one byte of U on one core (measured: 6 ns for the 16 float32 of F(2), 12 ns for the 36 of F(4)).
SECONDS_PER_BYTE = 0.085e-9


def packing_seconds(problem: Problem, planes: int) -> float:
    """Return the estimated time to transform all weights to `planes` planes on one thread."""
    size = np.dtype(problem.compute_dtype).itemsize
    return SECONDS_PER_BYTE * size * planes * (problem.c // problem.groups) * problem.o


@task_factory
def pack_winograd_weights(kh: int, kw: int, mh: int, mw: int, dtype: str, lanes: int) -> Task:
    """Return the task that transforms one block of output channels, a vector of them at a time.

    Shapes   w: as `weight_rows`, of kh x kw taps; target [block][planes][C/g][NR]; the copy (O, C/g, kh, kw)
    Assumes  NR is a multiple of `lanes`; scratch holds `CHUNK` transposed kernels of `lanes` output channels
    Touches  writes its block of target, its biases, its share of the copy of the weights, its word of flags
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    vector = lanes * size
    chunk, taps = CHUNK, kh * kw
    planes = (mh + kh - 1) * (mw + kw - 1)

    def task(ctx: int, i: int, scratch: int) -> None:
        w, target, bias_in, _, _, _, _, o_step, k_step = words(ctx, 9)
        order, channels, width, per_group, blocks, bias_offset, copy_offset, flags_offset = words(
            ctx + 24 + 8 * SOURCE_WORDS, 8
        )
        group, block = i // blocks, i % blocks
        live = min(width, per_group - block * width)
        kernel = channels * taps * size
        first = group * per_group + block * width
        copy = target + copy_offset + first * kernel
        solid = k_step == size and o_step == kernel
        flag = target + flags_offset + 8 * i
        step = channels * width * size
        base = target + i * planes * step
        store("int64", flag, 0)
        for c in range(0, channels, chunk):
            count = min(chunk, channels - c)
            for o in range(0, width, lanes):
                rows = min(live - o, lanes)
                if rows < lanes:
                    zero_bytes(scratch, count * taps * vector)
                if rows > 0:
                    weight_rows(
                        dtype,
                        lanes,
                        size,
                        w,
                        ctx + 24,
                        first + o,
                        rows,
                        c,
                        count,
                        scratch,
                        vector,
                        order,
                        flag,
                    )
                for tap in range(0, count * taps if rows > 0 and not solid else 0, lanes):
                    more = min(lanes, count * taps - tap)
                    transpose_block(
                        dtype, lanes, "none", scratch + tap * vector, vector,
                        copy + o * kernel + (c * taps + tap) * size, kernel, 0, more, rows, more,
                    )  # fmt: skip
                place = base + (c * width + o) * size
                winograd_kernels(mh, mw, kh, kw, dtype, lanes, scratch, place, step, width * size, count)
        if solid:
            copy_bytes(copy, w + first * kernel, live * kernel)
        bias = target + bias_offset + i * width * size
        zero_bytes(bias, width * size)
        if bias_in != 0:
            copy_bytes(bias, bias_in + first * size, live * size)

    return task


class WinogradWeights(PackedLayout):
    """U of every block, then the biases, a plain copy of the weights, and the flags."""

    copy_offset: int


def winograd_weights(problem: Problem, mh: int, mw: int, width: int, lanes: int) -> WinogradWeights:
    """Return the layout of the transformed weights, in blocks of `width` output channels."""
    size = np.dtype(problem.compute_dtype).itemsize
    channels, per_group = problem.c // problem.groups, problem.o // problem.groups
    planes = (mh + problem.kh - 1) * (mw + problem.kw - 1)
    order = np.arange(problem.taps * CHUNK, dtype=np.int64)
    per_block = -(-per_group // width)
    blocks = problem.groups * per_block
    bias = aligned_up(blocks * planes * channels * width * size, 64)
    copy = bias + aligned_up(blocks * width * size, 64)
    flags = copy + aligned_up(problem.o * channels * problem.taps * size, 64)
    numbers = (address(order), channels, width, per_group, per_block, bias, copy, flags)
    layout = WinogradWeights(
        problem.compute_dtype,
        pack_winograd_weights(problem.kh, problem.kw, mh, mw, problem.compute_dtype, lanes),
        numbers,
        blocks,
        packing_seconds(problem, planes),
        bias,
        flags,
        (order,),
        CHUNK * problem.taps * lanes * size,
    )
    layout.copy_offset = copy
    return layout
