"""1-D convolution: that of images with a single row, so that every algorithm, plan and decision serves it too."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import api, arguments, arrays
from fastconv.arguments import PADDING_WORDS
from fastconv.operators import running
from fastconv.operators.plans import OperatorPlan
from fastconv.operators.running import Result
from fastconv.planning import routes
from fastconv.planning.explain import Explanation
from fastconv.problem import MAX_STEP, Problem, one_of

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
    `explain_conv1d` says what is done, and `plan_conv1d` packs the weights once.

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
    i = running.remembered(
        _meant, source, kernels.shape, *running.hashable(stride, padding, dilation), layout, weight_layout
    )
    images, filters = source[i.x_index], kernels[i.w_index]
    target = None if out is None else arrays.view("out", out)
    if target is not None:
        _check_out(target, i, source, kernels, groups)
    y = api.conv2d(
        images,
        filters,
        bias,
        i.stride,
        i.padding,
        i.dilation,
        groups,
        layout=i.layout,
        weight_layout=i.weight_layout,
        padding_mode=padding_mode,
        activation=activation,
        accuracy=accuracy,
        algorithm=algorithm,
        threads=threads,
        workspace_limit=workspace_limit,
        out=None if target is None else target[i.x_index],
    )
    if target is not None:
        return out
    whole = y.squeeze(i.x_row)
    return whole if type(x) is np.ndarray else arrays.give_back(whole, x)


def plan_conv1d(
    x_shape: Any,
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
    dtype: npt.DTypeLike | None = None,
    rigor: str = "estimate",
) -> OperatorPlan:
    """Choose an algorithm for a 1-D convolution and pack its weights, to run it many times.

    Parameters
    ----------
    x_shape : tuple of 2 or 3 ints, or array
        Shape of the sequences, or sequences of that shape.
    w, bias, stride, padding, dilation, groups, layout, weight_layout, padding_mode, activation, accuracy, algorithm, \
threads, workspace_limit
        As for `conv1d`. `w` and `bias` are copied.
    dtype, rigor
        As for `plan`.

    Returns
    -------
    OperatorPlan
        Call it with sequences.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv1d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> plan = fastconv.plan_conv1d((1, 1, 3), np.array([[[0.0, 1.0, 0.5]]]), padding="same")
    >>> plan(np.array([[[1.0, 2.0, 3.0]]]))[0, 0].tolist()
    [2.0, 3.5, 3.0]
    """
    kernels = arrays.view("w", w)
    sizes, found = routes.shape_and_dtype("x_shape", x_shape, (2, 3))
    kind = routes.dtype(dtype) if dtype is not None else found or kernels.dtype
    i = _images(sizes, kernels.shape, stride, padding, dilation, layout, weight_layout)
    inner = api.plan(
        i.x_shape, kernels[i.w_index], bias, i.stride, i.padding, i.dilation, groups, layout=i.layout,
        weight_layout=i.weight_layout, padding_mode=padding_mode, activation=activation, accuracy=accuracy,
        algorithm=algorithm, threads=threads, workspace_limit=workspace_limit, dtype=kind, rigor=rigor,
    )  # fmt: skip

    def compute(x: Array, y: Array) -> None:
        inner.start(arrays.address(x), arrays.address(y))

    p = inner.problem
    result = Result(_result_shape(p, len(sizes)), np.dtype(p.compute_dtype), np.dtype(p.result_dtype))
    return OperatorPlan("conv1d", sizes, kind, result, (inner,), 0, compute)


def explain_conv1d(
    x_shape: Any,
    w_shape: Any,
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
    dtype: npt.DTypeLike | None = None,
) -> Explanation:
    """Say which algorithm a plan of a 1-D convolution would use, and what keeps it from others; runs nothing.

    Parameters
    ----------
    x_shape, w_shape : tuple of ints, or array
        Shapes, or arrays of that shape.
    bias : bool or array
        Whether there will be one.
    stride, padding, dilation, groups, layout, weight_layout, padding_mode, activation, accuracy, algorithm, threads, \
workspace_limit
        As for `conv1d`.
    dtype : dtype, optional
        Default: that of `x_shape` or `w_shape` if one of them is an array, else float32.

    Returns
    -------
    Explanation
        Of the convolution of images with one row.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv1d` does.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.explain_conv1d((1, 64, 16000), (64, 64, 9), padding="causal", threads=1).problem.word
    'n1c64h1w16000_o64k1x9_s1p0.0.8.0d1g1_nchw_f32'
    """
    sizes, found = routes.shape_and_dtype("x_shape", x_shape, (2, 3))
    w_sizes, w_found = routes.shape_and_dtype("w_shape", w_shape, (3,))
    kind = routes.dtype(dtype) if dtype is not None else found or w_found or np.dtype(np.float32)
    i = _images(sizes, w_sizes, stride, padding, dilation, layout, weight_layout)
    return api.explain(
        i.x_shape, i.w_shape, bias, i.stride, i.padding, i.dilation, groups, layout=i.layout,
        weight_layout=i.weight_layout, padding_mode=padding_mode, activation=activation, accuracy=accuracy,
        algorithm=algorithm, threads=threads, workspace_limit=workspace_limit, dtype=kind,
    )  # fmt: skip


class _Images(NamedTuple):
    """The convolution of images with one row that is meant, and what index makes those rows, whose axis is `x_row`."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: tuple[int, int]
    padding: Any
    dilation: tuple[int, int]
    layout: str
    weight_layout: str
    x_row: int
    x_index: tuple[Any, ...]
    w_index: tuple[Any, ...]


def _images(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: object,
    padding: object,
    dilation: object,
    layout: object,
    weight_layout: object,
) -> _Images:
    """Check the words of sequences and return those of images."""
    order = LAYOUTS[one_of("layout", layout, tuple(LAYOUTS))]
    word, w_row = WEIGHT_LAYOUTS[one_of("weight_layout", weight_layout, tuple(WEIGHT_LAYOUTS))]
    arguments.shape("x.shape", x_shape, (2, 3))
    arguments.shape("w.shape", w_shape, (3,))
    step, gap = _single("stride", stride), _single("dilation", dilation)
    pads = _padding(padding, w_shape[str(weight_layout).index("L")], gap)
    x_row = -2 if order == "NCHW" else -3
    at = len(x_shape) + 1 + x_row
    return _Images(
        (*x_shape[:at], 1, *x_shape[at:]), (*w_shape[:w_row], 1, *w_shape[w_row:]), (1, step), pads, (1, gap), order,
        word, x_row, (..., None, *(slice(None),) * (-1 - x_row)), (*(slice(None),) * w_row, None),
    )  # fmt: skip


def _meant(x_shape: tuple[int, ...], _dtype: np.dtype[Any], *words: Any) -> _Images:
    return _images(x_shape, *words)


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


def _check_out(target: Array, i: _Images, source: Array, kernels: Array, groups: int) -> None:
    """Refuse an `out` that cannot take the result, in the words of sequences."""
    problem = arguments.problem(
        i.x_shape, i.w_shape, stride=i.stride, padding=i.padding, dilation=i.dilation, groups=groups, layout=i.layout,
        weight_layout=i.weight_layout, dtype=source.dtype.name,
    )  # fmt: skip
    arrays.check_out(target, _result_shape(problem, source.ndim), np.dtype(problem.result_dtype))
    arrays.check_apart("x", target, source)
    arrays.check_apart("w", target, kernels)


def _result_shape(problem: Problem, axes: int) -> tuple[int, ...]:
    """Return the shape of the sequences that come out, with as many axes as went in."""
    n, o, length = problem.n, problem.o, problem.ow
    return ((n, o, length) if problem.layout == "NCHW" else (n, length, o))[3 - axes :]
