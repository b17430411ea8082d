"""What a refusal says would have to change: with those changes the algorithm takes the problem."""

from __future__ import annotations

from dataclasses import replace

import problems
import pytest

import fastconv
from fastconv.algorithms import registry
from fastconv.machine import Machine
from fastconv.problem import Problem

HOST = Machine.host()
#: A machine that lacks nothing any algorithm asks for.
WITH_ALL = replace(HOST, features=tuple(sorted({*HOST.features, "amx-bf16"})))
WITHOUT = replace(HOST, features=())
WORDS = [
    *problems.PROBLEMS,
    "n2c6h19w19_o9k5x7_s2x3p1d2g3_nhwc_i8_reflect_strict",
    "n1c2000h9w9_o8k5x5_s1p2d1g1_nchw_f32",
    "n1c2h300w300_o8k200x3_s1p0d1g1_nchw_f32",
    "n1c2000h9w9_o9000k3x3_s1p1d1g1_nchw_f32",
    "n1c2000h9w9_o8k3x3_s1p1d1g1_nchw_f32",
]


@pytest.mark.parametrize("name", registry.all())
def test_with_what_it_needs_an_algorithm_takes_the_problem(name: str) -> None:
    algorithm, mended = registry.get(name), 0
    for word in WORDS:
        problem = Problem.parse(word)
        needs = tuple(algorithm.needs(problem, WITH_ALL))
        assert bool(needs) == (algorithm.why_not(problem, WITH_ALL) is not None)
        assert all(need.change for need in needs), f"{word}: no argument mends {needs}"
        changes = {field: value for need in needs for field, value in need.change.items()}
        try:
            changed = replace(problem, **changes)
        except ValueError:
            # No such problem: a larger kernel on a small image, a padding mode with too few pixels.
            continue
        assert algorithm.why_not(changed, WITH_ALL) is None, (word, changes)
        mended += bool(needs)
    takes_all = name in ("direct", "im2col", "reference")
    assert (mended == 0) == takes_all, f"{name}: {mended} problems were mended"


def test_no_argument_mends_a_machine() -> None:
    (need,) = registry.get("split_bfloat16").needs(Problem(1, 64, 9, 9, 8, 3, 3), WITHOUT)
    assert not need.change
    assert str(need).startswith("needs a matrix unit for bfloat16")


def test_explain_says_all_that_would_have_to_change() -> None:
    report = fastconv.explain((1, 8, 9, 9), (8, 8, 5, 3), stride=2, accuracy="strict")
    (winograd,) = [row for row in report.rows if row.algorithm == "winograd"]
    assert not winograd.accepted
    changes = [dict(need.change) for need in winograd.needs]
    assert changes == [{"kh": 3, "kw": 3}, {"stride": (1, 1)}, {"accuracy": "standard"}]
    assert winograd.reason == (
        "needs a kernel of 3x3, 5x5, 2x2, 1x3, 3x1, 1x2, 2x1, got 5x3; needs stride 1, got (2, 2); needs "
        "accuracy='standard' or 'fast', since it reassociates sums, got 'strict'"
    )
    assert winograd.reason in str(report)
    with pytest.raises(
        ValueError, match=r"winograd: needs a kernel of .*; needs stride 1, got .*; needs accuracy="
    ):
        fastconv.explain((1, 8, 9, 9), (8, 8, 5, 3), stride=2, accuracy="strict", algorithm="winograd")
    assert all(row.needs == () for row in report.rows if row.accepted)


def test_a_workspace_that_is_too_small_says_how_large_it_must_be() -> None:
    report = fastconv.explain((1, 64, 30, 30), (64, 64, 3, 3), workspace_limit=20_000)
    small = [row for row in report.rows if row.config and not row.accepted]
    assert small
    for row in small:
        (need,) = row.needs
        assert need.change == {"workspace_limit": row.workspace_bytes}
