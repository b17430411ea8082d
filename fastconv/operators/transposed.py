"""Transposed convolution: its arguments, and what they mean; `phases` computes it."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays, runtime
from fastconv.arguments import PaddingArgument, Step
from fastconv.machine import Machine
from fastconv.operators import phases, running, split_spread, spreading, winograd_spread
from fastconv.operators.phases import Transposed
from fastconv.operators.plans import OperatorExplanation, OperatorPlan, Stage, convolution_stages
from fastconv.operators.running import Result
from fastconv.planning import planner, routes
from fastconv.problem import ACCURACIES, ACTIVATIONS, Pair, one_of

Array = npt.NDArray[Any]

#: Axes of weights (inputs, outputs per group, rows, columns) in each order; "IO" as PyTorch and ONNX have them.
WEIGHT_LAYOUTS = {"IOHW": (0, 1, 2, 3), "HWOI": (3, 2, 0, 1)}


#: Asked before names, which take 2 us to make.
_FLOATS = frozenset(map(np.dtype, ("float32", "float64")))


def conv_transpose2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: Step = 1,
    *,
    output_size: Pair | None = None,
    layout: str = "NCHW",
    weight_layout: str = "IOHW",
    activation: str | None = None,
    accuracy: str = "standard",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Spread every pixel over a kernel's window: the transpose of `conv2d` as a linear map, not its inverse.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        float32 or float64; the axis N may be missing.
    w : array, shape (C, O / groups, kh, kw), or (kh, kw, O / groups, C) with ``weight_layout="HWOI"``
        Of the dtype of `x`.
    bias : array, shape (O,), optional
    stride, dilation, groups
        Of the convolution that is transposed.
    padding : int, pair, or pair of pairs
        Of that convolution: here it takes rows and columns away from the result.
    output_padding : int or (rows, columns)
        Rows and columns added at the end, fewer than the stride or the dilation: which of the sizes that the
        convolution maps to the same one is meant.
    output_size : (rows, columns), optional
        Says the same as a size; instead of `output_padding`.
    layout, activation, accuracy, threads, out
        As for `conv2d`.

    Returns
    -------
    array, shape (N, O, oh, ow) or (N, oh, ow, O)
        With ``oh = (H - 1) * stride - top - bottom + dilation * (kh - 1) + output_padding + 1``.

    Raises
    ------
    TypeError, ValueError
        When an argument is of a wrong kind or breaks a rule; the message gives the rule and the numbers.

    Notes
    -----
    The weights are packed in every call, or read as they stand; `plan_conv_transpose2d` packs them once.
    `explain_conv_transpose2d` says of which convolutions it is made.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 2.0]]]])
    >>> fastconv.conv_transpose2d(x, np.ones((1, 1, 1, 3)), stride=2)[0, 0].tolist()
    [[1.0, 1.0, 3.0, 2.0, 2.0]]
    """
    source, weights = arrays.view("x", x), arrays.view("w", w)
    biases = None if bias is None else arrays.view("bias", bias)
    call = running.remembered(
        _call, source, weights.shape, weights.dtype, None if biases is None else (biases.shape, biases.dtype),
        *running.hashable(stride, padding, output_padding), groups, *running.hashable(dilation, output_size), layout,
        weight_layout, activation, accuracy,
    )  # fmt: skip
    workers = routes.thread_count(threads)
    inputs = {"x": source, "w": weights, "bias": biases}
    target = None if out is None else running.target_of("out", out, call.result, inputs)
    y = running.written_to(target, call.result)
    if call.transposed.n:
        axis, dtype = () if source.ndim == 4 else (None,), call.result.dtype
        _run(
            call.transposed,
            arrays.ready(source, dtype)[axis],
            arrays.aligned(weights.transpose(WEIGHT_LAYOUTS[weight_layout]), dtype),
            None if biases is None else arrays.ready(biases, dtype),
            y[axis],
            workers,
        )
    return running.delivered(y, target, call.result, x, out)


def _run(t: Transposed, x: Array, w: Array, bias: Array | None, y: Array, threads: int) -> None:
    """Compute into y in the way that suits a call with these weights, which packs them at most once."""
    if split_spread.run(t, x, w, y, threads):
        return
    if w.flags.c_contiguous and _by_winograd(t) and winograd_spread.run(t, x, w, y, threads):
        return
    spread = spreading.work(t, w)
    if spread is None:
        phases.run(t, x, w, bias, y, threads)
    else:
        kernels = np.ascontiguousarray(w)
        runtime.run(spread, arrays.address(x), arrays.address(y), arrays.address(kernels), threads)


@lru_cache(maxsize=256)
def _by_winograd(t: Transposed) -> bool:
    """Return whether weights beyond L2 are estimated to be quickest transformed as they are read, on one thread."""
    if not winograd_spread.suits(t) or t.w_bytes < Machine.host().l2_bytes:
        return False
    others = [phases.seconds(t), *([spreading.seconds(t)] if spreading.suits(t) else [])]
    return winograd_spread.seconds(t) < min(others)


def plan_conv_transpose2d(
    x_shape: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: Step = 1,
    *,
    output_size: Pair | None = None,
    layout: str = "NCHW",
    weight_layout: str = "IOHW",
    activation: str | None = None,
    accuracy: str = "standard",
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
    rigor: str = "estimate",
) -> OperatorPlan:
    """Choose the convolutions of a transposed one and pack their weights, to run it many times.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints, or array
        Shape of the images, or images of that shape.
    w, bias, stride, padding, output_padding, groups, dilation, output_size, layout, weight_layout, activation, \
accuracy, threads
        As for `conv_transpose2d`. `w` and `bias` are copied.
    dtype, rigor
        As for `plan`; what is timed are the convolutions.

    Returns
    -------
    OperatorPlan
        Call it with images.

    Raises
    ------
    TypeError, ValueError
        As `conv_transpose2d` does.

    Notes
    -----
    It packs weights into the convolutions' order even where a single call is quicker with weights as they stand, so
    sums may then be added in another order than in that call.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> plan = fastconv.plan_conv_transpose2d((1, 1, 1, 2), np.ones((1, 1, 1, 3)), stride=2)
    >>> plan(np.array([[[[1.0, 2.0]]]]))[0, 0].tolist()
    [[1.0, 1.0, 3.0, 2.0, 2.0]]
    """
    one_of("rigor", rigor, planner.RIGORS)
    weights = arrays.view("w", w)
    biases = None if bias is None else arrays.view("bias", bias)
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    kind = routes.dtype(dtype) if dtype is not None else found or weights.dtype
    call = _call(
        sizes, kind, weights.shape, weights.dtype, None if biases is None else (biases.shape, biases.dtype), stride,
        padding, output_padding, groups, dilation, output_size, layout, weight_layout, activation, accuracy,
    )  # fmt: skip
    t, workers = call.transposed, routes.thread_count(threads)
    kernel = arrays.ready(weights, kind.newbyteorder("=")).transpose(WEIGHT_LAYOUTS[weight_layout])
    own = None if biases is None else arrays.ready(biases.copy(), t.dtype)
    plans = phases.plan(t, kernel, own, workers, rigor) if t.n else []
    axis = () if len(sizes) == 4 else (None,)
    idle = phases.idle_value(t, own) if phases.idle_phases(t, workers) else np.empty(0, t.dtype)

    def compute(x: Array, y: Array) -> None:
        phases.run_planned(t, plans, lambda: idle, workers, x[axis], y[axis])

    between = 0 if t.direct else max((inner.problem.y_bytes for inner in plans), default=0)
    return OperatorPlan("conv_transpose2d", sizes, kind, call.result, tuple(plans), between, compute)


def explain_conv_transpose2d(
    x_shape: Any,
    w_shape: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: Step = 1,
    *,
    output_size: Pair | None = None,
    layout: str = "NCHW",
    weight_layout: str = "IOHW",
    activation: str | None = None,
    accuracy: str = "standard",
    threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
) -> OperatorExplanation:
    """Say of which convolutions a plan would make a transposed one, and by which algorithms; runs nothing.

    Parameters
    ----------
    x_shape, w_shape : tuple of ints, or array
        Shapes, or arrays of that shape.
    bias : bool or array
        Whether there will be one.
    stride, padding, output_padding, groups, dilation, output_size, layout, weight_layout, activation, accuracy, \
threads
        As for `conv_transpose2d`.
    dtype : dtype, optional
        Default: that of `x_shape` or `w_shape` if one of them is an array, else float32.

    Returns
    -------
    OperatorExplanation
        Printable, and readable as data; its `problems` can be tuned.

    Raises
    ------
    TypeError, ValueError
        As `conv_transpose2d` does.

    Examples
    --------
    >>> import fastconv
    >>> report = fastconv.explain_conv_transpose2d((1, 256, 32, 32), (256, 128, 4, 4), stride=2, padding=1)
    >>> report.route
    'one convolution for all 4 phases of the stride'
    >>> report.problems[0].y_shape
    (1, 512, 33, 33)
    """
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    w_sizes, w_found = routes.shape_and_dtype("w_shape", w_shape, (4,))
    kind = routes.dtype(dtype) if dtype is not None else found or w_found or np.dtype(np.float32)
    given = None
    if routes.is_given("bias", bias):
        outputs = _weight_sizes(w_sizes, weight_layout)[1] * arguments.integer("groups", groups, 1)
        given = ((outputs,), kind)
    call = _call(
        sizes, kind, w_sizes, kind, given, stride, padding, output_padding, groups, dilation, output_size, layout,
        weight_layout, activation, accuracy,
    )  # fmt: skip
    return explained(call.transposed, (sizes, call.result.shape), routes.thread_count(threads), weight_layout)


def explained(
    t: Transposed, shapes: tuple[tuple[int, ...], tuple[int, ...]], threads: int, weight_layout: str = "IOHW"
) -> OperatorExplanation:
    """Return what a plan of a transposed convolution does."""
    found = [part for part in phases.parts(t, threads) if part is not None]
    named = [(f"convolution by {part.problem.kh}x{part.problem.kw} taps", part.problem) for part in found]
    convolutions, packing = convolution_stages(named)
    stages = []
    for stage, part in zip(convolutions, found, strict=True):
        stages.append(stage)
        if part.place is not None:
            stages.append(Stage("outputs put in their places", part.place.seconds))
    route = phases.route(t, threads)
    contiguous = weight_layout == "IOHW"
    if contiguous and not split_spread.suits(t) and _by_winograd(t):
        route += (
            "; a call without a plan transforms contiguous weights as it reads them, by Winograd's minimal filtering "
            f"for tiles of {winograd_spread.SIDE}x{winograd_spread.SIDE} outputs of each phase"
        )
    elif (contiguous and split_spread.suits(t)) or spreading.reads(t, contiguous):
        route += (
            f"; a call without a plan reads contiguous weights as they stand, since {t.n * t.h * t.w} pixels take less "
            f"time than packing {t.w_bytes} bytes of weights"
        )
    return OperatorExplanation("conv_transpose2d", shapes, t.dtype, route, tuple(stages), tuple(packing))


class _Call(NamedTuple):
    """What the arguments of a call mean, and what comes out."""

    transposed: Transposed
    result: Result


def _call(
    x_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    w_shape: tuple[int, ...],
    w_dtype: np.dtype[Any],
    bias: tuple[tuple[int, ...], np.dtype[Any]] | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    output_size: Any,
    layout: Any,
    weight_layout: Any,
    activation: Any,
    accuracy: Any,
) -> _Call:
    """Check every argument and return what is to be done."""
    check_float("x", dtype)
    check_float("w", w_dtype)
    if w_dtype.name != dtype.name:
        raise ValueError(f"w must have the dtype of x, {dtype.name}, got {w_dtype.name}")
    sizes = running.sizes(x_shape, layout)
    c, per_group, kh, kw = _weight_sizes(w_shape, weight_layout)
    g = arguments.integer("groups", groups, 1)
    if sizes.c != c or c % g:
        raise ValueError(
            f"x has {sizes.c} channels and w takes {c} in {g} groups: they must be equal and groups divide them"
        )
    strides, steps = arguments.pair("stride", stride), arguments.pair("dilation", dilation)
    top, bottom, left, right = _pads(padding)
    least = (
        (sizes.h - 1) * strides[0] - top - bottom + steps[0] * (kh - 1) + 1,
        (sizes.w - 1) * strides[1] - left - right + steps[1] * (kw - 1) + 1,
    )
    oh, ow = _output_size(least, output_padding, output_size, strides, steps)
    o = per_group * g
    if bias is not None and (bias[0] != (o,) or bias[1].name != dtype.name):
        raise ValueError(f"bias must be {dtype.name} of shape ({o},), got {bias[1].name} of shape {bias[0]}")
    words = {
        "bias": bias is not None,
        "activation": "none" if activation is None else one_of("activation", activation, ACTIVATIONS),
        "accuracy": one_of("accuracy", accuracy, ACCURACIES),
    }
    rows = phases.axes(sizes.h, oh, kh, strides[0], top, steps[0])
    columns = phases.axes(sizes.w, ow, kw, strides[1], left, steps[1])
    native = dtype.newbyteorder("=")
    transposed = Transposed(
        sizes.n, c, sizes.h, sizes.w, o, oh, ow, (kh, kw), strides, (top, left), steps, g, sizes.layout, native.name,
        tuple(words.items()), tuple(product(rows, columns)),
    )  # fmt: skip
    return _Call(transposed, Result(sizes.result(o, oh, ow), native, native))


def floats(name: str, value: Any) -> Array:
    """Return the view of an array of float32 or float64, which is what these operators take."""
    array = arrays.view(name, value)
    check_float(name, array.dtype)
    return array


def check_float(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse what is not float32 or float64."""
    if dtype not in _FLOATS and dtype.name not in ("float32", "float64"):
        raise TypeError(f"{name} must be of float32 or float64, got {dtype.name}")


def check_same_dtype(name: str, array: Array, other: Array) -> None:
    if not arrays.same_type(array.dtype, other.dtype):
        raise ValueError(
            f"{name} must have the dtype of the other arrays, {other.dtype.name}, got {array.dtype.name}"
        )


def _weight_sizes(shape: tuple[int, ...], layout: object) -> tuple[int, ...]:
    axes = WEIGHT_LAYOUTS.get(layout) if isinstance(layout, str) else None
    if axes is None:
        raise ValueError(f"weight_layout must be one of {', '.join(WEIGHT_LAYOUTS)}, got {layout!r}")
    sizes = arguments.shape("w.shape", shape, (4,))
    if 0 in sizes:
        raise ValueError(f"w must have no empty axis, got shape {sizes}")
    return tuple(sizes[axis] for axis in axes)


def _pads(padding: object) -> tuple[int, int, int, int]:
    if isinstance(padding, str):
        raise ValueError(f"padding must be numbers for a transposed convolution, got {padding!r}")
    return arguments.pads(padding, (1, 1), (1, 1), (1, 1), (1, 1))


def _output_size(least: Pair, extra: object, size: object, strides: Pair, dilation: Pair) -> Pair:
    """Return rows and columns of the result."""
    if size is not None:
        rows, columns = arguments.shape("output_size", size, (2,))
        added = (rows - least[0], columns - least[1])
        name = f"output_size={(rows, columns)} asks for output_padding"
    else:
        both = extra if isinstance(extra, tuple | list) else (extra, extra)
        added_rows, added_columns = arguments.shape("output_padding", both, (2,))
        added = (added_rows, added_columns)
        name = "output_padding"
    for axis, value, stride, step in zip(("rows", "columns"), added, strides, dilation, strict=True):
        if not 0 <= value < max(stride, step):
            raise ValueError(
                f"{name} of {value} {axis}, which must be at least 0 and less than stride {stride} or dilation {step}"
            )
    found = (least[0] + added[0], least[1] + added[1])
    if min(found) < 1:
        raise ValueError(
            f"the result would have {found[0]} rows and {found[1]} columns; padding must be smaller"
        )
    return found
