"""Depthwise, then pointwise convolution, strip by strip: what lies between the two never leaves the cache."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays, runtime
from fastconv.arguments import PaddingArgument, Step
from fastconv.operators import running, strips
from fastconv.operators.depthwise import depthwise_kernels
from fastconv.operators.running import Result
from fastconv.operators.strips import STRIP, X, Y
from fastconv.operators.transposed import check_float
from fastconv.planning import routes
from fastconv.problem import Problem
from fastconv.runtime import workspace

Array = npt.NDArray[Any]
#: Shape and dtype of an array that may be missing.
Given = tuple[tuple[int, ...], np.dtype[Any]] | None
#: For each layout of the depthwise kernels, that of the pointwise ones, and where O and C * M stand in it.
POINTWISE = {"HWCM": ("(1, 1, C * M, O)", (3, 2)), "OIHW": ("(O, C * M, 1, 1)", (0, 1))}


def separable_conv2d(
    x: Any,
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
    out: Any = None,
) -> Any:
    """Cross-correlate each channel with kernels of its own, then mix the channels of each pixel.

    The same as `depthwise_conv2d` and a `conv2d` with 1x1 kernels after it, in one pass over the images: both are done
    on some rows after the other, so that what lies between them stays in cache.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        float32 or float64; the axis N may be missing.
    depthwise_w : array, shape (kh, kw, C, M), or (C * M, 1, kh, kw) with ``weight_layout="OIHW"``
        Kernels as of `depthwise_conv2d`, of the dtype of `x`.
    pointwise_w : array, shape (1, 1, C * M, O), or (O, C * M, 1, 1) with ``weight_layout="OIHW"``
        1x1 kernels, of the dtype of `x`.
    bias : array, shape (O,), optional
        Added last, before `activation`.
    stride, padding, dilation, padding_mode
        Of the depthwise convolution, as for `conv2d`.
    depthwise_bias : array, shape (C * M,), optional
    depthwise_activation : str, optional
        Bias and activation between the two, where MobileNet has them and Keras has none.
    layout, activation, accuracy, threads, out
        As for `conv2d`.
    weight_layout : {"HWCM", "OIHW"}
        Axes of both kernels: TensorFlow's, or PyTorch's.

    Returns
    -------
    array, shape (N, O, oh, ow) or (N, oh, ow, O)
        `out` if given, else a new array of the kind of `x`.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.ones((1, 4, 4, 2))
    >>> y = fastconv.separable_conv2d(x, np.ones((3, 3, 2, 1)), np.array([[[[1.0], [10.0]]]]), layout="NHWC")
    >>> y[0, :, :, 0].tolist()
    [[99.0, 99.0], [99.0, 99.0]]
    """
    source, first, second = (
        arrays.view(name, value)
        for name, value in (("x", x), ("depthwise_w", depthwise_w), ("pointwise_w", pointwise_w))
    )
    middle, last = (
        None if value is None else arrays.view(name, value)
        for name, value in (("depthwise_bias", depthwise_bias), ("bias", bias))
    )
    both = running.remembered(
        meant, source, first.shape, first.dtype, second.shape, second.dtype,
        None if middle is None else (middle.shape, middle.dtype), None if last is None else (last.shape, last.dtype),
        *running.hashable(stride, padding, dilation), depthwise_activation, layout, weight_layout, padding_mode,
        activation, accuracy,
    )  # fmt: skip
    workers = routes.thread_count(threads)
    inputs = {
        "x": source,
        "depthwise_w": first,
        "pointwise_w": second,
        "depthwise_bias": middle,
        "bias": last,
    }
    target = None if out is None else running.target_of("out", out, both.result, inputs)
    y = running.written_to(target, both.result)
    if both.depthwise.n:
        dtype = both.result.dtype
        weights = in_order(first, second, weight_layout, dtype)
        biases = [None if bias is None else arrays.ready(bias, dtype) for bias in (middle, last)]
        ready = arrays.ready(source, dtype)
        _run(both, weights, biases, arrays.address(ready), arrays.address(y), workers)
    return running.delivered(y, target, both.result, x, out)


class Both(NamedTuple):
    """The two convolutions of whole images, both of them on strips where that is quicker, and what comes out."""

    depthwise: Problem
    pointwise: Problem
    chain: strips.Chain | None
    result: Result


def meant(
    x_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    first_shape: tuple[int, ...],
    first_dtype: np.dtype[Any],
    second_shape: tuple[int, ...],
    second_dtype: np.dtype[Any],
    middle: Given,
    last: Given,
    stride: Any,
    padding: Any,
    dilation: Any,
    middle_activation: Any,
    layout: Any,
    weight_layout: Any,
    padding_mode: Any,
    activation: Any,
    accuracy: Any,
) -> Both:
    """Check every argument and return what is to be done."""
    check_float("x", dtype)
    for name, found in (("depthwise_w", first_dtype), ("pointwise_w", second_dtype)):
        if found.name != dtype.name:
            raise ValueError(f"{name} must have the dtype of x, {dtype.name}, got {found.name}")
    sizes = running.sizes(x_shape, layout)
    channels, kernel = depthwise_kernels(first_shape, weight_layout, sizes.c, layout, "depthwise_w")
    o = _mixers(second_shape, weight_layout, channels)
    common = {"layout": layout, "dtype": dtype.name, "accuracy": accuracy}
    depthwise = arguments.problem(
        x_shape, (channels, 1, *kernel), stride=stride, padding=padding, dilation=dilation, groups=sizes.c,
        padding_mode=padding_mode, bias=middle is not None, activation=middle_activation, **common,
    )  # fmt: skip
    pointwise = arguments.problem(
        depthwise.y_shape, (o, channels, 1, 1), bias=last is not None, activation=activation, **common
    )
    for name, given, problem in (("depthwise_bias", middle, depthwise), ("bias", last, pointwise)):
        if given is not None and (given[0] != (problem.o,) or given[1].name != dtype.name):
            raise ValueError(
                f"{name} must be {dtype.name} of shape ({problem.o},), got {given[1].name} of shape {given[0]}"
            )
    native = dtype.newbyteorder("=")
    result = Result(sizes.result(o, pointwise.oh, pointwise.ow), native, native)
    return Both(depthwise, pointwise, _chain(depthwise, pointwise), result)


def _mixers(shape: tuple[int, ...], weight_layout: str, channels: int) -> int:
    """Return how many channels the pointwise kernels give."""
    arguments.shape("pointwise_w.shape", shape, (4,))
    form, (o, i) = POINTWISE[weight_layout]
    if math.prod(shape) != shape[o] * shape[i] or shape[i] != channels or shape[o] == 0:
        raise ValueError(
            f"pointwise_w must have shape {form} with C * M = {channels} (the kernels in depthwise_w), got {shape} "
            f"with weight_layout={weight_layout!r}"
        )
    return shape[o]


def _run(
    both: Both, weights: tuple[Array, Array], biases: list[Array | None], x: int, y: int, threads: int
) -> None:
    """Run both convolutions on the arrays at these addresses."""
    if both.chain is not None:
        runtime.run(both.chain.work(weights, biases), x, y, 0, threads)
        return
    first, second = (
        strips.prepared((with_threads(problem, threads),), w, bias)[0]
        for problem, w, bias in zip(both[:2], weights, biases, strict=True)
    )
    between = workspace.take(both.depthwise.y_bytes)
    try:
        runtime.run(first, x, between.address, 0, threads)
        runtime.run(second, between.address, y, 0, threads)
    finally:
        workspace.give(between)


def in_order(first: Array, second: Array, weight_layout: str, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return both kernels, OIHW, as they are packed."""
    if weight_layout == "HWCM":
        rows, columns, channels, multiplier = first.shape
        first = first.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, rows, columns)
        second = second.transpose(3, 2, 0, 1)
    return arrays.ready(first, dtype), arrays.ready(second, dtype)


@lru_cache(maxsize=1024)
def with_threads(problem: Problem, threads: int) -> Problem:
    """Return the same on so many threads."""
    return replace(problem, threads=threads)


def _chain(p: Problem, q: Problem) -> strips.Chain | None:
    """Return both convolutions on strips of rows, where rows are contiguous; None where whole images are as quick.

    In NCHW rows would have to be taken out of the planes and put back: 10-40 % slower than whole images at 56x56,
    112x112 and 28x28.
    """
    if p.layout == "NCHW" or p.padding_mode != "zeros" or p.n == 0:
        return None
    size = np.dtype(p.dtype).itemsize
    row = size * (q.ow * (q.c + q.o) + p.stride[0] * p.w * p.c)
    found = []
    for image in range(p.n):
        for first, rows in strips.heights(q.oh, row):
            start, part = _rows(p, first, rows)
            if part is None:
                return None
            source = (X, (image * p.h + start) * p.w * p.c * size)
            target = (Y, (image * q.oh + first) * q.ow * q.o * size)
            then = replace(q, n=1, h=rows)
            found.append([strips.Step(part, source, (STRIP, 0)), strips.Step(then, (STRIP, 0), target)])
    return strips.Chain(found, max(steps[1].problem.x_bytes for steps in found))


def _rows(p: Problem, first: int, rows: int) -> tuple[int, Problem | None]:
    """Return the first input row under some output rows, and the convolution from there; None if only padding is."""
    top, _, left, right = p.padding
    start = first * p.stride[0] - top
    stop = start + (rows - 1) * p.stride[0] + p.dilation[0] * (p.kh - 1) + 1
    if start >= p.h or stop <= 0:
        return 0, None
    inside, end = max(start, 0), min(stop, p.h)
    pads = (inside - start, stop - end, left, right)
    return inside, replace(p, n=1, h=end - inside, padding=pads)
