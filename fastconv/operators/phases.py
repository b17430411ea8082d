"""A transposed convolution as convolutions of stride 1 that the planner knows, one or several.

Every output row of a transposed convolution of stride s meets only the kernel rows of its own phase, row modulo s. So
the outputs of one phase of rows and columns are an ordinary convolution by a part of the kernel, turned round: nothing
is filled up with zeros. Where all phases have as many taps, they are output channels of a single convolution.
Source: V. Dumoulin & F. Visin, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import arrays, runtime
from fastconv.kernels.jit import Kernel
from fastconv.machine import Machine
from fastconv.operators import phase_kernels, running, strips
from fastconv.planning import planner, routes
from fastconv.planning.plan import Plan
from fastconv.problem import Pair, Problem
from fastconv.runtime import Work, workspace

Array = npt.NDArray[Any]
Sides = tuple[Pair, Pair]
#: Cycles to copy a vector of a pixel, one element of a plane.
VECTOR_CYCLES, ELEMENT_CYCLES = 3.0, 1.5


class Phase(NamedTuple):
    """One axis of one phase: outputs `first`, `first` + stride, ...; its kernel taps, in the order of their inputs.

    Its first output is number `skipped` of the convolution that computes it.
    """

    first: int
    outputs: int
    taps: tuple[int, ...]
    skipped: int = 0


class Axis(NamedTuple):
    """Along one axis: phases that one convolution computes, its dilation, its outputs and the padding before and after.

    Negative padding is what of the input is not read.
    """

    phases: tuple[Phase, ...]
    dilation: int
    outputs: int
    pads: Pair


@dataclass(frozen=True, eq=False)
class Transposed:
    """A transposed convolution, every argument resolved: the axes of each of the convolutions that it is made of.

    It is equal to itself alone, so that what is kept for it is found without comparing sizes.
    """

    n: int
    c: int
    h: int
    w: int
    o: int
    oh: int
    ow: int
    kernel: Pair
    stride: Pair
    pads: Pair
    dilation: Pair
    groups: int
    layout: str
    dtype: str
    words: tuple[tuple[str, Any], ...]
    parts: tuple[tuple[Axis, Axis], ...]

    @cached_property
    def plain(self) -> bool:
        """Whether neither bias nor activation follows."""
        words = dict(self.words)
        return not words["bias"] and words["activation"] == "none"

    @cached_property
    def w_bytes(self) -> int:
        """Bytes of the weights."""
        return self.c * self.o // self.groups * math.prod(self.kernel) * np.dtype(self.dtype).itemsize

    @cached_property
    def products(self) -> int:
        """Multiplications of all pixels by all weights."""
        return self.n * self.h * self.w * self.w_bytes // np.dtype(self.dtype).itemsize

    @cached_property
    def direct(self) -> bool:
        """Whether its only convolution writes the result as it is."""
        return self.stride == (1, 1)


def axes(size: int, out: int, k: int, stride: int, pad: int, dilation: int) -> list[Axis]:
    """Return what is computed along one axis: a single convolution if every phase has as many taps, else one a phase.

    Output ``i = stride*q + first`` meets tap r at input ``q + (first + pad - r*dilation) / stride`` where it is whole.
    """
    common = math.gcd(stride, dilation)
    if 1 < stride and dilation == 1 and k % stride == 0 and out >= stride:
        return [_joined(size, out, k, stride, pad)]
    found = []
    # Phases that no tap meets have no place here: there may be millions of them.
    for first in sorted({(r * dilation - pad) % stride for r in range(k)}):
        if first >= out:
            break
        count = -(-(out - first) // stride)
        taps = [r for r in range(k) if (first + pad - r * dilation) % stride == 0]
        places = [(first + pad - r * dilation) // stride for r in taps]
        # Turned round, so that the first tap meets the first of the inputs.
        pads = (-places[-1], count - 1 + places[0] - (size - 1))
        phase = Phase(first, count, tuple(reversed(taps)))
        found.append(Axis((phase,), dilation // common, count, pads))
    return found


def _joined(size: int, out: int, k: int, stride: int, pad: int) -> Axis:
    """Return the one convolution whose output q has all phases of row ``stride*q`` of the result with its padding."""
    taps = k // stride
    first, last = pad // stride, (out - 1 + pad) // stride
    phases = []
    for shift in range(stride):
        skipped = -(-(pad - shift) // stride)
        start = stride * skipped + shift - pad
        tapped = tuple(shift + stride * (taps - 1 - u) for u in range(taps))
        phases.append(Phase(start, -(-(out - start) // stride), tapped, skipped - first))
    return Axis(tuple(phases), 1, last - first + 1, (taps - 1 - first, last - (size - 1)))


class Part(NamedTuple):
    """One convolution of a transposed one: what it reads and computes, and where its outputs go."""

    problem: Problem
    source: tuple[slice, slice]
    #: Whether that is not all of the images.
    crops: bool
    phases: int
    #: Of the weights (groups, C / groups, O / groups, taps, phases, taps, phases): the shape, and what is taken of it.
    w_axes: tuple[int, ...]
    w_taken: tuple[slice, ...]
    place: Work | None
    y_bytes: int

    def kernels(self, w: Array) -> Array:
        """Return of the weights (C, O / groups, kh, kw), as they lie, those of this convolution.

        They are (groups, phases, phases, O / groups, C / groups, taps, taps): four axes of outputs, three of inputs.
        """
        return w.reshape(self.w_axes)[self.w_taken].transpose(0, 4, 6, 2, 1, 3, 5)


@lru_cache(maxsize=256)
def parts(t: Transposed, threads: int) -> tuple[Part | None, ...]:
    """Return the convolutions; None where no tap meets any pixel for the padding."""
    return tuple(_part(t, rows, columns, threads) for rows, columns in t.parts)


def route(t: Transposed, threads: int) -> str:
    """Return in words what convolutions it is made of."""
    found = [part for part in parts(t, threads) if part is not None]
    together, idle = sum(part.phases for part in found), idle_phases(t, threads)
    if t.direct:
        words = "one convolution by the kernel turned round"
    elif len(found) == 1 < together:
        words = f"one convolution for all {together} phases of the stride"
    elif together == 1:
        words = "one convolution for one phase of the stride"
    elif len(found) == together:
        words = f"{together} convolutions, one for each phase of the stride"
    else:
        words = f"{len(found)} convolutions for {together} phases of the stride"
    return words + (f"; {idle} phases meet no pixel" if idle else "")


@lru_cache(maxsize=256)
def idle_phases(t: Transposed, threads: int) -> int:
    """Return the number of phases whose outputs meet no pixel."""
    met = sum(part.phases for part in parts(t, threads) if part is not None)
    return min(t.stride[0], t.oh) * min(t.stride[1], t.ow) - met


def _part(t: Transposed, rows: Axis, columns: Axis, threads: int) -> Part | None:
    sides = (_crop(t.h, rows.pads), _crop(t.w, columns.pads))
    h, w = (side[0].stop - side[0].start for side in sides)
    if h < 1 or w < 1:
        return None
    down, across = rows.phases[0].taps, columns.phases[0].taps
    phases = len(rows.phases) * len(columns.phases)
    problem = Problem(
        t.n, t.c, h, w, t.o * phases, len(down), len(across),
        padding=(*sides[0][1], *sides[1][1]), dilation=_steps(rows, columns), groups=t.groups, layout=t.layout,
        dtype=t.dtype, threads=threads, **dict(t.words),
    )  # fmt: skip
    place = None if t.direct else _placing(t, rows, columns, problem)
    source = (sides[0][0], sides[1][0])
    (w_rows, taken_rows), (w_columns, taken_columns) = map(_tapped, t.kernel, (rows, columns))
    w_axes = (t.groups, t.c // t.groups, t.o // t.groups, *w_rows, *w_columns)
    taken = (*(slice(None),) * 3, taken_rows, slice(None), taken_columns)
    return Part(problem, source, (h, w) != (t.h, t.w), phases, w_axes, taken, place, problem.y_bytes)


def _tapped(k: int, axis: Axis) -> tuple[Pair, slice]:
    """Return how `k` taps are divided into taps and phases, and which of these taps are taken, and how."""
    if len(axis.phases) > 1:
        return (k // len(axis.phases), len(axis.phases)), slice(None, None, -1)
    taps = axis.phases[0].taps
    step = taps[1] - taps[0] if len(taps) > 1 else -1
    end = taps[-1] + step
    return (k, 1), slice(taps[0], end if end >= 0 else None, step)


def _steps(rows: Axis, columns: Axis) -> Pair:
    """Return the dilation, which an axis with a single tap has not."""
    down, across = (axis.dilation if len(axis.phases[0].taps) > 1 else 1 for axis in (rows, columns))
    return (down, across)


def _crop(size: int, pads: Pair) -> tuple[slice, Pair]:
    """Return which inputs are read, and what zeros stand around them."""
    before, after = pads
    start, stop = max(0, -before), size - max(0, -after)
    return slice(start, max(stop, start)), (max(0, before), max(0, after))


def _placing(t: Transposed, rows: Axis, columns: Axis, p: Problem) -> Work:
    """Return the work that puts the outputs of one convolution in their places of the result."""
    size = np.dtype(t.dtype).itemsize
    per_group, phases = t.o // t.groups, len(rows.phases) * len(columns.phases)
    (sh, sw), nhwc = t.stride, t.layout == "NHWC"
    # Bytes of a pixel and of the channels of one phase before the next, in x; of a pixel in y.
    pixel, channels, spot = (
        (p.o * size, per_group * size, t.o * size) if nhwc else (size, per_group * p.oh * p.ow * size, size)
    )
    table = [
        [
            row.outputs, column.outputs, (row.skipped * p.ow + column.skipped) * pixel + number * channels,
            (row.first * t.ow + column.first) * spot,
        ]
        for number, (row, column) in enumerate(product(rows.phases, columns.phases))
    ]  # fmt: skip
    most = max(row.outputs for row in rows.phases)
    x_image, y_image = p.oh * p.ow * p.o * size, t.oh * t.ow * t.o * size
    kernel: Kernel
    if nhwc:
        kernel, tasks = phase_kernels.place_pixels(), t.n * most * phases
        numbers = [phases, most, t.groups, channels, x_image, p.ow * pixel, pixel, phases * channels]
        numbers += [y_image, sh * t.ow * spot, sw * spot]
        cycles = t.n * t.oh * t.ow * (10.0 + VECTOR_CYCLES * t.o * size / 64)
    else:
        kernel, tasks = phase_kernels.place_planes(t.dtype), t.n * t.o
        numbers = [
            phases,
            per_group,
            t.groups,
            sw * size,
            x_image,
            phases * channels,
            p.oh * p.ow * size,
            p.ow * size,
        ]
        numbers += [y_image, t.oh * t.ow * size, sh * t.ow * size]
        cycles = ELEMENT_CYCLES * t.n * t.o * t.oh * t.ow
    return running.work(
        kernel, [np.array(table, np.int64), *numbers], tasks=tasks, scratch=0, cycles=cycles, moved=2 * y_image * t.n
    )  # fmt: skip


def run(t: Transposed, x: Array, w: Array, bias: Array | None, y: Array, threads: int) -> None:
    """Compute into y, contiguous; x has an axis of images, w is (C, O / groups, kh, kw) with any strides."""

    def started(number: int, part: Part, source: int, target: int) -> None:
        work = strips.prepared((part.problem,), part.kernels(w), _biases(t, part, bias))[0]
        runtime.run(work, source, target, 0, threads)

    _run(t, started, lambda: idle_value(t, bias), x, y, threads)


def seconds(t: Transposed) -> float:
    """Return the estimated time of a call on one thread, which packs the weights too; nothing that was tuned counts."""
    machine, total = Machine.host(), 0.0
    for part in parts(t, 1):
        if part is not None:
            choice = planner.choose(part.problem, machine, planner.AUTO, packing=True)
            total += choice.algorithm.cost(part.problem, machine, choice.config)
            total += choice.algorithm.packing_cost(part.problem, choice.config)
            total += part.place.seconds if part.place is not None else 0.0
    return total


def plan(t: Transposed, w: Array, bias: Array | None, threads: int, rigor: str) -> list[Plan]:
    """Return the plans of the convolutions; w is (C, O / groups, kh, kw) with any strides."""
    plans = []
    for part in parts(t, threads):
        if part is not None:
            route = routes.chosen(part.problem, packing=False)
            plans.append(routes.planned(route, part.kernels(w), _biases(t, part, bias), rigor=rigor))
    return plans


def run_planned(
    t: Transposed, plans: Sequence[Plan], idle: Callable[[], Array], threads: int, x: Array, y: Array
) -> None:
    """Compute into y, contiguous, by the plans of the convolutions; x has an axis of images.

    `idle` says what `idle_value` was when it was planned.
    """

    def started(number: int, part: Part, source: int, target: int) -> None:
        plans[number].start(source, target)

    _run(t, started, idle, x, y, threads)


def _run(
    t: Transposed,
    started: Callable[[int, Part, int, int], None],
    idle: Callable[[], Array],
    x: Array,
    y: Array,
    threads: int,
) -> None:
    """Run every convolution by `started`, with its number and the addresses of its images and result; put in place."""
    found = parts(t, threads)
    ready = arrays.ready(x, t.dtype)
    x_at, y_at = arrays.address(ready), arrays.address(y)
    room = max((part.y_bytes for part in found if part is not None and part.place is not None), default=0)
    between = workspace.take(room) if room else None
    if idle_phases(t, threads):
        # All of it in one go: each phase by itself would be written in steps.
        (y if t.layout == "NHWC" else y.transpose(0, 2, 3, 1))[...] = idle()
    for number, part in enumerate(part for part in found if part is not None):
        source = ready
        if part.crops:
            rows = (slice(None),) * (2 if t.layout == "NCHW" else 1)
            source = np.ascontiguousarray(ready[rows + part.source])
        source_at = arrays.address(source) if part.crops else x_at
        if part.place is None or between is None:
            started(number, part, source_at, y_at)
        else:
            started(number, part, source_at, between.address)
            runtime.run(part.place, between.address, y_at, 0, threads)
    if between is not None:
        workspace.give(between)


def _biases(t: Transposed, part: Part, bias: Array | None) -> Array | None:
    """Return the bias of one convolution: of each phase in turn that of the output channels."""
    if bias is None or part.phases == 1:
        return bias
    return np.repeat(bias.reshape(t.groups, 1, -1), part.phases, 1).ravel()


def idle_value(t: Transposed, bias: Array | None) -> Array:
    """Return for each output channel what fills phases that meet no pixel: bias and activation are as everywhere."""
    problem = Problem(
        1, t.groups, 1, 1, t.o, 1, 1, groups=t.groups, layout=t.layout, dtype=t.dtype, **dict(t.words)
    )
    x, kernels = np.zeros(problem.x_shape, t.dtype), np.zeros(problem.w_shape, t.dtype)
    value = np.empty(t.o, t.dtype)
    work = strips.prepared((problem,), kernels, bias)[0]
    runtime.run(work, arrays.address(x), arrays.address(value), 0, 1)
    return value
