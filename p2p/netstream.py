"""One py-libp2p stream as the seam's Stream, and the library's many exceptions as ours.

Everything that crosses between Pasar's types and py-libp2p's is here: peer ids, remote addresses, errors.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import trio
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID

from p2p.errors import PasarError, Unavailable
from p2p.peer import PeerId
from p2p.transport import Remote

CLOSE_TIMEOUT = 5.0


def library_id(peer: PeerId) -> ID:
    return ID(bytes(peer))


def peer_id(identifier: ID) -> PeerId:
    return PeerId(identifier.to_bytes())


@contextmanager
def far_end(what: str) -> Generator[None]:
    """Turn whatever py-libp2p raises inside into Unavailable."""
    try:
        yield
    except PasarError:
        raise
    except Exception as exc:  # the library lets any type through: its own, OSError, ValueError, exception groups
        raise Unavailable(f"{what}: {type(exc).__name__}: {exc}"[:200]) from exc


def remote_of(stream: Any) -> Remote:
    """Where the far end of a stream's connection is, from the connection itself and not from what the peer claims."""
    connection = stream.muxed_conn
    try:
        relayed = any("p2p-circuit" in str(addr) for addr in connection.get_transport_addresses())
        address = connection.get_remote_address()
    except Exception:  # asked of five layers of the library; an unknown place is simply not loopback
        return Remote(None, relayed=True)
    return Remote(address[0] if address else None, relayed)


class HostStream:
    """A stream with one peer; ``gone`` is called once, when it is closed or reset from this side."""

    def __init__(self, stream: Any, gone: Callable[[], None]) -> None:
        self._stream, self._gone = stream, gone
        self._peer = peer_id(stream.muxed_conn.peer_id)
        self._remote = remote_of(stream)
        self._closed = self._finished = False

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def remote(self) -> Remote:
        return self._remote

    async def send(self, data: bytes) -> None:
        if self._closed or self._finished:
            raise Unavailable("the stream is closed")
        with far_end("send"):
            await self._stream.write(data)

    async def receive(self, most: int = 65536) -> bytes:
        if self._closed:
            raise Unavailable("the stream is closed")
        try:
            with far_end("receive"):
                data: bytes = await self._stream.read(most)
        except Unavailable as exc:
            if isinstance(exc.__cause__, StreamEOF):
                return b""
            raise
        return data

    async def finish(self) -> None:
        if self._closed or self._finished:
            return
        self._finished = True
        with far_end("finish"):
            await self._stream.close_write()

    async def aclose(self) -> None:
        """Close both directions. Never raises for what the far end did."""
        if self._leave():
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT):
                try:
                    with far_end("close"):
                        await self._stream.close()
                except Unavailable:
                    await self._stream.reset()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def reset(self) -> None:
        self._leave()
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT):
            await self._stream.reset()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _leave(self) -> bool:
        if self._closed:
            return False
        self._closed = True
        self._gone()
        return True
