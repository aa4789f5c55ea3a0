"""Both ends of a worker's way in from another host: TLS, the proofs of the key, who it is.

The order is that of ``compute/joinwire.py``. Shell; knows no worker and no job.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable
from typing import Any

import trio

from compute.joinkey import JoinKey, guest_context, pinned
from compute.joinwire import (
    GOOD,
    JOIN_LIMIT,
    NONCE,
    PROOF,
    WRONG_KEY,
    Side,
    WorkerDeclined,
    WorkerJoin,
    WorkerWelcome,
    proof,
    proves,
)
from p2p.codec import decode, encode
from p2p.errors import MalformedMessage, PeerFault, Refused, Unavailable, UnknownMessage
from p2p.framing import HEAD, frame

KNOCK_S = 20.0  # from the dial to the answer
Answer = Callable[[WorkerJoin], WorkerWelcome | WorkerDeclined]


async def let_in(raw: trio.SocketStream, key: JoinKey, context: ssl.SSLContext) -> tuple[trio.SSLStream, WorkerJoin]:
    """The orchestrator's end, up to who comes. Raises Refused ``WRONG_KEY``, PeerFault, Unavailable."""
    stream = trio.SSLStream(raw, context, server_side=True, https_compatible=True)
    with _broken():
        await stream.do_handshake()
        asked = secrets.token_bytes(NONCE)
        await stream.send_all(asked)
        said = await _exactly(stream, NONCE + PROOF)
        theirs, claim = said[:NONCE], said[NONCE:]
        if not proves(claim, key.key, Side.WORKER, key.pin, asked, theirs):
            await stream.send_all(WRONG_KEY)
            raise Refused("WRONG_KEY", "it does not have the key of this door")
        await stream.send_all(GOOD + proof(key.key, Side.ORCHESTRATOR, key.pin, theirs, asked))
        join = await _read(stream)
    if not isinstance(join, WorkerJoin):
        raise PeerFault(f"{type(join).__name__} is no way to join")
    return stream, join


async def answer(stream: trio.abc.Stream, said: WorkerWelcome | WorkerDeclined) -> None:
    """The orchestrator's last word before the worker's own messages."""
    with _broken():
        await stream.send_all(frame(encode(said)))


async def go_in(host: str, port: int, key: JoinKey, join: WorkerJoin) -> tuple[trio.abc.Stream, WorkerWelcome]:
    """The worker's end, from the dial to the welcome.

    Raises Refused for a wrong key, another certificate, or what the orchestrator declines; Unavailable.
    """
    with trio.move_on_after(KNOCK_S):
        try:
            raw = await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise Unavailable(f"nobody answers at {host}:{port}: {exc}") from exc
        stream = trio.SSLStream(raw, guest_context(), https_compatible=True)
        try:
            return stream, await _introduced(stream, key, join)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    raise Unavailable(f"{host}:{port} did not answer in {KNOCK_S:.0f} s")


async def _introduced(stream: trio.SSLStream, key: JoinKey, join: WorkerJoin) -> WorkerWelcome:
    with _broken():
        await stream.do_handshake()
        certificate = stream.getpeercert(binary_form=True)
        if not isinstance(certificate, bytes) or not pinned(certificate, key):
            raise Refused("WRONG_CERTIFICATE", "it is not the orchestrator that the key was made by")
        asked = await _exactly(stream, NONCE)
        own = secrets.token_bytes(NONCE)
        await stream.send_all(own + proof(key.key, Side.WORKER, key.pin, asked, own))
        if await _exactly(stream, 1) != GOOD:
            raise Refused("WRONG_KEY", "the orchestrator has another key")
        if not proves(await _exactly(stream, PROOF), key.key, Side.ORCHESTRATOR, key.pin, own, asked):
            raise Refused("WRONG_KEY", "the orchestrator did not prove that it has the key")
        await stream.send_all(frame(encode(join)))
        said = await _read(stream)
    if isinstance(said, WorkerDeclined):
        raise Refused(said.code, said.hint)
    if not isinstance(said, WorkerWelcome):
        raise PeerFault("no answer to a join")
    return said


class _broken:
    """Whatever ends a connection is Unavailable: TLS that fails and a socket that closes look alike from here."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: object) -> None:
        if isinstance(exc, trio.BrokenResourceError | trio.ClosedResourceError | ssl.SSLError):
            raise Unavailable("the connection broke while joining") from exc
        if isinstance(exc, UnknownMessage):
            raise PeerFault("it speaks another version") from exc


async def _exactly(stream: trio.abc.Stream, size: int) -> bytes:
    """So many bytes, and none that come after them. Raises Unavailable when they end before."""
    found = bytearray()
    while len(found) < size:
        data = await stream.receive_some(size - len(found))
        if not data:
            raise Unavailable("the other end closed while joining")
        found += data
    return bytes(found)


async def _read(stream: trio.abc.Stream) -> Any:
    """One framed message, and nothing that comes after it. Raises MalformedMessage before a larger one is held."""
    size = int.from_bytes(await _exactly(stream, HEAD), "big")
    if not 1 <= size <= JOIN_LIMIT:
        raise MalformedMessage(f"frame of {size} bytes, limit {JOIN_LIMIT}")
    return decode(await _exactly(stream, size), JOIN_LIMIT)
