"""More vector words: masks, comparisons and choices by lane, reductions of a vector, picks of every second element.

In the manner of `simd`, whose types they share. They serve the operators that pick and compare rather than multiply.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from fastconv.kernels.simd import (
    I1,
    I32,
    SCALARS,
    VectorType,
    declare,
    emit_lane_mask,
    emit_load,
    emit_masked_load,
    emit_splat,
    is_float,
    item_bytes,
    vector_type,
)


class MaskType(types.Type):
    """Numba's type of one truth value per lane."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"mask({lanes})")


@register_model(MaskType)
class MaskModel(models.PrimitiveModel):
    """A mask is one LLVM value: a mask register where there are such."""

    def __init__(self, manager: Any, frontend: MaskType) -> None:
        super().__init__(manager, frontend, ir.VectorType(I1, frontend.lanes))


@intrinsic(prefer_literal=True)
def vload_rest(context: Any, dtype: Any, lanes: Any, address: Any, count: Any, rest: Any) -> Any:
    """Return the first `count` lanes from `address`, those of the vector `rest` in the others."""
    word, n = dtype.literal_value, lanes.literal_value

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        mask = emit_lane_mask(builder, n, args[3])
        return builder.select(mask, emit_masked_load(builder, word, args[2], mask), args[4])

    return rest(dtype, lanes, types.intp, types.intp, rest), generate


@intrinsic(prefer_literal=True)
def vload_between(context: Any, dtype: Any, lanes: Any, address: Any, start: Any, stop: Any) -> Any:
    """Return lanes `start` ... `stop` - 1 from `address`, zero in the others; only those are touched."""
    word, n = dtype.literal_value, lanes.literal_value

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        before = emit_lane_mask(builder, n, args[3])
        mask = builder.and_(emit_lane_mask(builder, n, args[4]), builder.not_(before))
        return emit_masked_load(builder, word, args[2], mask)

    return VectorType(word, n)(dtype, lanes, types.intp, types.intp, types.intp), generate


@intrinsic(prefer_literal=True)
def vload_bits(context: Any, dtype: Any, lanes: Any, address: Any, bits: Any) -> Any:
    """Return the lanes whose bits are set from `address`, zero in the others; only those are touched."""
    word, n = dtype.literal_value, lanes.literal_value

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        mask = builder.bitcast(builder.trunc(args[3], ir.IntType(n)), ir.VectorType(I1, n))
        return emit_masked_load(builder, word, args[2], mask)

    return VectorType(word, n)(dtype, lanes, types.intp, types.intp), generate


@intrinsic
def vmul(context: Any, x: Any, y: Any) -> Any:
    """Return x * y, lane by lane."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.fmul(*args) if is_float(x.dtype) else builder.mul(*args)

    return x(x, x), generate


@intrinsic
def vdiv(context: Any, x: Any, y: Any) -> Any:
    """Return x / y, lane by lane, of floats."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.fdiv(*args)

    return x(x, x), generate


def _emit_max(builder: Any, dtype: str, x: Any, y: Any) -> Any:
    compare = builder.fcmp_ordered if is_float(dtype) else builder.icmp_signed
    return builder.select(compare(">", x, y), x, y)


@intrinsic
def vmax(context: Any, x: Any, y: Any) -> Any:
    """Return x where x > y, else y: one instruction. A NaN of y comes out, one of x does not."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return _emit_max(builder, x.dtype, *args)

    return x(x, x), generate


@intrinsic
def vgreater(context: Any, x: Any, y: Any) -> Any:
    """Return the mask of x > y: false where one of them is NaN."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        compare = builder.fcmp_ordered if is_float(x.dtype) else builder.icmp_signed
        return compare(">", *args)

    return MaskType(x.lanes)(x, x), generate


@intrinsic
def vunordered(context: Any, x: Any, y: Any) -> Any:
    """Return the mask of lanes where x or y is NaN: false in integers."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        if is_float(x.dtype):
            return builder.fcmp_unordered("uno", *args)
        return ir.Constant(ir.VectorType(I1, x.lanes), None)

    return MaskType(x.lanes)(x, x), generate


@intrinsic
def vor(context: Any, x: Any, y: Any) -> Any:
    """Return the mask of lanes that are in x or in y."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.or_(*args)

    return x(x, x), generate


@intrinsic
def vany(context: Any, mask: Any) -> Any:
    """Return whether any lane is in the mask."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        bits = ir.IntType(mask.lanes)
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], bits), ir.Constant(bits, 0))

    return types.boolean(mask), generate


@intrinsic
def vselect(context: Any, mask: Any, x: Any, y: Any) -> Any:
    """Return x in the lanes of the mask, y in the others."""

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return builder.select(*args)

    return x(mask, x, x), generate


@intrinsic(prefer_literal=True)
def vcast(context: Any, dtype: Any, x: Any) -> Any:
    """Return whole numbers as another integer type, wrapping around where it is narrower."""
    word = dtype.literal_value

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        kind = vector_type(word, x.lanes)
        if item_bytes(word) > item_bytes(x.dtype):
            return builder.sext(args[1], kind)
        return builder.trunc(args[1], kind) if item_bytes(word) < item_bytes(x.dtype) else args[1]

    return VectorType(word, x.lanes)(dtype, x), generate


@intrinsic(prefer_literal=True)
def vreduce(context: Any, operation: Any, x: Any) -> Any:
    """Return the "sum" or the "max" of all lanes, the upper half joined to the lower until one is left."""
    summed = operation.literal_value == "sum"

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        value, lanes = args[1], x.lanes
        while lanes > 1:
            lanes //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = (
                builder.shuffle_vector(
                    value, undefined, ir.Constant(ir.VectorType(I32, lanes), list(range(at, at + lanes)))
                )
                for at in (0, lanes)
            )
            if not summed:
                value = _emit_max(builder, x.dtype, high, low)
            else:
                value = builder.fadd(low, high) if is_float(x.dtype) else builder.add(low, high)
        return builder.extract_element(value, ir.Constant(I32, 0))

    return SCALARS[x.dtype][1](operation, x), generate


@intrinsic(prefer_literal=True)
def vpick(context: Any, dtype: Any, lanes: Any, step: Any, address: Any, offsets: Any) -> Any:
    """Return elements 0, `step`, 2 * `step`, ... of the `step` * `lanes` elements at `address`, all of which are read.

    Where `step` is 0, the elements at `address` plus the `lanes` int64 bytes listed at `offsets`.
    """
    word, n, stride = (value.literal_value for value in (dtype, lanes, step))
    vector, size = vector_type(word, n), item_bytes(word)

    def strided(builder: Any, place: Any) -> Any:
        run = emit_load(builder, place, vector_type(word, n * stride), size)
        picked = ir.Constant(ir.VectorType(I32, n), list(range(0, n * stride, stride)))
        return builder.shuffle_vector(run, ir.Constant(run.type, ir.Undefined), picked)

    def gathered(builder: Any, place: Any, table: Any) -> Any:
        listed = emit_load(builder, table, vector_type("int64", n), 8)
        places = builder.add(listed, emit_splat(builder, place, n))
        pointers = ir.VectorType(SCALARS[word][0].as_pointer(), n)
        mask = ir.VectorType(I1, n)
        name = f"llvm.masked.gather.v{n}{SCALARS[word][3]}.v{n}p0"
        function = declare(builder, name, vector, [pointers, I32, mask, vector])
        everywhere, undefined = ir.Constant(mask, [1] * n), ir.Constant(vector, ir.Undefined)
        align = ir.Constant(I32, size)
        return builder.call(function, [builder.inttoptr(places, pointers), align, everywhere, undefined])

    def generate(_c: Any, builder: Any, _s: Any, args: Any) -> Any:
        return strided(builder, args[3]) if stride else gathered(builder, args[3], args[4])

    return VectorType(word, n)(dtype, lanes, step, types.intp, types.intp), generate
