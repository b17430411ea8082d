"""The one way to compile: device functions, kernels made by factories, and the few functions Python calls
directly.

Kernels are C functions ``void task(ctx: intp, i: intp, scratch: intp)`` compiled by Numba, one per set of
constants, on the first question for their address. No fastmath, no arrays, no exceptions; integers that
index are addresses.
"""

from __future__ import annotations

import inspect
import os
import re
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import numba
from numba.core import config, sigutils, types
from numba.core.ccallback import CFunc

from fastconv.kernels.store import KernelStore

F = TypeVar("F", bound=Callable[..., Any])
Constant = int | float | str

TASK = types.void(types.intp, types.intp, types.intp)
_FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True}

#: Guards the tables of kernels and their compilation. Numba compiles one function at a time anyway.
_lock = threading.RLock()


def _new_lock() -> None:
    # A thread of the parent that held the lock does not exist in a forked child.
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def device(function: F) -> F:
    """Compile `function` into the kernels that call it: no cache of its own, no fastmath."""
    compiled: F = numba.njit(**_FLAGS)(function)
    return compiled


class Kernel:
    """One compiled task, made by a factory from its constants.

    Attributes
    ----------
    name : str
        The factory's name with the constants, unique in the process.
    """

    __slots__ = ("_address", "_compiled", "_task", "name")

    def __init__(self, name: str, task: FunctionType) -> None:
        self.name = task.__name__ = task.__qualname__ = name
        self._task = task
        self._compiled: CFunc | None = None
        self._address = 0

    def __repr__(self) -> str:
        return f"<Kernel {self.name}>"

    @property
    def address(self) -> int:
        """The address of the C function; compiles it, or loads it from disk, when it is asked for first."""
        return self._address or self._compile()

    def asm(self) -> str:
        """Return the assembly text, compiled anew: code loaded from disk cannot be printed."""
        compiled = self._new()
        with _lock:
            compiled.compile()
        text: str = compiled._library.get_asm_str()
        return text

    def _new(self) -> CFunc:
        _require_jit()
        return CFunc(self._task, sigutils.normalize_signature(TASK), locals={}, options=dict(_FLAGS))

    def _compile(self) -> int:
        with _lock:
            if not self._address:
                compiled = self._new()
                compiled._cache = KernelStore(self._task, f"cfunc {_FLAGS}")
                compiled.compile()
                self._compiled, self._address = compiled, compiled.address
                _names.append(self.name)
            return self._address


def task_factory(make: Callable[..., Callable[[int, int, int], None]]) -> Callable[..., Kernel]:
    """Turn a function that defines a task for given constants into a factory of kernels, one per set of
    constants.

    Examples
    --------
    >>> @task_factory
    ... def fill(value: int) -> Task:
    ...     def task(ctx, i, scratch):
    ...         store_int64(load_int64(ctx + 8) + 8 * i, value)
    ...
    ...     return task
    >>> fill(7).name
    'fill_7'
    """
    signature = inspect.signature(make)
    kernels: dict[tuple[Any, ...], Kernel] = {}

    def factory(*args: Constant, **kwargs: Constant) -> Kernel:
        # 1, 1.0 and True are equal, and not the same constant.
        key = (*args, *map(type, args))
        kernel = None if kwargs else kernels.get(key)
        if kernel is not None:
            return kernel
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        full = bound.args
        for name, value in bound.arguments.items():
            if not isinstance(value, (int, float, str)):
                raise TypeError(
                    f"{make.__name__}({name}={value!r}): constants of kernels are int, float or str"
                )
        with _lock:
            full_key = (*full, *map(type, full))
            if full_key not in kernels:
                task = make(*full)
                assert isinstance(task, FunctionType)
                kernels[full_key] = Kernel("_".join([make.__name__, *map(_word, full)]), task)
            kernel = kernels[full_key]
            if not kwargs:
                kernels[key] = kernel
        return kernel

    factory.__name__ = factory.__qualname__ = make.__name__
    factory.__module__ = make.__module__
    factory.__doc__ = make.__doc__
    return factory


def native(function: Callable[..., Any], signature: Any, *, parallel: bool = False) -> Callable[..., Any]:
    """Compile `function` for Python to call with integers, or load it from disk.

    Returns the bare C function behind Numba's dispatcher: one signature needs no choice, and the call is
    twice as fast.
    """
    _require_jit()
    flags = {**_FLAGS, "parallel": parallel}
    with _lock:
        dispatcher = numba.njit(**flags)(function)
        assert isinstance(function, FunctionType)
        dispatcher._cache = KernelStore(function, f"njit {flags}")
        entry: Callable[..., Any] = dispatcher.compile(signature)
        dispatcher.disable_compile()
        _dispatchers.append(dispatcher)
    return entry


#: Keeps the machine code behind bare C functions alive.
_dispatchers: list[Any] = []
#: Names of the kernels that have machine code.
_names: list[str] = []


def compiled() -> tuple[str, ...]:
    """Return the names of the kernels that were compiled, or loaded from disk, in this process."""
    return tuple(_names)


def _require_jit() -> None:
    if config.DISABLE_JIT:
        raise RuntimeError("fastconv needs Numba's compiler: unset NUMBA_DISABLE_JIT")


def _word(value: Constant) -> str:
    """Spell a constant so that it can stand in a symbol's name, different for different constants."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return re.sub(r"^(?=[0-9]|$)|[^0-9A-Za-z]", lambda match: f"u{ord(match[0] or '_'):x}", value)
    return re.sub(r"[^0-9A-Za-z]", lambda match: {"-": "m", ".": "p"}.get(match[0], "_"), repr(value))
