"""Small change of networks: batch normalisation folded, channels pruned, blocks, counts, receptive fields.

Plain functions on NumPy arrays and sizes; whatever convolves does so through `fastconv.conv2d`.
"""

from fastconv.nn.blocks import batch_norm, conv_bn_relu, depthwise_separable, inverted_residual
from fastconv.nn.counting import (
    Counts,
    count,
    dense_parameters,
    local_parameters,
    parameters,
    separable_parameters,
    stack_shapes,
)
from fastconv.nn.folding import Pruned, fold_batch_norm, prune_channels
from fastconv.nn.normalisation import BatchNorm
from fastconv.nn.receptive import Layer, ReceptiveField, input_extent, receptive_field

__all__ = [
    "BatchNorm",
    "Counts",
    "Layer",
    "Pruned",
    "ReceptiveField",
    "batch_norm",
    "conv_bn_relu",
    "count",
    "dense_parameters",
    "depthwise_separable",
    "fold_batch_norm",
    "input_extent",
    "inverted_residual",
    "local_parameters",
    "parameters",
    "prune_channels",
    "receptive_field",
    "separable_parameters",
    "stack_shapes",
]
