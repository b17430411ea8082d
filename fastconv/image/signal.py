"""True convolution and correlation of two arrays in the words of ``scipy.signal``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays
from fastconv.image.borders import SIGNAL_BOUNDARIES, Border, single_number
from fastconv.image.strips import filtered
from fastconv.problem import one_of

Array = npt.NDArray[Any]
MODES = ("full", "same", "valid")


def convolve2d(
    a: Any,
    v: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: float = 0,
    *,
    accuracy: str = "standard",
    threads: int | None = None,
) -> Any:
    """Convolve two arrays: the kernel is turned by 180 degrees, as in ``scipy.signal.convolve2d``.

    Parameters
    ----------
    a, v : array, shape (rows, columns)
        Image and kernel: integers up to 32 bits unsigned and 64 bits signed, or floating.
    mode : {"full", "same", "valid"}
        "full": every position where the two touch; "same": as large as `a`, the middle of "full"; "valid": only where
        one lies wholly on the other, which may then be either of the two.
    boundary : {"fill", "wrap", "symm"}
        What stands around `a`: `fillvalue`, `a` again, or `a` mirrored with its edge repeated.
    fillvalue : number
    accuracy, threads
        As for `fastconv.conv2d`.

    Returns
    -------
    array
        Of the common dtype of `a` and `v`. Integers are summed exactly in int64 and wrap around.

    Raises
    ------
    TypeError, ValueError
        When an argument is of a wrong kind, or with "valid" neither array covers the other.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import image
    >>> image.convolve2d(np.array([[1, 2, 3]]), np.array([[1, 10]])).tolist()
    [[1, 12, 23, 30]]
    """
    return _sliding(a, v, mode, boundary, fillvalue, accuracy, threads, flip=True)


def correlate2d(
    a: Any,
    v: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: float = 0,
    *,
    accuracy: str = "standard",
    threads: int | None = None,
) -> Any:
    """Correlate two arrays: the kernel is not turned, as in ``scipy.signal.correlate2d``.

    Parameters
    ----------
    a, v, mode, boundary, fillvalue, accuracy, threads
        As for `convolve2d`.

    Returns
    -------
    array

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import image
    >>> image.correlate2d(np.array([[1, 2, 3]]), np.array([[1, 10]])).tolist()
    [[10, 21, 32, 3]]
    """
    return _sliding(a, v, mode, boundary, fillvalue, accuracy, threads, flip=False)


def _sliding(
    a: Any,
    v: Any,
    mode: str,
    boundary: str,
    fillvalue: Any,
    accuracy: str,
    threads: int | None,
    *,
    flip: bool,
) -> Any:
    image, kernel = _plane("a", a), _plane("v", v)
    one_of("mode", mode, MODES)
    word = SIGNAL_BOUNDARIES[one_of("boundary", boundary, tuple(SIGNAL_BOUNDARIES))]
    value = single_number("fillvalue", fillvalue)
    dtype = np.result_type(image, kernel)
    swapped = False
    if mode == "valid":
        pairs = list(zip(image.shape, kernel.shape, strict=True))
        swapped = not all(size >= taps for size, taps in pairs)
        if swapped and not all(size <= taps for size, taps in pairs):
            raise ValueError(
                f"with mode='valid' one array must be at least as large as the other in both axes, got {image.shape} "
                f"and {kernel.shape}"
            )
    if swapped:
        image, kernel = kernel, image
    weights = kernel[::-1, ::-1] if flip else kernel
    border = Border(word, value, *_ends(mode, kernel.shape, flip))
    compute = np.promote_types(dtype, np.float32) if dtype.kind == "f" else np.dtype(np.int64)
    y = filtered(
        image[None, :, :, None],
        weights[None].astype(compute),
        border,
        dtype,
        accuracy=accuracy,
        threads=threads,
    )[0, :, :, 0]
    # Correlation is not commutative: with the arrays in the other order everything comes out turned.
    turned = swapped and not flip
    return arrays.give_back(np.ascontiguousarray(y[::-1, ::-1]) if turned else y, a)


def _plane(name: str, value: Any) -> Array:
    array = arrays.view(name, value)
    arguments.shape(f"{name}.shape", array.shape, (2,))
    if array.size == 0:
        raise ValueError(f"{name} must have at least one row and one column, got shape {array.shape}")
    return array


def _ends(mode: str, kernel: tuple[int, ...], flip: bool) -> tuple[int, ...]:
    ends: list[int] = []
    for taps in kernel:
        # SciPy's "same" begins at output (taps - 1) // 2 of "full" for convolution, and at taps // 2 for correlation.
        before = taps // 2 if flip else (taps - 1) // 2
        ends += {"valid": (0, 0), "full": (taps - 1, taps - 1), "same": (before, taps - 1 - before)}[mode]
    return tuple(ends)
