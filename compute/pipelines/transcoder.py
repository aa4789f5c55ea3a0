"""Decodes a stranger's film once and encodes it as several H.264 renditions in segments, with its sound.

Meant to run in a child with little memory and little time (``transcodechild.py``): what it reads is the most attacked
kind of file there is. Limits are read before anything is decoded. Knows no socket, no job and no price; needs PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.filter
import av.logging

from compute.pipelines.encoder import CLOCK, h264
from compute.pipelines.segments import Cutter, Sound
from compute.profiles import blocks_of
from compute.renditions import MAX_BYTES, MAX_MADE, SECOND, Ladder, Rendition, Segment, Variant, fitted
from p2p.errors import Refused

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,flv,avi,ogg,wav,mp3,aac,flac"
VIDEO_CODECS = frozenset("h264 hevc vp8 vp9 av1 mpeg4 mpeg2video mpeg1video mjpeg prores theora".split())
AUDIO_CODECS = frozenset("aac mp3 mp2 opus vorbis flac ac3 eac3 alac pcm_s16le pcm_s24le pcm_f32le".split())
MAX_PUSH_BYTES = 1 << 25  # of one live segment
MAX_SECONDS = 3600
MAX_STREAMS = 16
MAX_PIXELS = 3840 * 2160
MAX_FRAMES_A_SECOND = 240
MAX_GAP = 10 * SECOND  # between two frames: a rate converter would fill it with copies
_OPEN_OPTIONS = {
    "protocol_whitelist": "",  # no playlist or reference in a file may open another
    "format_whitelist": CONTAINERS,
    "max_streams": str(MAX_STREAMS),
    "probesize": "5000000",
    "analyzeduration": "5000000",
}
_TURNS = {90: "transpose=cclock", -90: "transpose=clock", 180: "hflip,vflip", -180: "hflip,vflip"}

Told = Callable[[float], None]


def _silent(done: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one piece of input may be."""

    bytes: int = MAX_BYTES
    seconds: float = MAX_SECONDS


WHOLE = Bounds()


@dataclass(frozen=True, slots=True)
class Paid:
    """What somebody pays for: so many frames, so many blocks of each (``blocks_of``). More is not worked."""

    frames: int
    blocks: int

    def check(self, ladder: Ladder, video: Any, seconds: float) -> None:
        """Hold it against what the container says. Raises Refused."""
        if video is None:
            raise Refused("BAD_FILM", "it has no pictures")
        blocks = blocks_of(ladder, video.width, video.height)
        if blocks > self.blocks:
            raise Refused("MORE_THAN_PAID", "blocks of source and renditions", have=self.blocks, need=blocks)
        if video.frames > self.frames:
            raise Refused("MORE_THAN_PAID", "frames", have=self.frames, need=video.frames)
        made = int(seconds * sum(one.bitrate for one in ladder.renditions) / 8)
        if made > MAX_MADE:
            raise Refused("RESULT_TOO_LARGE", "bytes of all renditions", have=MAX_MADE, need=made)


class Transcoder:
    """One source on its way. A film is given whole to ``film``; a live stream to ``push``, segment by segment.

    Invariant: segments of one index begin and end at the same time in all renditions.
    """

    def __init__(self, ladder: Ladder, threads: int = 1, paid: Paid | None = None, begin: int | None = None) -> None:
        """``begin``: the time of the first picture in ticks, where segments of one stream are made apart."""
        self._ladder, self._threads, self._paid, self._begin = ladder, threads, paid, begin
        self._cutter = Cutter(tuple(one.name for one in ladder.renditions), begin)
        self._sound = Sound(threads)
        self._end = begin or 0  # of all that went before, in ticks
        self._shift = 0  # from the source's time to ours

    def film(self, data: bytes, told: Told = _silent) -> Iterator[Segment]:
        """All segments of a whole file. ``told`` hears the share that is done and may end the work by raising.

        Raises Refused for what is no film within the limits.
        """
        yield from self._run(data, WHOLE, self._ladder.segment_ms * SECOND // 1000, told)
        yield from self._cutter.close(self._end, self._sound.finish())

    def push(self, data: bytes) -> Iterator[Segment]:
        """The renditions of one live segment: one segment each, complete. Raises Refused; the next push may succeed."""
        bounds = Bounds(MAX_PUSH_BYTES, self._ladder.segment_ms * 3 / 2000)
        yield from self._run(data, bounds, 0, _silent)
        yield from self._cutter.close(self._end)

    def variants(self) -> tuple[Variant, ...]:
        """What the master playlist says, once there are segments."""
        return self._cutter.variants({one.name: one.bitrate for one in self._ladder.renditions})

    def _run(self, data: bytes, bounds: Bounds, every: int, told: Told) -> Iterator[Segment]:
        if len(data) > bounds.bytes:
            raise Refused("FILM_TOO_LARGE", "bytes of the file", have=len(data), need=bounds.bytes)
        with _reading(data) as source:
            film = _admitted(source, bounds)
            if self._paid is not None:
                self._paid.check(self._ladder, film.video, film.seconds)
            start = _start(source) if self._begin is None else _first_picture(film.video, _start(source))
            if not self._end or abs(start + self._shift - self._end) > SECOND or self._begin is not None:
                self._shift = self._end - start  # it begins, or it does not go on where it stopped
            clock = _Timeline(self._shift, self._end, bounds, self._paid)
            yield from self._read(source, film, clock, every, told)
            self._end = max(self._end, clock.end)

    def _read(self, source: Any, film: Film, clock: _Timeline, every: int, told: Told) -> Iterator[Segment]:
        """The loop over packets. Packets without a time flush the decoders: without them the last frames are lost."""
        streams = [stream for stream in (film.video, film.audio) if stream is not None]
        video: _Encoders | None = None
        if film.audio is not None:
            self._sound.begin(film.audio)
        for packet in source.demux(streams):
            if film.video is not None and packet.stream is film.video:
                for frame in packet.decode():
                    if video is None:
                        video = _Encoders(self._ladder, film, frame, self._threads)
                        self._cutter.shape(video.shapes, self._sound)
                    clock.step(frame)
                    yield from self._cutter.pictures(video.encode(frame, clock.at, every), every)
                    told(min(1.0, clock.seconds / film.seconds))
            elif packet.dts is not None or self._sound.decodes:
                self._cutter.sounds(self._sound.take(packet, clock.shift))
                if film.video is None:
                    clock.hear(packet)
                    self._cutter.shape({}, self._sound)
                    yield from self._cutter.heard(every, clock.end)
        if video is not None:
            yield from self._cutter.pictures(video.finish(every), every)
        elif film.video is not None:
            raise Refused("BAD_FILM", "not one picture could be decoded")


@dataclass(frozen=True, slots=True)
class Film:
    """The streams of a source that are used, and how long it says it is."""

    video: Any
    audio: Any
    seconds: float
    rate: Fraction


class _Timeline:
    """Times of frames in ticks, from the start of the first segment; refuses what cannot be a film."""

    def __init__(self, shift: int, begin: int, bounds: Bounds, paid: Paid | None = None) -> None:
        self.shift, self.at, self.end = shift, begin - 1, begin
        self._begin, self._most, self._frames = begin, round(bounds.seconds * SECOND), 0
        self._paid = paid

    @property
    def seconds(self) -> float:
        """How far the work is."""
        return (self.end - self._begin) / SECOND

    def step(self, frame: Any) -> None:
        """The time of the next frame, which never goes back."""
        if self._paid is not None and self._frames == self._paid.frames:
            raise Refused("MORE_THAN_PAID", "frames", have=self._paid.frames, need=self._frames + 1)
        found = (
            self.at + SECOND // 30 if frame.pts is None else round(frame.pts * frame.time_base * SECOND) + self.shift
        )
        if found - self.at > MAX_GAP and self._frames:
            raise Refused("BAD_FILM", "a gap in time between two pictures", have=found - self.at, need=MAX_GAP)
        length = round(frame.duration * frame.time_base * SECOND) if frame.duration else 0
        length = (
            length if 0 < length < SECOND else max(1, min(SECOND, found - self.at) if self._frames else SECOND // 30)
        )
        self.at = max(self.at + 1, found)
        self._frames += 1
        self._reach(self.at + length)
        if self._frames > MAX_FRAMES_A_SECOND * (self.seconds + 1):
            raise Refused("BAD_FILM", "too many pictures a second", have=self._frames)

    def hear(self, packet: Any) -> None:
        """Of a source without pictures: the end of the sound so far."""
        if packet.pts is not None:
            self._reach(round((packet.pts + (packet.duration or 0)) * packet.time_base * SECOND) + self.shift)

    def _reach(self, end: int) -> None:
        self.end = max(self.end, end)
        if self.end - self._begin > self._most:
            raise Refused("FILM_TOO_LONG", "seconds", have=int(self.seconds), need=self._most // SECOND)


class _Encoders:
    """One filter graph that scales for all renditions at once, and an encoder behind each of its outputs."""

    def __init__(self, ladder: Ladder, film: Film, first: Any, threads: int) -> None:
        self._graph = av.filter.Graph()
        self._graph.threads = threads
        self._first, self._base = (first.width, first.height, first.format.name), film.video.time_base
        source = self._graph.add_buffer(template=film.video)
        turn = _TURNS.get(round(first.rotation / 90) * 90, "")
        for step in filter(None, turn.split(",")):
            name, _, args = step.partition("=")
            source = _after(self._graph, source, name, args)
        width, height = _upright(film.video, first, turned="transpose" in turn)
        split = _after(self._graph, source, "split", str(len(ladder.renditions)))
        self.shapes = {one.name: fitted(width, height, one) for one in ladder.renditions}
        self._outs = [self._out(split, at, one, film, threads) for at, one in enumerate(ladder.renditions)]
        self._graph.configure()

    def encode(self, frame: Any, at: int, every: int) -> Iterator[tuple[str, Any]]:
        """Packets of all renditions, as (name, packet). A picture at or past a cut becomes a key frame."""
        if (frame.width, frame.height, frame.format.name) != self._first:
            raise Refused("BAD_FILM", "the pictures change their size")
        frame.pts, frame.time_base = _ticks(at, self._base), self._base
        self._graph.push(frame)
        yield from self._drain(every)

    def finish(self, every: int) -> Iterator[tuple[str, Any]]:
        """What graph and encoders still hold."""
        self._graph.push(None)
        yield from self._drain(every)
        for name, _, encoder, _ in self._outs:
            yield from ((name, packet) for packet in encoder.encode(None))

    def _drain(self, every: int) -> Iterator[tuple[str, Any]]:
        for name, sink, encoder, cut in self._outs:
            while (scaled := _pulled(sink)) is not None:
                at = round(scaled.pts * scaled.time_base * SECOND)
                scaled.pts, scaled.time_base = at, CLOCK
                opens = every > 0 and at >= cut[0]
                scaled.pict_type = 1 if opens else 0  # 0 lets the encoder choose; the source's own type would bind it
                if opens:
                    cut[0] = (at // every + 1) * every
                yield from ((name, packet) for packet in encoder.encode(scaled))

    def _out(self, split: Any, at: int, one: Rendition, film: Film, threads: int) -> tuple[str, Any, Any, list[int]]:
        width, height = self.shapes[one.name]
        scale = self._graph.add("scale", f"{width}:{height}")
        split.link_to(scale, at, 0)
        last = _after(self._graph, scale, "setsar", "1")
        if one.fps:
            last = _after(self._graph, last, "fps", f"fps={one.fps}")
        sink = _after(self._graph, _after(self._graph, last, "format", "pix_fmts=yuv420p"), "buffersink", None)
        rate = Fraction(one.fps) if one.fps else film.rate
        encoder = h264(width, height, one.bitrate, rate, one.gop, threads)
        return one.name, sink, encoder, [0]


@contextmanager
def _reading(data: bytes) -> Iterator[Any]:
    """An open source; whatever the libraries find wrong with it is a refusal."""
    av.logging.set_level(None)
    try:
        with av.open(io.BytesIO(data), options=dict(_OPEN_OPTIONS)) as source:
            yield source
    except (av.error.FFmpegError, EOFError, OSError, ValueError, OverflowError, MemoryError) as exc:
        raise Refused("BAD_FILM", f"it cannot be read: {type(exc).__name__}") from exc


def _admitted(source: Any, bounds: Bounds) -> Film:
    """The streams to use, when everything that the container says is within the bounds."""
    if len(source.streams) > MAX_STREAMS:
        raise Refused("BAD_FILM", "too many streams", have=len(source.streams), need=MAX_STREAMS)
    seconds = (source.duration or 0) / av.time_base
    if seconds > bounds.seconds:
        raise Refused("FILM_TOO_LONG", "seconds", have=int(seconds), need=int(bounds.seconds))
    video = next((one for one in source.streams.video if not _is_cover(one)), None)
    audio = next(iter(source.streams.audio), None)
    if video is None and audio is None:
        raise Refused("BAD_FILM", "neither pictures nor sound")
    for stream, known in ((video, VIDEO_CODECS), (audio, AUDIO_CODECS)):
        if stream is not None and (
            stream.codec_context is None or stream.codec_context.codec.canonical_name not in known
        ):
            raise Refused("CODEC_UNSERVED", "this codec is not decoded here")
    rate = Fraction(30)
    if video is not None:
        if video.width * video.height > MAX_PIXELS or not video.width or not video.height:
            raise Refused("FILM_TOO_LARGE", "pixels", have=video.width * video.height, need=MAX_PIXELS)
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        video.thread_count = 1
        rate = video.average_rate or video.guessed_rate or rate
    return Film(video, audio, max(seconds, 0.001), rate if 1 <= rate <= MAX_FRAMES_A_SECOND else Fraction(30))


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _start(source: Any) -> int:
    return round((source.start_time or 0) * SECOND / av.time_base)


def _first_picture(video: Any, otherwise: int) -> int:
    """The time of the first picture: sound may begin before it, and must not move it."""
    if video is None or video.start_time is None:
        return otherwise
    return round(video.start_time * video.time_base * SECOND)


def _upright(video: Any, first: Any, *, turned: bool) -> tuple[int, int]:
    """Sides as shown: with square pixels, and turned."""
    aspect = video.codec_context.sample_aspect_ratio or Fraction(1)
    aspect = aspect if Fraction(1, 10) < aspect < 10 else Fraction(1)
    width, height = max(1, round(first.width * aspect)), first.height
    return (height, width) if turned else (width, height)


def _after(graph: Any, source: Any, name: str, args: str | None) -> Any:
    node = graph.add(name, args) if args else graph.add(name)
    source.link_to(node)
    return node


def _pulled(sink: Any) -> Any:
    try:
        return sink.pull()
    except (av.error.BlockingIOError, av.error.EOFError):
        return None


def _ticks(at: int, base: Fraction) -> int:
    return round(Fraction(at, SECOND) / base)


def gray_frames(data: bytes, width: int, height: int, bounds: Bounds = WHOLE) -> Iterator[Any]:
    """The pictures of a film at one size, as gray arrays, for comparing two films. Raises Refused."""
    with _reading(data) as source:
        film = _admitted(source, bounds)
        if film.video is None:
            raise Refused("BAD_FILM", "it has no pictures")
        clock = _Timeline(0, _start(source), bounds)
        for packet in source.demux(film.video):
            for frame in packet.decode():
                clock.step(frame)
                yield frame.reformat(width, height, "gray").to_ndarray()
