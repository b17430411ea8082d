"""Batch normalisation folded into the weights before it, and output channels cut away with all that hangs on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv import arguments, arrays
from fastconv.arguments import WEIGHT_LAYOUTS
from fastconv.nn.normalisation import Array, BatchNorm
from fastconv.problem import one_of


def fold_batch_norm(
    w: Any,
    bias: Any,
    norm: BatchNorm,
    *,
    groups: int = 1,
    weight_layout: str = "OIHW",
    transposed: bool = False,
) -> tuple[Array, Array]:
    """Return weights and bias that do in one convolution what convolution and batch normalisation do.

    ``w' = w * gamma / sqrt(var + eps)`` and ``b' = beta + (b - mean) * gamma / sqrt(var + eps)``, for each output
    channel. Stride, padding, dilation and groups of the layer stay as they are.

    Parameters
    ----------
    w : array, shape (O, C / groups, kh, kw), or as `weight_layout` says
        For a transposed convolution (C, O / groups, kh, kw).
    bias : array, shape (O,), or None
        Of the convolution; None is zero.
    norm : BatchNorm
        Of O channels.
    groups : int
        Says which output channels the weights of a transposed convolution belong to.
    weight_layout : {"OIHW", "HWIO", "OHWI"}
        Of `w`; ignored with `transposed`.
    transposed : bool
        Whether `w` belongs to a transposed convolution.

    Returns
    -------
    tuple of two arrays
        New weights and new bias, in the dtype of `w`; computed in float64 and rounded once.

    Raises
    ------
    TypeError, ValueError
        When shapes do not belong together, or the weights are integers.

    References
    ----------
    S. Ioffe and C. Szegedy, "Batch Normalization", arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> norm = nn.BatchNorm(gamma=[2.0], beta=[1.0], mean=[3.0], var=[4.0], eps=0.0)
    >>> w, b = nn.fold_batch_norm(np.ones((1, 1, 1, 1)), np.array([5.0]), norm)
    >>> w.item(), b.item()  # 2 / sqrt(4); 1 + (5 - 3) * 2 / sqrt(4)
    (1.0, 3.0)
    """
    weights = floating("w", w)
    arguments.shape("w.shape", weights.shape, (4,))
    parts = arguments.integer("groups", groups, 1)
    axes = WEIGHT_LAYOUTS[one_of("weight_layout", weight_layout, tuple(WEIGHT_LAYOUTS))]
    if arguments.flag("transposed", transposed):
        if weights.shape[0] % parts:
            raise ValueError(
                f"groups must divide the input channels of w, got groups={parts} with {weights.shape[0]} (axis 0)"
            )
        outputs = weights.shape[1] * parts
    else:
        outputs = weights.shape[axes[0]]
        if outputs % parts:
            raise ValueError(
                f"groups must divide the output channels of w, got groups={parts} with {outputs} channels"
            )
    scale, shift = norm.affine(outputs)
    if transposed:
        per_group = scale.reshape(parts, 1, weights.shape[1], 1, 1)
        grouped = weights.astype(np.float64).reshape(parts, -1, *weights.shape[1:])
        folded = (grouped * per_group).reshape(weights.shape)
    else:
        sizes = [1, 1, 1, 1]
        sizes[axes[0]] = outputs
        folded = weights * scale.reshape(sizes)
    before = np.zeros(outputs) if bias is None else vector("bias", bias, outputs)
    return folded.astype(weights.dtype), (shift + before * scale).astype(weights.dtype)


class Pruned(NamedTuple):
    """What is left of two layers: `kept` are sorted indices of output channels of the first one."""

    kept: Array
    w: Array
    bias: Array | None
    norm: BatchNorm | None
    groups: int
    next_w: Array | None
    next_groups: int


def prune_channels(
    w: Any,
    ratio: float,
    *,
    bias: Any = None,
    norm: BatchNorm | None = None,
    scores: Any = None,
    groups: int = 1,
    next_w: Any = None,
    next_groups: int = 1,
) -> Pruned:
    """Cut the least important output channels of a layer, and the inputs of the next layer that read them.

    Of n channels ``n - int(n * ratio)`` are kept, the most important ones, in the order they had.

    Parameters
    ----------
    w : array, shape (O, C / groups, kh, kw)
    ratio : float
        Part to cut, from 0 to less than 1.
    bias : array, shape (O,), optional
    norm : BatchNorm, optional
        Of O channels; it is cut too.
    scores : array, shape (O,), optional
        Importance. Default: ``abs(norm.gamma)``, or without `norm` the sum of ``abs(w)``. Of equal scores the first
        channel stays.
    groups : int
        Of this layer: each group loses the same number of channels.
    next_w : array, shape (O2, O / next_groups, kh, kw), optional
        Weights of the layer that reads these channels. A depthwise one (``next_groups == O``) loses its own
        channels; the layer after it has then to be cut by the same `kept`.
    next_groups : int

    Returns
    -------
    Pruned

    Raises
    ------
    TypeError, ValueError
        When shapes do not belong together, a score is NaN, or groups of the next layer would have unequal inputs.

    References
    ----------
    Z. Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", arXiv:1708.06519.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> w = np.arange(1.0, 5.0).reshape(4, 1, 1, 1)
    >>> cut = nn.prune_channels(w, 0.5, scores=[3, 1, 2, 4], next_w=np.ones((2, 4, 3, 3)))
    >>> cut.kept.tolist(), cut.w.ravel().tolist(), cut.next_w.shape
    ([0, 3], [1.0, 4.0], (2, 2, 3, 3))
    """
    weights = arrays.view("w", w)
    arguments.shape("w.shape", weights.shape, (4,))
    outputs = weights.shape[0]
    parts = arguments.integer("groups", groups, 1)
    if outputs % parts:
        raise ValueError(f"groups must divide the output channels, got groups={parts} with {outputs}")
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be at least 0 and less than 1, got {ratio}")
    size = outputs // parts
    keep = size - int(size * ratio)
    ranked = np.argsort(-_importance(weights, norm, scores).reshape(parts, size), axis=1, kind="stable")
    kept = np.sort(ranked[:, :keep] + size * np.arange(parts)[:, None], axis=1).ravel()
    following, following_groups = None, arguments.integer("next_groups", next_groups, 1)
    if next_w is not None:
        following, following_groups = _cut_inputs(arrays.view("next_w", next_w), kept, outputs, next_groups)
    return Pruned(
        kept,
        weights[kept],
        None if bias is None else vector("bias", bias, outputs)[kept].astype(weights.dtype),
        None if norm is None else norm.channels(kept),
        parts,
        following,
        following_groups,
    )


def floating(name: str, value: Any) -> Array:
    """Return `value` as a NumPy array of floating type."""
    array = arrays.view(name, value)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must have a floating dtype, got {array.dtype.name}")
    return array


def vector(name: str, value: Any, length: int) -> Array:
    """Return one float64 value per channel."""
    array = np.asarray(value, np.float64)
    if array.shape != (length,):
        raise ValueError(
            f"{name} must have one value per output channel, shape ({length},), got {array.shape}"
        )
    return array


def _importance(weights: Array, norm: BatchNorm | None, scores: Any) -> Array:
    outputs = weights.shape[0]
    if scores is not None:
        given = vector("scores", scores, outputs)
    elif norm is not None:
        given = np.abs(vector("norm.gamma", norm.gamma, outputs))
    else:
        given = np.abs(weights.astype(np.float64)).sum((1, 2, 3))
    if np.isnan(given).any():
        raise ValueError(f"scores must be numbers, got NaN for channel {int(np.argmax(np.isnan(given)))}")
    return given


def _cut_inputs(weights: Array, kept: Array, outputs: int, groups: int) -> tuple[Array, int]:
    arguments.shape("next_w.shape", weights.shape, (4,))
    if weights.shape[0] % groups or weights.shape[1] * groups != outputs:
        raise ValueError(
            f"next_w must read the {outputs} channels of w, got {weights.shape[1]} inputs per group, groups={groups} "
            f"and {weights.shape[0]} outputs"
        )
    size = outputs // groups
    counts = np.bincount(kept // size, minlength=groups)
    if size == 1:
        blocks = weights.reshape(groups, -1, *weights.shape[1:])
        return blocks[kept].reshape(-1, *weights.shape[1:]), len(kept)
    if len(set(counts.tolist())) > 1:
        raise ValueError(
            f"every group of the next layer must keep as many inputs, got {counts.tolist()} for next_groups={groups}; "
            "give scores that cut evenly"
        )
    blocks = weights.reshape(groups, -1, *weights.shape[1:])
    inputs = kept.reshape(groups, -1) % size
    cut = [block[:, own] for block, own in zip(blocks, inputs, strict=True)]
    return np.concatenate(cut), groups
