"""Choosing an algorithm: the planner asks every algorithm the same questions and never names one.

Where a choice comes from, highest authority first; `Choice.source` says which it was:

1. ``forced``: the caller named the algorithm. It is used or refused with its own reason, never replaced.
2. ``stored``: an earlier decision, a hint that can only pick among what `ranked` accepts.
3. ``measure``: `fastconv.planning.measuring` timed the candidates of `ranked`, since the caller asked for it.
4. ``estimate``: the smallest predicted time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from fastconv.algorithms import registry
from fastconv.algorithms.interface import AnyAlgorithm, Array, Config, Layout, WeightsDoNotFitError
from fastconv.algorithms.needs import Need
from fastconv.machine import Facts, Machine
from fastconv.planning import decisions
from fastconv.planning.decisions import Decision
from fastconv.problem import Problem
from fastconv.runtime import Work

AUTO = "auto"
RIGORS = ("stored", "estimate", "measure", "exhaustive")


class WorkspaceLimitError(MemoryError):
    """Nothing that can compute the problem stays within ``workspace_limit``."""


class Choice(NamedTuple):
    """An algorithm, its setting, and where the choice came from."""

    algorithm: AnyAlgorithm
    config: Config
    source: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one algorithm said about a problem in one setting; when it needs nothing more, it can be used."""

    algorithm: AnyAlgorithm
    config: Config | None
    seconds: float
    packing_seconds: float
    workspace_bytes: int
    needs: tuple[Need, ...] = ()

    @property
    def refusal(self) -> str:
        """Why it cannot be used; empty when it can."""
        return "; ".join(map(str, self.needs))


def survey(problem: Problem, machine: Machine) -> list[Candidate]:
    """Return what every algorithm in every setting says, in the registry's order, default settings first."""
    return [row for algorithm in registry.all().values() for row in _asked(algorithm, problem, machine)]


def ranked(
    problem: Problem, machine: Machine, algorithm: str = AUTO, *, packing: bool = False
) -> list[Candidate]:
    """Return the candidates that can be used, the fastest by estimate first.

    Parameters
    ----------
    problem : Problem
    machine : Machine
    algorithm : str
        "auto", or the name of the only algorithm to consider.
    packing : bool
        Whether packing the weights counts too, as in a call that uses them once.

    Raises
    ------
    ValueError
        When `algorithm` is unknown, or cannot compute the problem; with its reason.
    WorkspaceLimitError
        When only the workspace limit stands in the way.
    """
    rows = (
        survey(problem, machine) if algorithm == AUTO else _asked(registry.get(algorithm), problem, machine)
    )
    usable = [row for row in rows if not row.needs]
    if not usable:
        raise _refusal(rows, problem, algorithm)
    # Equal estimates keep the order of the registry: sorting is stable.
    return sorted(usable, key=lambda row: row.seconds + packing * row.packing_seconds)


def as_planned(problem: Problem) -> Problem:
    """Return `problem`, or for an empty batch, which runs nothing but is planned too, that of one image."""
    return problem if problem.n else replace(problem, n=1)


def choose(problem: Problem, machine: Machine, algorithm: str = AUTO, *, packing: bool = False) -> Choice:
    """Return the choice by estimate, or the forced one; takes and raises what `ranked` does.

    What decides the bits of the result is chosen as for one thread: they are the same for any number of threads;
    how the work is divided is chosen for the threads there are.
    """
    rows = ranked(problem, machine, algorithm, packing=packing)
    alone = rows
    if problem.threads > 1:
        alone = ranked(replace(problem, threads=1), machine, algorithm, packing=packing)
    if algorithm != AUTO:
        # Named by the caller, an algorithm gets the weights whatever they are.
        return _choice(_for_threads(alone[0], rows), "forced")
    best = next((row for row in alone if not row.algorithm.needs_of_weights), alone[0])
    return _choice(_for_threads(best, rows), "estimate")


def decided(problem: Problem, machine: Machine, *, packing: bool = False) -> Choice | None:
    """Return the choice by stored decisions, or None; as in `choose`, one thread decides the bits."""
    single = replace(problem, threads=1)
    for_one, for_all = decisions.find(single, machine), None
    if problem.threads > 1:
        for_all = decisions.find(problem, machine)
    if for_one is None and for_all is None:
        return None
    alone = ranked(single, machine, packing=packing)
    rows = ranked(problem, machine, packing=packing) if problem.threads > 1 else alone
    leader = _measured_best(for_one, alone, packing)
    if problem.threads > 1:
        bits = leader or next((row for row in alone if not row.algorithm.needs_of_weights), alone[0])
        same = [row for row in rows if _same_bits(row, bits)]
        leader = _measured_best(for_all, same, packing) or (leader and _for_threads(leader, rows))
    return None if leader is None else _choice(leader, "stored")


def _measured_best(decision: Decision | None, rows: list[Candidate], packing: bool) -> Candidate | None:
    """Return the candidate that a decision found fastest: only what is in `rows` can be meant."""
    if decision is None:
        return None
    by_name = {(row.algorithm.name, setting(row)): row for row in rows if not row.algorithm.needs_of_weights}
    known = [
        (timing.seconds + packing * row.packing_seconds, row)
        for timing in decision.timings
        if (row := by_name.get((timing.algorithm, tuple(timing.config.items())))) is not None
    ]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def setting(row: Candidate | Choice) -> tuple[tuple[str, int | str], ...]:
    """Return a setting as names and values: the form in which decisions keep it."""
    names = getattr(row.config, "_fields", ())
    return tuple(zip(names, row.config or (), strict=True))


def chances(
    problem: Problem, machine: Machine, choice: Choice, *, packing: bool = False
) -> tuple[Choice, ...]:
    """Return what would be faster than the choice by estimate if the weights allow it, best first.

    It is for whoever has the weights to try: `Algorithm.prepare` says whether they do.
    """
    some = [algorithm for algorithm in registry.all().values() if algorithm.needs_of_weights]
    if choice.source != "estimate" or all(row.why_not(problem, machine) for row in some):
        return ()
    rows = ranked(problem, machine, packing=packing)
    alone = ranked(replace(problem, threads=1), machine, packing=packing)
    faster: dict[str, Candidate] = {}
    for row in takewhile(lambda row: row.algorithm.needs_of_weights, alone):
        faster.setdefault(row.algorithm.name, _for_threads(row, rows))
    return tuple(_choice(row, "estimate") for row in faster.values())


def _for_threads(alone: Candidate, rows: list[Candidate]) -> Candidate:
    """Return the best of `rows` with the bits of one chosen for one thread."""
    return next((row for row in rows if _same_bits(row, alone)), alone)


def _same_bits(row: Candidate, other: Candidate) -> bool:
    if row.algorithm is not other.algorithm:
        return False
    return row.algorithm.numerics(row.config) == row.algorithm.numerics(other.config)


def prepare(
    problem: Problem,
    machine: Machine,
    choice: Choice,
    weights: Array,
    bias: Array | None,
    layout: Layout | None = None,
) -> tuple[Choice, Work]:
    """Pack the weights; when they are none that the chosen algorithm can take, another one does.

    Parameters
    ----------
    weights, bias : ndarray
        (O, C / groups, kh, kw) with any strides, and (O,), contiguous; of the compute dtype.
    layout : Layout, optional
        That of the choice, if it is known.

    Returns
    -------
    tuple of Choice and Work
        The choice that was possible in the end.

    Raises
    ------
    ValueError
        When a forced algorithm cannot take the weights.
    WorkspaceLimitError
        When nothing that takes them stays within the limit.
    """
    refused: dict[str, str] = {}
    while True:
        if layout is None:
            layout = choice.algorithm.layout(problem, machine, choice.config)
        try:
            return choice, choice.algorithm.prepare(layout, weights, bias, problem.threads)
        except WeightsDoNotFitError as reason:
            refused[choice.algorithm.name] = str(reason)
        choice, layout = _instead(problem, machine, choice, refused), None


def _instead(problem: Problem, machine: Machine, choice: Choice, refused: dict[str, str]) -> Choice:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    if choice.source == "forced":
        name = choice.algorithm.name
        raise ValueError(f"algorithm={name!r} cannot compute {problem}: {reasons}; use algorithm='auto'")
    others = [
        row
        for row in ranked(problem, machine)
        if row.algorithm.name not in refused and not row.algorithm.needs_of_weights
    ]
    if not others:
        raise WorkspaceLimitError(
            f"within workspace_limit={problem.workspace_limit} bytes no algorithm takes these weights: {reasons}"
        )
    return _choice(others[0], "estimate")


def _asked(algorithm: AnyAlgorithm, problem: Problem, machine: Machine) -> list[Candidate]:
    lacking = tuple(algorithm.needs(problem, machine))
    if lacking:
        return [Candidate(algorithm, None, float("inf"), 0.0, 0, lacking)]
    # Packing moves single weights: it is as fast as the core's clock.
    clock = Facts().multiply_adds / machine.facts.multiply_adds
    rows = []
    for config in algorithm.configs(problem, machine):
        needed = algorithm.workspace(problem, machine, config)
        limit = problem.workspace_limit
        more = Need(f"workspace_limit={needed} or more", f"{limit}", {"workspace_limit": needed})
        seconds = algorithm.cost(problem, machine, config)
        packing = algorithm.packing_cost(problem, config) * clock
        rows.append(Candidate(algorithm, config, seconds, packing, needed, (more,) if needed > limit else ()))
    return rows


def _choice(row: Candidate, source: str) -> Choice:
    assert row.config is not None  # only candidates without a refusal are chosen
    return Choice(row.algorithm, row.config, source)


def _refusal(rows: list[Candidate], problem: Problem, algorithm: str) -> Exception:
    needs = [row.workspace_bytes for row in rows if row.config is not None]
    if needs:
        return WorkspaceLimitError(
            f"workspace_limit={problem.workspace_limit} bytes is too small for algorithm={algorithm!r} on "
            f"{problem}: the least that is needed is {min(needs)} bytes"
        )
    reasons = "; ".join(f"{row.algorithm.name}: {row.refusal}" for row in rows)
    return ValueError(f"algorithm={algorithm!r} cannot compute {problem}: {reasons}")
