"""Dialling: no fixed wait in front of a successful dial, and a short memory for failed ones.

Knows nothing of who is worth dialling; that is the caller's.
"""

from __future__ import annotations

from typing import Any

from libp2p.network import swarm as swarm_module
from libp2p.peer.id import ID

from p2p.hardening.pinned import Ground, Patch
from p2p.peer import PeerId

FAILED_DIAL_MEMORY = 5.0  # seconds for which the library refuses to dial a peer again; 60 in stock
_Cache = swarm_module._NegativePeerCache
_remember = _Cache.__init__


def evict_dial_cache(host: Any, peer: PeerId | ID) -> None:
    """Forget that dialling ``peer`` failed. To be called before every dial that somebody asked for."""
    host.get_network().unblock_peer(peer if isinstance(peer, ID) else ID(peer))


def _fast_dial() -> None:
    # Stock waits this long for the first address to *fail* and is not woken when it succeeds, so that every good dial
    # takes 250 ms. With no head start the addresses (at most one of each transport) are dialled together.
    swarm_module._HAPPY_EYEBALLS_DELAY = 0.0


def _init_with_short_memory(self: Any, ttl: float = FAILED_DIAL_MEMORY, max_size: int = 10_000) -> None:
    _remember(self, ttl, max_size)


def _short_dial_memory() -> None:
    _Cache.__init__ = _init_with_short_memory


PATCHES = (
    Patch(
        "fast-dial",
        "every successful dial takes 250 ms",
        (Ground(swarm_module.Swarm, "dial_peer", "da3b538ccaeaeaa6"),),
        _fast_dial,
    ),
    Patch(
        "dial-memory",
        "a peer that restarted cannot be dialled for 60 s",
        (Ground(_Cache, "__init__", "8b2b3c5b633ad86d"), Ground(_Cache, "is_blocked", "226b03d08a6b3014")),
        _short_dial_memory,
    ),
)
