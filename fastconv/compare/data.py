"""The arrays of a layer, and how far a result is from the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.arrays import LINE, address, fresh
from fastconv.problem import Problem

Array = npt.NDArray[Any]
#: Work of the float64 reference per layer: well under a second of plain loops.
CHECK_FLOP = 1e9


@dataclass(frozen=True, slots=True)
class Arrays:
    """Input in NCHW, weights in OIHW, and the optional ones, of one layer."""

    x: Array
    w: Array
    bias: Array | None
    residual: Array | None

    def x_in(self, layout: str) -> Array:
        """Return the input in `layout`, contiguous."""
        return in_layout(self.x, layout)


def in_layout(nchw: Array, layout: str) -> Array:
    """Return an NCHW array in `layout`, contiguous, from the beginning of a cache line as all peers have theirs."""
    view = nchw.transpose(0, 2, 3, 1) if layout == "NHWC" else nchw
    if view.flags.c_contiguous and address(view) % LINE == 0:
        return view
    values = fresh(view.shape, view.dtype)
    values[...] = view
    return values


def to_nchw(y: Array, layout: str) -> Array:
    """Return a view of `y` with its axes in the order of NCHW."""
    return y.transpose(0, 3, 1, 2) if layout == "NHWC" else y


def make_arrays(problem: Problem, seed: int = 0) -> Arrays:
    """Return normal values for outputs of variance one; small whole numbers for integer types."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], scale: float, dtype: str) -> Array:
        if np.dtype(dtype).kind == "f":
            values = rng.standard_normal(shape, dtype=np.float64 if dtype == "float64" else np.float32)
            return (values * values.dtype.type(scale)).astype(dtype, copy=False)
        low = 0 if np.dtype(dtype).kind == "u" else -4
        return rng.integers(low, 5, shape, dtype=dtype)

    kind = problem.dtype
    y_nchw = (problem.n, problem.o, problem.oh, problem.ow)
    return Arrays(
        x=in_layout(draw((problem.n, problem.c, problem.h, problem.w), 1.0, kind), "NCHW"),
        w=draw(problem.w_shape, (problem.c_per_group * problem.taps) ** -0.5, kind),
        bias=draw((problem.o,), 1.0, problem.result_dtype) if problem.bias else None,
        residual=draw(y_nchw, 1.0, problem.result_dtype) if problem.residual else None,
    )


def words(problem: Problem) -> dict[str, Any]:
    """Return what `problem` says in the words of `fastconv.conv2d`; without arrays, layout and limits."""
    pt, pb, pl, pr = problem.padding
    return {
        "stride": problem.stride,
        "padding": ((pt, pb), (pl, pr)),
        "dilation": problem.dilation,
        "groups": problem.groups,
        "padding_mode": problem.padding_mode,
        "activation": None if problem.activation == "none" else problem.activation,
        "accuracy": problem.accuracy,
    }


#: Copies of a layer's arrays while it is measured: layouts, what libraries pack for themselves, the check.
COPIES = 8


def refuse_too_large(problem: Problem, name: str, memory_bytes: int) -> None:
    """Raise the ValueError that says that `problem` needs more memory than half of what there is."""
    once = problem.x_bytes + problem.w_bytes + problem.y_bytes
    if COPIES * once > memory_bytes // 2:
        raise ValueError(
            f"layer {name}: its arrays take {once / 2**30:.3g} GiB and {COPIES} times that while they are "
            f"measured; half of the {memory_bytes / 2**30:.3g} GiB of memory available may be used"
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """Bands of output rows and some output channels, with their float64 values."""

    bands: tuple[tuple[int, int], ...]
    channels: npt.NDArray[np.intp]
    values: tuple[Array, ...]
    covered: float

    def save(self, path: Path) -> None:
        """Write everything to `path`, for another process."""
        arrays: dict[str, Any] = {f"values{number}": value for number, value in enumerate(self.values)}
        np.savez(path, bands=self.bands, channels=self.channels, covered=self.covered, **arrays)

    @staticmethod
    def load(path: Path) -> Sample:
        """Return what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            bands = tuple((int(start), int(stop)) for start, stop in stored["bands"])
            values = tuple(stored[f"values{number}"] for number in range(len(bands)))
            return Sample(bands, stored["channels"], values, float(stored["covered"]))

    def errors(self, y_nchw: Array) -> tuple[float, float]:
        """Return the largest error divided by the largest value, and the relative L2 error.

        A value that is not finite where the reference is gives infinity.
        """
        largest = top = squares = norm = 0.0
        for (start, stop), exact in zip(self.bands, self.values, strict=True):
            got = y_nchw[:, self.channels, start:stop].astype(np.float64)
            difference = np.abs(got - exact)
            if not np.isfinite(difference).all():
                return float("inf"), float("inf")
            largest = max(largest, float(difference.max(initial=0.0)))
            top = max(top, float(np.abs(exact).max(initial=0.0)))
            squares += float(np.square(difference).sum())
            norm += float(np.square(exact).sum())
        return largest / (top or 1.0), (squares / (norm or 1.0)) ** 0.5


def reference_sample(problem: Problem, arrays: Arrays, check_flop: float = CHECK_FLOP) -> Sample:
    """Return what `problem` gives in float64, whole when that is quick, else on sampled rows and channels."""
    channels = _channels(problem, check_flop)
    row_flop = max(1.0, problem.flop * len(channels) / max(1, problem.o) / max(1, problem.oh))
    rows = int(check_flop / row_flop)
    bands: tuple[tuple[int, int], ...] = ((0, problem.oh),)
    if rows < problem.oh and problem.padding_mode == "zeros" and _overlaps(problem):
        # The two edges, where padding is, and two bands between them.
        each = max(1, rows // 4)
        starts = [0, problem.oh // 3, 2 * problem.oh // 3, problem.oh - each]
        bands = tuple((max(0, start), min(problem.oh, max(0, start) + each)) for start in starts)
    values = tuple(_reference_rows(problem, arrays, channels, band) for band in bands)
    rows_done = len({row for start, stop in bands for row in range(start, stop)})
    covered = rows_done * len(channels) / max(1, problem.oh * problem.o)
    return Sample(bands, channels, values, covered)


def _overlaps(problem: Problem) -> bool:
    """Return whether every output row sees at least one row of the image, so that bands of it make sense."""
    return max(problem.padding[:2]) <= (problem.kh - 1) * problem.dilation[0]


def _channels(problem: Problem, check_flop: float) -> npt.NDArray[np.intp]:
    """Return which output channels to check: all of them unless four rows of them are already too many."""
    four_rows = 4.0 * problem.flop / max(1, problem.oh)
    if problem.groups > 1 or four_rows <= check_flop:
        return np.arange(problem.o)
    keep = max(1, min(problem.o, int(problem.o * check_flop / four_rows)))
    return np.unique(np.linspace(0, problem.o - 1, keep).astype(np.intp))


def _reference_rows(
    problem: Problem, arrays: Arrays, channels: npt.NDArray[np.intp], band: tuple[int, int]
) -> Array:
    from fastconv.api import conv2d

    start, stop = band
    pt, pb, pl, pr = problem.padding
    rows = slice(0, problem.h)
    if band != (0, problem.oh):
        first = start * problem.stride[0] - pt
        last = (stop - 1) * problem.stride[0] - pt + (problem.kh - 1) * problem.dilation[0] + 1
        rows = slice(min(max(0, first), problem.h), max(0, min(problem.h, last)))
        pt, pb = max(0, -first), max(0, last - problem.h)
    # Integers are exact as they are; everything else is computed again in float64.
    whole = np.dtype(problem.dtype).kind != "f"
    exact = np.dtype(problem.dtype if whole else "float64")
    wide = np.dtype(problem.result_dtype if whole else "float64")
    residual = None
    if arrays.residual is not None:
        residual = np.ascontiguousarray(arrays.residual[:, channels, start:stop]).astype(wide)
    spoken = {
        **words(problem),
        "padding": ((pt, pb), (pl, pr)),
        "accuracy": "strict",
        "algorithm": "reference",
    }
    y = conv2d(
        np.ascontiguousarray(arrays.x[:, :, rows]).astype(exact),
        arrays.w[channels].astype(exact),
        None if arrays.bias is None else arrays.bias[channels].astype(wide),
        residual=residual,
        **spoken,
    )
    return np.asarray(y, dtype=np.float64)
