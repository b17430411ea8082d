"""The kernel bank: printed values, sums, and the kernels of OpenCV and scikit-image with their scalings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastconv import image


def test_printed_kernels() -> None:
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    np.testing.assert_array_equal(image.kernel("sobel_x"), sobel)
    np.testing.assert_array_equal(image.kernel("sobel_y"), sobel.T)
    np.testing.assert_array_equal(image.kernel("vertical"), [[-1, 0, 1]] * 3)
    np.testing.assert_array_equal(image.kernel("horizontal"), [[-1] * 3, [0] * 3, [1] * 3])
    np.testing.assert_array_equal(image.kernel("box"), np.full((3, 3), 1 / 9))


def test_both_laplacians_and_what_sharpens() -> None:
    four, eight = image.kernel("laplacian"), image.kernel("laplacian_8")
    assert four[1, 1] == -4 and four.sum() == 0 and np.count_nonzero(four) == 5
    assert eight[1, 1] == 8 and eight.sum() == 0 and np.count_nonzero(eight) == 9
    np.testing.assert_array_equal(image.kernel("sharpen"), image.kernel("identity") - four)


def test_gabor_divided_by_its_sum_would_blow_up() -> None:
    weights = image.kernel("gabor", size=31, sigma=4, theta=0, lambd=4, gamma=0.5)
    assert abs(weights.sum()) < 0.02 and 90 < np.abs(weights).sum() < 100
    scaled = image.kernel("gabor", lambd=4, normalise="l1")
    np.testing.assert_allclose(scaled, weights / np.abs(weights).sum(), rtol=1e-12)
    flat = image.kernel("gabor", lambd=4, normalise="zero-mean")
    assert abs(flat.sum()) < 1e-12 and abs(np.abs(flat).sum() - 1) < 1e-12
    # The centre stays positive: division by the sum, -0.011, would have turned it.
    assert weights[15, 15] == 1 and scaled[15, 15] > 0 and flat[15, 15] > 0


def test_gabor_by_its_formula() -> None:
    theta = 0.3
    weights = image.kernel("gabor", size=5, sigma=2, theta=theta, lambd=3, gamma=0.7)
    x, y = 2, 1  # to the right and downwards of the centre
    along = x * math.cos(theta) + y * math.sin(theta)
    across = -x * math.sin(theta) + y * math.cos(theta)
    expected = math.exp(-(along**2 + 0.49 * across**2) / 8) * math.cos(2 * math.pi * along / 3)
    assert math.isclose(weights[2 + y, 2 + x], expected, rel_tol=1e-12)


def test_gaussian_sizes() -> None:
    assert image.kernel("gaussian", sigma=2).shape == (17, 17)
    assert image.kernel("gaussian", size=5).shape == (5, 5)
    assert math.isclose(image.kernel("gaussian", size=7, sigma=1.5).sum(), 1, rel_tol=1e-12)


def test_laplacian_of_gaussian() -> None:
    weights = image.kernel("log", sigma=1.5)
    assert abs(weights.sum()) < 1e-15 and weights[weights.shape[0] // 2, weights.shape[1] // 2] < 0
    # On x^2 + y^2 the Laplacian is 4 everywhere.
    side = weights.shape[0]
    squares = (np.arange(side) - side // 2) ** 2
    assert abs((weights * (squares[:, None] + squares)).sum() - 4) < 0.02


@pytest.mark.peer
@pytest.mark.parametrize("theta", [0, 0.4, 2.0])
@pytest.mark.parametrize("psi", [0, 0.7])
def test_opencv_has_the_same_gabor(theta: float, psi: float) -> None:
    cv2 = pytest.importorskip("cv2")
    words: dict[str, Any] = {"sigma": 4, "theta": theta, "lambd": 10, "gamma": 0.5, "psi": psi}
    expected = cv2.getGaborKernel((31, 31), *words.values())
    np.testing.assert_allclose(image.kernel("gabor", size=31, **words), expected, atol=1e-12)


@pytest.mark.peer
def test_opencv_has_the_same_gaussian_and_slopes() -> None:
    cv2 = pytest.importorskip("cv2")
    for size, sigma in ((5, 0), (15, 0), (9, 1.7)):
        column = cv2.getGaussianKernel(size, sigma, cv2.CV_64F)
        if size > 7 or sigma:  # smaller ones without sigma are a table of whole 16ths in OpenCV
            ours = image.kernel("gaussian", size=size, sigma=sigma or None)
            np.testing.assert_allclose(ours, column * column.T, rtol=1e-6)
    for name, size in (("sobel", 3), ("scharr", -1)):
        down, across = cv2.getDerivKernels(1, 0, size)
        np.testing.assert_array_equal(image.kernel(f"{name}_x"), across * down.T)


@pytest.mark.peer
@pytest.mark.parametrize(("name", "scale"), [("sobel", 4), ("prewitt", 3), ("scharr", 16)])
def test_scikit_image_divides_its_slopes(name: str, scale: int) -> None:
    filters = pytest.importorskip("skimage.filters")
    x = np.zeros((5, 5))
    x[2, 2] = 1
    found = getattr(filters, f"{name}_v")(x)[1:4, 1:4]
    np.testing.assert_allclose(found[::-1, ::-1] * scale, image.kernel(f"{name}_x"), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "words", "error", "message"),
    [
        ("zebra", {}, ValueError, "one of 'sobel_x'"),
        (3, {}, TypeError, "int 3"),
        ("sobel_x", {"size": 5}, TypeError, "has no parameters, got 'size'"),
        ("box", {"sigma": 5}, TypeError, "has the parameters size, got 'sigma'"),
        ("box", {"size": 4}, ValueError, "odd"),
        ("box", {"size": 3.0}, TypeError, "integer"),
        ("gaussian", {"sigma": 0}, ValueError, "sigma must be a positive number, got 0"),
        ("gaussian", {"sigma": math.inf}, ValueError, "positive number"),
        ("gabor", {"normalise": "sum"}, ValueError, "'l1', 'zero-mean'"),
        ("gabor", {"lambd": -1.0}, ValueError, "lambd"),
    ],
)
def test_mistakes(name: Any, words: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        image.kernel(name, **words)


def test_parameters_are_listed() -> None:
    assert dict(image.parameters("box")) == {"size": 3}
    for name in image.KERNELS:
        np.testing.assert_array_equal(image.kernel(name, **image.parameters(name)), image.kernel(name))
