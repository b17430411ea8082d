"""How time and memory grow as one side of a problem grows: points, exponents, and where the growth bends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastconv.compare.document import Report, Run
from fastconv.compare.intervals import unsteady
from fastconv.compare.layers import Layer
from fastconv.compare.results import OURS, Entry, LayerResult
from fastconv.compare.summary import intensity, libraries
from fastconv.machine import Machine
from fastconv.problem import Problem
from fastconv.runtime.launcher import PARALLEL_SECONDS

#: What is swept when nothing is named: a layer of the middle of ResNet-50.
DEFAULT_WORD = "n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32"
#: A step between two points bends when the speed changes by more than this part.
BEND = 0.15
#: Calls quicker than this are made of fixed costs too.
FIXED_S = 30e-6


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of a problem: the values it takes, and the problem with such a value."""

    label: str
    values: tuple[int, ...]
    change: Callable[[Problem, int], Problem]


def _with_channels(problem: Problem, value: int) -> Problem:
    depthwise = problem.groups == problem.c
    return replace(problem, c=value, o=value, groups=value if depthwise else problem.groups)


def _with_kernel(problem: Problem, value: int) -> Problem:
    (dh, dw), half = problem.dilation, (value - 1) / 2
    rows, columns = int(half * dh), int(half * dw)
    return replace(problem, kh=value, kw=value, padding=(rows, rows, columns, columns))


AXES = {
    "size": Axis("rows and columns", (7, 14, 28, 56, 112, 224), lambda p, v: replace(p, h=v, w=v)),
    "channels": Axis("channels", (16, 32, 64, 128, 256, 512, 1024), _with_channels),
    "batch": Axis("images", (1, 2, 4, 8, 16, 32), lambda p, v: replace(p, n=v)),
    "kernel": Axis("kernel rows and columns", (1, 3, 5, 7, 9, 11, 15), _with_kernel),
    "threads": Axis("threads", (1, 2, 4, 8, 16, 32, 64), lambda p, v: replace(p, threads=v)),
}


def points(problem: Problem, kind: str) -> list[tuple[int, Layer]]:
    """Return the values of a sweep and their problems; values that make no valid problem are left out.

    Raises
    ------
    ValueError
        When fewer than two values are left.
    """
    axis, found = AXES[kind], []
    values = axis.values
    if kind == "threads":
        cores = Machine.host().cores
        values = tuple(sorted({*(value for value in values if value < cores), cores}))
    for value in values:
        try:
            changed = axis.change(problem, value)
        except ValueError:
            continue
        found.append((value, Layer(f"{axis.label} {value}", changed)))
    if len(found) < 2:
        shown = ", ".join(str(value) for value in values)
        raise ValueError(f"sweep: of {axis.label} {shown} fewer than two fit {problem.word}")
    return found


def joined(report: Report, values: Sequence[int], kind: str) -> Report:
    """Return the report of a sweep with all its points in one run; those of threads come one by one."""
    first = report.runs[-1]
    layers = [layer for run in report.runs for layer in run.layers]
    if kind == "threads":
        layers = [
            replace(layer, name=f"threads {value}") for value, layer in zip(values, layers, strict=True)
        ]
    return replace(
        report, runs=(replace(first, layers=tuple(layers)),), settings={**report.settings, "sweep": kind}
    )


@dataclass(frozen=True, slots=True)
class Bend:
    """A step of the sweep after which the speed is another, and what may be why."""

    before: int
    after: int
    #: GFLOP/s after, divided by before; of a sweep of threads divided by what as many threads should bring.
    speed: float
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """What one contestant does over the whole sweep: time grows as ``value ** exponent``."""

    name: str
    times: tuple[float, ...]
    exponent: float


def growths(values: Sequence[int], run: Run) -> list[Growth]:
    """Return how the times of ours and of every library grow."""
    found = []
    for name in (OURS, *libraries(run)):
        entries = [layer.best(name) for layer in run.layers]
        times = tuple(entry.min_s if entry else math.nan for entry in entries)
        found.append(Growth(name, times, exponent(values, times)))
    return found


def exponent(values: Sequence[float], results: Sequence[float]) -> float:
    """Return p of the power law ``results = a * values ** p`` that fits best on logarithmic axes.

    Examples
    --------
    >>> round(exponent([1, 2, 4, 8], [3, 12, 48, 192]), 6)
    2.0
    """
    pairs = [(x, y) for x, y in zip(values, results, strict=True) if y > 0 and math.isfinite(y)]
    if len(pairs) < 2:
        return math.nan
    x, y = np.log(np.asarray(pairs, np.float64)).T
    # Adding zero makes the zero of a flat line positive.
    return round(float(np.polyfit(x, y, 1)[0]), 6) + 0.0


def memory_bytes(layer: LayerResult) -> int:
    """Return x, weights, y and the scratch memory of ours."""
    problem, ours = Problem.parse(layer.word), layer.best(OURS)
    return problem.x_bytes + problem.w_bytes + problem.y_bytes + (ours.workspace_bytes if ours else 0)


def bends(values: Sequence[int], run: Run, machine: Machine) -> list[Bend]:
    """Return the steps where our speed changes, and everything that changes with it."""
    found = []
    for (before, low), (after, high) in itertools.pairwise(zip(values, run.layers, strict=True)):
        old, new = low.best(OURS), high.best(OURS)
        if old is None or new is None:
            continue
        threads = (Problem.parse(low.word).threads, Problem.parse(high.word).threads)
        speed = high.gflops(new) / low.gflops(old) * threads[0] / threads[1]
        if not 1 / (1 + BEND) <= speed <= 1 + BEND:
            causes = (*_causes((low, old), (high, new), machine), *_doubts((low, old), (high, new), run))
            found.append(Bend(before, after, speed, causes or ("nothing that is known here changes",)))
    return found


_Point = tuple[LayerResult, Entry]


def _causes(before: _Point, after: _Point, machine: Machine) -> Iterator[str]:
    """Yield what is different after a step: algorithm, layout, caches, threads."""
    (low, old), (high, new) = before, after
    if old.algorithm != new.algorithm:
        yield f"{old.algorithm} gives way to {new.algorithm}"
    if old.layout != new.layout:
        yield f"{new.layout} instead of {old.layout} is faster"
    levels = (("L1", machine.l1_bytes), ("L2", machine.l2_bytes), ("L3", machine.l3_bytes))
    for what, sizes in _working_sets(low, high).items():
        for name, size in levels:
            if sizes[0] <= size < sizes[1]:
                yield f"{what} no longer fit in {name}"
    counts = [Problem.parse(layer.word).threads for layer in (low, high)]
    if counts[0] == 1 < counts[1]:
        yield "a parallel region is opened, and cores share the last cache and the memory"
    elif counts[0] > 1:
        serial = [entry.min_s * count for entry, count in zip((old, new), counts, strict=True)]
        if serial[0] < 2 * PARALLEL_SECONDS <= serial[1]:
            yield "a second thread begins to pay: a parallel region is opened"


def _working_sets(low: LayerResult, high: LayerResult) -> dict[str, tuple[int, int]]:
    """Return the bytes of what a layer goes through, before and after."""
    problems = [Problem.parse(layer.word) for layer in (low, high)]
    weights, images = ([p.w_bytes for p in problems], [p.x_bytes + p.y_bytes for p in problems])
    return {
        "the weights": (weights[0], weights[1]),
        "x and y": (images[0], images[1]),
        "all data": (memory_bytes(low), memory_bytes(high)),
    }


def _doubts(before: _Point, after: _Point, run: Run) -> Iterator[str]:
    """Yield what else may be why: fixed costs, memory, an unstable point."""
    (low, old), (high, new) = before, after
    if min(old.min_s, new.min_s) < FIXED_S:
        yield f"calls of {1e6 * min(old.min_s, new.min_s):.0f} us, so short that their fixed costs count"
    edge = run.roof.gflops / run.roof.gbytes
    ratios = intensity(low), intensity(high)
    if min(ratios) < edge and max(ratios) > (1 + BEND) * min(ratios):
        yield f"{ratios[0]:.0f} and {ratios[1]:.0f} operations per byte: below {edge:.0f} the memory is the limit"
    if unsteady(low) or unsteady(high):
        yield "the points are unstable"


def sentences(kind: str, values: Sequence[int], run: Run, machine: Machine) -> list[str]:
    """Return exponents and bends as sentences."""
    label = AXES[kind].label
    said = [
        f"{growth.name}: time grows as {label} to the power {growth.exponent:.2f}"
        for growth in growths(values, run)
        if math.isfinite(growth.exponent)
    ]
    work = exponent(values, [layer.flop for layer in run.layers])
    memory = exponent(values, [memory_bytes(layer) for layer in run.layers])
    said.append(
        f"the work of the definition grows to the power {work:.2f}, our memory to the power {memory:.2f}"
    )
    for bend in bends(values, run, machine):
        word = "faster" if bend.speed > 1 else "slower"
        said.append(
            f"bend from {label} {bend.before} to {bend.after}: {100 * abs(bend.speed - 1):.0f} % {word} "
            f"per operation ({'; '.join(bend.causes)})"
        )
    return said
