"""One library in a process of its own: ``python -m fastconv.compare.worker`` speaks JSON, a line a message.

===========  =====================================================  =====================================
message      words                                                  answer
===========  =====================================================  =====================================
``prepare``  ``peer``, ``word``, ``settings``, ``sample`` (a file),  ``ready``, ``failed``, ``skipped``
             ``part`` of ``parts``: every how manieth form
``turn``     ``index`` of one that is ready, ``seconds``             ``samples``, ``wall_s``, ``lost_s``
``once``     ``index``                                              ``seconds``
===========  =====================================================  =====================================

It ends when its input ends. What libraries print goes to the standard error, never between messages.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastconv.compare.data import Sample, make_arrays
from fastconv.compare.measuring import Effort, Here
from fastconv.compare.peers import all_peers
from fastconv.compare.results import OURS
from fastconv.compare.station import Settings, blas_threads, everybody, prepare
from fastconv.problem import Problem

Message = dict[str, Any]
#: Linux: the signal that the kernel sends when the parent ends.
PR_SET_PDEATHSIG = 1


class Worker:
    """What is ready in this process."""

    def __init__(self) -> None:
        self.ready: list[Here] = []
        self.limits = ExitStack()

    def prepare(self, message: Message) -> Message:
        """Let one library compute a problem; what was ready before is forgotten."""
        self.ready = []
        self.limits.close()
        problem = Problem.parse(message["word"])
        self.limits.enter_context(blas_threads(problem.threads))
        settings = _settings(message["settings"])
        name = message["peer"]
        peers = everybody([], settings) if name == OURS else [all_peers()[name]]
        sample = Sample.load(Path(message["sample"]))
        found = prepare(peers, problem, make_arrays(problem), sample, settings)
        # The others end with their pools: another process has them. Failures are told once.
        mine = found.ready[message["part"] :: message["parts"]]
        self.ready = [turns for _, turns in mine if isinstance(turns, Here)]
        return {
            "ready": [asdict(entry) for entry, _ in mine],
            "failed": [asdict(entry) for entry in found.failed if message["part"] == 0],
            "skipped": found.skipped,
        }

    def turn(self, message: Message) -> Message:
        """Call one of those that are ready for a while."""
        return asdict(self.ready[message["index"]].turn(message["seconds"]))

    def once(self, message: Message) -> Message:
        """Call it once."""
        return {"seconds": self.ready[message["index"]].once()}


def _settings(words: dict[str, Any]) -> Settings:
    lists = {name: tuple(words[name]) for name in ("layouts", "classes")}
    return Settings(**{**words, **lists, "effort": Effort(**words["effort"])})


def main() -> None:
    """Answer messages until there are no more."""
    # Ctrl-C is the parent's to see. Whoever is stopped when the parent is killed must not stay for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    verbs: dict[str, Callable[[Message], Message]] = {
        "prepare": worker.prepare,
        "turn": worker.turn,
        "once": worker.once,
    }
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = verbs[message["verb"]](message)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
