"""Packed weights: the order in which a kernel streams them, and the one function that brings them into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.kernels.packing import pack_weights_task
from fastconv.kernels.simd import is_float
from fastconv.problem import Problem
from fastconv.runtime import Work, run

Array = npt.NDArray[Any]

#: Bytes of one cache line: packed data starts at a line, so that a vector load never touches two.
LINE = 64
#: Seconds to pack one weight (measured: 0.4-0.8 ns), for the choice between one thread and several.
SECONDS_PER_WEIGHT = 0.6e-9


@dataclass(frozen=True, eq=False)
class WeightLayout:
    """Weights as ``[group][block][rows][width]``: blocks of `width` output channels side by side.

    Parameters
    ----------
    dtype
        Compute dtype.
    groups, per_group
        Groups, and output channels of each; the last block of a group is filled up with zeros.
    rows
        Rows of a block; those that `index` does not name are zero.
    width
        Output channels of a block.
    index
        For each weight of an output channel, in OIHW order, its row.
    """

    dtype: str
    groups: int
    per_group: int
    rows: int
    width: int
    index: npt.NDArray[np.int64]

    @property
    def blocks(self) -> int:
        """Blocks of one group."""
        return -(-self.per_group // self.width)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.rows * self.width * np.dtype(self.dtype).itemsize


def weight_index(problem: Problem, chunk: int, *, taps_first: bool) -> npt.NDArray[np.int64]:
    """Return the row of each weight when channels come in chunks of `chunk`.

    With `taps_first` the order is kernel row, chunk, kernel column, channel (a range of kernel rows is then a range of
    items); otherwise chunk, kernel row, kernel column, channel.
    """
    channels, kh, kw = problem.c // problem.groups, problem.kh, problem.kw
    c, r, s = np.ogrid[:channels, :kh, :kw]
    chunks = -(-channels // chunk)
    item = (r * chunks + c // chunk) if taps_first else (c // chunk * kh + r)
    return np.ascontiguousarray(((item * kw + s) * chunk + c % chunk).ravel(), dtype=np.int64)


def aligned_empty(count: int, dtype: str) -> Array:
    """Return `count` uninitialised elements that start at a cache line."""
    size = np.dtype(dtype).itemsize
    raw = np.empty(count * size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + count * size].view(dtype)


def pack_weights(
    layout: WeightLayout, weights: Array, bias: Array | None, threads: int = 1
) -> tuple[Array, Array, bool]:
    """Return the packed weights, the biases filled up to whole blocks, and whether all weights are finite."""
    count = layout.groups * layout.blocks
    packed = aligned_empty(count * layout.rows * layout.width, layout.dtype)
    packed_bias = aligned_empty(count * layout.width, layout.dtype)
    flags = np.empty(count)
    context = np.array(
        [
            weights.ctypes.data,
            packed.ctypes.data,
            0 if bias is None else bias.ctypes.data,
            packed_bias.ctypes.data,
            layout.index.ctypes.data,
            flags.ctypes.data,
            len(layout.index),
            layout.rows,
            layout.width,
            layout.per_group,
            layout.blocks,
        ],
        dtype=np.int64,
    )
    work = Work(
        pack_weights_task(layout.dtype), context, count, 0, SECONDS_PER_WEIGHT * weights.size, (flags, layout.index)
    )
    run(work, int(context[0]), int(context[1]), int(context[2]), threads)
    finite = not is_float(layout.dtype) or bool(np.isfinite(flags.sum()))
    return packed, packed_bias, finite
