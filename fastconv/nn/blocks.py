"""Blocks of networks as plain functions: batch normalisation is folded, the rest is `fastconv.conv2d`."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv
from fastconv import arguments, arrays
from fastconv.arguments import PaddingArgument, Step
from fastconv.nn.folding import floating, fold_batch_norm
from fastconv.nn.normalisation import Array, BatchNorm
from fastconv.problem import LAYOUTS, one_of


def batch_norm(x: Any, norm: BatchNorm, *, layout: str = "NCHW") -> Array:
    """Normalise images by themselves, where no convolution stands before to fold into.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C); the axis N may be missing
    norm : BatchNorm
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array
        Of the shape and dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.batch_norm(np.full((1, 1, 1), 5.0), nn.BatchNorm([2.0], [1.0], [3.0], [4.0], eps=0.0)).item()
    3.0
    """
    images = floating("x", x)
    arguments.shape("x.shape", images.shape, (3, 4))
    axis = images.ndim - 3 if one_of("layout", layout, LAYOUTS) == "NCHW" else images.ndim - 1
    sizes = [1] * images.ndim
    sizes[axis] = images.shape[axis]
    scale, shift = (part.reshape(sizes) for part in norm.affine(images.shape[axis]))
    return (images * scale + shift).astype(images.dtype)


def conv_bn_relu(
    x: Any,
    w: Any,
    norm: BatchNorm | None = None,
    bias: Any = None,
    stride: Step = 1,
    padding: PaddingArgument | None = None,
    dilation: Step = 1,
    groups: int = 1,
    *,
    activation: str | None = "relu",
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
    **words: Any,
) -> Any:
    """Convolve, normalise, activate: one pass over the images.

    Parameters
    ----------
    x, w, bias, stride, dilation, groups, layout, weight_layout
        As for `fastconv.conv2d`, and so are further words (`residual`, `accuracy`, `threads` ...).
    norm : BatchNorm, optional
        Folded into `w` and `bias`.
    padding : as for `fastconv.conv2d`, optional
        Default: ``dilation * (k // 2)``, which keeps the size of the image for odd kernels and stride 1.
    activation : str, optional

    Returns
    -------
    array
        As `fastconv.conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> norm = nn.BatchNorm([1.0], [-4.5], [0.0], [1.0], eps=0.0)
    >>> nn.conv_bn_relu(np.ones((1, 3, 3)), np.ones((1, 1, 3, 3)), norm)[0].tolist()
    [[0.0, 1.5, 0.0], [1.5, 4.5, 1.5], [0.0, 1.5, 0.0]]
    """
    weights = arrays.view("w", w)
    arguments.shape("w.shape", weights.shape, (4,))
    if norm is not None:
        weights, bias = fold_batch_norm(weights, bias, norm, groups=groups, weight_layout=weight_layout)
    if padding is None:
        _, _, rows, columns = arguments.WEIGHT_LAYOUTS[
            one_of("weight_layout", weight_layout, tuple(arguments.WEIGHT_LAYOUTS))
        ]
        down, across = arguments.pair("dilation", dilation)
        padding = (down * (weights.shape[rows] // 2), across * (weights.shape[columns] // 2))
    return fastconv.conv2d(
        x,
        weights,
        bias,
        stride,
        padding,
        dilation,
        groups,
        activation=activation,
        layout=layout,
        weight_layout=weight_layout,
        **words,
    )


def depthwise_separable(
    x: Any,
    depthwise: Any,
    pointwise: Any,
    norms: tuple[BatchNorm | None, BatchNorm | None] = (None, None),
    stride: Step = 1,
    *,
    activation: str | None = "relu",
    layout: str = "NCHW",
    **words: Any,
) -> Any:
    """Filter each channel by itself, then mix channels: normalised and activated after each of the two.

    Parameters
    ----------
    x : array
        As for `fastconv.conv2d`.
    depthwise : array, shape (C * m, 1, kh, kw)
    pointwise : array, shape (O, C * m, 1, 1)
    norms : pair of BatchNorm or None
        After the first and after the second convolution.
    stride : int or pair
        Of the first one.
    activation : str, optional
        After both.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array

    References
    ----------
    A. Howard et al., "MobileNets", arXiv:1704.04861.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> x = np.ones((3, 4, 4))
    >>> nn.depthwise_separable(x, np.ones((3, 1, 3, 3)), np.ones((8, 3, 1, 1)), stride=2).shape
    (8, 2, 2)
    """
    mixed = conv_bn_relu(
        x,
        depthwise,
        norms[0],
        stride=stride,
        groups=_channels(x, layout),
        activation=activation,
        layout=layout,
        **words,
    )
    return conv_bn_relu(mixed, pointwise, norms[1], activation=activation, layout=layout, **words)


def inverted_residual(
    x: Any,
    expand: Any,
    depthwise: Any,
    project: Any,
    norms: tuple[BatchNorm | None, BatchNorm | None, BatchNorm | None] = (None, None, None),
    stride: int = 1,
    *,
    layout: str = "NCHW",
    **words: Any,
) -> Any:
    """Compute the block of MobileNetV2: expand by 1x1, filter by depthwise 3x3, project by 1x1.

    As in the paper, ReLU6 follows the first two convolutions and nothing the last; with stride 1 and as many
    channels out as in, the input is added.

    Parameters
    ----------
    x : array
        As for `fastconv.conv2d`.
    expand : array, shape (E, C, 1, 1), or None
        None in the first block of the network, where E = C.
    depthwise : array, shape (E, 1, 3, 3)
    project : array, shape (O, E, 1, 1)
    norms : three BatchNorm or None
    stride : int
        Of the depthwise convolution.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array

    References
    ----------
    M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> centre = np.zeros((6, 1, 3, 3))
    >>> centre[:, :, 1, 1] = 1
    >>> x = np.ones((1, 2, 2))
    >>> nn.inverted_residual(x, np.ones((6, 1, 1, 1)), centre, np.ones((1, 6, 1, 1)))[0].tolist()
    [[7.0, 7.0], [7.0, 7.0]]
    """
    hidden = x
    if expand is not None:
        hidden = conv_bn_relu(x, expand, norms[0], activation="relu6", layout=layout, **words)
    hidden = conv_bn_relu(
        hidden,
        depthwise,
        norms[1],
        stride=stride,
        groups=_channels(hidden, layout),
        activation="relu6",
        layout=layout,
        **words,
    )
    shortcut = arguments.pair("stride", stride) == (1, 1) and np.shape(project)[0] == _channels(x, layout)
    return conv_bn_relu(
        hidden, project, norms[2], activation=None, residual=x if shortcut else None, layout=layout, **words
    )


def _channels(x: Any, layout: str) -> int:
    sizes = tuple(x.shape)
    arguments.shape("x.shape", sizes, (3, 4))
    return int(sizes[-3] if one_of("layout", layout, LAYOUTS) == "NCHW" else sizes[-1])
