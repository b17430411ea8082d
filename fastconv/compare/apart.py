"""Every library in its own process, in turns: whose turn it is not is stopped, with all its threads.

Pools of threads that spin between calls (OpenMP, onnxruntime) would otherwise compute nothing at the cost of
the next contestant. So every library may spin as it likes, as it does for its users.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from fastconv.compare.data import Arrays, Sample
from fastconv.compare.measuring import Turn, Turns, empty_caches
from fastconv.compare.peers import Peer
from fastconv.compare.results import Entry
from fastconv.compare.station import Prepared, Settings
from fastconv.problem import Problem

#: A library that has not answered by then hangs. Compiling and packing for a large layer takes seconds.
PATIENCE_S = 120.0
#: Added to every turn: threads that were stopped may all be woken on one core, and need a moment to part.
SETTLE_S = 0.01
_LINE = 1 << 16


class WorkerLostError(RuntimeError):
    """The process of a library ended, or did not answer."""


class _Process:
    """A worker; stopped between its messages."""

    def __init__(self, name: str, threads: int) -> None:
        count = str(threads)
        # A library that looks at its environment only once must find it right from the start.
        words = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self.name = name
        self.buffer = b""
        #: Why there is no process any more.
        self.lost = ""
        # The same fastconv as this one, wherever it lies.
        home = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastconv.compare.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(words, count), "PYTHONPATH": path},
        )

    def ask(self, verb: str, patience: float = PATIENCE_S, **words: Any) -> dict[str, Any]:
        """Return the answer to a message; the process runs only until it has given it."""
        stdin = self.process.stdin
        assert stdin is not None
        if self.lost:
            raise WorkerLostError(self.lost)
        self._signal("SIGCONT")
        try:
            stdin.write(json.dumps({"verb": verb, **words}).encode() + b"\n")
            stdin.flush()
        except OSError:
            raise self._ended() from None
        answer: dict[str, Any] = json.loads(self._line(time.monotonic() + patience))
        self._signal("SIGSTOP")
        if "error" in answer:
            raise WorkerLostError(str(answer["error"]))
        return answer

    def _line(self, end: float) -> bytes:
        stdout = self.process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not waiting.select(max(0.0, end - time.monotonic())):
                    self.lost = "its process gave no answer in time"
                    self.close()
                    raise WorkerLostError(self.lost)
                part = os.read(stdout.fileno(), _LINE)
                if not part:
                    raise self._ended()
                self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _ended(self) -> WorkerLostError:
        self.close(grace=5.0)
        code = self.process.returncode
        self.lost = f"its process ended {f'by signal {-code}' if code < 0 else f'with code {code}'}"
        return WorkerLostError(self.lost)

    def _signal(self, name: str) -> None:
        if hasattr(signal, name) and self.process.poll() is None:
            self.process.send_signal(getattr(signal, name))

    def close(self, grace: float = 0.0) -> None:
        """End the process, if it does not end by itself within `grace` seconds."""
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            # What was written last may have had no reader any more.
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


class _There:
    """Turns in another process."""

    def __init__(self, process: _Process, index: int) -> None:
        self.process = process
        self.index = index

    def turn(self, seconds: float) -> Turn:
        """Let it call for `seconds`."""
        answer = self.process.ask("turn", index=self.index, seconds=seconds + SETTLE_S)
        return Turn(tuple(answer["samples"]), answer["wall_s"], answer["lost_s"])

    def cold(self) -> float:
        """Let it call once, after this process has emptied the caches that they share.

        One buffer as large as two last caches is enough for all of them. What stays is in the second level
        of cores that this process does not run on.
        """
        empty_caches()
        return float(self.process.ask("once", index=self.index)["seconds"])


class Apart:
    """A process per library, kept from layer to layer; use it in a ``with`` statement."""

    def __init__(self) -> None:
        self._processes: dict[tuple[str, int, int], _Process] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fastconv-compare-")

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.close()
        self._folder.cleanup()

    def prepare(
        self, peers: Sequence[Peer], problem: Problem, arrays: Arrays, sample: Sample, settings: Settings
    ) -> Prepared:
        """Return who is ready to be measured."""
        found = Prepared()
        path = Path(self._folder.name) / "sample.npz"
        sample.save(path)
        for peer in peers:
            reason = peer.missing() or peer.why_not(problem)
            if reason:
                found.skipped[peer.name] = reason
                continue
            words = {
                "peer": peer.name,
                "word": problem.word,
                "settings": asdict(settings),
                "sample": str(path),
            }
            for part in range(peer.pools):
                self._prepare_part(peer, part, problem.threads, words, found)
        return found

    def _prepare_part(
        self, peer: Peer, part: int, threads: int, words: dict[str, Any], found: Prepared
    ) -> None:
        """Let the process of one part of the forms of a library make them ready."""
        process = self._process(peer.name, threads, part)
        try:
            answer = process.ask("prepare", part=part, parts=peer.pools, **words)
        except WorkerLostError as error:
            found.failed.append(Entry(peer.name, peer.name, "", failed=str(error)))
            return
        found.skipped |= answer["skipped"]
        found.failed += [_entry(record) for record in answer["failed"]]
        for index, record in enumerate(answer["ready"]):
            turns: Turns = _There(process, index)
            found.ready.append((_entry(record), turns))

    def _process(self, name: str, threads: int, part: int) -> _Process:
        key = (name, threads, part)
        known = self._processes.get(key)
        if known is None or known.lost:
            known = self._processes[key] = _Process(name, threads)
        return known


def _entry(record: dict[str, Any]) -> Entry:
    return Entry(**{**record, "rounds_s": tuple(record["rounds_s"])})
