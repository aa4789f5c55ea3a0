"""One connection per peer.

Of several connections with a peer the newest is kept: the older one belongs to a process or a path that is gone. Two
that crossed, both sides having dialled at once, are settled alike on both sides: the one dialled by the lower peer id.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from libp2p.abc import INotifee
from libp2p.rcmgr import Direction

from p2p.netstream import library_id, peer_id
from p2p.peer import PeerId
from p2p.transport import PeerChange

CROSSING = 5.0  # seconds between two connections that count as crossed


class Connections(INotifee):
    """Tells of peers that come and go, and closes every connection but one with each, and all with the unwelcome."""

    def __init__(
        self,
        swarm: Any,
        own: PeerId,
        changed: Callable[[PeerChange], None],
        unwelcome: Callable[[PeerId], bool] = lambda peer: False,
    ) -> None:
        self._swarm, self._own, self._changed, self._unwelcome = swarm, own, changed, unwelcome
        self._told: set[PeerId] = set()
        self._spare, self._spares = trio.open_memory_channel[Any](1024)
        swarm.register_notifee(self)

    async def run(self) -> None:
        """Close what is superfluous until cancelled."""
        async with trio.open_nursery() as nursery:
            async for connection in self._spares:
                nursery.start_soon(self._close, connection)  # one that takes its time holds up no other

    def shut_out(self, peer: PeerId) -> None:
        """Close every connection with a peer."""
        for connection in self._swarm.get_connections(library_id(peer)):
            self._leave(connection)

    async def _close(self, connection: Any) -> None:
        with trio.move_on_after(5):
            await connection.close()

    def _leave(self, connection: Any) -> None:
        with suppress(trio.WouldBlock):  # as many are being closed already; the next fault of its peer is the next try
            self._spare.send_nowait(connection)

    async def connected(self, network: Any, conn: Any) -> None:
        far = conn.muxed_conn.peer_id
        peer = peer_id(far)
        if self._unwelcome(peer):
            self._leave(conn)
            return
        for superfluous in self._all_but_best(peer, self._swarm.get_connections(far)):
            self._leave(superfluous)
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
