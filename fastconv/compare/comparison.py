"""Several workloads with several numbers of threads in one go: from what the user named to a `Report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastconv.compare.bench import bench_layer, crew_for
from fastconv.compare.data import refuse_too_large
from fastconv.compare.document import Report, Run
from fastconv.compare.environment import identity, library_versions, machine_lines, pinned, today
from fastconv.compare.layers import Layer
from fastconv.compare.peers import Peer
from fastconv.compare.roof import measure_roof
from fastconv.compare.station import Settings
from fastconv.machine import Machine

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """A named list of layers."""

    title: str
    layers: tuple[Layer, ...]


def compare(
    workloads: Sequence[Workload],
    peers: Sequence[Peer],
    settings: Settings,
    threads: Sequence[int] = (1,),
    *,
    command: str = "",
    identify: bool = False,
    progress: Progress = lambda text: None,
) -> Report:
    """Measure every layer of every workload with every number of threads.

    Raises
    ------
    ValueError
        Before anything is measured, when a layer is empty or too large for this machine.
    """
    memory = Machine.host().memory_bytes
    for workload in workloads:
        for layer in workload.layers:
            refuse_too_large(layer.problem, layer.name, memory)
    date, lines = today(), machine_lines()
    runs = [run for count in threads for run in _runs(workloads, peers, settings, count, progress)]
    return Report(
        date=date,
        command=command,
        machine=lines,
        versions=library_versions(peers),
        missing={peer.name: reason for peer in peers if (reason := peer.missing())},
        settings=_said(settings),
        runs=tuple(runs),
        identity=identity() if identify else {},
    )


def _runs(
    workloads: Sequence[Workload], peers: Sequence[Peer], settings: Settings, threads: int, progress: Progress
) -> list[Run]:
    runs = []
    with pinned(threads):
        roofs = {}
        for dtype in {layer.problem.dtype for workload in workloads for layer in workload.layers}:
            progress("")
            roofs[dtype] = measure_roof(dtype, threads)
        with crew_for(threads) as crew:
            for workload in workloads:
                layers = [layer.where(threads=threads) for layer in workload.layers]
                results = []
                for layer in layers:
                    progress(f"{workload.title} {layer.name}, {threads} thread{'s' if threads > 1 else ''}")
                    results.append(bench_layer(layer, peers, settings, crew))
                first = layers[0].problem
                runs.append(
                    Run(
                        title=workload.title,
                        threads=threads,
                        accuracy=first.accuracy,
                        dtype=first.dtype,
                        roof=roofs[first.dtype],
                        layers=tuple(results),
                    )
                )
    return runs


def _said(settings: Settings) -> dict[str, str]:
    """Return the settings in words."""
    effort = settings.effort
    said = {
        "layouts": ", ".join(settings.layouts),
        "algorithm": settings.algorithm,
        "weights": "handed over at every call" if settings.functional else "packed once",
        "effort": f"rounds of {effort.turn_s * 1e3:g} ms, at least {effort.seconds:g} s and {effort.calls} calls, "
        f"at most {effort.most_s:g} s, per contestant and layer",
        "cold calls": str(effort.cold_calls) if effort.cold_calls else "not measured",
        "checked": f"{settings.check_flop:g} operations of the float64 reference per layer",
    }
    if settings.classes:
        said["further classes"] = ", ".join(settings.classes)
    return said


def steps(workloads: Sequence[Workload], threads: Sequence[int]) -> int:
    """Return how often `compare` reports progress."""
    dtypes = {layer.problem.dtype for workload in workloads for layer in workload.layers}
    return len(threads) * (len(dtypes) + sum(len(workload.layers) for workload in workloads))
