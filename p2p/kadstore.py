"""What the DHT of py-libp2p keeps for others, on our own shelf, and one stream of it, which ends in time.

The library keeps a record for two days, twenty for a key and no more, whoever wrote them first, and answers on one
stream for ever. Knows no key's meaning.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Any

from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from p2p.addresses import MAX_ADDRS, usable_addrs
from p2p.host import Host
from p2p.netstream import connection_ip, library_id, peer_id
from p2p.peer import PeerId
from p2p.providers import Provided, ProviderShelf

WRITES_EACH = 16  # pieces of answers on one stream: eight answers


class ShelvedStore(ProviderStore):
    """The library's store with our shelf under it. Records of others are filed under the address they came from."""

    def __init__(self, host: Host, peer_routing: Any) -> None:
        super().__init__(host.library, peer_routing)
        self._ours = host
        self.shelf = ProviderShelf(host.peer)

    def put_own(self, key: bytes) -> None:
        """We are here ourselves, also for whoever asks us."""
        addrs = tuple(map(str, self.host.get_addrs()))[:MAX_ADDRS]
        self.shelf.put(key, Provided(self._ours.peer, addrs, None, time.monotonic()))

    def get_claims(self, key: bytes) -> list[tuple[PeerId, tuple[str, ...]]]:
        """What others wrote here."""
        return [(record.provider, record.addrs) for record in self.shelf.get(key, time.monotonic())]

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Keep a record. The library has checked that it is its sender's own."""
        peer = peer_id(provider.peer_id)
        addrs = usable_addrs(str(addr).partition("/p2p/")[0] for addr in provider.addrs[: 2 * MAX_ADDRS])
        self.shelf.put(key, Provided(peer, addrs, self._address_of(peer), time.monotonic()))

    def get_providers(self, key: bytes) -> list[PeerInfo]:
        """What an asker is told."""
        return [PeerInfo(library_id(peer), [Multiaddr(addr) for addr in addrs]) for peer, addrs in self.get_claims(key)]

    def cleanup_expired(self) -> None:
        """Drop what is past its time; the library calls it every ten minutes."""
        self.shelf.expire(time.monotonic())

    async def _republish_provider_records(self) -> None:
        """Nothing: whoever advertises a kind puts its records anew."""

    def _address_of(self, peer: PeerId) -> bytes | None:
        for connection in self.host.get_network().get_connections(library_id(peer)):
            ip = connection_ip(connection.muxed_conn)
            if ip is not None and self._ours.binds(ip):
                return ip_address(ip).packed[:6]
        return None


class Counted:
    """A stream of the library on which so many pieces of answers are written, and then it is at its end."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, WRITES_EACH

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def write(self, data: bytes) -> None:
        if self._left <= 0:
            raise StreamEOF("enough was asked on this stream")
        self._left -= 1
        await self._stream.write(data)

    async def reset(self) -> None:
        """What was answered is heard to its end; a stream that broke is reset."""
        await (self._stream.reset() if self._left else self._stream.close())
