"""What would be done and why: the planner's survey as data, and as a table to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastconv.algorithms.needs import Need
from fastconv.machine import Machine
from fastconv.planning import decisions
from fastconv.planning.decisions import Timing
from fastconv.planning.planner import AUTO, Candidate, Choice, as_planned, choose, decided, setting, survey
from fastconv.problem import Problem


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one algorithm in one setting.

    Parameters
    ----------
    algorithm : str
    config : str
        The setting; empty when the algorithm cannot compute the problem at all.
    accepted : bool
    needs : tuple of Need
        All that would have to change for it to be used, each with what it is now, and with the fields of the `Problem`
        to change if that helps; empty when it can be used.
    weights : str
        What weights must be for it: it is tried in place of the chosen one when they are known. Empty when any will do.
    seconds : float
        Predicted time with packed weights; infinite when it cannot compute the problem.
    packing_seconds : float
        Predicted time of packing the weights: once per plan, and in every call of `conv2d`, which counts it
        when it chooses.
    workspace_bytes : int
        Scratch memory.
    error_bound : float
        b in ``|y - exact| <= b * (sum(|x| |w|) + |bias| + |residual|)``; NaN when it cannot compute the
        problem.
    chosen : bool
    measured : Timing, optional
        Time that tuning measured on this machine, with its spread; None when it did not.
    """

    algorithm: str
    config: str
    accepted: bool
    needs: tuple[Need, ...]
    weights: str
    seconds: float
    packing_seconds: float
    workspace_bytes: int
    error_bound: float
    chosen: bool
    measured: Timing | None = None

    @property
    def reason(self) -> str:
        """Why it cannot be used; empty when it can."""
        return "; ".join(map(str, self.needs))

    @property
    def measured_seconds(self) -> float | None:
        """The best time that tuning measured, if it did."""
        return self.measured.seconds if self.measured else None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A choice with everything it was chosen from; ``print`` it, or read its fields.

    Parameters
    ----------
    problem : Problem
    source : str
        Where the choice came from: "stored", "estimate" or "forced".
    rows : tuple of Row
        Every algorithm in every setting: the usable ones first, the fastest on top, then the refused ones.
    """

    problem: Problem
    source: str
    rows: tuple[Row, ...]

    @property
    def chosen(self) -> Row:
        """The row that was chosen."""
        return next(row for row in self.rows if row.chosen)

    @property
    def tuned(self) -> bool:
        """Whether any row was measured on this machine."""
        return any(row.measured for row in self.rows)

    def __str__(self) -> str:
        p = self.problem
        head = [
            f"{p.word}",
            f"x {p.x_shape} w {p.w_shape} -> y {p.y_shape} {p.result_dtype}, {p.flop / 1e6:.6g} Mflop, "
            f"{p.threads} thread{'s' if p.threads > 1 else ''}",
            f"chosen: {self.chosen.algorithm} {self.chosen.config} (by {self.source})",
            "",
        ]
        table: list[tuple[str, ...]] = [
            (
                "",
                "algorithm",
                "predicted",
                *(["measured"] if self.tuned else []),
                "GFLOP/s",
                "packing",
                "workspace",
                "error bound",
                "setting, or what it needs",
            )
        ]
        table += [self._cells(row) for row in self.rows]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]) - 1)]
        lines = ["  ".join([*map(str.ljust, cells, widths), cells[-1]]).rstrip() for cells in table]
        return "\n".join(head + lines)

    def _cells(self, row: Row) -> tuple[str, ...]:
        known = row.config != ""
        return (
            "*" if row.chosen else "",
            row.algorithm,
            time_text(row.seconds) if known else "-",
            *([_clock(row.measured)] if self.tuned else []),
            f"{self.problem.flop / max(row.seconds, 1e-9) / 1e9:.1f}" if known else "-",
            time_text(row.packing_seconds) if known else "-",
            _size(row.workspace_bytes) if known else "-",
            f"{row.error_bound:.1e}" if known else "-",
            row.config + (f", if {row.weights}" if row.weights else "") if row.accepted else row.reason,
        )


def explained(problem: Problem, machine: Machine, algorithm: str = AUTO) -> Explanation:
    """Return what the planner would choose, and what every algorithm said.

    Raises
    ------
    ValueError, WorkspaceLimitError
        As `fastconv.planning.planner.choose` does.
    """
    asked = as_planned(problem)
    choice = (decided(asked, machine) if algorithm == AUTO else None) or choose(asked, machine, algorithm)
    decision = decisions.find(asked, machine)
    measured = {
        (row.algorithm, tuple(row.config.items())): row for row in (decision.timings if decision else ())
    }
    rows = [_row(candidate, asked, choice, measured) for candidate in survey(asked, machine)]
    rows.sort(key=lambda row: (not row.accepted, row.seconds))
    return Explanation(problem, choice.source, tuple(rows))


def _row(candidate: Candidate, problem: Problem, choice: Choice, measured: Mapping[Any, Timing]) -> Row:
    algorithm = candidate.algorithm
    return Row(
        algorithm=algorithm.name,
        config="" if candidate.config is None else _setting(candidate.config),
        accepted=not candidate.needs,
        needs=candidate.needs,
        weights=algorithm.needs_of_weights,
        seconds=candidate.seconds,
        packing_seconds=candidate.packing_seconds,
        workspace_bytes=candidate.workspace_bytes,
        error_bound=float("nan") if candidate.config is None else algorithm.error_bound(problem),
        chosen=(algorithm.name, candidate.config) == (choice.algorithm.name, choice.config),
        measured=measured.get((algorithm.name, setting(candidate))),
    )


def _setting(config: tuple[object, ...]) -> str:
    names = getattr(config, "_fields", ())
    return " ".join(f"{name}={value}" for name, value in zip(names, config, strict=True)) or "default"


def _clock(timing: Timing | None) -> str:
    if timing is None:
        return "-"
    return (
        f"{time_text(timing.seconds)} +{timing.spread:.0%}"
        if timing.rounds > 1
        else time_text(timing.seconds)
    )


def time_text(seconds: float) -> str:
    """Return a time to read, in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _size(count: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"
