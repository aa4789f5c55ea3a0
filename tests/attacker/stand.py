"""Where an attack stands: whom it is against, what it learned of the market, the keys it makes, what it counts.

A key costs an attacker nothing: each round of an act is another peer. An address costs something: each act has one of
its own, in loopback, so that limits for one address (which the nodes hold to with ``strict_private``) are what it meets
and no act stands in another's light.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio

from market.bookwire import BookAsk, BookPage
from market.hello import Greeter
from market.offer import Offer
from market.protocol import BOOK_1, STREAMS
from p2p.codec import encode
from p2p.envelope import Signed, open_signed
from p2p.errors import PasarError
from p2p.framing import frame
from p2p.host import Host
from p2p.identity import Identity
from p2p.netstream import library_id
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs, Stream

SOURCES = tuple(f"127.0.{66 + n}.1" for n in range(64))  # each a subnet of its own
PIPELINE = "text-to-image"
ROUND_S = 15.0  # for one round of one act; then another peer takes its place

_source: ContextVar[str] = ContextVar("source", default=SOURCES[0])
_open_tcp_stream = trio.open_tcp_stream


def dial_from_sources() -> None:
    """Have every dial of this process leave from the address of its act."""

    async def open_from(host: str, port: int, **rest: Any) -> trio.SocketStream:
        return await _open_tcp_stream(host, port, **{"local_address": _source.get(), **rest})

    trio.open_tcp_stream = open_from


@dataclass
class Stand:
    """One attack on one market."""

    network: str
    targets: list[PeerAddrs]
    chance: Random
    offers: list[tuple[Offer, Signed]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)

    def target(self) -> PeerAddrs:
        return self.chance.choice(self.targets)

    def use_source(self, number: int) -> None:
        _source.set(SOURCES[number % len(SOURCES)])

    @asynccontextmanager
    async def peer(self) -> AsyncGenerator[Host]:
        """A new peer with a valid key and a host like ours."""
        host = Host(Identity.fresh(development=True), ())
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            try:
                yield host
            finally:
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[tuple[Host, PeerAddrs]]:
        """A new peer that is connected with a target."""
        target = self.target()
        async with self.peer() as host:
            await host.connect(target)
            yield host, target

    def greeter(self) -> Greeter:
        return Greeter(self.network, "gateway", lambda: None, time.time)

    async def stream(self, host: Host, target: PeerAddrs, protocol: str) -> MessageStream:
        """A greeted stream of one of our protocols."""
        stream = MessageStream(await host.open(target.peer, protocol), STREAMS[protocol])
        await self.greeter().say(stream)
        return stream

    async def raw_stream(self, host: Host, target: PeerAddrs, protocol: str, *, hello: bool = True) -> Stream:
        """The same to write any bytes on."""
        stream = await host.open(target.peer, protocol)
        if hello:
            await stream.send(frame(encode(self.hello())))
        return stream

    def hello(self) -> Any:
        from market.hello import Hello

        return Hello(self.network, "gateway", None, int(time.time() * 1000))

    async def look_around(self) -> None:
        """Learn the offers on sale, as any newcomer may."""
        for target in self.targets:
            with suppress(PasarError):
                async with self.peer() as host:
                    await host.connect(target)
                    stream = await self.stream(host, target, BOOK_1)
                    await self.greeter().hear(stream)
                    await stream.send(BookAsk(PIPELINE, None, 32))
                    page = await stream.receive(timeout=5)
                    if isinstance(page, BookPage):
                        self.offers += [(open_signed(envelope, Offer)[0], envelope) for envelope in page.offers]
                    if self.offers:
                        return

    def junk(self, most: int = 4096) -> bytes:
        return self.chance.randbytes(self.chance.randint(1, most))


def muxed(host: Host, target: PeerAddrs) -> Any:
    """The yamux connection itself, to write frames on that no yamux would."""
    return host.library.get_network().get_connections(library_id(target.peer))[0].muxed_conn


def token(size: int = 16) -> bytes:
    return secrets.token_bytes(size)


Act = Callable[[Stand], Awaitable[None]]
