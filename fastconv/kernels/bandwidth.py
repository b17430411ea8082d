"""What a core moves and multiplies when it does nothing else: the kernels behind the facts of a machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from ctypes import CFUNCTYPE, addressof, c_int64

from fastconv.kernels.jit import Kernel, task_factory
from fastconv.kernels.matrix_tile import matrix_products, tile_configure, tile_release
from fastconv.kernels.simd import vadd, vfma, vload, vsplat, vstore, words

Task = Callable[[int, int, int], None]

#: Bytes that one step of `read_stream` reads are this many vectors.
STEP = 8


@task_factory
def read_stream(lanes: int) -> Task:
    """Return the task that reads float32 vectors and adds them up, again and again.

    Shapes   ctx: rounds, address, steps of 8 vectors, address of one vector for the sum
    Touches  writes that vector
    """
    size = 4 * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        rounds, source, steps, target = words(ctx, 4)
        a = vload("float32", lanes, source)
        b, c, d = a, a, a
        for _ in range(rounds):
            at = source
            for _ in range(steps):
                # Chains of additions wait 4 cycles for each: four of two vectors keep up with two loads a cycle.
                a = vadd(a, vadd(vload("float32", lanes, at), vload("float32", lanes, at + size)))
                b = vadd(
                    b, vadd(vload("float32", lanes, at + 2 * size), vload("float32", lanes, at + 3 * size))
                )
                c = vadd(
                    c, vadd(vload("float32", lanes, at + 4 * size), vload("float32", lanes, at + 5 * size))
                )
                d = vadd(
                    d, vadd(vload("float32", lanes, at + 6 * size), vload("float32", lanes, at + 7 * size))
                )
                at += 8 * size
        vstore(target, vadd(vadd(a, b), vadd(c, d)))

    return task


@task_factory
def copy_stream(lanes: int) -> Task:
    """Return the task that copies float32 vectors, again and again.

    Shapes   ctx: rounds, address, steps of 8 vectors, address to copy to
    Touches  writes there
    """
    size = 4 * lanes

    def task(ctx: int, i: int, scratch: int) -> None:
        rounds, source, steps, target = words(ctx, 4)
        for _ in range(rounds):
            for step in range(2 * steps):
                at, to = source + step * 4 * size, target + step * 4 * size
                vstore(to, vload("float32", lanes, at))
                vstore(to + size, vload("float32", lanes, at + size))
                vstore(to + 2 * size, vload("float32", lanes, at + 2 * size))
                vstore(to + 3 * size, vload("float32", lanes, at + 3 * size))

    return task


@task_factory
def triad_stream(dtype: str, lanes: int, item: int) -> Task:
    """Return the task that streams three arrays: y = x + 3 * residual, as STREAM's triad does.

    Shapes   x, y, residual: ctx[5] vectors a task, one task after the other
    Assumes  nothing of the alignment
    Touches  reads x and residual, writes y
    """
    step = lanes * item

    def task(ctx: int, i: int, scratch: int) -> None:
        x, y, z, _weights, _bias, count = words(ctx, 6)
        factor = vsplat(dtype, lanes, 3.0)
        for vector in range(i * count, (i + 1) * count):
            at = vector * step
            vstore(y + at, vfma(factor, vload(dtype, lanes, z + at), vload(dtype, lanes, x + at)))

    return task


@task_factory
def matrix_stream() -> Task:
    """Return the task that multiplies matrix tiles which stay in L1, four for each two it loads.

    Shapes   ctx: address of the shape of tiles, address of 4 tiles and 4 sums, address of a table, its items
    Assumes  a matrix unit
    Touches  writes the sums
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        shape, data, table, items = words(ctx, 4)
        tile_configure(shape)
        one, other = data, data + 2048
        matrix_products(
            1, 2, 2, one, one + 1024, 64, 0, other, other + 1024, 64, 0, table, items, data + 4096
        )  # fmt: skip
        tile_release()

    return task


@task_factory
def nothing() -> Task:
    """Return the task that does nothing, to see what starting it costs.

    Touches  nothing
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        pass

    return task


def best_seconds(kernel: Kernel, context: tuple[int, ...], seconds: float) -> float:
    """Return the shortest time of one run of `kernel` on `context`, in about `seconds` of trying."""
    values = (c_int64 * len(context))(*context)
    call = CFUNCTYPE(None, c_int64, c_int64, c_int64)(kernel.address)
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call(addressof(values), 0, 0)
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
