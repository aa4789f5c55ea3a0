"""Framed messages over one trio stream, for both ends of the node's line to its worker.

``say`` never waits, so that whoever reports progress is not held up by whoever reads it. Shell; knows no job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import trio

from compute.messages import LINK_LIMIT
from p2p.codec import decode, encode
from p2p.errors import Unavailable, UnknownMessage
from p2p.framing import FrameDecoder, frame

MAX_UNSENT = 16_384  # messages
_READ = 256 * 1024


class LinkBroken(Unavailable):
    """The other end is gone, or does not read."""


class Link:
    """One connection. Messages leave in the order they were said; ``run`` carries them out and must be running."""

    def __init__(self, stream: trio.abc.Stream, limit: int = LINK_LIMIT) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(limit)
        self._limit = limit
        self._ready: deque[Any] = deque()
        self._put, self._unsent = trio.open_memory_channel[bytes | trio.Event](MAX_UNSENT)

    def say(self, message: Any) -> None:
        """Send soon. Raises LinkBroken when the other end reads too slowly or the link was closed."""
        try:
            self._put.send_nowait(frame(encode(message)))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise LinkBroken("the other end does not read") from exc

    async def run(self) -> None:
        """Carry out what was said. Raises LinkBroken when the connection ends."""
        async for data in self._unsent:
            if isinstance(data, trio.Event):
                data.set()
                continue
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise LinkBroken("connection lost") from exc

    async def flush(self) -> None:
        """Until all that was said so far is out, or the link is broken."""
        out = trio.Event()
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._put.send_nowait(out)
            await out.wait()

    async def receive(self) -> Any:
        """The next message of a kind that is known here. Raises LinkBroken at the end, MalformedMessage."""
        while not self._ready:
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise LinkBroken("connection lost") from exc
            if not data:
                raise LinkBroken("connection closed")
            for payload in self._decoder.feed(bytes(data)):
                with suppress(UnknownMessage):  # of another version: not for us
                    self._ready.append(decode(payload, self._limit))
        return self._ready.popleft()

    async def messages(self) -> AsyncIterator[Any]:
        """Every message until the link ends, without an error at the end."""
        while True:
            try:
                received = await self.receive()
            except LinkBroken:
                return
            yield received

    async def aclose(self) -> None:
        """Close now; what was not sent is lost."""
        self._put.close()
        await self._stream.aclose()


class Attached:
    """The end of a worker's owner: the link of the moment, or none."""

    _link: Link | None = None

    @property
    def connected(self) -> bool:
        """Whether it can be told anything now."""
        return self._link is not None

    def say(self, message: Any) -> bool:
        """To the worker; False when there is no connection, and nothing was said."""
        if self._link is None:
            return False
        try:
            self._link.say(message)
        except LinkBroken:
            return False
        return True
