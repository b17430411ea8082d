"""The three verbs: do it, plan it, explain it. Arguments become a Problem, that a Plan, which runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays
from fastconv.arguments import WEIGHT_LAYOUTS, PaddingArgument, Step
from fastconv.planning import facts, planner, routes
from fastconv.planning.explain import Explanation, explained
from fastconv.planning.plan import Plan, admit
from fastconv.problem import one_of


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Any = None,
    accuracy: str = "standard",
    algorithm: str = "auto",
    threads: int | None = None,
    workspace_limit: int | None = None,
    out: Any = None,
) -> Any:
    """Cross-correlate images with kernels: the "convolution" of neural networks, kernels not flipped.

    ``y[n, o, i, j] = bias[o] + sum(x[n, g + c, i*sh - top + r*dh, j*sw - left + s*dw] * w[o, c, r, s])`` over
    c, r, s, where g is the first input channel of the group of o. Taps that fall on zero padding are skipped,
    not multiplied, so infinite weights do not make them NaN. For true convolution pass ``flip_kernel(w)``.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        Images: a NumPy array in any memory layout and byte order, or any array with ``__dlpack__`` in the
        memory of the CPU, which is not copied. The axis N may be missing and is then missing from the result
        too. dtype float32, float64, float16, or an integer type up to 32 bits unsigned, 64 bits signed.
    w : array, shape (O, C / groups, kh, kw), or as `weight_layout` says
        Kernels, of the dtype of `x`.
    bias : array, shape (O,), optional
        Of the dtype of `x`, or of that in which sums are kept (see Notes).
    stride : int or (rows, columns)
        At least 1.
    padding : int, (rows, columns), ((top, bottom), (left, right)), or str
        Rows and columns added around each image. "valid": none; "same" or "same_upper": as many as make the
        output ``ceil(size / stride)``, the odd one at the end; "same_lower": the odd one at the beginning;
        "full": all positions where a kernel touches the image.
    dilation : int or (rows, columns)
        Distance of neighbouring taps; 1 is a dense kernel.
    groups : int
        Divides C and O; each group of output channels sees only its group of input channels.
    layout : {"NCHW", "NHWC"}
        Axes of `x`, `residual`, `out` and the result.
    weight_layout : {"OIHW", "HWIO", "OHWI"}
        Axes of `w`; never guessed.
    padding_mode : {"zeros", "reflect", "symmetric", "replicate", "circular"}
        What stands in the padding, by NumPy's meaning: of a b c d, "reflect" continues d c b a | b,
        "symmetric" c d | d c, "replicate" d d, "circular" a b.
    activation : str, optional
        Applied last: "relu", "relu6", "leaky_relu" (slope 0.01), "sigmoid", "tanh", "silu", "hardswish",
        "gelu" (by the error function) or "elu" (alpha 1). Integers may have "relu" and "relu6".
    residual : array, optional
        Added before the activation; of the shape and dtype of the result.
    accuracy : {"strict", "standard", "fast"}
        "strict": the error of a plain sum in the compute dtype. "standard": relative L2 error at most 5e-6.
        "fast": at most 5e-3.
    algorithm : str
        "auto", or a name that `explain` lists.
    threads : int, optional
        Default: ``fastconv.get_num_threads()``. The result does not depend on it, not by a bit.
    workspace_limit : int, optional
        Bytes of scratch memory. Default: 1 GiB, or a quarter of the available memory if that is less.
    out : array, optional
        Where to put the result: of its shape and dtype, writeable, sharing no memory with `x`, `w` or `bias`.
        It may be `residual` itself.

    Returns
    -------
    array, shape (N, O, oh, ow) or (N, oh, ow, O)
        `out` if given, else a new array of the kind of `x`, with
        ``oh = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1``. dtype of `x`; for integers that
        of the sums.

    Raises
    ------
    TypeError
        When an argument is of a wrong kind, such as a float for `stride`, or an array on another device.
    ValueError
        When a value breaks a rule; the message gives the rule and the numbers.
    WorkspaceLimitError
        When no algorithm stays within `workspace_limit`.

    Notes
    -----
    float16 is computed in float32 and rounded once. int8 and uint8 are summed in int32, other integers in
    int64, exactly as long as sums fit, and wrapping around beyond.

    Arrays that kernels cannot read as they lie (another byte order, gaps, a type to convert) are copied; the
    copy does not count as workspace.

    The choice of the algorithm is remembered per set of arguments; the weights are packed in every call. Use
    `plan` to pack them once.

    References
    ----------
    V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> w = np.array([[[[-1.0, 0.0, 1.0]]]])
    >>> fastconv.conv2d(x, w, padding=(0, 1))[0, 0, 0].tolist()
    [1.0, 2.0, 2.0, -2.0]
    """
    x_array = x if type(x) is np.ndarray else arrays.view("x", x)
    w_array = w if type(w) is np.ndarray else arrays.view("w", w)
    b_array = bias if bias is None or type(bias) is np.ndarray else arrays.view("bias", bias)
    route = routes.remembered(
        x_array.shape,
        x_array.dtype,
        w_array.shape,
        w_array.dtype,
        None if b_array is None else (b_array.shape, b_array.dtype),
        stride if type(stride) is int else routes.hashable(stride),
        padding if type(padding) is int else routes.hashable(padding),
        dilation if type(dilation) is int else routes.hashable(dilation),
        groups,
        layout,
        weight_layout,
        padding_mode,
        activation,
        residual is not None,
        accuracy,
        algorithm,
        routes.thread_count(threads),
        workspace_limit,
    )
    if out is None and residual is None:
        return routes.packed(route, w_array, b_array, weight_layout)(x)
    # Everything is checked before anything runs, and packing runs.
    call = admit(route, x, out, residual, {"w": w_array, "bias": b_array})
    return routes.packed(route, w_array, b_array, weight_layout).finish(call)


def plan(
    x_shape: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Any = False,
    accuracy: str = "standard",
    algorithm: str = "auto",
    threads: int | None = None,
    workspace_limit: int | None = None,
    dtype: npt.DTypeLike | None = None,
    rigor: str = "estimate",
) -> Plan:
    """Choose an algorithm for a cross-correlation and pack its weights, to run it many times.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints, or array
        Shape of the images, or images of that shape.
    w, bias, stride, padding, dilation, groups, layout, weight_layout, padding_mode, activation, accuracy,
    algorithm, \
threads, workspace_limit
        As for `conv2d`. `w` and `bias` are copied.
    residual : bool or array
        Whether calls will bring a residual.
    dtype : dtype, optional
        Of the images; must be that of `w`, and is when left out.
    rigor : {"stored", "estimate", "measure", "exhaustive"}
        How to choose: by an earlier decision if there is one (else by estimate), by estimate, by timing the few
        best by estimate and every algorithm's default setting, by timing every algorithm in every setting.

    Returns
    -------
    Plan
        Call it with images; see `fastconv.planning.plan.Plan`.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> w = np.ones((8, 3, 3, 3), np.float32)
    >>> plan = fastconv.plan((1, 3, 32, 32), w, stride=2, padding="same")
    >>> plan(np.ones((1, 3, 32, 32), np.float32)).shape
    (1, 8, 16, 16)
    """
    one_of("rigor", rigor, planner.RIGORS)
    w_array = arrays.view("w", w)
    b_array = None if bias is None else arrays.view("bias", bias)
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    route = routes.find(
        sizes,
        routes.dtype(dtype) if dtype is not None else found or w_array.dtype,
        w_array.shape,
        w_array.dtype,
        None if b_array is None else (b_array.shape, b_array.dtype),
        stride,
        padding,
        dilation,
        groups,
        layout,
        weight_layout,
        padding_mode,
        activation,
        routes.is_given("residual", residual),
        accuracy,
        algorithm,
        routes.thread_count(threads),
        workspace_limit,
        packing=False,
    )
    return routes.planned(route, w_array, b_array, weight_layout, algorithm, rigor)


def explain(
    x_shape: Any,
    w_shape: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Any = False,
    accuracy: str = "standard",
    algorithm: str = "auto",
    threads: int | None = None,
    workspace_limit: int | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Explanation:
    """Say which algorithm a plan would use, and what keeps it from others; runs nothing, needs no weights.

    Parameters
    ----------
    x_shape, w_shape : tuple of ints, or array
        Shapes, or arrays of that shape.
    bias, residual : bool or array
        Whether there will be one.
    stride, padding, dilation, groups, layout, weight_layout, padding_mode, activation, accuracy, algorithm, \
threads, workspace_limit
        As for `conv2d`.
    dtype : dtype, optional
        Default: that of `x_shape` or `w_shape` if one of them is an array, else float32.

    Returns
    -------
    Explanation
        Printable as a table, and readable as data.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv2d` does.

    Examples
    --------
    >>> import fastconv
    >>> report = fastconv.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1, threads=1)
    >>> report.problem.word
    'n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32'
    >>> any(row.chosen for row in report.rows)
    True
    """
    sizes, x_found = routes.shape_and_dtype("x_shape", x_shape)
    w_sizes, w_found = routes.shape_and_dtype("w_shape", w_shape)
    kind = routes.dtype(dtype) if dtype is not None else x_found or w_found or np.dtype(np.float32)
    problem = arguments.problem(
        sizes,
        w_sizes,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        weight_layout=weight_layout,
        dtype=kind.name,
        padding_mode=padding_mode,
        activation=activation,
        bias=routes.is_given("bias", bias),
        residual=routes.is_given("residual", residual),
        accuracy=accuracy,
        threads=routes.thread_count(threads),
        workspace_limit=routes.limit(workspace_limit),
    )
    return explained(problem, facts.host(), algorithm)


def conv_output_shape(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
) -> tuple[int, ...]:
    """Return the shape of ``conv2d(x, w, ...)`` without any data.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints
    w_shape : tuple of 4 ints
    stride, padding, dilation, groups, layout, weight_layout
        As for `conv2d`.

    Raises
    ------
    TypeError, ValueError
        As `conv2d` does.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.conv_output_shape((8, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3)
    (8, 64, 112, 112)
    """
    problem = arguments.problem(
        x_shape,
        w_shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        weight_layout=weight_layout,
    )
    return problem.y_shape[4 - len(x_shape) :]


def flip_kernel(w: Any, weight_layout: str = "OIHW") -> Any:
    """Return the kernels turned by 180 degrees, with which `conv2d` is true convolution.

    Parameters
    ----------
    w : array with 4 axes
    weight_layout : {"OIHW", "HWIO", "OHWI"}

    Returns
    -------
    array
        A new contiguous array of the kind of `w`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> impulse = np.array([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]])
    >>> w = np.array([[[[1.0, 2.0, 3.0]]]])
    >>> fastconv.conv2d(impulse, fastconv.flip_kernel(w)).ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    axes = WEIGHT_LAYOUTS[one_of("weight_layout", weight_layout, tuple(WEIGHT_LAYOUTS))]
    array = arrays.view("w", w)
    arguments.shape("w.shape", array.shape, (4,))
    return arrays.give_back(np.ascontiguousarray(np.flip(array, axes[2:])), w)


def plan_cache_info() -> Any:
    """Return hits, misses, maxsize and currsize of the remembered choices of `conv2d`.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.plan_cache_info().maxsize
    1024
    """
    return routes.REMEMBERED.cache_info()


def plan_cache_clear() -> None:
    """Forget the remembered choices of `conv2d`.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.plan_cache_clear()
    >>> fastconv.plan_cache_info().currsize
    0
    """
    routes.REMEMBERED.cache_clear()
