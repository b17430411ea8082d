"""Photographs from files and into files, by Pillow: sizes looked at before pixels are, nothing overwritten unasked."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Megapixels that are read unless more are allowed: beyond, a file is more likely a mistake than a photograph.
MOST_MEGAPIXELS = 200.0
_GREY = ("L", "LA", "La", "1", "I;16", "I;16B", "I;16L")


class Photo(NamedTuple):
    """Pixels (H, W) or (H, W, 3), uint8 or uint16, and how opaque they are (H, W), if the file says so."""

    pixels: Array
    alpha: Array | None


def read(path: str | Path, megapixels: float = MOST_MEGAPIXELS) -> Photo:
    """Read a photograph, turned upright as the camera noted.

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    ValueError
        When it holds no picture, a damaged one, or more than `megapixels`.
    ImportError
        When Pillow is not installed.
    """
    pil = _pillow()
    file = Path(path)
    with file.open("rb") as stream:
        before, pil.Image.MAX_IMAGE_PIXELS = pil.Image.MAX_IMAGE_PIXELS, None  # our own limit comes first
        try:
            picture = pil.Image.open(stream)
            if picture.width * picture.height > megapixels * 1e6:
                raise ValueError(
                    f"{file} has {picture.width} x {picture.height} pixels, more than the {megapixels:g} megapixels "
                    "that are allowed"
                )
            return _pixels(file, pil.ImageOps.exif_transpose(picture))
        except pil.UnidentifiedImageError:
            raise ValueError(f"{file} is not a picture that Pillow can read") from None
        except (OSError, SyntaxError, EOFError, MemoryError) as damage:
            raise ValueError(f"{file} cannot be read: {damage or type(damage).__name__}") from None
        finally:
            pil.Image.MAX_IMAGE_PIXELS = before


def write(path: str | Path, pixels: Array, alpha: Array | None = None, *, force: bool = False) -> None:
    """Write a picture in the format that the end of its name says.

    Parameters
    ----------
    path : str or Path
    pixels : ndarray, shape (H, W) or (H, W, 3)
        uint8, or grey uint16.
    alpha : ndarray, shape (H, W), optional
        Left out where the format has none.
    force : bool
        Whether a file of that name may be replaced.

    Raises
    ------
    FileExistsError
        When there is one, and `force` is False.
    OSError
        When the file cannot be written.
    ValueError
        When the end of the name is no known format, or the format cannot hold the pixels.
    """
    pil = _pillow()
    file = Path(path)
    kind = format_of(file)
    planes = pixels
    if alpha is not None and kind in ("PNG", "TIFF", "WEBP"):
        planes = np.dstack([pixels, alpha])
    stream = BytesIO()
    try:
        pil.Image.fromarray(np.ascontiguousarray(planes)).save(stream, kind)
    except (OSError, KeyError, TypeError, ValueError) as refusal:
        raise ValueError(
            f"{file}: {kind} cannot hold {planes.dtype} of shape {planes.shape}, .png can: {refusal}"
        ) from None
    with file.open("wb" if force else "xb") as target:
        target.write(stream.getbuffer())


def format_of(path: str | Path) -> str:
    """Return Pillow's name of the format that a file name ends in.

    Raises
    ------
    ValueError
        When it ends in none that can be written.
    """
    pil = _pillow()
    ending = Path(path).suffix.lower()
    known = {end: kind for end, kind in pil.Image.registered_extensions().items() if kind in pil.Image.SAVE}
    if ending not in known:
        raise ValueError(
            f"{path} must end in a picture's format such as .png, .jpg or .tif, got {ending or 'no ending'}"
        )
    return str(known[ending])


def _pixels(file: Path, picture: Any) -> Photo:
    opaque = "A" in picture.getbands() or "transparency" in picture.info
    if picture.mode.startswith("I;16"):
        return Photo(np.asarray(picture).astype(np.uint16), None)
    if picture.mode in ("I", "F"):
        kind = "whole numbers" if picture.mode == "I" else "floats"
        raise ValueError(
            f"{file} has pixels of 32 bits ({kind}); pictures of 8 and 16 bits are read: load it as an array instead"
        )
    grey = picture.mode in _GREY
    if not opaque:
        return Photo(np.asarray(picture.convert("L" if grey else "RGB")), None)
    both = np.asarray(picture.convert("LA" if grey else "RGBA"))
    return Photo(both[..., 0] if grey else both[..., :3], both[..., -1])


def _pillow() -> Any:
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise ImportError("pictures are read by Pillow, which is not installed: pip install pillow") from None
    return PIL
