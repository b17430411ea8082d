"""The one value that says which convolution is meant: sizes, steps, padding, types, epilogue, limits.

A `Problem` is always valid: it checks itself when it is made, whoever makes it, in Python integers that
cannot overflow. Kernels trust it without looking again. It prints as one word and is read back from it::

    n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32           N, C, H, W; O, KH x KW; stride, padding, dilation, groups
    n8c3h224w200_o64k7x5_s2x1p3.3.2.2d1g1_nhwc_f64_reflect_relu_bias_residual_strict_t4_m1048576

The second line shows every optional part, in order: padding mode, activation, bias, residual, accuracy class,
threads and workspace limit. A part that has its default value is left out, so equal problems have equal
words.

Letters: o output channels; kh, kw kernel rows and columns (R, S in other texts); oh, ow output rows and
columns (P, Q). What a user may write, such as ``padding="same"``, becomes a Problem in `fastconv.arguments`.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from typing import NamedTuple


class _DType(NamedTuple):
    word: str
    bytes: int
    compute: str
    result: str


_DTYPES = {
    "float32": _DType("f32", 4, "float32", "float32"),
    "float64": _DType("f64", 8, "float64", "float64"),
    "float16": _DType("f16", 2, "float32", "float16"),
    "int8": _DType("i8", 1, "int32", "int32"),
    "uint8": _DType("u8", 1, "int32", "int32"),
    "int16": _DType("i16", 2, "int64", "int64"),
    "uint16": _DType("u16", 2, "int64", "int64"),
    "int32": _DType("i32", 4, "int64", "int64"),
    "uint32": _DType("u32", 4, "int64", "int64"),
    "int64": _DType("i64", 8, "int64", "int64"),
}
DTYPES = tuple(_DTYPES)
LAYOUTS = ("NCHW", "NHWC")
PADDING_MODES = ("zeros", "reflect", "symmetric", "replicate", "circular")
ACTIVATIONS = (
    "none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hardswish", "gelu", "elu",
)  # fmt: skip
#: Activations that map whole numbers to whole numbers, so that integer convolutions can have them.
INTEGER_ACTIVATIONS = ("none", "relu", "relu6")
ACCURACIES = ("strict", "standard", "fast")
DEFAULT_WORKSPACE_LIMIT = 2**30

#: Largest number of bytes (and so of elements) of anything: kernels count in signed 64-bit integers.
MAX_BYTES = 2**63 - 1
#: Largest stride, dilation and padding; far beyond use, and keeps every product of offsets in 64 bits.
MAX_STEP = 2**31 - 1

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


def bounded(name: str, value: int, least: int, most: int = MAX_BYTES) -> int:
    """Return `value`, or raise the ValueError that names the rule it breaks."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return value


def one_of(name: str, value: object, words: tuple[str, ...]) -> str:
    """Return `value` if it is one of `words`, else raise an error that lists them."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {_listed(words)}, got {type(value).__name__} {value!r}")
    if value not in words:
        raise ValueError(f"{name} must be one of {_listed(words)}, got {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Problem:
    """One 2-D convolution, every argument resolved.

    `padding` is (top, bottom, left, right). `dtype` is what x and w are stored in; `compute_dtype` is what
    kernels see.

    Raises
    ------
    TypeError
        When a field is of the wrong kind.
    ValueError
        When a field breaks a rule; the message gives the rule and the numbers.

    Examples
    --------
    >>> problem = Problem.parse("n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32")
    >>> problem.y_shape
    (1, 64, 56, 56)
    >>> problem.flop
    231211008
    """

    n: int
    c: int
    h: int
    w: int
    o: int
    kh: int
    kw: int
    stride: Pair = (1, 1)
    padding: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    layout: str = "NCHW"
    dtype: str = "float32"
    padding_mode: str = "zeros"
    activation: str = "none"
    bias: bool = False
    residual: bool = False
    accuracy: str = "standard"
    threads: int = 1
    workspace_limit: int = DEFAULT_WORKSPACE_LIMIT

    def __post_init__(self) -> None:
        """Check everything: no Problem exists that a kernel could not trust."""
        _check_kinds(self)
        _check_words(self)
        _check_ranges(self)
        check_groups(self.c, self.o, self.groups)
        _check_sizes(self)
        _check_output(self)
        _check_padding_mode(self)

    @property
    def compute_dtype(self) -> str:
        """Type in which kernels read x and w and write y."""
        return _DTYPES[self.dtype].compute

    @property
    def result_dtype(self) -> str:
        """Type of y as the user gets it."""
        return _DTYPES[self.dtype].result

    @property
    def oh(self) -> int:
        """Output rows."""
        return _extent(self.h, self.padding[:2], self.stride[0], effective_kernel(self.kh, self.dilation[0]))

    @property
    def ow(self) -> int:
        """Output columns."""
        return _extent(self.w, self.padding[2:], self.stride[1], effective_kernel(self.kw, self.dilation[1]))

    @property
    def c_per_group(self) -> int:
        """Input channels that one output channel sees."""
        return self.c // self.groups

    @property
    def o_per_group(self) -> int:
        """Output channels of one group."""
        return self.o // self.groups

    @property
    def taps(self) -> int:
        """Kernel positions per channel."""
        return self.kh * self.kw

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """Shape of x in `layout`."""
        return _arranged(self.layout, self.n, self.c, self.h, self.w)

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weights in layout OIHW."""
        return (self.o, self.c_per_group, self.kh, self.kw)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """Shape of y in `layout`."""
        return _arranged(self.layout, self.n, self.o, self.oh, self.ow)

    @property
    def flop(self) -> int:
        """Two per multiply-add of the definition, taps on padding included."""
        return 2 * self.n * self.o * self.oh * self.ow * self.c_per_group * self.taps

    @property
    def x_bytes(self) -> int:
        """Bytes of x as stored."""
        return self.n * self.c * self.h * self.w * _DTYPES[self.dtype].bytes

    @property
    def w_bytes(self) -> int:
        """Bytes of the weights as stored."""
        return self.o * self.c_per_group * self.taps * _DTYPES[self.dtype].bytes

    @property
    def y_bytes(self) -> int:
        """Bytes of y as the user gets it."""
        return self.n * self.o * self.oh * self.ow * _DTYPES[self.result_dtype].bytes

    @property
    def word(self) -> str:
        """The problem as one word, read back by `parse`."""
        parts = [
            f"n{self.n}c{self.c}h{self.h}w{self.w}",
            f"o{self.o}k{self.kh}x{self.kw}",
            f"s{_short_pair(self.stride)}p{_short_pads(self.padding)}"
            f"d{_short_pair(self.dilation)}g{self.groups}",
            self.layout.lower(),
            _DTYPES[self.dtype].word,
        ]
        optional = {
            "padding_mode": self.padding_mode,
            "activation": self.activation,
            "bias": "bias",
            "residual": "residual",
            "accuracy": self.accuracy,
            "threads": f"t{self.threads}",
            "workspace_limit": f"m{self.workspace_limit}",
        }
        parts += [text for name, text in optional.items() if getattr(self, name) != _DEFAULTS[name]]
        return "_".join(parts)

    def __str__(self) -> str:
        return self.word

    @classmethod
    def parse(cls, word: str) -> Problem:
        """Read a problem from its word.

        Parameters
        ----------
        word : str
            As printed by `word`. ``k3``, ``s2`` and the like stand for equal rows and columns.

        Returns
        -------
        Problem
            With ``Problem.parse(problem.word) == problem``.

        Raises
        ------
        ValueError
            When `word` is not of that form, or names a problem that breaks a rule.

        Examples
        --------
        >>> Problem.parse("n1c3h8w8_o4k3_s2p1d1g1_nhwc_f64_relu").y_shape
        (1, 4, 4, 4)
        """
        found = _WORD.fullmatch(word)
        if found is None:
            raise ValueError(f"problem must look like n1c64h56w56_o64k3x3_s1p1d1g1_nchw_f32, got {word!r}")
        part = found.groupdict()
        kh, kw = _long_pair(part["k"])
        return cls(
            n=int(part["n"]),
            c=int(part["c"]),
            h=int(part["h"]),
            w=int(part["w"]),
            o=int(part["o"]),
            kh=kh,
            kw=kw,
            stride=_long_pair(part["s"]),
            padding=_long_pads(part["p"]),
            dilation=_long_pair(part["d"]),
            groups=int(part["g"]),
            layout=part["layout"].upper(),
            dtype=_DTYPE_OF_WORD[part["dtype"]],
            padding_mode=part["mode"] or "zeros",
            activation=part["activation"] or "none",
            bias=part["bias"] is not None,
            residual=part["residual"] is not None,
            accuracy=part["accuracy"] or "standard",
            threads=int(part["t"] or 1),
            workspace_limit=int(part["m"] or DEFAULT_WORKSPACE_LIMIT),
        )


def effective_kernel(taps: int, dilation: int) -> int:
    """Return how many rows (columns) of the image `taps` taps span."""
    return dilation * (taps - 1) + 1


def check_groups(c: int, o: int, groups: int) -> None:
    """Refuse groups that do not divide the channels."""
    if c % groups or o % groups:
        raise ValueError(
            f"groups must divide the input and the output channels, got groups={groups} with {c} input "
            f"channels (remainder {c % groups}) and {o} output channels (remainder {o % groups})"
        )


def _extent(size: int, pads: tuple[int, ...], stride: int, span: int) -> int:
    return (size + pads[0] + pads[1] - span) // stride + 1


def _arranged(layout: str, n: int, c: int, h: int, w: int) -> tuple[int, int, int, int]:
    return (n, c, h, w) if layout == "NCHW" else (n, h, w, c)


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(repr(word) for word in words)


def _check_kinds(p: Problem) -> None:
    for name in ("n", "c", "h", "w", "o", "kh", "kw", "groups", "threads", "workspace_limit"):
        value = getattr(p, name)
        if type(value) is not int:
            raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    for name, length in (("stride", 2), ("padding", 4), ("dilation", 2)):
        value = getattr(p, name)
        if type(value) is not tuple or len(value) != length or any(type(v) is not int for v in value):
            raise TypeError(f"{name} must be a tuple of {length} ints, got {value!r}")
    for name in ("bias", "residual"):
        value = getattr(p, name)
        if type(value) is not bool:
            raise TypeError(f"{name} must be True or False, got {type(value).__name__} {value!r}")


def _check_words(p: Problem) -> None:
    one_of("layout", p.layout, LAYOUTS)
    one_of("dtype", p.dtype, DTYPES)
    one_of("padding_mode", p.padding_mode, PADDING_MODES)
    one_of("accuracy", p.accuracy, ACCURACIES)
    one_of("activation", p.activation, ACTIVATIONS)
    if not p.dtype.startswith("float") and p.activation not in INTEGER_ACTIVATIONS:
        raise ValueError(
            f"activation={p.activation!r} needs a floating dtype, got dtype={p.dtype!r}; "
            f"integers may have {_listed(INTEGER_ACTIVATIONS)}"
        )


def _check_ranges(p: Problem) -> None:
    bounded("n (images)", p.n, 0)
    bounded("c (input channels)", p.c, 1)
    bounded("h (image rows)", p.h, 1)
    bounded("w (image columns)", p.w, 1)
    bounded("o (output channels)", p.o, 1)
    bounded("kh (kernel rows)", p.kh, 1)
    bounded("kw (kernel columns)", p.kw, 1)
    bounded("groups", p.groups, 1)
    bounded("threads", p.threads, 1)
    bounded("workspace_limit", p.workspace_limit, 0)
    for value in p.stride:
        bounded("stride", value, 1, MAX_STEP)
    for value in p.dilation:
        bounded("dilation", value, 1, MAX_STEP)
    for value in p.padding:
        bounded("padding", value, 0, MAX_STEP)


def _check_output(p: Problem) -> None:
    for axis, size, pads, taps, dilation, stride in (
        ("rows", p.h, p.padding[:2], p.kh, p.dilation[0], p.stride[0]),
        ("columns", p.w, p.padding[2:], p.kw, p.dilation[1], p.stride[1]),
    ):
        span = effective_kernel(taps, dilation)
        if size + sum(pads) < span:
            raise ValueError(
                f"the kernel must not be larger than the padded image, got {span} kernel {axis} "
                f"(dilation {dilation} * ({taps} - 1) + 1) on {size + sum(pads)} image {axis} "
                f"({size} + padding {pads[0]} + {pads[1]}): "
                f"output {axis} would be {_extent(size, pads, stride, span)}"
            )
    _check_bytes(p, "y", p.y_shape)


def _check_sizes(p: Problem) -> None:
    padded = (p.n, p.c, p.h + sum(p.padding[:2]), p.w + sum(p.padding[2:]))
    _check_bytes(p, "x", p.x_shape)
    _check_bytes(p, "x with its padding", padded)
    _check_bytes(p, "w", p.w_shape)


def _check_bytes(p: Problem, what: str, shape: tuple[int, ...]) -> None:
    # Empty batches are measured like one image: strides inside an image must be right too.
    size = _DTYPES[p.compute_dtype].bytes
    for extent in shape:
        size *= max(extent, 1)
    if size > MAX_BYTES:
        raise ValueError(
            f"{what} must be smaller than 2**63 bytes, got {size} bytes for {shape} in {p.compute_dtype}"
        )


def _check_padding_mode(p: Problem) -> None:
    # A mirror without the edge pixel repeats has size - 1 pixels to show, with it (or once around) it has
    # size.
    spare = {"reflect": 1, "symmetric": 0, "circular": 0}.get(p.padding_mode)
    if spare is None:
        return
    for axis, size, pads in (("rows", p.h, p.padding[:2]), ("columns", p.w, p.padding[2:])):
        if max(pads) > size - spare:
            raise ValueError(
                f"padding_mode={p.padding_mode!r} allows at most {size - spare} padding {axis} on an image "
                f"of {size} {axis}, got padding {pads[0]} and {pads[1]}"
            )


def _short_pair(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _long_pair(text: str) -> Pair:
    first, _, second = text.partition("x")
    return (int(first), int(second or first))


def _short_pads(pads: Pads) -> str:
    return str(pads[0]) if len(set(pads)) == 1 else ".".join(map(str, pads))


def _long_pads(text: str) -> Pads:
    values = [int(part) for part in text.split(".")]
    top, bottom, left, right = values if len(values) == 4 else values * 4
    return (top, bottom, left, right)


def _compiled_word() -> re.Pattern[str]:
    # At most 19 digits: more would not fit 64 bits, and reading endless digits from a hostile file takes
    # endless time.
    number = "[0-9]{1,19}"
    pair = f"{number}(?:x{number})?"

    def optional(group: str, words: tuple[str, ...]) -> str:
        return f"(?:_(?P<{group}>{'|'.join(words)}))?"

    return re.compile(
        f"n(?P<n>{number})c(?P<c>{number})h(?P<h>{number})w(?P<w>{number})"
        f"_o(?P<o>{number})k(?P<k>{pair})"
        rf"_s(?P<s>{pair})p(?P<p>{number}(?:\.{number}){{3}}|{number})d(?P<d>{pair})g(?P<g>{number})"
        f"_(?P<layout>{'|'.join(LAYOUTS).lower()})"
        f"_(?P<dtype>{'|'.join(_DTYPE_OF_WORD)})"
        + optional("mode", PADDING_MODES)
        + optional("activation", ACTIVATIONS)
        + optional("bias", ("bias",))
        + optional("residual", ("residual",))
        + optional("accuracy", ACCURACIES)
        + f"(?:_t(?P<t>{number}))?(?:_m(?P<m>{number}))?"
    )


_DTYPE_OF_WORD = {kind.word: name for name, kind in _DTYPES.items()}
_DEFAULTS = {field.name: field.default for field in fields(Problem) if field.default is not MISSING}
_WORD = _compiled_word()
