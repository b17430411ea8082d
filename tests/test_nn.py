"""Networks' small change: folding, pruning, blocks, counts, receptive fields, against definitions and PyTorch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import nn

Array = np.ndarray[Any, Any]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def norm_of(channels: int, seed: int = 1) -> nn.BatchNorm:
    rng = np.random.default_rng(seed)
    gamma, beta, mean = rng.standard_normal((3, channels))
    return nn.BatchNorm(gamma, beta, mean, rng.uniform(0.5, 2, channels), 1e-3)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("weight_layout", ["OIHW", "HWIO", "OHWI"])
def test_folding_gives_the_same_results(weight_layout: str, groups: int, with_bias: bool) -> None:
    x, w, norm = drawn(2, 6, 9, 8), drawn(12, 6 // groups, 3, 3), norm_of(12)
    bias = drawn(12) if with_bias else None
    words: dict[str, Any] = {"stride": 2, "dilation": 2, "padding": 2, "groups": groups}
    expected = nn.batch_norm(fastconv.conv2d(x, w, bias, **words), norm)
    order = {"OIHW": (0, 1, 2, 3), "HWIO": (2, 3, 1, 0), "OHWI": (0, 2, 3, 1)}[weight_layout]
    turned = np.ascontiguousarray(w.transpose(order))
    folded, shift = nn.fold_batch_norm(turned, bias, norm, groups=groups, weight_layout=weight_layout)
    found = fastconv.conv2d(x, folded, shift, weight_layout=weight_layout, **words)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_folding_of_transposed_weights(groups: int) -> None:
    torch = pytest.importorskip("torch")
    x, w, norm, bias = drawn(1, 4, 5, 5), drawn(4, 3, 4, 4), norm_of(3 * groups), drawn(3 * groups)

    def transposed(weights: Array, shift: Array) -> Array:
        given = [torch.from_numpy(array) for array in (x, weights, shift)]
        result: Array = torch.nn.functional.conv_transpose2d(
            *given, stride=2, padding=1, groups=groups
        ).numpy()
        return result

    expected = nn.batch_norm(transposed(w, bias), norm)
    found = transposed(*nn.fold_batch_norm(w, bias, norm, groups=groups, transposed=True))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_folded_bias_by_hand() -> None:
    norm = nn.BatchNorm([2.0], [1.0], [3.0], [4.0], 0.0)
    w, b = nn.fold_batch_norm(np.ones((1, 1, 1, 1)), np.array([5.0]), norm)
    assert (w.item(), b.item()) == (1.0, 1.0 + (5.0 - 3.0) * 2.0 / 2.0)
    assert nn.fold_batch_norm(np.ones((1, 1, 1, 1)), None, norm)[1].item() == 1.0 - 3.0 * 2.0 / 2.0


def test_pruning_keeps_the_order_and_cuts_the_next_layer() -> None:
    w, bias, next_w = drawn(10, 3, 3, 3), drawn(10), drawn(4, 10, 1, 1)
    norm = nn.BatchNorm([0.1, -9, 0.3, 4, -0.2, 7, 6, -8, 0.5, 3], *drawn(2, 10), np.ones(10))
    cut = nn.prune_channels(w, 0.45, bias=bias, norm=norm, next_w=next_w)
    assert cut.kept.tolist() == [1, 3, 5, 6, 7, 9]  # 10 - int(10 * 0.45), by |gamma|
    assert cut.norm is not None and cut.bias is not None and cut.next_w is not None
    # What is left computes what the whole did with the other channels silenced.
    x = drawn(1, 3, 8, 8)
    silenced = next_w.copy()
    silenced[:, [0, 2, 4, 8]] = 0
    expected = fastconv.conv2d(nn.conv_bn_relu(x, w, norm, bias), silenced)
    found = fastconv.conv2d(nn.conv_bn_relu(x, cut.w, cut.norm, cut.bias), cut.next_w)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_pruning_of_groups_and_before_a_depthwise_layer() -> None:
    w, scores = drawn(6, 2, 3, 3), [1, 2, 3, 30, 20, 10]
    cut = nn.prune_channels(w, 0.34, scores=scores, groups=2, next_w=drawn(6, 1, 3, 3), next_groups=6)
    assert cut.kept.tolist() == [1, 2, 3, 4] and cut.w.shape == (4, 2, 3, 3)
    assert cut.next_w is not None and cut.next_w.shape == (4, 1, 3, 3) and cut.next_groups == 4
    even = nn.prune_channels(w, 0.34, scores=scores, groups=2, next_w=drawn(4, 3, 1, 1), next_groups=2)
    assert even.next_w is not None and even.next_w.shape == (4, 2, 1, 1)
    with pytest.raises(ValueError, match=r"keep as many inputs, got \[1, 3\]"):
        nn.prune_channels(w, 0.34, scores=scores, next_w=drawn(4, 3, 1, 1), next_groups=2)


def test_of_equal_scores_the_first_stay() -> None:
    assert nn.prune_channels(np.ones((5, 1, 1, 1)), 0.5).kept.tolist() == [0, 1, 2]


def test_conv_bn_relu_against_its_three_steps() -> None:
    x, w, norm = drawn(2, 3, 8, 8), drawn(4, 3, 3, 3), norm_of(4)
    steps = np.maximum(nn.batch_norm(fastconv.conv2d(x, w, padding=1), norm), 0)
    np.testing.assert_allclose(nn.conv_bn_relu(x, w, norm), steps, rtol=1e-12, atol=1e-12)
    assert nn.conv_bn_relu(x, w, norm).shape[2:] == (8, 8)
    # k // 2 keeps the size for odd kernels only.
    assert nn.conv_bn_relu(x, drawn(4, 3, 4, 4), norm).shape[2:] == (9, 9)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_depthwise_separable_block(layout: str) -> None:
    x, deep, mix, norms = drawn(1, 3, 9, 9), drawn(3, 1, 3, 3), drawn(64, 3, 1, 1), (norm_of(3), norm_of(64))
    first = np.maximum(nn.batch_norm(fastconv.conv2d(x, deep, padding=1, groups=3), norms[0]), 0)
    expected = np.maximum(nn.batch_norm(fastconv.conv2d(first, mix), norms[1]), 0)
    given = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    found = nn.depthwise_separable(given, deep, mix, norms, layout=layout)
    found = found if layout == "NCHW" else found.transpose(0, 3, 1, 2)
    assert found.shape == (1, 64, 9, 9)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("stride", "outputs", "shortcut"), [(1, 4, True), (2, 4, False), (1, 5, False)])
def test_mobilenet_v2_block(stride: int, outputs: int, shortcut: bool) -> None:
    x, norms = 3 * drawn(2, 4, 8, 8), (norm_of(24), norm_of(24, 2), norm_of(outputs, 3))
    grow, deep, shrink = drawn(24, 4, 1, 1), drawn(24, 1, 3, 3), drawn(outputs, 24, 1, 1)
    wide = np.clip(nn.batch_norm(fastconv.conv2d(x, grow), norms[0]), 0, 6)
    wide = fastconv.conv2d(wide, deep, stride=stride, padding=1, groups=24)
    wide = np.clip(nn.batch_norm(wide, norms[1]), 0, 6)
    expected = nn.batch_norm(fastconv.conv2d(wide, shrink), norms[2]) + (x if shortcut else 0)
    found = nn.inverted_residual(x, grow, deep, shrink, norms, stride)
    assert wide.max() == 6  # the case meets the upper end of ReLU6
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_mobilenet_v2_block_without_expansion() -> None:
    x, deep, shrink = drawn(1, 4, 6, 6), drawn(4, 1, 3, 3), drawn(4, 4, 1, 1)
    wide = np.clip(fastconv.conv2d(x, deep, padding=1, groups=4), 0, 6)
    expected = fastconv.conv2d(wide, shrink) + x
    np.testing.assert_allclose(nn.inverted_residual(x, None, deep, shrink), expected, rtol=1e-11, atol=1e-11)


def test_parameter_counts() -> None:
    assert nn.parameters(3, 64, 3) == (3 * 3 * 3 + 1) * 64
    assert nn.parameters(64, 64, 3, groups=64, bias=False) == 576
    assert nn.parameters(64, 64, 3, bias=False) == 36_864
    assert nn.parameters(64, 128, 3, bias=False) == 73_728
    assert nn.separable_parameters(64, 128, 3) == 576 + 8_192
    assert round(73_728 / nn.separable_parameters(64, 128, 3), 1) == 8.4
    assert nn.dense_parameters(100 * 100, 512) > 5_000_000
    assert nn.parameters(1, 1, 5, bias=False) == 25 and 2 * nn.parameters(1, 1, 3, bias=False) == 18
    assert nn.local_parameters(3, 8, 3, (10, 12)) == 120 * nn.parameters(3, 8, 3)
    assert nn.local_parameters(3, 8, 3, (10, 12), regions=2) == 4 * nn.parameters(3, 8, 3)
    assert nn.parameters(64, 128, 3, groups=4, bias=False) == 16 * 9 * 128


def test_counts_are_those_of_the_arrays() -> None:
    x, w = np.zeros((2, 3, 9, 7), np.float32), np.zeros((6, 1, 3, 3), np.float32)
    y = fastconv.conv2d(x, w, stride=2, groups=3)
    found = nn.count(x.shape, w.shape, stride=2, groups=3, bias=False)
    assert found.output_shape == y.shape and found.flop == 2 * y.size * 9
    assert (found.input_bytes, found.output_bytes, found.parameter_bytes) == (x.nbytes, y.nbytes, w.nbytes)
    assert nn.count(x.shape, w.shape, groups=3).parameters == w.size + 6


def test_shapes_of_a_stack_are_those_of_conv2d() -> None:
    words = ["3x3p1", "3x5s2x1p1x2", "pool2", "3x3d2p2"]
    shapes = nn.stack_shapes((33, 31), words)
    for (before, after), layer in zip(pairwise(shapes), map(nn.Layer.parse, words), strict=True):
        expected = fastconv.conv_output_shape(
            (1, *before), (1, 1, *layer.kernel), layer.stride, layer.padding, layer.dilation
        )
        assert expected == (1, *after)
    with pytest.raises(ValueError, match="5 kernel rows on 3"):
        nn.stack_shapes(7, ["5x5", "5x5"])


def test_receptive_field_of_a_stack() -> None:
    field = nn.receptive_field(["3x3", "3x3", "pool2", "3x3", "3x3", "pool2"])
    assert (field.size, field.jump, field.start) == ((16, 16), (4, 4), (7.5, 7.5))
    assert nn.receptive_field(["3x3d2"]).size == (5, 5)
    assert nn.receptive_field([]).size == (1, 1)


@pytest.mark.parametrize("words", [["3x3p1", "3x2s2", "pool2"], ["5x3s2p2d1", "3x3p1d2"], ["3x3s3", "2x2"]])
def test_pixels_outside_the_receptive_field_do_not_matter(words: list[str]) -> None:
    """Follow the impulse of each pixel through convolutions with kernels of ones."""
    layers = [nn.Layer.parse(word) for word in words]
    rows, columns = 24, 22
    x = np.eye(rows * columns).reshape(-1, 1, rows, columns)
    for layer in layers:
        x = fastconv.conv2d(
            x, np.ones((1, 1, *layer.kernel)), None, layer.stride, layer.padding, layer.dilation
        )
    reached = x[:, 0].reshape(rows, columns, *x.shape[2:]) != 0
    field = nn.receptive_field(layers)
    for row, column in ((0, 0), (2, 1)):
        top, bottom, left, right = field.window(row, column)
        found = np.argwhere(reached[:, :, row, column])
        assert found.min(0).tolist() >= [max(top, 0), max(left, 0)]
        if top >= 0 and left >= 0:
            assert found.min(0).tolist() == [top, left]
        assert found.max(0).tolist() == [bottom - 1, right - 1]


def test_extent_of_a_block_of_outputs() -> None:
    assert nn.input_extent(5, 3) == (7, 7)
    assert nn.input_extent((2, 3), (3, 5), 2, 2) == (7, 13)


def test_words_of_layers() -> None:
    assert nn.Layer.parse("3x3s1") == nn.Layer.parse("conv3") == nn.Layer((3, 3))
    assert nn.Layer.parse("pool2") == nn.Layer((2, 2), (2, 2))
    assert nn.Layer.parse("5x3s2x1p2x1d2") == nn.Layer((5, 3), (2, 1), (2, 1), (2, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Layer.parse("3y3"), ValueError, "must look like 3x3s1"),
        (lambda: nn.Layer.parse("0x3"), ValueError, "at least 1"),
        (lambda: nn.parameters(3, 4, 3, groups=2), ValueError, "groups must divide"),
        (lambda: nn.local_parameters(1, 1, 3, 4, regions=5), ValueError, "5x5 for 4x4"),
        (lambda: nn.prune_channels(np.ones((4, 1, 1, 1)), 1.0), ValueError, "ratio must be"),
        (lambda: nn.prune_channels(np.ones((4, 1, 1, 1)), 0.5, scores=[1, 2]), ValueError, r"shape \(4,\)"),
        (
            lambda: nn.prune_channels(np.ones((2, 1, 1, 1)), 0.5, scores=[1, np.nan]),
            ValueError,
            "NaN for channel 1",
        ),
        (
            lambda: nn.prune_channels(np.ones((4, 1, 1, 1)), 0.5, next_w=np.ones((2, 3, 1, 1))),
            ValueError,
            "read the 4 channels",
        ),
        (lambda: nn.fold_batch_norm(np.ones((4, 1, 1, 1)), None, norm_of(3)), ValueError, r"shape \(4,\)"),
        (
            lambda: nn.fold_batch_norm(np.ones((1, 1, 1, 1), np.int32), None, norm_of(1)),
            TypeError,
            "floating",
        ),
        (
            lambda: nn.fold_batch_norm(np.ones((1, 1, 1, 1)), None, nn.BatchNorm([1], [1], [1], [-1])),
            ValueError,
            "var [+] eps must be positive",
        ),
        (lambda: nn.receptive_field(["3x3", "nonsense"]), ValueError, "nonsense"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
