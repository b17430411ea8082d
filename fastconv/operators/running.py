"""What the operators on kernels share: arrays in, one prepared computation, arrays out, in the manner of `conv2d`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv import arguments, arrays, runtime
from fastconv.arrays import Array
from fastconv.planning import routes
from fastconv.problem import LAYOUTS, Problem, one_of
from fastconv.runtime import Work

#: Clock behind estimates of time, which decide whether a second thread pays.
CLOCK = 3.0e9
#: Estimated cycles of one task: long beside handing it out, short beside a call worth two threads.
TASK_CYCLES = 40_000.0


@dataclass(frozen=True, eq=False, slots=True)
class Result:
    """What one array of the result is: its shape and dtype, and the dtype in which kernels write it."""

    shape: tuple[int, ...]
    compute_dtype: str
    dtype: str


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
    """

    work: Work | None
    dtype: str
    results: tuple[Result, ...]


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


def compute_dtype(dtype: str) -> str:
    """Return the type in which kernels read arrays of `dtype`."""
    return Problem(1, 1, 1, 1, 1, 1, 1, dtype=dtype).compute_dtype


def chunks(units: int, cycles: float) -> tuple[int, int]:
    """Return units per task and tasks, for `units` equal pieces of work of `cycles` each."""
    per_task = max(1, min(int(TASK_CYCLES / max(cycles, 1.0)), -(-units // 8)))
    return per_task, -(-units // per_task)


def run(prepared: Prepared, given: Any, source: Array, out: Any, threads: object) -> Any:
    """Run on `source`, the view of what was given as x; return the result in the kind of x, or `out`.

    Raises
    ------
    TypeError, ValueError
        When `out` cannot take the result, or `threads` is no count.
    """
    workers = routes.thread_count(threads)
    several = len(prepared.results) > 1
    outs = (None,) * len(prepared.results) if out is None else _outs(out) if several else (out,)
    names = ("out[0]", "out[1]") if several else ("out",)
    targets = [
        None if array is None else _target(name, array, result, source)
        for name, array, result in zip(names, outs, prepared.results, strict=True)
    ]
    if several and targets[0] is not None and targets[1] is not None:
        arrays.check_apart("out[1]", targets[0], targets[1])
    written = [_written(target, result) for target, result in zip(targets, prepared.results, strict=True)]
    if prepared.work is not None:
        x = arrays.ready(source, prepared.dtype)
        places = [arrays.address(y) for y in written]
        runtime.run(prepared.work, arrays.address(x), places[0], places[1] if several else 0, workers)
    kinds = [
        _delivered(y, target, result, given, array)
        for y, target, result, array in zip(written, targets, prepared.results, outs, strict=True)
    ]
    return tuple(kinds) if several else kinds[0]


def _outs(out: Any) -> tuple[Any, ...]:
    if not isinstance(out, tuple | list):
        raise TypeError(f"out must be a pair (values, indices), got {type(out).__name__}")
    if len(out) != 2:
        raise ValueError(f"out must be a pair (values, indices), got {len(out)} values")
    return tuple(out)


def _target(name: str, out: Any, result: Result, source: Array) -> Array:
    target = arrays.view(name, out)
    arrays.check_out(target, result.shape, result.dtype, name)
    arrays.check_apart("x", target, source)
    return target


def _written(target: Array | None, result: Result) -> Array:
    """Return where kernels write: the target if they can, else a new array."""
    if target is not None and target.flags.c_contiguous and result.compute_dtype == result.dtype:
        return target
    return np.empty(result.shape, result.compute_dtype)


def _delivered(y: Array, target: Array | None, result: Result, given: Any, out: Any) -> Any:
    if target is None:
        return arrays.give_back(arrays.rounded(y, result.dtype), given)
    if y is not target:
        target[...] = arrays.rounded(y, result.dtype)
    return out
