"""A stream inside one process: two pipes of bytes, each in order and whole, with latency and a bounded buffer.

Knows no network; whether bytes may pass now is asked of ``reach``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from p2p.errors import Unavailable
from p2p.peer import PeerId
from p2p.transport import Remote

BUFFER = 4 * 1024 * 1024


class Pipe:
    """Bytes leave in the order they came in, ``latency`` later; when ``BUFFER`` are held, ``put`` waits."""

    def __init__(self, latency: float, reach: Callable[[], Awaitable[None]]) -> None:
        self._latency, self._reach = latency, reach
        self._held = 0
        self._items: deque[tuple[float, bytes]] = deque()
        self._ended = False
        self._broken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def put(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for start in range(0, len(data), BUFFER):
            piece = data[start : start + BUFFER]
            while self._held and self._held + len(piece) > BUFFER and not self._broken:
                await self._waiting.park()
            if self._broken or self._ended:
                raise Unavailable("the stream is closed")
            self._held += len(piece)
            self._items.append((trio.current_time() + self._latency, piece))
            self._waiting.unpark_all()

    async def take(self, most: int) -> bytes:
        await self._reach()
        while True:
            if self._broken:
                raise Unavailable("the stream broke")
            if self._items and self._items[0][0] <= trio.current_time():
                return self._pop(most)
            if self._ended and not self._items:
                return b""
            deadline = self._items[0][0] if self._items else float("inf")
            with trio.move_on_at(deadline):
                await self._waiting.park()
            await self._reach()

    def end(self) -> None:
        self._ended = True
        self._waiting.unpark_all()

    def break_off(self) -> None:
        self._broken = True
        self._items.clear()
        self._waiting.unpark_all()

    def _pop(self, most: int) -> bytes:
        due, piece = self._items.popleft()
        if len(piece) > most:
            self._items.appendleft((due, piece[most:]))
            piece = piece[:most]
        self._held -= len(piece)
        self._waiting.unpark_all()
        return piece


class PipeStream:
    """One end: reads from one pipe, writes to the other, and leaves its node's list when it closes."""

    def __init__(
        self, peer: PeerId, remote: Remote, source: Pipe, sink: Pipe, gone: Callable[[PipeStream], None]
    ) -> None:
        self._peer, self._remote = peer, remote
        self._source, self._sink, self._gone = source, sink, gone
        self._closed = False

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def remote(self) -> Remote:
        return self._remote

    async def send(self, data: bytes) -> None:
        if self._closed:
            raise Unavailable("the stream is closed")
        await self._sink.put(data)

    async def receive(self, most: int = 65536) -> bytes:
        if self._closed:
            raise Unavailable("the stream is closed")
        return await self._source.take(most)

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        self._sink.end()

    async def aclose(self) -> None:
        """End our direction; what is still unread is given up, and the other side learns when it writes."""
        self._closed = True
        self._gone(self)
        self._sink.end()
        self._source.break_off()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        self.break_off()
        await trio.lowlevel.checkpoint()

    def break_off(self) -> None:
        self._closed = True
        self._gone(self)
        self._sink.break_off()
        self._source.break_off()
