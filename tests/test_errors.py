"""Every refusal: before any kernel runs, of the right kind, naming the argument, the rule and the numbers."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv import arguments
from fastconv.problem import Problem

X = np.ones((2, 6, 7, 8), np.float32)
W = np.ones((4, 6, 3, 3), np.float32)
BIAS = np.ones(4, np.float32)
OUT = np.zeros((2, 4, 5, 6), np.float32)
DEEP: list[Any] = []
DEEP.append(DEEP)


@cache
def planned() -> fastconv.Plan:
    return fastconv.plan(X, W)


@pytest.fixture(autouse=True)
def no_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was started")

    planned()
    monkeypatch.setattr("fastconv.runtime.run", refuse)
    monkeypatch.setattr("fastconv.algorithms.interface.PackedWeights", refuse)


def refused(kind: type[Exception], message: str, **changes: Any) -> None:
    """Check that conv2d, plan and explain refuse alike, each as far as it has the same argument."""
    call = {"x": X, "w": W} | changes
    with pytest.raises(kind, match=message):
        fastconv.conv2d(**call)
    if {"x", "out", "residual"} & set(changes):
        return
    x, w = call.pop("x"), call.pop("w")
    with pytest.raises(kind, match=message):
        fastconv.plan(x, w, **call)
    if {"w", "bias"} & set(changes):
        return
    with pytest.raises(kind, match=message):
        fastconv.explain(x.shape, w.shape, **call)


NOT_INTEGERS = [
    True,
    False,
    1.0,
    1.5,
    np.float32(1),
    np.bool_(True),
    "1",
    None,
    {},
    1j,
    b"1",
    np.ones(2),
    object,
]


@pytest.mark.parametrize("value", NOT_INTEGERS, ids=repr)
@pytest.mark.parametrize("name", ["stride", "dilation", "padding", "groups", "threads", "workspace_limit"])
def test_what_only_looks_like_an_integer(name: str, value: object) -> None:
    if value is None and name in ("threads", "workspace_limit"):
        pytest.skip("None means the default")
    if isinstance(value, str) and name == "padding":
        pytest.skip("words are read as words")
    refused(TypeError, f"{name} must be an integer, got {type(value).__name__}", **{name: value})


@pytest.mark.parametrize("value", [True, 1.0, "1", None, (1,), DEEP], ids=type)
@pytest.mark.parametrize("name", ["stride", "dilation", "padding"])
def test_what_only_looks_like_a_pair_of_integers(name: str, value: object) -> None:
    if name == "padding" and value == (1,):
        refused(ValueError, r"padding must be \(\(top, bottom\)", padding=(1, value))
    elif name == "padding" and value is DEEP:
        refused(ValueError, r"padding must be \(\(top, bottom\)", padding=(1, value))
        refused(TypeError, "padding must be an integer, got list", padding=(1, (1, value)))
        refused(TypeError, "padding must be an integer, got str", padding=(1, "same"))
    else:
        refused(TypeError, f"{name} must be an integer", **{name: (1, value)})
        refused(TypeError, f"{name} must be an integer", **{name: [value, 1]})


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_steps_out_of_range(name: str) -> None:
    refused(ValueError, f"{name} must be at least 1, got 0", **{name: 0})
    refused(ValueError, f"{name} must be at least 1, got -1", **{name: -1})
    refused(ValueError, f"{name} must be at least 1, got 0", **{name: (1, 0)})
    refused(ValueError, f"{name} must be at most 2147483647, got {2**40}", **{name: 2**40})
    refused(ValueError, f"{name} must be at most 2147483647, got {10**30}", **{name: (10**30, 1)})
    refused(ValueError, f"{name} must be an int or a pair .* got 3 values", **{name: (1, 1, 1)})
    refused(ValueError, f"{name} must be an int or a pair .* got 0 values", **{name: []})


def test_padding_out_of_range() -> None:
    refused(ValueError, "padding must be at least 0, got -1", padding=-1)
    refused(ValueError, "padding must be at least 0, got -2", padding=((0, 0), (0, -2)))
    refused(ValueError, f"padding must be at most 2147483647, got {2**62}", padding=2**62)
    refused(ValueError, "padding must be an int, a pair or a pair of pairs, got 0 values", padding=[])
    refused(ValueError, "got 3 values", padding=(1, 1, 1))
    refused(ValueError, r"as \(\(top, bottom\), \(left, right\)\)", padding=(1, 1, 1, 1))
    refused(ValueError, r"padding must be \(\(top, bottom\), \(left, right\)\)", padding=((1, 1), (1, 1, 1)))


@pytest.mark.parametrize(
    ("name", "word", "listed"),
    [
        ("padding", "sames", "'valid', 'same', 'same_upper', 'same_lower', 'full'"),
        ("layout", "NCWH", "'NCHW', 'NHWC'"),
        ("weight_layout", "OHIW", "'OIHW', 'HWIO', 'OHWI'"),
        ("padding_mode", "constant", "'zeros', 'reflect', 'symmetric', 'replicate', 'circular'"),
        ("activation", "swish", "'none', 'relu', 'relu6', 'leaky_relu', 'sigmoid', 'tanh', 'silu'"),
        ("accuracy", "default", "'strict', 'standard', 'fast'"),
        ("algorithm", "fft9", "'auto', "),
    ],
)
def test_unknown_words_list_the_known_ones(name: str, word: str, listed: str) -> None:
    refused(ValueError, f"{name} must be one of {re.escape(listed)}.*got '{word}'", **{name: word})


@pytest.mark.parametrize("value", [3, 1.0, ["NCHW"], {"a"}, b"NCHW"], ids=repr)
@pytest.mark.parametrize(
    "name", ["layout", "weight_layout", "padding_mode", "activation", "accuracy", "algorithm"]
)
def test_words_must_be_words(name: str, value: object) -> None:
    refused(TypeError, f"{name} must be .*, got {type(value).__name__}", **{name: value})


def test_rigor_is_a_word() -> None:
    with pytest.raises(
        ValueError, match="rigor must be one of 'stored', 'estimate', 'measure', 'exhaustive'"
    ):
        fastconv.plan(X, W, rigor="patient")
    with pytest.raises(TypeError, match="rigor must be one of"):
        fastconv.plan(X, W, rigor=1)  # type: ignore[arg-type]


def test_groups() -> None:
    refused(ValueError, "groups must be at least 1, got 0", groups=0)
    refused(ValueError, "groups must be at least 1, got -2", groups=-2)
    refused(
        ValueError,
        r"groups must divide .* groups=4 with 6 input channels \(remainder 2\) and 4 output channels",
        groups=4,
    )
    refused(ValueError, r"6 input channels \(remainder 0\) and 4 output channels \(remainder 1\)", groups=3)
    refused(ValueError, r"w must have C / groups = 6 / 2 = 3 input channels, got 6", groups=2)


def test_channels() -> None:
    refused(
        ValueError,
        r"w must have C / groups = 6 / 1 = 6 input channels, got 5 \(x has C=6 with layout='NCHW'; "
        r"w is read with weight_layout='OIHW'\)",
        w=np.ones((4, 5, 3, 3), np.float32),
    )
    refused(ValueError, "w must have C / groups = 8 / 1 = 8 input channels, got 6", layout="NHWC")
    refused(ValueError, "w must have C / groups = 6 / 1 = 6 input channels, got 3", weight_layout="HWIO")


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((0, 6, 3, 3), "0 output channels"),
        ((4, 0, 3, 3), "0 input channels"),
        ((4, 6, 0, 3), "0 rows"),
        ((4, 6, 3, 0), "0 columns"),
    ],
)
def test_empty_kernels(shape: tuple[int, ...], what: str) -> None:
    refused(ValueError, f"w must have at least one of each, got {what}", w=np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("shape", "what"), [((2, 0, 7, 8), "C "), ((2, 6, 0, 8), "h "), ((2, 6, 7, 0), "w ")]
)
def test_empty_images(shape: tuple[int, ...], what: str) -> None:
    refused(ValueError, f"^{what}.* must be at least 1, got 0", x=np.ones(shape, np.float32))


@pytest.mark.parametrize("shape", [(), (6,), (7, 8), (1, 2, 6, 7, 8)])
def test_ranks(shape: tuple[int, ...]) -> None:
    refused(ValueError, rf"x.shape must have 3 or 4 axes, got {len(shape)}", x=np.ones(shape, np.float32))
    refused(ValueError, rf"w.shape must have 4 axes, got {len(shape)}", w=np.ones(shape, np.float32))


def test_a_kernel_larger_than_the_padded_image() -> None:
    refused(
        ValueError,
        r"must not be larger than the padded image, got 9 kernel rows \(dilation 4 \* \(3 - 1\) \+ 1\) "
        r"on 7 image rows \(7 \+ padding 0 \+ 0\): output rows would be -1",
        dilation=4,
    )
    refused(
        ValueError, "got 11 kernel columns .* on 9 image columns", dilation=(1, 5), padding=((0, 0), (1, 0))
    )
    refused(ValueError, f"got {2 * (2**31 - 1) + 1} kernel rows", dilation=2**31 - 1)


def test_bias() -> None:
    refused(ValueError, r"bias must have .* shape \(4,\), got \(6,\)", bias=np.ones(6, np.float32))
    refused(ValueError, r"bias must have .* shape \(4,\), got \(1, 4\)", bias=np.ones((1, 4), np.float32))
    refused(ValueError, r"bias must have .* shape \(4,\), got \(\)", bias=np.float32(1))
    refused(ValueError, "bias must have the dtype .*float32, got float64", bias=np.ones(4))
    refused(
        ValueError,
        "bias must have the dtype of x or of its sums, int8 or int32, got int64",
        x=X.astype(np.int8),
        w=W.astype(np.int8),
        bias=np.ones(4, np.int64),
    )


def test_dtypes_must_agree() -> None:
    refused(ValueError, "x and w must have the same dtype, got float64 and float32", x=X.astype(np.float64))
    refused(ValueError, "x and w must have the same dtype, got float32 and int8", w=W.astype(np.int8))
    with pytest.raises(ValueError, match="x and w must have the same dtype, got float64 and float32"):
        fastconv.plan(X.shape, W, dtype=np.float64)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("bool", "astype"),
        ("complex64", "real"),
        ("complex128", "real"),
        ("uint64", "int64"),
        ("object", "astype"),
        ("longdouble", "float64"),
        ("datetime64[s]", ""),
        ("timedelta64[s]", ""),
        ("S3", ""),
        ("U3", ""),
        ([("a", "f4")], ""),
    ],
    ids=str,
)
def test_dtypes_that_are_not_supported(dtype: Any, advice: str) -> None:
    message = f"must have one of the dtypes float32, .*, got .*{advice}"
    refused(TypeError, f"x {message}", x=np.zeros(X.shape, dtype))
    refused(TypeError, f"x {message}", x=np.zeros(X.shape, dtype), w=np.zeros(W.shape, dtype))
    with pytest.raises(TypeError, match=f"bias {message}"):
        fastconv.plan(X, W, np.zeros(4, dtype))
    with pytest.raises(TypeError, match="dtype must be one of"):
        fastconv.explain(X.shape, W.shape, dtype=dtype)


def test_dtype_words() -> None:
    with pytest.raises(TypeError, match="dtype must be one of float32"):
        fastconv.explain(X.shape, W.shape, dtype="single precision")


def test_activations_of_integers() -> None:
    integers = {"x": X.astype(np.int8), "w": W.astype(np.int8)}
    refused(
        ValueError,
        "activation='gelu' needs a floating dtype, got dtype='int8'; "
        "integers may have 'none', 'relu', 'relu6'",
        activation="gelu",
        **integers,
    )


@pytest.mark.parametrize(("mode", "most"), [("reflect", 6), ("symmetric", 7), ("circular", 7)])
def test_mirrors_show_the_image_only_once(mode: str, most: int) -> None:
    assert arguments.problem(X.shape, W.shape, padding=((most, most), (0, 0)), padding_mode=mode).oh > 0
    refused(
        ValueError,
        f"padding_mode='{mode}' allows at most {most} padding rows on an image of 7 rows, "
        f"got padding 0 and {most + 1}",
        padding=((0, most + 1), (0, 0)),
        padding_mode=mode,
    )
    refused(
        ValueError,
        f"at most {most + 1} padding columns on an image of 8 columns, got padding {most + 2} and 0",
        padding=((0, 0), (most + 2, 0)),
        padding_mode=mode,
    )


def test_replicate_knows_no_limit() -> None:
    p = arguments.problem((1, 1, 1, 1), (1, 1, 3, 3), padding=50, padding_mode="replicate")
    assert p.y_shape == (1, 1, 99, 99)


def test_threads_and_workspace() -> None:
    refused(ValueError, "threads must be at least 1, got 0", threads=0)
    refused(ValueError, "threads must be at least 1, got -1", threads=-1)
    refused(ValueError, "workspace_limit must be at least 0, got -1", workspace_limit=-1)
    refused(ValueError, "workspace_limit must be at most", workspace_limit=2**63)


BIG = 2**31


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "words", "what"),
    [
        ((1, 1, BIG, BIG), (1, 1, 3, 3), {}, "x"),
        ((2**62, 1, 2, 1), (1, 1, 1, 1), {}, "x"),
        ((0, 1, BIG, BIG), (1, 1, 3, 3), {}, "x"),
        ((1, 1, 3, 3), (BIG, 1, BIG, BIG), {}, "w"),
        ((1, 1, 3, 3), (1, 1, 3, 3), {"padding": BIG - 1}, "x with its padding"),
        ((1, 1, 3, 3), (1, 1, 3, 3), {"padding": BIG - 1, "stride": BIG - 1}, "x with its padding"),
        ((1, 1, 2**29, 2**29), (2**10, 1, 1, 1), {}, "y"),
        ((2**63, 1, 3, 3), (1, 1, 3, 3), {}, r"x.shape\[0\]"),
    ],
)
def test_sizes_beyond_64_bits(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], words: dict[str, Any], what: str
) -> None:
    message = rf"^{what} must be (smaller than 2\*\*63 bytes|at most {2**63 - 1}), got [0-9]+"
    with pytest.raises(ValueError, match=message):
        fastconv.explain(x_shape, w_shape, **words)
    with pytest.raises(ValueError, match=message):
        fastconv.conv_output_shape(x_shape, w_shape, **words)


def test_shapes_that_are_none() -> None:
    with pytest.raises(TypeError, match="x_shape must be a tuple of integers, or an array, got int"):
        fastconv.explain(3, W.shape)
    with pytest.raises(TypeError, match=r"x_shape\[1\] must be an integer, got float"):
        fastconv.explain((1, 2.0, 3, 4), W.shape)
    with pytest.raises(ValueError, match=r"x_shape\[1\] must be at least 0, got -2"):
        fastconv.plan((1, -2, 3, 4), W)
    with pytest.raises(TypeError, match=r"x.shape must be a tuple of integers, got int"):
        fastconv.conv_output_shape(3, W.shape)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"w_shape must have 3 or 4 axes, got 2"):
        fastconv.explain(X.shape, (3, 3))


def test_flip_kernel() -> None:
    with pytest.raises(ValueError, match="weight_layout must be one of"):
        fastconv.flip_kernel(W, "OIWH")
    with pytest.raises(ValueError, match=r"w.shape must have 4 axes, got 2"):
        fastconv.flip_kernel(W[0, 0])


@pytest.mark.parametrize("value", [[[1.0]], 3.0, "text", None, object(), range(3), np.ndarray], ids=type)
def test_what_is_no_array(value: object) -> None:
    message = f"must be an array, got (the )?{type(value).__name__}"
    refused(TypeError, f"x {message}", x=value)
    refused(TypeError, f"w {message}", w=value)
    if value is not None:
        refused(TypeError, f"bias {message}", bias=value)
        refused(TypeError, f"residual {message}", residual=value)
        refused(TypeError, f"out {message}", out=value)


def test_masked_arrays() -> None:
    refused(TypeError, "x must not be a masked array", x=np.ma.masked_array(X))
    refused(TypeError, "w must not be a masked array", w=np.ma.masked_array(W))


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def unaligned(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    memory = np.empty(4 * int(np.prod(shape)) + 1, np.uint8)
    return np.ndarray(shape, np.float32, memory, 1)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (OUT[:1], r"out must have the shape of the result, \(2, 4, 5, 6\), got \(1, 4, 5, 6\)"),
        (OUT[0], "out must have the shape"),
        (OUT[None], "out must have the shape"),
        (
            OUT.astype(np.float64),
            "out must have the dtype of the result in native byte order, float32, got <f8",
        ),
        (OUT.astype(">f4"), "out must have the dtype of the result in native byte order, float32, got >f4"),
        (read_only(OUT.copy()), "out must be writeable"),
        (unaligned(OUT.shape), "out must be aligned to its elements, got address [0-9]+"),
        (np.lib.stride_tricks.as_strided(OUT, OUT.shape, (0, 120, 24, 4)), "out must not overlap itself"),
        (np.lib.stride_tricks.as_strided(OUT, OUT.shape, (480, 120, 24, 2)), "out must"),
        (np.lib.stride_tricks.as_strided(OUT, OUT.shape, (480, 120, 4, 4)), "out must not overlap itself"),
        (X.ravel()[: OUT.size].reshape(OUT.shape), "out must not overlap x"),
        (X.ravel()[-OUT.size :].reshape(OUT.shape), "out must not overlap x"),
        (X[:, :4, :5, :6], "out must not overlap x"),
        (X[:, 3::-1, :5, 5::-1], "out must not overlap x"),
    ],
)
def test_out_that_cannot_take_the_result(out: Any, message: str) -> None:
    refused(ValueError, message, out=out)
    with pytest.raises(ValueError, match=message):
        planned()(X, out=out)


def test_out_that_overlaps_weights_or_bias() -> None:
    memory = np.ones(500, np.float32)
    out = memory[: OUT.size].reshape(OUT.shape)
    refused(ValueError, "out must not overlap w", out=out, w=memory[100 : 100 + W.size].reshape(W.shape))
    refused(ValueError, "out must not overlap bias", out=out, bias=memory[OUT.size - 1 : OUT.size + 3])


def test_residual() -> None:
    refused(
        ValueError, r"residual must have the shape of the result, \(2, 4, 5, 6\), got \(2, 4, 7, 8\)",
        residual=X[:, :4],
    )  # fmt: skip
    refused(
        ValueError,
        "residual must have the dtype of the result, float32, got float64",
        residual=OUT.astype(np.float64),
    )
    memory = np.ones(OUT.size + 1, np.float32)
    out, shifted = memory[1:].reshape(OUT.shape), memory[:-1].reshape(OUT.shape)
    refused(
        ValueError, "out must not overlap residual .unless it is the same array", out=out, residual=shifted
    )


def test_plans_say_what_they_were_planned_for() -> None:
    plan = planned()
    with pytest.raises(ValueError, match="x must have the planned dtype float32, got float64"):
        plan(X.astype(np.float64))
    with pytest.raises(ValueError, match=r"x must have the planned shape \(2, 6, 7, 8\), got \(1, 6, 7, 8\)"):
        plan(X[:1])
    with pytest.raises(ValueError, match="residual was given to a plan made without one"):
        plan(X, residual=OUT)
    with pytest.raises(TypeError, match="x must be an array, got NoneType"):
        plan(None)


def test_a_limit_that_nothing_fits() -> None:
    algorithm = next(name for name in _algorithms_with_workspace())
    with pytest.raises(
        fastconv.WorkspaceLimitError, match=r"workspace_limit=1 bytes is too small .* is [0-9]+ bytes"
    ):
        fastconv.plan(X, W, algorithm=algorithm, workspace_limit=1)
    assert issubclass(fastconv.WorkspaceLimitError, MemoryError)


def _algorithms_with_workspace() -> list[str]:
    return [row.algorithm for row in fastconv.explain(X, W).rows if row.workspace_bytes > 1]


@pytest.mark.parametrize(
    "name", ["n", "c", "h", "w", "o", "kh", "kw", "groups", "threads", "workspace_limit"]
)
@pytest.mark.parametrize("value", [1.0, True, "1", None, np.int64(1)], ids=type)
def test_problem_fields_must_be_ints(name: str, value: object) -> None:
    fields = {"n": 1, "c": 1, "h": 1, "w": 1, "o": 1, "kh": 1, "kw": 1} | {name: value}
    with pytest.raises(TypeError, match=f"{name} must be an int, got {type(value).__name__}"):
        Problem(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"stride": 1}, TypeError, "stride must be a tuple of 2 ints, got 1"),
        ({"stride": (1, 1.0)}, TypeError, "stride must be a tuple of 2 ints"),
        ({"padding": (0, 0)}, TypeError, "padding must be a tuple of 4 ints"),
        ({"dilation": [1, 1]}, TypeError, "dilation must be a tuple of 2 ints"),
        ({"bias": 1}, TypeError, "bias must be True or False, got int"),
        ({"residual": None}, TypeError, "residual must be True or False, got NoneType"),
        ({"layout": "CHWN"}, ValueError, "layout must be one of"),
        ({"dtype": "uint64"}, ValueError, "dtype must be one of"),
        ({"n": -1}, ValueError, "n .images. must be at least 0, got -1"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"groups": 2}, ValueError, "groups must divide"),
        ({"stride": (0, 1)}, ValueError, "stride must be at least 1, got 0"),
        ({"dilation": (1, 0)}, ValueError, "dilation must be at least 1, got 0"),
        ({"padding": (0, 0, 0, -1)}, ValueError, "padding must be at least 0, got -1"),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"kh": 2}, ValueError, "must not be larger than the padded image"),
    ],
    ids=str,
)
def test_no_invalid_problem_exists(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Problem(**({"n": 1, "c": 1, "h": 1, "w": 1, "o": 1, "kh": 1, "kw": 1} | change))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=6,
)
WORDS = ("stride", "padding", "dilation", "groups", "layout", "weight_layout", "padding_mode", "activation")


@given(
    st.dictionaries(st.sampled_from((*WORDS, "accuracy", "threads", "workspace_limit")), ANYTHING, max_size=3)
)
def test_whatever_is_written_is_read_or_refused(words: dict[str, Any]) -> None:
    try:
        problem = arguments.problem(X.shape, W.shape, **words)
    except (TypeError, ValueError) as refusal:
        assert len(str(refusal)) > 20
    else:
        assert Problem.parse(problem.word) == problem


def test_an_error_is_the_same_after_a_success() -> None:
    # 1, True and 1.0 are equal keys to a dictionary: a remembered call must not let them pass.
    fastconv.plan_cache_clear()
    with pytest.raises(AssertionError, match="a kernel was started"):
        fastconv.conv2d(X, W, stride=1, groups=1, padding=(1, 1))
    for words in (
        {"stride": True},
        {"stride": 1.0},
        {"groups": True},
        {"groups": 1.0},
        {"padding": (True, 1)},
    ):
        with pytest.raises(TypeError, match="must be an integer"):
            fastconv.conv2d(X, W, **({"padding": (1, 1)} | words))
