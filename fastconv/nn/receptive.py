"""Which pixels an output sees: extent of a block of outputs, receptive field of a stack of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fastconv import arguments
from fastconv.arguments import Step
from fastconv.problem import Pair, effective_kernel

_PAIR = "[0-9]{1,9}(?:x[0-9]{1,9})?"
_WORD = re.compile(f"(?P<kind>conv|pool)?(?P<kernel>{_PAIR})(?P<steps>(?:[spd]{_PAIR})*)")
_STEP = re.compile(f"([spd])({_PAIR})")


@dataclass(frozen=True, slots=True)
class Layer:
    """A window that slides: of a convolution or a pooling.

    Parameters
    ----------
    kernel, stride, dilation : pair of int
        Rows and columns, at least 1.
    padding : pair of int
        Before and after alike, at least 0.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, arguments.pair(name, getattr(self, name)))
        both = self.padding if isinstance(self.padding, tuple | list) else (self.padding, self.padding)
        if len(both) != 2:
            raise ValueError(f"padding must be an int or a pair (rows, columns), got {self.padding!r}")
        rows, columns = (arguments.integer("padding", value, 0) for value in both)
        object.__setattr__(self, "padding", (rows, columns))

    @classmethod
    def parse(cls, word: str) -> Layer:
        """Read a layer from its word: kernel, then stride s, padding p, dilation d as far as they are not 1, 0, 1.

        ``3x3s1`` and ``conv3`` are a 3x3 convolution with stride 1, ``5x3s2x1p2x1d2`` has everything, ``pool2`` is a
        2x2 window with stride 2: a pool without a stride has that of its window.

        Raises
        ------
        ValueError
            When `word` is not of that form.

        Examples
        --------
        >>> Layer.parse("pool3s2")
        Layer(kernel=(3, 3), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
        """
        found = _WORD.fullmatch(word)
        steps = _STEP.findall(found["steps"]) if found else []
        given: dict[str, str] = dict(steps)
        if found is None or len(given) < len(steps):
            raise ValueError(f"a layer must look like 3x3s1, 5x5s2p2d1 or pool2, got {word!r}")
        kernel = str(found["kernel"])
        stride = given.get("s", kernel if found["kind"] == "pool" else "1")
        return cls(_two(kernel), _two(stride), _two(given.get("p", "0")), _two(given.get("d", "1")))

    def span(self) -> Pair:
        """Return rows and columns of the image under the dilated kernel."""
        return (
            effective_kernel(self.kernel[0], self.dilation[0]),
            effective_kernel(self.kernel[1], self.dilation[1]),
        )

    def output(self, size: Pair) -> Pair:
        """Return ``floor((size + 2 * padding - span) / stride) + 1`` on both axes."""
        sizes = []
        for axis, name in enumerate(("rows", "columns")):
            padded = size[axis] + 2 * self.padding[axis]
            span = self.span()[axis]
            if span > padded:
                raise ValueError(
                    f"the kernel must not be larger than the padded image, got {span} kernel {name} on {padded}"
                )
            sizes.append((padded - span) // self.stride[axis] + 1)
        return (sizes[0], sizes[1])


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What the outputs of a stack see, on each axis (rows, columns).

    Parameters
    ----------
    size : pair of int
        Rows and columns of the image that reach one output.
    jump : pair of int
        Pixels from one output to the next.
    start : pair of float
        Where the centre of the first output's field is; the first pixel has its centre at 0.
    """

    size: Pair
    jump: Pair
    start: tuple[float, float]

    def window(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Return (top, bottom, left, right) of what output (row, column) sees; bottom and right are not in it.

        Examples
        --------
        >>> receptive_field(["3x3p1"]).window(0, 4)
        (-1, 2, 3, 6)
        """
        ends: list[int] = []
        for axis, at in enumerate((row, column)):
            first = round(self.start[axis] - (self.size[axis] - 1) / 2) + at * self.jump[axis]
            ends += [first, first + self.size[axis]]
        return (ends[0], ends[1], ends[2], ends[3])


def receptive_field(layers: Iterable[Layer | str]) -> ReceptiveField:
    """Return the receptive field of a stack of layers, the first one first.

    For each layer ``size += (span - 1) * jump``, ``start += ((span - 1) / 2 - padding) * jump``,
    ``jump *= stride``, with ``span = (k - 1) * dilation + 1``.

    Parameters
    ----------
    layers : iterable of Layer or str
        Words as `Layer.parse` reads them.

    Returns
    -------
    ReceptiveField

    Raises
    ------
    ValueError
        When a word is none of a layer.

    References
    ----------
    A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill, 2019.

    Examples
    --------
    >>> from fastconv import nn
    >>> field = nn.receptive_field(["3x3", "3x3", "pool2", "3x3", "3x3", "pool2"])
    >>> field.size, field.jump, field.start
    ((16, 16), (4, 4), (7.5, 7.5))
    """
    size, jump, start = [1, 1], [1, 1], [0.0, 0.0]
    for layer in map(read, layers):
        for axis, span in enumerate(layer.span()):
            size[axis] += (span - 1) * jump[axis]
            start[axis] += ((span - 1) / 2 - layer.padding[axis]) * jump[axis]
            jump[axis] *= layer.stride[axis]
    return ReceptiveField((size[0], size[1]), (jump[0], jump[1]), (start[0], start[1]))


def input_extent(output: Step, kernel: Step, stride: Step = 1, dilation: Step = 1) -> Pair:
    """Return rows and columns of the image that a block of outputs of one layer covers.

    Examples
    --------
    >>> from fastconv import nn
    >>> nn.input_extent(5, 3)
    (7, 7)
    """
    blocks, steps = arguments.pair("output", output), arguments.pair("stride", stride)
    spans = Layer(kernel, dilation=dilation).span()  # type: ignore[arg-type]  # it makes pairs of ints itself
    return (spans[0] + (blocks[0] - 1) * steps[0], spans[1] + (blocks[1] - 1) * steps[1])


def read(layer: Layer | str) -> Layer:
    """Return a layer, or the one that a word stands for."""
    return Layer.parse(layer) if isinstance(layer, str) else layer


def _two(text: str) -> Pair:
    first, _, second = text.partition("x")
    return (int(first), int(second or first))
