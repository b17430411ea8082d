"""Where pooling windows lie along one axis of an image: sliding by a stride, or dividing the axis evenly.

All on the host, in Python integers and small tables, before any kernel runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fastconv.problem import effective_kernel

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """The windows of one axis.

    Attributes
    ----------
    size : int
        Pixels of the axis.
    taps : int
        Most taps that a window has.
    dilation : int
        Distance of its taps.
    stride : int
        Distance of neighbouring windows; 0 where it varies.
    before : int
        Padding before the first pixel.
    first, count : ndarray
        Of each window the first pixel inside the image, and how many of its taps are inside.
    covered : ndarray
        How many of its taps are inside the image or its padding.
    """

    size: int
    taps: int
    dilation: int
    stride: int
    before: int
    first: Int64s
    count: Int64s
    covered: Int64s

    @property
    def out(self) -> int:
        """How many windows there are."""
        return len(self.first)

    def bases(self) -> Int64s:
        """Return where the first tap of each window is, in the image or before it."""
        return np.arange(self.out) * self.stride - self.before if self.stride else self.first

    def positions(self) -> Int64s:
        """Return which pixel lies under each tap, (windows, taps); -1 where there is none."""
        under = self.bases()[:, None] + np.arange(self.taps) * self.dilation
        live = (under >= self.first[:, None]) & (under < (self.first + self.count * self.dilation)[:, None])
        return np.where(live, under, -1)


@lru_cache(maxsize=1024)
def sliding(
    axis: str, size: int, taps: int, stride: int, before: int, after: int, dilation: int, ceil: bool
) -> Windows:
    """Return windows at equal distances.

    Raises
    ------
    ValueError
        When there is no window, or one has no pixel of the image.
    """
    span = effective_kernel(taps, dilation)
    if max(before, after) >= span:
        raise ValueError(
            f"padding must be smaller than the window, got padding {before} and {after} for {span} {axis} "
            f"(dilation {dilation} * ({taps} - 1) + 1): a window would see nothing of the image"
        )
    out = window_count(size, span, stride, before, after, ceil=ceil)
    if out < 1:
        raise ValueError(
            f"the window must not be larger than the padded image, got {span} window {axis} "
            f"(dilation {dilation} * ({taps} - 1) + 1) on {size + before + after} image {axis} "
            f"({size} + padding {before} + {after}): output {axis} would be {out}"
        )
    start = np.arange(out, dtype=np.int64) * stride - before
    skipped = np.maximum(0, -(start // dilation))
    end = np.minimum(taps, -((start - size) // dilation))
    if (end <= skipped).any():
        empty = int(np.argmax(end <= skipped))
        raise ValueError(
            f"every window must see a pixel of the image, but none of the {taps} taps of window {empty} "
            f"along the {axis} does: they begin at {int(start[empty])}, {dilation} apart, on {size} {axis}"
        )
    covered = np.minimum(taps, -((start - size - after) // dilation))
    return Windows(size, taps, dilation, stride, before, start + skipped * dilation, end - skipped, covered)


@lru_cache(maxsize=1024)
def dividing(size: int, out: int) -> Windows:
    """Return `out` windows from ``floor(i * size / out)`` to ``ceil((i + 1) * size / out)``."""
    index = np.arange(out, dtype=np.int64)
    first = index * size // out
    count = -(-(index + 1) * size // out) - first
    stride = size // out if size % out == 0 else 0
    return Windows(size, int(count.max()), 1, stride, 0, first, count, count)


def window_count(size: int, span: int, stride: int, before: int, after: int, *, ceil: bool) -> int:
    """Return how many windows fit; with `ceil` the last may hang over the end, if it begins before that."""
    room = size + before + after - span
    if not ceil:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + before else out
