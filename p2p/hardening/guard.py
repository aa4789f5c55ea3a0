"""What a stranger's bytes raise stays with the stranger: one bad stream never ends the process.

Knows no protocol. Stock lets an exception of any stream handler, the library's own included, climb through its service
tree and out of the host's ``run``: one malformed negotiation kills the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pubsub import Pubsub

from p2p.hardening.inbound import DOORKEEPER, Door
from p2p.hardening.pinned import Ground, Patch
from p2p.peer import PeerId

log = structlog.get_logger(__name__)

OnFault = Callable[[PeerId, str, Exception], None]
_ON_FAULT = "pasar_on_fault"  # the attribute of a swarm that hears of what was contained
_stock_push = Pubsub.push_msg


def install_guard(host: Any, on_fault: OnFault, doorkeeper: Door | None = None) -> None:
    """Contain every exception of every stream handler of ``host``; call it once, before the host runs.

    ``on_fault(peer, protocol, error)`` hears of each, outside any handler; it returns at once and raises
    nothing. Streams that merely end or break are no fault and are not reported. ``doorkeeper`` is asked before the
    handshake of each inbound connection, when the patch ``inbound-slots`` is in.
    """
    swarm = host.get_network()
    serve = swarm.common_stream_handler

    async def contained(stream: Any) -> None:
        try:
            await serve(stream)
        except Exception as exc:  # whatever a stranger's bytes provoke, in our handlers and in the library's
            if not isinstance(exc, StreamError):
                _report(swarm, stream.muxed_conn.peer_id, str(stream.get_protocol() or ""), exc)
            await stream.reset()  # raises nothing: it marks the stream even when the connection is gone

    setattr(swarm, _ON_FAULT, on_fault)
    setattr(swarm, DOORKEEPER, doorkeeper)
    swarm.set_stream_handler(contained)


def _report(swarm: Any, peer: ID, protocol: str, exc: Exception) -> None:
    on_fault: OnFault | None = getattr(swarm, _ON_FAULT, None)
    if on_fault is None:
        log.info("fault_contained", peer=str(peer), protocol=protocol, error=type(exc).__name__)
    else:
        on_fault(PeerId(peer.to_bytes()), protocol, exc)


async def _push_msg(self: Any, msg_forwarder: ID, msg: Any) -> None:
    """Take in one gossiped message. It runs as a task of its own, where no guard of a stream can reach it."""
    try:
        await _stock_push(self, msg_forwarder, msg)
    except Exception as exc:
        if msg_forwarder == self.my_id:
            raise  # our own message: the caller of publish() hears what is wrong with it
        # a message that makes its own checks raise (a key that is none, say): dropped, like any other that is wrong
        _report(self.host.get_network(), msg_forwarder, "pubsub", exc)


def _contained_gossip() -> None:
    Pubsub.push_msg = _push_msg


PATCHES = (
    Patch(
        "contained-gossip",
        "a gossiped message with a key that is none ends the node",
        (Ground(Pubsub, "push_msg", "1531483ab4d77674"), Ground(SwarmConn, "_handle_muxed_stream", "fb51f8a3e37c9800")),
        _contained_gossip,
    ),
)
