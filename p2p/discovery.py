"""The DHT: who provides a key, on py-libp2p's Kademlia under our own protocol id.

    discovery = KademliaDiscovery(host)
    await nursery.start(discovery.run)

It stores provider records only, no values. Answers take seconds and are claims: a peer found here is believed when it
has been dialled under its id. Never on a job's path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from libp2p.kad_dht import common, kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator
from libp2p.tools.anyio_service import background_trio_service

from p2p.addresses import MAX_ADDRS, bare_addrs
from p2p.errors import MalformedMessage, Unavailable
from p2p.host import Host
from p2p.netstream import far_end, peer_id
from p2p.peer import PeerId, public_key_of
from p2p.transport import PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

PREFIX = "/pasar"
PROTOCOL = f"{PREFIX}/kad/1.0.0"
MAX_MESSAGE = 256 * 1024
MAX_RECORD = 1024
MAX_KEYS = 8192
PROVIDE_TIMEOUT = 30.0
FIND_TIMEOUT = 30.0


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
    """A Discovery on Kademlia. It keeps at most ``MAX_KEYS`` keys for others, each with a bounded set of providers."""

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
        self._keep = self._dht.provider_store.add_provider
        self._dht.provider_store.add_provider = self._add_provider

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and keep the routing table fresh until cancelled."""
        async with background_trio_service(self._dht):
            task_status.started()
            await trio.sleep_forever()

    async def provide(self, key: bytes) -> None:
        """Tell the peers closest to ``key`` that we are here. Raises Unavailable when none took it."""
        with far_end("provide"), trio.fail_after(PROVIDE_TIMEOUT):
            taken = await self._dht.provider_store.provide(key)
        if not taken:
            raise Unavailable("no peer took the record")

    async def find(self, key: bytes, most: int = 20) -> tuple[PeerAddrs, ...]:
        """Peers that say they provide ``key``, ourselves not among them, each with the addresses we could dial."""
        # The store answers from what it has heard first, and for two days; an empty one has to ask the network.
        asking = ProviderStore(self._host.library, self._dht.peer_routing)
        claims: list[Any] = []
        with trio.move_on_after(FIND_TIMEOUT), far_end("find"):
            claims += await asking.find_providers(key, 20 * most)
        claims += self._dht.provider_store.get_providers(key)
        found: dict[PeerId, PeerAddrs] = {}
        for claim in claims:
            peer = peer_id(claim.peer_id)
            if peer == self._host.peer or peer in found or not _is_ours(peer):
                continue
            target = bare_addrs(peer, map(str, claim.addrs[: 2 * MAX_ADDRS]))
            if target.addrs:
                found[peer] = target
        return tuple(found.values())[:most]

    def routing_table_size(self) -> int:
        size: int = self._dht.get_routing_table_size()
        return size

    def _add_provider(self, key: bytes, provider: Any) -> None:
        """Keep a record that somebody else's peer sent, bounded in keys and addresses."""
        store = self._dht.provider_store
        if key not in store.providers and len(store.providers) >= MAX_KEYS:
            store.cleanup_expired()
            if len(store.providers) >= MAX_KEYS:
                return
        self._keep(key, PeerInfo(provider.peer_id, provider.addrs[:MAX_ADDRS]))


def _is_ours(peer: PeerId) -> bool:
    """Whether the id is of the one key type that can be paid."""
    try:
        public_key_of(peer)
    except MalformedMessage:
        return False
    return True
