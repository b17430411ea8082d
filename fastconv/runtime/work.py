"""What an algorithm hands to the runtime."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.kernels.jit import Kernel

#: Scratch up to this size needs no workspace when one thread runs all tasks; the stacks of threads can be small.
STACK_BYTES = 16384
_INT64 = np.dtype(np.int64)


@dataclass(frozen=True, eq=False)
class Work:
    """One prepared computation: a kernel, its context, and how many tasks there are.

    Attributes
    ----------
    kernel : Kernel
        The compiled task.
    context : ndarray of int64
        Template of the context; a call works on a copy with the addresses of x, y and residual in entries 0
        to 2.
    tasks : int
        Number of tasks; they write disjoint outputs and may run in any order.
    scratch_bytes : int
        Private scratch memory of one worker.
    seconds : float
        Estimated time of all tasks on one thread.
    keep : tuple
        Whatever owns the memory whose addresses stand in the context.
    """

    kernel: Kernel
    context: npt.NDArray[np.int64]
    tasks: int
    scratch_bytes: int
    seconds: float
    keep: tuple[Any, ...] = ()
    #: Address and length of the template, asked for once.
    template: int = field(init=False, repr=False)
    words: int = field(init=False, repr=False)
    #: Words of scratch that a thread running alone takes from its stack; 0 where it is too much for that.
    stack_words: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        context = self.context
        if context.dtype != _INT64 or context.ndim != 1 or context.size < 3 or not context.flags.c_contiguous:
            raise ValueError(
                f"context must be a contiguous int64 vector of 3 or more, got {context.dtype} {context.shape}"
            )
        # A quarter of the time of `context.ctypes.data`: plans are made in every call of conv2d.
        address = ctypes.addressof(ctypes.c_char.from_buffer(context))  # type: ignore[arg-type]
        object.__setattr__(self, "template", address)
        object.__setattr__(self, "words", context.size)
        on_stack = self.scratch_bytes <= STACK_BYTES
        object.__setattr__(self, "stack_words", -(-self.scratch_bytes // 8) if on_stack else 0)
