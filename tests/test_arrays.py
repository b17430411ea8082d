"""Arrays on their way in and out, first alone, then through plans whose kernel is replaced by NumPy."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import fastconv
from fastconv import arrays
from fastconv.problem import DTYPES

SHAPE = (2, 3, 6, 7)


def values(dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    """Small whole numbers, all different from their neighbours."""
    return (np.arange(np.prod(shape)) % 11).reshape(shape).astype(dtype)


def unaligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = np.ndarray(array.shape, array.dtype, np.empty(array.nbytes + 1, np.uint8), 1)
    copy[...] = array
    return copy


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


#: Ways to lie in memory; each gives the same values.
MEMORY = {
    "plain": lambda a: a,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": unaligned,
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "backwards": lambda a: np.ascontiguousarray(a[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=3)[..., ::2],
    "transposed": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ready_arrays_are_native_aligned_and_contiguous(memory: str, dtype: str) -> None:
    given = MEMORY[memory](values(dtype))
    before = given.copy()
    for wanted in (dtype, "float64"):
        ready = arrays.ready(arrays.view("x", given), wanted)
        assert type(ready) is np.ndarray
        assert ready.dtype == np.dtype(wanted)
        assert ready.dtype.isnative
        assert ready.flags.c_contiguous
        assert ready.flags.aligned
        np.testing.assert_array_equal(ready, values(wanted))
    np.testing.assert_array_equal(given, before)


def test_ready_arrays_are_not_copied() -> None:
    a = values()
    assert arrays.ready(a, "float32") is a
    assert arrays.ready(a, np.dtype("float32")) is a


def test_broadcast_arrays() -> None:
    given = np.broadcast_to(np.float32(2), SHAPE)
    np.testing.assert_array_equal(arrays.ready(arrays.view("x", given), "float32"), np.full(SHAPE, 2))


@pytest.mark.parametrize("array", [values(), read_only(values()), np.empty((0, 3)), values()[::-1]])
def test_addresses(array: np.ndarray[Any, Any]) -> None:
    assert arrays.address(array) == array.ctypes.data


class Foreign:
    """An array of another library, as far as NumPy can see."""

    device: tuple[Any, int] = (1, 0)

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self.data = data

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self.device

    def __dlpack__(self, **words: Any) -> Any:
        return self.data.__dlpack__(**words)


class Standard(Foreign):
    """One that follows the array API standard."""

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(from_dlpack=Standard)


def test_dlpack_arrays_are_seen_without_a_copy() -> None:
    data = values()
    assert np.shares_memory(arrays.view("x", Foreign(data)), data)


def test_results_go_back_in_the_kind_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    result = values()
    back = arrays.give_back(result, Standard(values()))
    assert type(back) is Standard
    assert back.data is result
    monkeypatch.setattr(sys.modules[__name__.partition(".")[0]], "from_dlpack", Foreign, raising=False)
    back = arrays.give_back(result, Foreign(values()))
    assert type(back) is Foreign


@pytest.mark.parametrize("like", [values(), SimpleNamespace(__array__=None), Foreign(values())], ids=type)
def test_results_stay_numpy_where_the_kind_is_unknown(like: object) -> None:
    result = values()
    assert arrays.give_back(result, like) is result


def test_other_devices_are_refused() -> None:
    far = Foreign(values())
    far.device = (2, 1)
    with pytest.raises(TypeError, match="x must be in the memory of the CPU, got Foreign on device 2:1"):
        arrays.view("x", far)


@pytest.mark.parametrize("error", [BufferError, RuntimeError, ValueError, NotImplementedError])
def test_dlpack_refusals_are_rephrased(error: type[Exception]) -> None:
    class Sparse(Foreign):
        def __dlpack__(self, **words: Any) -> Any:
            raise error("not dense")

    with pytest.raises(
        TypeError, match="w cannot be read as a NumPy array of the CPU: Sparse says not dense"
    ):
        arrays.view("w", Sparse(values()))


def test_gradients_are_refused() -> None:
    tensor = Foreign(values())
    tensor.requires_grad = True  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"x requires gradients.*pass x.detach\(\)"):
        arrays.view("x", tensor)


def test_objects_that_can_become_arrays() -> None:
    class Image:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
            return values("uint8")

    class Interface:
        data = values("int16")
        __array_interface__ = data.__array_interface__

    np.testing.assert_array_equal(arrays.view("x", Image()), values())
    assert arrays.address(arrays.view("x", Interface())) == Interface.data.ctypes.data


def test_overlap_that_is_too_hard_to_rule_out_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_hard(*_: object, **__: object) -> bool:
        raise np.exceptions.TooHardError

    a = values()
    assert not arrays.overlap(a[..., ::2], a[..., 1::2])
    monkeypatch.setattr(np, "shares_memory", too_hard)
    assert arrays.overlap(a[..., ::2], a[..., 1::2])
    assert not arrays.overlap(a, a.copy())


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::-1, ::2, 1:3],
        lambda a: a.transpose(3, 1, 0, 2),
        lambda a: a[:, :0],
        lambda a: np.asfortranarray(a)[:, ::-2],
        lambda a: a[:1, :1, :1, :1],
    ],
)
def test_slices_and_transposes_do_not_overlap_themselves(view: Any) -> None:
    target = view(values())
    arrays.check_out(target, target.shape, "float32")


@pytest.mark.parametrize(
    "view",
    [
        lambda a: np.broadcast_to(a[:1], SHAPE),
        lambda a: sliding_window_view(a[0, 0], (2, 2)),
        lambda a: as_strided(a, (3, 4), (2, 16)),
    ],
)
def test_overlapping_targets_are_found(view: Any) -> None:
    target = view(values()).view()
    target.flags.writeable = target.flags.writeable or False
    with pytest.raises(ValueError, match="out must"):
        arrays.check_out(target, target.shape, "float32")


def naive(x: Any, w: Any, bias: Any = None, residual: Any = None, padding: int = 0) -> Any:
    """The definition for NCHW, stride 1, in the widest type."""
    wide = np.float64 if x.dtype.kind == "f" else np.int64
    padded = np.pad(x.astype(wide), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    y = np.einsum("nchwrs,ocrs->nohw", sliding_window_view(padded, w.shape[2:], (2, 3)), w.astype(wide))
    if bias is not None:
        y = y + bias.astype(wide)[:, None, None]
    return y if residual is None else y + residual.astype(wide)


W = values(shape=(4, 3, 3, 3)) - 5
BIAS = values(shape=(4,))
Y_SHAPE = (2, 4, 6, 7)
EXPECTED = naive(values(), W, BIAS, padding=1)


@pytest.mark.parametrize("memory", MEMORY)
def test_any_memory_gives_the_right_answer(memory: str) -> None:
    lay = MEMORY[memory]
    np.testing.assert_array_equal(fastconv.conv2d(lay(values()), lay(W), BIAS, padding=1), EXPECTED)
    np.testing.assert_array_equal(
        fastconv.plan(SHAPE, lay(W), BIAS, padding=1, accuracy="strict")(lay(values())), EXPECTED
    )


def test_byte_order_is_seen_even_after_unaligned_arrays() -> None:
    # Numba once took a big-endian array for a native one if it had met an unaligned array before.
    for memory in ("unaligned", "big-endian", "unaligned"):
        x = MEMORY[memory](values())
        np.testing.assert_array_equal(fastconv.conv2d(x, MEMORY[memory](W), BIAS, padding=1), EXPECTED)


@pytest.mark.parametrize(
    "lay",
    [
        lambda y: y,
        np.asfortranarray,
        lambda y: np.repeat(y, 2, axis=2)[:, :, ::2],
        lambda y: y[::-1, ::-1],
    ],
)
def test_out_in_any_writeable_memory(lay: Any) -> None:
    plan = fastconv.plan(SHAPE, W, BIAS, padding=1, accuracy="strict")
    for run in (
        lambda out: plan(values(), out=out),
        lambda out: fastconv.conv2d(values(), W, BIAS, padding=1, out=out),
    ):
        out = lay(np.full(Y_SHAPE, np.nan, np.float32))
        assert run(out) is out
        np.testing.assert_array_equal(out, EXPECTED)


def test_out_and_x_may_be_neighbours() -> None:
    memory = np.zeros(values().size + EXPECTED.size, np.float32)
    x = memory[: values().size].reshape(SHAPE)
    out = memory[values().size :].reshape(Y_SHAPE)
    x[...] = values()
    fastconv.plan(SHAPE, W, BIAS, padding=1, accuracy="strict")(x, out=out)
    np.testing.assert_array_equal(x, values())
    np.testing.assert_array_equal(out, EXPECTED)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    kind = "float" if "float" in dtype else "int"
    x, w, b = values(dtype), (W if kind == "float" else abs(W)).astype(dtype), BIAS.astype(dtype)
    y = fastconv.conv2d(x, w, b, padding=1)
    assert y.dtype.name == fastconv.Problem(1, 1, 1, 1, 1, 1, 1, dtype=dtype).result_dtype
    np.testing.assert_array_equal(y, naive(x, w, b, padding=1))
    out = np.zeros_like(y)
    assert fastconv.conv2d(x, w, b, padding=1, out=out) is out
    np.testing.assert_array_equal(out, y)


def test_a_bias_may_have_the_type_of_the_sums() -> None:
    x, w = values("int8"), (W % 7).astype(np.int8)
    b = np.array([1000, -1000, 100000, 0], np.int32)
    np.testing.assert_array_equal(fastconv.conv2d(x, w, b), naive(x, w, b))


def test_float16_overflow_is_infinite_and_silent() -> None:
    x = np.full(SHAPE, 60000, np.float16)
    assert np.isposinf(fastconv.conv2d(x, np.ones(W.shape, np.float16))).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_residuals(dtype: str) -> None:
    x, w = values(dtype), (abs(W) % 3).astype(dtype)
    plain = fastconv.conv2d(x, w, padding=1)
    extra = values(plain.dtype.name, plain.shape)
    expected = plain + extra
    plan = fastconv.plan(x, w, padding=1, residual=True, accuracy="strict")
    for residual in (extra, np.asfortranarray(extra), extra.astype(extra.dtype.newbyteorder(">"))):
        np.testing.assert_array_equal(plan(x, residual=residual), expected)
        np.testing.assert_array_equal(fastconv.conv2d(x, w, padding=1, residual=residual), expected)
    inplace = extra.copy()
    assert plan(x, out=inplace, residual=inplace) is inplace
    np.testing.assert_array_equal(inplace, expected)
    with pytest.raises(ValueError, match="residual must be given"):
        plan(x)


def test_weights_of_a_plan_are_its_own() -> None:
    rows = fastconv.explain(SHAPE, W, padding=1, accuracy="strict").rows
    for name in {row.algorithm for row in rows if row.accepted}:
        w, b = W.copy(), BIAS.copy()
        plan = fastconv.plan(SHAPE, w, b, padding=1, algorithm=name, accuracy="strict")
        w[...], b[...] = 0, 0
        np.testing.assert_array_equal(plan(values()), EXPECTED)


def test_weight_layouts() -> None:
    for layout, axes in (("HWIO", (2, 3, 1, 0)), ("OHWI", (0, 2, 3, 1))):
        y = fastconv.conv2d(values(), W.transpose(axes), BIAS, padding=1, weight_layout=layout)
        np.testing.assert_array_equal(y, EXPECTED)


def test_a_missing_batch_axis_is_missing_again() -> None:
    x = values()[1]
    assert fastconv.conv2d(x, W, BIAS, padding=1).shape == Y_SHAPE[1:]
    out = np.empty(Y_SHAPE[1:], np.float32)
    assert fastconv.plan(x, W, BIAS, padding=1, accuracy="strict")(x, out=out) is out
    np.testing.assert_array_equal(out, EXPECTED[1])


def test_an_empty_batch_gives_an_empty_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.empty((0, *SHAPE[1:]), np.float32)
    plan = fastconv.plan(x, W, BIAS, padding=1, rigor="measure", accuracy="strict")
    assert plan(x).shape == (0, *Y_SHAPE[1:])
    assert plan.workspace_bytes == 0
    out = np.empty((0, *Y_SHAPE[1:]), np.float32)
    assert fastconv.conv2d(x, W, BIAS, padding=1, out=out) is out
    assert fastconv.explain(x, W).problem.n == 0
    with pytest.raises(ValueError, match="bias must have"):
        fastconv.conv2d(x, W, BIAS[:1])


def test_foreign_arrays_through_the_whole_way() -> None:
    y = fastconv.conv2d(Standard(values()), Standard(W), Standard(BIAS), padding=1)
    assert type(y) is Standard
    np.testing.assert_array_equal(y.data, EXPECTED)


def test_flipped_kernels_are_of_the_kind_of_the_kernel() -> None:
    flipped = fastconv.flip_kernel(Standard(W))
    np.testing.assert_array_equal(flipped.data, W[:, :, ::-1, ::-1])
    hwio = W.transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(fastconv.flip_kernel(hwio, "HWIO"), hwio[::-1, ::-1])


def test_one_plan_in_many_threads() -> None:
    plan = fastconv.plan(SHAPE, W, BIAS, padding=1, accuracy="strict")
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = values() + np.float32(seed)
        expected = naive(x, W, BIAS, padding=1)
        for _ in range(50):
            if not np.array_equal(plan(x), expected):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.peer
def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, w, b = torch.from_numpy(values()), torch.from_numpy(W), torch.from_numpy(BIAS)
    y = fastconv.conv2d(x, w, b, padding=1)
    assert type(y) is torch.Tensor
    np.testing.assert_array_equal(y.numpy(), EXPECTED)
    out = torch.empty(Y_SHAPE)
    assert fastconv.conv2d(x, w, b, padding=1, out=out) is out
    np.testing.assert_array_equal(out.numpy(), EXPECTED)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(fastconv.conv2d(channels_last, w, b, padding=1).numpy(), EXPECTED)
    for tensor, advice in (
        (x.clone().requires_grad_(), r"pass x.detach\(\)"),
        (x.to("meta"), "x (must be in the memory of the CPU|cannot be read)"),
        (x.bfloat16(), "x cannot be read"),
        (x.to(torch.complex64), "got complex64"),
        (x.to_sparse(), "x cannot be read"),
    ):
        with pytest.raises(TypeError, match=advice):
            fastconv.conv2d(tensor, w)
