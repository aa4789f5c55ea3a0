"""The seams: what the rest of Pasar asks of a network, as small Protocols.

Two families implement them, ``p2p/host.py`` and its neighbours on py-libp2p, and ``p2p/memory.py`` in one process; one
suite of contract tests runs over both. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import trio

from p2p.peer import PeerId
from p2p.scores import Fault


class Verdict(Enum):
    """What becomes of a gossiped message (GossipSub v1.1, extended validators)."""

    ACCEPT = auto()  # kept and forwarded
    IGNORE = auto()  # late, repeated, of a version we do not speak: dropped, nobody's fault
    REJECT = auto()  # wrong in its bytes alone: dropped, and it costs the sender


@dataclass(frozen=True, slots=True)
class Remote:
    """Where the other end of a stream is, as the connection itself says it.

    ``ip`` is the address of the socket's far end, None where there is none; ``relayed`` when a third peer carries
    the bytes. A relayed stream never counts as loopback.
    """

    ip: str | None
    relayed: bool = False

    @property
    def loopback(self) -> bool:
        return not self.relayed and self.ip is not None and (self.ip.startswith("127.") or self.ip == "::1")


@dataclass(frozen=True, slots=True)
class PeerAddrs:
    """A peer and the multiaddrs (each without its /p2p part) under which it says it can be dialled."""

    peer: PeerId
    addrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """The connection with one peer: which one it is (another one has another number), and whether we dialled it."""

    number: int
    dialled: bool


@dataclass(frozen=True, slots=True)
class PeerChange:
    """A connection with ``peer`` came up, or the last one with it went down."""

    peer: PeerId
    connected: bool


@dataclass(frozen=True, slots=True)
class Published:
    """One gossiped message as it reached us: who passed it on (not who wrote it), and its bytes."""

    forwarder: PeerId
    data: bytes


class Stream(Protocol):
    """A two-way stream of bytes with one peer. Errors of the far end are ``p2p.errors.Unavailable``."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def remote(self) -> Remote: ...
    async def send(self, data: bytes) -> None: ...
    async def receive(self, most: int = 65536) -> bytes:
        """At most ``most`` bytes; empty at the end of the stream, which proves nothing about completeness."""
        ...

    async def finish(self) -> None:
        """No more bytes from us; the other direction stays open."""
        ...

    async def aclose(self) -> None: ...
    async def reset(self) -> None: ...


Acceptor = Callable[[Stream], Awaitable[None]]
Judge = Callable[[PeerId, bytes], Verdict]


class Network(Protocol):
    """Connections and streams. One connection serves both directions."""

    @property
    def peer(self) -> PeerId: ...
    def addrs(self) -> tuple[str, ...]:
        """Our own multiaddrs, each ending in /p2p/PEER."""
        ...

    def connected(self) -> frozenset[PeerId]: ...
    def link(self, peer: PeerId) -> Link | None:
        """The connection with ``peer`` that streams are opened on; None without one."""
        ...

    async def connect(self, target: PeerAddrs) -> None: ...
    async def open(self, peer: PeerId, protocol: str) -> Stream: ...
    def serve(self, protocol: str, acceptor: Acceptor) -> None:
        """Give every inbound stream of ``protocol`` to ``acceptor``; it is closed when ``acceptor`` returns."""
        ...

    async def disconnect(self, peer: PeerId) -> None: ...
    def report(self, peer: PeerId, fault: Fault, what: str = "") -> None:
        """Write down what a peer did wrong, connected or not; at the graylist it is shut out. ``what``: for the log."""
        ...

    def subscribe_peers(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerChange]]:
        """Connections as they come and go, from now on."""
        ...


class Gossip(Protocol):
    """Topics. ``publish`` gives no promise of delivery."""

    async def join(self, topic: str, judge: Judge) -> None: ...
    async def publish(self, topic: str, data: bytes) -> None: ...
    def subscribe(self, topic: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Published]]: ...


class Discovery(Protocol):
    """Who is there. Seconds-scale; never on a job's path."""

    async def provide(self, key: bytes) -> None: ...
    async def find(self, key: bytes, most: int = 20) -> tuple[PeerAddrs, ...]: ...
