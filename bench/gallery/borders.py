"""A photograph blurred and sharpened; below, its corner blurred with each of the five kinds of border."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import data

from fastconv import image
from fastconv.image.files import write

photo = data.astronaut()
blur = image.filter2d(photo, image.kernel("gaussian", sigma=4))
above = np.hstack([photo, blur, image.filter2d(photo, "sharpen")])
corner = photo[:128, -128:]
wide = image.kernel("box", size=41)
below = [image.filter2d(corner, wide, mode) for mode in ("reflect", "mirror", "nearest", "wrap", "constant")]
strip = np.hstack([corner, *below]).repeat(2, axis=0).repeat(2, axis=1)
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "borders.png", np.vstack([above, strip]), force=True)
