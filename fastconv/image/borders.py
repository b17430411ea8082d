"""What stands around an image: SciPy's words, and where each row and column of the padded image comes from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]

#: ``scipy.ndimage``'s words in those of `fastconv.conv2d`: its "reflect" repeats the edge, NumPy's does not.
NDIMAGE_MODES = {
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "constant": "zeros",
    "grid-constant": "zeros",
    "nearest": "replicate",
    "mirror": "reflect",
    "wrap": "circular",
    "grid-wrap": "circular",
}
#: Those of ``scipy.signal``.
SIGNAL_BOUNDARIES = {"fill": "zeros", "wrap": "circular", "symm": "symmetric"}


class Border(NamedTuple):
    """A padding mode of `fastconv.conv2d`, the value that "zeros" stands for, and how wide it is."""

    word: str
    value: Any
    top: int
    bottom: int
    left: int
    right: int


def single_number(name: str, value: Any) -> Any:
    """Return the value of a border as a Python number.

    Raises
    ------
    TypeError, ValueError
        When it is none, or several.
    """
    given = np.asarray(value)
    if given.ndim:
        raise ValueError(f"{name} must be a single number, got shape {given.shape}")
    if given.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be a number, got {value!r}")
    return given.item()


def sources(word: str, size: int, before: int, after: int) -> Indices:
    """Return where each of ``before + size + after`` pixels of a line comes from; -1 is the border's value.

    Borders may be wider than the image: mirrors show mirrors.

    Examples
    --------
    >>> sources("symmetric", 3, 4, 1).tolist()
    [2, 2, 1, 0, 0, 1, 2, 2]
    >>> sources("reflect", 3, 4, 1).tolist()
    [0, 1, 2, 1, 0, 1, 2, 1]
    """
    at = np.arange(-before, size + after)
    if word == "zeros":
        return np.where((at >= 0) & (at < size), at, -1)
    if word == "replicate":
        return np.clip(at, 0, size - 1)
    if word == "circular":
        return at % size
    if word == "symmetric":
        at = at % (2 * size)
        return np.where(at < size, at, 2 * size - 1 - at)
    period = max(2 * (size - 1), 1)
    at = at % period
    return np.where(at < size, at, period - at)
