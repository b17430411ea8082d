"""Edges of a photograph: slopes to the right and downwards, steepness, and direction as colour."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import color, data

from fastconv import image
from fastconv.image.files import write

photo = data.camera().astype(np.float32) / 255
slopes = [np.clip(0.5 + image.filter2d(photo, name) / 4, 0, 1) for name in ("sobel_x", "sobel_y")]
found = image.gradient(photo)
steep = np.clip(found.magnitude / 3, 0, 1)
hue = (found.direction / (2 * np.pi)) % 1
colours = color.hsv2rgb(np.stack([hue, np.ones_like(hue), steep], axis=-1))
grey = [np.repeat(plane[..., None], 3, axis=-1) for plane in (*slopes, steep)]
sheet = np.block([[[grey[0]], [grey[1]]], [[grey[2]], [colours]]])
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "edges.png", np.rint(sheet * 255).astype(np.uint8), force=True)
