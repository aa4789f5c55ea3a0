"""Transcoding: films and live segments to H.264 renditions with HLS playlists.

The decoding is done in a child of its own with bounded memory (``transcodechild.py``); here are its time limits, the
playlists, and what a caller gets. Blocks; runs in the device's thread of a worker. Knows no job and no price.
"""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from compute.capability import Dtype
from compute.pipelines import transcodechild
from compute.renditions import (
    MASTER,
    MAX_BYTES,
    PLAYLIST_TYPE,
    SEGMENT_TYPE,
    Ladder,
    Segment,
    Variant,
    master_playlist,
    media_playlist,
)
from compute.spec import TRANSCODE, Artifact
from p2p.errors import Misconfigured, Refused

STALL_S: Final = 30.0  # without a word from the child
PUSH_S: Final = 30.0  # for one live segment
LIVE_WINDOW: Final = 6  # segments that a live playlist lists
_MAX_ANSWER: Final = transcodechild.MAX_SEGMENT_BYTES + (1 << 16)


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

    def film(
        self, data: bytes, ladder: Ladder, told: Callable[[float], None] = lambda done: None
    ) -> tuple[tuple[Segment, ...], dict[str, str]]:
        """All segments of a whole film, and its playlists by file name.

        ``told`` hears the share that is done, and may end the work by raising. Raises Refused.
        """
        segments: list[Segment] = []
        with _Child(ladder, self._threads) as child:
            child.ask(data, live=False)
            for answer in child.answers(STALL_S):
                if isinstance(answer, Segment):
                    segments.append(answer)
                elif isinstance(answer, float):
                    told(answer)
                else:
                    return tuple(segments), playlists(segments, answer)
        raise AssertionError("answers end with variants or a refusal")

    def live(self, ladder: Ladder) -> Live:
        """A live stream, as a context."""
        return Live(ladder, self._threads)


class Live:
    """One live stream. Segments are pushed in order; each push gives its renditions at once."""

    def __init__(self, ladder: Ladder, threads: int = 1) -> None:
        self._ladder, self._child = ladder, _Child(ladder, threads)
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
            elif not isinstance(answer, float):
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


def as_mp4(segments: Iterable[Segment]) -> bytes:
    """One rendition's segments as one MP4 file."""
    import av

    from compute.pipelines.segments import LEAD

    file = io.BytesIO()
    joined = io.BytesIO(b"".join(one.data for one in segments))
    with av.open(joined, format="mpegts") as source, av.open(file, "w", format="mp4") as out:
        streams = {one.index: out.add_stream_from_template(one) for one in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - LEAD, packet.dts - LEAD
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return file.getvalue()


@dataclass
class _Child:
    """The process and its pipes. Invariant: once it went wrong it is gone, and every later request is refused."""

    ladder: Ladder
    threads: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        root = Path(__file__).parent.parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compute.pipelines.transcodechild"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )
        ladder = {"renditions": [astuple(one) for one in self.ladder.renditions], "segment_ms": self.ladder.segment_ms}
        self._write({**ladder, "threads": self.threads})
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def ask(self, data: bytes, *, live: bool) -> None:
        """One request; its answers must be read to their end."""
        most = MAX_BYTES
        if len(data) > most:
            raise Refused("FILM_TOO_LARGE", "bytes of the file", have=len(data), need=most)
        self._write({"live": live, "data": data})

    def answers(self, patience: float) -> Iterator[Segment | float | tuple[Variant, ...]]:
        """Segments and progress as they come, the variants last. Raises Refused, also when the child fell silent."""
        while True:
            answer = self._read(patience)
            if "segment" in answer:
                yield Segment(*answer["segment"])
            elif "told" in answer:
                yield answer["told"]
            elif "refused" in answer:
                code, hint, have, need = answer["refused"]
                raise Refused(code, hint, have=have, need=need)
            else:
                yield tuple(Variant(*one) for one in answer["variants"])
                return

    def _write(self, message: dict[str, Any]) -> None:
        try:
            transcodechild.send(self._pipe("stdin"), message)
        except OSError as exc:
            self._end()
            raise Refused("BAD_FILM", "the decoder ended") from exc

    def _read(self, patience: float) -> dict[str, Any]:
        """The next answer. The child is ended when it takes longer than this."""
        ended = threading.Event()

        def end() -> None:
            ended.set()
            self._kill()

        watch = threading.Timer(patience, end)
        watch.daemon = True
        watch.start()
        try:
            answer = transcodechild.receive(self._pipe("stdout"), _MAX_ANSWER)
        except (OSError, ValueError):
            answer = None
        finally:
            watch.cancel()
        if answer is None:
            self._end()
            if ended.is_set():
                raise Refused("TOO_SLOW", "the decoder took too long over a piece of it")
            raise Refused("BAD_FILM", "the decoder did not survive it")
        return answer

    def _pipe(self, name: str) -> IO[bytes]:
        pipe = None if self._process is None else getattr(self._process, name)
        if pipe is None:
            raise Refused("BAD_FILM", "the decoder had to be ended")
        return pipe

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        process.wait()
