"""Winograd's transforms of a tile of a transposed convolution, and of its gradients, as straight vector code.

The matrices of both axes come from `phase_matrices`; the phases of the stride stand side by side in them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from fastconv.kernels.simd import (
    I64,
    close_loop,
    emit_fma,
    emit_load,
    emit_report,
    emit_store,
    emitted,
    enter_loop,
    i64,
    internal_function,
    item_bytes,
    vector_type,
)
from fastconv.kernels.winograd_matrices import Matrix, phase_matrices
from fastconv.kernels.winograd_tile import Linear


def axis_matrix(kind: str, m: int, taps: int, stride: int, pad: int) -> Matrix:
    """Return the matrix of one axis that transforms what `kind` says.

    "inputs" of a transposed convolution: a window of pixels to points; "gradients" by its outputs: a tile of them to
    points; "kernels": taps to kernel points; "outputs": points to a tile; "kernel_gradients": kernel points to taps.
    "bare_kernels" lack a factor of each kernel point, which "scaled_inputs" have instead.
    """
    matrices = phase_matrices(m, taps, stride, pad)
    # The last tap that counts meets the first power of a point: its factor is what all have in common.
    scales = [next(value for value in reversed(row) if value) for row in matrices.kernels]
    found: dict[str, Matrix] = {
        "inputs": matrices.inputs,
        "gradients": tuple(zip(*matrices.outputs, strict=True)),
        "kernels": matrices.kernels,
        "outputs": matrices.outputs,
        "kernel_gradients": tuple(zip(*matrices.kernels, strict=True)),
        "scaled_inputs": tuple(
            tuple(scales[u] * value for value in row)
            for u, row in zip(matrices.shared, matrices.inputs, strict=True)
        ),
        "bare_kernels": tuple(
            tuple(value / scale for value in row) for scale, row in zip(scales, matrices.kernels, strict=True)
        ),
    }
    return found[kind]


def _emit_phases(builder: Any, kind: str, *constants: Any) -> Any:
    *axes, dtype, lanes = constants
    name = f"phases_{kind}_{'_'.join(map(str, constants))}"
    function, done = internal_function(builder, name, 8)
    if done:
        return function
    source, places, target, targets, source_step, target_step, count, flag = function.args
    down, across = axis_matrix(kind, *axes[:4]), axis_matrix(kind, *axes[4:])
    high, wide, size = len(down[0]), len(across[0]), item_bytes(dtype)
    vector = vector_type(dtype, lanes)
    b = ir.IRBuilder(function.append_basic_block("entry"))
    loop, end = function.append_basic_block("loop"), function.append_basic_block("end")
    zero = ir.Constant(vector, None)
    left, here, there, bad = enter_loop(b, loop, [count, source, target, zero])
    linear = Linear(b, dtype, lanes)

    def at(table: Any, index: int) -> Any:
        return emit_load(b, b.add(table, i64(8 * index)), I64, 8)

    columns = []
    for j in range(wide):
        loaded = [emit_load(b, b.add(here, at(places, i * wide + j)), vector, size) for i in range(high)]
        columns.append(linear.apply(down, loaded))
    still_bad = bad
    for i in range(len(down)):
        for j, value in enumerate(linear.apply(across, [column[i] for column in columns])):
            emit_store(b, value, b.add(there, at(targets, i * len(across) + j)), size)
            if kind == "outputs":
                still_bad = emit_fma(b, dtype, value, zero, still_bad)
    rest = b.sub(left, i64(1))
    following = [rest, b.add(here, source_step), b.add(there, target_step), still_bad]
    close_loop(b, loop, [left, here, there, bad], following, b.icmp_signed(">", rest, i64(0)), end)
    if kind == "outputs":
        emit_report(b, still_bad, flag)
    b.ret_void()
    return function


@intrinsic(prefer_literal=True)
def transform_phases(
    context: Any, kind: Any,
    mh: Any, kh: Any, sh: Any, top: Any, mw: Any, kw: Any, sw: Any, left: Any, dtype: Any, lanes: Any,
    source: Any, places: Any, target: Any, targets: Any,
    source_step: Any, target_step: Any, count: Any, flag: Any,
) -> Any:  # fmt: skip
    """Transform one tile, ``D t A^T``, for `count` vectors of channels; D and A are matrices of the two axes.

    `kind` says which: those of `axis_matrix`.

    Shapes   t (h, w): element (i, j) of vector v at ``source + places[i*w + j] + v*source_step``, and of the result at
             ``target + targets[i*w + j] + v*target_step``, w its own; tables (int64) and steps in bytes
    Assumes  count >= 1; whole vectors may be read and written
    Touches  writes target; for "outputs" 1 at `flag` when a result is not finite
    Source   arXiv:1509.09308
    """
    words = (kind, mh, kh, sh, top, mw, kw, sw, left, dtype, lanes)

    return emitted(_emit_phases, words, 8)
