"""A photograph blurred and sharpened; below, one corner of it blurred with each of the five kinds of border."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from fastconv import image
from fastconv.image.files import write

photo = data.astronaut()
blur = image.filter2d(photo, image.kernel("gaussian", sigma=4))
above = {"photograph": photo, "gaussian, sigma 4": blur, "sharpen": image.filter2d(photo, "sharpen")}
# Stars and stripes end at two sides of this corner, so that what stands beyond them shows.
corner = photo[:40, :40]
wide = image.kernel("box", size=11)
modes = ("reflect", "mirror", "nearest", "wrap", "constant")
below = {"corner": corner, **{f"box 11, {mode}": image.filter2d(corner, wide, mode) for mode in modes}}


def row(pictures: dict[str, np.ndarray], times: int) -> np.ndarray:
    """Return pictures side by side, each enlarged and with its name above it."""
    parts = []
    for name, picture in pictures.items():
        enlarged = picture.repeat(times, axis=0).repeat(times, axis=1)
        title = Image.new("RGB", (enlarged.shape[1], 24), "white")
        ImageDraw.Draw(title).text((4, 6), name, fill="black")
        parts.append(np.pad(np.vstack([title, enlarged]), ((0, 0), (2, 2), (0, 0)), constant_values=255))
    return np.hstack(parts)


top, bottom = row(above, 1), row(below, 6)
width = max(top.shape[1], bottom.shape[1])
rows = [
    np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in (top, bottom)
]
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "borders.png", np.vstack(rows), force=True)
