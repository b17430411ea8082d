"""How many threads a call may use: the smallest of everything that has a say."""

from __future__ import annotations

import operator
import os
import sys
import time
from typing import Any

from fastconv.machine import available_cores

#: Seconds for which the answer of the operating system is believed.
_BELIEVED = 1.0

_setting: int | None = None
_setting_read = False
_cores = 0
_cores_asked = 0.0
_numba_layer: Any = None


def set_num_threads(count: int | None) -> None:
    """Set the most threads a call uses from now on, in every thread of this process; None removes the limit.

    The number of threads never changes a result. Before the first call of this function the environment
    variable ``FASTCONV_NUM_THREADS`` counts.
    """
    global _setting, _setting_read
    _setting = None if count is None else _checked(count, "count")
    _setting_read = True


def get_num_threads() -> int:
    """Return how many threads a call would use now if it is large enough."""
    return effective_threads(None)


def effective_threads(requested: int | None) -> int:
    """Return how many threads a call may use now.

    That is the minimum of the argument, `set_num_threads` (or ``FASTCONV_NUM_THREADS``), Numba's limit in
    the calling thread, the CPUs this process may run on, and the container's CPU quota.
    """
    global _cores, _cores_asked
    now = time.monotonic()
    if now - _cores_asked > _BELIEVED:
        _cores, _cores_asked = available_cores(), now
    count = _cores
    if requested is not None:
        count = min(
            count, requested if type(requested) is int and requested > 0 else _checked(requested, "threads")
        )
    setting = _setting if _setting_read else _read_setting()
    if setting is not None and setting < count:
        count = setting
    return min(count, _numba_limit()) if count > 1 else count


def _checked(count: Any, name: str) -> int:
    if isinstance(count, bool):
        raise TypeError(f"{name} must be an integer, got {count!r}")
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {count!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _read_setting() -> int | None:
    global _setting, _setting_read
    text = os.environ.get("FASTCONV_NUM_THREADS", "").strip()
    if text:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise ValueError(f"FASTCONV_NUM_THREADS must be a positive integer, got {text!r}")
        _setting = number
    _setting_read = True
    return _setting


def _numba_limit() -> int:
    """Return Numba's thread count in the calling thread, without starting its threads only to ask."""
    global _numba_layer
    layer = _numba_layer
    if layer is None:
        layer = _numba_layer = sys.modules.get("numba.np.ufunc.parallel")
    if layer is not None and layer._is_initialized:
        return int(layer._get_num_threads())
    config = sys.modules.get("numba.core.config")
    return int(config.NUMBA_NUM_THREADS) if config is not None else sys.maxsize


def _forget() -> None:
    global _cores_asked
    _cores_asked = 0.0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
