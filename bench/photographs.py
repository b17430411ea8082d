"""Filters of a photograph, each as it is done with fastconv, OpenCV, SciPy and scikit-image.

OpenCV does each with its own function for it. Each takes the photograph and, if the library can write there, memory
for the result. SciPy and scikit-image are given floats, for they filter channel by channel and round only what they
are told to. `check` compares the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from scipy import ndimage
from skimage import data, filters

from fastconv import image

Array = np.ndarray[Any, Any]
Filter = Callable[..., Array]
DTYPES = ("float32", "uint8")
MEGAPIXELS_12 = (3000, 4000)


def photograph(rows: int, columns: int, dtype: str) -> Array:
    """Return the astronaut, repeated with mirrors to the size that is wanted, with a little noise."""
    x = data.astronaut()
    x = np.pad(x, ((0, max(rows - 512, 0)), (0, max(columns - 512, 0)), (0, 0)), "symmetric")[:rows, :columns]
    noise = np.random.default_rng(0).integers(-3, 4, x.shape)
    return np.clip(x + noise, 0, 255).astype(np.uint8).astype(dtype)


def each_channel(x: Array, function: Filter) -> Array:
    z = x.astype(np.float32)
    return as_given(x, np.stack([function(z[..., c]) for c in range(x.shape[-1])], axis=-1))


def as_given(x: Array, y: Array) -> Array:
    return y if x.dtype == y.dtype else np.clip(np.rint(y), 0, 255).astype(x.dtype)


def sobel() -> dict[str, Filter]:
    def by_cv2(x: Array, out: Array | None = None) -> Array:
        slopes = [cv2.Sobel(x, cv2.CV_32F, dx, 1 - dx, borderType=cv2.BORDER_REFLECT) for dx in (1, 0)]
        if x.dtype == np.float32:
            return cv2.magnitude(*slopes, magnitude=out)
        return cv2.convertScaleAbs(cv2.magnitude(*slopes), dst=out)

    def by_scipy(x: Array) -> Array:
        return each_channel(x, lambda z: np.hypot(ndimage.sobel(z, 0), ndimage.sobel(z, 1)))

    def by_skimage(x: Array) -> Array:
        return each_channel(x, lambda z: filters.sobel(z, mode="reflect") * np.float32(4 * 2**0.5))

    return {
        "fastconv": lambda x, out=None: image.gradient(x, dtype=x.dtype, direction=False, threads=1, out=out)[
            0
        ],
        "opencv": by_cv2,
        "scipy": by_scipy,
        "scikit-image": by_skimage,
    }


def gaussian(size: int) -> dict[str, Filter]:
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    kernel = image.kernel("gaussian", size=size, sigma=sigma)
    radius = size // 2

    def by_scipy(x: Array) -> Array:
        z = x.astype(np.float32)
        return as_given(x, ndimage.gaussian_filter(z, (sigma, sigma, 0), radius=(radius, radius, 0)))

    def by_skimage(x: Array) -> Array:
        z, cut = x.astype(np.float32), radius / sigma
        return as_given(x, filters.gaussian(z, sigma, mode="reflect", truncate=cut, channel_axis=-1))

    def by_cv2(x: Array, out: Array | None = None) -> Array:
        return cv2.GaussianBlur(x, (size, size), sigma, dst=out, borderType=cv2.BORDER_REFLECT)

    return {
        "fastconv": lambda x, out=None: image.filter2d(x, kernel, threads=1, out=out),
        "opencv": by_cv2,
        "scipy": by_scipy,
        "scikit-image": by_skimage,
    }


def any_kernel(kernel: Array) -> dict[str, Filter]:
    weights = kernel.astype(np.float32)
    return {
        "fastconv": lambda x, out=None: image.filter2d(x, weights, threads=1, out=out),
        "opencv": lambda x, out=None: cv2.filter2D(x, -1, weights, dst=out, borderType=cv2.BORDER_REFLECT),
        "scipy": lambda x: each_channel(x, lambda z: ndimage.correlate(z, weights)),
    }


FILTERS = {
    "Sobel magnitude": sobel(),
    "Gaussian 5x5": gaussian(5),
    "Gaussian 15x15": gaussian(15),
    "Gabor 31x31": any_kernel(image.kernel("gabor", theta=0.6, normalise="l1")),
    "sharpen 3x3": any_kernel(image.kernel("sharpen")),
    "Laplacian of Gaussian 9x9": any_kernel(image.kernel("log", size=9, sigma=1.4)),
}


def check(name: str, x: Array, libraries: list[str]) -> None:
    """Raise AssertionError unless the answers agree: bytes to one, floats to a rounding of the largest."""
    expected = FILTERS[name]["opencv"](x).astype(np.float64)
    allowed = 1 if x.dtype == np.uint8 else 1e-5 * np.abs(expected).max()
    for library in libraries:
        worst = np.abs(FILTERS[name][library](x) - expected).max()
        assert worst <= allowed, f"{name}: {library} differs from OpenCV by {worst}, allowed {allowed}"
