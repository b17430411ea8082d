"""Memory words for the drain loops: plain and atomic access to integers by address, calls, pauses."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

I64 = ir.IntType(64)
INT = types.intp
_IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """Return the word at `address`, seeing everything stored before it was published."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), "acquire", 8)

    return INT(INT), codegen


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Publish `value` at `address`, after everything stored before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(INT, INT), codegen


@intrinsic
def plain_load(typing: Any, address: Any) -> Any:
    """Return the word at `address`, which nobody writes meanwhile."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, args[0]))

    return INT(INT), codegen


@intrinsic
def plain_store(typing: Any, address: Any, value: Any) -> Any:
    """Write a word that nobody reads before it is published."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _pointer(builder, args[0]))
        return context.get_dummy_value()

    return types.void(INT, INT), codegen


@intrinsic
def fetch_add(typing: Any, address: Any, amount: Any) -> Any:
    """Add to the word at `address` in one step; return what it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], "seq_cst")

    return INT(INT, INT), codegen


@intrinsic
def swap_if(typing: Any, address: Any, old: Any, new: Any) -> Any:
    """Replace `old` by `new` at `address` in one step; return 1 if that is what happened, else 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(pair, 1), I64)

    return INT(INT, INT, INT), codegen


@intrinsic
def stack_words(typing: Any, count: Any) -> Any:
    """Return the address of `count` words on the stack, alive until the calling function returns."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory = builder.alloca(I64, args[0])
        memory.align = 64
        return builder.ptrtoint(memory, I64)

    return INT(INT), codegen


@intrinsic
def call_task(typing: Any, function: Any, ctx: Any, i: Any, scratch: Any) -> Any:
    """Call the kernel at address `function`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(INT, INT, INT, INT), codegen


@intrinsic
def call_plain(typing: Any, function: Any) -> Any:
    """Call the C function ``int f(void)`` at an address and ignore its answer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(INT), codegen


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the core that this is a waiting loop (x86; elsewhere nothing)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.void(), codegen
