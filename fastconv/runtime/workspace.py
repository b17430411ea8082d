"""Scratch memory: taken by a call, given back after it, kept for the next call of about that size.

A block belongs to one call at a time, so concurrent calls never share one. Sizes are rounded up to a few
classes per power of two; the free blocks together stay below `KEPT_BYTES`.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from functools import lru_cache

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
#: Most free memory that is kept for later calls.
KEPT_BYTES = 256 << 20


class Block:
    """Memory of one call: ``address`` is aligned, ``size`` is its class."""

    __slots__ = ("_words", "address", "size")

    def __init__(self, size: int) -> None:
        memory = np.empty(size + ALIGNMENT, np.uint8)
        skipped = -memory.ctypes.data % ALIGNMENT
        self.address = memory.ctypes.data + skipped
        self._words = memory[skipped : skipped + size].view(np.int64)
        self.size = size

    def words(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the int64 words from byte `start` to byte `stop`, multiples of 8."""
        return self._words[start // 8 : stop // 8]


_free: defaultdict[int, list[Block]] = defaultdict(list)
_kept = 0
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def workspace_bytes(scratch_bytes: int, workers: int) -> int:
    """Return the memory that `workers` workers take, each with `scratch_bytes` of scratch."""
    return scratch_stride(scratch_bytes) * workers


def scratch_stride(scratch_bytes: int) -> int:
    """Return the distance between the scratch areas of two workers."""
    return -(-scratch_bytes // ALIGNMENT) * ALIGNMENT


@lru_cache(maxsize=4096)
def size_class(size: int) -> int:
    """Round up to one of four sizes per power of two, at least a page."""
    step = max(1024, (1 << (size - 1).bit_length()) // 8) if size > 1 else 1024
    return -(-size // step) * step


def take(size: int) -> Block:
    """Return a block of at least `size` bytes that nobody else uses."""
    global _kept
    rounded = size_class(size)
    with _lock:
        blocks = _free[rounded]
        if blocks:
            _kept -= rounded
            return blocks.pop()
    return Block(rounded)


def give(block: Block) -> None:
    """Give a block back, for reuse or, when enough is kept, to the system."""
    global _kept
    with _lock:
        if _kept + block.size <= KEPT_BYTES:
            _kept += block.size
            _free[block.size].append(block)


def kept_bytes() -> int:
    """Return the free memory kept for later calls."""
    return _kept


def clear_workspaces() -> None:
    """Give the memory that is kept for later calls back to the system."""
    global _kept
    with _lock:
        _free.clear()
        _kept = 0
