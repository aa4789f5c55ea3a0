"""Hello: the first frame both sides send on every Pasar stream, before anything else counts.

It names the network, so that demo, LAN, test and main never mix, the settlement, and the sender's calendar, so that
peers can warn each other of a wrong clock. Nobody waits for the other's hello before going on; a stream whose hello
does not fit is closed with a typed refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import structlog

from ledger.money import Settlement
from p2p.codec import U64, Size, message
from p2p.errors import MalformedMessage, Refused, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.stream import MessageStream

log = structlog.get_logger(__name__)

CLOCK_WARNING_MS = 30_000
MAX_WARNED = 1024  # peers whose clocks we have complained about
HELLO_TIMEOUT_S = 10.0

NetworkName = Annotated[str, Size(1, 32)]


@message("hello", 1)
@dataclass(frozen=True, slots=True)
class Hello:
    """Who is speaking: network, role, settlement (None where no chain is used), calendar in Unix milliseconds."""

    network: NetworkName
    role: Annotated[str, Size(1, 16)]
    settlement: Settlement | None
    wall_ms: U64


@dataclass(frozen=True, slots=True)
class Greeter:
    """Says our hello and checks theirs. ``settlement`` is asked each time: the chain may come later."""

    network: str
    role: str
    settlement: Callable[[], Settlement | None]
    wall_time: Callable[[], float]
    warned: set[PeerId] = field(default_factory=set)

    async def say(self, stream: MessageStream, *then: Any) -> None:
        """Our hello, and in the same write what comes ``then``."""
        hello = Hello(self.network, self.role, self.settlement(), int(self.wall_time() * 1000))
        await stream.send(hello, *then)

    async def hear(self, stream: MessageStream) -> Hello:
        """Their hello. Raises Refused when the network differs, MalformedMessage when it is none, Unavailable."""
        hello = await stream.receive(timeout=HELLO_TIMEOUT_S)
        if hello is None:
            raise Unavailable("the peer hung up before its hello")
        if not isinstance(hello, Hello):
            raise MalformedMessage(f"{type(hello).__name__} where Hello belongs")
        if hello.network != self.network:
            raise Refused("OTHER_NETWORK", f"the peer is on {hello.network!r}, we are on {self.network!r}")
        drift = hello.wall_ms - int(self.wall_time() * 1000)
        if abs(drift) > CLOCK_WARNING_MS and stream.peer not in self.warned and len(self.warned) < MAX_WARNED:
            self.warned.add(stream.peer)
            log.warning("a peer's clock differs", peer=peer_text(stream.peer), seconds=drift // 1000)
        return hello

    async def greet(self, stream: MessageStream) -> Hello:
        """Both directions, ours first."""
        await self.say(stream)
        return await self.hear(stream)
