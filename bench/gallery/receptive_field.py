"""What one output of the first layers of VGG-16 sees of a photograph, after each block."""

from __future__ import annotations

import sys
from pathlib import Path

from skimage import data

from fastconv import nn, viz
from fastconv.image.files import write

photo = data.astronaut()
layers: list[str] = []
for convolutions in (2, 2, 3, 3):
    layers += ["3x3p1"] * convolutions + ["pool2"]
    field = nn.receptive_field(layers)
    # The output whose field has its centre nearest to the face.
    row, column = (
        round((at - start) / jump)
        for at, start, jump in zip((110, 224), field.start, field.jump, strict=True)
    )
    photo = viz.framed(photo, field.window(row, column), 3)
    print(
        f"{len(layers):2} layers: {field.size[0]} x {field.size[1]} pixels, one output every {field.jump[0]}"
    )
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "receptive_field.png", photo, force=True)
