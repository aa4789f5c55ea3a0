"""The child that a stranger's film is decoded in: little memory, no files, and its end is nobody else's.

Reads requests from standard input, writes answers to standard output; both are framed msgpack. It trusts its parent and
nothing in the film. Started by ``transcode.py`` only.
"""

from __future__ import annotations

import resource
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

import msgpack

from compute.pipelines.joining import as_mp4
from compute.pipelines.transcoder import Paid, Transcoder
from compute.renditions import MAX_BYTES, MAX_MADE, Ladder, Rendition, Segment
from p2p.errors import Refused

MEMORY = 2 << 30  # address space: interpreter and codecs take a quarter of it, the largest pictures most of the rest
MAX_SEGMENT_BYTES = 1 << 27
_TELL_EVERY_S = 0.25
_HEADER = struct.Struct(">I")
_LIMITS = ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0))


def send(to: IO[bytes], message: dict[str, Any]) -> None:
    """One message."""
    body = msgpack.packb(message)
    to.write(_HEADER.pack(len(body)))
    to.write(body)
    to.flush()


def receive(source: IO[bytes], most: int) -> dict[str, Any] | None:
    """The next message; None at the end. Raises ValueError for one that is too large or cut off."""
    header = source.read(_HEADER.size)
    if not header:
        return None
    (size,) = _HEADER.unpack(header)
    if size > most:
        raise ValueError("a message is too large")
    body = source.read(size)
    if len(body) != size:
        raise ValueError("a message is cut off")
    return dict(msgpack.unpackb(body, max_bin_len=most))


def main() -> None:
    """Serve one source until standard input ends."""
    for limit, value in _LIMITS:
        resource.setrlimit(limit, (value, value))
    source, to = sys.stdin.buffer, sys.stdout.buffer
    opened = receive(source, 1 << 16)
    if opened is None:
        return
    ladder = Ladder(tuple(Rendition(*one) for one in opened["renditions"]), opened["segment_ms"])
    paid = None if opened["paid"] is None else Paid(*opened["paid"])
    transcoder = Transcoder(ladder, opened["threads"], paid, opened["begin"])
    while (request := receive(source, MAX_BYTES + (1 << 16))) is not None:
        data = request.pop("data")
        try:
            segments = transcoder.push(data) if request["live"] else transcoder.film(data, _Teller(to))
            if paid is not None:
                segments = _held(segments)
            if request["joined"]:
                _join(to, ladder, segments)
            else:
                _send_all(to, segments)
            send(to, {"variants": [[one.name, one.width, one.height, one.bandwidth] for one in transcoder.variants()]})
        except Refused as exc:
            send(to, {"refused": [exc.code, exc.hint, exc.have, exc.need]})
        except MemoryError:
            send(to, {"refused": ["FILM_TOO_LARGE", "it needs more memory than a decoder gets", 0, MEMORY]})


class _Teller:
    """Passes on how far the work is, not oftener than anybody looks."""

    def __init__(self, to: IO[bytes]) -> None:
        self._to, self._last = to, 0.0

    def __call__(self, done: float) -> None:
        now = time.monotonic()
        if now - self._last >= _TELL_EVERY_S:
            self._last = now
            send(self._to, {"told": done})


def _send_all(to: IO[bytes], segments: Iterable[Segment]) -> None:
    for one in segments:
        if len(one.data) > MAX_SEGMENT_BYTES:
            raise Refused("FILM_TOO_LARGE", "bytes of a segment", have=len(one.data), need=MAX_SEGMENT_BYTES)
        send(to, {"segment": [one.rendition, one.index, one.duration_ms, one.data]})


def _join(to: IO[bytes], ladder: Ladder, segments: Iterable[Segment]) -> None:
    """One file for each rendition, made here: nobody else reads what came out of a stranger's film."""
    kept = list(segments)
    for one in ladder.renditions:
        send(to, {"file": as_mp4([piece for piece in kept if piece.rendition == one.name])})


def _held(segments: Iterable[Segment]) -> Iterator[Segment]:
    """The same, no more of it than a result may have."""
    size = 0
    for one in segments:
        size += len(one.data)
        if size > MAX_MADE:
            raise Refused("RESULT_TOO_LARGE", "bytes of all renditions", have=MAX_MADE, need=size)
        yield one


if __name__ == "__main__":
    main()
