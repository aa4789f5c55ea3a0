"""What an MP4 claims of its pictures, read from its boxes: sides, how many there are, how long they last.

Read by whoever wants a film transcoded, to name a price without a codec. Pure; decodes nothing, believes nothing: the
seller counts for itself. Knows ISO 14496-12 as far as that needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

_MAX_BOXES: Final = 256  # side by side, that are looked at
_STBL: Final = (b"minf", b"stbl")


@dataclass(frozen=True, slots=True)
class FilmSize:
    """Sides in pixels as they are coded, the number of pictures, and milliseconds."""

    width: int
    height: int
    frames: int
    length_ms: int


def claimed_film(data: bytes) -> FilmSize | None:
    """What the first track of pictures says; None for no MP4, one without pictures, or one in fragments."""
    whole = memoryview(data)
    moov = _inside(whole, (b"moov",))
    if moov is None:
        return None
    for kind, track in islice(_boxes(moov), _MAX_BOXES):
        found = _track(track) if kind == b"trak" else None
        if found is not None:
            return found
    return None


def _track(track: memoryview) -> FilmSize | None:
    media = _inside(track, (b"mdia",))
    if media is None:
        return None
    handler, clock = _inside(media, (b"hdlr",)), _inside(media, (b"mdhd",))
    kinds, sizes = _inside(media, (*_STBL, b"stsd")), _inside(media, (*_STBL, b"stsz"))
    if handler is None or clock is None or kinds is None or sizes is None or bytes(handler[8:12]) != b"vide":
        return None
    entry = kinds[8:]  # version and flags, a count, then the first description
    width, height = _number(entry, 32, 2), _number(entry, 34, 2)
    frames, length = _number(sizes, 8, 4), _milliseconds(clock)
    return FilmSize(width, height, frames, length) if width and height and frames else None


def _milliseconds(clock: memoryview) -> int:
    """A media header's duration: 64 bits in version 1, 32 before (8.4.2)."""
    at, wide = (20, 8) if _number(clock, 0, 1) == 1 else (12, 4)
    rate = _number(clock, at, 4)
    return -(-_number(clock, at + 4, wide) * 1000 // rate) if rate else 0


def _inside(data: memoryview, path: tuple[bytes, ...]) -> memoryview | None:
    """The body of the first box of this name in the first of that, and so on."""
    for name in path:
        found = next((body for kind, body in islice(_boxes(data), _MAX_BOXES) if kind == name), None)
        if found is None:
            return None
        data = found
    return data


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each box that lies in ``data`` whole. Ends at the first that does not."""
    at = 0
    while at + 8 <= len(data):
        size, head = _number(data, at, 4), 8
        if size == 1:
            size, head = _number(data, at + 8, 8), 16
        elif size == 0:  # to the end of the file
            size = len(data) - at
        if size < head or at + size > len(data):
            return
        yield bytes(data[at + 4 : at + 8]), data[at + head : at + size]
        at += size


def _number(data: memoryview, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
