"""What the library remembers of peers that are gone: dropped, a while after they left.

It keeps an entry for each peer it ever identified, dialled, lost or pruned. A key costs nothing, so that a stranger who
comes under ten thousand of them has ten thousand entries in each table. Knows no reason to remember anybody.
"""

from __future__ import annotations

import time
from typing import Any

KEPT = 256  # entries of a table that need no sweep
_HOST = ("_identified_peers",)
_SWARM = ("_round_robin_index", "health_data")
_CONNECTOR = ("_last_connect_attempt", "_failure_counts", "_recent_disconnects")
_ROUTER = (
    *("iwant_request_limits", "ihave_message_limits", "graft_flood_tracking"),
    *("_pending_messages", "_pending_control", "dont_send_message_ids"),
)


def forget_strangers(host: Any) -> int:
    """Drop what is known of peers that ``host`` is not connected with; how many entries that were."""
    swarm = host.get_network()
    here = {peer for peer, connections in swarm.connections.items() if connections}
    connector = swarm.auto_connector
    return sum(
        _sweep(getattr(owner, name, None), here)
        for owner, names in ((host, _HOST), (swarm, _SWARM), (connector, _CONNECTOR))
        for name in names
    )


def forget_neighbours(router: Any, connected: set[Any]) -> int:
    """The same for a gossip router, the back-offs whose time is over, and what is kept of messages that have passed.

    When each was sent serves the library's adaptive degrees, which also clear it; ours are fixed, and nobody would. Of
    a thousand messages it keeps all, each with the RPC that it came in, to see two under one number at any distance.
    """
    for moments in router.recent_message_deliveries.values():
        moments.clear()
    router.equivocation_detection.clear()
    dropped = sum(_sweep(getattr(router, name, None), connected) for name in _ROUTER)
    now = time.time()
    for until in router.back_off.values():
        for peer in [peer for peer, at in until.items() if at <= now]:
            del until[peer]
            dropped += 1
    return dropped


def _sweep(table: Any, here: set[Any]) -> int:
    if not isinstance(table, dict) or len(table) <= KEPT:
        return 0
    gone = [peer for peer in table if peer not in here]
    for peer in gone:
        del table[peer]
    return len(gone)
