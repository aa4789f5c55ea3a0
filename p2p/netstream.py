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
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.utils import encode_delim

from p2p.errors import PasarError, Unavailable, Unspoken
from p2p.peer import PeerId
from p2p.transport import Remote

CLOSE_TIMEOUT = 5.0
_REMOTE = "pasar_remote"  # the attribute of a connection that remembers where its far end is


def library_id(peer: PeerId) -> ID:
    return ID(bytes(peer))


def peer_id(identifier: ID) -> PeerId:
    return PeerId(identifier.to_bytes())


def negotiation(protocol: str) -> bytes:
    """What each side of a stream sends to agree on ``protocol``."""
    return encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(protocol.encode())


@contextmanager
def far_end(what: str) -> Generator[None]:
    """Turn whatever py-libp2p raises inside into Unavailable."""
    try:
        yield
    except PasarError:
        raise
    except Exception as exc:  # the library lets any type through: its own, OSError, ValueError, exception groups
        raise _unavailable(what, exc) from exc


def _unavailable(what: str, exc: Exception) -> Unavailable:
    return Unavailable(f"{what}: {type(exc).__name__}: {exc}"[:200])


def not_spoken(error: Exception) -> bool:
    """Whether the peer itself said that it does not speak the protocol; the library has but a text for it."""
    cause = error.__cause__
    return isinstance(cause, MultiselectClientError) and str(cause).startswith("protocols not supported")


def remote_of(stream: Any) -> Remote:
    """Where the far end of a stream's connection is, from the connection itself and not from what the peer claims."""
    connection = stream.muxed_conn
    known: Remote | None = getattr(connection, _REMOTE, None)
    if known is None:
        known = _look_at(connection)
        setattr(connection, _REMOTE, known)
    return known


def _look_at(connection: Any) -> Remote:
    try:
        relayed = any("p2p-circuit" in str(addr) for addr in connection.get_transport_addresses())
        address = connection.get_remote_address()
    except Exception:  # asked of five layers of the library; an unknown place is simply not loopback
        return Remote(None, relayed=True)
    return Remote(address[0] if address else None, relayed)


def connection_ip(muxed: Any) -> str | None:
    """The address at the far end of a connection; None where there is none, or a third peer carries the bytes."""
    try:
        address = muxed.get_remote_address()
    except Exception:  # asked of three layers of the library, any of which may be gone by now
        return None
    return address[0] if address else None


class HostStream:
    """A stream with one peer; ``gone`` is called once, when it is closed or reset from this side.

    ``proposed``: the stream begins with this protocol's negotiation, sent with the first bytes and without waiting;
    the peer's consent is looked at before anything else it says, and ``unspoken`` is called when it is none.
    """

    def __init__(
        self,
        stream: Any,
        gone: Callable[[], None],
        *,
        proposed: str = "",
        unspoken: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream, self._gone, self._unspoken = stream, gone, unspoken
        self._proposal = self._consent = negotiation(proposed) if proposed else b""
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
        proposal, self._proposal = self._proposal, b""
        try:  # as ``far_end`` does, for half of what it costs
            await self._stream.write(proposal + data)
        except PasarError:
            raise
        except Exception as exc:
            raise _unavailable("send", exc) from exc

    async def receive(self, most: int = 65536) -> bytes:
        if self._closed:
            raise Unavailable("the stream is closed")
        try:
            if self._consent:
                await self._hear_consent()
            data: bytes = await self._stream.read(most)
        except PasarError:
            raise
        except StreamEOF:
            return b""
        except Exception as exc:
            raise _unavailable("receive", exc) from exc
        return data

    async def _hear_consent(self) -> None:
        """Both sides say the same in a negotiation that succeeds, so the answer is known byte by byte."""
        if self._proposal:
            await self.send(b"")
        while self._consent:
            said: bytes = await self._stream.read(len(self._consent))
            if not said:
                self._unspoken()
                raise Unavailable("the stream ended before the peer's consent")
            if not self._consent.startswith(said):
                self._unspoken()
                raise Unspoken("the peer does not speak this protocol any more")
            self._consent = self._consent[len(said) :]

    async def finish(self) -> None:
        if self._closed or self._finished:
            return
        if self._proposal:
            await self.send(b"")
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
