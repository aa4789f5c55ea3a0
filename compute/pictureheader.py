"""What a picture file claims to be, read from its first bytes: PNG, JPEG or WebP, and its sides.

Read before any decoder sees the file, because some decoders allocate the whole picture as soon as they open it. Pure;
decodes nothing, believes nothing: a decoder must find the same sides.
"""

from __future__ import annotations

from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG = b"\xff\xd8\xff"
MAX_SEGMENTS = 256  # JPEG segments before the frame; a picture of a camera has about ten
MAX_SCANS = 64  # of a progressive JPEG; real ones have about ten, and each costs a pass over the whole picture
_SCAN = b"\xff\xda"
_SIZED = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the JPEG markers that start a frame
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # the JPEG markers without a length


@dataclass(frozen=True, slots=True)
class Claimed:
    """A format by Pillow's name, and sides in pixels. Nothing of it is proved."""

    format: str
    width: int
    height: int


def claimed(data: bytes) -> Claimed | None:
    """What the header says; None when it is none of the three formats, or ends too early."""
    if data.startswith(_PNG):
        return _claim("PNG", data[16:20], data[20:24])
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def scans(data: bytes) -> int:
    """How many scans a JPEG has at most: the marker cannot stand inside of one."""
    return data.count(_SCAN)


def _claim(name: str, width: bytes, height: bytes) -> Claimed | None:
    if not width or len(width) != len(height):
        return None
    return Claimed(name, int.from_bytes(width, "big"), int.from_bytes(height, "big"))


def _jpeg(data: bytes) -> Claimed | None:
    """Walk the segments up to the frame header (ITU T.81, B.1.1.4 and B.2.2)."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        while data[at : at + 2] == b"\xff\xff":  # padding before a marker
            at += 1
        if len(data) < at + 4 or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker in _BARE:
            at += 2
            continue
        if marker in _SIZED:
            return _claim("JPEG", data[at + 7 : at + 9], data[at + 5 : at + 7])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes) -> Claimed | None:
    """The three kinds of first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        sides = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        sides = int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    elif kind == b"VP8L" and body[0] == 0x2F:
        packed = int.from_bytes(body[1:5], "little")
        sides = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        return None
    return Claimed("WEBP", *sides)
