"""Frames on a byte stream: a length of four bytes, big-endian, then that many bytes.

Sans-IO: ``feed`` bytes as they come, take ``frames`` as they are whole. The length is checked before anything is kept,
so a peer cannot make us hold more than one frame's limit and one read. Knows no message.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2p.errors import MalformedMessage

HEAD = 4


def head_of(size: int) -> bytes:
    """What stands before a payload of ``size`` bytes."""
    return size.to_bytes(HEAD, "big")


def frame(payload: bytes) -> bytes:
    """``payload`` with its length before it."""
    return head_of(len(payload)) + payload


class FrameDecoder:
    """Holds at most one incomplete frame of at most ``limit`` bytes; after an error it takes nothing more."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._broken = False

    @property
    def clean(self) -> bool:
        """Whether the stream could end here without cutting a frame."""
        return not self._buffer and not self._broken

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that ``data`` completes. Raises MalformedMessage on a length above the limit or of zero."""
        if self._broken:
            raise MalformedMessage("the stream broke its framing before")
        self._buffer += data
        while len(self._buffer) >= HEAD:
            length = int.from_bytes(self._buffer[:HEAD], "big")
            if not 1 <= length <= self.limit:
                self._broken = True
                self._buffer.clear()
                raise MalformedMessage(f"frame of {length} bytes, limit {self.limit}")
            if len(self._buffer) < HEAD + length:
                return
            with memoryview(self._buffer) as view:
                payload = bytes(view[HEAD : HEAD + length])
            del self._buffer[: HEAD + length]
            yield payload
