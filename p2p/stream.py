"""Whole messages over a stream of bytes: one frame each, read in large pieces, written under a lock.

``send`` may be called from several tasks, ``receive`` from one at a time. Knows framing and the codec, and no message;
a message that this node does not speak is skipped, as the codec's law of versions asks.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Self

import trio

from p2p.codec import MAX_MESSAGE, decode, encode_parts
from p2p.errors import MalformedMessage, Unavailable, UnknownMessage
from p2p.framing import FrameDecoder, head_of
from p2p.peer import PeerId
from p2p.quicklock import QuickLock
from p2p.transport import Remote, Stream

JOB_FRAME = 1024 * 1024 + 4096  # one chunk of 1 MiB and its header
READ = 256 * 1024
MAX_UNKNOWN = 64  # messages in a row that nobody here speaks


class MessageStream:
    """Frames leave whole or the sending side is dead; what is received was canonical and within ``limit``."""

    def __init__(self, stream: Stream, limit: int = MAX_MESSAGE) -> None:
        self.limit = limit
        self._stream = stream
        self._decoder = FrameDecoder(limit)
        self._frames: deque[bytes] = deque()
        self._fault: MalformedMessage | None = None
        self._writing = QuickLock()
        self._cut = False

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    @property
    def remote(self) -> Remote:
        return self._stream.remote

    async def send(self, *messages: Any) -> None:
        """Send messages whole, in one write. Raises Unavailable when the stream is broken, or was cut before."""
        frames = b"".join(part for message in messages for part in self._framed(message))
        async with self._writing:
            if self._cut:
                raise Unavailable("the stream was cut inside a frame")
            self._cut = True  # stays so when the write is cancelled or fails half-way
            await self._stream.send(frames)
            self._cut = False

    def _framed(self, message: Any) -> tuple[bytes, ...]:
        parts = encode_parts(message)
        size = sum(map(len, parts))
        if size > self.limit:
            raise ValueError(f"{type(message).__name__} of {size} bytes, limit {self.limit}")
        return head_of(size), *parts

    async def receive(self, timeout: float | None = None) -> Any:
        """The next message, or None at a clean end, which proves nothing about completeness.

        Raises MalformedMessage, and Unavailable when the stream breaks, ends inside a frame, stays silent for
        ``timeout`` seconds or carries only messages of kinds unknown here.
        """
        if timeout is None:
            return await self._receive()
        with trio.move_on_after(timeout):
            return await self._receive()
        raise Unavailable(f"silent for {timeout} s")

    async def _receive(self) -> Any:
        for _ in range(MAX_UNKNOWN):
            payload = await self._next_frame()
            if payload is None:
                return None
            try:
                return decode(payload, self.limit)
            except UnknownMessage:
                continue
        raise Unavailable(f"{MAX_UNKNOWN} messages in a row of kinds unknown here")

    async def _next_frame(self) -> bytes | None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._frames:
            if self._fault is not None:
                raise self._fault
            data = await self._stream.receive(READ)
            if not data:
                if self._decoder.clean:
                    return None
                raise Unavailable("the stream ended inside a frame")
            try:
                self._frames.extend(self._decoder.feed(data))
            except MalformedMessage as exc:
                self._fault = exc  # the frames before the fault are good and are read first
        return self._frames.popleft()

    async def finish(self) -> None:
        """Nothing more from us; the other side may go on."""
        await self._stream.finish()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def reset(self) -> None:
        await self._stream.reset()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            await self._stream.aclose()
        else:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._stream.reset()
