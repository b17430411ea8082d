"""Image filters beside SciPy, OpenCV and scikit-image, and against definitions where those have none."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import image
from fastconv.image import strips, sweep

Array = np.ndarray[Any, Any]
NDIMAGE_MODES = (
    "reflect", "constant", "nearest", "mirror", "wrap", "grid-mirror", "grid-constant", "grid-wrap",
)  # fmt: skip


def numbers(*shape: int, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(list(shape)).integers(-9, 10, shape).astype(dtype)


def photo(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(params=[False, True], ids=["whole", "strips"])
def strip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do everything in one strip, or in many."""
    if request.param:
        for name in ("STRIP_BYTES", "STRIP_BYTES_OF_SEVERAL", "TALL_BYTES"):
            monkeypatch.setattr(strips, name, 300)
        monkeypatch.setattr(strips, "LEAST_HALOS", 0.0)
        for name, value in (("KEPT_BYTES", 1), ("BAND", 8), ("ROWS_BYTES", 3000)):
            monkeypatch.setattr(sweep, name, value)
    sweep._work.cache_clear()


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("mode", NDIMAGE_MODES)
@pytest.mark.parametrize("taps", [(3, 3), (2, 5), (1, 4), (7, 7), (9, 6), (15, 17)])
def test_scipy_correlate_in_every_mode(mode: str, taps: tuple[int, int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    # A kernel like any other, and one that is a column times a row: ways of their own. So are large ones.
    separable = np.outer(numbers(taps[0]), numbers(taps[1]))
    # Kernels may be larger than the image; but SciPy reads beside an image that is a quarter of the border.
    sizes = ((11, 13), (4, 3), (1, 2), (1, 1)) if max(taps) < 10 else ((11, 13), (4, 3))
    for kernel, dtype, size in product((numbers(*taps), separable), (np.float64, np.float32), sizes):
        x, accuracy = numbers(*size, dtype=dtype), "strict" if kernel.size > 200 else "standard"
        np.testing.assert_array_equal(
            image.filter2d(x, kernel, mode, cval=3.0, accuracy=accuracy),
            ndimage.correlate(x, kernel, mode=mode, cval=3.0),
        )


@pytest.mark.parametrize("taps", [(3, 3), (4, 5), (2, 1)])
def test_scipy_origin(taps: tuple[int, int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x, kernel = numbers(8, 9), numbers(*taps)
    down, across = (range(-(size // 2), (size - 1) // 2 + 1) for size in taps)
    for origin in product(down, across):
        np.testing.assert_array_equal(
            image.filter2d(x, kernel, origin=origin), ndimage.correlate(x, kernel, origin=origin)
        )


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
def test_scipy_signal_in_every_mode_and_boundary(name: str, mode: str, boundary: str) -> None:
    signal = pytest.importorskip("scipy.signal")
    for size, taps in (
        ((9, 8), (3, 3)),
        ((9, 8), (4, 2)),
        ((5, 6), (5, 6)),
        ((7, 7), (1, 4)),
        ((3, 4), (6, 5)),
    ):
        for dtype in (np.float64, np.float32, np.int32, np.uint8):
            a, v = numbers(*size, dtype=dtype), numbers(*taps, dtype=dtype)
            expected = getattr(signal, name)(a, v, mode, boundary, 2)
            found = getattr(image, name)(a, v, mode, boundary, 2)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_convolution_of_two_lists() -> None:
    a, v = numbers(1, 12), numbers(1, 5)
    np.testing.assert_array_equal(image.convolve2d(a, v)[0], np.convolve(a[0], v[0]))
    np.testing.assert_array_equal(image.correlate2d(a, v)[0], np.correlate(a[0], v[0], "full"))


def test_convolution_turns_the_kernel_and_correlation_does_not() -> None:
    impulse = np.zeros((5, 5))
    impulse[2, 2] = 1
    kernel = np.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(image.convolve2d(impulse, kernel, "same")[1:4, 1:4], kernel)
    np.testing.assert_array_equal(image.correlate2d(impulse, kernel, "same")[1:4, 1:4], kernel[::-1, ::-1])
    np.testing.assert_array_equal(
        image.convolve2d(impulse, kernel, "valid"), image.correlate2d(impulse, kernel[::-1, ::-1], "valid")
    )


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("layout", ["HW", "HWC", "NHW", "NHWC", "CHW", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16", "int16"])
def test_every_channel_of_every_image_is_filtered_alone(layout: str, dtype: str) -> None:
    sizes = {"N": 2, "H": 10, "W": 12, "C": 3}
    shape = tuple(sizes[letter] for letter in layout)
    x = (photo(*shape) // 16).astype(dtype)
    kernel = numbers(3, 5)
    y = image.filter2d(x, kernel, layout=layout)
    assert y.shape == shape and y.dtype == dtype and y.flags.c_contiguous
    rest = [layout.index(letter) for letter in layout if letter not in "HW"]
    order = [*rest, layout.index("H"), layout.index("W")]
    planes = x.transpose(order).reshape(-1, 10, 12)
    for plane, found in zip(planes, y.transpose(order).reshape(-1, 10, 12), strict=True):
        exact = fastconv.conv2d(
            np.pad(plane.astype(np.float64), ((1, 1), (2, 2)), "symmetric")[None], kernel[None, None]
        )[0]
        if np.dtype(dtype).kind in "iu":
            exact = np.clip(exact, np.iinfo(dtype).min, np.iinfo(dtype).max)
        np.testing.assert_array_equal(found, exact.astype(dtype))


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("size", [5, 9, 15, 31])
def test_separable_kernels_of_rgb(size: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    x = photo(40, 37, 3).astype(np.float32)
    kernel = image.kernel("gaussian", size=size)
    expected = np.stack([ndimage.correlate(x[..., c].astype(np.float64), kernel) for c in range(3)], axis=-1)
    np.testing.assert_allclose(image.filter2d(x, kernel), expected, rtol=1e-5)
    np.testing.assert_allclose(image.filter2d(x, kernel, accuracy="strict"), expected, rtol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(33, 41), (33, 41, 3)])
@pytest.mark.parametrize("name", ["sobel_x", "scharr_y", "laplacian", "laplacian_8", "sharpen", "identity"])
def test_opencv_rounds_bytes_alike(name: str, shape: tuple[int, ...]) -> None:
    cv2 = pytest.importorskip("cv2")
    x, kernel = photo(*shape), image.kernel(name)
    for words, border in ((("reflect",), cv2.BORDER_REFLECT), (("mirror",), cv2.BORDER_REFLECT_101)):
        expected = cv2.filter2D(x, -1, kernel, borderType=border)
        np.testing.assert_array_equal(image.filter2d(x, kernel, *words), expected)
    # Halves to even: weights of a quarter meet many.
    quarters = np.array([[0.25, 0, 0.25], [0, 0, 0], [0.25, 0, 0.25]])
    expected = cv2.filter2D(x, -1, quarters, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_array_equal(image.filter2d(x, quarters, "nearest"), expected)
    wide = cv2.filter2D(x, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT)
    np.testing.assert_array_equal(image.filter2d(x, kernel, dtype=np.float32), wide)


@pytest.mark.peer
@pytest.mark.parametrize("shape", [(33, 41), (33, 41, 3)])
def test_opencv_blurs_alike(shape: tuple[int, ...]) -> None:
    cv2 = pytest.importorskip("cv2")
    x = photo(*shape).astype(np.float32)
    for size, sigma in ((5, 1.1), (15, 0)):
        expected = cv2.GaussianBlur(x, (size, size), sigma, borderType=cv2.BORDER_REFLECT)
        kernel = image.kernel("gaussian", size=size, sigma=sigma or None)
        np.testing.assert_allclose(image.filter2d(x, kernel), expected, rtol=2e-5)
    expected = cv2.blur(x, (5, 5), borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(image.filter2d(x, image.kernel("box", size=5), "mirror"), expected, rtol=1e-5)
    gabor = image.kernel("gabor")
    expected = cv2.filter2D(x, -1, gabor, borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(image.filter2d(x, gabor), expected, atol=0.05 * np.abs(expected).max() * 1e-3)


@pytest.mark.peer
@pytest.mark.parametrize(("name", "scale"), [("sobel", 4), ("prewitt", 3), ("scharr", 16)])
def test_scikit_image_scales_its_gradient(name: str, scale: int) -> None:
    filters = pytest.importorskip("skimage.filters")
    x = photo(20, 22) / 255
    expected = getattr(filters, name)(x, mode="reflect") * scale * np.sqrt(2)
    found = image.gradient(x, name)
    np.testing.assert_allclose(found.magnitude, expected, rtol=1e-12, atol=1e-12)


def test_gradient_of_two_planes() -> None:
    rows, columns = np.mgrid[:6, :7].astype(float)
    for slope_x, slope_y in ((1, 0), (0, 1), (-1, 1), (2, -3)):
        found = image.gradient(slope_x * columns + slope_y * rows)
        inside = (slice(1, -1), slice(1, -1))
        np.testing.assert_allclose(found.magnitude[inside], 8 * np.hypot(slope_x, slope_y), rtol=1e-12)
        np.testing.assert_allclose(found.direction[inside], np.arctan2(slope_y, slope_x), rtol=1e-12)
    assert image.gradient(rows, direction=False).direction is None


def test_gradient_of_bytes() -> None:
    x = photo(17, 18, 3)
    exact = image.gradient(x.astype(np.float64)).magnitude
    assert image.gradient(x).magnitude.dtype == np.float32
    np.testing.assert_allclose(image.gradient(x).magnitude, exact, rtol=1e-6)
    rounded = image.gradient(x, dtype=np.uint8).magnitude
    assert np.abs(rounded - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4


def by_definition(x: Array, kernel: Array) -> Array:
    """Average over valid pixels, loops and all; edges repeated."""
    kh, kw = kernel.shape
    padded = np.pad(x, ((kh // 2, kh // 2), (kw // 2, kw // 2)), "symmetric")
    y = np.full(x.shape, np.nan)
    for i, j in np.ndindex(x.shape):
        window = padded[i : i + kh, j : j + kw]
        valid = ~np.isnan(window)
        if kernel[valid].sum():
            y[i, j] = (window[valid] * kernel[valid]).sum() * kernel.sum() / kernel[valid].sum()
    return y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_missing_pixels_are_left_out(dtype: str) -> None:
    x = numbers(14, 15).astype(dtype)
    x[np.random.default_rng(0).random(x.shape) < 0.3] = np.nan
    x[2:8, 3:9] = np.nan
    for kernel in (image.kernel("gaussian", size=5), image.kernel("box"), image.kernel("sharpen")):
        found = image.filter2d(x, kernel, ignore_nan=True)
        expected = by_definition(x.astype(np.float64), kernel)
        assert found.dtype == dtype and np.isnan(expected).any()
        np.testing.assert_allclose(found, expected, rtol=3e-4 if dtype == "float32" else 1e-9, atol=1e-4)
    assert np.isnan(image.filter2d(x, "box")).sum() > np.isnan(x).sum()


def test_a_constant_image_with_holes_stays_constant() -> None:
    x = np.full((9, 9, 3), 7.0)
    x[4, 4], x[0, 0, 1] = np.nan, np.nan
    np.testing.assert_allclose(
        image.filter2d(x, image.kernel("gaussian", size=5), ignore_nan=True), 7.0, rtol=1e-12
    )
    outside = image.filter2d(x, "box", mode="constant", cval=np.nan, ignore_nan=True)
    np.testing.assert_allclose(outside, 7.0, rtol=1e-12)
    bytes_ = photo(5, 5)
    np.testing.assert_array_equal(
        image.filter2d(bytes_, "box", ignore_nan=True), image.filter2d(bytes_, "box")
    )


def test_threads_change_no_bit() -> None:
    x = photo(300, 260, 3)
    for kernel in ("sobel_x", image.kernel("gaussian", size=15), image.kernel("gabor", size=21)):
        one, two = (image.filter2d(x, kernel, dtype=np.float32, threads=count) for count in (1, 2))
        np.testing.assert_array_equal(one, two)


def test_tensors_come_back_as_tensors() -> None:
    torch = pytest.importorskip("torch")
    x = torch.rand(3, 8, 9)
    y = image.filter2d(x, "box", layout="CHW")
    assert isinstance(y, torch.Tensor) and y.shape == x.shape


@pytest.mark.parametrize("name", ["box", "laplacian", "gaussian"])
def test_results_in_memory_that_is_given(name: str) -> None:
    for dtype in (np.uint8, np.float32):
        x = photo(20, 70, 3).astype(dtype)
        expected = image.filter2d(x, name)
        for out in (
            np.empty_like(x),
            np.empty((20, 140, 3), dtype)[:, ::2],
            np.empty((70, 20, 3), dtype).transpose(1, 0, 2),
        ):
            assert image.filter2d(x, name, out=out) is out
            np.testing.assert_array_equal(out, expected)
    planes = x.transpose(2, 0, 1).copy()
    out = np.empty_like(planes)
    image.filter2d(planes, name, layout="CHW", out=out)
    np.testing.assert_array_equal(out.transpose(1, 2, 0), expected)
    steep = image.gradient(x, direction=False, out=x.copy()).magnitude
    np.testing.assert_array_equal(steep, image.gradient(x).magnitude)
    holes = np.where(x < 20, np.nan, x).astype(np.float32)
    if name != "laplacian":
        assert image.filter2d(holes, name, ignore_nan=True, out=x) is x
        np.testing.assert_array_equal(x, image.filter2d(holes, name, ignore_nan=True))


def test_no_images_give_no_images() -> None:
    assert image.filter2d(np.zeros((0, 4, 4, 3), np.uint8), "box").shape == (0, 4, 4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: image.filter2d(x, "zebra"), ValueError, "one of 'sobel_x'"),
        (lambda x: image.filter2d(x, [[1, 2], [3]]), ValueError, "inhomogeneous"),
        (
            lambda x: image.filter2d(x, np.ones(3)),
            ValueError,
            r"2 axes and at least one weight, got shape \(3,\)",
        ),
        (lambda x: image.filter2d(x, np.ones((3, 0))), ValueError, "at least one weight"),
        (lambda x: image.filter2d(x, np.ones((3, 3), complex)), TypeError, "real numbers"),
        (lambda x: image.filter2d(x, "box", "symmetric"), ValueError, "one of 'reflect'"),
        (lambda x: image.filter2d(x, "box", origin=2), ValueError, "from -1 to 1 for a size of 3, got 2"),
        (lambda x: image.filter2d(x, "box", origin=(1, 2, 3)), ValueError, "pair"),
        (lambda x: image.filter2d(x, "box", origin=0.5), TypeError, "origin must be an integer"),
        (lambda x: image.filter2d(x, "box", layout="HWC"), ValueError, "3 axes for layout='HWC', got 2"),
        (lambda x: image.filter2d(x[0], "box"), ValueError, "2, 3 or 4 axes, got 1"),
        (lambda x: image.filter2d(x[:0], "box"), ValueError, "0 rows"),
        (lambda x: image.filter2d(x > 0, "box"), TypeError, "got bool"),
        (lambda x: image.filter2d(x, "box", dtype=complex), TypeError, "dtype must have"),
        (lambda x: image.filter2d(x, "box", ignore_nan=1), TypeError, "True or False"),
        (lambda x: image.filter2d(x, "laplacian", ignore_nan=True), ValueError, "must not be 0"),
        (
            lambda x: image.filter2d(x, "box", cval=[1, 2]),
            ValueError,
            r"cval must be a single number, got shape \(2,\)",
        ),
        (lambda x: image.filter2d(x, "box", cval="1"), TypeError, "cval must be a number"),
        (lambda x: image.filter2d(x, "box", accuracy="exact"), ValueError, "'strict', 'standard', 'fast'"),
        (lambda x: image.filter2d(x, "box", threads=0), ValueError, "threads must be"),
        (lambda x: image.filter2d(x, "box", out=x), ValueError, "must not overlap image"),
        (lambda x: image.filter2d(x, "box", out=x[:2].copy()), ValueError, "shape of the result"),
        (lambda x: image.filter2d(x, "box", out=x.astype(int)), ValueError, "dtype of the result"),
        (lambda x: image.gradient(x, "laplacian"), ValueError, "'sobel', 'prewitt', 'scharr'"),
        (lambda x: image.convolve2d(x, x, "half"), ValueError, "'full', 'same', 'valid'"),
        (lambda x: image.convolve2d(x, x, boundary="reflect"), ValueError, "'fill', 'wrap', 'symm'"),
        (lambda x: image.convolve2d(x, np.ones((9, 2)), "valid"), ValueError, r"\(4, 5\) and \(9, 2\)"),
        (lambda x: image.convolve2d(x, x[0]), ValueError, "v.shape must have 2 axes"),
        (lambda x: image.convolve2d(x, x[:, :0]), ValueError, "at least one row and one column"),
        (lambda x: image.convolve2d(x, x, fillvalue=[1, 2]), ValueError, "single number"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.ones((4, 5)))
