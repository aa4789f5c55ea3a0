"""Overlay: a node's place in the network: host, gossip, DHT, address book, and the peers it wants to be connected with.

    listening -> bootstrap connected -> (the role serves and joins its topics) -> provider records put -> READY

It knows kinds (roles and pipelines) only as names under which peers are found. A bootstrap that dies hurts nobody who
was here before: the address book and the DHT go on. Whoever cannot be dialled announces no address, and is reached over
the connections that it dialled and keeps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from market.instance import MeetingPoint
from p2p.addressbook import AddressBook
from p2p.addresses import own_hosts
from p2p.bootstrap import Bootstrap
from p2p.dialback import DialBack
from p2p.discovery import KademliaDiscovery
from p2p.errors import Unavailable
from p2p.gossip import GossipSub
from p2p.heartbeat import Heartbeat
from p2p.host import Host, Keyholder
from p2p.keeper import Keeper
from p2p.knock import knock
from p2p.mdns import LocalNames
from p2p.peer import PeerId, peer_text
from p2p.presence import Presence, keys_for
from p2p.standing import Reach
from p2p.transport import PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

LOOK_FIRST_S, LOOK_LATER_S = 2.0, 60.0  # doubled from look to look: each asks twenty peers
LOOK_AGAIN_S = 2.0  # for one peer or another that is missed
LOCAL_LOOK_S = 1.0
CONNECT_PATIENCE_S = 30.0
MAX_FOUND = 4096
PUT_TRIES = 5
REACH_KNOWN_S = 2.0
SEEK_PATIENCE_S, SEEK_AGAIN_S = 2.0, 15.0
MAX_SOUGHT = 1024


@dataclass(frozen=True, slots=True)
class Wiring:
    """What an overlay is told: where to listen, whom to dial first, whom to look for."""

    network: str
    listen: tuple[str, ...]
    announce: tuple[str, ...]
    targets: tuple[PeerAddrs, ...]
    local: MeetingPoint | None
    kinds: tuple[str, ...]  # under which this node is found
    wanted: tuple[str, ...]  # whom it wants to be connected with
    server: bool = True  # keeps DHT records for others
    strict_private: bool = False
    must_be_dialled: bool = False  # useless otherwise: announces what it listens on, whatever others find
    lan: bool = False  # names itself on the LAN, and dials who is named there


class Overlay:
    """``found`` counts peers that the DHT named and that were not known before."""

    def __init__(self, identity: Keyholder, wiring: Wiring, book: AddressBook, wall_time: Callable[[], float]) -> None:
        self._w, self.book, self._wall_time = wiring, book, wall_time
        self.host = Host(identity, wiring.listen, announce=wiring.announce, strict_private=wiring.strict_private)
        self.gossip = GossipSub(self.host, f"pasar/{wiring.network}/")
        self.discovery = KademliaDiscovery(self.host, server=wiring.server)
        self.presence = Presence(self.discovery, wiring.network, wall_time, dialable=self.host.announces)
        self._known: OrderedDict[PeerId, PeerAddrs] = OrderedDict((t.peer, t) for t in wiring.targets)
        self.found: set[PeerId] = set()
        self._looking, self._looked_at = trio.Lock(), -LOOK_AGAIN_S
        self._sought: OrderedDict[PeerId, float] = OrderedDict()
        self._keeper = Keeper(self.host, book)
        self._bootstrap = Bootstrap(self.host, wiring.targets, book)
        self.heartbeat = Heartbeat(
            self.host, wall_time=wall_time, place=own_hosts, woken=self._woken, lost=self.book.failed
        )
        ports = self.host.ports if wiring.kinds else lambda: ()  # who is not looked for need not be dialled
        self.dialback = DialBack(self.host, ports=ports, knock=knock, changed=self._reach_changed)
        self._reach_changed(Reach.UNKNOWN, ())

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: listening, and connected to a bootstrap where there is one."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._note_first)
            await nursery.start(self.host.run)
            await nursery.start(self.gossip.run)
            await nursery.start(self.discovery.run)
            await nursery.start(self.presence.run)
            await nursery.start(self.book.run)
            for part in (self._keeper, self.heartbeat, self.dialback, self._bootstrap):
                await nursery.start(part.run)
            if self._w.local is not None:
                if self._w.local.ours:
                    self._w.local.announce(self.host.peer)
                nursery.start_soon(self._keep_local, self._w.local)
            if self._w.lan:
                await self._join_lan(nursery)
            await self._first_connection()
            if self.host.connected() and self._w.kinds:
                with trio.move_on_after(REACH_KNOWN_S):
                    await self.dialback.known()
            nursery.start_soon(self._look)
            task_status.started()

    @property
    def alone(self) -> bool:
        """Whether nobody can be expected: no bootstrap named, none on this machine, nobody remembered."""
        local = self._w.local is not None and not self._w.local.ours and self._w.local.is_alive()
        return not (self._w.targets or local or len(self.book) or self.host.connected())

    async def reach(self, peer: PeerId) -> None:
        """Be connected with ``peer``, by any address we know or can find. Raises Unavailable.

        A peer without an open port is there while it keeps a connection with us, and cannot be reached otherwise. Who
        was sought in vain is left alone for three times as long as that took: nobody waits again and again for the
        same nothing, and a peer that only restarts, and refuses at once meanwhile, is found as soon as it is back.
        """
        if peer in self.host.connected():
            return
        now = trio.current_time()
        if now < self._sought.get(peer, 0.0):
            raise Unavailable(f"{peer_text(peer)} is not connected, and could not be dialled a moment ago")
        try:
            await self._seek(peer)
        except Unavailable:
            took = trio.current_time() - now
            self._sought[peer] = now + took + min(SEEK_AGAIN_S, 3 * took)
            self._sought.move_to_end(peer)
            while len(self._sought) > MAX_SOUGHT:
                self._sought.popitem(last=False)
            raise
        self._sought.pop(peer, None)

    async def _seek(self, peer: PeerId) -> None:
        known = self._known.get(peer) or self.book.find(peer)
        if known is None:
            with trio.move_on_after(SEEK_PATIENCE_S):
                await self._look_together()
            known = self._known.get(peer)
        if peer in self.host.connected():
            return
        if known is None:
            raise Unavailable(f"{peer_text(peer)} is not connected and announces no address: it has no open port")
        await self.host.connect(known)

    async def put_records(self) -> None:
        """Be found: the records of all our kinds, at least once where anybody is there to take them."""
        put = await self._put_first()
        for kind in self._w.kinds:
            self.presence.advertise(kind, put=put)

    async def _put_first(self) -> bool:
        """Whether all records were put, with a few tries."""
        for attempt in range(PUT_TRIES):
            if not (self.host.connected() and self.host.announces()):
                return False
            try:
                for kind in self._w.kinds:
                    for key in keys_for(kind, self._w.network, self._wall_time()):
                        await self.discovery.provide(key)
                return True
            except Unavailable as exc:
                log.debug("record not put", reason=str(exc), attempt=attempt)
                await trio.sleep(0.3 * (attempt + 1))
        return False

    async def look_once(self) -> tuple[PeerAddrs, ...]:
        """Ask the DHT for everybody wanted; remember and connect."""
        found: list[PeerAddrs] = []
        for kind in self._w.wanted:
            try:
                found += await self._find(kind)
            except Unavailable as exc:
                log.debug("nobody found", kind=kind, reason=str(exc))
        await self._keeper.meet(found)
        return tuple(found)

    async def _look_together(self) -> None:
        """Look once for all who miss somebody at the same time: a look finds whoever can be found."""
        async with self._looking:
            if trio.current_time() - self._looked_at >= LOOK_AGAIN_S:
                await self.look_once()
                self._looked_at = trio.current_time()

    def remember(self, targets: Iterable[PeerAddrs], kind: str) -> None:
        """Keep addresses that the DHT or a handshake named."""
        for target in targets:
            if target.peer == self.host.peer:
                continue
            self._known[target.peer] = target
            self._known.move_to_end(target.peer)
            self.book.remember(target, kind)
        while len(self._known) > MAX_FOUND:
            self._known.popitem(last=False)

    def _reach_changed(self, reach: Reach, addrs: tuple[str, ...]) -> None:
        """Announce what was proven; who must be dialled also what it listens on, so that no liar can hide it."""
        self.host.announce(addrs, also_bound=self._w.must_be_dialled)
        self.presence.renew()
        if reach is Reach.PRIVATE and (self._w.must_be_dialled or self._w.announce):
            log.warning("others could not dial this node: open its port, or name where it is dialled with --announce")

    def _woken(self) -> None:
        """This machine slept, or its addresses changed."""
        self._keeper.wake()
        self._bootstrap.hurry()
        self.dialback.ask_again()

    async def _join_lan(self, nursery: trio.Nursery) -> None:
        def found(target: PeerAddrs) -> None:
            self.remember([target], "")
            nursery.start_soon(self._keeper.meet, [target])

        names = LocalNames(self.host.peer, self._w.network, addrs=self.host.bound_addrs, found=found)
        await nursery.start(names.run)

    async def _find(self, kind: str) -> tuple[PeerAddrs, ...]:
        found = await self.presence.find(kind)
        self.remember(found, kind)
        fresh = [target for target in found if target.peer not in self.found]
        for target in fresh:
            self.found.add(target.peer)
            log.info("peer found", peer=peer_text(target.peer), kind=kind)
        return found

    async def _try(self, target: PeerAddrs) -> None:
        try:
            await self.host.connect(target)
            self.book.succeeded(target.peer)
        except Unavailable as exc:
            self.book.failed(target.peer)
            log.debug("not connected", peer=peer_text(target.peer), reason=str(exc))

    async def _look(self) -> None:
        pause = LOOK_FIRST_S
        while self._w.wanted:
            if self.host.connected():
                await self.look_once()
            else:
                pause = LOOK_FIRST_S
            await trio.sleep(pause)
            pause = min(LOOK_LATER_S, 2 * pause)

    async def _note_first(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self.host.subscribe_peers() as changes:
            task_status.started()
            async for change in changes:
                if change.connected:
                    log.info("first connection", peer=peer_text(change.peer))
                    return

    async def _first_connection(self) -> None:
        """Wait for somebody, where somebody is promised: a named bootstrap, or whoever holds the meeting point."""
        if not self._w.targets and (self._w.local is None or self._w.local.ours):
            return
        waited = 0.0
        while not self.host.connected():
            if not self._w.targets and self._w.local is not None and not self._w.local.is_alive():
                return
            await trio.sleep(0.05)
            waited += 0.05
            if waited >= CONNECT_PATIENCE_S:
                waited = 0.0
                log.error("no bootstrap answers yet; still trying", tried=[peer_text(t.peer) for t in self._w.targets])

    async def _keep_local(self, point: MeetingPoint) -> None:
        """Stay connected with whoever holds the meeting point of this machine."""
        try:
            while True:
                holder = None if point.ours else point.holder()
                if holder is not None and holder != self.host.peer and holder not in self.host.connected():
                    target = PeerAddrs(holder, (point.addr,))
                    self.remember([target], "local")
                    await self._try(target)
                await trio.sleep(LOCAL_LOOK_S if self.host.connected() else 0.1)
        finally:
            point.release()


async def open_book(path: Path, wall_time: Callable[[], float]) -> AddressBook:
    """The address book of a data directory."""
    return await AddressBook.load(path / "peers.json", wall_time)
