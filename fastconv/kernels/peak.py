"""The machine's FMA peak, measured: the denominator of every "% of peak"."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import addressof, c_int64
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastconv.kernels.bandwidth import best_seconds
from fastconv.kernels.jit import task_factory
from fastconv.kernels.simd import I64, SCALARS, emit_fma, emit_splat, emit_store, i64, vector_type, words

Task = Callable[[int, int, int], None]

#: Independent chains: two FMA units of latency 4 need 8; 12 leave slack and fit machines with 16 registers.
CHAINS = 12


@intrinsic(prefer_literal=True)
def _chains(context: Any, dtype: Any, lanes: Any, steps: Any, target: Any) -> Any:
    """Run `steps` rounds of independent multiply-adds in registers and store one result at `target`."""
    word, n = dtype.literal_value, lanes.literal_value
    vector = vector_type(word, n)

    def generate(ctx: Any, b: Any, _s: Any, args: Any) -> Any:
        start, function = b.block, b.function
        loop, end = function.append_basic_block("loop"), function.append_basic_block("end")
        seed = emit_splat(b, b.sitofp(args[2], SCALARS[word][0]), n)
        b.branch(loop)
        b.position_at_end(loop)
        left = b.phi(I64)
        sums = [b.phi(vector) for _ in range(CHAINS)]
        left.add_incoming(args[2], start)
        following = [emit_fma(b, word, seed, seed, value) for value in sums]
        for value, after in zip(sums, following, strict=True):
            value.add_incoming(seed, start)
            value.add_incoming(after, loop)
        rest = b.sub(left, i64(1))
        left.add_incoming(rest, loop)
        b.cbranch(b.icmp_signed(">", rest, i64(0)), loop, end)
        b.position_at_end(end)
        total = following[0]
        for value in following[1:]:
            total = b.fadd(total, value)
        emit_store(b, b.extract_element(total, ir.Constant(ir.IntType(32), 0)), args[3], 4)
        return ctx.get_dummy_value()

    return types.void(dtype, lanes, types.intp, types.intp), generate


@task_factory
def fma_chains(dtype: str, lanes: int) -> Task:
    """Return the task that multiplies and adds in registers only.

    Shapes   y: 64 bytes a task; ctx[5]: number of rounds
    Touches  writes the first element of every 64 bytes
    """

    def task(ctx: int, i: int, scratch: int) -> None:
        _x, y, _residual, _weights, _bias, steps = words(ctx, 6)
        _chains(dtype, lanes, steps, y + 64 * i)

    return task


def measure_fma_gflops(dtype: str, lanes: int, seconds: float = 0.05) -> float:
    """Return the best GFLOP/s of one core in about `seconds` of multiply-adds on vectors of `lanes`."""
    result, rounds = (c_int64 * 1)(), 20_000
    best = best_seconds(fma_chains(dtype, lanes), (0, addressof(result), 0, 0, 0, rounds), seconds)
    return 2.0 * CHAINS * lanes * rounds / best / 1e9


@cache
def fma_gflops(dtype: str = "float32") -> float:
    """Return the FMA peak of one core of this machine in `dtype`, measured once per process (0.3 s)."""
    from fastconv.machine import Machine

    return measure_fma_gflops(dtype, Machine.host().lanes(dtype), 0.3)
