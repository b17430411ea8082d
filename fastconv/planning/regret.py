"""How much time a choice costs beside the best one: what the estimate is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from fastconv.machine import Machine
from fastconv.planning import decisions, measuring, planner
from fastconv.problem import Problem


@dataclass(frozen=True, slots=True)
class Regret:
    """Time of a choice by time of the fastest of all that were measured, at least 1.

    Parameters
    ----------
    problem : Problem
    best, chosen : str
        The fastest algorithm, and the one that the estimate takes.
    estimate : float
        Of the choice by estimate.
    measure : float
        Of the fastest of those that rigor "measure" times.
    """

    problem: Problem
    best: str
    chosen: str
    estimate: float
    measure: float


def regret(problem: Problem, machine: Machine) -> Regret | None:
    """Return the regret of `problem` by its stored exhaustive decision; None if there is none that tells."""
    decision = decisions.find(problem, machine, "exhaustive")
    if decision is None:
        return None
    seconds = {(row.algorithm, tuple(row.config.items())): row.seconds for row in decision.timings}
    choice = planner.choose(problem, machine)
    chosen = seconds.get((choice.algorithm.name, planner.setting(choice)))
    timed = [
        seconds[name]
        for row in measuring.entrants(problem, machine)
        if (name := (row.algorithm.name, planner.setting(row))) in seconds
    ]
    if chosen is None or not timed:
        return None
    best = decision.timings[0]
    return Regret(
        problem, best.algorithm, choice.algorithm.name, chosen / best.seconds, min(timed) / best.seconds
    )
