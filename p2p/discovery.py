"""The DHT: who provides a key, on py-libp2p's Kademlia under our own protocol id.

    discovery = KademliaDiscovery(host)
    await nursery.start(discovery.run)

It stores provider records only, no values. Answers take seconds and are claims: a peer found here is believed when it
has been dialled under its id. Looked up along paths that share nobody, begun where we dialled ourselves. Never on a
job's path.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht import common, kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.rcmgr import Direction
from libp2p.records.validator import NamespacedValidator
from libp2p.tools.anyio_service import background_trio_service

from p2p.addresses import MAX_ADDRS, bare_addrs
from p2p.admission import RateLimit
from p2p.errors import MalformedMessage, Unavailable
from p2p.host import Host
from p2p.kadstore import Counted, ShelvedStore
from p2p.lookup import Lookup, in_turn
from p2p.netstream import far_end, library_id, peer_id
from p2p.peer import PeerId, public_key_of
from p2p.providers import distance
from p2p.scores import Fault
from p2p.transport import PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

PREFIX = "/pasar"
PROTOCOL = f"{PREFIX}/kad/1.0.0"
MAX_MESSAGE = 256 * 1024
MAX_RECORD = 1024
PROVIDE_TIMEOUT = 30.0
FIND_TIMEOUT = 30.0
QUESTION_TIMEOUT = 10.0
SEEDS = 20
AT_ONCE = 2  # peers that one path waits for
STREAM_LIFE = 10.0  # of a stream that asks us; a question and its answer take milliseconds
STREAMS = 64  # that ask us at a time
STREAMS_EACH = 4
QUESTIONS_PER_SECOND, QUESTIONS_BURST = 10.0, 100.0  # streams of one peer


def _speak_our_protocol() -> None:
    """The library takes a prefix and then speaks /ipfs/kad/1.0.0 all the same; its id and caps are module constants."""
    for module in (common, kad_dht, peer_routing, provider_store, value_store):
        for name, value in (
            ("PROTOCOL_ID", PROTOCOL),
            ("MAX_DHT_MESSAGE_SIZE", MAX_MESSAGE),
            ("MAX_RECORD_SIZE", MAX_RECORD),
        ):
            if hasattr(module, name):
                setattr(module, name, value)


class KademliaDiscovery:
    """A Discovery on Kademlia. What it keeps for others, and does for each of them, is bounded."""

    def __init__(self, host: Host, *, server: bool = True) -> None:
        """``server`` keeps records for others; a light client only asks."""
        _speak_our_protocol()
        self._host = host
        self._dht: Any = KadDHT(
            host.library,
            DHTMode.SERVER if server else DHTMode.CLIENT,
            validator=NamespacedValidator({}, strict_validation=True),
            validator_changed=True,
            protocol_prefix=PREFIX,
            strict_validation=True,
        )
        self._store = self._dht.provider_store = ShelvedStore(host, self._dht.peer_routing)
        self._dht._inbound_limiter.total_tokens = STREAMS
        self._asking: Counter[PeerId] = Counter()
        self._rate = RateLimit(QUESTIONS_PER_SECOND, QUESTIONS_BURST)
        if server:
            host.library.set_stream_handler(TProtocol(PROTOCOL), self._answer)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and keep the routing table fresh until cancelled."""
        async with background_trio_service(self._dht):
            task_status.started()
            await trio.sleep_forever()

    async def provide(self, key: bytes) -> None:
        """Tell the peers closest to ``key`` that we are here. Raises Unavailable when none took it."""
        taken = 0
        self._store.put_own(key)
        with far_end("provide"), trio.move_on_after(PROVIDE_TIMEOUT):
            lookup, _ = await self._look_up(key, providers=False)
            places = trio.CapacityLimiter(SEEDS)

            async def tell(peer: Any) -> None:
                nonlocal taken
                async with places:
                    with trio.move_on_after(QUESTION_TIMEOUT):
                        taken += bool(await self._store._send_add_provider(peer, key))

            async with trio.open_nursery() as nursery:
                for peer in lookup.nearest():
                    nursery.start_soon(tell, peer)
        if not taken:
            raise Unavailable("no peer took the record")

    async def find(self, key: bytes, most: int = 20) -> tuple[PeerAddrs, ...]:
        """Peers that say they provide ``key``, ourselves not among them, each with the addresses we could dial."""
        found: list[list[Any]] = []
        with far_end("find"):
            _, found = await self._look_up(key, providers=True)
        named: dict[PeerId, PeerAddrs] = {}
        per_path = [list(dict.fromkeys(path)) for path in (*found, self._store.get_claims(key))]
        for peer, addrs in in_turn(per_path, 20 * most):
            if peer == self._host.peer or peer in named or not _is_ours(peer):
                continue
            target = bare_addrs(peer, addrs)
            if target.addrs:
                named[peer] = target
        return tuple(named.values())[:most]

    def routing_table_size(self) -> int:
        size: int = self._dht.get_routing_table_size()
        return size

    async def _look_up(self, key: bytes, *, providers: bool) -> tuple[Lookup[Any], list[list[Any]]]:
        """Walk every path to its end, or to the end of the time; what providers each of them heard of."""
        own = library_id(self._host.peer)
        lookup = Lookup(self._seeds(key), lambda peer: distance(peer.to_bytes(), key), own)
        found: list[list[Any]] = [[] for _ in lookup.paths]

        async def walk(path: int) -> None:
            while (peer := lookup.next(path)) is not None:
                with trio.move_on_after(QUESTION_TIMEOUT):
                    if providers:
                        claims, _ = await self._store._get_providers_from_peer_with_closers(peer, key)
                        found[path] += [claim_of(claim) for claim in claims]
                    nearer = await self._dht.peer_routing._query_peer_for_closest(peer, key)
                    lookup.heard(path, peer, nearer)

        with trio.move_on_after(FIND_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for path in lookup.paths:
                    for _ in range(AT_ONCE):
                        nursery.start_soon(walk, path)
        return lookup, found

    def _seeds(self, key: bytes) -> list[list[Any]]:
        """Where paths begin: whom we dialled ourselves, then whom the routing table knows, then who is connected."""
        swarm = self._host.library.get_network()
        dialled = [
            far
            for far, connections in swarm.connections.items()
            if any(connection.direction == Direction.OUTBOUND for connection in connections)
        ]
        table = self._dht.routing_table.find_local_closest_peers(key, SEEDS)
        return [
            [far for far in dialled if self._speaks(far)][:SEEDS],
            list(table),
            [far for far in swarm.connections if self._speaks(far)][:SEEDS],
        ]

    def _speaks(self, far: Any) -> bool:
        """Whether a connected peer has said that it serves the DHT. One that has said nothing yet may."""
        try:
            said = self._host.library.get_peerstore().get_protocols(far)
        except Exception:  # nothing is known of it, which the library says in more than one way
            return True
        return not said or PROTOCOL in said

    async def _answer(self, stream: Any) -> None:
        """Serve one stream of a peer that asks, within its number and its time."""
        peer = peer_id(stream.muxed_conn.peer_id)
        if not self._rate.allow(peer, trio.current_time()):
            self._host.report(peer, Fault.FLOOD, "dht streams")
            await stream.reset()
            return
        if self._asking[peer] >= STREAMS_EACH:  # nobody's fault: its earlier ones may be waiting for us
            await stream.reset()
            return
        self._asking[peer] += 1
        try:
            with trio.move_on_after(STREAM_LIFE) as life:
                await self._dht.handle_stream(Counted(stream))
            if life.cancelled_caught:
                await stream.reset()
        finally:
            self._asking[peer] -= 1
            if not self._asking[peer]:
                del self._asking[peer]


def claim_of(claim: Any) -> tuple[PeerId, tuple[str, ...]]:
    """What an answer says of one provider, as far as anybody reads it."""
    return peer_id(claim.peer_id), tuple(str(addr) for addr in claim.addrs[: 2 * MAX_ADDRS])


def _is_ours(peer: PeerId) -> bool:
    """Whether the id is of the one key type that can be paid."""
    try:
        public_key_of(peer)
    except MalformedMessage:
        return False
    return True
