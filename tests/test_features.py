"""What texts about convolution teach, row by row: where each feature's numbers are checked.

`FEATURES` maps each row to the tests that check it; rows that no other file checks have theirs below. Five formulas
are often printed wrong, and the tests hold the right reading: rows 9 (a "same" that is none), 29 (Winograd's matrices
transposed), 32 (a folded bias that forgets the layer's own), 35 (pruning that forgets order and the next layer), 41
(Gabor kernels divided by a sum that may vanish).
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import nn

Array = np.ndarray[Any, Any]
HOME = Path(__file__).resolve().parent

#: Row: what it is about, and "file::test" for each test that checks it.
FEATURES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("convolution of two lists", ("test_image_filters::test_convolution_of_two_lists",)),
    2: (
        "convolution flips, correlation does not",
        (
            "test_image_filters::test_convolution_turns_the_kernel_and_correlation_does_not",
            "test_reference::test_kernels_are_not_flipped",
        ),
    ),
    3: ("equation of a layer", ("test_features::test_equation_of_a_layer",)),
    4: ("output size with explicit padding", ("test_features::test_output_sizes",)),
    5: ("a stride for each axis", ("test_features::test_a_stride_for_each_axis",)),
    6: ("padding same", ("test_problem::test_same_padding_is_tensorflows_at_any_stride",)),
    7: ("padding valid", ("test_features::test_valid_padding",)),
    8: ("padding full", ("test_problem::test_full_padding_reaches_every_position_that_touches",)),
    9: ("padding that keeps the size at any stride", ("test_features::test_keeping_the_size_is_not_same",)),
    10: (
        "same padding of odd kernels",
        ("test_features::test_half_the_kernel_keeps_the_size_of_odd_ones_only",),
    ),
    11: ("several input channels are summed", ("test_features::test_channels_are_summed",)),
    12: ("a bias for each output channel", ("test_features::test_a_bank_of_filters_with_bias",)),
    13: (
        "checks of the input",
        ("test_errors::test_ranks", "test_errors::test_channels", "test_errors::test_empty_kernels"),
    ),
    14: ("one image, channels last", ("test_features::test_one_image_with_channels_last",)),
    15: ("batches, channels first", ("test_features::test_batches_with_channels_first",)),
    16: ("arguments of a layer as in Keras", ("test_features::test_a_layer_of_32_filters",)),
    17: ("both layouts", ("test_identities::test_layouts_give_the_same", "test_reference::test_layouts")),
    18: (
        "receptive field of one layer",
        (
            "test_features::test_a_layer_sees_its_kernel",
            "test_identities::test_one_pixel_touches_its_windows_only",
        ),
    ),
    19: ("extent of a block of outputs", ("test_nn::test_extent_of_a_block_of_outputs",)),
    20: (
        "receptive field of a stack",
        (
            "test_nn::test_receptive_field_of_a_stack",
            "test_nn::test_pixels_outside_the_receptive_field_do_not_matter",
        ),
    ),
    21: ("dilation", ("test_identities::test_dilation_is_a_kernel_with_gaps",)),
    22: (
        "groups",
        ("test_features::test_four_groups", "test_identities::test_groups_are_convolutions_side_by_side"),
    ),
    23: ("depthwise", ("test_features::test_depthwise_weights", "test_nn::test_parameter_counts")),
    24: (
        "depthwise-separable",
        ("test_nn::test_depthwise_separable_block", "test_nn::test_parameter_counts"),
    ),
    25: ("1x1 is a matrix product", ("test_identities::test_1x1_is_a_matrix_product",)),
    26: (
        "transposed convolution",
        (
            "test_features::test_transposed_convolution_doubles_the_size",
            "test_transposed::test_small_integers_are_exact",
        ),
    ),
    27: (
        "locally connected",
        (
            "test_local::test_kernels_of_pixels",
            "test_local::test_kernels_of_regions",
            "test_nn::test_parameter_counts",
        ),
    ),
    28: (
        "im2col",
        (
            "test_features::test_matrix_of_windows",
            "test_unfolding::test_product_with_the_matrix_is_convolution",
        ),
    ),
    29: ("Winograd", ("test_features::test_winograd_of_four_outputs_with_sixteen_products",)),
    30: ("four loops", ("test_features::test_four_loops",)),
    31: ("ReLU", ("test_reference::test_activations_by_hand", "test_epilogue::test_activations")),
    32: (
        "batch normalisation folded",
        (
            "test_nn::test_folded_bias_by_hand",
            "test_nn::test_folding_gives_the_same_results",
            "test_nn::test_folding_of_transposed_weights",
        ),
    ),
    33: (
        "blocks",
        (
            "test_nn::test_conv_bn_relu_against_its_three_steps",
            "test_nn::test_depthwise_separable_block",
            "test_features::test_pooling_after_a_block",
        ),
    ),
    34: (
        "block of MobileNetV2",
        ("test_nn::test_mobilenet_v2_block", "test_nn::test_mobilenet_v2_block_without_expansion"),
    ),
    35: (
        "pruning of channels",
        (
            "test_nn::test_pruning_keeps_the_order_and_cuts_the_next_layer",
            "test_nn::test_pruning_of_groups_and_before_a_depthwise_layer",
        ),
    ),
    36: (
        "numbers of parameters",
        ("test_nn::test_parameter_counts", "test_nn::test_counts_are_those_of_the_arrays"),
    ),
    37: ("pooling", ("test_pooling::test_values_of_the_source",)),
    38: (
        "kernels by name",
        (
            "test_image_kernels::test_printed_kernels",
            "test_image_kernels::test_both_laplacians_and_what_sharpens",
        ),
    ),
    39: ("sharpen", ("test_image_kernels::test_both_laplacians_and_what_sharpens",)),
    40: (
        "magnitude and direction of slopes",
        (
            "test_image_filters::test_gradient_of_two_planes",
            "test_image_filters::test_scikit_image_scales_its_gradient",
        ),
    ),
    41: (
        "Gabor",
        (
            "test_image_kernels::test_gabor_divided_by_its_sum_would_blow_up",
            "test_image_kernels::test_gabor_by_its_formula",
            "test_image_kernels::test_opencv_has_the_same_gabor",
        ),
    ),
    42: (
        "symmetric boundary",
        (
            "test_image_filters::test_scipy_signal_in_every_mode_and_boundary",
            "test_reference::test_padding_modes",
        ),
    ),
    43: ("local contrast", ("test_viz::test_local_contrast",)),
    44: ("grid of feature maps", ("test_viz::test_mosaic_of_eight_columns",)),
    45: ("step by step", ("test_viz::test_steps_of_a_7x7_input", "test_cli_images::test_step")),
    46: (
        "what goes wrong: sizes, channel order, initial weights, memory, fields too small",
        (
            "test_features::test_memory_is_known_beforehand",
            "test_features::test_initial_weights_keep_the_variance",
            "test_errors::test_channels",
            "test_nn::test_shapes_of_a_stack_are_those_of_conv2d",
            "test_cli_images::test_receptive_field",
        ),
    ),
    47: (
        "backward pass",
        (
            "test_features::test_gradient_of_the_input_is_the_transpose",
            "test_transposed::test_gradients_are_adjoint_to_the_convolution",
        ),
    ),
}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((HOME / f"{file}.py").read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_is_there() -> None:
    assert list(FEATURES) == list(range(1, 48))


@pytest.mark.parametrize("row", FEATURES)
def test_row_has_its_tests(row: int) -> None:
    _, references = FEATURES[row]
    assert references
    for reference in references:
        file, _, name = reference.partition("::")
        assert name.startswith("test_") and name in names_in(file), reference


def test_every_check_of_this_file_belongs_to_a_row() -> None:
    own = {
        reference.removeprefix("test_features::")
        for _, references in FEATURES.values()
        for reference in references
        if reference.startswith("test_features::")
    }
    about_the_table = {
        "test_every_row_is_there", "test_row_has_its_tests", "test_every_check_of_this_file_belongs_to_a_row",
    }  # fmt: skip
    assert {name for name in names_in("test_features") if name.startswith("test_")} == own | about_the_table


def whole(*shape: int) -> Array:
    """Return whole numbers, so that every order of summing gives the same."""
    return np.random.default_rng(list(shape)).integers(-9, 10, shape).astype(np.float64)


def loops(x: Array, w: Array, stride: tuple[int, int] = (1, 1)) -> Array:
    """Correlate a plane with a kernel in four loops."""
    (h, wide), (kh, kw) = x.shape, w.shape
    y = np.zeros(((h - kh) // stride[0] + 1, (wide - kw) // stride[1] + 1))
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for u in range(kh):
                for v in range(kw):
                    y[i, j] += x[i * stride[0] + u, j * stride[1] + v] * w[u, v]
    return y


def test_equation_of_a_layer() -> None:
    x, w, b = whole(9, 8, 3), whole(3, 2, 3, 4), whole(4)
    y = fastconv.conv2d(x, w, b, stride=(2, 1), layout="NHWC", weight_layout="HWIO")
    for i, j, k in np.ndindex(y.shape):
        # Output (i, j) sees rows 2 i ... 2 i + 2 and columns j ... j + 1.
        assert y[i, j, k] == b[k] + (x[2 * i : 2 * i + 3, j : j + 2] * w[..., k]).sum()


def test_output_sizes() -> None:
    def size(rows: int, columns: int, kernel: int, stride: int = 1, padding: int = 0) -> tuple[int, ...]:
        shape = fastconv.conv_output_shape((1, rows, columns), (1, 1, kernel, kernel), stride, padding)
        assert (
            shape[1:]
            == fastconv.conv2d(
                np.zeros((1, rows, columns)), np.zeros((1, 1, kernel, kernel)), None, stride, padding
            ).shape[1:]
        )
        return shape[1:]

    assert size(5, 7, 3) == (3, 5)
    assert size(7, 7, 3) == (5, 5)
    assert size(7, 7, 3, stride=2) == (3, 3)
    assert size(8, 8, 3, stride=2) == (3, 3)
    assert size(32, 32, 3, padding=1) == (32, 32)


def test_a_stride_for_each_axis() -> None:
    x, w = whole(9, 11), whole(3, 3)
    y = fastconv.conv2d(x[None], w[None, None], stride=(2, 3))[0]
    assert y.shape == (4, 3)  # the first stride is that of the rows
    np.testing.assert_array_equal(y, loops(x, w, (2, 3)))


def test_valid_padding() -> None:
    for n in range(5, 12):
        for k in range(1, 6):
            for s in range(1, 4):
                shape = fastconv.conv_output_shape((1, n, n), (1, 1, k, k), s, "valid")
                assert shape == fastconv.conv_output_shape((1, n, n), (1, 1, k, k), s, 0)
                assert shape[1] == -(-(n - k + 1) // s)


def test_keeping_the_size_is_not_same() -> None:
    n, k, s = 7, 3, 2
    padding = ((s - 1) * n - s + k) // 2
    assert padding == 4
    assert fastconv.conv_output_shape((1, n, n), (1, 1, k, k), s, padding) == (1, n, n)
    assert fastconv.conv_output_shape((1, n, n), (1, 1, k, k), s, "same") == (1, 4, 4)


def test_half_the_kernel_keeps_the_size_of_odd_ones_only() -> None:
    for k in range(1, 10):
        kept = fastconv.conv_output_shape((1, 12, 12), (1, 1, k, k), 1, (k - 1) // 2) == (1, 12, 12)
        assert kept == (k % 2 == 1)
        assert fastconv.conv_output_shape((1, 12, 12), (1, 1, k, k), 1, "same") == (1, 12, 12)


def test_channels_are_summed() -> None:
    x, w = whole(3, 6, 7), whole(3, 3, 3)
    expected = sum(loops(plane, kernel) for plane, kernel in zip(x, w, strict=True))
    np.testing.assert_array_equal(fastconv.conv2d(x, w[None])[0], expected)


def test_a_bank_of_filters_with_bias() -> None:
    x, w = whole(3, 6, 7), whole(2, 3, 3, 3)
    y = fastconv.conv2d(x, w, np.array([1.0, 0.0]))
    np.testing.assert_array_equal(y[0], fastconv.conv2d(x, w[:1])[0] + 1)
    np.testing.assert_array_equal(y[1], fastconv.conv2d(x, w[1:])[0])


def test_one_image_with_channels_last() -> None:
    x, w = whole(6, 7, 3), whole(3, 3, 3, 2)
    words: dict[str, Any] = {"layout": "NHWC", "weight_layout": "HWIO"}
    y = fastconv.conv2d(x, w, stride=(1, 1), padding="same", **words)
    assert y.shape == (6, 7, 2)
    np.testing.assert_array_equal(
        y.transpose(2, 0, 1), fastconv.conv2d(x.transpose(2, 0, 1), w.transpose(3, 2, 0, 1), padding=1)
    )


def test_batches_with_channels_first() -> None:
    x, w = whole(2, 3, 8, 9), whole(4, 3, 3, 3)
    y = fastconv.conv2d(x, w, stride=(2, 1), padding=(1, 0))
    assert y.shape == (2, 4, 4, 7)
    for image in range(2):
        np.testing.assert_array_equal(y[image], fastconv.conv2d(x[image], w, None, (2, 1), (1, 0)))


def test_a_layer_of_32_filters() -> None:
    words: dict[str, Any] = {"layout": "NHWC", "weight_layout": "HWIO"}
    x, w = np.zeros((1, 64, 64, 3), np.float32), np.zeros((3, 3, 3, 32), np.float32)
    assert fastconv.conv2d(x, w, padding="same", **words).shape == (1, 64, 64, 32)
    assert fastconv.conv2d(x, w, padding="valid", **words).shape == (1, 62, 62, 32)


def test_a_layer_sees_its_kernel() -> None:
    field = nn.receptive_field(["5x3s2"])
    assert field.size == (5, 3) and field.window(2, 1) == (4, 9, 2, 5)
    assert nn.receptive_field(["3x3d4"]).size == (9, 9)  # (k - 1) * d + 1


def test_four_groups() -> None:
    x, w = whole(64, 5, 5), whole(128, 16, 3, 3)
    y = fastconv.conv2d(x, w, groups=4)
    for group in range(4):
        inputs, outputs = slice(16 * group, 16 * group + 16), slice(32 * group, 32 * group + 32)
        np.testing.assert_array_equal(y[outputs], fastconv.conv2d(x[inputs], w[outputs]))


def test_depthwise_weights() -> None:
    x, w = whole(64, 6, 6), whole(64, 1, 3, 3)
    assert w.size == 576 and nn.parameters(64, 64, 3, bias=False) == 36_864
    y = fastconv.conv2d(x, w, groups=64)
    for channel in range(64):
        np.testing.assert_array_equal(y[channel], loops(x[channel], w[channel, 0]))


def transposed(x: Array, w: Array, stride: int, padding: int, size: int) -> Array:
    """Spread each pixel over a window: weights (C, O, kh, kw), result (O, size, size)."""
    spread = w.reshape(len(w), -1).T @ x.reshape(len(x), -1)
    kernel = (w.shape[2], w.shape[3])
    result: Array = fastconv.col2im(spread, (size, size), kernel, stride=stride, padding=padding)
    return result


def test_transposed_convolution_doubles_the_size() -> None:
    n, k, s = 6, 4, 2
    p = k // 2 - 1
    size = (n - 1) * s - 2 * p + k
    assert size == 2 * n
    x, w = whole(3, n, n), whole(3, 5, k, k)
    y = transposed(x, w, s, p, size)
    expected = np.zeros((5, size + 2 * p, size + 2 * p))
    for i, j in np.ndindex(n, n):
        expected[:, i * s : i * s + k, j * s : j * s + k] += np.tensordot(x[:, i, j], w, 1)
    np.testing.assert_array_equal(y, expected[:, p:-p, p:-p])
    np.testing.assert_array_equal(fastconv.conv_transpose2d(x, w, None, s, p), y)


def test_gradient_of_the_input_is_the_transpose() -> None:
    x, w = whole(3, 8, 8), whole(5, 3, 3, 3)
    y = fastconv.conv2d(x, w, stride=2, padding=1)
    grad = whole(*y.shape)
    back = transposed(grad, w, 2, 1, 8)
    assert (y * grad).sum() == (x * back).sum()
    np.testing.assert_array_equal(fastconv.conv2d_input_grad(x.shape, w, grad, 2, 1), back)
    # By definition: how much the loss sum(y * grad) grows with one pixel.
    for place in ((0, 0, 0), (1, 3, 4), (2, 7, 7)):
        more = x.copy()
        more[place] += 1
        growth = ((fastconv.conv2d(more, w, stride=2, padding=1) - y) * grad).sum()
        assert back[place] == growth


def test_matrix_of_windows() -> None:
    x, w = whole(2, 3, 6, 7), whole(4, 3, 3, 2)
    matrix = fastconv.im2col(x, (3, 2)).transpose(0, 2, 1).reshape(-1, 3 * 3 * 2)
    rows = [
        x[n, :, i : i + 3, j : j + 2].ravel() for n in range(2) for i in range(4) for j in range(6)
    ]  # rows go n, oh, ow, columns c, kh, kw
    np.testing.assert_array_equal(matrix, rows)
    y = (matrix @ w.reshape(4, -1).T).reshape(2, 4, 6, 4).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(y, fastconv.conv2d(x, w))


def test_winograd_of_four_outputs_with_sixteen_products() -> None:
    filter_ = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    data = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    output = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    x, g = whole(4, 4), whole(3, 3)
    # As they are often printed, B and A are what the formula calls their transposes.
    products = (filter_ @ g @ filter_.T) * (data @ x @ data.T)
    assert products.size == 16 and loops(x, g).size * g.size == 36
    np.testing.assert_allclose(output @ products @ output.T, loops(x, g), atol=1e-12)
    with pytest.raises(ValueError, match=r"matmul|mismatch|align"):
        output.T @ products @ output
    many, bank = whole(1, 8, 12, 12), whole(8, 8, 3, 3)
    found = fastconv.conv2d(many, bank, padding=1, algorithm="winograd")
    exact = fastconv.conv2d(many, bank, padding=1, algorithm="reference")
    np.testing.assert_allclose(found, exact, atol=1e-10 * np.abs(exact).max())


def test_four_loops() -> None:
    x, w = whole(7, 9), whole(3, 4)
    for algorithm in ("reference", "auto"):
        y = fastconv.conv2d(x[None], w[None, None], algorithm=algorithm)
        np.testing.assert_array_equal(y[0], loops(x, w))


def test_pooling_after_a_block() -> None:
    x = whole(3, 9, 9)
    features = nn.depthwise_separable(x, whole(3, 1, 3, 3), whole(64, 3, 1, 1))
    pooled = fastconv.max_pool2d(features, 2)
    assert features.shape == (64, 9, 9) and pooled.shape == (64, 4, 4)
    np.testing.assert_array_equal(pooled, features[:, :8, :8].reshape(64, 4, 2, 4, 2).max(axis=(2, 4)))


def test_memory_is_known_beforehand() -> None:
    shapes = ((1, 64, 224, 224), (64, 64, 3, 3))
    counted = nn.count(*shapes, padding=1)
    assert counted.output_bytes == 4 * 64 * 224 * 224
    report = fastconv.explain(*shapes, padding=1, threads=1)
    (chosen,) = (row for row in report.rows if row.chosen)
    # Far less than the nine copies of the image that a matrix of windows is.
    assert 0 < chosen.workspace_bytes < counted.input_bytes
    less = fastconv.explain(*shapes, padding=1, threads=1, workspace_limit=chosen.workspace_bytes - 1)
    assert all(row.workspace_bytes < chosen.workspace_bytes for row in less.rows if row.chosen)


def test_initial_weights_keep_the_variance() -> None:
    """Kaiming's rule: with variance 2 / (c * kh * kw), layers with ReLU neither fade out nor blow up."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 32, 16, 16))
    before = np.square(x).mean()
    for _ in range(4):
        w = rng.standard_normal((32, 32, 3, 3)) * np.sqrt(2 / (32 * 9))
        x = fastconv.conv2d(x, w, padding=1, padding_mode="circular", activation="relu")
    assert 0.4 < np.square(x).mean() / before < 2.5
