"""1-D convolution: that of images with a single row, so that every algorithm, plan and decision serves it too."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import api, arguments, arrays
from fastconv.arguments import PADDING_WORDS
from fastconv.problem import MAX_STEP, one_of

Array = npt.NDArray[Any]
#: Layouts of sequences, and those of the images with one row that they are.
LAYOUTS = {"NCL": "NCHW", "NLC": "NHWC"}
#: Layouts of weights, those of kernels with one row, and where that row's axis goes.
WEIGHT_LAYOUTS = {"OIL": ("OIHW", 2), "LIO": ("HWIO", 0), "OLI": ("OHWI", 1)}


def conv1d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | tuple[int, int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
    *,
    layout: str = "NCL",
    weight_layout: str = "OIL",
    padding_mode: str = "zeros",
    activation: str | None = None,
    accuracy: str = "standard",
    algorithm: str = "auto",
    threads: int | None = None,
    workspace_limit: int | None = None,
    out: Any = None,
) -> Any:
    """Cross-correlate sequences with kernels: `conv2d` of images with one row, by the same algorithms.

    Parameters
    ----------
    x : array, shape (N, C, L), or (N, L, C) with ``layout="NLC"``
        Sequences, of a dtype that `conv2d` takes; the axis N may be missing.
    w : array, shape (O, C / groups, k), or as `weight_layout` says
        Kernels, of the dtype of `x`.
    bias : array, shape (O,), optional
        As for `conv2d`.
    stride, dilation : int, or tuple of one int
        At least 1.
    padding : int, tuple of one int, (before, after), or str
        Places added around each sequence. "valid": none; "same" or "same_upper": as many as make the output
        ``ceil(L / stride)`` long, the odd one at the end, as PyTorch and TensorFlow do; "same_lower": the odd one at
        the beginning, as ``numpy.correlate(x, w, "same")`` does; "full": all positions where a kernel touches the
        sequence; "causal": ``dilation * (k - 1)`` before and none after, so that no output sees a later input.
    groups : int
        Divides C and O.
    layout : {"NCL", "NLC"}
        Axes of `x`, `out` and the result.
    weight_layout : {"OIL", "LIO", "OLI"}
        Axes of `w`.
    padding_mode, activation, accuracy, algorithm, threads, workspace_limit, out
        As for `conv2d`.

    Returns
    -------
    array, shape (N, O, ol) or (N, ol, O)
        With ``ol = (L + before + after - dilation * (k - 1) - 1) // stride + 1``; of the kind of `x`, or `out`.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv2d` does.

    Notes
    -----
    ``explain((N, C, 1, L), (O, C, 1, k), padding=(0, 4))`` says what is done, and a `plan` of that convolution packs
    the weights once.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, w = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[0.0, 1.0, 0.5]]])
    >>> fastconv.conv1d(x, w, padding="same_lower")[0, 0].tolist()
    [2.0, 3.5, 3.0]
    >>> np.correlate(x[0, 0], w[0, 0], "same").tolist()
    [2.0, 3.5, 3.0]
    """
    source, kernels = arrays.view("x", x), arrays.view("w", w)
    order = LAYOUTS[one_of("layout", layout, tuple(LAYOUTS))]
    word, row = WEIGHT_LAYOUTS[one_of("weight_layout", weight_layout, tuple(WEIGHT_LAYOUTS))]
    arguments.shape("x.shape", source.shape, (2, 3))
    arguments.shape("w.shape", kernels.shape, (3,))
    step, gap = _single("stride", stride), _single("dilation", dilation)
    taps = kernels.shape[weight_layout.index("L")]
    images, filters = _with_row(source, layout), np.expand_dims(kernels, row)
    pads = _padding(padding, taps, gap)
    target = None if out is None else arrays.view("out", out)
    if target is not None:
        _check_out(target, images, filters, source.ndim, order, word, (1, step), pads, (1, gap), groups)
        arrays.check_apart("w", target, kernels)
    y = api.conv2d(
        images,
        filters,
        bias,
        (1, step),
        pads,
        (1, gap),
        groups,
        layout=order,
        weight_layout=word,
        padding_mode=padding_mode,
        activation=activation,
        accuracy=accuracy,
        algorithm=algorithm,
        threads=threads,
        workspace_limit=workspace_limit,
        out=None if target is None else _with_row(target, layout),
    )
    if target is not None:
        return out
    whole = y.squeeze(-2 if order == "NCHW" else -3)
    return whole if type(x) is np.ndarray else arrays.give_back(whole, x)


def _with_row(array: Array, layout: str) -> Array:
    """Return sequences as images with one row."""
    return np.expand_dims(array, -2 if layout == "NCL" else -3)


def _single(name: str, value: object) -> int:
    if isinstance(value, tuple | list):
        if len(value) != 1:
            raise ValueError(
                f"{name} must be an int or a tuple of one int, got {len(value)} values: {value!r}"
            )
        value = value[0]
    return arguments.integer(name, value, 1, MAX_STEP)


def _padding(value: object, taps: int, dilation: int) -> Any:
    """Return the padding of images with one row that is meant."""
    if isinstance(value, str):
        words = (*PADDING_WORDS, "causal")
        if one_of("padding", value, words) != "causal":
            return value
        return ((0, 0), (max(taps - 1, 0) * dilation, 0))
    sides = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(sides) not in (1, 2):
        raise ValueError(
            f"padding must be an int, (before, after) or a word, got {len(sides)} values: {value!r}"
        )
    ends = [arguments.integer("padding", side, 0, MAX_STEP) for side in sides]
    return ((0, 0), (ends[0], ends[-1]))


def _check_out(
    target: Array,
    images: Array,
    filters: Array,
    axes: int,
    layout: str,
    weight_layout: str,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> None:
    """Refuse an `out` that cannot take the result, in the words of sequences."""
    problem = arguments.problem(
        images.shape, filters.shape, stride=stride, padding=padding, dilation=dilation, groups=groups, layout=layout,
        weight_layout=weight_layout, dtype=images.dtype.name,
    )  # fmt: skip
    whole = (problem.n, problem.o, problem.ow) if layout == "NCHW" else (problem.n, problem.ow, problem.o)
    arrays.check_out(target, whole[3 - axes :], np.dtype(problem.result_dtype))
    arrays.check_apart("x", target, images)
