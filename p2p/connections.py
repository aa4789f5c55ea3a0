"""One connection per peer, and how many a stranger's address may open.

Of several connections with a peer the newest is kept: the older one belongs to a process or a path that is gone. Two
that crossed, both sides having dialled at once, are settled alike on both sides: the one dialled by the lower peer id.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import trio
from libp2p.abc import INotifee
from libp2p.rcmgr import Direction

from p2p.admission import RateLimit
from p2p.netstream import peer_id
from p2p.peer import PeerId
from p2p.transport import PeerChange

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
        self._spare, self._spares = trio.open_memory_channel[Any](1024)
        swarm.register_notifee(self)

    async def run(self) -> None:
        """Close what is superfluous until cancelled."""
        async for connection in self._spares:
            with trio.move_on_after(5):
                await connection.close()

    async def connected(self, network: Any, conn: Any) -> None:
        far = conn.muxed_conn.peer_id
        peer = peer_id(far)
        for superfluous in self._all_but_best(peer, self._swarm.get_connections(far)):
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

    def _all_but_best(self, peer: PeerId, connections: list[Any]) -> list[Any]:
        if len(connections) < 2:
            return []
        best = connections[0]
        for other in connections[1:]:
            best = self._better(peer, best, other)
        return [connection for connection in connections if connection is not best]

    def _better(self, peer: PeerId, one: Any, two: Any) -> Any:
        older, newer = sorted((one, two), key=lambda connection: float(connection._created_at))
        crossed = one.direction != two.direction and newer._created_at - older._created_at < CROSSING
        if not crossed:
            return newer
        wanted = Direction.OUTBOUND if self._own < peer else Direction.INBOUND
        return one if one.direction == wanted else two
