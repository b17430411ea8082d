"""Images through the engine in strips of rows that stay in cache: padded, converted, convolved, rounded, stored.

Channels stand side by side in each row and stay there: to a kernel with ``dilation=(1, channels)`` the row is one
channel, so nothing is transposed. Strips have the same rows for any number of threads, and so have the bits.
Kernels that are a column times a row have a way of their own, see `sweep`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import fastconv
from fastconv.image.borders import Border, Indices, sources
from fastconv.image.sweep import swept
from fastconv.planning.routes import thread_count
from fastconv.problem import ACCURACIES, one_of

Array = npt.NDArray[Any]

#: Bytes of a padded strip in the compute dtype, halo not counted. Of 36 million float32 a Gaussian 5x5 takes 52 ms
#: with it, 62 ms with a quarter of it ...
STRIP_BYTES = 1 << 21
#: ... but two kernels and what is done with their results 78 ms with a quarter, 105 ms without: they fit L2 then.
STRIP_BYTES_OF_SEVERAL = 1 << 19
#: A strip has at least this many times the rows of its halo, so that little is converted twice.
LEAST_HALOS = 2.0
#: Kernels so large that the engine goes through Fourier transforms, which want tall strips.
TALL_TAPS = 200
TALL_BYTES = 1 << 26
#: Plans to remember.
PLANS = 64


def filtered(
    images: Array,
    kernels: Array,
    border: Border,
    dtype: npt.DTypeLike,
    finish: str = "keep",
    out: Array | None = None,
    *,
    accuracy: str,
    threads: int | None,
) -> Array:
    """Correlate images with kernels.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
    kernels : ndarray, shape (kernels, kh, kw)
        Of the dtype to compute in.
    border : Border
    dtype : dtype
        Of the result. Integers are rounded, halves to even, and limited to what there is, but for sums of integers,
        which wrap around.
    finish : {"keep", "magnitude", "angle"}
        What is done with the sums of one kernel, or of two, before they are rounded.
    out : ndarray, shape (N, OH, OW, C), optional
        Where to put the result; C-contiguous and of `dtype`.
    accuracy, threads
        As for `fastconv.plan`.

    Returns
    -------
    ndarray, shape (N, OH, OW, C)
    """
    kind, workers = np.dtype(dtype), thread_count(threads)
    finished = FINISHES[finish]
    if (
        one_of("accuracy", accuracy, ACCURACIES) != "strict"
        and kernels.dtype.kind == "f"
        and finish != "angle"
    ):
        done = swept(images, kernels, border, kind, out, workers)
        if done is not None:
            return done if done.dtype == kind else as_pixels(done, kind, out)
    count, height, width, channels = images.shape
    _, kh, kw = kernels.shape
    rows = sources(border.word, height, border.top, border.bottom)
    columns = sources(border.word, width, border.left, border.right)
    oh, ow = len(rows) - kh + 1, len(columns) - kw + 1
    result = np.empty((count, oh, ow, channels), kind) if out is None else out
    if result.size == 0:
        return result
    tall = len(kernels) == 1 and kh * kw >= TALL_TAPS
    most = STRIP_BYTES if len(kernels) == 1 else STRIP_BYTES_OF_SEVERAL
    step = _step(len(columns) * channels * kernels.itemsize, kh, TALL_BYTES if tall else most)
    buffer = np.empty((min(step, oh) + kh - 1, len(columns), channels), kernels.dtype)
    direct = finish == "keep" and kind == kernels.dtype
    # Between the kernels and what is done with their sums: fresh memory for each strip would be new pages each time.
    room = None if direct else np.empty(len(kernels) * min(step, oh) * ow * channels, kernels.dtype)
    settings = (kernels.dtype, kernels[:, None].shape, kernels.tobytes(), channels, accuracy, workers)
    for image, target in zip(images, result, strict=True):
        for first in range(0, oh, step):
            live = min(step, oh - first)
            strip = buffer[: live + kh - 1]
            _fill(strip, image, rows[first : first + len(strip)], columns, border)
            rows_out = target[first : first + live]
            shape = (1, len(kernels), live, ow * channels)
            sums = rows_out.reshape(shape) if room is None else room[: math.prod(shape)].reshape(shape)
            whole = strip.reshape(1, 1, len(strip), -1)
            _planned(whole.shape, *settings)(whole, out=sums)
            if not direct:
                as_pixels(finished(sums[0]).reshape(rows_out.shape), kind, rows_out)
    return result


def _magnitude(slopes: Array) -> Array:
    np.multiply(slopes, slopes, out=slopes)
    total = np.add(slopes[0], slopes[1], out=slopes[0])
    return cast(Array, np.sqrt(total, out=total))


def _angle(slopes: Array) -> Array:
    return cast(Array, np.arctan2(slopes[1], slopes[0], out=slopes[0]))


#: Take the sums of all kernels for some rows, shape (kernels, rows, columns * channels), and may overwrite them.
FINISHES: dict[str, Callable[[Array], Array]] = {
    "keep": lambda sums: sums[0],
    "magnitude": _magnitude,
    "angle": _angle,
}


def as_pixels(sums: Array, dtype: np.dtype[Any], out: Array | None = None) -> Array:
    """Return sums as an array of `dtype`, or in `out`; they may be overwritten."""
    result = np.empty(sums.shape, dtype) if out is None else out
    with np.errstate(over="ignore"):  # what is too large for float16 becomes infinite
        np.copyto(result, _rounded(sums, dtype), casting="unsafe")
    return result


def _rounded(sums: Array, dtype: np.dtype[Any]) -> Array:
    """Return sums ready to be stored as `dtype`; they may be overwritten."""
    if dtype.kind == "f" or sums.dtype.kind != "f":
        return sums
    limits = np.iinfo(dtype)
    # float32 cannot hold the largest of 32 bits; float64 holds them all, and of 64 bits those that it can.
    exact = sums.astype(np.float64) if dtype.itemsize > 2 and sums.dtype != np.float64 else sums
    np.rint(exact, out=exact)
    most = np.nextafter(2.0**63, 0) if dtype.itemsize == 8 else limits.max
    return np.clip(exact, limits.min, most, out=exact)


def _step(line_bytes: int, kh: int, most: int) -> int:
    return max(1, most // line_bytes, int(LEAST_HALOS * (kh - 1)))


@lru_cache(maxsize=PLANS)
def _planned(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    kernels: tuple[int, ...],
    weights: bytes,
    channels: int,
    accuracy: str,
    threads: int,
) -> Any:
    """Return a plan; planning anew costs milliseconds, more than many a small image."""
    array = np.frombuffer(weights, dtype).reshape(kernels)
    return fastconv.plan(shape, array, dilation=(1, channels), accuracy=accuracy, threads=threads)


def _fill(strip: Array, image: Array, rows: Indices, columns: Indices, border: Border) -> None:
    """Copy rows of the image into the strip, in the dtype of the strip, with what stands around them."""
    left, right = border.left, len(columns) - border.right
    body = strip[:, left:right]
    whole = rows[0] >= 0 and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
    source = image[rows[0] : rows[-1] + 1] if whole else image[rows]
    np.copyto(body, source, casting="unsafe")
    for part in (slice(0, left), slice(right, None)):
        wanted = columns[part]
        if border.word == "zeros":
            strip[:, part] = border.value
        elif len(wanted):
            strip[:, part] = body[:, wanted]
    if border.word == "zeros" and not whole:
        strip[rows < 0] = border.value
