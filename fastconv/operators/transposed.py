"""Transposed convolution, as convolutions that the planner knows.

Every output row of a transposed convolution of stride s meets only the kernel rows of its own phase, row modulo s. So
the outputs of one phase of rows and columns are an ordinary convolution of stride 1 by a part of the kernel, turned
round: nothing is filled up with zeros. Source: V. Dumoulin & F. Visin, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import api, arguments, arrays
from fastconv.arguments import PaddingArgument, Step
from fastconv.operators import running
from fastconv.operators.running import Result

Array = npt.NDArray[Any]
Pair = tuple[int, int]

#: Axes of weights (inputs, outputs per group, rows, columns) in each order; "IO" as PyTorch and ONNX have them.
WEIGHT_LAYOUTS = {"IOHW": (0, 1, 2, 3), "HWOI": (3, 2, 0, 1)}


class _Phase(NamedTuple):
    """One axis of one phase: outputs `first`, `first` + stride, ..., the kernel taps they meet, and their inputs."""

    first: int
    outputs: int
    taps: tuple[int, ...]
    step: int
    before: int
    after: int


def _phases(size: int, out: int, k: int, stride: int, pad: int, dilation: int) -> list[_Phase]:
    """Return the phases of one axis that have outputs.

    Output ``i = stride*q + first`` meets tap r at input ``q + (first + pad - r*dilation) / stride`` where it is whole.
    """
    found = []
    common = math.gcd(stride, dilation)
    for first in range(min(stride, out)):
        count = -(-(out - first) // stride)
        taps = [r for r in range(k) if (first + pad - r * dilation) % stride == 0]
        places = [(first + pad - r * dilation) // stride for r in taps]
        # Turned round, so that the first tap meets the first of the inputs.
        before, after = (-places[-1], count - 1 + places[0] - (size - 1)) if taps else (0, 0)
        found.append(_Phase(first, count, tuple(reversed(taps)), dilation // common, before, after))
    return found


def _crop(phase: _Phase, size: int) -> tuple[slice, Pair]:
    """Return which inputs are read, and what zeros stand around them."""
    start, stop = max(0, -phase.before), size - max(0, -phase.after)
    return slice(start, max(stop, start)), (max(0, phase.before), max(0, phase.after))


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

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 2.0]]]])
    >>> fastconv.conv_transpose2d(x, np.ones((1, 1, 1, 3)), stride=2)[0, 0].tolist()
    [[1.0, 1.0, 3.0, 2.0, 2.0]]
    """
    source, weights = floats("x", x), floats("w", w)
    check_same_dtype("w", weights, source)
    sizes = running.sizes(source.shape, layout)
    kernel = _weights(weights, weight_layout)
    c, per_group, kh, kw = kernel.shape
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
    shape = sizes.result(o, oh, ow)
    result = Result(shape, source.dtype, source.dtype)
    target = None if out is None else running.target_of("out", out, result, {"x": source, "w": weights})
    y = running.written_to(target, result)
    offset = None if bias is None else _bias(bias, o, source.dtype)
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    whole = y if sizes.batched else y[None]
    images = source if sizes.batched else source[None]
    words = {
        "groups": g,
        "layout": layout,
        "activation": activation,
        "accuracy": accuracy,
        "threads": threads,
    }
    for rows in _phases(sizes.h, oh, kh, strides[0], top, steps[0]):
        for columns in _phases(sizes.w, ow, kw, strides[1], left, steps[1]):
            part = _phase(images, kernel, offset, rows, columns, g, axes, (sizes.h, sizes.w), words)
            place: list[slice] = [slice(None)] * 4
            place[axes[0]], place[axes[1]] = (
                slice(rows.first, None, strides[0]),
                slice(columns.first, None, strides[1]),
            )
            whole[tuple(place)] = part
    return running.delivered(y, target, result, x, out)


def _phase(
    images: Array,
    kernel: Array,
    bias: Array | None,
    rows: _Phase,
    columns: _Phase,
    groups: int,
    axes: tuple[int, int],
    sizes: Pair,
    words: dict[str, Any],
) -> Array:
    """Return the outputs of one phase, as images of their own."""
    c, per_group = kernel.shape[:2]
    taps = kernel[:, :, rows.taps][:, :, :, columns.taps]
    (row_slice, row_pads), (column_slice, column_pads) = _crop(rows, sizes[0]), _crop(columns, sizes[1])
    place: list[slice] = [slice(None)] * 4
    place[axes[0]], place[axes[1]] = row_slice, column_slice
    inputs = images[tuple(place)]
    if 0 in taps.shape or 0 in (inputs.shape[axes[0]], inputs.shape[axes[1]]):
        # No tap falls on any pixel: a kernel of zeros says so, and bias and activation are as everywhere.
        inputs = images.take([0] * rows.outputs, axes[0]).take([0] * columns.outputs, axes[1])
        inputs, taps = np.zeros_like(inputs), np.zeros((c, per_group, 1, 1), kernel.dtype)
        row_pads = column_pads = (0, 0)
    weights = taps.reshape(groups, c // groups, per_group, *taps.shape[2:]).swapaxes(1, 2)
    weights = weights.reshape(groups * per_group, c // groups, *taps.shape[2:])
    dilation = (rows.step, columns.step)
    part: Array = api.conv2d(inputs, weights, bias, 1, (row_pads, column_pads), dilation, **words)
    return part


def floats(name: str, value: Any) -> Array:
    """Return the view of an array of float32 or float64, which is what these operators take."""
    array = arrays.view(name, value)
    check_float(name, array.dtype)
    return array


def check_float(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse what is not float32 or float64."""
    if dtype.name not in ("float32", "float64"):
        raise TypeError(f"{name} must be of float32 or float64, got {dtype.name}")


def check_same_dtype(name: str, array: Array, other: Array) -> None:
    if array.dtype.name != other.dtype.name:
        raise ValueError(
            f"{name} must have the dtype of the other arrays, {other.dtype.name}, got {array.dtype.name}"
        )


def _weights(w: Array, layout: object) -> Array:
    axes = WEIGHT_LAYOUTS.get(layout) if isinstance(layout, str) else None
    if axes is None:
        raise ValueError(f"weight_layout must be one of {', '.join(WEIGHT_LAYOUTS)}, got {layout!r}")
    arguments.shape("w.shape", w.shape, (4,))
    kernel = w.transpose(axes)
    if 0 in kernel.shape:
        raise ValueError(f"w must have no empty axis, got shape {w.shape}")
    return kernel


def _bias(bias: Any, o: int, dtype: np.dtype[Any]) -> Array:
    array = floats("bias", bias)
    if array.shape != (o,) or array.dtype.name != dtype.name:
        raise ValueError(
            f"bias must be {dtype.name} of shape ({o},), got {array.dtype.name} of shape {array.shape}"
        )
    return array


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
