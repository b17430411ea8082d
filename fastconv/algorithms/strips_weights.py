"""Weights of small groups in NHWC: for each turn k the vector of what output o of a group has for input o ^ k."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.weights import LINE, SECONDS_PER_WEIGHT, PackedLayout
from fastconv.arrays import address
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import copy_bytes, item_bytes, load, store, words, zero_bytes
from fastconv.kernels.weight_rows import SOURCE_WORDS, weight_rows
from fastconv.kernels.winograd_tile import winograd_kernels
from fastconv.problem import Problem

Task = Callable[[int, int, int], None]

#: Seconds to place one weight on one core; for what groups of one channel take see `weights`.
SECONDS_PER_PARTNER = 1.5e-9


@task_factory
def pack_strips(kh: int, kw: int, group: int, m: int, dtype: str, lanes: int) -> Task:
    """Return the task that packs one vector of output channels, and their biases.

    Shapes   w: as `weight_rows`; target [vector][kh][kw][group][lanes], and where m is not 0 before all of these
             [vector][m + kh - 1][kw][group][lanes], G g along the columns; places: two lists of the row of each weight
             of an output channel, by (kh, kw, input) and by (kw, input, kh)
    Assumes  m is 0 where group is 1; scratch holds one vector's weights in each form
    Touches  writes its vector of target, its biases and its word of flags: 1 when a weight is not finite; scratch
    Source   arXiv:1509.09308
    """
    size = item_bytes(dtype)
    step = lanes * size
    taps = kh * kw * group
    points = (m + kh - 1) * kw * group if m else 0

    def task(ctx: int, i: int, scratch: int) -> None:
        w, target, bias_in = words(ctx, 3)
        places, o, plain, bias_offset, flags_offset = words(ctx + 24 + 8 * SOURCE_WORDS, 5)
        first = i * lanes
        live = min(lanes, o - first)
        flag = target + flags_offset + 8 * i
        store("int64", flag, 0)
        for form in range(2 if points > 0 else 1):
            # One channel has no partners: its rows are in order already.
            to = target + i * taps * step if group == 1 else scratch + form * taps * step
            if live < lanes:
                zero_bytes(to, taps * step)
            weight_rows(
                dtype,
                lanes,
                size,
                w,
                ctx + 24,
                first,
                live,
                0,
                group,
                to,
                step,
                places + 8 * form * taps,
                flag,
            )
        made = scratch + 2 * taps * step
        if points > 0:
            winograd_kernels(
                m, 1, kh, 1, dtype, lanes, scratch + taps * step, made, kw * group * step, step, kw * group
            )
        for form in range(0 if group == 1 else 2 if points > 0 else 1):
            count = points if form == 1 else taps
            rows = made if form == 1 else scratch
            out = target + i * count * step + (plain if form == 0 else 0)
            for j in range(count):
                for lane in range(lanes):
                    at = (j - j % group + (lane % group ^ j % group)) * lanes + lane
                    store(dtype, out + (j * lanes + lane) * size, load(dtype, rows + at * size))
        bias = target + bias_offset + i * step
        zero_bytes(bias, step)
        if bias_in != 0:
            copy_bytes(bias, bias_in + first * size, live * size)

    return task


def strips_weights(problem: Problem, m: int, lanes: int) -> tuple[PackedLayout, int]:
    """Return the layout of the packed weights, transformed too where m is not 0, and where the plain ones begin."""
    size = np.dtype(problem.compute_dtype).itemsize
    g, kh, kw = problem.c_per_group, problem.kh, problem.kw
    c, r, s = np.ogrid[:g, :kh, :kw]
    places = np.stack([((r * kw + s) * g + c).ravel(), ((s * g + c) * kh + r).ravel()]).astype(np.int64)
    vectors, step = -(-problem.o // lanes), lanes * size
    taps = kh * kw * g
    points = (m + kh - 1) * kw * g if m else 0
    plain = vectors * points * step
    bias = aligned_up(plain + vectors * taps * step, LINE)
    flags = bias + aligned_up(vectors * step, LINE)
    numbers = (address(places), problem.o, plain, bias, flags)
    layout = PackedLayout(
        problem.compute_dtype,
        pack_strips(kh, kw, g, m, problem.compute_dtype, lanes),
        numbers,
        vectors,
        packing_seconds(problem, m),
        bias,
        flags,
        (places,),
        (2 * taps + points) * step,
    )
    return layout, plain


def packing_seconds(problem: Problem, m: int) -> float:
    """Return the estimated time to pack all weights on one thread."""
    if problem.c_per_group == 1:
        return SECONDS_PER_WEIGHT * problem.o * problem.taps
    forms = 1 + ((m + problem.kh - 1) / problem.kh if m else 0)
    return SECONDS_PER_PARTNER * forms * problem.o * problem.c_per_group * problem.taps
