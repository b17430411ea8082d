"""What tuning found, kept on disk: one JSON file per problem, in a folder per machine and version of the kernels.

A decision is a hint and never an authority: the planner takes it only where it names an algorithm in a setting that
the planner would consider anyway, so that a damaged, stale or malicious file can cost time and nothing else. Whatever
cannot be read is no decision; `fastconv.planning.store` says how files are read and written.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fastconv.kernels.store import sources_word
from fastconv.machine import GIB, Machine
from fastconv.planning import store
from fastconv.planning.store import require as _require
from fastconv.problem import Problem

#: How thoroughly a problem was tuned, least first. A stricter answer serves a laxer request.
TUNED = ("measure", "exhaustive")
#: A bundle holds thousands of decisions; what is longer than this is none.
MOST_BUNDLE_BYTES = 1 << 28
#: Thirty years: no timing takes longer.
MOST_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class Timing:
    """The time of one algorithm in one setting.

    Parameters
    ----------
    algorithm : str
    config : dict of str to int or str
        The setting by the names of its values.
    seconds : float
        Of one run with packed weights, the best of `rounds`.
    spread : float
        How far the middle round lies above the best one, as a part of it.
    rounds : int
        How often it was timed; who was far behind is not timed again.
    """

    algorithm: str
    config: dict[str, int | str]
    seconds: float
    spread: float = 0.0
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """All that was measured for a problem.

    Parameters
    ----------
    problem : str
        Its word, without the limit of the workspace.
    rigor : str
        "measure" or "exhaustive".
    timings : tuple of Timing
        Every candidate that was timed, the fastest first.
    """

    problem: str
    rigor: str
    timings: tuple[Timing, ...]

    def serves(self, rigor: str) -> bool:
        """Tell whether this answers a request of that rigor."""
        return rigor not in TUNED or TUNED.index(self.rigor) >= TUNED.index(rigor)


def key(problem: Problem) -> str:
    """Return the word under which a problem is kept: how much memory may be used does not change what is fast."""
    return replace(problem, n=max(problem.n, 1), workspace_limit=GIB).word


def origin(machine: Machine) -> str:
    """Return the word for what decisions are about: these kernels on this machine; others have other times."""
    return f"{machine.fingerprint}-{sources_word()}"


def folder(machine: Machine) -> Path:
    """Return the folder of one machine's decisions; it need not exist."""
    return store.root() / origin(machine)


def find(problem: Problem, machine: Machine, rigor: str = "stored") -> Decision | None:
    """Return the decision about `problem` that serves a request of that rigor, or None."""
    word = key(problem)
    try:
        path = folder(machine) / _name(word)
        decision = _read(path)
    except FileNotFoundError:
        return None
    except store.DAMAGE as error:
        store.warn(f"a stored decision cannot be read and is not used ({type(error).__name__}: {error})")
        return None
    return decision if decision.problem == word and decision.serves(rigor) else None


def keep(decision: Decision, machine: Machine) -> bool:
    """Store a decision in place of any other about its problem; tell whether that was possible."""
    if store.read_only():
        return False
    try:
        store.write(folder(machine) / _name(decision.problem), asdict(decision))
    except (OSError, RuntimeError) as error:
        store.warn(f"a decision cannot be stored ({type(error).__name__}: {error})")
        return False
    return True


def stored(machine: Machine) -> Iterator[tuple[Path, Decision | str]]:
    """Yield every file of a machine with its decision, or with what is wrong with it."""
    try:
        paths = sorted(folder(machine).glob("*.json"))
    except OSError:
        return
    for path in paths:
        try:
            decision = _read(path)
            found: Decision | str = decision
            if path.name != _name(decision.problem):
                found = "the file does not have the name of its problem"
        except FileNotFoundError:
            continue
        except store.DAMAGE as error:
            found = f"{type(error).__name__}: {error}"
        yield path, found


def clear(machine: Machine) -> int:
    """Remove every decision of a machine, and return how many there were."""
    count = 0
    for path, _ in stored(machine):
        with contextlib.suppress(OSError):
            path.unlink()
            count += 1
    return count


def bundle(machine: Machine) -> dict[str, Any]:
    """Return all valid decisions of a machine as one JSON object."""
    found = [asdict(decision) for _, decision in stored(machine) if isinstance(decision, Decision)]
    return {"schema": store.SCHEMA, "machine": origin(machine), "decisions": found}


def merge(text: str, machine: Machine) -> tuple[int, int]:
    """Store the decisions of a bundle; where both sides know a problem, the faster one wins if as thorough.

    Parameters
    ----------
    text : str
        What `bundle` returned, as JSON.
    machine : Machine
        Whose decisions these must be.

    Returns
    -------
    tuple of int
        How many were stored, and how many were not better than what is here.

    Raises
    ------
    ValueError
        When `text` is no bundle, or one of another machine or version: its times mean nothing here.
    """
    if len(text) > MOST_BUNDLE_BYTES:
        raise ValueError(f"bundle: has {len(text)} characters, at most {MOST_BUNDLE_BYTES} are read")
    try:
        value = store.parse(text)
    except RecursionError:
        raise ValueError("bundle: is nested too deeply") from None
    if value.get("machine") != origin(machine):
        raise ValueError(
            f"bundle: was made on another machine or another version of fastconv, {value.get('machine')!r}, "
            f"this is {origin(machine)!r}"
        )
    rows: Any = value.get("decisions")
    _require(isinstance(rows, list), "decisions must be a list")
    taken, left = 0, 0
    for row in rows:
        decision = _decision(row)
        here = find(Problem.parse(decision.problem), machine)
        better = here is None or (
            decision.serves(here.rigor) and decision.timings[0].seconds < here.timings[0].seconds
        )
        if better and keep(decision, machine):
            taken += 1
        else:
            left += 1
    return taken, left


def _name(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()[:32] + ".json"


def _read(path: Path) -> Decision:
    return _decision(store.read(path))


def _decision(value: Any) -> Decision:
    _require(isinstance(value, dict), "a decision must be an object")
    problem, rigor, rows = value.get("problem"), value.get("rigor"), value.get("timings")
    _require(isinstance(problem, str) and len(problem) < 1000, "problem must be a word")
    _require(rigor in TUNED, f"rigor must be one of {', '.join(TUNED)}")
    _require(isinstance(rows, list) and 0 < len(rows) <= 1000, "timings must be a list that is not empty")
    word = key(Problem.parse(problem))
    _require(word == problem, "problem must be the word of a problem")
    timings = sorted((_timing(row) for row in rows), key=lambda timing: timing.seconds)
    return Decision(word, rigor, tuple(timings))


def _timing(value: Any) -> Timing:
    _require(isinstance(value, dict), "a timing must be an object")
    algorithm, config, seconds = value.get("algorithm"), value.get("config"), value.get("seconds")
    _require(isinstance(algorithm, str), "algorithm must be a word")
    _require(isinstance(config, dict) and len(config) < 100, "config must be an object")
    _require(all(type(item) in (int, str) for item in config.values()), "config must hold numbers and words")
    spread, rounds = value.get("spread", 0.0), value.get("rounds", 1)
    _require(store.number(seconds, 1e-12, MOST_SECONDS), "seconds must be a positive number")
    _require(store.number(spread, 0, MOST_SECONDS), "spread must be a number, not negative")
    _require(type(rounds) is int and 0 < rounds < MOST_SECONDS, "rounds must be a positive whole number")
    return Timing(algorithm, config, float(seconds), float(spread), rounds)
