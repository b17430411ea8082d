"""Random problems, valid by construction, by every algorithm in every setting and through the public calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import data, evaluate
from running import compute, judge, rank_one

import fastconv
from fastconv.algorithms import registry
from fastconv.machine import Machine
from fastconv.problem import PADDING_MODES, Problem

# Values that share register tiles: each tile is a kernel to compile.
OUTPUTS = (1, 3, 7, 20, 33)
GROUPED = st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 1), (3, 4)])


@st.composite
def axes(draw: st.DrawFn, mode: str) -> tuple[int, int, int, int, int, int]:
    """Return size, kernel, stride, dilation and both paddings of one axis."""
    kernel = draw(st.integers(1, 5))
    dilation = draw(st.sampled_from([1, 1, 1, 2, 3])) if kernel > 1 else 1
    span = dilation * (kernel - 1) + 1
    size = draw(st.one_of(st.integers(1, 10), st.sampled_from([13, 14, 16, 17, 31, 33])))
    most = {"reflect": size - 1, "symmetric": size, "circular": size}.get(mode, 7)
    before, after = draw(st.integers(0, min(most, 7))), draw(st.integers(0, min(most, 7)))
    size += max(0, span - size - before - after)
    return size, kernel, draw(st.integers(1, 4)), dilation, before, after


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    mode = draw(st.sampled_from(["zeros"] * 4 + list(PADDING_MODES[1:])))
    h, kh, sh, dh, top, bottom = draw(axes(mode))
    w, kw, sw, dw, left, right = draw(axes(mode))
    kind = draw(st.sampled_from(["dense", "dense", "1x1", "3x3", "grouped", "depthwise"]))
    if kind == "1x1":
        kh = kw = dh = dw = 1
    if kind == "3x3" and mode == "zeros":
        h, w, kh, kw, sh, sw, dh, dw = max(h, 3), max(w, 3), 3, 3, 1, 1, 1, 1
    if draw(st.booleans()):
        top = bottom = left = right = 0
        h, w = max(h, dh * (kh - 1) + 1), max(w, dw * (kw - 1) + 1)
    groups, channels, outputs = 1, draw(st.sampled_from([1, 3, 8, 19, 65])), draw(st.sampled_from(OUTPUTS))
    if kind == "grouped":
        channels, outputs = draw(GROUPED)
        groups = draw(st.integers(2, 5))
    elif kind == "depthwise":
        groups, channels, outputs = draw(st.sampled_from([3, 16, 19])), 1, draw(st.sampled_from([1, 1, 2]))
    return Problem(
        n=draw(st.sampled_from([1, 1, 2, 3])),
        c=channels * groups,
        h=h,
        w=w,
        o=outputs * groups,
        kh=kh,
        kw=kw,
        stride=(sh, sw),
        padding=(top, bottom, left, right),
        dilation=(dh, dw),
        groups=groups,
        layout=draw(st.sampled_from(["NCHW", "NHWC"])),
        dtype=draw(st.sampled_from(["float32"] * 6 + ["float64", "int8"])),
        padding_mode=mode,
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        accuracy=draw(st.sampled_from(["strict", "standard", "standard", "fast"])),
        threads=draw(st.sampled_from([1, 1, 2, 3])),
    )


def check_all(problem: Problem, *, every_setting: bool) -> None:
    machine = Machine.host()
    tried = 0
    for algorithm in registry.all().values():
        if algorithm.why_not(problem, machine) is not None:
            continue
        case = data(problem, "normal", rank_one(algorithm.name))
        expected, magnitude = evaluate(problem, case)
        configs = algorithm.configs(problem, machine)
        for config in configs if every_setting else configs[:1]:
            y = compute(algorithm, problem, case, config, threads=problem.threads)
            judge(algorithm, problem, y, expected, magnitude)
            tried += 1
    assert tried >= 3  # the reference, im2col and direct take everything


@settings(max_examples=80)
@given(problems())
def test_every_algorithm(problem: Problem) -> None:
    check_all(problem, every_setting=False)


@settings(max_examples=15)
@given(problems())
def test_every_setting(problem: Problem) -> None:
    check_all(problem, every_setting=True)


@settings(max_examples=80)
@given(
    problem=problems(),
    weight_layout=st.sampled_from(["OIHW", "HWIO", "OHWI"]),
    into=st.sampled_from(["new", "out", "gaps", "residual"]),
    unbatched=st.booleans(),
    steps=st.tuples(st.sampled_from([-1, 1]), st.sampled_from([-1, 1])),
)
def test_the_public_calls(
    problem: Problem, weight_layout: str, into: str, unbatched: bool, steps: tuple[int, int]
) -> None:
    if unbatched:
        problem = replace(problem, n=1)
    case = data(problem, "normal")
    expected, magnitude = evaluate(problem, case)
    top, bottom, left, right = problem.padding
    axes = {"OIHW": (0, 1, 2, 3), "HWIO": (2, 3, 1, 0), "OHWI": (0, 2, 3, 1)}[weight_layout]
    # Turned round in memory, the same to look at.
    x = case.x[:, :: steps[0], :, :: steps[1]].copy()[:, :: steps[0], :, :: steps[1]]
    w = case.w.transpose(axes)
    words: dict[str, Any] = {
        "stride": problem.stride,
        "padding": ((top, bottom), (left, right)),
        "dilation": problem.dilation,
        "groups": problem.groups,
        "layout": problem.layout,
        "weight_layout": weight_layout,
        "padding_mode": problem.padding_mode,
        "accuracy": problem.accuracy,
        "threads": problem.threads,
    }
    residual = case.residual
    wide = problem.y_shape[-1]
    out = np.full((*problem.y_shape[:-1], 2 * wide), 99, problem.result_dtype)
    target = out[..., :wide] if into == "gaps" else out.reshape(-1)[: expected.size].reshape(expected.shape)
    if into == "residual" and residual is not None:
        target = residual = residual.copy()
    if unbatched:
        x, target = x[0], target[0]
        residual = None if residual is None else residual[0]
    given_out = None if into == "new" else target
    plan = fastconv.plan(x, w, case.bias, residual=residual is not None, **words)
    assert replace(plan.problem, workspace_limit=1, threads=1) == replace(
        problem, workspace_limit=1, threads=1
    )
    kept = None if residual is None else residual.copy()
    # A call that packs the weights for one use may choose another algorithm than a plan.
    words["algorithm"] = plan.algorithm
    y = fastconv.conv2d(x, w, case.bias, residual=residual, out=given_out, **words)
    assert given_out is None or y is given_out
    algorithm = registry.get(plan.algorithm)
    judge(algorithm, problem, y.reshape(problem.y_shape), expected, magnitude)
    again = plan(x) if kept is None else plan(x, residual=kept)
    np.testing.assert_array_equal(again, y)
