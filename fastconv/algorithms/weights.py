"""Packed weights: the order in which a kernel streams them, and the one function that brings them into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.arrays import address
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

    Biases, filled up to whole blocks, and one word per block that tells whether its weights are finite, follow in the
    same memory. Everything that does not depend on the weights is worked out here, once per problem.

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
    bias_offset: int = field(init=False)
    flags_offset: int = field(init=False)
    total_bytes: int = field(init=False)
    work: Work = field(init=False)

    def __post_init__(self) -> None:
        count = self.groups * self.blocks
        size = np.dtype(self.dtype).itemsize
        bias = -(-count * self.block_bytes // LINE) * LINE
        flags = bias + -(-count * self.width * size // LINE) * LINE
        numbers = (len(self.index), self.rows, self.width, self.per_group, self.blocks, bias, flags)
        context = np.array([0, 0, 0, address(self.index), *numbers], dtype=np.int64)
        seconds = SECONDS_PER_WEIGHT * len(self.index) * self.per_group * self.groups
        work = Work(pack_weights_task(self.dtype), context, count, 0, seconds, (self.index,))
        for name, value in (("bias_offset", bias), ("flags_offset", flags), ("work", work)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "total_bytes", flags + 8 * count)

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


@dataclass(frozen=True, eq=False, slots=True)
class PackedWeights:
    """Memory with packed weights and biases, and the addresses of both."""

    memory: Array
    weights: int
    bias: int
    finite: bool


def pack_weights(
    layout: WeightLayout, weights: Array, bias: Array | None, threads: int, *, check: bool
) -> PackedWeights:
    """Pack `weights` and `bias`; with `check`, tell whether all weights are finite."""
    memory = np.empty(layout.total_bytes + LINE, np.uint8)
    at = address(memory)
    start = -(-at // LINE) * LINE
    run(layout.work, address(weights), start, 0 if bias is None else address(bias), threads)
    finite = True
    if check and is_float(layout.dtype):
        flags = memory[start - at + layout.flags_offset : start - at + layout.total_bytes].view(np.float64)
        finite = bool(np.isfinite(flags.sum()))
    return PackedWeights(memory, start, start + layout.bias_offset, finite)
