"""Filters of a photograph of 12 megapixels beside OpenCV, SciPy and scikit-image, one thread: a table to read.

One process; answers are compared before the clock runs; everybody in turns, the fastest of many calls counts. OpenCV
does each filter with its own function for it where there is one. SciPy and scikit-image run a few times only: they
take seconds. Run it with ``python bench/images_report.py``; ``--quick`` takes a small photograph, for a look.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from scipy import ndimage
from skimage import data, filters

from fastconv import image

ROUNDS = 7
SLOW_ROUNDS = 1

Array = np.ndarray[Any, Any]
Filter = Callable[[Array], Array]


def photograph(rows: int, columns: int) -> Array:
    """Return the astronaut, repeated with mirrors to the size that is wanted, with a little noise."""
    x = data.astronaut()
    x = np.pad(x, ((0, max(rows - 512, 0)), (0, max(columns - 512, 0)), (0, 0)), "symmetric")[:rows, :columns]
    noise = np.random.default_rng(0).integers(-3, 4, x.shape)
    return np.clip(x + noise, 0, 255).astype(np.uint8)


def each_channel(x: Array, function: Filter) -> Array:
    return np.stack([function(x[..., c]) for c in range(x.shape[-1])], axis=-1)


def sobel() -> dict[str, Filter]:
    def by_cv2(x: Array) -> Array:
        slopes = [cv2.Sobel(x, cv2.CV_32F, dx, 1 - dx, borderType=cv2.BORDER_REFLECT) for dx in (1, 0)]
        y = cv2.magnitude(*slopes)
        return y if x.dtype == np.float32 else cv2.convertScaleAbs(y)

    def by_scipy(x: Array) -> Array:
        z = x.astype(np.float32)
        y = each_channel(z, lambda plane: np.hypot(ndimage.sobel(plane, 0), ndimage.sobel(plane, 1)))
        return y if x.dtype == np.float32 else np.clip(np.rint(y), 0, 255).astype(np.uint8)

    def by_skimage(x: Array) -> Array:
        z = x.astype(np.float32)
        y = each_channel(z, lambda plane: filters.sobel(plane, mode="reflect")) * np.float32(4 * 2**0.5)
        return y if x.dtype == np.float32 else np.clip(np.rint(y), 0, 255).astype(np.uint8)

    return {
        "fastconv": lambda x: image.gradient(x, dtype=x.dtype, direction=False, threads=1).magnitude,
        "opencv": by_cv2,
        "scipy": by_scipy,
        "scikit-image": by_skimage,
    }


def gaussian(size: int) -> dict[str, Filter]:
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    kernel = image.kernel("gaussian", size=size, sigma=sigma)
    radius = size // 2

    def by_scipy(x: Array) -> Array:
        y = ndimage.gaussian_filter(x.astype(np.float32), (sigma, sigma, 0), radius=(radius, radius, 0))
        return y if x.dtype == np.float32 else np.rint(y).astype(np.uint8)

    def by_skimage(x: Array) -> Array:
        z = x.astype(np.float32)
        y = filters.gaussian(
            z, sigma, mode="reflect", truncate=radius / sigma, channel_axis=-1, preserve_range=True
        )
        return y if x.dtype == np.float32 else np.rint(y).astype(np.uint8)

    return {
        "fastconv": lambda x: image.filter2d(x, kernel, threads=1),
        "opencv": lambda x: cv2.GaussianBlur(x, (size, size), sigma, borderType=cv2.BORDER_REFLECT),
        "scipy": by_scipy,
        "scikit-image": by_skimage,
    }


def gabor() -> dict[str, Filter]:
    kernel = image.kernel("gabor", theta=0.6, normalise="l1").astype(np.float32)

    def by_scipy(x: Array) -> Array:
        y = each_channel(x.astype(np.float32), lambda plane: ndimage.correlate(plane, kernel))
        return y if x.dtype == np.float32 else np.clip(np.rint(y), 0, 255).astype(np.uint8)

    return {
        "fastconv": lambda x: image.filter2d(x, kernel, threads=1),
        "opencv": lambda x: cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT),
        "scipy": by_scipy,
    }


def fastest(functions: dict[str, Filter], x: Array, wanted: set[str]) -> dict[str, float]:
    functions = {name: function for name, function in functions.items() if name in wanted}
    seconds = dict.fromkeys(functions, float("inf"))
    expected = functions["opencv"](x).astype(np.float64)
    for name, function in functions.items():
        worst = np.abs(function(x) - expected).max()
        allowed = 1 if x.dtype == np.uint8 else 1e-4 * np.abs(expected).max()
        assert worst <= allowed, f"{name} differs by {worst}, allowed {allowed}"
    for round_ in range(ROUNDS):
        for name, function in functions.items():
            if round_ >= SLOW_ROUNDS and name not in ("fastconv", "opencv"):
                continue
            begin = time.perf_counter()
            function(x)
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a photograph of 0.2 megapixels")
    parser.add_argument("--only", default="", help="part of a filter's name")
    parser.add_argument("--peers", default="opencv,scipy,scikit-image")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    bytes_ = photograph(*((400, 500) if options.quick else (3000, 4000)))
    print(f"{bytes_.shape[0]} x {bytes_.shape[1]} x 3; milliseconds, and the speed-up beside OpenCV")
    print("| filter | dtype | fastconv | OpenCV | SciPy | scikit-image | fastconv / OpenCV |")
    print("|---|---|---:|---:|---:|---:|---:|")
    cases = {
        "Sobel magnitude": sobel(),
        "Gaussian 5x5": gaussian(5),
        "Gaussian 15x15": gaussian(15),
        "Gabor 31x31": gabor(),
    }
    for title, functions in cases.items():
        if options.only not in title:
            continue
        for x in (bytes_.astype(np.float32), bytes_):
            found = fastest(functions, x, {"fastconv", *options.peers.split(",")})
            cells = [
                f"{found[name] * 1e3:.0f}" if name in found else ""
                for name in ("fastconv", "opencv", "scipy", "scikit-image")
            ]
            ratio = found["opencv"] / found["fastconv"]
            print(f"| {title} | {x.dtype} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
