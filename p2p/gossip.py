"""Gossip over GossipSub 1.1: three verdicts, one gate, bounded inboxes.

    gossip = GossipSub(host, "pasar/main/")
    await nursery.start(gossip.run)      # before the host connects: the library's hooks wait for it

What the topic's judge accepts goes to our readers and on to the mesh; what it rejects costs the peer that forwarded it.
``publish`` promises nothing. Knows topics and bytes, not what they mean.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from p2p.admission import MAX_GOSSIP, GossipGate, judged
from p2p.hardening.forgetting import forget_neighbours
from p2p.hardening.gossiping import GuardedRouter, PubsubGuard, score_params
from p2p.host import TIDY, Host
from p2p.inbox import Inboxes
from p2p.netstream import far_end, peer_id
from p2p.peer import PeerId, peer_text
from p2p.scores import Fault
from p2p.transport import Judge, Published, Verdict

if TYPE_CHECKING:
    from trio_typing import TaskStatus

PROTOCOL = TProtocol("/meshsub/1.1.0")
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12
HEARTBEAT = 1
SEEN = 120  # seconds that the library remembers message ids
MAX_RPC = 256 * 1024
MAX_TOPICS_PER_PEER = 64
PUBLISH_TIMEOUT = 10.0

log = structlog.get_logger(__name__)


class _TopicsUnder:
    """All topics that begin with a prefix, as the library asks for a set of allowed ones."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __contains__(self, topic: object) -> bool:
        return isinstance(topic, str) and len(topic) <= 128 and topic.startswith(self._prefix)


class GossipSub:
    """A Gossip on py-libp2p. A message reaches readers and mesh only after gate and judge accepted it."""

    def __init__(self, host: Host, prefix: str) -> None:
        """``prefix`` is what every topic of this network begins with; others are not listened to."""
        self._host = host
        self._judges: dict[str, Judge] = {}
        self._gate = GossipGate()
        self._inboxes: Inboxes[Published] = Inboxes()
        self._router = self._build_router()
        self._topics = _TopicsUnder(prefix)
        self._pubsub: Any = Pubsub(
            host.library,
            self._router,
            seen_ttl=SEEN,
            strict_signing=True,
            max_subscriptions_per_rpc=MAX_TOPICS_PER_PEER,
            max_subscriptions_per_peer=MAX_TOPICS_PER_PEER,
            max_inbound_rpc_size=MAX_RPC,
        )
        self._pubsub.allowed_topics = self._topics
        # Readers are served by the validator, which knows the forwarder; the library's own queues would only fill up.
        self._pubsub.notify_subscriptions = lambda message: None
        PubsubGuard(self._pubsub, host.peer, host.report, host.unwelcome)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the mesh until cancelled."""
        async with background_trio_service(self._pubsub), background_trio_service(self._router):
            await self._pubsub.wait_until_ready()
            task_status.started()
            while True:
                await trio.sleep(TIDY)
                forget_neighbours(self._router, set(self._pubsub.peers))

    async def join(self, topic: str, judge: Judge) -> None:
        """Be part of the topic's mesh; ``judge`` decides about every message. Joining again replaces the judge."""
        if topic not in self._topics:
            raise ValueError(f"{topic} is not a topic of this network")
        self._judges[topic] = judge
        self._pubsub.set_topic_validator(topic, self._validate, False)
        with far_end("join"), trio.fail_after(PUBLISH_TIMEOUT):
            await self._pubsub.subscribe(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand ``data`` to the mesh. Raises Unavailable when not even that succeeds."""
        if not 1 <= len(data) <= MAX_GOSSIP or topic not in self._topics:
            raise ValueError(f"a gossiped message has 1 to {MAX_GOSSIP} bytes and a topic of this network")
        with far_end("publish"), trio.fail_after(PUBLISH_TIMEOUT):
            await self._pubsub.publish(topic, data)

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Published]]:
        """What is accepted on ``topic`` from now on. Call ``join`` for anything to arrive."""
        return self._inboxes.subscribe(topic)

    @property
    def lost(self) -> int:
        """Messages that slow readers here have missed."""
        return self._inboxes.lost

    def mesh(self, topic: str) -> frozenset[PeerId]:
        """Whom messages of ``topic`` are exchanged with."""
        return frozenset(peer_id(far) for far in self._router.mesh.get(topic, ()))

    def _build_router(self) -> Any:
        router = GuardedRouter(
            [PROTOCOL],
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT,
            adaptive_gossip_enabled=False,  # it moves the degrees; ours are the measured ones
            spam_protection_enabled=False,  # the gate counts, without penalties that outlive the cause
            eclipse_protection_enabled=False,  # counts addresses, and every peer on a LAN or a test has the same
        )
        scores = self._host.scores
        router.guard(self._host.report, score_params(lambda far: scores.score(peer_id(far), trio.current_time())))
        return router

    def _validate(self, forwarder: Any, message: Any) -> bool:
        """What the library asks of each message not seen before; it forwards on True."""
        peer = peer_id(forwarder)
        if peer == self._host.peer:
            return True  # our own, on its way out
        if message.from_id == bytes(self._host.peer) or len(message.topicIDs) != 1:
            return False
        topic, now = message.topicIDs[0], trio.current_time()
        if topic not in self._judges or self._host.scores.graylisted(peer, now):
            return False
        verdict = self._gate.admit(peer, topic, message.data, now)
        if verdict is Verdict.ACCEPT:
            verdict = judged(self._judges[topic], peer, message.data)
        if verdict is Verdict.ACCEPT:
            self._inboxes.deliver(topic, Published(peer, message.data))
        elif verdict is Verdict.REJECT:
            self._host.report(peer, Fault.REJECTED)
            log.info("gossip_rejected", peer=peer_text(peer), topic=topic)
        return verdict is Verdict.ACCEPT
