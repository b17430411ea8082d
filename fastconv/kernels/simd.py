"""The vector words: what kernels say instead of hoping for the auto-vectoriser.

Two layers of the same vocabulary. The ``emit_*`` functions write LLVM vector IR with an IRBuilder and serve the files
that generate whole kernels (`gemm_tile`, `epilogue`). The words below them (`vload`, `vfma`, ...) are the same
operations for use inside compiled Python functions, on a vector type that Numba keeps in a register.

One meaning each: addresses are integers, unaligned is the default, a ``_tail`` word takes the count of live lanes and
touches no byte beyond them, ``dtype`` and ``lanes`` are compile-time constants. Plain Numba loops reach 7-24 GFLOP/s
on the core where these words reach over 180.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)

#: dtype word -> (LLVM scalar type, Numba scalar type, bytes, suffix of LLVM's overloaded names)
SCALARS: dict[str, tuple[Any, Any, int, str]] = {
    "float32": (ir.FloatType(), types.float32, 4, "f32"),
    "float64": (ir.DoubleType(), types.float64, 8, "f64"),
    "int32": (I32, types.int32, 4, "i32"),
    "int64": (I64, types.int64, 8, "i64"),
}


def is_float(dtype: str) -> bool:
    """Tell whether `dtype` is computed in floating point."""
    return dtype.startswith("float")


def item_bytes(dtype: str) -> int:
    """Return the bytes of one element of `dtype`."""
    return SCALARS[dtype][2]


# ---------------------------------------------------------------------------------------------- emission


def i64(value: int) -> Any:
    """Return an LLVM 64-bit constant."""
    return ir.Constant(I64, value)


def vector_type(dtype: str, lanes: int) -> Any:
    """Return the LLVM type of `lanes` elements of `dtype`."""
    return ir.VectorType(SCALARS[dtype][0], lanes)


def declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return the module's declaration of the external function or LLVM intrinsic `name`."""
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def internal_function(builder: Any, name: str, count: int) -> tuple[Any, bool]:
    """Return the module's internal function of `count` int64 arguments, and whether it has a body already."""
    found = builder.module.globals.get(name)
    if found is not None:
        return found, True
    made = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [I64] * count), name)
    made.linkage = "internal"
    made.attributes.add("noinline")
    return made, False


def emitted(emit: Callable[..., Any], constants: Sequence[Any], count: int) -> tuple[Any, Any]:
    """Return what an intrinsic returns whose last `count` arguments go to the function that `emit` makes.

    `emit` is called with the builder and the values of `constants`, which are the intrinsic's first arguments.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        function = emit(builder, *(constant.literal_value for constant in constants))
        builder.call(function, args[len(constants) :])
        return target.get_dummy_value()

    return types.void(*constants, *[types.intp] * count), generate


def enter_loop(builder: Any, block: Any, start: list[Any]) -> list[Any]:
    """Branch to `block` and return phis there that begin with the values in `start`."""
    origin = builder.block
    builder.branch(block)
    builder.position_at_end(block)
    values = [builder.phi(value.type) for value in start]
    for value, first in zip(values, start, strict=True):
        value.add_incoming(first, origin)
    return values


def close_loop(builder: Any, block: Any, phis: list[Any], following: list[Any], again: Any, end: Any) -> None:
    """Go round to `block` with the values `following` while `again`, else on to `end`."""
    for phi, value in zip(phis, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(again, block, end)
    builder.position_at_end(end)


def emit_load(builder: Any, address: Any, llvm_type: Any, align: int) -> Any:
    """Load one value; alignment is stated, for LLVM's default is the natural one and NumPy's memory is not."""
    return builder.load(builder.inttoptr(address, llvm_type.as_pointer()), align=align)


def emit_store(builder: Any, value: Any, address: Any, align: int) -> None:
    """Store one value at an integer address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def emit_prefetch(builder: Any, address: Any, *, write: bool, locality: int = 3) -> None:
    """Ask for the line at `address`, into L1 (locality 3) or L2 (2); a hint, which never faults."""
    pointer = I8.as_pointer()
    function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, I32, I32, I32])
    hints = [ir.Constant(I32, value) for value in (int(write), locality, 1)]
    builder.call(function, [builder.inttoptr(address, pointer), *hints])


def emit_splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """Return a vector with `scalar` in every lane."""
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def emit_add(builder: Any, dtype: str, x: Any, y: Any) -> Any:
    """Return x + y."""
    return builder.fadd(x, y) if is_float(dtype) else builder.add(x, y)


def emit_fma(builder: Any, dtype: str, x: Any, y: Any, z: Any) -> Any:
    """Return x * y + z: one fused instruction where the machine has it, two where it has not."""
    if not is_float(dtype):
        return builder.add(builder.mul(x, y), z)
    # llvm.fmuladd, not llvm.fma: without FMA hardware the latter becomes one library call per lane.
    lanes = x.type.count if isinstance(x.type, ir.VectorType) else 0
    suffix = (f"v{lanes}" if lanes else "") + SCALARS[dtype][3]
    return builder.call(declare(builder, f"llvm.fmuladd.{suffix}", x.type, [x.type] * 3), [x, y, z])


def emit_report(builder: Any, check: Any, flag: Any) -> None:
    """Store 1 (int64) at `flag` when a lane of the vector `check`, sums of 0 times values, is not a number."""
    b, function, lanes = builder, builder.function, ir.IntType(check.type.count)
    bad = b.bitcast(b.fcmp_unordered("uno", check, check), lanes)
    report, after = function.append_basic_block("report"), function.append_basic_block("after")
    b.cbranch(b.icmp_unsigned("!=", bad, ir.Constant(lanes, 0)), report, after)
    b.position_at_end(report)
    emit_store(b, i64(1), flag, 8)
    b.branch(after)
    b.position_at_end(after)


def emit_lane_mask(builder: Any, lanes: int, count: Any) -> Any:
    """Return the mask whose first `count` lanes are live (`count` may exceed `lanes`)."""
    index = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", index, emit_splat(builder, count, lanes))


def emit_masked_load(builder: Any, dtype: str, address: Any, mask: Any) -> Any:
    """Load the live lanes, zero in the others; no byte of a dead lane is touched."""
    lanes = mask.type.count
    vector = vector_type(dtype, lanes)
    name = f"llvm.masked.load.v{lanes}{SCALARS[dtype][3]}.p0"
    function = declare(builder, name, vector, [vector.as_pointer(), I32, mask.type, vector])
    pointer = builder.inttoptr(address, vector.as_pointer())
    align = ir.Constant(I32, item_bytes(dtype))
    return builder.call(function, [pointer, align, mask, ir.Constant(vector, None)])


def emit_masked_store(builder: Any, dtype: str, value: Any, address: Any, mask: Any) -> None:
    """Store the live lanes; no byte of a dead lane is touched."""
    lanes = mask.type.count
    vector = vector_type(dtype, lanes)
    name = f"llvm.masked.store.v{lanes}{SCALARS[dtype][3]}.p0"
    function = declare(builder, name, ir.VoidType(), [vector, vector.as_pointer(), I32, mask.type])
    pointer = builder.inttoptr(address, vector.as_pointer())
    builder.call(function, [value, pointer, ir.Constant(I32, item_bytes(dtype)), mask])


# ---------------------------------------------------------------------------------- words for kernels


class VectorType(types.Type):
    """Numba's type of a vector held in a register."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"vector({dtype} x {lanes})")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is one LLVM value."""

    def __init__(self, manager: Any, frontend: VectorType) -> None:
        super().__init__(manager, frontend, vector_type(frontend.dtype, frontend.lanes))


def _constant(literal: Any) -> Any:
    """Return the value behind a compile-time constant argument."""
    return literal.literal_value


@intrinsic(prefer_literal=True)
def load(context: Any, dtype: Any, address: Any) -> Any:
    """Return the scalar of `dtype` at `address`."""
    word = _constant(dtype)
    llvm, numba_type, size, _ = SCALARS[word]

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return emit_load(builder, args[1], llvm, size)

    return numba_type(dtype, types.intp), generate


@intrinsic(prefer_literal=True)
def store(context: Any, dtype: Any, address: Any, value: Any) -> Any:
    """Store the scalar `value` of `dtype` at `address`."""
    word = _constant(dtype)
    _, numba_type, size, _ = SCALARS[word]

    def generate(target: Any, builder: Any, _s: Any, args: Any) -> Any:
        emit_store(builder, args[2], args[1], size)
        return target.get_dummy_value()

    return types.void(dtype, types.intp, numba_type), generate


@intrinsic(prefer_literal=True)
def vload(context: Any, dtype: Any, lanes: Any, address: Any) -> Any:
    """Return the vector at `address`."""
    word, n = _constant(dtype), _constant(lanes)

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return emit_load(builder, args[2], vector_type(word, n), item_bytes(word))

    return VectorType(word, n)(dtype, lanes, types.intp), generate


@intrinsic(prefer_literal=True)
def vload_even(context: Any, dtype: Any, lanes: Any, address: Any) -> Any:
    """Return elements 0, 2, 4, ... of the 2 * `lanes` elements at `address`, all of which are read."""
    word, n = _constant(dtype), _constant(lanes)

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        both = emit_load(builder, args[2], vector_type(word, 2 * n), item_bytes(word))
        picked = ir.Constant(ir.VectorType(I32, n), list(range(0, 2 * n, 2)))
        return builder.shuffle_vector(both, ir.Constant(both.type, ir.Undefined), picked)

    return VectorType(word, n)(dtype, lanes, types.intp), generate


@intrinsic
def vstore(context: Any, address: Any, value: Any) -> Any:
    """Store a vector at `address`."""

    def generate(target: Any, builder: Any, _s: Any, args: Any) -> Any:
        emit_store(builder, args[1], args[0], item_bytes(value.dtype))
        return target.get_dummy_value()

    return types.void(types.intp, value), generate


@intrinsic(prefer_literal=True)
def vload_tail(context: Any, dtype: Any, lanes: Any, address: Any, count: Any) -> Any:
    """Return the first `count` lanes from `address`, zero in the others."""
    word, n = _constant(dtype), _constant(lanes)

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return emit_masked_load(builder, word, args[2], emit_lane_mask(builder, n, args[3]))

    return VectorType(word, n)(dtype, lanes, types.intp, types.intp), generate


@intrinsic
def vstore_tail(context: Any, address: Any, value: Any, count: Any) -> Any:
    """Store the first `count` lanes of a vector at `address`."""

    def generate(target: Any, builder: Any, _s: Any, args: Any) -> Any:
        mask = emit_lane_mask(builder, value.lanes, args[2])
        emit_masked_store(builder, value.dtype, args[1], args[0], mask)
        return target.get_dummy_value()

    return types.void(types.intp, value, types.intp), generate


@intrinsic(prefer_literal=True)
def vsplat(context: Any, dtype: Any, lanes: Any, scalar: Any) -> Any:
    """Return a vector with `scalar` in every lane."""
    word, n = _constant(dtype), _constant(lanes)

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return emit_splat(builder, args[2], n)

    return VectorType(word, n)(dtype, lanes, SCALARS[word][1]), generate


@intrinsic
def vfma(context: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x * y + z, lane by lane."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return emit_fma(builder, x.dtype, *args)

    return x(x, x, x), generate


@intrinsic
def vadd(context: Any, x: Any, y: Any) -> Any:
    """Return x + y, lane by lane."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.fadd(*args) if is_float(x.dtype) else builder.add(*args)

    return x(x, x), generate


@intrinsic
def prefetch_far(context: Any, address: Any) -> Any:
    """Ask for the line at `address` to be brought into L2."""

    def generate(target: Any, builder: Any, _s: Any, args: Any) -> Any:
        emit_prefetch(builder, args[0], write=False, locality=2)
        return target.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def prefetch_own(context: Any, address: Any) -> Any:
    """Ask for the line at `address` to be brought into L1, for this core alone.

    What is read once from L3 comes at 37 to 39 GB/s instead of 34.5, if it is asked for so before the machine foresees
    it: some dozens of lines ahead, more than a page where a single stream is read. Lines that other cores read at the
    same time would be taken from them.
    """

    def generate(target: Any, builder: Any, _s: Any, args: Any) -> Any:
        emit_prefetch(builder, args[0], write=True)
        return target.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def copy_bytes(context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes from `source` to `target`, which do not overlap."""

    def generate(ctx: Any, builder: Any, _s: Any, args: Any) -> Any:
        pointer = I8.as_pointer()
        function = declare(builder, "llvm.memcpy.p0.p0.i64", ir.VoidType(), [pointer, pointer, I64, I1])
        operands = [builder.inttoptr(args[0], pointer), builder.inttoptr(args[1], pointer)]
        builder.call(function, [*operands, args[2], ir.Constant(I1, 0)])
        return ctx.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


@intrinsic
def zero_bytes(context: Any, target: Any, count: Any) -> Any:
    """Set `count` bytes at `target` to zero: 0 in every dtype."""

    def generate(ctx: Any, builder: Any, _s: Any, args: Any) -> Any:
        pointer = I8.as_pointer()
        function = declare(builder, "llvm.memset.p0.i64", ir.VoidType(), [pointer, I8, I64, I1])
        operands = [builder.inttoptr(args[0], pointer), ir.Constant(I8, 0), args[1], ir.Constant(I1, 0)]
        builder.call(function, operands)
        return ctx.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic(prefer_literal=True)
def words(context: Any, address: Any, count: Any) -> Any:
    """Return the `count` int64 words at `address` as a tuple: how a task unpacks its context."""
    n = _constant(count)

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [emit_load(builder, builder.add(args[0], i64(8 * i)), I64, 8) for i in range(n)]
        return target.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.int64, n)(types.intp, count), generate
