"""What a picture file says of itself, without a picture library: enough to tell a picture from something else.

A PNG begins with eight fixed bytes and a header chunk with its sides (PNG specification, sections 5.2 and 11.2.2).
Pure; decodes nothing.
"""

from __future__ import annotations

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR = b"\x00\x00\x00\rIHDR"
_IEND = b"IEND\xaeB`\x82"


def png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG that has a beginning and an end; None for anything else."""
    if len(data) < 57 or not data.startswith(_SIGNATURE + _IHDR) or not data.endswith(_IEND):
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
