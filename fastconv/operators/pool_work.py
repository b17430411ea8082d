"""What pooling hands to the runtime: the kernel for the layout, its tables of windows, its tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.algorithms.geometry import aligned_up
from fastconv.machine import Machine
from fastconv.operators import pool_pixels, pool_planes, running
from fastconv.operators.running import Prepared, Result, Sizes
from fastconv.operators.windows import Windows
from fastconv.runtime import Work

Array = npt.NDArray[Any]

#: Strides for which a strip's columns are picked with shuffles; others take a gather.
SHUFFLED = (1, 2, 3, 4)
#: Rows and columns of windows for which kernels have their loops over taps unrolled: half the time of a window.
UNROLLED = (2, 3)
#: From which multiple of L2 on means ask for their images ahead, in bytes of a row of NHWC, of NCHW and of its result
#: (3x3, stride 2, 64 channels at 112x112, float32: 124 -> 115 us, NCHW 126 -> 116). What is in L2 takes 5 to 13 %
#: longer so.
FAR, PIXELS_AHEAD, PLANES_AHEAD = 1.5, 2048, (4096, 1024)
#: What is computed, of which kernel on NHWC and NCHW images.
KERNELS: dict[str, tuple[Any, Any]] = {
    "max": (pool_pixels.max_pixels, pool_planes.max_planes),
    "argmax": (pool_pixels.argmax_pixels, pool_planes.argmax_planes),
    "mean": (pool_pixels.mean_pixels, pool_planes.mean_planes),
}


def prepared(
    operation: str,
    sizes: Sizes,
    dtype: np.dtype[Any],
    rows: Windows,
    cols: Windows,
    divisors: tuple[Array, Array],
) -> Prepared:
    """Return pooling of images of those sizes by those windows: "max", "argmax" or "mean".

    `divisors` are the factors of each window's divisor, by rows and by columns.
    """
    compute = running.compute_dtype(dtype)
    shape = sizes.result(sizes.c, rows.out, cols.out)
    running.check_bytes(shape)
    results = [Result(shape, compute, dtype.newbyteorder("="))]
    if operation == "argmax":
        results.append(Result(shape, np.dtype(np.int64), np.dtype(np.int64)))
    if sizes.n == 0:
        return Prepared(None, compute, tuple(results))
    whole = rows.out == cols.out == 1 and rows.count[0] == sizes.h and cols.count[0] == sizes.w
    if sizes.layout == "NHWC":
        work = _pixels(operation, sizes, compute, rows, cols, divisors)
    elif whole and operation != "argmax":
        work = _whole_planes(operation, sizes, compute, divisors)
    else:
        work = _planes(operation, sizes, compute, rows, cols, divisors)
    return Prepared(work, compute, tuple(results))


def _pixels(
    operation: str,
    sizes: Sizes,
    dtype: np.dtype[Any],
    rows: Windows,
    cols: Windows,
    divisors: tuple[Array, Array],
) -> Work:
    """Return the work of pooling NHWC images."""
    lanes, size = Machine.host().lanes(dtype), dtype.itemsize
    lines = sizes.n * rows.out
    # Rows of an image first; where they are few, blocks of channels too.
    blocks = -(-sizes.c // (4 * lanes))
    splits = min(blocks, -(-16 // lines))
    per_split = aligned_up(-(-blocks // splits) * 4 * lanes, 4 * lanes)
    splits = -(-sizes.c // per_split)
    taps = int(rows.count.max()) * int(cols.count.max())
    cycles = cols.out * -(-min(sizes.c, per_split) // lanes) * (1.5 * taps + 4) + 100
    per_task, tasks = running.chunks(lines * splits, cycles)
    tables = [_pairs(rows), _pairs(cols), _factors(divisors[0], dtype, 0), _factors(divisors[1], dtype, 0)]
    pixel = sizes.c * size
    moved = _moved(sizes, rows, cols) * size
    stride = max(cols.stride, 1)
    columns = -(-PIXELS_AHEAD // (stride * pixel))
    kernel = KERNELS[operation][0](lanes, dtype.name)
    return running.work(
        kernel, tables, [lines * splits, per_task, splits, per_split],
        [rows.out, cols.out, sizes.c, sizes.h * sizes.w * pixel, sizes.w * pixel, pixel],
        [rows.dilation * sizes.w * pixel, cols.dilation * pixel],
        [columns * stride * pixel, columns * pixel, stride if _far(moved) else 0],
        tasks=tasks, scratch=0, cycles=cycles * lines * splits, moved=moved,
    )  # fmt: skip


def _planes(
    operation: str,
    sizes: Sizes,
    dtype: np.dtype[Any],
    rows: Windows,
    cols: Windows,
    divisors: tuple[Array, Array],
) -> Work:
    """Return the work of pooling NCHW images."""
    lanes, size = Machine.host().lanes(dtype), dtype.itemsize
    pitch = aligned_up(cols.out, lanes)
    step = cols.stride if cols.stride in SHUFFLED else 0
    side = rows.taps if rows.taps == cols.taps and rows.taps in UNROLLED else 0
    left = cols.before
    reach = (pitch - 1) * step + (cols.taps - 1) * cols.dilation + max(step, 1)
    # One more element at the end is never written: what stands there changes no result.
    width = aligned_up(max(reach, left + sizes.w + 1), lanes)
    under = rows.positions()
    if operation == "max":
        under = np.where(under < 0, rows.first[:, None], under)
    places = np.full((cols.taps, pitch), width - 1, np.int64)
    columns = cols.positions().T
    places[:, : cols.out] = np.where(columns < 0, width - 1, columns + left)
    strips = {"max": pool_planes.ROWS, "mean": pool_planes.ROWS + 1, "argmax": rows.taps}[operation]
    if operation == "argmax":
        farthest = (rows.taps * rows.dilation + 1) * sizes.w + cols.taps * cols.dilation
        constants: tuple[str, ...] = ("int32" if size == 4 and farthest < 2**31 else "int64",)
        extra = [_padded(cols.bases(), pitch), _padded(cols.first - cols.bases(), pitch)]
    else:
        constants = ()
        extra = [_factors(divisors[0], dtype, 0), _factors(divisors[1], dtype, pitch - cols.out)]
    per_tap = (3 if step else 15) * (2 * rows.taps if operation == "argmax" else 1)
    cycles = -(-sizes.w // lanes) * (1.5 * rows.taps + 3) + pitch // lanes * (per_tap * cols.taps + 10) + 40
    units = sizes.n * sizes.c * rows.out
    per_task, tasks = running.chunks(units, cycles)
    moved = _moved(sizes, rows, cols) * size
    kernel = KERNELS[operation][1](step, side, lanes, dtype.name, *constants)
    return running.work(
        kernel, [under, places * size, *extra], [units, per_task], [_ends(operation, dtype), width * size],
        [rows.out, cols.out, sizes.w, sizes.h * sizes.w * size, sizes.w * size, left, rows.taps, cols.taps],
        [cols.dilation * size if step else 0, pitch, rows.dilation, cols.dilation],
        PLANES_AHEAD if _far(moved) else (0, 0),
        tasks=tasks, scratch=strips * width * size + 8 * rows.taps, cycles=cycles * units,
        moved=moved,
    )  # fmt: skip


def _whole_planes(operation: str, sizes: Sizes, dtype: np.dtype[Any], divisors: tuple[Array, Array]) -> Work:
    """Return the work of reducing NCHW images to one pixel."""
    lanes = Machine.host().lanes(dtype)
    units, pixels = sizes.n * sizes.c, sizes.h * sizes.w
    cycles = 1.5 * pixels / lanes + 40
    per_task, tasks = running.chunks(units, cycles)
    ends = np.append(_ends(operation, dtype), divisors[0][0] * divisors[1][0]).astype(dtype)
    kernel = pool_planes.reduce_planes("sum" if operation == "mean" else "max", lanes, dtype.name)
    return running.work(
        kernel,
        [ends],
        [units, per_task, pixels],
        tasks=tasks,
        scratch=0,
        cycles=cycles * units,
        moved=units * pixels * dtype.itemsize,
    )


def _moved(sizes: Sizes, rows: Windows, cols: Windows) -> int:
    """Return how many elements are read and written."""
    return sizes.n * sizes.c * (sizes.h * sizes.w + rows.out * cols.out)


def _far(moved: int) -> bool:
    """Return whether so many bytes come from beyond L2."""
    return moved > FAR * Machine.host().l2_bytes


def _padded(values: Array, count: int) -> Array:
    return np.concatenate([values, np.zeros(count - len(values), np.int64)])


def _pairs(windows: Windows) -> Array:
    return np.stack([windows.first, windows.count], axis=1)


def _factors(values: Array, dtype: np.dtype[Any], rest: int) -> Array:
    """Return divisors in the dtype of the sums; behind them ones, and a zero to begin sums with."""
    return np.concatenate([values, np.ones(rest), [0]]).astype(dtype)


def _ends(operation: str, dtype: np.dtype[Any]) -> Array:
    """Return what changes no result, and what replaces one that has a NaN."""
    if dtype.kind != "f":
        lowest = np.iinfo(dtype).min
        return np.array([lowest, lowest], dtype)
    return np.array([0.0 if operation == "mean" else -np.inf, np.nan], dtype)
