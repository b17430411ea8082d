"""Transposed convolution by Winograd's transforms of weights as they lie: its bound, special values, edges of tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fastconv
from fastconv.kernels.phase_tile import axis_matrix
from fastconv.kernels.points_tile import groups
from fastconv.kernels.winograd_matrices import phase_matrices
from fastconv.operators import transposed, winograd_spread
from fastconv.operators.phases import Transposed

Array = npt.NDArray[Any]

#: Images and kernels (C, O / groups, kh, kw): pixels beside tiles of 4 and 8 outputs, channels beside vectors, borders.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "a tile": ((1, 16, 2, 2), (16, 8, 3, 3), {}),
    "one pixel": ((1, 3, 1, 1), (3, 1, 3, 3), {}),
    "four tiles": ((1, 24, 8, 8), (24, 16, 3, 3), {"padding": 1}),
    "beside four tiles": ((1, 17, 7, 7), (17, 9, 3, 3), {"padding": 1}),
    "five tiles": ((1, 15, 3, 19), (15, 7, 3, 3), {"padding": 1}),
    "eleven tiles": ((1, 9, 4, 41), (9, 8, 3, 3), {"padding": 1}),
    "padding 2": ((1, 8, 9, 6), (8, 25, 3, 3), {"padding": 2}),
    "uneven padding": ((1, 9, 6, 7), (9, 8, 3, 3), {"padding": ((0, 2), (1, 0))}),
    "stride 2, a tile": ((1, 8, 4, 4), (8, 8, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "stride 2, beside tiles": ((1, 21, 5, 9), (21, 17, 3, 3), {"stride": 2, "padding": 1}),
    "stride 2, no padding": ((1, 12, 4, 3), (12, 10, 3, 3), {"stride": 2}),
    "stride 2, padding 2": ((1, 6, 5, 6), (6, 5, 3, 3), {"stride": 2, "padding": (2, 1), "output_padding": (0, 1)}),
    "stride 2, uneven padding": ((1, 8, 7, 5), (8, 9, 3, 3), {"stride": 2, "padding": ((1, 0), (2, 3))}),
    "groups": ((1, 36, 5, 6), (36, 11, 3, 3), {"groups": 3, "padding": 1}),
    "groups of stride 2": ((2, 18, 3, 4), (18, 9, 3, 3), {"groups": 2, "stride": 2, "padding": 1}),
    "images": ((3, 10, 5, 3), (10, 12, 3, 3), {"padding": 1}),
    "no image": ((0, 10, 5, 3), (10, 12, 3, 3), {"padding": 1}),
    "many channels": ((1, 300, 7, 7), (300, 20, 3, 3), {"padding": 1}),
}  # fmt: skip


def drawn(layer: str, layout: str) -> tuple[Array, Array, dict[str, Any]]:
    x_shape, w_shape, words = LAYERS[layer]
    random = np.random.default_rng(sum(map(ord, layer)))
    x, w = random.standard_normal(x_shape), random.standard_normal(w_shape)
    return (
        x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1)),
        w,
        {**words, "layout": layout},
    )


@pytest.fixture(autouse=True)
def _taken(monkeypatch: pytest.MonkeyPatch) -> list[Transposed]:
    """Send every layer that can be computed so this way, and return those whose result counted."""
    taken: list[Transposed] = []
    run = winograd_spread.run

    def noting(t: Transposed, x: Array, w: Array, y: Array, threads: int) -> bool:
        done = run(t, x, w, y, threads)
        taken.extend([t] if done else [])
        return done

    monkeypatch.setattr(transposed, "_by_winograd", winograd_spread.suits)
    monkeypatch.setattr(winograd_spread, "run", noting)
    return taken


@pytest.mark.parametrize("accuracy", ["standard", "fast"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("layer", LAYERS)
def test_errors_keep_the_bound(layer: str, layout: str, accuracy: str, _taken: list[Transposed]) -> None:
    x, w, words = drawn(layer, layout)
    right = fastconv.conv_transpose2d(x, w, **words, accuracy="strict")
    assert not _taken
    found = fastconv.conv_transpose2d(x, w, **words, accuracy=accuracy)
    assert found.shape == right.shape
    if layer == "no image":
        return
    (t,) = _taken
    worst = np.abs(found - right).max() / np.abs(right).max()
    # Rounded otherwise than a plain sum, so another algorithm it was.
    assert 0 < worst <= winograd_spread.error_bound(t)


@pytest.mark.parametrize(
    "layer", ["four tiles", "stride 2, beside tiles", "groups", "images", "many channels"]
)
def test_bits_do_not_depend_on_threads(layer: str, _taken: list[Transposed]) -> None:
    x, w, words = drawn(layer, "NHWC")
    one, two, three = (fastconv.conv_transpose2d(x, w, **words, threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    assert len(_taken) == 3


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["images", "kernels"])
@pytest.mark.parametrize("layer", ["beside four tiles", "stride 2, beside tiles"])
def test_values_that_are_not_finite_stay_in_their_place(
    layer: str, where: str, value: float, layout: str, _taken: list[Transposed]
) -> None:
    x, w, words = drawn(layer, layout)
    (x if where == "images" else w)[0, 1, 2, 2] = value
    found = fastconv.conv_transpose2d(x, w, **words)
    right = fastconv.conv_transpose2d(x, w, **words, accuracy="strict")
    np.testing.assert_array_equal(np.isnan(found), np.isnan(right))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(right))
    assert not np.isfinite(found).all()
    assert np.isfinite(found).any()
    assert not _taken


def test_sums_that_overflow_on_the_way_are_computed_otherwise(_taken: list[Transposed]) -> None:
    x, w, words = drawn("four tiles", "NCHW")
    x *= 1e307 / np.abs(x).max()
    right = fastconv.conv_transpose2d(x * 1e-3, w, **words, accuracy="strict")
    found = fastconv.conv_transpose2d(x, w * 1e-3, **words)
    np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-12 * np.abs(right).max())


@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_the_gradient_by_the_images(layer: str) -> None:
    x, w, words = drawn(layer, "NCHW")
    extra = words.pop("output_padding", 0)
    words.pop("layout")
    spread = fastconv.conv_transpose2d(x, w, output_padding=extra, **words)
    np.testing.assert_array_equal(fastconv.conv2d_input_grad(spread.shape, w, x, **words), spread)


def test_other_calls_go_other_ways(_taken: list[Transposed]) -> None:
    x, w, words = drawn("four tiles", "NCHW")
    fastconv.conv_transpose2d(x, w, np.ones(16), **words)
    fastconv.conv_transpose2d(x, w, activation="relu", **words)
    fastconv.conv_transpose2d(x, w, accuracy="strict", **words)
    fastconv.conv_transpose2d(x, w, dilation=2, **words)
    fastconv.conv_transpose2d(x, w[:, :, :2], **words)
    fastconv.conv_transpose2d(x, np.asfortranarray(w), **words)
    fastconv.conv_transpose2d(x.astype(np.float32), w.astype(np.float32), **words)
    assert not _taken


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_scales_of_kernels_are_those_of_inputs(stride: int, pad: int) -> None:
    """A product of both is what it was before the factor of each kernel point went over to the inputs."""
    matrices = phase_matrices(4, 3, stride, pad % stride)
    bare, scaled = (
        axis_matrix(kind, 4, 3, stride, pad % stride) for kind in ("bare_kernels", "scaled_inputs")
    )
    for u, row, before in zip(matrices.shared, scaled, matrices.inputs, strict=True):
        kernel, plain = matrices.kernels[u], bare[u]
        products = [[a * b for a in row for b in plain], [a * b for a in before for b in kernel]]
        assert products[0] == products[1]
        assert any(plain)


@pytest.mark.parametrize("most", [8, 24])
@pytest.mark.parametrize("down", [(1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 4)])
@pytest.mark.parametrize("tiles", winograd_spread.TILES)
def test_groups_hold_all_rows_in_order(tiles: int, down: tuple[int, ...], most: int) -> None:
    found = groups(down, down, tiles, most)
    assert all(group.total <= most for group in found)
    assert [group.first for group in found] == [sum(g.total for g in found[:n]) for n in range(len(found))]
    held: dict[tuple[int, int], int] = {}
    for group in found:
        for column, rows in group.columns:
            held[group.row, column] = held.get((group.row, column), 0) + rows
    assert list(held) == sorted(held)
    assert held == {(i, j): tiles * down[i] * down[j] for i in range(6) for j in range(6)}


def test_explained_calls_are_those_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shapes = (1, 512, 7, 7), (512, 512, 3, 3)
    said = "Winograd's minimal filtering for tiles of 4x4 outputs"
    for words in ({"dtype": np.float64}, {"dtype": np.float64, "accuracy": "strict"}, {"dtype": np.float32}):
        report = fastconv.explain_conv_transpose2d(*shapes, padding=1, **words)
        sizes = [(shape, np.dtype(words["dtype"])) for shape in shapes]
        call = transposed._call(
            *sizes[0],
            *sizes[1],
            None,
            1,
            1,
            0,
            1,
            1,
            None,
            "NCHW",
            "IOHW",
            None,
            words.get("accuracy", "standard"),
        )
        assert (said in report.route) == transposed._by_winograd(call.transposed)
    assert (
        said not in fastconv.explain_conv_transpose2d(*shapes, padding=1, dtype=np.float64, bias=True).route
    )
