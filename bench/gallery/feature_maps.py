"""Feature maps of a small net with kernels from the bank: two layers with ReLU and pooling, shown as mosaics."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage import data

import fastconv
from fastconv import image, nn, viz
from fastconv.image.files import write

photo = np.ascontiguousarray(data.coffee()[:, 100:500].transpose(2, 0, 1)).astype(np.float32) / 255
names = ("sobel_x", "sobel_y", "laplacian", "laplacian_8")
bank = [image.kernel(name) for name in names] + [-image.kernel(name) for name in names]
first = np.stack([np.stack([weights] * 3) / 3 for weights in bank]).astype(np.float32)
rng = np.random.default_rng(0)
second = rng.standard_normal((16, 8, 3, 3)).astype(np.float32) * np.float32((2 / 72) ** 0.5)

shallow = fastconv.max_pool2d(nn.conv_bn_relu(photo[None], first), 2)
deep = fastconv.max_pool2d(nn.conv_bn_relu(shallow, second), 2)
above, below = viz.mosaic(shallow[0], columns=4, gap=4), viz.mosaic(deep[0], columns=8, gap=4)
width = max(above.shape[1], below.shape[1])
sheet = np.vstack([np.pad(part, ((0, 8), (0, width - part.shape[1]))) for part in (above, below)])
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "feature_maps.png", np.rint(np.nan_to_num(sheet) ** 0.5 * 255).astype(np.uint8), force=True)
