"""Filters of photographs in the words of ``scipy.ndimage``: any kernel, slopes, and images with missing pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays
from fastconv.image.bank import kernel as bank_kernel
from fastconv.image.borders import NDIMAGE_MODES, Border, single_number
from fastconv.image.strips import as_pixels, filtered
from fastconv.image.sweep import columns_and_rows
from fastconv.problem import one_of

Array = npt.NDArray[Any]

#: Axes of images: rows H, columns W, channels C, several images N.
IMAGE_LAYOUTS = ("HW", "HWC", "NHW", "NHWC", "CHW", "NCHW")
_LAYOUT_OF_RANK = {2: "HW", 3: "HWC", 4: "NHWC"}
#: Pairs of slopes that `gradient` knows.
SLOPES = ("sobel", "prewitt", "scharr")


class Gradient(NamedTuple):
    """Steepness of an image, and the direction in which it gets brighter: radians, 0 to the right, pi / 2 down."""

    magnitude: Any
    direction: Any


def filter2d(
    image: Any,
    kernel: Any,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int | tuple[int, int] = 0,
    *,
    layout: str | None = None,
    dtype: npt.DTypeLike | None = None,
    ignore_nan: bool = False,
    accuracy: str = "standard",
    threads: int | None = None,
    out: Any = None,
) -> Any:
    """Correlate each channel of an image with a kernel, as ``scipy.ndimage.correlate`` and OpenCV's ``filter2D`` do.

    Parameters
    ----------
    image : array, shape (H, W), (H, W, C) or (N, H, W, C), or as `layout` says
        Of integers up to 32 bits, or floating. What is no float64 and no wider than 16 bits is computed in float32.
    kernel : array, shape (rows, columns), or str
        Laid on the image as it is printed; a name of the kernel bank stands for that kernel with its defaults.
    mode : str
        What stands around the image, in SciPy's words: of a b c d, "reflect" continues d d c b | a, "mirror"
        d c b | a, "nearest" d d, "wrap" a b, "constant" `cval`. "grid-mirror", "grid-wrap" and "grid-constant" are
        other words for "reflect", "wrap" and "constant". Borders may be wider than the image.
    cval : float
        For mode "constant".
    origin : int or (rows, columns)
        Moves the kernel: its pixel ``size // 2 + origin`` lies on the pixel that is computed.
    layout : {"HW", "HWC", "NHW", "NHWC", "CHW", "NCHW"}, optional
        Axes of `image`. Default: "HW", "HWC" or "NHWC", by the number of axes.
    dtype : dtype, optional
        Of the result; default that of `image`. Integers are rounded to the nearest, halves to even, and what is out
        of range becomes the least or the largest value, as in OpenCV.
    ignore_nan : bool
        Leave pixels that are NaN out and scale the weights over the others up to the sum of all: of a constant image
        with holes a box or Gaussian makes the constant. NaN remains where no weight is left. The kernel's sum must
        not be 0.
    accuracy, threads
        As for `fastconv.conv2d`. Kernels that are a column times a row are taken apart unless "strict".
    out : array, optional
        Where to put the result; of the shape of `image`, of the dtype of the result. Large images in turn are
        filtered faster into the same memory than into new memory.

    Returns
    -------
    array
        Of the shape of `image`; `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        When an argument is of a wrong kind, or a value breaks a rule.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import image
    >>> photo = np.array([[10, 20, 40], [10, 20, 40]], np.uint8)
    >>> image.filter2d(photo, "sobel_x").tolist()
    [[40, 120, 80], [40, 120, 80]]
    >>> image.filter2d(photo, np.ones((1, 3)) / 3, mode="constant", cval=10).tolist()
    [[13, 23, 23], [13, 23, 23]]
    """
    images = _images(image, layout)
    pixels = images.pixels
    weights = _weights(kernel)
    kind = arrays.supported("image", pixels.dtype) if dtype is None else _result_dtype(dtype)
    border = _border(mode, cval, origin, weights.shape)
    compute = _compute_dtype(pixels.dtype)
    words: dict[str, Any] = {"accuracy": accuracy, "threads": threads}
    room = images.room(out, kind)
    if arguments.flag("ignore_nan", ignore_nan) and pixels.dtype.kind == "f":
        y = _without_nan(pixels, weights, border, compute, kind, words)
    else:
        y = filtered(pixels, weights[None].astype(compute), border, kind, out=room, **words)
    return images.deliver(y, out, room)


def gradient(
    image: Any,
    kernel: str = "sobel",
    mode: str = "reflect",
    cval: float = 0.0,
    *,
    layout: str | None = None,
    dtype: npt.DTypeLike | None = None,
    direction: bool = True,
    accuracy: str = "standard",
    threads: int | None = None,
    out: Any = None,
) -> Gradient:
    """Return the steepness of an image, ``sqrt(gx^2 + gy^2)``, and its direction, ``atan2(gy, gx)``.

    Parameters
    ----------
    image, mode, cval, layout, accuracy, threads
        As for `filter2d`.
    kernel : {"sobel", "prewitt", "scharr"}
        The pair of kernels; not scaled.
    dtype : dtype, optional
        Of the magnitude; default the floating type that is computed in. Integers are rounded and limited as in
        `filter2d`.
    direction : bool
        Whether to compute the direction too; it takes several times as long as the magnitude.
    out : array, optional
        Where to put the magnitude; of the shape of `image`, of `dtype`.

    Returns
    -------
    Gradient
        `direction` is None when it was not asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import image
    >>> down = np.repeat(np.arange(5.0)[:, None], 5, axis=1)
    >>> found = image.gradient(down)
    >>> found.magnitude[2, 2].item(), round(found.direction[2, 2].item(), 4)
    (8.0, 1.5708)
    """
    name = one_of("kernel", kernel, SLOPES)
    images = _images(image, layout)
    pixels = images.pixels
    compute = _compute_dtype(pixels.dtype)
    pair = np.stack([bank_kernel(f"{name}_x"), bank_kernel(f"{name}_y")]).astype(compute)
    kind = compute if dtype is None else _result_dtype(dtype)
    border = _border(mode, cval, 0, pair.shape[1:])

    room = images.room(out, kind)
    words: dict[str, Any] = {"accuracy": accuracy, "threads": threads}
    y = filtered(pixels, pair, border, kind, "magnitude", room, **words)
    angles = None
    if arguments.flag("direction", direction):
        angles = images.deliver(filtered(pixels, pair, border, compute, "angle", **words))
    return Gradient(images.deliver(y, out, room), angles)


class _Images(NamedTuple):
    """Images as they were given, as an array, and as (N, H, W, C): planes of channels are images of one channel."""

    given: Any
    array: Array
    pixels: Array

    def room(self, out: Any, dtype: np.dtype[Any]) -> Array | None:
        """Return where kernels can write straight into `out`: laid out as `pixels`, or None."""
        if out is None:
            return None
        target = arrays.view("out", out)
        arrays.check_out(target, self.array.shape, dtype)
        arrays.check_apart("image", target, self.array)
        return target.reshape(self.pixels.shape) if target.flags.c_contiguous else None

    def deliver(self, y: Array, out: Any = None, room: Array | None = None) -> Any:
        """Return `out` with the result `y` in it, or the result in the kind of the images."""
        if out is None:
            return arrays.give_back(y.reshape(self.array.shape), self.given)
        if y is not room:
            arrays.view("out", out)[...] = y.reshape(self.array.shape)
        return out


def _images(image: Any, layout: str | None) -> _Images:
    array = arrays.view("image", image)
    if layout is None:
        if array.ndim not in _LAYOUT_OF_RANK:
            raise ValueError(f"image must have 2, 3 or 4 axes, got {array.ndim}: {array.shape}")
        order = _LAYOUT_OF_RANK[array.ndim]
    else:
        order = one_of("layout", layout, IMAGE_LAYOUTS)
        if array.ndim != len(order):
            raise ValueError(
                f"image must have {len(order)} axes for layout={order!r}, got {array.ndim}: {array.shape}"
            )
    for letter, what in (("H", "rows"), ("W", "columns"), ("C", "channels")):
        if letter in order and array.shape[order.index(letter)] == 0:
            raise ValueError(f"image must have at least one of each, got 0 {what} in {array.shape} ({order})")
    height, width = (array.shape[order.index(letter)] for letter in "HW")
    channels = array.shape[-1] if order.endswith("C") else 1
    count = array.size // (height * width * channels)
    return _Images(image, array, array.reshape(count, height, width, channels))


def _weights(kernel: Any) -> Array:
    if isinstance(kernel, str):
        return bank_kernel(kernel)
    weights = np.asarray(kernel)
    if weights.dtype.kind not in "fiu":
        raise TypeError(
            f"kernel must be real numbers, or a name of the kernel bank, got {weights.dtype.name}"
        )
    if weights.ndim != 2 or weights.size == 0:
        raise ValueError(f"kernel must have 2 axes and at least one weight, got shape {weights.shape}")
    return weights.astype(np.float64)


def _result_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    return arrays.supported("dtype", np.dtype(dtype))


def _compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return float32 for what it holds exactly."""
    return np.dtype(np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64)


def _border(mode: str, cval: float, origin: Any, kernel: tuple[int, ...]) -> Border:
    word = NDIMAGE_MODES[one_of("mode", mode, tuple(NDIMAGE_MODES))]
    shifts = origin if isinstance(origin, tuple | list) else (origin, origin)
    if len(shifts) != 2:
        raise ValueError(f"origin must be an int or a pair (rows, columns), got {origin!r}")
    ends: list[int] = []
    for size, shift in zip(kernel, shifts, strict=True):
        before = size // 2 + arguments.integer("origin", shift)
        if not 0 <= before < size:
            raise ValueError(
                f"origin must keep its pixel inside the kernel, from {-(size // 2)} to {(size - 1) // 2} for a size "
                f"of {size}, got {shift}"
            )
        ends += [before, size - 1 - before]
    return Border(word, single_number("cval", cval), *ends)


def _without_nan(
    pixels: Array,
    weights: Array,
    border: Border,
    compute: np.dtype[Any],
    kind: np.dtype[Any],
    words: dict[str, Any],
) -> Array:
    total = weights.sum()
    if abs(total) <= np.finfo(np.float64).eps * weights.size * np.abs(weights).sum():
        raise ValueError(
            f"ignore_nan=True scales weights to their sum, which must not be 0, got {total}; fill the gaps first"
        )
    missing = np.isnan(pixels)
    kernels = weights[None].astype(compute)
    # The sums over what is left are sums of zeros when nothing is left: not by Fourier transforms, which round them.
    exact = words if columns_and_rows(kernels) is not None else words | {"accuracy": "strict"}

    def run(image: Array, value: float) -> Array:
        return filtered(image, kernels, border._replace(value=value), compute, **exact)

    outside_missing = bool(np.isnan(border.value))
    sums = run(np.where(missing, 0, pixels).astype(compute), 0.0 if outside_missing else border.value)
    left = run((~missing).astype(compute), 0.0 if outside_missing else 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        y: Array = sums * (total.astype(compute) / left)
    y[left == 0] = np.nan
    return as_pixels(y, kind)
