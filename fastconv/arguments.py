"""From what users write to a Problem: the only place that reads ``padding="same"``, pairs and weight layouts.

Everything here is arithmetic on Python integers and needs no data. Every refusal names the argument, what was
given, the rule, and the numbers that were computed: TypeError for a wrong kind, ValueError for a wrong value.
"""

from __future__ import annotations

import operator

from fastconv.problem import (
    ACCURACIES,
    ACTIVATIONS,
    DEFAULT_WORKSPACE_LIMIT,
    LAYOUTS,
    MAX_BYTES,
    MAX_STEP,
    PADDING_MODES,
    Pads,
    Pair,
    Problem,
    bounded,
    check_groups,
    effective_kernel,
    one_of,
)

#: Where output channels, input channels, rows and columns stand in each layout of weights.
WEIGHT_LAYOUTS = {"OIHW": (0, 1, 2, 3), "HWIO": (3, 2, 0, 1), "OHWI": (0, 3, 1, 2)}
PADDING_WORDS = ("valid", "same", "same_upper", "same_lower", "full")

PaddingArgument = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]] | str
Step = int | tuple[int, int]


def integer(name: str, value: object, least: int | None = None, most: int = MAX_BYTES) -> int:
    """Return `value` as an int within bounds; refuse True, 1.0, "1" and all else that only looks like one."""
    try:
        if isinstance(value, bool):
            raise TypeError  # it has an index, but True as a stride is a mistake
        exact = operator.index(value)  # type: ignore[arg-type]  # what has none is refused here
    except (TypeError, RuntimeError):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}") from None
    return exact if least is None else bounded(name, exact, least, most)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is True or False; refuse what only could be read as one."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__} {value!r}")
    return value


def pair(name: str, value: object) -> Pair:
    """Return (rows, columns) from an int or a pair of ints, each at least 1."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(
                f"{name} must be an int or a pair (rows, columns), got {len(value)} values: {value!r}"
            )
        return (integer(name, value[0], 1, MAX_STEP), integer(name, value[1], 1, MAX_STEP))
    both = integer(name, value, 1, MAX_STEP)
    return (both, both)


def shape(name: str, value: object, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Return a tuple of sizes from a tuple or list of integers with one of the allowed lengths."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple of integers, got {type(value).__name__}")
    sizes = tuple(integer(f"{name}[{axis}]", size, 0) for axis, size in enumerate(value))
    if len(sizes) not in ranks:
        wanted = " or ".join(str(rank) for rank in ranks)
        raise ValueError(f"{name} must have {wanted} axes, got {len(sizes)}: {sizes}")
    return sizes


def pads(value: object, sizes: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Pads:
    """Return (top, bottom, left, right) from whatever ``padding=`` was given.

    Parameters
    ----------
    value : int, pair, pair of pairs, or str
        ``p``; ``(rows, columns)``; ``((top, bottom), (left, right))``; or "valid" (none), "same" and
        "same_upper" (the output has ``ceil(size / stride)`` rows and columns, an odd pixel goes to the end),
        "same_lower" (it goes to the beginning), "full" (every position that touches the image).
    sizes, kernel, stride, dilation : tuple of int
        Rows and columns of each.
    """
    if isinstance(value, str):
        return _named_padding(value, sizes, kernel, stride, dilation)
    if not isinstance(value, tuple | list):
        both = integer("padding", value, 0, MAX_STEP)
        return (both, both, both, both)
    if len(value) != 2:
        hint = (
            "; write (top, bottom, left, right) as ((top, bottom), (left, right))" if len(value) == 4 else ""
        )
        raise ValueError(
            f"padding must be an int, a pair or a pair of pairs, got {len(value)} values: {value!r}{hint}"
        )
    top, bottom = _sides(value[0], value)
    left, right = _sides(value[1], value)
    return (top, bottom, left, right)


def problem(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    *,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: object = 1,
    layout: object = "NCHW",
    weight_layout: object = "OIHW",
    dtype: str = "float32",
    padding_mode: object = "zeros",
    activation: object = None,
    bias: bool = False,
    residual: bool = False,
    accuracy: object = "standard",
    threads: int = 1,
    workspace_limit: int = DEFAULT_WORKSPACE_LIMIT,
) -> Problem:
    """Return the Problem that the arguments of `fastconv.conv2d` describe.

    Parameters
    ----------
    x_shape : tuple of 3 or 4 ints
        In `layout`; with 3 the batch axis is missing and the problem is that of one image.
    w_shape : tuple of 4 ints
        In `weight_layout`.

    Returns
    -------
    Problem

    Raises
    ------
    TypeError, ValueError
        Naming the argument, the value, the rule and the computed numbers.
    """
    order = one_of("layout", layout, LAYOUTS)
    x_sizes = shape("x.shape", x_shape, (3, 4))
    n, first, second, third = x_sizes if len(x_sizes) == 4 else (1, *x_sizes)
    c, h, w = (first, second, third) if order == "NCHW" else (third, first, second)
    o, i, kh, kw = _weight_sizes(w_shape, weight_layout)
    g = integer("groups", groups, 1)
    _check_channels(c, i, o, g, f"layout={layout!r}", f"weight_layout={weight_layout!r}")
    # The step of an axis with a single tap is never taken: one problem, whatever was written there.
    dh, dw = pair("dilation", dilation)
    steps = (dh if kh > 1 else 1, dw if kw > 1 else 1)
    strides = pair("stride", stride)
    return Problem(
        n, c, h, w, o, kh, kw,
        stride=strides,
        padding=pads(padding, (h, w), (kh, kw), strides, steps),
        dilation=steps,
        groups=g,
        layout=order,
        dtype=dtype,
        padding_mode=one_of("padding_mode", padding_mode, PADDING_MODES),
        activation="none" if activation is None else one_of("activation", activation, ACTIVATIONS),
        bias=bias,
        residual=residual,
        accuracy=one_of("accuracy", accuracy, ACCURACIES),
        threads=integer("threads", threads, 1),
        workspace_limit=integer("workspace_limit", workspace_limit, 0),
    )  # fmt: skip


def check_bias(sizes: tuple[int, ...], dtype: str, problem: Problem) -> None:
    """Refuse a bias that is not one value per output channel, in the dtype of x or of the sums."""
    if sizes != (problem.o,):
        raise ValueError(f"bias must have one value per output channel, shape ({problem.o},), got {sizes}")
    allowed = tuple(dict.fromkeys((problem.dtype, problem.compute_dtype)))
    if dtype not in allowed:
        raise ValueError(f"bias must have the dtype of x or of its sums, {' or '.join(allowed)}, got {dtype}")


def _sides(value: object, whole: object) -> Pair:
    if not isinstance(value, tuple | list):
        both = integer("padding", value, 0, MAX_STEP)
        return (both, both)
    if len(value) != 2:
        raise ValueError(f"padding must be ((top, bottom), (left, right)), got {whole!r}")
    return (integer("padding", value[0], 0, MAX_STEP), integer("padding", value[1], 0, MAX_STEP))


def _named_padding(word: str, sizes: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Pads:
    one_of("padding", word, PADDING_WORDS)
    if word == "valid":
        return (0, 0, 0, 0)
    ends: list[int] = []
    for size, taps, step, gap in zip(sizes, kernel, stride, dilation, strict=True):
        span = effective_kernel(taps, gap)
        if word == "full":
            ends += [span - 1, span - 1]
        else:
            total = max((-(-size // step) - 1) * step + span - size, 0)
            before = (total + 1) // 2 if word == "same_lower" else total // 2
            ends += [before, total - before]
    top, bottom, left, right = ends
    return (top, bottom, left, right)


def _weight_sizes(w_shape: object, weight_layout: object) -> tuple[int, int, int, int]:
    axes = WEIGHT_LAYOUTS[one_of("weight_layout", weight_layout, tuple(WEIGHT_LAYOUTS))]
    sizes = shape("w.shape", w_shape, (4,))
    for letter, what, axis in zip(
        "OIHW", ("output channels", "input channels", "rows", "columns"), axes, strict=True
    ):
        if sizes[axis] == 0:
            raise ValueError(
                f"w must have at least one of each, got 0 {what} (axis {axis}, {letter}) in {sizes}"
            )
    o, i, kh, kw = (sizes[axis] for axis in axes)
    return o, i, kh, kw


def _check_channels(c: int, i: int, o: int, groups: int, x_layout: str, w_layout: str) -> None:
    bounded(f"C (channels of x, with {x_layout})", c, 1)
    check_groups(c, o, groups)
    if i * groups != c:
        raise ValueError(
            f"w must have C / groups = {c} / {groups} = {c // groups} input channels, got {i} "
            f"(x has C={c} with {x_layout}; w is read with {w_layout})"
        )
