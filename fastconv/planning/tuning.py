"""Tuning: problems are measured once, and what was found serves every later process on this machine."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from fastconv import arrays
from fastconv.algorithms.interface import Array
from fastconv.machine import Machine
from fastconv.planning import decisions, facts, measuring, planner, store
from fastconv.planning.decisions import TUNED, Decision, Timing
from fastconv.planning.planner import AUTO, Choice
from fastconv.planning.tuner import Times
from fastconv.problem import Problem, one_of


class TunerBusyError(RuntimeError):
    """Another process is tuning on this machine: two at once would measure each other."""


_rigor: ContextVar[str | None] = ContextVar("fastconv_rigor", default=None)
#: Problems that were recorded by this process.
_recorded: set[str] = set()
#: Called when a decision may have changed; `routes` forgets its choices then.
forgets: list[Callable[[], None]] = []


def rigor_in_force() -> str | None:
    """Return how thoroughly new problems are tuned on their first call: by `autotune`, else by ``FASTCONV_TUNE``."""
    chosen = _rigor.get()
    if chosen is not None:
        return chosen if chosen in TUNED else None
    wanted = os.environ.get("FASTCONV_TUNE", "").strip()
    if wanted in ("", "0", "off"):
        return None
    if wanted not in TUNED:
        raise ValueError(f"FASTCONV_TUNE must be one of {', '.join(TUNED)}, off, got {wanted!r}")
    return wanted


@contextmanager
def autotune(rigor: str = "measure") -> Iterator[None]:
    """Tune every problem on its first call inside the ``with`` block, and remember what was found.

    Parameters
    ----------
    rigor : {"measure", "exhaustive", "off"}
        Time the few best by estimate and every default setting, or every setting; "off" tunes nothing, whatever
        ``FASTCONV_TUNE`` says.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> with fastconv.autotune():
    ...     y = fastconv.conv2d(np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32))
    """
    one_of("rigor", rigor, (*TUNED, "off"))
    token = _rigor.set(rigor)
    _forget()
    try:
        yield
    finally:
        _rigor.reset(token)
        _forget()


def choice(problem: Problem, machine: Machine, algorithm: str, *, packing: bool) -> Choice:
    """Return the choice for a call: forced, else tuned if that is in force, else stored, else by estimate."""
    if algorithm == AUTO:
        rigor = rigor_in_force()
        if rigor and not _answered(problem, machine, rigor):
            try:
                with _alone():
                    _tune(problem, machine, rigor)
            except (TunerBusyError, OSError):
                pass
        found = planner.decided(problem, machine, packing=packing)
        if found is not None:
            return found
        _record(problem)
    return planner.choose(problem, machine, algorithm, packing=packing)


def measured(
    problem: Problem, machine: Machine, weights: Array, bias: Array | None, algorithm: str, rigor: str
) -> Choice:
    """Return the choice that the clock makes for these weights, now or, if it was not forced, earlier.

    Raises
    ------
    ValueError, WorkspaceLimitError
        As `fastconv.planning.planner.ranked` does.
    """
    forced = algorithm != AUTO
    if not forced and _answered(problem, machine, rigor):
        found = planner.decided(problem, machine)
        if found is not None:
            return found
    times = measuring.timed(problem, machine, weights, bias, algorithm, exhaustive=rigor == "exhaustive")
    if not times:
        # Nobody within reach takes these weights; packing them will find who does, or say why not.
        return planner.choose(problem, machine, algorithm)
    if not forced:
        decisions.keep(_decision(problem, rigor, times), machine)
        _forget()
    return times[0][0]


def tune(
    problems: Iterable[Problem | str],
    *,
    rigor: str = "measure",
    budget_s: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Decision]:
    """Measure which algorithm is fastest for each problem, and store it for every later process.

    Problems that were tuned as thoroughly before are answered from the store. Ctrl-C leaves every finished result
    stored. How fast the machine is by itself is measured first, if nobody did (`fastconv.measure_machine`).

    Parameters
    ----------
    problems : iterable of Problem or str
        Problems, or their words.
    rigor : {"measure", "exhaustive"}
        Time the few best by estimate and every algorithm's default setting, or every setting.
    budget_s : float, optional
        Seconds for all of them; problems that it does not reach are left as they are.
    progress : callable, optional
        Called as ``progress(done, total, best)`` again and again: how many problems are done, and which algorithm is
        the fastest so far for the one that is being measured, with its time.

    Returns
    -------
    list of Decision
        One for each problem that is decided, in their order.

    Raises
    ------
    TypeError, ValueError
        When an argument breaks its rule, or a word is not a problem.
    TunerBusyError
        When another process is tuning.

    Examples
    --------
    >>> import fastconv
    >>> found = fastconv.tune(["n1c8h16w16_o8k3x3_s1p1d1g1_nchw_f32"])
    >>> found[0].timings[0].seconds > 0
    True
    """
    one_of("rigor", rigor, TUNED)
    wanted = [Problem.parse(item) if isinstance(item, str) else item for item in problems]
    if budget_s is not None and not (isinstance(budget_s, int | float) and budget_s > 0):
        raise ValueError(f"budget_s must be a positive number of seconds, got {budget_s!r}")
    end = time.perf_counter() + budget_s if budget_s is not None else float("inf")
    machine, found = facts.host(), []
    done = 0

    def tell(choice: Choice | None = None, seconds: float = 0.0) -> None:
        if progress:
            best = f"{choice.algorithm.name} {seconds * 1e3:.3g} ms" if choice else ""
            progress(done, len(wanted), best)

    tell()
    try:
        for problem in wanted:
            asked = planner.as_planned(problem)
            decision = decisions.find(asked, machine, rigor)
            if decision is None and time.perf_counter() < end:
                with _alone():
                    machine = machine if machine.facts.measured else facts.measured()
                    decision = _tune(asked, machine, rigor, end, tell)
            if decision is not None:
                found.append(decision)
            done += 1
            tell()
    finally:
        _forget()
    return found


def _tune(
    problem: Problem,
    machine: Machine,
    rigor: str,
    deadline: float = float("inf"),
    leads: Callable[[Choice, float], None] | None = None,
) -> Decision | None:
    """Measure and store one problem, and before it the same for one thread, which decides the bits."""
    if problem.threads > 1 and decisions.find(replace(problem, threads=1), machine, rigor) is None:
        _tune(replace(problem, threads=1), machine, rigor, deadline, leads)
    rng = np.random.default_rng(1)
    dtype = problem.compute_dtype
    weights = arrays.ready(rng.integers(-4, 5, problem.w_shape, np.int8), dtype)
    bias = np.zeros(problem.o, dtype) if problem.bias else None
    exhaustive = rigor == "exhaustive"
    times = measuring.timed(
        problem, machine, weights, bias, exhaustive=exhaustive, deadline=deadline, leads=leads
    )
    if not times:
        return None
    decision = _decision(problem, rigor, times)
    decisions.keep(decision, machine)
    return decision


def _decision(problem: Problem, rigor: str, times: list[tuple[Choice, Times]]) -> Decision:
    timings = (Timing(row.algorithm.name, dict(planner.setting(row)), *clock) for row, clock in times)
    return Decision(decisions.key(problem), rigor, tuple(timings))


def _answered(problem: Problem, machine: Machine, rigor: str) -> bool:
    return decisions.find(problem, machine, rigor) is not None


def _forget() -> None:
    facts.forget()
    for forget in forgets:
        forget()


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the one place there is for a tuner on this machine; without a folder for it, nobody can be kept out."""
    home, lock = store.root(), None
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / "tuning.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise TunerBusyError("another process is tuning on this machine; try again when it is done") from None
    except OSError:
        lock = None
    try:
        yield
    finally:
        if lock:
            lock.release()


def _record(problem: Problem) -> None:
    """Note a problem that nobody tuned in the file that ``FASTCONV_RECORD`` names, once per process."""
    wanted = os.environ.get("FASTCONV_RECORD")
    word = decisions.key(problem)
    if not wanted or word in _recorded:
        return
    _recorded.add(word)
    try:
        with Path(wanted).open("a", encoding="utf-8") as file:
            file.write(word + "\n")
    except OSError as error:
        warnings.warn(f"FASTCONV_RECORD: cannot write {wanted}: {error}", RuntimeWarning, stacklevel=2)
