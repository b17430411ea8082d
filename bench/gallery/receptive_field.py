"""What one output of the first layers of VGG-16 sees of a photograph, after each block: a face, enlarged four times."""

from __future__ import annotations

import sys
from pathlib import Path

from skimage import data

from fastconv import nn, viz
from fastconv.image.files import write

ENLARGED = 4

photo = data.astronaut()[40:190, 150:300]
photo = photo.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
layers: list[str] = []
for convolutions in (2, 2, 3, 3):
    layers += ["3x3p1"] * convolutions + ["pool2"]
    field = nn.receptive_field(layers)
    # The output whose field has its centre nearest to the nose.
    row, column = (
        round((at - start) / jump) for at, start, jump in zip((72, 75), field.start, field.jump, strict=True)
    )
    top, bottom, left, right = (ENLARGED * edge for edge in field.window(row, column))
    photo = viz.framed(photo, (top, bottom, left, right), 3)
    print(
        f"{len(layers):2} layers: {field.size[0]} x {field.size[1]} pixels, one output every {field.jump[0]}"
    )
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
write(folder / "receptive_field.png", photo, force=True)
