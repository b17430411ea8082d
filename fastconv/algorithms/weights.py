"""Packed weights: the order in which a kernel streams them, and the one function that brings them into it."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.arrays import address
from fastconv.kernels.jit import Kernel
from fastconv.kernels.packing import pack_weights_task
from fastconv.kernels.weight_rows import SOURCE_WORDS
from fastconv.problem import Problem
from fastconv.runtime import Work, run, workspace

Array = npt.NDArray[Any]

#: Bytes of one cache line: packed data starts at a line, so that a vector load never touches two.
LINE = 64
#: Seconds to pack one weight (measured: 0.3-0.4 ns), for the choice between one thread and several.
SECONDS_PER_WEIGHT = 0.4e-9
#: Lanes of the widest vector of weights.
MOST_LANES = 16
#: Shapes and strides of weights that a layout keeps its tables for.
MOST_SOURCES = 8


class PackedLayout:
    """How weights are packed: the task that does it, and where biases and flags are in the memory it fills.

    Packed weights, biases filled up to whole blocks, and one word per block that tells whether its weights are finite
    follow each other in one piece of memory. All that does not depend on the weights is worked out once per problem.

    Parameters
    ----------
    dtype
        Compute dtype.
    kernel, numbers, blocks
        The task, what it reads behind the addresses of weights, memory and biases and the words that say how weights
        lie, and how often it runs.
    seconds
        Estimated time on one thread.
    bias_offset, flags_offset
        Bytes from the beginning of the memory.
    keep
        Arrays whose addresses stand in `numbers`.
    scratch_bytes
        Private memory of one running worker.

    Attributes
    ----------
    work : Work
        Packs weights, once it is said how they lie.
    """

    def __init__(
        self,
        dtype: str,
        kernel: Kernel,
        numbers: tuple[int, ...],
        blocks: int,
        seconds: float,
        bias_offset: int,
        flags_offset: int,
        keep: tuple[Array, ...],
        scratch_bytes: int = 0,
    ) -> None:
        self.dtype = dtype
        self.bias_offset, self.flags_offset = bias_offset, flags_offset
        self.total_bytes = flags_offset + 8 * blocks
        context = np.array([*(0,) * (3 + SOURCE_WORDS), *numbers], dtype=np.int64)
        self.work = Work(kernel, context, blocks, scratch_bytes, seconds, keep)
        self._reading: dict[tuple[tuple[int, ...], tuple[int, ...]], Work] = {}

    def reading(self, weights: Array) -> Work:
        """Return the work that packs weights which lie as these do."""
        how = (weights.shape, weights.strides)
        found = self._reading.get(how)
        if found is None:
            tables, numbers = _source(*how, weights.itemsize)
            context = self.work.context.copy()
            context[3 : 3 + SOURCE_WORDS] = (*map(address, tables), *numbers)
            found = replace(self.work, context=context, keep=(*self.work.keep, *tables))
            # Few layers are asked for in more than one way: what is kept for others is only in the way.
            if len(self._reading) >= MOST_SOURCES:
                self._reading.clear()
            self._reading[how] = found
        return found


def _source(
    shape: tuple[int, ...], strides: tuple[int, ...], size: int
) -> tuple[tuple[npt.NDArray[np.int64], ...], tuple[int, ...]]:
    """Return what `weight_rows` reads of weights: lists of offsets, and numbers."""
    reach = [np.arange(count, dtype=np.int64) * step for count, step in zip(shape, strides, strict=True)]
    outputs = reduce(np.add.outer, reach[:-3]).ravel()
    channels, places = reach[-3], np.add.outer(*reach[-2:]).ravel()
    steps, neighbours = np.diff(outputs), np.diff(np.add.outer(channels, places).ravel())
    regular, solid = np.all(steps == steps[:1]), np.all(neighbours == size)
    o_step = (
        int(steps[0]) if len(steps) and regular else places.size * channels.size * size * (len(steps) == 0)
    )
    near = len(places) == 1 or (len(channels) > 1 and abs(strides[-3]) < np.abs(np.diff(places)).min())
    # Vectors of offsets are read whole, so that the lists go on behind the last.
    listed = np.concatenate([outputs, np.repeat(outputs[-1:], MOST_LANES)])
    return (listed, channels, places), (len(places), o_step, size if solid else 0, int(near))


class WeightLayout(PackedLayout):
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

    def __init__(
        self, dtype: str, groups: int, per_group: int, rows: int, width: int, index: npt.NDArray[np.int64]
    ) -> None:
        size = np.dtype(dtype).itemsize
        self.blocks = -(-per_group // width)
        self.block_bytes = rows * width * size
        count = groups * self.blocks
        bias = -(-count * self.block_bytes // LINE) * LINE
        flags = bias + -(-count * width * size // LINE) * LINE
        numbers = (address(index), len(index), rows, width, per_group, self.blocks, bias, flags)
        seconds = SECONDS_PER_WEIGHT * len(index) * per_group * groups
        super().__init__(
            dtype, pack_weights_task(dtype, LINE // size), numbers, count, seconds, bias, flags, (index,)
        )


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


class PackedWeights:
    """Packed weights and biases; their memory goes back to the pool of workspaces when nobody holds them any more.

    A functional call packs into memory that an earlier one has used: fresh pages would cost more than the packing.
    """

    __slots__ = ("_block", "_layout", "bias", "weights")

    def __init__(self, layout: PackedLayout, weights: Array, bias: Array | None, threads: int) -> None:
        self._block, self._layout = workspace.take(layout.total_bytes), layout
        self.weights = self._block.address
        self.bias = self.weights + layout.bias_offset
        where = (address(weights), self.weights, 0 if bias is None else address(bias))
        run(layout.reading(weights), *where, threads)

    @property
    def finite(self) -> bool:
        """Whether no weight is infinite or NaN."""
        # A list takes a quarter of the time of NumPy's `any`, up to hundreds of blocks.
        return not any(self._block.words(self._layout.flags_offset, self._layout.total_bytes).tolist())

    def __del__(self) -> None:
        # Nothing is left to give back to when the interpreter goes down, or if taking the memory failed.
        if workspace is not None and hasattr(self, "_block"):
            workspace.give(self._block)
