"""Small shared arithmetic of the algorithms: padded maps, contexts, segments. Host side, once per problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.problem import Problem

Int64s = npt.NDArray[np.int64]

_NUMPY_MODES: dict[str, Any] = {
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "circular": "wrap",
}


def padded_map(size: int, before: int, count: int, mode: str) -> Int64s:
    """Return for padded positions 0 ... count - 1 which of the `size` input positions stands there; -1 is zero.

    NumPy's own padding of the index range says it, so the five modes mean what NumPy means by their names.
    """
    index: Int64s = np.arange(size, dtype=np.int64)
    after = max(count - before - size, 0)
    if mode == "zeros":
        full = np.pad(index, (before, after), constant_values=-1)
    else:
        full = np.pad(index, (before, after), mode=_NUMPY_MODES[mode])
    return np.ascontiguousarray(full[:count], dtype=np.int64)


def row_map(problem: Problem, count: int | None = None) -> Int64s:
    """Return the map of padded rows; beyond the padding (the slack of the last block) there are zeros."""
    top, bottom, _, _ = problem.padding
    return _with_slack(problem.h, top, bottom, problem.padding_mode, count)


def column_map(problem: Problem, count: int | None = None) -> Int64s:
    """Return the map of padded columns; beyond the padding (the slack of the last tile) there are zeros."""
    _, _, left, right = problem.padding
    return _with_slack(problem.w, left, right, problem.padding_mode, count)


def _with_slack(size: int, before: int, after: int, mode: str, count: int | None) -> Int64s:
    full = padded_map(size, before, before + size + after, mode)
    if count is None or count <= len(full):
        return full[:count]
    return np.concatenate([full, np.full(count - len(full), -1, dtype=np.int64)])


def context(*values: int) -> Int64s:
    """Return a task's context: five words filled in later (see `interface.CONTEXT`), then `values` in order."""
    return np.array([0, 0, 0, 0, 0, *values], dtype=np.int64)


def column_segments(live: int, vectors: int, lanes: int, size: int) -> Int64s:
    """Return the store segments of a tile whose `live` columns lie side by side."""
    words: list[int] = []
    for j in range(vectors):
        count = min(max(live - j * lanes, 0), lanes)
        words += [1, j * lanes * size, (1 << count) - 1] if count else [0]
    return np.array(words, dtype=np.int64)


def aligned_up(value: int, step: int) -> int:
    """Return the smallest multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def rounding(problem: Problem) -> float:
    """Return eps of the compute dtype: the unit of error bounds. Sums of integers are exact."""
    dtype = np.dtype(problem.compute_dtype)
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def pads_with_zeros(problem: Problem) -> bool:
    """Tell whether any output has a tap on zero padding."""
    return problem.padding_mode == "zeros" and any(problem.padding)


def one_item() -> Int64s:
    """Return the table of a batch of one item that starts where A and B start."""
    return np.zeros(2, dtype=np.int64)
