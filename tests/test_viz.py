"""What is shown as arrays and text; figures are only asked whether they hold it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import image, nn, viz


def test_mosaic_of_eight_columns() -> None:
    planes = np.arange(10 * 12.0).reshape(10, 3, 4)
    sheet = viz.mosaic(planes)
    assert sheet.shape == (2 * 3 + 1, 8 * 4 + 7)
    for index in range(10):
        row, column = 4 * (index // 8), 5 * (index % 8)
        np.testing.assert_allclose(
            sheet[row : row + 3, column : column + 4], (planes[index] - planes[index].min()) / 11
        )
    assert np.isnan(sheet[3]).all() and np.isnan(sheet[:, 4]).all() and np.isnan(sheet[4:, 9:]).all()
    assert (viz.mosaic(np.ones((1, 2, 2))) == 0).all()
    assert viz.mosaic(np.ones((6, 3, 5, 5)), columns=3, gap=0).shape == (30, 15)


def test_steps_of_a_7x7_input() -> None:
    x = np.random.default_rng(0).integers(0, 10, (7, 7)).astype(float)
    kernel = image.kernel("sobel_x")
    whole = fastconv.conv2d(x[None], kernel[None, None])[0]
    assert whole.shape == (5, 5)
    for row, column in np.ndindex(5, 5):
        one = viz.step(x, kernel, (row, column))
        assert one.total == whole[row, column] == one.products.sum()
        np.testing.assert_array_equal(one.window, x[row : row + 3, column : column + 3])
        assert str(one).endswith(f"= {one.total:.4g}") and f"output ({row}, {column}) of 5 x 5" in str(one)


@pytest.mark.parametrize("words", [{"padding": 2, "stride": 2}, {"padding": "same", "dilation": 2}])
def test_steps_with_padding_stride_and_dilation(words: dict[str, Any]) -> None:
    x, kernel = np.random.default_rng(0).integers(-9, 10, (6, 7)).astype(float), np.arange(6.0).reshape(3, 2)
    whole = fastconv.conv2d(x[None], kernel[None, None], **words)[0]
    for place in np.ndindex(whole.shape):
        assert viz.step(x, kernel, (place[0], place[1]), **words).total == whole[place]
    assert "." in str(viz.step(x, kernel, (0, 0), **words)).splitlines()[1]


def test_text_of_a_step() -> None:
    x, kernel = np.arange(16.0).reshape(4, 4), np.array([[1.0, 0.0], [0.0, -1.0]])
    assert str(viz.step(x, kernel, (1, 2))).splitlines() == [
        "window   kernel   products",
        "  6  7 *   1  0 =    6   0",
        " 10 11     0 -1      0 -11",
        "output (1, 2) of 3 x 3: 6 - 11 = -5",
    ]


def test_frame_of_a_receptive_field() -> None:
    field = nn.receptive_field(["3x3", "3x3", "pool2"])
    drawn = viz.framed(np.zeros((20, 20, 3), np.uint8), field.window(2, 3), 1)
    rows, columns = np.nonzero(drawn[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 9, 6, 11)
    assert len(rows) == 4 * 6 - 4 and not drawn[..., 1:].any()


def test_local_contrast() -> None:
    pytest.importorskip("skimage")
    plane = np.linspace(-0.01, 0.01, 64 * 64).reshape(64, 64)
    shown = viz.local_contrast(plane)
    assert shown.shape == plane.shape and shown.min() >= 0 and shown.max() <= 1 and np.ptp(shown) > 0.5
    assert viz.local_contrast(np.zeros((16, 16))).shape == (16, 16)


def test_figures_hold_what_they_show() -> None:
    pytest.importorskip("matplotlib")
    planes = np.random.default_rng(0).random((5, 6, 7))
    shown = viz.mosaic_figure(planes).axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), viz.mosaic(planes))
    one = viz.step(planes[0], np.eye(3), (1, 1))
    figure = viz.step_figure(one)
    assert [axes.get_title() for axes in figure.axes] == ["window", "kernel", "products"]
    assert len(figure.axes[2].texts) == 9
    line = viz.receptive_field_figure(planes[0], (1, 4, 2, 5)).axes[0].lines[0]
    assert (min(line.get_xdata()), max(line.get_xdata()), min(line.get_ydata())) == (1.5, 4.5, 0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: viz.mosaic(np.ones(3)), ValueError, "3 or 4 axes"),
        (lambda: viz.mosaic(np.ones((0, 3, 3))), ValueError, "empty"),
        (lambda: viz.mosaic(np.ones((1, 3, 3)), 0), ValueError, "columns must be at least 1"),
        (
            lambda: viz.step(np.ones((7, 7)), np.ones((3, 3)), (5, 0)),
            ValueError,
            r"5 rows and 5 columns, got \(5, 0\)",
        ),
        (lambda: viz.step(np.ones((2, 2)), np.ones((3, 3)), (0, 0)), ValueError, "must not be larger"),
        (lambda: viz.step(np.ones((4, 4)), np.ones((3, 3)), (0,)), ValueError, "row, column"),
        (lambda: viz.framed(np.ones(4), (0, 1, 0, 1)), ValueError, "2 or 3 axes"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
