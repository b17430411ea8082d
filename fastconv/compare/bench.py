"""One layer from its data to its result: everybody computes it, answers are compared, then the clock runs."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Protocol

import numpy as np

from fastconv.compare.data import Arrays, Sample, in_layout, make_arrays, reference_sample, refuse_too_large
from fastconv.compare.layers import Layer
from fastconv.compare.measuring import measure
from fastconv.compare.peers import Peer
from fastconv.compare.results import LayerResult
from fastconv.compare.station import Prepared, Settings, blas_threads, everybody, prepare
from fastconv.machine import Machine
from fastconv.problem import Problem

__all__ = ["Crew", "Settings", "Together", "bench_layer", "crew_for"]


class Crew(Protocol):
    """Who computes: all in this process, or every library in its own."""

    def prepare(
        self, peers: Sequence[Peer], problem: Problem, arrays: Arrays, sample: Sample, settings: Settings
    ) -> Prepared:
        """Return who is ready to be measured."""


class Together:
    """All in this process: with one thread there is no pool that could disturb the next one."""

    def prepare(
        self, peers: Sequence[Peer], problem: Problem, arrays: Arrays, sample: Sample, settings: Settings
    ) -> Prepared:
        """Return who is ready to be measured."""
        return prepare(peers, problem, arrays, sample, settings)


def crew_for(threads: int) -> AbstractContextManager[Crew]:
    """Return the crew for so many threads; processes of its own end with the context.

    Where processes cannot be stopped (Windows), everybody stays in this one.
    """
    if threads == 1 or not hasattr(signal, "SIGSTOP"):
        return nullcontext(Together())
    from fastconv.compare.apart import Apart

    return Apart()


def bench_layer(
    layer: Layer, peers: Sequence[Peer], settings: Settings, crew: Crew | None = None
) -> LayerResult:
    """Return the times of fastconv and of `peers` on one layer.

    Raises
    ------
    ValueError
        When the layer is empty, or too large for the memory there is.
    """
    problem = layer.problem
    if problem.n == 0:
        raise ValueError(f"layer {layer.name}: an empty batch takes no time, got {problem.word}")
    refuse_too_large(problem, layer.name, Machine.host().memory_bytes)
    arrays = make_arrays(problem)
    sample = reference_sample(problem, arrays, settings.check_flop)
    with blas_threads(problem.threads):
        found = (crew or Together()).prepare(everybody(peers, settings), problem, arrays, sample, settings)
        timings = measure([turns for _, turns in found.ready], settings.effort)
    timed = [
        replace(entry, **asdict(timing)) for (entry, _), timing in zip(found.ready, timings, strict=True)
    ]
    return LayerResult(
        name=layer.name,
        word=problem.word,
        count=layer.count,
        flop=problem.flop,
        checked=sample.covered,
        entries=(*timed, *found.failed),
        skipped=found.skipped,
        reorder_s=_reorder_seconds(arrays),
    )


def _reorder_seconds(arrays: Arrays) -> float:
    """Return what NumPy needs to copy x from NCHW to NHWC: who has the other layout pays it."""
    target = np.empty_like(in_layout(arrays.x, "NHWC"))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        np.copyto(target, arrays.x.transpose(0, 2, 3, 1))
        seconds.append(time.perf_counter() - start)
    return min(seconds)
