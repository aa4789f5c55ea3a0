"""One connection per peer, and how many a stranger's address may open.

Of several connections with a peer the newest is kept: the older one belongs to a process or a path that is gone. Two
that crossed, both sides having dialled at once, are settled alike on both sides: the one dialled by the lower peer id.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from itertools import count
from typing import Any

import trio
from libp2p.abc import INotifee
from libp2p.rcmgr import Direction

from p2p.admission import RateLimit
from p2p.netstream import library_id, peer_id
from p2p.peer import PeerId
from p2p.transport import Link, PeerChange

CROSSING = 5.0  # seconds between two connections that count as crossed
INBOUND_PER_SECOND, INBOUND_BURST = 10.0, 30.0


class Doorkeeper:
    """At most 10 inbound connections a second (30 at once) from one address; private ranges are not counted."""

    def __init__(self) -> None:
        self._rate = RateLimit(INBOUND_PER_SECOND, INBOUND_BURST)

    def admits(self, ip: str) -> bool:
        """Whether one more connection from ``ip`` may shake hands now. IPv6 counts by /48."""
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        block = address.packed[:6] if address.version == 6 else address.packed
        return not address.is_global or self._rate.allow(block, trio.current_time())


class Connections(INotifee):
    """Tells of peers that come and go, and closes every connection but one with each."""

    hears_streams = False  # see p2p/hardening/notices.py

    def __init__(self, swarm: Any, own: PeerId, changed: Callable[[PeerChange], None]) -> None:
        self._swarm, self._own, self._changed = swarm, own, changed
        self._told: set[PeerId] = set()
        self._numbers = count(1)
        self._spare, self._spares = trio.open_memory_channel[Any](1024)
        swarm.register_notifee(self)

    async def run(self) -> None:
        """Close what is superfluous until cancelled."""
        async for connection in self._spares:
            with trio.move_on_after(5):
                await connection.close()

    def link(self, peer: PeerId) -> Link | None:
        """The connection that is kept."""
        connections = self._swarm.get_connections(library_id(peer))
        if not connections:
            return None
        best = self.best(connections)
        return Link(self._number(best), best.direction == Direction.OUTBOUND)

    def best(self, connections: list[Any]) -> Any:
        """Of several with one peer, in the order in which they came: the one that both sides keep."""
        best = connections[0]
        for newer in connections[1:]:
            best = self._better(best, newer)
        return best

    async def connected(self, network: Any, conn: Any) -> None:
        far = conn.muxed_conn.peer_id
        peer = peer_id(far)
        connections = self._swarm.get_connections(far)
        best = self.best(connections) if connections else None
        for superfluous in connections:
            if superfluous is best:
                continue
            try:
                self._spare.send_nowait(superfluous)
            except trio.WouldBlock:
                break  # two connections with one peer do no harm
        if peer not in self._told:
            self._told.add(peer)
            self._changed(PeerChange(peer, connected=True))

    async def disconnected(self, network: Any, conn: Any) -> None:
        far = conn.muxed_conn.peer_id
        peer = peer_id(far)
        if peer in self._told and not self._swarm.get_connections(far):
            self._told.discard(peer)
            self._changed(PeerChange(peer, connected=False))

    async def opened_stream(self, network: Any, stream: Any) -> None:
        pass

    async def closed_stream(self, network: Any, stream: Any) -> None:
        pass

    async def listen(self, network: Any, multiaddr: Any) -> None:
        pass

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        pass

    def _number(self, connection: Any) -> int:
        if not hasattr(connection, "pasar_number"):
            connection.pasar_number = next(self._numbers)
        number: int = connection.pasar_number
        return number

    def _better(self, older: Any, newer: Any) -> Any:
        crossed = older.direction != newer.direction and abs(newer._created_at - older._created_at) < CROSSING
        if not crossed:
            return newer
        wanted = Direction.OUTBOUND if self._own < peer_id(newer.muxed_conn.peer_id) else Direction.INBOUND
        return older if older.direction == wanted else newer
