"""Kernels of image filters by name. All are meant for correlation: laid on the image as they are printed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments
from fastconv.problem import one_of

Kernel = npt.NDArray[Any]

#: A Gaussian is cut where it has fallen to exp(-8): the choice of SciPy.
TRUNCATE = 4.0
GABOR_NORMS = ("none", "l1", "zero-mean")


def kernel(name: str, /, **parameters: Any) -> Kernel:
    """Return the image kernel of that name.

    Parameters
    ----------
    name : str
        One of `KERNELS`:

        - "sobel_x", "sobel_y", "prewitt_x", "prewitt_y", "scharr_x", "scharr_y": slopes, positive where the image
          gets brighter to the right (x) or downwards (y). Not scaled, as in OpenCV and SciPy; scikit-image divides
          by 4, 3 and 16.
        - "vertical", "horizontal": vertical and horizontal edges, equal to "prewitt_x" and "prewitt_y".
        - "laplacian": 4 neighbours, -4 in the centre; "laplacian_8": 8 neighbours, +8 in the centre, so of the
          opposite sign.
        - "identity"; "sharpen": identity minus "laplacian".
        - "box" (size=3): ones, divided by their number.
        - "gaussian" (size=None, sigma=None): sum 1; the size reaches 4 sigma, or sigma fits the size by OpenCV's rule.
        - "log" (size=None, sigma=None): Laplacian of a Gaussian, sum 0.
        - "gabor" (size=31, sigma=4, theta=0, lambd=10, gamma=0.5, psi=0, normalise="none").
    **parameters
        Of the kernel. Sizes are odd ints.

    Returns
    -------
    array, shape (rows, columns), float64

    Raises
    ------
    TypeError, ValueError
        When there is no such kernel, or it has no such parameter.

    Examples
    --------
    >>> from fastconv import image
    >>> image.kernel("sobel_x").tolist()
    [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
    >>> image.kernel("box", size=5).sum().round(12).item()
    1.0
    """
    make = _MAKERS[one_of("name", name, KERNELS)]
    known = list(inspect.signature(make).parameters)
    for word in parameters:
        if word not in known:
            raise TypeError(f"kernel {name!r} has {_named(known)}, got {word!r}")
    return make(**parameters)


def parameters(name: str) -> MappingProxyType[str, Any]:
    """Return the parameters of a kernel with their defaults.

    Examples
    --------
    >>> from fastconv import image
    >>> dict(image.parameters("box"))
    {'size': 3}
    """
    make = _MAKERS[one_of("name", name, KERNELS)]
    return MappingProxyType({word: item.default for word, item in inspect.signature(make).parameters.items()})


def box(size: int = 3) -> Kernel:
    """Return ones, divided by their number."""
    side = _odd("size", size)
    return np.full((side, side), 1 / side**2)


def gaussian(size: int | None = None, sigma: float | None = None) -> Kernel:
    """Return the outer product of two sampled Gaussians of sum 1."""
    side, width = _width(size, sigma)
    distance = _distances(side)
    weights = np.exp(-(distance**2) / (2 * width**2))
    weights /= weights.sum()
    return np.outer(weights, weights)


def laplacian_of_gaussian(size: int | None = None, sigma: float | None = None) -> Kernel:
    """Return ``(r^2 - 2 sigma^2) / sigma^4`` times the Gaussian of sum 1, less its mean: flat images give 0."""
    side, width = _width(size, sigma)
    distance = _distances(side)
    squared = distance[:, None] ** 2 + distance**2
    weights: Kernel = (squared - 2 * width**2) / width**4 * gaussian(side, width)
    weights -= weights.mean()
    return weights


def gabor(
    size: int = 31,
    sigma: float = 4.0,
    theta: float = 0.0,
    lambd: float = 10.0,
    gamma: float = 0.5,
    psi: float = 0.0,
    normalise: str = "none",
) -> Kernel:
    """Return a Gaussian times a cosine across direction `theta` (radians), as OpenCV's ``getGaborKernel``.

    ``exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) * cos(2 pi x' / lambd + psi)``. It is never divided by its sum, which
    may be nearly 0. `normalise`: "none"; "l1", absolute values sum to 1; "zero-mean", the mean is taken off first.
    """
    side = _odd("size", size)
    spread, length = _positive("sigma", sigma), _positive("lambd", lambd)
    y, x = np.meshgrid(_distances(side), _distances(side), indexing="ij")
    # OpenCV's rows run upwards in this formula, and its columns to the left.
    x, y = -x, -y
    along = x * math.cos(theta) + y * math.sin(theta)
    across = -x * math.sin(theta) + y * math.cos(theta)
    weights: Kernel = np.exp(-(along**2 + (gamma * across) ** 2) / (2 * spread**2))
    weights *= np.cos(2 * math.pi * along / length + psi)
    if one_of("normalise", normalise, GABOR_NORMS) == "none":
        return weights
    if normalise == "zero-mean":
        weights -= weights.mean()
    weights /= np.abs(weights).sum()
    return weights


def _fixed(*rows: list[int]) -> Callable[[], Kernel]:
    return lambda: np.array(rows, np.float64)


def _odd(name: str, value: object) -> int:
    size = arguments.integer(name, value, 1, 2**15)
    if size % 2 == 0:
        raise ValueError(f"{name} must be odd, so that there is a centre, got {size}")
    return size


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, int | float | np.floating) and 0 < value < math.inf):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def _width(size: int | None, sigma: float | None) -> tuple[int, float]:
    if size is None:
        width = _positive("sigma", 1.0 if sigma is None else sigma)
        return _odd("size (4 sigma on each side)", 2 * int(TRUNCATE * width + 0.5) + 1), width
    side = _odd("size", size)
    return side, 0.3 * ((side - 1) * 0.5 - 1) + 0.8 if sigma is None else _positive("sigma", sigma)


def _distances(side: int) -> Kernel:
    return np.arange(side) - (side - 1) / 2


def _named(words: list[str]) -> str:
    return f"the parameters {', '.join(words)}" if words else "no parameters"


_SOBEL = ([-1, 0, 1], [-2, 0, 2], [-1, 0, 1])
_PREWITT = ([-1, 0, 1], [-1, 0, 1], [-1, 0, 1])
_SCHARR = ([-3, 0, 3], [-10, 0, 10], [-3, 0, 3])


def _turned(rows: tuple[list[int], ...]) -> Callable[[], Kernel]:
    return lambda: np.array(rows, np.float64).T.copy()


_MAKERS: dict[str, Callable[..., Kernel]] = {
    "sobel_x": _fixed(*_SOBEL),
    "sobel_y": _turned(_SOBEL),
    "prewitt_x": _fixed(*_PREWITT),
    "prewitt_y": _turned(_PREWITT),
    "scharr_x": _fixed(*_SCHARR),
    "scharr_y": _turned(_SCHARR),
    "vertical": _fixed(*_PREWITT),
    "horizontal": _turned(_PREWITT),
    "laplacian": _fixed([0, 1, 0], [1, -4, 1], [0, 1, 0]),
    "laplacian_8": _fixed([-1, -1, -1], [-1, 8, -1], [-1, -1, -1]),
    "identity": _fixed([0, 0, 0], [0, 1, 0], [0, 0, 0]),
    "sharpen": _fixed([0, -1, 0], [-1, 5, -1], [0, -1, 0]),
    "box": box,
    "gaussian": gaussian,
    "log": laplacian_of_gaussian,
    "gabor": gabor,
}
KERNELS = tuple(_MAKERS)
