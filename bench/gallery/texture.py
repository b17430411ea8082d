"""Texture of a brick wall and of grass by Gabor kernels of eight directions: which one answers most, and how much."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import color, data

from fastconv import image
from fastconv.image.files import write

photo = np.hstack([data.brick()[:, :320], data.grass()[:, :320]]).astype(np.float32) / 255
angles = np.arange(8) * np.pi / 8
energy = []
for theta in angles:
    even, odd = (
        image.filter2d(
            photo, image.kernel("gabor", theta=theta, lambd=9, sigma=4, psi=psi, normalise="zero-mean")
        )
        for psi in (0, np.pi / 2)
    )
    energy.append(image.filter2d(np.hypot(even, odd), image.kernel("gaussian", sigma=5)))
most = np.max(energy, axis=0)
hue = angles[np.argmax(energy, axis=0)] / np.pi
colours = color.hsv2rgb(
    np.stack([hue, np.full_like(hue, 0.8), np.clip(most / most.max() * 1.4, 0, 1)], axis=-1)
)
sheet = np.vstack([np.repeat(photo[..., None], 3, axis=-1), colours])
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "texture.png", np.rint(sheet * 255).astype(np.uint8), force=True)
