"""Weights of convolution by Fourier transforms: the spectrum of every kernel, in float64, rounded once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastconv.algorithms.geometry import aligned_up
from fastconv.algorithms.weights import PackedLayout
from fastconv.arrays import address
from fastconv.kernels.fft_tile import fft_columns, turn_panel, twiddles
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import item_bytes, load, store, words, zero_bytes
from fastconv.kernels.weight_rows import SOURCE_WORDS
from fastconv.problem import Problem, effective_kernel

Task = Callable[[int, int, int], None]

#: Time to make one complex element of a spectrum on one core (measured: 3 to 7 ns; 55 us for one of 128x128).
SECONDS_PER_ELEMENT = 4e-9


def packing_seconds(problem: Problem, elements: int) -> float:
    """Return the estimated time to make all spectra, of so many elements each, on one thread."""
    return SECONDS_PER_ELEMENT * elements * problem.o * problem.c_per_group


@task_factory
def pack_spectrum(ty: int, tx: int, most: int, wide: int, lanes: int, dtype: str) -> Task:
    """Return the task that makes the spectrum of one kernel, conjugate and over ``ty * tx``, as the image's comes.

    Shapes   w: as `weight_rows`; target [kernel][ty / lanes] panels of tx rows; transforms in `wide` lanes of float64
    Assumes  scratch: `kernel_scratch_bytes`
    Touches  writes its part of target, its bias, its share of the copy of the weights, its word of flags
    Source   as `fastconv.kernels.fft_tile`
    """
    size = item_bytes(dtype)
    double = "float64"
    vector = wide * 8
    scale = 1.0 / (ty * tx)

    def task(ctx: int, i: int, scratch: int) -> None:
        w, target, bias_in, outputs, inputs, places = words(ctx, 6)
        table_y, table_x, channels, kh, kw, dh, dw, panels, bias_offset, copy_offset, flags_offset = words(
            ctx + 24 + 8 * SOURCE_WORDS, 11
        )
        source = w + load("int64", outputs + i // channels * 8) + load("int64", inputs + i % channels * 8)
        row_bytes = panels * vector
        taps, work = scratch, scratch + 2 * ty * row_bytes
        spectrum = work + 2 * ty * vector
        zero_bytes(taps, 2 * ty * row_bytes)
        zero_bytes(spectrum, ty * tx * 16)
        check = 0.0
        for r in range(kh):
            for s in range(kw):
                at = ((i * kh + r) * kw + s) * size
                value = load(dtype, source + load("int64", places + (r * kw + s) * 8))
                check += value * 0
                store(dtype, target + copy_offset + at, value)
                store(double, taps + r * dh * row_bytes + s * dw * 8, value)
        store("int64", target + flags_offset + 8 * i, 0 if check == check else 1)
        if i % channels == 0:
            o = i // channels
            store(
                dtype,
                target + bias_offset + o * size,
                load(dtype, bias_in + o * size) if bias_in != 0 else 0.0,
            )
        for p in range(panels):
            place = taps + p * vector
            fft_columns(ty, most, -1, wide, double, place, place + ty * row_bytes, row_bytes, work, table_y)
            turn_panel(wide, double, work, spectrum + p * wide * 2 * vector, tx * 2 * vector, ty // wide)
        out = target + i * ty * tx * 2 * size
        for p in range(ty // wide):
            panel = spectrum + p * tx * 2 * vector
            fft_columns(tx, most, -1, wide, double, panel, panel + vector, 2 * vector, panel, table_x)
            for k in range(wide):
                column = p * wide + k
                to = out + (column // lanes * tx * 2 * lanes + column % lanes) * size
                for row in range(tx):
                    place = panel + row * 2 * vector + k * 8
                    store(dtype, to + row * 2 * lanes * size, load(double, place) * scale)
                    store(dtype, to + (row * 2 + 1) * lanes * size, -load(double, place + vector) * scale)

    return task


class SpectrumWeights(PackedLayout):
    """Spectra of all kernels, then the biases, a plain copy of the weights, and the flags."""

    copy_offset: int


def spectrum_weights(problem: Problem, ty: int, tx: int, most: int, wide: int, lanes: int) -> SpectrumWeights:
    """Return the layout of the spectra for tiles of `ty` x `tx`, in panels of `lanes` rows of frequencies."""
    size = np.dtype(problem.compute_dtype).itemsize
    kernels = problem.o * problem.c_per_group
    tables = [np.ascontiguousarray(twiddles(points, most)) for points in (ty, tx)]
    panels = -(-effective_kernel(problem.kw, problem.dilation[1]) // wide)
    bias = aligned_up(kernels * ty * tx * 2 * size, 64)
    copy = bias + aligned_up(problem.o * size, 64)
    flags = copy + aligned_up(kernels * problem.taps * size, 64)
    numbers = (*map(address, tables), problem.c_per_group, problem.kh, problem.kw, *problem.dilation, panels)
    layout = SpectrumWeights(
        problem.compute_dtype,
        pack_spectrum(ty, tx, most, wide, lanes, problem.compute_dtype),
        (*numbers, bias, copy, flags),
        kernels,
        packing_seconds(problem, ty * tx),
        bias,
        flags,
        tuple(tables),
        (2 * ty * panels * wide + 2 * ty * wide + 2 * ty * tx) * 8,
    )
    layout.copy_offset = copy
    return layout
