"""Nothing is read or written outside the given arrays, not even one element, and nothing is left unwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import Array, evaluate, known
from problems import FAMILIES, SHORT
from running import NAMES, accepted, accepting, compute, judge, prepared, rank_one, run

import fastconv
from fastconv.machine import Machine
from fastconv.problem import Problem

HERE = Path(__file__).resolve().parent
#: The bytes of a quiet NaN in both float types, unlikely in any other.
CANARY = 0xFF
ELEMENTS = 1000


def child(*args: str) -> subprocess.CompletedProcess[str]:
    """Run a scenario in a process of its own."""
    package = str(Path(fastconv.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / "scenarios_of_memory.py"), *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")
@pytest.mark.parametrize("name", NAMES)
def test_no_page_beside_the_arrays_is_touched(name: str) -> None:
    result = child("guards", name)
    last = (result.stdout.splitlines() or ["nothing"])[-1]
    assert result.returncode == 0, f"{last}: exit {result.returncode}\n{result.stderr[-2000:]}"
    assert int(last.removeprefix("done ")) > 3


@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")
@pytest.mark.parametrize("deed", ["read", "write", "write frozen"])
@pytest.mark.parametrize("side", ["start", "end"])
def test_guards_notice_one_element(side: str, deed: str) -> None:
    result = child("overreach", side, deed)
    assert result.stdout.split() == ["reached"], result.stderr
    assert result.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


def between_canaries(shape: tuple[int, ...], dtype: Any, fill: float) -> tuple[Array, Array]:
    """Return memory full of canaries, and an array in its middle."""
    size = int(np.prod(shape))
    memory = np.full((size + 2 * ELEMENTS) * np.dtype(dtype).itemsize, CANARY, np.uint8).view(dtype)
    middle = memory[ELEMENTS : ELEMENTS + size].reshape(shape)
    middle[...] = fill
    return memory, middle


@pytest.mark.parametrize("word", (*SHORT, *FAMILIES))
@pytest.mark.parametrize("name", NAMES)
def test_nothing_beside_the_output_changes(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, "normal", rank_one(name))
    top, bottom, left, right = problem.padding
    plan = fastconv.plan(
        case.x,
        case.w,
        case.bias,
        problem.stride,
        ((top, bottom), (left, right)),
        problem.dilation,
        problem.groups,
        layout=problem.layout,
        padding_mode=problem.padding_mode,
        activation=problem.activation,
        residual=problem.residual,
        algorithm=name,
        threads=2,
    )
    words = {} if case.residual is None else {"residual": case.residual}
    memory, out = between_canaries(problem.y_shape, problem.result_dtype, 7)
    assert plan(case.x, out=out, **words) is out
    judge(algorithm, problem, out, expected, magnitude)
    for side in (memory[:ELEMENTS], memory[-ELEMENTS:]):
        assert (side.view(np.uint8) == CANARY).all()
    # Rows with gaps between them: results go there, canaries in the gaps stay.
    gaps, _ = between_canaries((*problem.y_shape[:-1], 2 * problem.y_shape[-1]), problem.result_dtype, 7)
    middle = gaps[ELEMENTS:-ELEMENTS].reshape(*problem.y_shape[:-1], 2 * problem.y_shape[-1])
    middle[...] = 7
    strided = middle[..., ::2]
    plan(case.x, out=strided, **words)
    np.testing.assert_array_equal(strided, out)
    assert (middle[..., 1::2] == 7).all()


@pytest.mark.parametrize("word", SHORT)
@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_what_memory_held(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case = known(word, "normal", rank_one(name))[0]
    work = prepared(algorithm, problem, algorithm.configs(problem, Machine.host())[0], case)[1]
    y = run(problem, work, case)
    for byte in (0x00, 0x01, 0x7F, 0x80):
        np.testing.assert_array_equal(run(problem, work, case, byte=byte), y)


@pytest.mark.parametrize("name", NAMES)
def test_workers_do_not_share_scratch_memory(name: str) -> None:
    word = accepting(name, FAMILIES)
    problem = replace(Problem.parse(word), n=8, threads=4)
    algorithm = accepted(name, problem)
    case, _, _ = known(problem.word, "normal", rank_one(name))
    y = compute(algorithm, problem, case, threads=4)
    judge(algorithm, problem, y, *evaluate(problem, case))
    for _ in range(20):
        np.testing.assert_array_equal(compute(algorithm, problem, case, threads=4), y)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", NAMES)
def test_indices_beyond_32_bits(name: str, layout: str) -> None:
    """Corners of an image of more than 2**31 elements: 8 GiB, of which only the pages that are read exist."""
    side = 46_342
    shape = (1, 1, side, side) if layout == "NCHW" else (1, side, side, 1)
    stride = side - 2
    words = {"stride": stride, "layout": layout}
    problem = fastconv.explain(shape, (1, 1, 2, 2), **words).problem
    accepted(name, problem)
    try:
        x = np.zeros(shape, np.float32)
    except MemoryError:
        pytest.skip("8 GiB of address space cannot be had")
    image = x.reshape(side, side)
    image[0, 0], image[0, -1], image[-1, 0], image[-1, -1] = 2, 3, 5, 7
    w = np.array([1, 10, 100, 1000], np.float32).reshape(1, 1, 2, 2)
    try:
        y = fastconv.conv2d(x, w, algorithm=name, threads=1, **words)
    except fastconv.WorkspaceLimitError as refusal:
        pytest.skip(str(refusal))
    np.testing.assert_array_equal(y.ravel(), [2, 30, 500, 7000])
