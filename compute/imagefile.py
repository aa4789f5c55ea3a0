"""A caller's picture file to pixels, bounded: PNG, JPEG or WebP by Pillow, refused by its header before it is decoded.

Shell around ``compute/pictureheader.py``. Runs in a worker; knows no job and no model.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps

from compute.pictureheader import MAX_SCANS, claimed, scans
from p2p.errors import Refused

# What Pillow and its plugins raise on files that are broken, by accident or on purpose.
BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError,
    NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What is read at most. Memory while reading stays below about ten bytes for each of ``pixels``."""

    bytes: int = 16 * 2**20
    side: int = 4096
    pixels: int = 8 * 2**20
    least_side: int = 8


DEFAULT = PictureLimits()


def read_picture(data: bytes, limits: PictureLimits = DEFAULT) -> Image.Image:
    """The picture as RGB, upright, transparent parts white. Of an animation, the first picture.

    Raises Refused: ``PICTURE_TOO_LARGE`` with what is had and allowed, ``BAD_PICTURE`` for what is no whole picture.
    """
    if len(data) > limits.bytes:
        raise Refused("PICTURE_TOO_LARGE", "bytes of the file", have=len(data), need=limits.bytes)
    header = claimed(data)
    if header is None:
        raise Refused("BAD_PICTURE", "neither PNG, JPEG nor WebP")
    width, height = header.width, header.height
    if max(width, height) > limits.side:
        raise Refused("PICTURE_TOO_LARGE", "pixels of a side", have=max(width, height), need=limits.side)
    if width * height > limits.pixels:
        raise Refused("PICTURE_TOO_LARGE", "pixels", have=width * height, need=limits.pixels)
    if min(width, height) < limits.least_side:
        raise Refused("BAD_PICTURE", "a side is too short", have=min(width, height), need=limits.least_side)
    if header.format == "JPEG" and scans(data) > MAX_SCANS:
        raise Refused("PICTURE_TOO_LARGE", "scans", have=scans(data), need=MAX_SCANS)
    try:
        with Image.open(io.BytesIO(data), formats=(header.format,)) as picture:
            if picture.size != (width, height):
                raise Refused("BAD_PICTURE", "the header tells two sizes")
            return _plain(picture)
    except BROKEN as exc:
        raise Refused("BAD_PICTURE", "the file is damaged or cut off") from exc


def _plain(picture: Image.Image) -> Image.Image:
    """RGB, turned as its EXIF says, transparency laid on white."""
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    if upright.mode in ("I", "I;16", "I;16B", "F"):  # 16-bit gray, which convert() would clip instead of scale
        return upright.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    return upright.convert("RGB")
