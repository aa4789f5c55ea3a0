"""Transcoding: films and live segments to H.264 renditions with HLS playlists.

The decoding is done in a child of its own with bounded memory (``transcodechild.py``); here are its time limits, the
playlists, and what a caller gets. Blocks; runs in the device's thread of a worker. Knows no job and no price.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from compute.capability import Dtype
from compute.pipeline import Turn
from compute.pipelines.filmchild import FilmChild
from compute.pipelines.piecework import Piecework, Progress, check_options, one_by_one, only
from compute.profiles import OPTIONS, Form, Order, read_order
from compute.renditions import (
    FILE_TYPE,
    MASTER,
    PLAYLIST_TYPE,
    SEGMENT_TYPE,
    Ladder,
    Segment,
    Variant,
    master_playlist,
    media_playlist,
    ranges_playlist,
)
from compute.spec import TRANSCODE, Artifact, JobShape, JobSpec
from compute.yardstick import FILM_FRAMES, shape_of, yardstick
from p2p.errors import Misconfigured, Refused

STALL_S: Final = 30.0  # without a word from the child
PUSH_S: Final = 30.0  # for one live segment
LIVE_WINDOW: Final = 6  # segments that a live playlist lists
_PIECES: Final = 100  # in which progress is told


@dataclass(frozen=True, slots=True)
class Pushed:
    """What one live segment gave: a segment of each rendition, and every playlist as it reads now, by file name."""

    segments: tuple[Segment, ...]
    playlists: dict[str, str]


class Transcode:
    """The pipeline. Has no weights; holds no state of any job."""

    name = TRANSCODE

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    @classmethod
    def load(cls, folder: Path | None = None, *, device: str = "cpu", dtype: Dtype = Dtype.FP32) -> Transcode:
        """Ready where PyAV is installed. Raises Misconfigured."""
        if importlib.util.find_spec("av") is None:
            raise Misconfigured("transcoding needs PyAV: pip install 'pasar[video]'")
        return cls()

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read what is asked for. Raises Refused; the film itself is looked at in its child."""
        check_options(spec, *OPTIONS)
        order, data = read_order(spec.option), only(files)
        return Piecework(lambda progress: _as_asked(self._made, data, order, spec.shape, progress))

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[Any]:
        """One job after the other."""
        return one_by_one(turns)

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """Half of the yardstick: what a first measure is taken of."""
        known = replace(shape_of(TRANSCODE, shape.model, 0), length=FILM_FRAMES // 2)
        return yardstick(known, bytes(16))

    def _made(self, data: bytes, order: Order, shape: JobShape, progress: Progress) -> tuple[Artifact, ...]:
        paid, alone = (shape.length, shape.width * shape.height), order.form is Form.SEGMENT
        joined, segments = list[bytes](), list[Segment]()
        with FilmChild(order.ladder, self._threads, paid, order.start if alone else None) as child:
            child.ask(data, live=alone, joined=order.form is Form.MP4)
            for answer in child.answers(STALL_S):
                if isinstance(answer, float):
                    progress(int(answer * _PIECES), _PIECES)
                elif isinstance(answer, bytes):
                    joined.append(answer)
                elif isinstance(answer, Segment):
                    segments.append(answer)
                elif order.form is Form.HLS:
                    return _in_playlists(segments, answer)
        if order.form is Form.MP4:
            return tuple(Artifact(FILE_TYPE, file) for file in joined)
        return tuple(Artifact(SEGMENT_TYPE, one.data) for one in segments)

    def film(
        self, data: bytes, ladder: Ladder, told: Callable[[float], None] = lambda done: None
    ) -> tuple[tuple[Segment, ...], dict[str, str]]:
        """All segments of a whole film, and its playlists by file name.

        ``told`` hears the share that is done, and may end the work by raising. Raises Refused.
        """
        segments: list[Segment] = []
        with FilmChild(ladder, self._threads) as child:
            child.ask(data)
            for answer in child.answers(STALL_S):
                if isinstance(answer, Segment):
                    segments.append(answer)
                elif isinstance(answer, float):
                    told(answer)
                elif isinstance(answer, tuple):
                    return tuple(segments), playlists(segments, answer)
        raise AssertionError("answers end with variants or a refusal")

    def live(self, ladder: Ladder) -> Live:
        """A live stream, as a context."""
        return Live(ladder, self._threads)


class Live:
    """One live stream. Segments are pushed in order; each push gives its renditions at once."""

    def __init__(self, ladder: Ladder, threads: int = 1) -> None:
        self._ladder, self._child = ladder, FilmChild(ladder, threads)
        self._listed: dict[str, list[Segment]] = {}
        self._variants: tuple[Variant, ...] = ()

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._child.__exit__(kind, exc, at)

    def push(self, data: bytes) -> Pushed:
        """Raises Refused; the stream goes on with the next segment unless the decoder had to be ended."""
        segments: list[Segment] = []
        self._child.ask(data, live=True)
        for answer in self._child.answers(PUSH_S):
            if isinstance(answer, Segment):
                segments.append(answer)
                listed = self._listed.setdefault(answer.rendition, [])
                listed.append(answer)
                del listed[:-LIVE_WINDOW]
            elif isinstance(answer, tuple):
                self._variants = answer
        return Pushed(tuple(segments), self._playlists(ended=False))

    def end(self) -> dict[str, str]:
        """The playlists of a stream that is over."""
        return self._playlists(ended=True)

    def _playlists(self, *, ended: bool) -> dict[str, str]:
        longest = longest_push_ms(self._ladder)
        made = {
            f"{name}.m3u8": media_playlist(
                [(one.file, one.duration_ms) for one in listed],
                ended=ended,
                first=listed[0].index,
                longest_ms=longest,
            )
            for name, listed in self._listed.items()
        }
        return {MASTER: master_playlist(self._variants), **made}


def longest_push_ms(ladder: Ladder) -> int:
    """The longest live segment that a ladder takes: its own length, and half of that for key frames that come late."""
    return ladder.segment_ms * 3 // 2


def playlists(segments: Sequence[Segment], variants: Sequence[Variant]) -> dict[str, str]:
    """The playlists of a whole film by file name."""
    made = {MASTER: master_playlist(variants)}
    for variant in variants:
        mine = [(one.file, one.duration_ms) for one in segments if one.rendition == variant.name]
        made[f"{variant.name}.m3u8"] = media_playlist(mine, ended=True, whole=True)
    return made


def artifacts(segments: Iterable[Segment], lists: Mapping[str, str]) -> dict[str, Artifact]:
    """Segments and playlists as files, by the names that the playlists use."""
    made = {name: Artifact(PLAYLIST_TYPE, text.encode()) for name, text in lists.items()}
    return {**made, **{one.file: Artifact(SEGMENT_TYPE, one.data) for one in segments}}


def _in_playlists(segments: Sequence[Segment], variants: Sequence[Variant]) -> tuple[Artifact, ...]:
    """A master playlist, then the playlist and the one file of each rendition."""
    made = [Artifact(PLAYLIST_TYPE, master_playlist(variants).encode())]
    for variant in variants:
        mine = [one for one in segments if one.rendition == variant.name]
        told = ranges_playlist(f"{variant.name}.ts", [(len(one.data), one.duration_ms) for one in mine])
        made.append(Artifact(PLAYLIST_TYPE, told.encode()))
        made.append(Artifact(SEGMENT_TYPE, b"".join(one.data for one in mine)))
    return tuple(made)


def _as_asked(
    make: Callable[[bytes, Order, JobShape, Progress], tuple[Artifact, ...]],
    data: bytes,
    order: Order,
    shape: JobShape,
    progress: Progress,
) -> tuple[Artifact, ...]:
    """The files that the order names.

    What is wrong with a film is its owner's matter, BAD_INPUT; that a codec is not served here is nobody's, POLICY.
    """
    try:
        made = make(data, order, shape, progress)
    except Refused as exc:
        numbers = f" (have {exc.have}, need {exc.need})" if exc.need else ""
        code = "POLICY" if exc.code == "CODEC_UNSERVED" else "BAD_INPUT"
        raise Refused(code, f"{exc.code}: {exc.hint}{numbers}") from exc
    if len(made) != len(order.names):
        raise Refused("BAD_INPUT", "it does not give every rendition", have=len(made), need=len(order.names))
    return made
