"""Weights of Winograd convolution: U = G g G^T of every kernel, in float64, rounded once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.weights import PackedLayout
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import item_bytes, load, store, words
from fastconv.kernels.winograd_tile import transforms
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Time to make one element of U on one core (measured: 43 ns for the 16 of F(2), 97 ns for the 36 of F(4)).
SECONDS_PER_ELEMENT = 2.7e-9


def packing_seconds(problem: Problem, m: int) -> float:
    """Return the estimated time to transform all weights for tiles of side `m` on one thread."""
    return SECONDS_PER_ELEMENT * (m + 2) ** 2 * (problem.c // problem.groups) * problem.o


@task_factory
def pack_winograd_weights(m: int, dtype: str) -> Task:
    """Return the task that transforms one block of output channels: U = G g G^T, in float64, rounded once.

    Shapes   w (O, C/g, 3, 3); target [block][(m+2)**2][C/g][NR]; G (m+2, 3) float64
    Touches  writes its block of target, its biases, its share of the copy of the weights, its word of flags
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    t = m + 2

    def task(ctx: int, i: int, scratch: int) -> None:
        (
            w,
            target,
            bias_in,
            g_matrix,
            channels,
            width,
            per_group,
            blocks,
            bias_offset,
            copy_offset,
            flags_offset,
        ) = words(ctx, 11)
        group, block = i // blocks, i % blocks
        first = group * per_group + block * width
        live = min(width, per_group - block * width)
        step = channels * width * size
        base = target + i * t * t * step
        check = 0.0
        for o in range(width):
            source = w + (first + o) * channels * 9 * size
            bias = target + bias_offset + (i * width + o) * size
            store(
                dtype, bias, load(dtype, bias_in + (first + o) * size) if bias_in != 0 and o < live else 0.0
            )
            for c in range(channels):
                place = base + (c * width + o) * size
                if o >= live:
                    for xi in range(t * t):
                        store(dtype, place + xi * step, 0.0)
                    continue
                at = source + c * 9 * size
                for tap in range(9):
                    value = load(dtype, at + tap * size)
                    check += value * 0
                    store(
                        dtype, target + copy_offset + ((first + o) * channels * 9 + c * 9 + tap) * size, value
                    )
                for p in range(t):
                    g0 = load("float64", g_matrix + p * 24)
                    g1 = load("float64", g_matrix + p * 24 + 8)
                    g2 = load("float64", g_matrix + p * 24 + 16)
                    a0 = (
                        g0 * load(dtype, at)
                        + g1 * load(dtype, at + 3 * size)
                        + g2 * load(dtype, at + 6 * size)
                    )
                    a1 = (
                        g0 * load(dtype, at + size)
                        + g1 * load(dtype, at + 4 * size)
                        + g2 * load(dtype, at + 7 * size)
                    )
                    a2 = (
                        g0 * load(dtype, at + 2 * size)
                        + g1 * load(dtype, at + 5 * size)
                        + g2 * load(dtype, at + 8 * size)
                    )
                    for q in range(t):
                        h0 = load("float64", g_matrix + q * 24)
                        h1 = load("float64", g_matrix + q * 24 + 8)
                        h2 = load("float64", g_matrix + q * 24 + 16)
                        store(dtype, place + (p * t + q) * step, h0 * a0 + h1 * a1 + h2 * a2)
        store("int64", target + flags_offset + 8 * i, 0 if check == check else 1)

    return task


class WinogradWeights(PackedLayout):
    """U of every block, then the biases, a plain copy of the weights, and the flags."""

    copy_offset: int


def winograd_weights(problem: Problem, m: int, width: int) -> WinogradWeights:
    """Return the layout of the transformed weights, in blocks of `width` output channels."""
    size = np.dtype(problem.compute_dtype).itemsize
    channels, per_group = problem.c // problem.groups, problem.o // problem.groups
    _, g, _ = transforms(m)
    matrix = np.array([[float(value) for value in row] for row in g])
    per_block = -(-per_group // width)
    blocks = problem.groups * per_block
    bias = aligned_up(blocks * len(g) ** 2 * channels * width * size, 64)
    copy = bias + aligned_up(blocks * width * size, 64)
    flags = copy + aligned_up(problem.o * channels * 9 * size, 64)
    numbers = (address(matrix), channels, width, per_group, per_block, bias, copy, flags)
    layout = WinogradWeights(
        problem.compute_dtype,
        pack_winograd_weights(m, problem.compute_dtype),
        np.array([0, 0, 0, *numbers], dtype=np.int64),
        blocks,
        packing_seconds(problem, m),
        bias,
        flags,
        (matrix,),
    )
    layout.copy_offset = copy
    return layout
