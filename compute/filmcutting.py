"""Cuts a film of one's own into segments for a live stream, at its key frames, without decoding it.

Shell: reads a file, needs PyAV. Not for a stranger's film. Knows no market.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av

from compute.renditions import SECOND
from p2p.errors import Misconfigured

_IN_TRANSPORT: Final = frozenset({"h264", "hevc", "mpeg2video", "mpeg1video", "mpeg4"})
MAX_HELD: Final = 48 * 2**20  # bytes of one segment: what is longer has no key frames


@dataclass(frozen=True, slots=True)
class SourceSegment:
    """One segment: its sides as coded, its pictures, its length in ticks; ``suffix`` is that of such files."""

    data: bytes
    suffix: str
    width: int
    height: int
    frames: int
    length: int


def cut_film(path: Path, seconds: float) -> Iterator[SourceSegment]:
    """The whole film in segments of at least so many seconds, each from a key frame to the next. Blocks.

    Raises Misconfigured for what is no film.
    """
    try:
        with av.open(str(path)) as source:
            video = next(iter(source.streams.video), None)
            if video is None:
                raise Misconfigured(f"source: {path} has no pictures")
            audio = next(iter(source.streams.audio), None)
            yield from _Cut(video, audio, round(seconds * SECOND)).all(source)
    except (av.error.FFmpegError, OSError, ValueError) as exc:
        raise Misconfigured(f"source: {path} cannot be read: {type(exc).__name__}") from exc


def measure(data: bytes, suffix: str) -> SourceSegment:
    """A segment that somebody else has cut. Raises Misconfigured for what is none."""
    cut = None
    try:
        with av.open(io.BytesIO(data)) as source:
            video = next(iter(source.streams.video), None)
            if video is not None:
                cut = _Cut(video, None, 0)
                for packet in source.demux(video):
                    cut.note(packet)
    except (av.error.FFmpegError, OSError, ValueError) as exc:
        raise Misconfigured(f"a segment cannot be read: {type(exc).__name__}") from exc
    if cut is None or not cut.frames or cut.end <= cut.begin:
        raise Misconfigured("a segment has no pictures")
    return SourceSegment(data, suffix, cut.video.width, cut.video.height, cut.frames, cut.end - cut.begin)


class _Cut:
    """The segment that is open: its packets, counted, until a key frame closes it."""

    def __init__(self, video: Any, audio: Any, least: int) -> None:
        self.video, self._audio, self._least = video, audio, least
        self._packets: list[Any] = []
        self.frames = self._size = 0
        self.begin = self.end = 0
        form = "mpegts" if video.codec_context.name in _IN_TRANSPORT else "matroska"
        self._form, self._suffix = form, ".ts" if form == "mpegts" else ".mkv"

    def all(self, source: Any) -> Iterator[SourceSegment]:
        for packet in source.demux([one for one in (self.video, self._audio) if one is not None]):
            if packet.dts is None:
                continue
            mine = packet.stream is self.video
            if mine and packet.is_keyframe and self.frames and _ticks(packet.pts, packet) - self.begin >= self._least:
                yield self._closed(_ticks(packet.pts, packet))
            if mine:
                self.note(packet)
            if self.frames:  # sound before the first picture is nobody's
                self._packets.append(packet)
                self._size += packet.size
            if self._size > MAX_HELD:
                raise Misconfigured("source: it has too few key frames to be cut")
        if self.frames:
            yield self._closed(self.end)

    def note(self, packet: Any) -> None:
        """Count one packet of pictures."""
        if not packet.size or packet.pts is None:
            return
        at = _ticks(packet.pts, packet)
        self.begin = at if not self.frames else min(self.begin, at)
        length = _ticks(packet.duration, packet) if packet.duration else self._usual()
        self.end = max(self.end, at + length) if self.frames else at + length
        self.frames += 1

    def _usual(self) -> int:
        rate = self.video.average_rate or Fraction(30)
        return round(SECOND / rate) if rate > 0 else SECOND // 30

    def _closed(self, end: int) -> SourceSegment:
        file = io.BytesIO()
        with av.open(file, "w", format=self._form) as out:
            streams = {one.index: out.add_stream_from_template(one) for one in (self.video, self._audio) if one}
            for packet in self._packets:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
        made = SourceSegment(
            file.getvalue(), self._suffix, self.video.width, self.video.height, self.frames, end - self.begin
        )
        self._packets, self.frames, self._size = [], 0, 0
        return made


def _ticks(value: int, packet: Any) -> int:
    return round(value * packet.time_base * SECOND)
