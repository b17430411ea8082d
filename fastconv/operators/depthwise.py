"""Depthwise convolution in TensorFlow's words: `conv2d` with as many groups as channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import api, arguments, arrays
from fastconv.arguments import PaddingArgument, Step
from fastconv.operators import running
from fastconv.planning import routes
from fastconv.planning.explain import Explanation
from fastconv.planning.plan import Plan
from fastconv.problem import one_of

Array = npt.NDArray[Any]
#: TensorFlow's order of axes, with M kernels for each channel; and that of `conv2d` with C groups, as PyTorch has it.
WEIGHT_LAYOUTS = ("HWCM", "OIHW")


def depthwise_conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "HWCM",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Any = None,
    accuracy: str = "standard",
    algorithm: str = "auto",
    threads: int | None = None,
    workspace_limit: int | None = None,
    out: Any = None,
) -> Any:
    """Cross-correlate each channel with kernels of its own, M of them: C channels become C * M.

    Output channel ``c * M + m`` is channel c with its kernel m, in TensorFlow, Keras and PyTorch alike. Strides and
    dilations may differ between rows and columns and be combined, which TensorFlow does not allow.

    Parameters
    ----------
    x : array, shape (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``
        As for `conv2d`; the axis N may be missing.
    w : array, shape (kh, kw, C, M), or (C * M, 1, kh, kw) with ``weight_layout="OIHW"``
        Kernels, of the dtype of `x`; M is the channel multiplier.
    bias : array, shape (C * M,), optional
    weight_layout : {"HWCM", "OIHW"}
        Axes of `w`: TensorFlow's, or those of PyTorch and of `conv2d`.
    stride, padding, dilation, layout, padding_mode, activation, residual, accuracy, algorithm, threads, \
workspace_limit, out
        As for `conv2d`.

    Returns
    -------
    array, shape (N, C * M, oh, ow) or (N, oh, ow, C * M)
        As of `conv2d`.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(4.0).reshape(1, 1, 2, 2)  # two channels of two pixels, NHWC
    >>> w = np.array([[[[1.0, 10.0], [100.0, 1000.0]]]])
    >>> fastconv.depthwise_conv2d(x, w, layout="NHWC")[0, 0].tolist()
    [[0.0, 0.0, 100.0, 1000.0], [2.0, 20.0, 300.0, 3000.0]]
    """
    images, given = arrays.view("x", x), arrays.view("w", w)
    channels = running.sizes(images.shape, layout).c
    count, kernel = depthwise_kernels(given.shape, weight_layout, channels, layout)
    kernels = _as_oihw(given, count, kernel, weight_layout)
    if kernels is not given and out is not None:
        arrays.check_apart("w", arrays.view("out", out), given)
    return api.conv2d(
        x,
        kernels,
        bias,
        stride,
        padding,
        dilation,
        channels,
        layout=layout,
        padding_mode=padding_mode,
        activation=activation,
        residual=residual,
        accuracy=accuracy,
        algorithm=algorithm,
        threads=threads,
        workspace_limit=workspace_limit,
        out=out,
    )


def plan_depthwise_conv2d(
    x_shape: Any,
    w: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "HWCM",
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
    """Choose an algorithm for a depthwise convolution and pack its weights, to run it many times.

    Parameters
    ----------
    x_shape, residual, dtype, rigor
        As for `plan`.
    w, bias, stride, padding, dilation, layout, weight_layout, padding_mode, activation, accuracy, algorithm, threads, \
workspace_limit
        As for `depthwise_conv2d`. `w` and `bias` are copied.

    Returns
    -------
    Plan
        That of `conv2d` with as many groups as channels.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `depthwise_conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> plan = fastconv.plan_depthwise_conv2d((1, 32, 28, 28), np.ones((3, 3, 32, 1), np.float32), padding=1)
    >>> plan(np.ones((1, 32, 28, 28), np.float32)).shape
    (1, 32, 28, 28)
    """
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    given = arrays.view("w", w)
    channels = running.sizes(sizes, layout).c
    kernels = _as_oihw(given, *depthwise_kernels(given.shape, weight_layout, channels, layout), weight_layout)
    return api.plan(
        sizes, kernels, bias, stride, padding, dilation, channels, layout=layout, padding_mode=padding_mode,
        activation=activation, residual=residual, accuracy=accuracy, algorithm=algorithm, threads=threads,
        workspace_limit=workspace_limit, dtype=dtype if dtype is not None else found, rigor=rigor,
    )  # fmt: skip


def explain_depthwise_conv2d(
    x_shape: Any,
    w_shape: Any,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    *,
    layout: str = "NCHW",
    weight_layout: str = "HWCM",
    padding_mode: str = "zeros",
    activation: str | None = None,
    residual: Any = False,
    accuracy: str = "standard",
    algorithm: str = "auto",
    threads: int | None = None,
    workspace_limit: int | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Explanation:
    """Say which algorithm a plan of a depthwise convolution would use, and what keeps it from others; runs nothing.

    Parameters
    ----------
    x_shape, w_shape, bias, residual, dtype
        As for `explain`.
    stride, padding, dilation, layout, weight_layout, padding_mode, activation, accuracy, algorithm, threads, \
workspace_limit
        As for `depthwise_conv2d`.

    Returns
    -------
    Explanation
        Of `conv2d` with as many groups as channels.

    Raises
    ------
    TypeError, ValueError, WorkspaceLimitError
        As `depthwise_conv2d` does.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.explain_depthwise_conv2d((1, 32, 28, 28), (3, 3, 32, 1), padding=1).chosen.algorithm
    'depthwise'
    """
    sizes, found = routes.shape_and_dtype("x_shape", x_shape)
    w_sizes, w_found = routes.shape_and_dtype("w_shape", w_shape, (4,))
    channels = running.sizes(sizes, layout).c
    count, kernel = depthwise_kernels(w_sizes, weight_layout, channels, layout)
    return api.explain(
        sizes, (count, 1, *kernel), bias, stride, padding, dilation, channels, layout=layout, padding_mode=padding_mode,
        activation=activation, residual=residual, accuracy=accuracy, algorithm=algorithm, threads=threads,
        workspace_limit=workspace_limit, dtype=dtype if dtype is not None else found or w_found,
    )  # fmt: skip


def _as_oihw(w: Array, count: int, kernel: tuple[int, int], weight_layout: str) -> Array:
    """Return kernels in the order of `conv2d`."""
    if weight_layout == "OIHW":
        return w
    return np.ascontiguousarray(w.transpose(2, 3, 0, 1)).reshape(count, 1, *kernel)


def depthwise_kernels(
    shape: tuple[int, ...], weight_layout: object, channels: int, layout: str, name: str = "w"
) -> tuple[int, tuple[int, int]]:
    """Return how many depthwise kernels there are, C * M, and their rows and columns."""
    order = one_of("weight_layout", weight_layout, WEIGHT_LAYOUTS)
    sizes = arguments.shape(f"{name}.shape", shape, (4,))
    if 0 in sizes:
        raise ValueError(f"{name} must have at least one of each, got shape {sizes}")
    if order == "OIHW":
        if sizes[1] != 1 or sizes[0] % channels:
            raise ValueError(
                f"{name} must have shape (C * M, 1, kh, kw) with C = {channels} (the channels of x with "
                f"layout={layout!r}), got {sizes} with weight_layout='OIHW'"
            )
        return sizes[0], (sizes[2], sizes[3])
    if sizes[2] != channels:
        raise ValueError(
            f"{name} must have C = {channels} channels (those of x with layout={layout!r}), got {sizes[2]} in shape "
            f"{sizes}, read with weight_layout='HWCM'"
        )
    return sizes[2] * sizes[3], (sizes[0], sizes[1])
