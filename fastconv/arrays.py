"""Arrays on their way in and out: what is taken, how it is made ready for kernels, what kind is given back.

Kernels read native, aligned, C-contiguous memory of the compute dtype and know nothing else. An array that is
like that already is used where it lies; any other NumPy array is copied once. Arrays of other libraries are
looked at through DLPack without a copy when they are in the memory of the CPU, and results are handed back in
the same kind. Nothing here imports another library: whoever passes a tensor has imported its library already.
"""

from __future__ import annotations

import math
import sys
from ctypes import addressof, c_char
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.exceptions import TooHardError

from fastconv.problem import DTYPES

Array = npt.NDArray[np.generic]

#: Device types of DLPack whose memory NumPy may read: CPU, and CPU memory pinned for CUDA or ROCm.
_HOST_DEVICES = (1, 3, 11)
#: Work the exact overlap test may spend (about a millisecond); beyond it, possible overlap counts as overlap.
_OVERLAP_WORK = 100_000
#: Bytes of a cache line, and of arrays so small that where they begin does not matter.
LINE, SMALL_BYTES = 64, 16_384
#: Asked before names, which take 2 us to make.
_NATIVE = frozenset(np.dtype(name) for name in DTYPES)
_ADVICE = {
    "bool": "convert it, for example with astype(numpy.uint8)",
    "uint64": "sums are exact in int64, which cannot hold uint64; convert it",
    "complex64": "convolve the real and the imaginary part",
    "complex128": "convolve the real and the imaginary part",
    "object": "convert it to numbers with astype",
    "longdouble": "convert it to float64",
    "float128": "convert it to float64",
    "bfloat16": "convert it to float32",
}


def view(name: str, value: object) -> Array:
    """Return `value` as a NumPy array over the same memory.

    Raises
    ------
    TypeError
        When it is no array, lies on another device, carries gradients, or has an element type that is not
        supported.
    """
    array = _numpy_view(name, value)
    supported(name, array.dtype)
    return array


def is_array(value: object) -> bool:
    """Return whether `value` is an array of any library."""
    return any(hasattr(value, protocol) for protocol in ("__dlpack__", "__array__", "__array_interface__"))


def supported(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return `dtype` if arrays of it can be convolved, in either byte order; else raise, with advice."""
    if dtype not in _NATIVE and dtype.name not in DTYPES:
        advice = f"; {_ADVICE[dtype.name]}" if dtype.name in _ADVICE else ""
        raise TypeError(f"{name} must have one of the dtypes {', '.join(DTYPES)}, got {dtype.name}{advice}")
    return dtype


def same_type(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    """Return whether two dtypes differ at most in byte order."""
    return a == b or a.name == b.name


def ready(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return `array` as kernels want it: native `dtype`, aligned, C-contiguous; itself if it is so."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, dtype, ("C", "A"))


def aligned(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return `array` in native `dtype` and aligned, with any strides; itself if it is so."""
    if array.dtype == dtype and array.flags.aligned:
        return array
    return np.require(array, dtype, ("A",))


def rounded(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return sums in the dtype of the result; what is too large for float16 becomes infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def address(array: Array) -> int:
    """Return where the elements begin.

    Asking the buffer protocol takes 0.3 us, ``array.ctypes.data`` 1.1 us; the first cannot see read-only or
    empty arrays.
    """
    try:
        return addressof(c_char.from_buffer(array))  # type: ignore[arg-type]  # an array is a buffer
    except (TypeError, ValueError):
        return array.ctypes.data


def fresh(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array of any content that begins at a cache line, as vectors are fastest.

    NumPy's own begin 16 bytes into one, so that each vector of 64 bytes touches two: a depthwise layer in NHWC takes
    1.5 to 2 times as long from and to such arrays (38 us for 20 with 192 channels at 28x28). Small arrays are NumPy's:
    0.4 us more are more than they gain.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL_BYTES:
        return np.empty(shape, dtype)
    memory = np.empty(size + LINE - 1, np.uint8)
    return np.ndarray(shape, dtype, memory, -address(memory) % LINE)


def give_back(result: Array, like: object) -> Any:
    """Return `result` as an array of the kind of `like`, over the same memory, if that kind says how."""
    if isinstance(like, np.ndarray) or not hasattr(like, "__dlpack__"):
        return result
    if hasattr(like, "__array_namespace__"):
        library = like.__array_namespace__()
    else:
        library = sys.modules.get(type(like).__module__.partition(".")[0])
    from_dlpack = getattr(library, "from_dlpack", None)
    return result if from_dlpack is None else from_dlpack(result)


def check_out(out: Array, shape: tuple[int, ...], dtype: npt.DTypeLike, name: str = "out") -> None:
    """Refuse an `out` that cannot take the result.

    Raises
    ------
    ValueError
        When shape or dtype differ, it is read-only, unaligned, or overlaps itself.
    """
    if out.shape != shape:
        raise ValueError(f"{name} must have the shape of the result, {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise ValueError(
            f"{name} must have the dtype of the result in native byte order, {dtype}, got {out.dtype.str}"
        )
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if not out.flags.aligned:
        raise ValueError(
            f"{name} must be aligned to its elements, got address {out.ctypes.data} for {out.dtype}"
        )
    if _overlaps_itself(out):
        raise ValueError(f"{name} must not overlap itself, got strides {out.strides} for shape {out.shape}")


def check_apart(name: str, out: Array, array: Array | None) -> None:
    """Refuse an `out` that shares memory with the input of that name."""
    if array is not None and overlap(out, array):
        raise ValueError(f"out must not overlap {name}: results would change what is still to be read")


def overlap(a: Array, b: Array) -> bool:
    """Return whether two arrays share an element, or may (an exact answer can take exponential time)."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)  # type: ignore[arg-type]  # stubs know only two values
    except TooHardError:
        return True


def same_memory(a: Array, b: Array) -> bool:
    """Return whether element i of `a` is element i of `b`, for every i."""
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


def _numpy_view(name: str, value: object) -> Array:
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a masked array; fill it first, for example with {name}.filled(0)"
        )
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if isinstance(value, type):
        raise TypeError(f"{name} must be an array, got the type {value.__name__}")
    if hasattr(value, "__dlpack__"):
        return _dlpack_view(name, value)
    if is_array(value):
        return np.asarray(value)
    raise TypeError(f"{name} must be an array, got {type(value).__name__}; make one with numpy.asarray")


def _dlpack_view(name: str, value: Any) -> Array:
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{name} requires gradients, which are not computed here; pass {name}.detach()")
    kind = type(value).__name__
    try:
        device, index = value.__dlpack_device__()
        if device not in _HOST_DEVICES:
            raise TypeError(
                f"{name} must be in the memory of the CPU, got {kind} on device {device!r}:{index}"
            )
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, ValueError, NotImplementedError) as refusal:
        raise TypeError(
            f"{name} cannot be read as a NumPy array of the CPU: {kind} says {refusal}"
        ) from refusal


def _overlaps_itself(array: Array) -> bool:
    # Enough to prove that there is no overlap: each stride steps over everything the smaller strides reach.
    # Only layouts that no slicing or transposing can make are refused without need.
    if array.flags.c_contiguous:
        return False
    reach = array.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False
