"""Run in child processes by `test_isa`: every algorithm on the first problems it takes, on the machine Numba is told.

The argument says how many problems. Prints ``vector_bytes vector_registers fma`` and how many results were right.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from oracle import known
from problems import FAMILIES, SHORT
from running import NAMES, is_exact, judge, prepared, rank_one, run

from fastconv.algorithms import registry
from fastconv.machine import Machine
from fastconv.problem import Problem


def main(count: int) -> None:
    machine = Machine.host()
    done = 0
    for name in NAMES:
        algorithm = registry.get(name)
        problems = [Problem.parse(word) for word in (*SHORT, *FAMILIES)]
        for problem in [p for p in problems if algorithm.why_not(p, machine) is None][:count]:
            word = problem.word
            config = algorithm.configs(problem, machine)[0]
            for kind in ("integers", "normal"):
                case, expected, magnitude = known(word, kind, rank_one(name))
                _, work = prepared(algorithm, problem, config, case)
                y = run(problem, work, case, threads=2)
                judge(algorithm, problem, y, expected, magnitude)
                if kind == "integers" and is_exact(algorithm, problem):
                    np.testing.assert_array_equal(y, expected.astype(y.dtype), err_msg=f"{name} {word}")
            done += 1
    print(machine.vector_bytes, machine.vector_registers, machine.fma, done)


if __name__ == "__main__":
    main(int(sys.argv[1]))
