"""How many parameters, operations and bytes a layer has, and what shapes a stack of layers passes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastconv import arguments
from fastconv.arguments import PaddingArgument, Step
from fastconv.nn.receptive import Layer, read
from fastconv.problem import check_groups


@dataclass(frozen=True, slots=True)
class Counts:
    """What one convolution has and does; bytes are those of the arrays, without scratch memory.

    Parameters
    ----------
    parameters : int
        Weights and biases.
    flop : int
        Two per multiply-add, taps on padding included.
    input_bytes, output_bytes, parameter_bytes : int
    output_shape : tuple of int
    """

    parameters: int
    flop: int
    input_bytes: int
    output_bytes: int
    parameter_bytes: int
    output_shape: tuple[int, ...]


def count(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
    groups: int = 1,
    *,
    bias: bool = True,
    layout: str = "NCHW",
    weight_layout: str = "OIHW",
    dtype: str = "float32",
) -> Counts:
    """Return what ``conv2d(x, w, ...)`` has and does, without any data.

    Parameters
    ----------
    x_shape, w_shape : tuple of int
    stride, padding, dilation, groups, layout, weight_layout
        As for `fastconv.conv2d`.
    bias : bool
        Whether there is one.
    dtype : str

    Returns
    -------
    Counts

    Raises
    ------
    TypeError, ValueError
        As `fastconv.conv2d` does.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.count((1, 3, 224, 224), (64, 3, 3, 3), padding=1).parameters
    1792
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
        dtype=dtype,
        bias=arguments.flag("bias", bias),
    )
    weights = problem.o * problem.c_per_group * problem.taps
    total = weights + problem.o * bias
    return Counts(
        total,
        problem.flop,
        problem.x_bytes,
        problem.y_bytes,
        total * (problem.w_bytes // weights),
        problem.y_shape[4 - len(x_shape) :],
    )


def parameters(c: int, o: int, kernel: Step, *, groups: int = 1, bias: bool = True) -> int:
    """Return the number of weights and biases of a convolution: ``(kh * kw * c / groups + 1) * o``.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.parameters(64, 64, 3, groups=64, bias=False), nn.parameters(64, 64, 3, bias=False)
    (576, 36864)
    """
    kh, kw = arguments.pair("kernel", kernel)
    inputs, outputs = arguments.integer("c", c, 1), arguments.integer("o", o, 1)
    check_groups(inputs, outputs, arguments.integer("groups", groups, 1))
    return (kh * kw * (inputs // groups) + arguments.flag("bias", bias)) * outputs


def separable_parameters(c: int, o: int, kernel: Step, *, multiplier: int = 1, bias: bool = False) -> int:
    """Return those of a depthwise convolution followed by a 1x1 convolution.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.separable_parameters(64, 128, 3), nn.parameters(64, 128, 3, bias=False)
    (8768, 73728)
    """
    between = arguments.integer("c", c, 1) * arguments.integer("multiplier", multiplier, 1)
    return parameters(c, between, kernel, groups=c, bias=bias) + parameters(between, o, 1, bias=bias)


def local_parameters(
    c: int, o: int, kernel: Step, output: Step, *, regions: Step | None = None, bias: bool = True
) -> int:
    """Return those of a locally connected layer: a kernel and a bias for each output pixel, or for each region.

    Parameters
    ----------
    c, o : int
        Channels in and out.
    kernel : int or pair
    output : int or pair
        Rows and columns of the output.
    regions : int or pair, optional
        Rows and columns of regions that share a kernel; default: every output pixel is one.
    bias : bool

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.local_parameters(3, 8, 3, 10, bias=False) == 100 * nn.parameters(3, 8, 3, bias=False)
    True
    """
    rows, columns = arguments.pair("output", output)
    if regions is not None:
        down, across = arguments.pair("regions", regions)
        if down > rows or across > columns:
            raise ValueError(
                f"regions must not be more than output pixels, got {down}x{across} for {rows}x{columns}"
            )
        rows, columns = down, across
    return parameters(c, o, kernel, bias=bias) * rows * columns


def dense_parameters(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Return those of a layer that connects everything.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.dense_parameters(100 * 100, 512)
    5120512
    """
    given = arguments.integer("inputs", inputs, 1) + arguments.flag("bias", bias)
    return given * arguments.integer("outputs", outputs, 1)


def stack_shapes(size: Step, layers: Iterable[Layer | str]) -> list[tuple[int, int]]:
    """Return (rows, columns) of the image and after each layer.

    Parameters
    ----------
    size : int or pair
        Of the image.
    layers : iterable of Layer or str
        As for `receptive_field`.

    Raises
    ------
    ValueError
        When a kernel is larger than what is left.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.stack_shapes((32, 32), ["3x3p1", "pool2", "3x3s2"])
    [(32, 32), (32, 32), (16, 16), (7, 7)]
    """
    shapes = [arguments.pair("size", size)]
    for layer in map(read, layers):
        shapes.append(layer.output(shapes[-1]))
    return shapes
