"""One connection per peer.

Of several connections with a peer the newest is kept: the older one belongs to a process or a path that is gone. Two
that crossed, both sides having dialled at once, are settled alike on both sides: the one dialled by the lower peer id.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import trio
from libp2p.abc import INotifee
from libp2p.rcmgr import Direction

from p2p.netstream import library_id, peer_id
from p2p.peer import PeerId
from p2p.transport import Link, PeerChange

CROSSING = 5.0  # seconds between two connections that count as crossed


class Connections(INotifee):
    """Tells of peers that come and go, and closes every connection but one with each, and all with the unwelcome."""

    hears_streams = False  # see p2p/hardening/notices.py

    def __init__(
        self,
        swarm: Any,
        own: PeerId,
        changed: Callable[[PeerChange], None],
        unwelcome: Callable[[PeerId], bool] = lambda peer: False,
    ) -> None:
        self._swarm, self._own, self._changed, self._unwelcome = swarm, own, changed, unwelcome
        self._told: set[PeerId] = set()
        self._numbers = count(1)
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
        if self._unwelcome(peer):
            self._leave(conn)
            return
        connections = self._swarm.get_connections(far)
        best = self.best(connections) if connections else None
        for superfluous in connections:
            if superfluous is not best:
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
