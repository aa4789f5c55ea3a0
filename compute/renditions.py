"""What a transcoding is asked to make, and the playlists that lead a player through it (HLS, RFC 8216).

Renditions are bounded here before anything is decoded. Pure: no codec, no clock, no file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from p2p.errors import Refused

SECOND: Final = 90_000  # ticks of the clock of a transport stream
MAX_BYTES: Final = 1 << 28  # of a whole film
MAX_MADE: Final = 1 << 26  # bytes of all that is made of one, where somebody holds it whole
MAX_RENDITIONS: Final = 8
MIN_SIDE, MAX_SIDE = 32, 3840
MIN_BITRATE, MAX_BITRATE = 20_000, 50_000_000
MAX_FPS: Final = 120
MAX_GOP_FRAMES: Final = 1200
MIN_SEGMENT_MS, MAX_SEGMENT_MS = 500, 20_000
AUDIO_BITRATE: Final = 128_000
AUDIO_ONLY: Final = "audio"  # the name of what is made of a source without pictures
MASTER: Final = "master.m3u8"
PLAYLIST_TYPE, SEGMENT_TYPE, FILE_TYPE = "application/vnd.apple.mpegurl", "video/mp2t", "video/mp4"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PACKET, _SYNC = 188, 0x47


@dataclass(frozen=True, slots=True)
class Rendition:
    """One H.264 version of a source. ``width`` x ``height`` is a box the picture is fitted into, never enlarged.

    ``bitrate`` is in bits per second. ``fps`` 0 keeps the source's timing. ``gop`` is the most frames between two key
    frames, 0 for none but those that open a segment.
    """

    name: str
    width: int
    height: int
    bitrate: int
    fps: int = 0
    gop: int = 0

    def __post_init__(self) -> None:
        bounds = (
            ("width", self.width, MIN_SIDE, MAX_SIDE),
            ("height", self.height, MIN_SIDE, MAX_SIDE),
            ("bitrate", self.bitrate, MIN_BITRATE, MAX_BITRATE),
            ("fps", self.fps, 0, MAX_FPS),
            ("gop", self.gop, 0, MAX_GOP_FRAMES),
        )
        if not _NAME.fullmatch(self.name) or self.name == AUDIO_ONLY:
            raise Refused("BAD_RENDITION", "a name is 1 to 32 of a-z, 0-9, - and _, and not audio")
        for what, value, least, most in bounds:
            if type(value) is not int or not least <= value <= most:
                raise Refused("BAD_RENDITION", f"{what} is a whole number from {least} to {most}")


@dataclass(frozen=True, slots=True)
class Ladder:
    """All renditions of one source, cut at the same places."""

    renditions: tuple[Rendition, ...]
    segment_ms: int = 2000

    def __post_init__(self) -> None:
        if not 1 <= len(self.renditions) <= MAX_RENDITIONS:
            raise Refused("BAD_LADDER", f"1 to {MAX_RENDITIONS} renditions", have=len(self.renditions))
        if len({one.name for one in self.renditions}) != len(self.renditions):
            raise Refused("BAD_LADDER", "two renditions have the same name")
        if type(self.segment_ms) is not int or not MIN_SEGMENT_MS <= self.segment_ms <= MAX_SEGMENT_MS:
            raise Refused("BAD_LADDER", f"a segment lasts {MIN_SEGMENT_MS} to {MAX_SEGMENT_MS} ms")


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of one rendition, an MPEG transport stream that begins with a key frame."""

    rendition: str
    index: int
    duration_ms: int
    data: bytes

    @property
    def file(self) -> str:
        """Its name beside the playlists."""
        return f"{self.rendition}_{self.index:05d}.ts"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a master playlist says of one rendition. Sides 0: sound alone."""

    name: str
    width: int
    height: int
    bandwidth: int


def fitted(width: int, height: int, rendition: Rendition) -> tuple[int, int]:
    """Even sides of a picture fitted into the rendition's box, which is turned for an upright picture. Never larger."""
    across, along = rendition.width, rendition.height
    if (width < height) != (across < along) and width != height:
        across, along = along, across
    share = min(1.0, across / width, along / height)
    return max(2, round(width * share / 2) * 2), max(2, round(height * share / 2) * 2)


def media_playlist(
    segments: Sequence[tuple[str, int]],
    *,
    ended: bool,
    whole: bool = False,
    first: int = 0,
    longest_ms: int = MIN_SEGMENT_MS,
    breaks: Collection[int] = (),
    breaks_before: int = 0,
) -> str:
    """The playlist of one rendition from (file, milliseconds). ``first`` numbers the first of them.

    ``longest_ms`` is the least that the target duration must allow for, since it may not change while a stream lasts;
    ``whole`` says that nothing was or will be taken out. ``breaks`` are the places in ``segments`` that do not go on
    from the one before, ``breaks_before`` counts those that the list no longer has.
    """
    longest = max([longest_ms, *(ms for _, ms in segments)])
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{-(-longest // 1000)}"]
    lines.append(f"#EXT-X-MEDIA-SEQUENCE:{first}")
    lines += [f"#EXT-X-DISCONTINUITY-SEQUENCE:{breaks_before}"] * bool(breaks_before)
    if whole:
        lines.append("#EXT-X-PLAYLIST-TYPE:VOD")
    lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    for place, (file, ms) in enumerate(segments):
        lines += ["#EXT-X-DISCONTINUITY"] * (place in breaks) + [f"#EXTINF:{ms / 1000:.3f},", file]
    return "\n".join(lines + ["#EXT-X-ENDLIST"] * ended) + "\n"


def ranges_playlist(file: str, segments: Sequence[tuple[int, int]]) -> str:
    """The playlist of a whole rendition that lies in one file, from (bytes, milliseconds) of each segment in it."""
    longest = max([MIN_SEGMENT_MS, *(ms for _, ms in segments)])
    lines = ["#EXTM3U", "#EXT-X-VERSION:4", f"#EXT-X-TARGETDURATION:{-(-longest // 1000)}"]
    lines += ["#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-PLAYLIST-TYPE:VOD", "#EXT-X-INDEPENDENT-SEGMENTS"]
    at = 0
    for size, ms in segments:
        lines += [f"#EXTINF:{ms / 1000:.3f},", f"#EXT-X-BYTERANGE:{size}@{at}", file]
        at += size
    return "\n".join([*lines, "#EXT-X-ENDLIST"]) + "\n"


def master_playlist(variants: Sequence[Variant]) -> str:
    """The playlist of playlists: each rendition's bandwidth and size."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-INDEPENDENT-SEGMENTS"]
    for one in variants:
        size = f",RESOLUTION={one.width}x{one.height}" if one.width else ""
        lines += [f"#EXT-X-STREAM-INF:BANDWIDTH={one.bandwidth}{size}", f"{one.name}.m3u8"]
    return "\n".join(lines) + "\n"


def renumbered(data: bytes, counters: dict[int, int]) -> bytes:
    """Transport packets with continuity counters that go on from the segment before. Updates ``counters``.

    A counter belongs to a packet id and counts packets with payload only (ISO 13818-1, 2.4.3.3).
    """
    out = bytearray(data)
    for at, pid in _packets(data):
        if out[at + 3] & 0x10:
            counters[pid] = (counters.get(pid, -1) + 1) & 0x0F
        out[at + 3] = out[at + 3] & 0xF0 | counters.get(pid, 0)
    return bytes(out)


def standing_alone(data: bytes) -> bytes:
    """Transport packets, each id introduced by one without payload that says: what counters said before is over.

    So the segments of many machines follow each other without a packet seeming lost (ISO 13818-1, 2.4.3.5).
    """
    out, known = bytearray(), set[int]()
    for at, pid in _packets(data):
        if pid not in known:
            known.add(pid)
            before = (data[at + 3] - 1) & 0x0F
            out += bytes((_SYNC, pid >> 8, pid & 0xFF, 0x20 | before, _PACKET - 5, 0x80)) + b"\xff" * (_PACKET - 6)
        out += data[at : at + _PACKET]
    return bytes(out)


def _packets(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each whole packet begins, and its id. Raises ValueError for what is no transport stream."""
    for at in range(0, len(data) - _PACKET + 1, _PACKET):
        if data[at] != _SYNC:
            raise ValueError("no transport stream")
        yield at, (data[at + 1] & 0x1F) << 8 | data[at + 2]
