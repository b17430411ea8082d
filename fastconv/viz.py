"""Pictures of what convolutions do: arrays first; only the functions ``*_figure`` need matplotlib."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastconv import arguments, arrays
from fastconv.arguments import PaddingArgument, Step

Array = npt.NDArray[Any]


def mosaic(planes: Any, columns: int = 8, gap: int = 1) -> Array:
    """Return planes side by side in rows, each stretched to 0 ... 1, NaN between them.

    Parameters
    ----------
    planes : array, shape (C, H, W) or (O, I, H, W)
        Feature maps of one image, or kernels. A plane of one value becomes 0.
    columns : int
        Planes in a row.
    gap : int
        Pixels between planes.

    Returns
    -------
    ndarray, float64

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import viz
    >>> viz.mosaic(np.ones((10, 4, 5)), columns=8).shape
    (9, 47)
    """
    maps = arrays.view("planes", planes)
    arguments.shape("planes.shape", maps.shape, (3, 4))
    maps = maps.reshape(-1, *maps.shape[-2:]).astype(np.float64)
    across, space = arguments.integer("columns", columns, 1), arguments.integer("gap", gap, 0)
    count, h, w = maps.shape
    if maps.size == 0:
        raise ValueError(f"planes must not be empty, got shape {np.shape(planes)}")
    across = min(across, count)
    down = -(-count // across)
    sheet = np.full((down * (h + space) - space, across * (w + space) - space), np.nan)
    for index, plane in enumerate(maps):
        row, column = (index // across) * (h + space), (index % across) * (w + space)
        least, most = np.nanmin(plane), np.nanmax(plane)
        sheet[row : row + h, column : column + w] = (plane - least) / ((most - least) or 1)
    return sheet


def local_contrast(plane: Any, clip: float = 0.03) -> Array:
    """Return a plane divided by its largest absolute value, its histogram equalised region by region.

    For looking at weak responses only. Needs scikit-image.

    Parameters
    ----------
    plane : array, shape (H, W)
    clip : float
        Limit of contrast, 0 to 1.
    """
    try:
        from skimage.exposure import equalize_adapthist
    except ImportError:
        raise ImportError("local_contrast needs scikit-image: pip install scikit-image") from None
    values = arrays.view("plane", plane).astype(np.float64)
    arguments.shape("plane.shape", values.shape, (2,))
    most = np.abs(values).max(initial=0)
    equalised: Array = equalize_adapthist(values / (most or 1), clip_limit=clip)
    return equalised


def framed(image: Any, window: tuple[int, int, int, int], width: int = 2) -> Array:
    """Return a copy of an image with a frame around a window, in red on RGB, in the brightest value on grey.

    Parameters
    ----------
    image : array, shape (H, W) or (H, W, 3)
    window : (top, bottom, left, right)
        As `fastconv.nn.ReceptiveField.window` gives it; parts outside the image are not drawn.
    width : int
        Of the frame, inside the window.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import viz
    >>> viz.framed(np.zeros((4, 4), np.uint8), (1, 4, -1, 3), 1).tolist()
    [[0, 0, 0, 0], [255, 255, 255, 0], [0, 0, 255, 0], [255, 255, 255, 0]]
    """
    drawn: Array = arrays.view("image", image).copy()
    arguments.shape("image.shape", drawn.shape, (2, 3))
    edge = arguments.integer("width", width, 1)
    most: Any = np.iinfo(drawn.dtype).max if drawn.dtype.kind in "iu" else max(float(drawn.max()), 1.0)
    colour = most if drawn.ndim == 2 else np.array([most, 0, 0][: drawn.shape[2]], drawn.dtype)
    top, bottom, left, right = window
    rows, columns = np.ogrid[: drawn.shape[0], : drawn.shape[1]]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    core = (rows >= top + edge) & (rows < bottom - edge) & (columns >= left + edge) & (columns < right - edge)
    drawn[inside & ~core] = colour
    return drawn


class OneStep(NamedTuple):
    """How one output comes about: ``total = sum(window * kernel)``. What is padding is NaN in the window."""

    at: tuple[int, int]
    #: Row and column of the image under the first weight.
    corner: tuple[int, int]
    window: Array
    kernel: Array
    products: Array
    total: float
    output_shape: tuple[int, int]

    def __str__(self) -> str:
        """Return window, kernel and products beside each other, and their sum."""
        blocks = [_printed(part) for part in (self.window, self.kernel, self.products)]
        heads = ["window", "kernel", "products"]
        widths = [max(len(head), *map(len, block)) for head, block in zip(heads, blocks, strict=True)]
        middle = (len(self.kernel) - 1) // 2
        lines = ["   ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip()]
        for row, parts in enumerate(zip(*blocks, strict=True)):
            cells = [part.rjust(width) for part, width in zip(parts, widths, strict=True)]
            signs = (" * ", " = ") if row == middle else ("   ", "   ")
            lines.append(f"{cells[0]}{signs[0]}{cells[1]}{signs[1]}{cells[2]}")
        live = [_short(value) for value in self.products.ravel() if value != 0 and not math.isnan(value)]
        sum_ = " + ".join(live).replace("+ -", "- ") or "0"
        rows, columns = self.output_shape
        lines.append(
            f"output ({self.at[0]}, {self.at[1]}) of {rows} x {columns}: {sum_} = {_short(self.total)}"
        )
        return "\n".join(lines)


def step(
    x: Any,
    kernel: Any,
    at: tuple[int, int],
    stride: Step = 1,
    padding: PaddingArgument = 0,
    dilation: Step = 1,
) -> OneStep:
    """Return window, products and sum of one output of the correlation of a plane with a kernel.

    Parameters
    ----------
    x : array, shape (H, W)
    kernel : array, shape (kh, kw)
    at : (row, column)
        Of the output.
    stride, padding, dilation
        As for `fastconv.conv2d`.

    Returns
    -------
    OneStep
        ``print`` it, or read its fields.

    Raises
    ------
    TypeError, ValueError
        As `fastconv.conv2d` does, and when there is no such output.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import viz
    >>> print(viz.step(np.arange(16.0).reshape(4, 4), np.array([[1.0, 0.0], [0.0, -1.0]]), (1, 2)))
    window   kernel   products
      6  7 *   1  0 =    6   0
     10 11     0 -1      0 -11
    output (1, 2) of 3 x 3: 6 - 11 = -5
    """
    plane, weights = arrays.view("x", x).astype(np.float64), arrays.view("kernel", kernel).astype(np.float64)
    arguments.shape("x.shape", plane.shape, (2,))
    arguments.shape("kernel.shape", weights.shape, (2,))
    problem = arguments.problem(
        (1, *plane.shape), (1, 1, *weights.shape), stride=stride, padding=padding, dilation=dilation
    )
    output = (problem.oh, problem.ow)
    if len(at) != 2:
        raise ValueError(f"at must be (row, column), got {at!r}")
    place = [arguments.integer("at", value) for value in at]
    if not all(0 <= value < size for value, size in zip(place, output, strict=True)):
        raise ValueError(
            f"at must be inside the output of {output[0]} rows and {output[1]} columns, got {tuple(at)}"
        )
    row = place[0] * problem.stride[0] - problem.padding[0]
    column = place[1] * problem.stride[1] - problem.padding[2]
    rows = row + problem.dilation[0] * np.arange(problem.kh)
    columns = column + problem.dilation[1] * np.arange(problem.kw)
    seen = ((rows >= 0) & (rows < problem.h))[:, None] & ((columns >= 0) & (columns < problem.w))
    window = np.where(seen, plane[np.ix_(rows % problem.h, columns % problem.w)], np.nan)
    products = np.where(seen, window * weights, 0.0) + 0.0  # which makes -0 a 0
    return OneStep(
        (place[0], place[1]), (row, column), window, weights, products, float(products.sum()), output
    )


def mosaic_figure(planes: Any, columns: int = 8) -> Any:
    """Return a matplotlib figure of `mosaic`: feature maps or kernels in a grid, without axes."""
    sheet = mosaic(planes, columns)
    size = 10 / max(sheet.shape)
    figure, axes = _figure((max(sheet.shape[1] * size, 1), max(sheet.shape[0] * size, 1)))
    axes.imshow(sheet, cmap="gray", interpolation="nearest")
    axes.set_axis_off()
    return figure


def receptive_field_figure(image: Any, window: tuple[int, int, int, int]) -> Any:
    """Return a matplotlib figure of an image with the window that one output sees."""
    figure, axes = _figure((6, 6))
    axes.imshow(image, cmap="gray")
    top, bottom, left, right = window
    corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
    axes.plot(*(np.array(side) - 0.5 for side in corners), color="red", linewidth=2)
    axes.set_title(f"{bottom - top} x {right - left} pixels reach one output")
    axes.set_axis_off()
    return figure


def step_figure(one: OneStep) -> Any:
    """Return a matplotlib figure of a step: window, kernel and products as coloured tables, and the sum."""
    figure, first = _figure((9, 3.4))
    first.remove()
    limit = max(float(np.nanmax(np.abs(one.products), initial=0)), 1e-300)
    parts = (("window", one.window), ("kernel", one.kernel), ("products", one.products))
    for place, (title, values) in enumerate(parts, 1):
        axes = figure.add_subplot(1, 3, place)
        most = limit if title == "products" else max(float(np.nanmax(np.abs(values), initial=0)), 1e-300)
        axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
        for (row, column), value in np.ndenumerate(values):
            dark = abs(value) > 0.6 * most
            axes.text(
                column, row, _short(value), ha="center", va="center", color="white" if dark else "black"
            )
        axes.set_title(title)
        axes.set_axis_off()
    figure.suptitle(f"output {one.at}: the products sum to {_short(one.total)}")
    return figure


def _figure(inches: tuple[float, float]) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("figures need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=inches, layout="constrained")
    return figure, figure.add_subplot()


def _short(value: float) -> str:
    return "." if math.isnan(value) else f"{value:.4g}"


def _printed(part: Array) -> list[str]:
    texts = [[_short(value) for value in row] for row in part]
    width = max(len(text) for row in texts for text in row)
    return [" ".join(text.rjust(width) for text in row) for row in texts]
