"""Plans and explanations of separable convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arrays, runtime
from fastconv.arguments import PaddingArgument, Step
from fastconv.arrays import Array
from fastconv.operators.plans import OperatorExplanation, OperatorPlan, convolution_stages
from fastconv.operators.separable import POINTWISE, Both, in_order, meant, with_threads
from fastconv.planning import planner, routes
from fastconv.problem import Problem, one_of
from fastconv.runtime import workspace


def plan_separable_conv2d(
    x_shape: Any,
    depthwise_w: Any,
    pointwise_w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    depthwise_bias: Any = None,
    depthwise_activation: str | None = None,
    layout: str = "NCHW",
    weight_layout: str = "HWCM",
    padding_mode: str = "zeros",
    activation: str | None = None,
    accuracy: str = "standard",
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
    rigor: str = "estimate",
) -> OperatorPlan:
    """Choose the convolutions of a separable one and pack their weights, to run it many times.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints, or array
        Shape of the images, or images of that shape.
    depthwise_w, pointwise_w, bias, stride, padding, dilation, depthwise_bias, depthwise_activation, layout, \
weight_layout, padding_mode, activation, accuracy, threads
        As for `separable_conv2d`. Weights and biases are copied.
    dtype, rigor
        As for `plan`; what is timed are the convolutions, of strips where it runs on strips.

    Returns
    -------
    OperatorPlan
        Call it with images.

    Raises
    ------
    TypeError, ValueError
        As `separable_conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> plan = fastconv.plan_separable_conv2d((1, 2, 4, 4), np.ones((3, 3, 2, 1)), np.array([[[[1.0], [10.0]]]]))
    >>> plan(np.ones((1, 2, 4, 4)))[0, 0].tolist()
    [[99.0, 99.0], [99.0, 99.0]]
    """
    one_of("rigor", rigor, planner.RIGORS)
    first, second = arrays.view("depthwise_w", depthwise_w), arrays.view("pointwise_w", pointwise_w)
    middle, last = (
        None if value is None else arrays.view(name, value)
        for name, value in (("depthwise_bias", depthwise_bias), ("bias", bias))
    )
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    kind = routes.dtype(dtype) if dtype is not None else found or first.dtype
    both = meant(
        sizes, kind, first.shape, first.dtype, second.shape, second.dtype,
        None if middle is None else (middle.shape, middle.dtype), None if last is None else (last.shape, last.dtype),
        stride, padding, dilation, depthwise_activation, layout, weight_layout, padding_mode, activation, accuracy,
    )  # fmt: skip
    workers, native = routes.thread_count(threads), both.result.dtype
    # A chain keeps the weights as they are given to it: the copies are what makes a plan independent of its caller.
    kernels = [w.copy() for w in in_order(first, second, weight_layout, native)]
    biases = [None if b is None else arrays.ready(b.copy(), native) for b in (middle, last)]
    plans = tuple(
        routes.planned(routes.chosen(problem, packing=both.chain is not None), w, b, rigor=rigor)
        for problems, w, b in zip(_problems(both, workers), kernels, biases, strict=True)
        for problem in problems
    )
    if both.chain is not None:
        work = both.chain.work(kernels, biases)

        def compute(x: Array, y: Array) -> None:
            runtime.run(work, arrays.address(x), arrays.address(y), 0, workers)

        return OperatorPlan(
            "separable_conv2d", sizes, kind, both.result, plans, work.scratch_bytes * workers, compute
        )

    between_bytes = both.depthwise.y_bytes

    def compute_whole(x: Array, y: Array) -> None:
        between = workspace.take(between_bytes)
        try:
            plans[0].start(arrays.address(x), between.address)
            plans[1].start(between.address, arrays.address(y))
        finally:
            workspace.give(between)

    return OperatorPlan("separable_conv2d", sizes, kind, both.result, plans, between_bytes, compute_whole)


def explain_separable_conv2d(
    x_shape: Any,
    depthwise_shape: Any,
    pointwise_shape: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    depthwise_bias: Any = None,
    depthwise_activation: str | None = None,
    layout: str = "NCHW",
    weight_layout: str = "HWCM",
    padding_mode: str = "zeros",
    activation: str | None = None,
    accuracy: str = "standard",
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
) -> OperatorExplanation:
    """Say on what strips a plan would run a separable convolution, and by which algorithms; runs nothing.

    Parameters
    ----------
    x_shape, depthwise_shape, pointwise_shape : tuple of ints, or array
        Shapes of images and kernels, or arrays of that shape.
    bias, depthwise_bias : bool or array
        Whether there will be one.
    stride, padding, dilation, depthwise_activation, layout, weight_layout, padding_mode, activation, accuracy, threads
        As for `separable_conv2d`.
    dtype : dtype, optional
        Default: that of the images or depthwise kernels if one of them is an array, else float32.

    Returns
    -------
    OperatorExplanation
        Printable, and readable as data; its `problems` can be tuned.

    Raises
    ------
    TypeError, ValueError
        As `separable_conv2d` does.

    Examples
    --------
    >>> import fastconv
    >>> report = fastconv.explain_separable_conv2d((1, 8, 9, 9), (3, 3, 8, 1), (1, 1, 8, 16), threads=1)
    >>> report.route
    'two convolutions of whole images, one after the other'
    >>> [problem.word for problem in report.problems]
    ['n1c8h9w9_o8k3x3_s1p0d1g8_nchw_f32', 'n1c8h7w7_o16k1x1_s1p0d1g1_nchw_f32']
    """
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    first, first_found = routes.shape_and_dtype("depthwise_shape", depthwise_shape, (4,))
    second, _ = routes.shape_and_dtype("pointwise_shape", pointwise_shape, (4,))
    kind = routes.dtype(dtype) if dtype is not None else found or first_found or np.dtype(np.float32)
    one_of("weight_layout", weight_layout, tuple(POINTWISE))
    # With C * M outputs of the first, as many inputs of the second; the number of its outputs is where POINTWISE says.
    outputs, inputs = (second[axis] for axis in POINTWISE[weight_layout][1])
    middle = ((inputs,), kind) if routes.is_given("depthwise_bias", depthwise_bias) else None
    last = ((outputs,), kind) if routes.is_given("bias", bias) else None
    both = meant(
        sizes, kind, first, kind, second, kind, middle, last, stride, padding, dilation, depthwise_activation, layout,
        weight_layout, padding_mode, activation, accuracy,
    )  # fmt: skip
    problems = _problems(both, routes.thread_count(threads))
    counts, route = [1, 1], "two convolutions of whole images, one after the other"
    if both.chain is not None:
        counts = np.bincount(both.chain.which).tolist()
        route = f"both convolutions on each of {both.chain.strips} strips of rows, in cache"
    whats = [name for name, step in zip(("depthwise", "pointwise"), problems, strict=True) for _ in step]
    flat = [problem for step in problems for problem in step]
    runs, packing = convolution_stages(
        (f"{what} convolution" + (f", {count} times" if count > 1 else ""), problem)
        for what, count, problem in zip(whats, counts, flat, strict=True)
    )
    stages = tuple(
        replace(stage, seconds=stage.seconds * count) for stage, count in zip(runs, counts, strict=True)
    )
    return OperatorExplanation(
        "separable_conv2d", (sizes, both.result.shape), both.result.dtype.name, route, stages, tuple(packing)
    )


def _problems(both: Both, threads: int) -> tuple[tuple[Problem, ...], ...]:
    """Return the convolutions that occur first, depthwise, and those that occur second."""
    if both.chain is not None:
        return both.chain.problems
    return ((with_threads(both.depthwise, threads),), (with_threads(both.pointwise, threads),))
