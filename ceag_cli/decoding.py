"""Decoding: how the bytes of one image become pixels as a person would see them."""

from __future__ import annotations

import io
import warnings
from functools import cache

import numpy as np
from PIL import Image, ImageOps

DECODING = 1
"""Version of kept pixels: another one wherever ``decode`` gives other pixels, or their files have
another form. It is part of the names of these files, so that no version takes another's."""

_BITS, _PHOTOMETRIC = 258, 262
"""Tags of TIFF."""

_WHITE_IS_ZERO = 0

FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "IM", "JPEG", "JPEG2000", "MPO", "MSP"),
    *("PCX", "PNG", "PPM", "QOI", "SGI", "SPIDER", "TGA", "TIFF", "WEBP", "XBM", "XPM"),
)
"""What is read. Pillow gives PostScript, for one, to another program, which would run it."""


def decode(content: bytes, channels: int) -> Image.Image:
    """Decode an image as a person would see it: EXIF-rotated, in colour or in grey.

    Of 16 bits the upper eight are taken, of several frames the first. Transparency is dropped, as
    timm and torchvision do: a transparent pixel has the colour that the file gives it.

    Args:
        content: Bytes of any format that Pillow reads.
        channels: 1 gives grey, 3 gives RGB.

    Raises:
        OSError: The bytes are not a whole image (as Pillow says it), or their range is not known.
    """
    with _opened(content) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I") or image.mode == "F":
            image = _eight_bits(image, opened)
    return image.convert("L" if channels == 1 else "RGB")


def _opened(content: bytes) -> Image.Image:
    """An image whose header alone was read, of a format that Pillow reads by itself.

    Raises:
        OSError: It is of none.
        Image.DecompressionBombError: It has more pixels than Pillow allows at all, 179 million.
    """
    with warnings.catch_warnings():  # it warns of half as many, too
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(content), formats=_formats())


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _eight_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, which Pillow would clip and not scale."""
    tags = getattr(opened, "tag_v2", {})  # of a TIFF
    # In PNG and PGM numbers of 32 bits stand for 16.
    if not image.mode.startswith("I;16") and opened.format not in ("PNG", "PPM"):
        raise OSError(
            "its pixels are signed numbers or numbers of 32 bits, whose black and white are not "
            "known; save it with 8 or 16 bits"
        )
    bits = tags.get(_BITS, (16,))[0]
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey)
