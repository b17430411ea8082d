"""What the operators on kernels share: arrays in, one prepared computation, arrays out, in the manner of `conv2d`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from fastconv import arguments, arrays, runtime
from fastconv.arrays import Array
from fastconv.kernels.jit import Kernel
from fastconv.planning import routes
from fastconv.problem import LAYOUTS, MAX_BYTES, Problem, one_of
from fastconv.runtime import Work

T = TypeVar("T")
#: Clock behind estimates of time, which decide whether a second thread pays.
CLOCK = 3.0e9
#: Estimated cycles of one task: long beside handing it out, short beside a call worth two threads.
TASK_CYCLES = 40_000.0
#: Bytes per second that one core moves between L2 and what lies beyond, measured.
FAR_BYTES = 3.0e10


@dataclass(frozen=True, eq=False, slots=True)
class Result:
    """What one array of the result is: its shape and dtype, and the dtype in which kernels write it."""

    shape: tuple[int, ...]
    compute_dtype: np.dtype[Any]
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False, slots=True)
class Prepared:
    """One operator on arrays of one shape and dtype: made once, run many times.

    Attributes
    ----------
    work : Work, optional
        None where there is nothing to compute.
    dtype : str
        In which kernels read the input.
    results : tuple of Result
        The arrays that come out: one, or two.
    plain : bool
        Whether kernels write the only result as it is delivered.
    """

    work: Work | None
    dtype: np.dtype[Any]
    results: tuple[Result, ...]
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        plain = len(self.results) == 1 and self.results[0].compute_dtype == self.results[0].dtype
        object.__setattr__(self, "plain", plain)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Images, channels, rows and columns; and whether the array had an axis of images."""

    n: int
    c: int
    h: int
    w: int
    layout: str
    batched: bool

    def result(self, c: int, h: int, w: int) -> tuple[int, ...]:
        """Return the shape of images of that size in the same layout, without the axis that was missing."""
        shape = (self.n, c, h, w) if self.layout == "NCHW" else (self.n, h, w, c)
        return shape if self.batched else shape[1:]


def sizes(shape: tuple[int, ...], layout: object) -> Sizes:
    """Return what the axes of x mean.

    Raises
    ------
    TypeError, ValueError
        When the layout is unknown, or x has not 3 or 4 axes, or no pixel.
    """
    order = one_of("layout", layout, LAYOUTS)
    whole = arguments.shape("x.shape", shape, (3, 4))
    n, *rest = whole if len(whole) == 4 else (1, *whole)
    c, h, w = rest if order == "NCHW" else (rest[2], rest[0], rest[1])
    for name, size in (("channel", c), ("row", h), ("column", w)):
        if size < 1:
            raise ValueError(f"x must have at least one {name}, got shape {whole} with layout={layout!r}")
    return Sizes(n, c, h, w, order, len(whole) == 4)


def check_bytes(shape: tuple[int, ...]) -> None:
    """Refuse a result that no address could reach, whatever its dtype."""
    if math.prod(max(size, 1) for size in shape) * 8 > MAX_BYTES:
        raise ValueError(
            f"the result must be smaller than 2**63 bytes, got shape {shape} of up to 8 bytes each"
        )


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which kernels read arrays of `dtype`."""
    return np.dtype(Problem(1, 1, 1, 1, 1, 1, 1, dtype=dtype.name).compute_dtype)


def chunks(units: int, cycles: float) -> tuple[int, int]:
    """Return units per task and tasks, for `units` equal pieces of work of `cycles` each."""
    per_task = max(1, min(int(TASK_CYCLES / max(cycles, 1.0)), -(-units // 8)))
    return per_task, -(-units // per_task)


def work(kernel: Kernel, *parts: Any, tasks: int, scratch: int, cycles: float, moved: int = 0) -> Work:
    """Return the work whose context holds, after the addresses of the arrays, numbers and addresses of tables.

    It is estimated to take `cycles` in all, or as long as it takes to move `moved` bytes.
    """
    values: list[int] = [0, 0, 0]
    keep: list[Array] = []
    for part in parts:
        for value in part:
            if isinstance(value, np.ndarray):
                keep.append(np.ascontiguousarray(value))
                value = arrays.address(keep[-1])
            values.append(int(value))
    seconds = max(cycles / CLOCK, moved / FAR_BYTES)
    return Work(kernel, np.array(values, np.int64), tasks, scratch, seconds, tuple(keep))


def hashable(*values: object) -> list[object]:
    """Return strides, paddings and their like as keys, equal only to what means the same."""
    return [value if type(value) is int else routes.hashable(value) for value in values]


def remembered(make: Callable[..., T], source: Array, *words: Any) -> T:
    """Return ``make(source.shape, source.dtype, *words)``, from memory when it was asked for before."""
    call = (source.shape, source.dtype, *words)
    try:
        found: T = _REMEMBERED(make, *call)
    except TypeError:
        pass
    else:
        return found
    # Either `make` raised it, or something unhashable was given, which `make` refuses by its name.
    return make(*call)


def _made(make: Callable[..., T], *call: Any) -> T:
    return make(*call)


# typed: 1, True and 1.0 are equal to a dictionary, and only the first is a stride.
_REMEMBERED = lru_cache(routes.CACHE_SIZE, typed=True)(_made)


def run(prepared: Prepared, given: Any, source: Array, out: Any, threads: object, name: str = "x") -> Any:
    """Run on `source`, the view of what was given as `name`; return the result in the kind of x, or `out`.

    Raises
    ------
    TypeError, ValueError
        When `out` cannot take the result, or `threads` is no count.
    """
    workers = routes.thread_count(threads)
    if out is None and prepared.plain and type(given) is np.ndarray:
        result = prepared.results[0]
        y = arrays.fresh(result.shape, result.dtype)
        _start(prepared, source, y, 0, workers)
        return y
    if len(prepared.results) > 1:
        return _run_pair(prepared, given, source, out, workers)
    (result,) = prepared.results
    target = None if out is None else target_of("out", out, result, {name: source})
    y = written_to(target, result)
    _start(prepared, source, y, 0, workers)
    return delivered(y, target, result, given, out)


def _run_pair(prepared: Prepared, given: Any, source: Array, out: Any, workers: int) -> Any:
    outs = (None, None) if out is None else _outs(out)
    targets = [
        None if array is None else target_of(f"out[{number}]", array, result, {"x": source})
        for number, (array, result) in enumerate(zip(outs, prepared.results, strict=True))
    ]
    if targets[0] is not None:
        arrays.check_apart("out[1]", targets[0], targets[1])
    written = [written_to(target, result) for target, result in zip(targets, prepared.results, strict=True)]
    _start(prepared, source, written[0], arrays.address(written[1]), workers)
    return tuple(
        delivered(y, target, result, given, array)
        for y, target, result, array in zip(written, targets, prepared.results, outs, strict=True)
    )


def _start(prepared: Prepared, source: Array, y: Array, second: int, workers: int) -> None:
    if prepared.work is not None:
        x = arrays.ready(source, prepared.dtype)
        runtime.run(prepared.work, arrays.address(x), arrays.address(y), second, workers)


def _outs(out: Any) -> tuple[Any, ...]:
    if not isinstance(out, tuple | list):
        raise TypeError(f"out must be a pair (values, indices), got {type(out).__name__}")
    if len(out) != 2:
        raise ValueError(f"out must be a pair (values, indices), got {len(out)} values")
    return tuple(out)


def target_of(name: str, out: Any, result: Result, inputs: Mapping[str, Array | None]) -> Array:
    """Return the view of `out`, called `name`, if the result can go there and shares no memory with `inputs`."""
    target = arrays.view(name, out)
    arrays.check_out(target, result.shape, result.dtype, name)
    for other, array in inputs.items():
        arrays.check_apart(other, target, array)
    return target


def written_to(target: Array | None, result: Result) -> Array:
    """Return where kernels write: the target if they can, else a new array."""
    if target is None:
        return arrays.fresh(result.shape, result.compute_dtype)
    if target.flags.c_contiguous and result.compute_dtype == result.dtype:
        return target
    return arrays.fresh(result.shape, result.compute_dtype)


def delivered(y: Array, target: Array | None, result: Result, given: Any, out: Any) -> Any:
    """Return what the caller gets: `out` with the result in it, or the result in the kind of `given`."""
    if target is None:
        rounded = arrays.rounded(y, result.dtype)
        return rounded if type(given) is np.ndarray else arrays.give_back(rounded, given)
    if y is not target:
        target[...] = arrays.rounded(y, result.dtype)
    return out
