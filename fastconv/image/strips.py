"""Images through the engine in strips of rows that stay in cache: padded, converted, convolved, rounded, stored.

Channels stand side by side in each row and stay there: to a kernel with ``dilation=(1, channels)`` the row is one
channel, so nothing is transposed. Strips have the same rows for any number of threads, and so have the bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

import fastconv
from fastconv.algorithms.interface import WeightsDoNotFitError, WeightsNotFiniteError
from fastconv.algorithms.separable import column_and_row
from fastconv.image.borders import Border, Indices, sources
from fastconv.planning.routes import thread_count

Array = npt.NDArray[Any]
#: Takes the results of all kernels for some rows, shape (kernels, rows, columns * channels), gives what is stored.
Finish = Callable[[Array], Array]

#: Bytes of a padded strip in the compute dtype, halo not counted. Of 36 million float32 a Gaussian 5x5 takes 52 ms
#: with it, 62 ms with a quarter of it ...
STRIP_BYTES = 1 << 21
#: ... but two kernels and what is done with their results 78 ms with a quarter, 105 ms without: they fit L2 then.
STRIP_BYTES_OF_SEVERAL = 1 << 19
#: A strip has at least this many times the rows of its halo, so that little is converted twice.
LEAST_HALOS = 2.0
#: Taps from which a column and a row, one after the other, are faster than the whole kernel.
SEPARABLE_TAPS = 49
#: Kernels so large that the engine goes through Fourier transforms, which want tall strips.
TALL_TAPS = 200
TALL_BYTES = 1 << 26
#: Plans to remember.
PLANS = 64


def filtered(
    images: Array, kernels: Array, border: Border, dtype: npt.DTypeLike, finish: Finish, **words: Any
) -> Array:
    """Correlate images with kernels.

    Parameters
    ----------
    images : ndarray, shape (N, H, W, C)
    kernels : ndarray, shape (kernels, kh, kw)
        Of the dtype to compute in.
    border : Border
    dtype : dtype
        Of the result.
    finish : callable
        What is done with each strip while it is in cache.
    **words
        `accuracy` and `threads` of `fastconv.plan`.

    Returns
    -------
    ndarray, shape (N, OH, OW, C)
    """
    count, height, width, channels = images.shape
    _, kh, kw = kernels.shape
    rows = sources(border.word, height, border.top, border.bottom)
    columns = sources(border.word, width, border.left, border.right)
    oh, ow = len(rows) - kh + 1, len(columns) - kw + 1
    result = np.empty((count, oh, ow, channels), dtype)
    if result.size == 0:
        return result
    passes = _passes(kernels, channels)
    tall = len(passes) == 1 and kh * kw >= TALL_TAPS
    most = STRIP_BYTES if len(kernels) == 1 else STRIP_BYTES_OF_SEVERAL
    step = _step(len(columns) * channels * kernels.itemsize, kh, TALL_BYTES if tall else most)
    buffer = np.empty((min(step, oh) + kh - 1, len(columns), channels), kernels.dtype)
    words["threads"] = thread_count(words["threads"])
    # Between two passes, and before `finish`: fresh memory for each strip would be new pages each time.
    rooms: dict[int, Array] = {}
    for image, target in zip(images, result, strict=True):
        for first in range(0, oh, step):
            live = min(step, oh - first)
            strip = buffer[: live + kh - 1]
            _fill(strip, image, rows[first : first + len(strip)], columns, border)
            rows_out = target[first : first + live]
            direct = finish is keep and result.dtype == kernels.dtype
            y = _through(strip, passes, channels, words, rows_out if direct else None, rooms)
            if not direct:
                done = finish(y[0]).reshape(live, ow, channels)
                np.copyto(rows_out, done, casting="unsafe")
    return result


def keep(sums: Array) -> Array:
    """Return results as they are: they are then computed where they are to be stored."""
    return sums


def _through(
    strip: Array,
    passes: list[Array],
    channels: int,
    words: dict[str, Any],
    last: Array | None,
    rooms: dict[int, Array],
) -> Array:
    """Apply the passes to a strip; the result of the last one goes to `last`, the others to `rooms`."""
    y = strip.reshape(1, 1, len(strip), -1)
    for index, weights in enumerate(passes):
        shape = fastconv.conv_output_shape(y.shape, weights.shape, dilation=(1, channels))
        if last is not None and index == len(passes) - 1:
            out = last.reshape(shape)
        else:
            # The first strip is the tallest.
            if index not in rooms:
                rooms[index] = np.empty(math.prod(shape), y.dtype)
            out = rooms[index][: math.prod(shape)].reshape(shape)
        settings = (y.shape, y.dtype, weights.shape, weights.tobytes(), channels, tuple(words.items()))
        y = _planned(*settings)(y, out=out)
    return y


def _step(line_bytes: int, kh: int, most: int) -> int:
    return max(1, most // line_bytes, int(LEAST_HALOS * (kh - 1)))


def _passes(kernels: Array, channels: int) -> list[Array]:
    """Return what is to be applied one after the other; of one channel, the engine itself looks for factors."""
    count, kh, kw = kernels.shape
    whole = kernels[:, None]
    if count > 1 or channels == 1 or kernels.dtype.kind != "f" or kh * kw < SEPARABLE_TAPS or 1 in (kh, kw):
        return [whole]
    try:
        factors = column_and_row(whole)[0]
    except (WeightsDoNotFitError, WeightsNotFiniteError):
        return [whole]
    return [factors[:kh].reshape(1, 1, kh, 1), factors[kh:].reshape(1, 1, 1, kw)]


@lru_cache(maxsize=PLANS)
def _planned(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    kernels: tuple[int, ...],
    weights: bytes,
    channels: int,
    words: tuple[tuple[str, Any], ...],
) -> Any:
    """Return a plan; planning anew costs milliseconds, more than many a small image."""
    array = np.frombuffer(weights, dtype).reshape(kernels)
    return fastconv.plan(shape, array, dilation=(1, channels), **dict(words))


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
