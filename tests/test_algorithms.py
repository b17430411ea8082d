"""Every algorithm on every problem it takes: exact where its sums are, within its published bound elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import Case, Problem, check, evaluate, excess, known
from problems import FAMILIES, PROBLEMS, SHORT
from running import (
    NAMES,
    accepted,
    accepting,
    compute,
    empty_result,
    is_exact,
    judge,
    prepared,
    promise,
    rank_one,
    run,
)

import fastconv
from fastconv.machine import Machine

FLOATS = tuple(word for word in PROBLEMS if "_f32" in word or "_f64" in word)
HOST = Machine.host()


@pytest.mark.parametrize("word", PROBLEMS)
@pytest.mark.parametrize("name", NAMES)
def test_small_integers(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, "integers", rank_one(name))
    y = compute(algorithm, problem, case)
    if is_exact(algorithm, problem):
        np.testing.assert_array_equal(y, expected.astype(y.dtype))
    else:
        judge(algorithm, problem, y, expected, magnitude)


@pytest.mark.parametrize("word", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_error_bound_holds_and_threads_change_no_bit(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, "normal", rank_one(name))
    config = algorithm.configs(problem, HOST)[0]
    _, work = prepared(algorithm, problem, config, case)
    y = run(problem, work, case)
    judge(algorithm, problem, y, expected, magnitude)
    np.testing.assert_array_equal(run(problem, work, case, threads=2, byte=0x7F), y)


@pytest.mark.parametrize("kind", ["uniform", "relu", "scaled"])
@pytest.mark.parametrize("word", SHORT)
@pytest.mark.parametrize("name", NAMES)
def test_error_bound_holds_on_other_data(name: str, word: str, kind: str) -> None:
    problem = Problem.parse(word)
    if problem.compute_dtype == "int32":
        pytest.skip("integers have one kind of data")
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, kind, rank_one(name))
    judge(algorithm, problem, compute(algorithm, problem, case), expected, magnitude)


@pytest.mark.parametrize("word", (*SHORT[:4], "n1c19h18w26_o20k3x3_s1p1d1g1_nhwc_f32_fast"))
@pytest.mark.parametrize("name", NAMES)
def test_every_setting(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, "normal", rank_one(name))
    configs = algorithm.configs(problem, HOST)
    assert len(set(configs)) == len(configs)
    for config in configs:
        y = compute(algorithm, problem, case, config)
        judge(algorithm, problem, y, expected, magnitude)
        assert algorithm.cost(problem, HOST, config) > 0
        layout, _ = prepared(algorithm, problem, config, case)
        assert layout.scratch_bytes <= algorithm.workspace(problem, HOST, config)


@pytest.mark.parametrize("word", (*SHORT, *FAMILIES))
@pytest.mark.parametrize("name", NAMES)
def test_settings_for_more_threads_change_no_bit(name: str, word: str) -> None:
    one = Problem.parse(word)
    algorithm = accepted(name, one)
    case = known(word, "normal", rank_one(name))[0]
    y = compute(algorithm, one, case)
    for threads in (2, 5):
        many = replace(one, threads=threads)
        assert algorithm.why_not(many, HOST) is None
        np.testing.assert_array_equal(compute(algorithm, many, case, threads=2), y)


#: Class of accuracy -> relative L2 error, largest error beside the largest output. "strict" names no numbers of its
#: own (`error_bound` is its promise), but must not be worse than "standard".
PROMISES = {"strict": (5e-6, 1e-5), "standard": (5e-6, 1e-5), "fast": (5e-3, 5e-2)}
DEEP = ("n1c256h13w14_o33k3x3_s1p1d1g1_nchw_f32", "n1c256h13w14_o33k1x1_s1p0d1g1_nhwc_f32", *FAMILIES)


@pytest.mark.parametrize("kind", ["normal", "uniform", "relu"])
@pytest.mark.parametrize("accuracy", PROMISES)
@pytest.mark.parametrize("word", DEEP)
@pytest.mark.parametrize("name", NAMES)
def test_classes_of_accuracy(name: str, word: str, accuracy: str, kind: str) -> None:
    case, expected, _ = known(word, kind, rank_one(name))
    problem = replace(Problem.parse(word), accuracy=accuracy)
    algorithm = accepted(name, problem)
    error = compute(algorithm, problem, case) - expected
    relative, largest = PROMISES[accuracy]
    assert np.linalg.norm(error) <= relative * np.linalg.norm(expected)
    assert np.abs(error).max() <= largest * np.abs(expected).max()


@pytest.mark.parametrize("word", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_error_bound_notices_one_dropped_tap(name: str, word: str) -> None:
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, "normal", rank_one(name))
    allowed = promise(algorithm, problem, magnitude)
    for tap in range(problem.taps):
        weights = case.w.copy()
        weights[:, -1, tap // problem.kw, tap % problem.kw] = 0
        damaged, _ = evaluate(problem, replace(case, w=weights))
        assert excess(problem, damaged.astype(np.float32), expected, *allowed) > 2, tap


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_noticed(name: str) -> None:
    word = accepting(name, FAMILIES)
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case, expected, magnitude = known(word, "normal", rank_one(name))
    allowed = promise(algorithm, problem, magnitude)
    y = compute(algorithm, problem, case)
    missing = y.copy()
    missing[0, -1, -1, -1] = np.nan
    shifted = np.roll(y, 1, axis=-1)
    for wrong in (missing, shifted, empty_result(problem)):
        with pytest.raises(AssertionError, match="times the allowed error"):
            check(problem, wrong, expected, *allowed)


@pytest.mark.parametrize("name", NAMES)
def test_repeated_runs_give_the_same_bits(name: str) -> None:
    word = accepting(name, FAMILIES)
    problem = Problem.parse(word)
    algorithm = accepted(name, problem)
    case: Case = known(word, "normal", rank_one(name))[0]
    work = prepared(algorithm, problem, algorithm.configs(problem, HOST)[0], case)[1]
    y = run(problem, work, case)
    for turn in range(200):
        np.testing.assert_array_equal(run(problem, work, case, threads=2, byte=turn), y)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int16", "uint32", "int64"])
@pytest.mark.parametrize("name", NAMES)
def test_storage_types(name: str, dtype: str) -> None:
    """Types that are computed in another one; integers fill their type, so that sums wrap around."""
    words = tuple(replace(Problem.parse(word), dtype=dtype, bias=True).word for word in FAMILIES)
    problem = Problem.parse(accepting(name, words))
    algorithm = accepted(name, problem)
    top, bottom, left, right = problem.padding
    for kind in ("integers", "normal"):
        case, expected, magnitude = known(problem.word, kind, rank_one(name))
        y = fastconv.conv2d(
            case.x,
            case.w,
            case.bias,
            padding=((top, bottom), (left, right)),
            groups=problem.groups,
            layout=problem.layout,
            algorithm=name,
        )
        assert y.dtype == problem.result_dtype
        judge(algorithm, problem, y, expected, magnitude)
        if kind == "integers" and is_exact(algorithm, problem):
            np.testing.assert_array_equal(y, expected.astype(y.dtype))


#: Layers of networks: large enough for the estimate to prefer different algorithms.
LAYERS = (
    "n1c64h28w30_o64k3x3_s1p1d1g1_nchw_f32",
    "n1c64h28w30_o64k3x3_s1p1d1g1_nhwc_f32",
    "n1c128h7w7_o64k3x3_s1p1d1g1_nchw_f32",
    "n1c96h14w13_o24k1x1_s1p0d1g1_nhwc_f32",
    "n1c3h64w61_o32k7x7_s2p3d1g1_nchw_f32",
    "n1c96h14w15_o96k3x3_s1p1d1g96_nhwc_f32",
)


@pytest.mark.parametrize("accuracy", ["strict", "standard"])
@pytest.mark.parametrize("word", (*LAYERS, *FAMILIES))
def test_calls_give_the_same_bits_for_any_number_of_threads(word: str, accuracy: str) -> None:
    problem = Problem.parse(word)
    case = known(word, "normal")[0]
    top, bottom, left, right = problem.padding
    words = {
        "stride": problem.stride,
        "padding": ((top, bottom), (left, right)),
        "groups": problem.groups,
        "layout": problem.layout,
        "accuracy": accuracy,
    }
    y = fastconv.conv2d(case.x, case.w, threads=1, **words)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(fastconv.conv2d(case.x, case.w, threads=threads, **words), y)
