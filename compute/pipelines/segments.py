"""Puts encoded pictures and sound together into transport-stream segments that all begin at the same times.

Sound that is AAC already is carried as it is; other sound is encoded once for all renditions. Knows packets, no files
and no limits; needs PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import av

from compute.pipelines.encoder import CLOCK
from compute.renditions import AUDIO_BITRATE, AUDIO_ONLY, SECOND, Segment, Variant, renumbered, standing_alone
from p2p.errors import Refused

LEAD: Final = SECOND  # added to all times, so that no decoding time is negative
_AUDIO_RATE: Final = 48_000
_AUDIO_FRAME: Final = 1024  # samples in an AAC packet


class Sound:
    """The sound of one source over all its segments: copied where it is AAC, else encoded."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._shelf: Any = None  # an output that is never written to; its stream describes the sound to the segments
        self._resampler: Any = None
        self._kind: tuple[str, int, int] | None = None
        self._shift = 0
        self._next: int | None = None
        self.template: Any = None

    @property
    def decodes(self) -> bool:
        """Whether packets without a time matter: they flush a decoder."""
        return self._resampler is not None

    def begin(self, stream: Any) -> None:
        """The next piece of source has this sound. Raises Refused when it is another than before."""
        context = stream.codec_context
        kind = (context.codec.canonical_name, context.sample_rate, context.channels)
        if self._kind not in (None, kind):
            raise Refused("BAD_FILM", "the sound changes its kind")
        if self._kind is not None:
            return
        self._kind = kind
        self._shelf = av.open(io.BytesIO(), "w", format="mpegts")
        if kind[0] == "aac":
            self.template = self._shelf.add_stream_from_template(stream)
            return
        self.template = self._shelf.add_stream("aac", rate=_AUDIO_RATE, bit_rate=AUDIO_BITRATE, layout="stereo")
        self._shelf.start_encoding()
        self._resampler = av.AudioResampler("fltp", "stereo", _AUDIO_RATE, _AUDIO_FRAME)

    def take(self, packet: Any, shift: int) -> Iterator[tuple[int, Any]]:
        """Packets of sound for the segments, each with its time in ticks, from one packet of the source."""
        if self._resampler is None:
            if packet.size and packet.dts is not None:
                at = round(packet.dts * packet.time_base * SECOND) + shift
                length = round((packet.duration or 0) * packet.time_base * SECOND)
                packet.time_base, packet.pts, packet.dts, packet.duration = CLOCK, at + LEAD, at + LEAD, length
                yield at, packet
            return
        for frame in packet.decode():
            if self._next is None:
                at = 0 if frame.pts is None else round(frame.pts * frame.time_base * SECOND) + shift
                self._next = max(0, at) * _AUDIO_RATE // SECOND
            frame.pts = None  # the encoder counts samples itself
            for resampled in self._resampler.resample(frame):
                yield from self._encoded(resampled)

    def finish(self) -> Iterator[tuple[int, Any]]:
        """The rest."""
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                yield from self._encoded(resampled)
            yield from self._encoded(None)

    def _encoded(self, frame: Any) -> Iterator[tuple[int, Any]]:
        if frame is not None:
            frame.pts, frame.time_base = self._next, Fraction(1, _AUDIO_RATE)
            self._next = (self._next or 0) + frame.samples
        for packet in self.template.encode(frame):
            at = round(packet.pts * packet.time_base * SECOND)
            packet.time_base, packet.pts, packet.dts = CLOCK, at + LEAD, at + LEAD
            yield at, packet


@dataclass(slots=True)
class _Track:
    """One rendition: the packets of the segment that is open, and what is cut but still waits for its sound."""

    packets: list[Any] = field(default_factory=list)
    cut: int = 0
    begun: int = 0
    index: int = 0
    heard: int = 0
    waiting: list[tuple[int, int, list[Any]]] = field(default_factory=list)
    counters: dict[int, int] = field(default_factory=dict)
    peak: int = 0


class Cutter:
    """Segments out of packets. Invariant: a track's segments follow each other without a gap."""

    def __init__(self, names: tuple[str, ...], begin: int | None = None) -> None:
        """``begin``: the time of the first segment, of which each must stand for itself; None from zero on."""
        self._names, self._begin = names, begin
        self._shapes: dict[str, tuple[int, int]] | None = None
        self._tracks: dict[str, _Track] = {}
        self._template: Any = None
        self._sounds: list[tuple[int, Any]] = []
        self._heard_until = 0

    def shape(self, shapes: Mapping[str, tuple[int, int]], sound: Sound) -> None:
        """What the pictures look like; nothing for sound alone. Raises Refused when that changes on the way."""
        if self._shapes is not None and self._shapes != dict(shapes):
            raise Refused("BAD_FILM", "the pictures change their size")
        if self._shapes is None:
            self._shapes, self._template = dict(shapes), sound.template
            begun = self._begin or 0
            self._tracks = {name: _Track(begun=begun) for name in (self._names if shapes else (AUDIO_ONLY,))}

    def sounds(self, packets: Iterable[tuple[int, Any]]) -> None:
        """Sound as it comes."""
        for at, packet in packets:
            self._sounds.append((at, packet))
            self._heard_until = max(self._heard_until, at)

    def pictures(self, packets: Iterable[tuple[str, Any]], every: int) -> Iterator[Segment]:
        """Pictures as they come, in the order of decoding; cut at the first key frame of each span of ``every``."""
        for name, packet in packets:
            track, at = self._tracks[name], packet.pts
            if every and packet.is_keyframe and at >= track.cut:
                if track.packets:
                    self._cut(track, at)
                track.cut = (at // every + 1) * every
            track.packets.append(packet)
        yield from self._ready(self._heard_until if self._template is not None else None)

    def heard(self, every: int, until: int) -> Iterator[Segment]:
        """Of a source without pictures: cut where there is enough sound."""
        track = self._tracks[AUDIO_ONLY]
        if every and until - track.begun >= every:
            self._cut(track, until)
            yield from self._ready(until)

    def close(self, end: int, sounds: Iterable[tuple[int, Any]] = ()) -> Iterator[Segment]:
        """Cut everything at this time: no more comes before it."""
        self.sounds(sounds)
        for track in self._tracks.values():
            if track.packets or (not self._shapes and end > track.begun):
                self._cut(track, end)
        yield from self._ready(None)

    def variants(self, bitrates: Mapping[str, int]) -> tuple[Variant, ...]:
        """Name, size and peak rate of each rendition that there is."""
        sound = AUDIO_BITRATE if self._template is not None else 0
        return tuple(
            Variant(name, *(self._shapes or {}).get(name, (0, 0)), max(track.peak, bitrates.get(name, 0) + sound))
            for name, track in self._tracks.items()
        )

    def _cut(self, track: _Track, end: int) -> None:
        track.waiting.append((track.begun, end, track.packets))
        track.begun, track.packets = end, []

    def _ready(self, heard: int | None) -> Iterator[Segment]:
        """Segments for which all sound has come, or all of them when no more will come."""
        for name, track in self._tracks.items():
            while track.waiting and (heard is None or heard >= track.waiting[0][1]):
                begin, end, packets = track.waiting.pop(0)
                yield self._muxed(name, track, begin, end, packets)
        done = min((track.heard for track in self._tracks.values()), default=0)
        if done:
            del self._sounds[:done]
            for track in self._tracks.values():
                track.heard -= done

    def _muxed(self, name: str, track: _Track, begin: int, end: int, packets: list[Any]) -> Segment:
        sounds = []
        while track.heard < len(self._sounds) and self._sounds[track.heard][0] < end:
            sounds.append(self._sounds[track.heard][1])
            track.heard += 1
        file = io.BytesIO()
        with av.open(file, "w", format="mpegts") as out:
            pictures = sound = None
            if self._shapes:
                width, height = self._shapes[name]
                pictures = out.add_mux_stream("libx264", width=width, height=height, time_base=CLOCK)
            if self._template is not None:
                sound = out.add_stream_from_template(self._template)
            for packet in packets:
                packet.pts, packet.dts = packet.pts + LEAD, packet.dts + LEAD
            ordered = [(one.dts * one.time_base, pictures, one) for one in packets]
            ordered += [(one.dts * one.time_base, sound, one) for one in sounds]
            for _, stream, packet in sorted(ordered, key=lambda one: one[0]):
                packet.stream = stream
                out.mux_one(packet)
        data = renumbered(file.getvalue(), track.counters)
        if self._begin is not None:
            data = standing_alone(data)
        track.index += 1
        length = max(1, end - begin)
        track.peak = max(track.peak, len(data) * 8 * SECOND // length)
        return Segment(name, track.index - 1, round(length * 1000 / SECOND), data)
