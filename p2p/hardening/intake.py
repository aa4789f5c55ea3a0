"""GossipSub, receiving: a message that was seen costs a look, and one that was not is taken in where it was read.

Stock starts a service task for every copy of every message, six in a mesh, and to start one it searches through all
tasks that are under way: when messages come faster than they are worked off, each costs more than the one before. Taken
in by the reader of its stream, a message holds up only the neighbour that sent it. Knows no topic.
"""

from __future__ import annotations

from typing import Any

import structlog
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.exceptions import RawConnError
from libp2p.pubsub import pubsub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service.trio_manager import TrioManager

from p2p.hardening.pinned import Ground, Patch

log = structlog.get_logger(__name__)


async def _read_stream(self: Any, stream: Any) -> None:
    """Take in what a neighbour sends until its stream ends."""
    peer = stream.muxed_conn.peer_id
    try:
        while self.manager.is_running:
            data = await pubsub.read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size)
            rpc = rpc_pb2.RPC.FromString(data)
            if pubsub.maybe_consume_signed_record(rpc, self.host, peer):
                await _take(self, peer, rpc)
    except MessageTooLarge:
        log.debug("rpc_too_large", peer=str(peer))
        await stream.reset()
        self._handle_dead_peer(peer)
    except (IOException, RawConnError) as exc:  # among them the end of the stream
        log.debug("gossip_stream_ended", peer=str(peer), error=type(exc).__name__)


async def _take(self: Any, peer: Any, rpc: Any) -> None:
    for message in rpc.publish:
        if self._is_subscribed_to_msg(message) and not self._is_msg_seen(message):
            await self.push_msg(peer, message)
    if len(rpc.subscriptions) <= self.max_subscriptions_per_rpc:
        for subscription in rpc.subscriptions:
            self.handle_subscription(peer, subscription)
    if rpc.HasField("control"):
        await self.router.handle_rpc(rpc, peer)


def _inline_gossip() -> None:
    Pubsub.continuously_read_stream = _read_stream


PATCHES = (
    Patch(
        "inline-gossip",
        "a service task for every copy of every gossiped message, and a search through all tasks to start it",
        (
            Ground(Pubsub, "continuously_read_stream", "ac0c4ad87ca39288"),
            Ground(Pubsub, "stream_handler", "4be06aba2f448b7b"),
            Ground(Pubsub, "push_msg", "1531483ab4d77674"),
            Ground(Pubsub, "validate_msg", "9bc61633d2338dc5"),
            Ground(TrioManager, "_find_parent_task", "8aaad50f6da7590d"),
        ),
        _inline_gossip,
        speed=True,
    ),
)
