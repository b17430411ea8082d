"""The Problem value: geometry, the word grammar, and the arithmetic from user words to it."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fastconv
from fastconv import arguments
from fastconv.problem import (
    ACCURACIES,
    ACTIVATIONS,
    DTYPES,
    INTEGER_ACTIVATIONS,
    LAYOUTS,
    PADDING_MODES,
    Problem,
)

EXAMPLE = Problem(1, 64, 56, 56, 64, 3, 3, padding=(1, 1, 1, 1))
EVERYTHING = Problem(
    8, 3, 224, 200, 64, 7, 5,
    stride=(2, 1), padding=(3, 3, 2, 2), layout="NHWC", dtype="float64", padding_mode="reflect",
    activation="relu", bias=True, residual=True, accuracy="strict", threads=4, workspace_limit=2**20,
)  # fmt: skip


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any valid problem, by drawing fields and leaving out what the rules refuse."""
    sizes = st.integers(1, 40)
    dtype = draw(st.sampled_from(DTYPES))
    groups = draw(st.integers(1, 4))
    fields = {
        "n": draw(st.integers(0, 3)),
        "c": groups * draw(sizes),
        "h": draw(sizes),
        "w": draw(sizes),
        "o": groups * draw(sizes),
        "kh": draw(st.integers(1, 9)),
        "kw": draw(st.integers(1, 9)),
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "padding": draw(st.tuples(*[st.integers(0, 8)] * 4)),
        "dilation": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "groups": groups,
        "layout": draw(st.sampled_from(LAYOUTS)),
        "dtype": dtype,
        "padding_mode": draw(st.sampled_from(PADDING_MODES)),
        "activation": draw(st.sampled_from(ACTIVATIONS if "float" in dtype else INTEGER_ACTIVATIONS)),
        "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "accuracy": draw(st.sampled_from(ACCURACIES)),
        "threads": draw(st.integers(1, 300)),
        "workspace_limit": draw(st.sampled_from([0, 1, 2**20, 2**30, 2**40])),
    }
    try:
        return Problem(**fields)
    except ValueError:
        assume(False)
        raise


@given(problems())
def test_the_word_says_everything(problem: Problem) -> None:
    assert Problem.parse(problem.word) == problem


@given(problems(), problems())
def test_different_problems_have_different_words(one: Problem, other: Problem) -> None:
    assert (one.word == other.word) == (one == other)


def test_words_are_stable() -> None:
    # Stored decisions and reports use them: changing the grammar orphans both.
    assert str(EXAMPLE) == EXAMPLE.word == "n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32"
    assert EVERYTHING.word == (
        "n8c3h224w200_o64k7x5_s2x1p3.3.2.2d1g1_nhwc_f64_reflect_relu_bias_residual_strict_t4_m1048576"
    )


def test_a_word_may_shorten_equal_rows_and_columns() -> None:
    assert Problem.parse("n1c64h56w56_o64k3_s1x1p1.1.1.1d1x1g1_nchw_f32") == EXAMPLE


@pytest.mark.parametrize(
    "word",
    [
        "",
        "n1",
        EXAMPLE.word + "_",
        EXAMPLE.word + "_unknown",
        EXAMPLE.word + "_bias_relu",
        EXAMPLE.word.replace("f32", "f31"),
        EXAMPLE.word.replace("p1", "p1.1"),
        EXAMPLE.word.replace("n1", "n-1"),
        EXAMPLE.word.replace("n1", "n\u0661"),
        EXAMPLE.word.replace("n1", "n" + "9" * 20),
        EXAMPLE.word.upper(),
        " " + EXAMPLE.word,
        EXAMPLE.word + "\n",
    ],
)
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="problem must look like"):
        Problem.parse(word)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(ValueError, match="problem must look like"):
        Problem.parse(text)


def test_a_word_of_an_impossible_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be larger than the padded image"):
        Problem.parse("n1c1h2w2_o1k3x3_s1p0d1g1_nchw_f32")


def test_sizes_of_a_known_layer() -> None:
    p = Problem(2, 3, 224, 220, 64, 7, 5, stride=(2, 2), padding=(3, 3, 2, 2), layout="NHWC", dtype="float16")
    assert (p.oh, p.ow) == (112, 110)
    assert p.x_shape == (2, 224, 220, 3)
    assert p.w_shape == (64, 3, 7, 5)
    assert p.y_shape == (2, 112, 110, 64)
    assert (p.taps, p.c_per_group, p.o_per_group) == (35, 3, 64)
    assert p.flop == 2 * 2 * 64 * 112 * 110 * 3 * 35
    assert p.x_bytes == 2 * 224 * 220 * 3 * 2
    assert p.w_bytes == 64 * 3 * 35 * 2
    assert p.y_bytes == 2 * 112 * 110 * 64 * 2


def test_groups_share_the_channels() -> None:
    p = Problem(1, 12, 5, 5, 8, 3, 3, groups=4)
    assert (p.c_per_group, p.o_per_group, p.w_shape) == (3, 2, (8, 3, 3, 3))
    assert p.flop == 2 * 8 * 9 * 3 * 9


@pytest.mark.parametrize(
    ("dtype", "compute", "result"),
    [
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("float16", "float32", "float16"),
        ("int8", "int32", "int32"),
        ("uint8", "int32", "int32"),
        ("int16", "int64", "int64"),
        ("uint16", "int64", "int64"),
        ("int32", "int64", "int64"),
        ("uint32", "int64", "int64"),
        ("int64", "int64", "int64"),
    ],
)
def test_types_of_sums_and_results(dtype: str, compute: str, result: str) -> None:
    p = dataclasses.replace(EXAMPLE, dtype=dtype)
    assert (p.compute_dtype, p.result_dtype) == (compute, result)
    assert p.x_bytes == np.dtype(dtype).itemsize * 64 * 56 * 56
    assert p.y_bytes == np.dtype(result).itemsize * 64 * 56 * 56


def test_an_empty_batch_is_a_problem() -> None:
    p = dataclasses.replace(EXAMPLE, n=0)
    assert (p.y_shape, p.flop, p.x_bytes) == ((0, 64, 56, 56), 0, 0)


def test_a_problem_is_a_value() -> None:
    assert hash(EXAMPLE) == hash(Problem.parse(EXAMPLE.word))
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLE.n = 2  # type: ignore[misc]


def outputs(size: int, taps: int, stride: int, dilation: int, padding: str) -> tuple[int, int, int]:
    p = arguments.problem(
        (1, 1, size, size), (1, 1, taps, taps), stride=stride, dilation=dilation, padding=padding
    )
    return p.oh, p.padding[0], p.padding[1]


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_same_padding_is_tensorflows_at_any_stride(size: int, taps: int, stride: int, dilation: int) -> None:
    rows, above, below = outputs(size, taps, stride, dilation, "same")
    assert rows == -(-size // stride)
    assert above + below == max((rows - 1) * stride + dilation * (taps - 1) + 1 - size, 0)
    assert below - above in (0, 1)
    assert outputs(size, taps, stride, dilation, "same_upper") == (rows, above, below)
    assert outputs(size, taps, stride, dilation, "same_lower") == (rows, below, above)


def test_full_padding_reaches_every_position_that_touches() -> None:
    assert outputs(5, 3, 1, 2, "full") == (5 + 4, 4, 4)
    assert outputs(5, 3, 1, 1, "valid") == (3, 0, 0)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (1, (1, 1, 1, 1)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2], (1, 1, 2, 2)),
        (((0, 1), (2, 3)), (0, 1, 2, 3)),
        ([[0, 1], [2, 3]], (0, 1, 2, 3)),
        ((1, (2, 3)), (1, 1, 2, 3)),
        (np.int64(2), (2, 2, 2, 2)),
        (np.array(2), (2, 2, 2, 2)),
        ((np.uint8(1), 2), (1, 1, 2, 2)),
    ],
)
def test_padding_can_be_written_in_many_ways(padding: object, expected: tuple[int, ...]) -> None:
    p = arguments.problem((1, 1, 9, 9), (1, 1, 3, 3), padding=padding)
    assert p.padding == expected
    assert all(type(value) is int for value in p.padding)


@pytest.mark.parametrize(
    ("weight_layout", "w_shape"), [("OIHW", (8, 3, 5, 7)), ("HWIO", (5, 7, 3, 8)), ("OHWI", (8, 5, 7, 3))]
)
@pytest.mark.parametrize(
    ("layout", "x_shape"), [("NCHW", (2, 6, 10, 11)), ("NHWC", (2, 10, 11, 6)), ("NHWC", (10, 11, 6))]
)
def test_layouts_are_read_as_stated(
    layout: str, x_shape: tuple[int, ...], weight_layout: str, w_shape: tuple[int, ...]
) -> None:
    p = arguments.problem(x_shape, w_shape, layout=layout, weight_layout=weight_layout, groups=2)
    assert (p.c, p.h, p.w, p.o, p.kh, p.kw) == (6, 10, 11, 8, 5, 7)
    assert p.n == (2 if len(x_shape) == 4 else 1)


def test_a_step_that_is_never_taken_is_one() -> None:
    p = arguments.problem((1, 1, 9, 9), (1, 1, 1, 3), dilation=(5, 2))
    assert p.dilation == (1, 2)


@pytest.mark.parametrize(
    ("x_shape", "layout", "expected"),
    [
        ((8, 3, 224, 224), "NCHW", (8, 64, 112, 112)),
        ((3, 224, 224), "NCHW", (64, 112, 112)),
        ((0, 3, 224, 224), "NCHW", (0, 64, 112, 112)),
        ((8, 224, 224, 3), "NHWC", (8, 112, 112, 64)),
        ((224, 224, 3), "NHWC", (112, 112, 64)),
    ],
)
def test_output_shape_needs_no_data(x_shape: tuple[int, ...], layout: str, expected: tuple[int, ...]) -> None:
    assert fastconv.conv_output_shape(x_shape, (64, 3, 7, 7), stride=2, padding=3, layout=layout) == expected


#: An argument of conv2d -> another value for it; every one of them must show in the problem.
CHANGES = {
    "x": {"x_shape": (1, 4, 8, 9)},
    "w": {"w_shape": (6, 4, 3, 3)},
    "bias": {"bias": True},
    "stride": {"stride": 2},
    "padding": {"padding": 1},
    "dilation": {"dilation": 2},
    "groups": {"groups": 2, "w_shape": (4, 2, 3, 3)},
    "layout": {"layout": "NHWC", "x_shape": (1, 8, 8, 4)},
    "padding_mode": {"padding_mode": "circular"},
    "activation": {"activation": "relu"},
    "residual": {"residual": True},
    "accuracy": {"accuracy": "strict"},
    "threads": {"threads": 2},
    "workspace_limit": {"workspace_limit": 0},
}
#: Arguments that say where data lies or who decides, not what is computed.
ELSEWHERE = {"weight_layout", "algorithm", "out"}


def test_every_argument_that_can_change_the_choice_is_in_the_problem() -> None:
    assert set(inspect.signature(fastconv.conv2d).parameters) == set(CHANGES) | ELSEWHERE
    plain = {"x_shape": (1, 4, 8, 8), "w_shape": (4, 4, 3, 3)}
    words = {arguments.problem(**plain).word}
    for change in CHANGES.values():
        words.add(arguments.problem(**{**plain, **change}).word)  # type: ignore[arg-type]
    assert len(words) == 1 + len(CHANGES)
