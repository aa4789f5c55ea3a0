"""A film made from nothing: an AVI of JPEG pictures in which blocks of 16 x 16 pixels drift and flicker.

Its codes are the usual ones of JPEG (ISO 10918-1, K.3), which such films leave out and every reader knows. Pure: no
codec, no chance; the same sides and count give the same bytes.
"""

from __future__ import annotations

import struct
from typing import Final

RATE: Final = 30  # pictures a second
GROUP: Final = 16  # pixels of a side of what has one brightness
_LEVELS: Final = 24
_DC: Final = ("00", "010", "011", "100", "101", "110", "1110", "11110", "111110")  # by the bits of a difference
_SAME: Final = ("00" + "1010") * 3 + ("00" + "00") * 2  # three more blocks of brightness, two of colour, all as before
_QUANTA: Final = b"\xff\xdb" + struct.pack(">HB", 67, 0) + bytes([16]) * 64


def drawn_film(width: int, height: int, count: int) -> bytes:
    """So many pictures of these sides."""
    pictures = [_picture(width, height, number) for number in range(count)]
    longest = max(map(len, pictures))
    head = struct.pack("<14I", 1_000_000 // RATE, longest * RATE, 0, 0, count, 0, 1, longest, width, height, 0, 0, 0, 0)
    stream = struct.pack("<4s4sIHHIIIIIIIII", b"vids", b"MJPG", 0, 0, 0, 0, 1, RATE, 0, count, longest, 10_000, 0, 0)
    form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 3 * width * height, 0, 0, 0, 0)
    streams = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", form))
    body = _list(b"hdrl", _chunk(b"avih", head) + streams)
    body += _list(b"movi", b"".join(_chunk(b"00dc", picture) for picture in pictures))
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"AVI " + body


def _picture(width: int, height: int, number: int) -> bytes:
    """One JPEG of three components, each group's brightness coded against that of the group before."""
    across, along = -(-width // GROUP), -(-height // GROUP)
    bits, before = [], 0
    for y in range(along):
        for x in range(across):
            level = _level(x, y, number)
            bits.append(_difference(level - before) + "1010" + _SAME)
            before = level
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes((1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0))
    start = struct.pack(">HB", 12, 3) + bytes((1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0))
    return b"\xff\xd8" + _QUANTA + b"\xff\xc0" + frame + b"\xff\xda" + start + scan + b"\xff\xd9"


def _level(x: int, y: int, number: int) -> int:
    """Stripes that drift, and every seventh group another one in each picture."""
    drift = (x + y - number // 4) % 8 * 6
    other = (x * 31 + y * 17 + number * 13) % 7 == 0
    return (drift + (number * 5 % _LEVELS if other else 0)) % (2 * _LEVELS) - _LEVELS


def _difference(value: int) -> str:
    """A difference of brightness in the code of such: how many bits it has, then these."""
    size = abs(value).bit_length()
    return _DC[size] + (format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else "")


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", name + data)
