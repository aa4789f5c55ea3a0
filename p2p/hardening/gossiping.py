"""What one neighbour may make GossipSub do: messages, subscriptions and control entries, each with a budget.

The library checks a signature before it asks any validator, keeps a table entry for every topic that a control message
names, answers an IWANT for one message as often as its id is repeated, and lets the scores that its caller feeds it
count for grafts only. Here each of these ends at its sender. Knows no topic's meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.pubsub import pubsub as library
from libp2p.pubsub.gossipsub import GossipSub as Router
from libp2p.pubsub.score import PeerScorer, ScoreParams

from p2p.admission import RateLimit
from p2p.hardening.pinned import Ground, Patch
from p2p.peer import PeerId
from p2p.scores import GRAYLIST, Fault

RPCS_PER_SECOND, RPCS_BURST = 200.0, 1000.0
MESSAGES_PER_SECOND, MESSAGES_BURST = 50.0, 250.0  # whose signatures are checked; what a topic takes in is the gate's
SUBSCRIPTIONS_PER_SECOND, SUBSCRIPTIONS_BURST = 5.0, 128.0
CONTROLS_PER_SECOND, CONTROLS_BURST = 50.0, 500.0  # IHAVE, IWANT, GRAFT, PRUNE and IDONTWANT entries
IDS_MOST = 512  # message ids in the entries of one RPC

Report = Callable[[PeerId, Fault, str], None]


class FullScore(PeerScorer):
    """The library's score, with the application's part in every gate and no entry for a topic that is merely named."""

    def topic_score(self, peer: ID, topic: str) -> float:
        """Nothing: what a topic's messages are worth is in the application's score."""
        return 0.0

    def allow_publish(self, peer: ID, topics: list[str]) -> bool:
        return bool(topics) and self.score(peer, topics) >= self.params.publish_threshold

    def allow_gossip(self, peer: ID, topics: list[str]) -> bool:
        return bool(topics) and self.score(peer, topics) >= self.params.gossip_threshold


def score_params(of: Callable[[ID], float]) -> ScoreParams:
    """Below a quarter of the graylist no gossip, below half no messages, either way; and nobody names peers to us."""
    return ScoreParams(
        gossip_threshold=GRAYLIST / 4,
        publish_threshold=GRAYLIST / 2,
        graylist_threshold=GRAYLIST,
        accept_px_threshold=math.inf,  # a PRUNE that names peers would have us dial whomever its sender likes
        p5_behavior_penalty_weight=1.0,
        p5_behavior_penalty_threshold=10.0,
        p5_behavior_penalty_decay=0.99,
        p6_appl_slack_weight=1.0,
        app_specific_score_fn=of,
    )


class GuardedRouter(Router):
    """A router that acts on control entries about joined topics alone, within their sender's budget."""

    def guard(self, report: Report, params: ScoreParams) -> None:
        """To be called once, before the router runs."""
        self._report = report
        self._controls = RateLimit(CONTROLS_PER_SECOND, CONTROLS_BURST)
        self.scorer = FullScore(params)

    async def handle_rpc(self, rpc: Any, sender_peer_id: ID) -> None:
        """The library's, for what is left of the control part."""
        sender, control = PeerId(sender_peer_id.to_bytes()), rpc.control
        entries = sum(map(len, (control.ihave, control.iwant, control.graft, control.prune, control.idontwant)))
        if not self._controls.allow(sender, trio.current_time(), max(1, entries)):
            self._report(sender, Fault.FLOOD, "gossip controls")
            return
        for named in (control.ihave, control.graft, control.prune):
            _keep(named, [entry for entry in named if entry.topicID in self.mesh])
        left = IDS_MOST
        for listing in (control.ihave, control.iwant, control.idontwant):
            for entry in listing:
                ids = list(dict.fromkeys(entry.messageIDs))[:left]
                left -= len(ids)
                del entry.messageIDs[:]
                entry.messageIDs.extend(ids)
        await super().handle_rpc(rpc, sender_peer_id)


def _keep(entries: Any, kept: list[Any]) -> None:
    if len(kept) != len(entries):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
        del entries[:]
        entries.extend(copies)


class PubsubGuard:
    """Stands in front of one Pubsub: what is over a budget is dropped before it costs anything, and written down."""

    def __init__(self, pubsub: Any, own: PeerId, report: Report, unwelcome: Callable[[PeerId], bool]) -> None:
        self._own, self._report, self._unwelcome = own, report, unwelcome
        self._rpcs = RateLimit(RPCS_PER_SECOND, RPCS_BURST)
        self._messages = RateLimit(MESSAGES_PER_SECOND, MESSAGES_BURST)
        self._subscriptions = RateLimit(SUBSCRIPTIONS_PER_SECOND, SUBSCRIPTIONS_BURST)
        self._pubsub, self._push, self._subscribe = pubsub, pubsub.push_msg, pubsub.handle_subscription
        pubsub.push_msg = self._push_within
        pubsub.handle_subscription = self._subscribe_within
        setattr(pubsub.host, _GUARD, self)

    def takes(self, sender: ID) -> bool:
        """Whether one more RPC of this peer is looked at."""
        peer = PeerId(sender.to_bytes())
        if self._unwelcome(peer):
            return False
        return self._within(self._rpcs, peer, "gossip rpcs")

    async def _push_within(self, forwarder: ID, message: Any) -> None:
        """Take one message in. Seen ones cost nothing; the signature of any other is paid from its budget."""
        peer = PeerId(forwarder.to_bytes())
        if peer != self._own and not self._pubsub._is_msg_seen(message):
            if not self._messages.allow(peer, trio.current_time()):
                return  # nobody's fault: a neighbour passes on what many others say
            try:
                await self._push(forwarder, message)
            finally:
                if _unsigned.pop(id(message), False):
                    self._report(peer, Fault.BAD_SIGNATURE, "gossip")  # it had to check it before it passed it on
            return
        await self._push(forwarder, message)

    def _subscribe_within(self, origin: ID, entry: Any) -> None:
        if self._within(self._subscriptions, PeerId(origin.to_bytes()), "gossip subscriptions"):
            self._subscribe(origin, entry)

    def _within(self, rate: RateLimit, peer: PeerId, what: str) -> bool:
        allowed = rate.allow(peer, trio.current_time())
        if not allowed:
            self._report(peer, Fault.FLOOD, what)
        return allowed


_unsigned: dict[int, bool] = {}  # messages whose signature was looked at and found wrong, until their task hears of it
_GUARD = "pasar_pubsub_guard"  # the attribute of a host that is asked about each RPC


def _ask_guard() -> None:
    consume, check = library.maybe_consume_signed_record, library.signature_validator

    def consume_within(rpc: Any, host: Any, sender: ID) -> bool:
        guard: PubsubGuard | None = getattr(host, _GUARD, None)
        return (guard is None or guard.takes(sender)) and bool(consume(rpc, host, sender))

    def check_and_tell(message: Any) -> bool:
        good = False
        try:
            good = bool(check(message))
        finally:  # bytes that are no key raise, in as many ways as there are key types
            if not good:
                _unsigned[id(message)] = True
        return good

    library.maybe_consume_signed_record = consume_within
    library.signature_validator = check_and_tell


PATCHES = (
    Patch(
        "gossip-budgets",
        "a neighbour's RPCs, signatures and control entries are all worked off, however many",
        (
            Ground(library.Pubsub, "continuously_read_stream", "ac0c4ad87ca39288"),
            Ground(library.Pubsub, "handle_subscription", "c200deee0f0a965c"),
            Ground(library.Pubsub, "push_msg", "1531483ab4d77674"),
            Ground(Router, "handle_rpc", "bb6f7311e2958a22"),
            Ground(Router, "handle_ihave", "f6e76650441d182b"),
            Ground(Router, "handle_iwant", "cae61a447ac52c39"),
            Ground(Router, "handle_prune", "c61235b1862b7fab"),
            Ground(PeerScorer, "score", "09c23eb3ef88bafe"),
        ),
        _ask_guard,
    ),
)
