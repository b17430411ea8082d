"""The kernel that runs other kernels one after the other on one strip of an image."""

from __future__ import annotations

from collections.abc import Callable

from fastconv.kernels.atomics import call_task
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import load, store, words

Task = Callable[[int, int, int], None]

#: int64 words of one step: array and offset of x, array and offset of y, kernel, offset and length of its context,
#: tasks.
STEP_WORDS = 8
#: Bytes at the beginning of scratch for the context of a step.
CONTEXT_BYTES = 2048


@task_factory
def chain() -> Task:
    """Return the task that runs the steps of one strip, all their tasks, each step on what the ones before it left.

    Shapes   contexts of all kernels and behind them steps (strips, per_strip, STEP_WORDS), offsets of contexts being
             from their beginning; arrays are numbered: 0 is x, 1 is y, 2 is scratch
    Assumes  scratch holds a context, then what steps leave there, then from `room` on the scratch of a step
    Touches  what the steps touch, and scratch
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, _, contexts, table, per_strip, room = words(ctx, 7)
        for step in range(i * per_strip, (i + 1) * per_strip):
            source, from_offset, target, to_offset, kernel, context, length, tasks = words(
                contexts + table + step * 64, 8
            )
            for word in range(3, length):
                store("int64", scratch + 8 * word, load("int64", contexts + context + 8 * word))
            store("int64", scratch, (x if source == 0 else y if source == 1 else scratch) + from_offset)
            store("int64", scratch + 8, (x if target == 0 else y if target == 1 else scratch) + to_offset)
            store("int64", scratch + 16, 0)
            for k in range(tasks):
                call_task(kernel, scratch, k, scratch + room)

    return task
