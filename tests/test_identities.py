"""What must hold between results, whatever the oracle says: no reference is used here.

Data are small integers, so algorithms that add plain products must satisfy every identity exactly; the others within
the promise of class "standard", 1e-5 of the largest output on each side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import Array
from running import NAMES

import fastconv
from fastconv.algorithms import registry

ROUNDED = 2e-5
#: Kernels that some algorithm is for: (C, O, groups, kh, kw).
KERNELS = {
    "dense": (6, 9, 1, 3, 3),
    "1x1": (6, 9, 1, 1, 1),
    "depthwise": (9, 9, 9, 3, 3),
    "grouped": (8, 12, 4, 3, 3),
    "groups as wide as deep": (8, 8, 4, 3, 3),
    "two by two": (6, 9, 1, 2, 2),
    "one channel": (1, 1, 1, 5, 5),
    "few channels": (3, 7, 1, 3, 2),
}


def integers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).integers(-6, 6, shape, endpoint=True).astype(np.float32)


def conv(name: str, x: Any, w: Any, *args: Any, **words: Any) -> Array:
    """Return conv2d by the algorithm of that name, or skip the test when it does not take the problem."""
    layout, groups = words.get("layout", "NCHW"), words.get("groups", 1)
    try:
        y: Array = fastconv.conv2d(x, w, *args, algorithm=name, **words)
    except ValueError as refusal:
        if f"{name}: " not in str(refusal) or "cannot compute" not in str(refusal):
            raise
        pytest.skip(f"{name} does not take {w.shape}, groups {groups}, {layout}")
    return y


def same(name: str, a: Array, b: Array) -> None:
    """Raise AssertionError unless two results are equal, or as close as the algorithm promises."""
    strict = fastconv.explain((1, 6, 12, 12), (9, 6, 3, 3), accuracy="strict")
    refusals = [row.reason for row in strict.rows if row.algorithm == name]
    if any("accuracy" in refusal for refusal in refusals):
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDED * max(1.0, float(np.abs(a).max(initial=0))))
    else:
        np.testing.assert_array_equal(a, b)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    word: str = request.param
    return word


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> tuple[Array, Array, int]:
    """Return images, weights and groups of one kind of kernel."""
    c, o, groups, kh, kw = KERNELS[request.param]
    return integers(2, c, 11, 14), integers(o, c // groups, kh, kw, seed=1), groups


Kernel = tuple[Array, Array, int]


def test_linear_in_both_arguments(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    other_x, other_w = integers(*x.shape, seed=2), integers(*w.shape, seed=3)
    y = conv(name, x, w, groups=groups)
    same(name, conv(name, x + other_x, w, groups=groups), y + conv(name, other_x, w, groups=groups))
    same(name, conv(name, x, 3 * w + other_w, groups=groups), 3 * y + conv(name, x, other_w, groups=groups))


def test_one_pixel_gives_the_flipped_kernel(name: str, kernel: Kernel) -> None:
    _, w, groups = kernel
    o, channels, kh, kw = w.shape
    padding = ((kh - 1, kh - 1), (kw - 1, kw - 1))
    x = np.zeros((1, channels * groups, 1, 1), np.float32)
    for c in (0, channels * groups - 1):
        x[...] = 0
        x[0, c] = 1
        y = conv(name, x, w, padding=padding, groups=groups)
        expected = np.zeros((1, o, kh, kw), np.float32)
        group = slice(c // channels * (o // groups), (c // channels + 1) * (o // groups))
        expected[0, group] = w[group, c % channels, ::-1, ::-1]
        same(name, y, expected)


@pytest.mark.parametrize("at", [(0, 0), (0, -1), (-1, 0), (-1, -1), (6, 7)])
def test_one_pixel_touches_its_windows_only(name: str, kernel: Kernel, at: tuple[int, int]) -> None:
    x, w, groups = kernel
    kh, kw = w.shape[2:]
    x = np.zeros_like(x)
    x[1, 0][at] = 1
    y = conv(name, x, w, padding="full", groups=groups)
    row, column = np.argwhere(x[1, 0])[0]
    rest = y.copy()
    rest[1, :, row : row + kh, column : column + kw] = 0
    same(name, rest, np.zeros_like(rest))
    same(name, y[1, 0, row : row + kh, column : column + kw], w[0, 0, ::-1, ::-1])


def test_one_tap_gives_the_shifted_image(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    o, channels, kh, kw = w.shape
    oh, ow = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    for r, s in {(0, 0), (0, kw - 1), (kh - 1, 0), (kh - 1, kw - 1)}:
        tap = np.zeros_like(w)
        tap[o - 1, channels - 1, r, s] = 1
        y = conv(name, x, tap, groups=groups)
        same(name, y[:, o - 1], x[:, -1, r : r + oh, s : s + ow])
        same(name, y[:, : o - 1], np.zeros_like(y[:, : o - 1]))


def test_shifted_images_give_shifted_results(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    y = conv(name, x, w, groups=groups)
    moved = conv(name, np.roll(x, (2, 3), (2, 3)), w, groups=groups)
    same(name, moved[:, :, 2:, 3:], y[:, :, :-2, :-3])


def test_layouts_give_the_same(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    words: dict[str, Any] = {"padding": ((1, 0), (0, 1)), "groups": groups, "activation": "relu"}
    if name == "pointwise":
        words["padding"] = 0
    bias = integers(len(w))
    y = conv(name, x, w, bias, **words)
    nhwc = conv(name, x.transpose(0, 2, 3, 1), w, bias, layout="NHWC", **words)
    same(name, nhwc.transpose(0, 3, 1, 2), y)
    for layout, axes in (("HWIO", (2, 3, 1, 0)), ("OHWI", (0, 2, 3, 1))):
        same(name, conv(name, x, w.transpose(axes), bias, weight_layout=layout, **words), y)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_groups_are_convolutions_side_by_side(name: str, layout: str) -> None:
    axis = layout.index("C")
    x, w = integers(2, 8, 9, 13), integers(12, 2, 3, 3)
    x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    y = conv(name, x, w, padding=1, groups=4, layout=layout)
    parts = zip(np.split(x, 4, axis), np.split(w, 4), strict=True)
    pieces = [conv(name, np.ascontiguousarray(a), b, padding=1, layout=layout) for a, b in parts]
    same(name, y, np.concatenate(pieces, axis))


def test_dilation_is_a_kernel_with_gaps(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    o, channels, kh, kw = w.shape
    gaps = np.zeros((o, channels, 2 * kh - 1, 3 * kw - 2), np.float32)
    gaps[:, :, ::2, ::3] = w
    y = conv(name, x, w, dilation=(2, 3), padding=4 if kh > 1 else 0, groups=groups)
    same(name, y, conv(name, x, gaps, padding=4 if kh > 1 else 0, groups=groups))


@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (3, 2), (7, 5)])
def test_stride_leaves_out_results(name: str, kernel: Kernel, stride: tuple[int, int]) -> None:
    x, w, groups = kernel
    y = conv(name, x, w, stride=stride, groups=groups)
    same(name, y, conv(name, x, w, groups=groups)[:, :, :: stride[0], :: stride[1]])


@pytest.mark.parametrize(
    ("mode", "word"),
    [
        ("zeros", "constant"),
        ("reflect", "reflect"),
        ("symmetric", "symmetric"),
        ("replicate", "edge"),
        ("circular", "wrap"),
    ],
)
def test_padding_is_a_larger_image(name: str, kernel: Kernel, mode: str, word: Any) -> None:
    x, w, groups = kernel
    pads = ((2, 1), (0, 3))
    y = conv(name, x, w, padding=pads, padding_mode=mode, groups=groups)
    same(name, y, conv(name, np.pad(x, ((0, 0), (0, 0), *pads), word), w, groups=groups))


def test_images_do_not_meet(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    y = conv(name, x, w, groups=groups)
    for i in range(len(x)):
        same(name, y[i : i + 1], conv(name, x[i : i + 1], w, groups=groups))


def test_order_of_channels_does_not_matter(name: str) -> None:
    x, w = integers(1, 21, 9, 10), integers(19, 21, 3, 3)
    rng = np.random.default_rng(5)
    c, o = rng.permutation(21), rng.permutation(19)
    y = conv(name, x, w)
    same(name, conv(name, x[:, c], w[:, c]), y)
    same(name, conv(name, x, w[o]), y[:, o])


def test_1x1_is_a_matrix_product(name: str) -> None:
    x, w = integers(2, 18, 5, 9), integers(34, 18, 1, 1)
    y = conv(name, x, w)
    same(name, y, (w[:, :, 0, 0] @ x.reshape(2, 18, 45)).reshape(2, 34, 5, 9))


def test_what_no_window_reads_changes_nothing(name: str, kernel: Kernel) -> None:
    x, w, groups = kernel
    kh, kw = w.shape[2:]
    words = {"stride": (6, 6), "groups": groups}
    y = conv(name, x, w, **words)
    oh, ow = y.shape[2:]
    hidden = np.full_like(x, 1e30)
    for i in range(oh):
        for j in range(ow):
            window = np.s_[:, :, 6 * i : 6 * i + kh, 6 * j : 6 * j + kw]
            hidden[window] = x[window]
    assert np.count_nonzero(hidden == 1e30)
    np.testing.assert_array_equal(conv(name, hidden, w, **words), y)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kernel_name", KERNELS)
def test_all_algorithms_agree(kernel_name: str, layout: str) -> None:
    c, o, groups, kh, kw = KERNELS[kernel_name]
    x, w = integers(2, c, 11, 14), integers(o, c // groups, kh, kw, seed=1)
    x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    rows = fastconv.explain(x, w, groups=groups, layout=layout).rows
    results = {
        row.algorithm: fastconv.conv2d(x, w, groups=groups, layout=layout, algorithm=row.algorithm)
        for row in rows
        # These weights are no column times a row, which is all that is ever asked of weights.
        if row.accepted and not row.weights
    }
    assert len(results) > 2
    for algorithm, y in results.items():
        same(algorithm, y, results["reference"])


def test_every_algorithm_is_met_by_these_tests() -> None:
    for name, algorithm in registry.all().items():
        met = []
        for c, o, groups, kh, kw in KERNELS.values():
            for layout in ("NCHW", "NHWC"):
                shape = (2, c, 11, 14) if layout == "NCHW" else (2, 11, 14, c)
                problem = fastconv.explain(
                    shape, (o, c // groups, kh, kw), groups=groups, layout=layout
                ).problem
                met.append(algorithm.why_not(problem, fastconv.Machine.host()) is None)
        assert any(met), f"{name} takes none of KERNELS: add one that it takes"
