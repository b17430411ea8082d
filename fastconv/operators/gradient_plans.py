"""Plans and explanations of the gradients of convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.arguments import PaddingArgument, Step
from fastconv.machine import Machine
from fastconv.operators import split_gradient
from fastconv.operators.gradients import convolution, transposed_words, weight_gradient, winograd_way
from fastconv.operators.plans import OperatorExplanation, OperatorPlan, Stage
from fastconv.operators.transposed import explain_conv_transpose2d, floats, plan_conv_transpose2d
from fastconv.planning import routes


def plan_conv2d_input_grad(
    x_shape: Any,
    w: Any,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    accuracy: str = "standard",
    threads: int | None = None,
    rigor: str = "estimate",
) -> OperatorPlan:
    """Choose the convolutions of a gradient by images and pack their weights, to run it on many gradients.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints, or array
        Shape of the images of the convolution, or images of that shape.
    w, stride, padding, dilation, groups, layout, accuracy, threads
        As for `conv2d_input_grad`. `w` is copied.
    rigor
        As for `plan`.

    Returns
    -------
    OperatorPlan
        Call it with gradients of the convolution's result.

    Raises
    ------
    TypeError, ValueError
        As `conv2d_input_grad` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> plan = fastconv.plan_conv2d_input_grad((1, 1, 1, 3), np.array([[[[1.0, 2.0]]]]))
    >>> plan(np.array([[[[10.0, 100.0]]]]))[0, 0].tolist()
    [[10.0, 120.0, 200.0]]
    """
    weights = floats("w", w)
    sizes, _ = routes.shape_and_dtype("x_shape", x_shape)
    problem = convolution(
        sizes, weights.shape, weights.dtype, stride, padding, dilation, groups, layout, accuracy
    )
    shape = problem.y_shape[4 - len(sizes) :]
    plan = plan_conv_transpose2d(
        shape,
        weights,
        *transposed_words(problem),
        layout=layout,
        accuracy=accuracy,
        threads=threads,
        rigor=rigor,
    )
    return replace(plan, operator="conv2d_input_grad")


def explain_conv2d_input_grad(
    x_shape: Any,
    w_shape: Any,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    accuracy: str = "standard",
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
) -> OperatorExplanation:
    """Say of which convolutions a plan would make the gradient by images; runs nothing.

    Parameters
    ----------
    x_shape, w_shape : tuple of ints, or array
        Shapes of the images and kernels of the convolution, or arrays of that shape.
    stride, padding, dilation, groups, layout, accuracy, threads
        As for `conv2d_input_grad`.
    dtype : dtype, optional
        Default: that of `x_shape` or `w_shape` if one of them is an array, else float32.

    Returns
    -------
    OperatorExplanation
        Printable, and readable as data; its `problems` can be tuned.

    Raises
    ------
    TypeError, ValueError
        As `conv2d_input_grad` does.

    Examples
    --------
    >>> import fastconv
    >>> report = fastconv.explain_conv2d_input_grad((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    >>> report.route
    'one convolution by the kernel turned round'
    """
    sizes, w_sizes, kind = _meant(x_shape, w_shape, dtype)
    problem = convolution(sizes, w_sizes, kind, stride, padding, dilation, groups, layout, accuracy)
    found = explain_conv_transpose2d(
        problem.y_shape[4 - len(sizes) :], w_sizes, *transposed_words(problem), layout=layout, accuracy=accuracy,
        threads=threads, dtype=kind,
    )  # fmt: skip
    return replace(found, operator="conv2d_input_grad")


def explain_conv2d_weight_grad(
    x_shape: Any,
    w_shape: Any,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    accuracy: str = "standard",
    dtype: npt.DTypeLike | None = None,
) -> OperatorExplanation:
    """Say how the gradient by kernels is computed; runs nothing.

    Parameters
    ----------
    x_shape, w_shape, stride, padding, dilation, groups, layout, accuracy, dtype
        As for `explain_conv2d_input_grad`.

    Returns
    -------
    OperatorExplanation
        Printable, and readable as data.

    Raises
    ------
    TypeError, ValueError
        As `conv2d_weight_grad` does.

    Examples
    --------
    >>> import fastconv
    >>> report = fastconv.explain_conv2d_weight_grad((1, 64, 56, 56), (64, 64, 3, 3), padding=1, accuracy="strict")
    >>> report.route
    'products of matrices, one for each of 9 taps, whose long side are 3136 pixels'
    """
    sizes, w_sizes, kind = _meant(x_shape, w_shape, dtype)
    p = convolution(sizes, w_sizes, kind, stride, padding, dilation, groups, layout, accuracy)
    pixels = p.n * p.oh * p.ow
    route = f"products of matrices, one for each of {p.taps} taps, whose long side are {pixels} pixels"
    seconds, how = weight_gradient(p).seconds, "gradients times images"
    if split_gradient.works(p, Machine.host()):
        seconds = split_gradient.work(p, 1).seconds
        how += f" on the matrix unit, {split_gradient.PRODUCTS_OF[p.accuracy]} products of parts for each"
    elif way := winograd_way(p):
        seconds, (high, wide) = way.seconds, (way.m * step for step in p.stride)
        route = f"Winograd: products of matrices, one for each of {way.points} points of tiles of {high}x{wide} pixels"
        how = "points of gradients times points of images"
    stages = (Stage(how, seconds),) if p.n else ()
    return OperatorExplanation("conv2d_weight_grad", (sizes, p.w_shape), p.dtype, route, stages)


def _meant(
    x_shape: Any, w_shape: Any, dtype: npt.DTypeLike | None
) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]:
    """Return the shapes and the dtype that are meant."""
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    w_sizes, w_found = routes.shape_and_dtype("w_shape", w_shape, (4,))
    kind = routes.dtype(dtype) if dtype is not None else found or w_found or np.dtype(np.float32)
    return sizes, w_sizes, kind
