"""Floods on a real host: of streams, RPCs, subscriptions, control entries, signatures, DHT questions.

Each ends with its sender shut out or slowed, and an honest neighbour has lost nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from p2p import discovery, kadstore
from p2p.addresses import MAX_ADDR_LENGTH, MAX_ADDRS
from p2p.discovery import MAX_RECORD, STREAMS_EACH, KademliaDiscovery
from p2p.errors import PasarError, Unavailable
from p2p.gossip import GossipSub
from p2p.hardening.gossiping import CONTROLS_BURST, IDS_MOST, MESSAGES_BURST, RPCS_BURST, SUBSCRIPTIONS_BURST
from p2p.hardening.receiving import STREAMS_PER_PEER
from p2p.host import HANDSHAKE_TIMEOUT, OPEN_TIMEOUT, STREAMS_BURST, Host
from p2p.identity import Identity
from p2p.netstream import library_id
from p2p.scores import COST, GRAYLIST, Fault
from p2p.transport import PeerAddrs, Verdict
from tests.contracts.network import ECHO, echo, target, until

pytestmark = pytest.mark.live
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
PREFIX = "pasar/test/"
TOPIC = f"{PREFIX}offers"
MESHSUB, KAD = "/meshsub/1.1.0", "/pasar/kad/1.0.0"


@pytest.fixture(autouse=True)
def _slow_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts as they are; what comes back in a second is little, so that a busy machine floods fast enough."""
    for name in ("host.STREAMS", "hardening.gossiping.RPCS", "hardening.gossiping.CONTROLS", "discovery.QUESTIONS"):
        monkeypatch.setattr(f"p2p.{name}_PER_SECOND", 1.0)


def key(number: int) -> Identity:
    return Identity(sha256(b"flood %d" % number).digest())


@dataclass
class Flood:
    """A node that is flooded, its gossip and DHT, a flooder, and an honest neighbour that is connected as well."""

    node: Host
    gossip: GossipSub
    dht: KademliaDiscovery
    bad: Host
    honest: Host

    async def rpcs(self, *each: Any) -> None:
        """RPCs of the flooder, until it is cut off or they are all said."""
        try:
            stream = await self.bad.open(self.node.peer, MESHSUB)
            for one in each:
                await stream.send(encode_varint_prefixed(one.SerializeToString()))
        except PasarError:
            pass

    async def _comes_back(self) -> bool:
        """Whether the flooder is served again, if it dials anew."""
        try:
            await self.bad.connect(target(self.node))
            stream = await self.bad.open(self.node.peer, ECHO)
            await stream.send(b"me again")
            return bool(await stream.receive())
        except Unavailable:
            return False

    def shut_out(self) -> bool:
        return self.node.unwelcome(self.bad.peer) and self.bad.peer not in self.node.connected()

    async def ends_well(self, fault: Fault = Fault.FLOOD) -> None:
        """The flooder is shut out and stays so; the neighbour is served, and nothing is held against it."""
        await until(self.shut_out)
        assert set(self.node.scores.faults(self.bad.peer)) == {fault}
        assert not await self._comes_back()
        stream = await self.honest.open(self.node.peer, ECHO)
        await stream.send(b"still there?")
        assert await stream.receive() == b"still there?"
        assert self.node.scores.faults(self.honest.peer) == {}
        assert self.node.unwelcome(self.honest.peer) is False


@asynccontextmanager
async def flood() -> AsyncGenerator[Flood]:
    node, bad, honest = (Host(key(number), LOOPBACK) for number in range(3))
    gossip, dht = GossipSub(node, PREFIX), KademliaDiscovery(node)
    node.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        for runs in (node, bad, honest, gossip, dht):
            await nursery.start(runs.run)
        await gossip.join(TOPIC, lambda peer, data: Verdict.ACCEPT)
        for host in (bad, honest):
            await host.connect(target(node))
        with trio.fail_after(100):
            yield Flood(node, gossip, dht, bad, honest)
        nursery.cancel_scope.cancel()


async def test_a_flood_of_streams() -> None:
    async with flood() as on:
        assert STREAMS_BURST < 1000
        for _ in range(1000):
            try:
                stream = await on.bad.open(on.node.peer, ECHO)
                await stream.send(b"x")
                await stream.receive()
                await stream.reset()
            except PasarError:
                if on.shut_out():
                    break
        await on.ends_well()


async def test_a_flood_of_rpcs() -> None:
    async with flood() as on:
        await on.rpcs(*[rpc_pb2.RPC()] * (2 * int(RPCS_BURST)))
        await on.ends_well()


async def test_a_flood_of_subscriptions() -> None:
    async with flood() as on:
        both = [
            rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=here, topicid=f"{PREFIX}{n}") for n in range(40)])
            for here in (True, False)
        ]
        await on.rpcs(*both * int(SUBSCRIPTIONS_BURST))
        await on.ends_well()
        await until(lambda: not on.gossip._pubsub.peer_topics)


def control(**entries: Any) -> Any:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**entries))


async def test_a_flood_of_control_entries() -> None:
    async with flood() as on:
        many = [rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"0"])] * 100
        await on.rpcs(*[control(ihave=many)] * int(CONTROLS_BURST))
        await on.ends_well()


async def test_entries_about_topics_that_are_none_leave_nothing_behind() -> None:
    async with flood() as on:
        router = on.gossip._router
        names = [f"{PREFIX}none {n}" for n in range(300)]
        peers = [rpc_pb2.PeerInfo(peerID=key(7).peer)]
        await on.rpcs(
            control(ihave=[rpc_pb2.ControlIHave(topicID=name, messageIDs=[b"0"]) for name in names[:100]]),
            control(graft=[rpc_pb2.ControlGraft(topicID=name) for name in names[100:200]]),
            control(prune=[rpc_pb2.ControlPrune(topicID=name, peers=peers, backoff=10**6) for name in names[200:]]),
            control(prune=[rpc_pb2.ControlPrune(topicID=TOPIC, peers=peers, backoff=60)]),
        )
        await until(lambda: TOPIC in router.back_off)
        assert set(router.back_off) == {TOPIC}
        assert set(router.graft_flood_tracking[library_id(on.bad.peer)]) == {TOPIC}
        assert not router.ihave_message_limits[library_id(on.bad.peer)]
        assert not any(router.scorer.time_in_mesh.values())
        assert on.node.connected() == {on.bad.peer, on.honest.peer}, "nobody is dialled because a PRUNE names him"


async def test_one_message_is_sent_once_to_whoever_wants_it_a_thousand_times() -> None:
    async with flood() as on:
        asked: list[int] = []
        stock = on.gossip._router.handle_iwant

        async def count(iwant: Any, sender: Any) -> None:
            asked.append(len(iwant.messageIDs))
            await stock(iwant, sender)

        on.gossip._router.handle_iwant = count
        again = rpc_pb2.ControlIWant(messageIDs=[b"0"] * 1000)
        many = rpc_pb2.ControlIWant(messageIDs=[b"%d" % n for n in range(1000)])
        await on.rpcs(control(iwant=[again]), control(iwant=[many]))
        await until(lambda: len(asked) == 2)
        assert asked == [1, IDS_MOST]


def forged(number: int) -> Any:
    return rpc_pb2.Message(
        from_id=key(50).peer, data=b"x", seqno=number.to_bytes(8, "big"), topicIDs=[TOPIC], signature=bytes(64)
    )


async def test_who_passes_on_what_nobody_signed_is_soon_heard_no_more() -> None:
    async with flood() as on:
        await on.rpcs(*[rpc_pb2.RPC(publish=[forged(number)]) for number in range(100)])
        await until(lambda: on.node.scores.score(on.bad.peer, trio.current_time()) < GRAYLIST / 2)
        assert not on.gossip._router.scorer.allow_publish(library_id(on.bad.peer), [TOPIC])
        await trio.sleep(0.2)
        assert on.node.scores.faults(on.bad.peer) == {
            Fault.BAD_SIGNATURE: 1 + int(-GRAYLIST / 2 / COST[Fault.BAD_SIGNATURE])
        }


async def test_signatures_are_looked_at_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COST, Fault.BAD_SIGNATURE, 0.01)
    async with flood() as on:
        many = 3 * int(MESSAGES_BURST)
        await on.rpcs(
            *[rpc_pb2.RPC(publish=[forged(n) for n in range(start, start + 50)]) for start in range(0, many, 50)]
        )
        await until(lambda: on.node.scores.faults(on.bad.peer).get(Fault.BAD_SIGNATURE, 0) >= MESSAGES_BURST)
        await trio.sleep(0.2)
        assert on.node.scores.faults(on.bad.peer)[Fault.BAD_SIGNATURE] < 2 * MESSAGES_BURST


async def test_our_score_of_a_peer_is_what_gossip_goes_by() -> None:
    """Stock asks the application's score before a GRAFT, and at no other gate."""
    async with flood() as on:
        scorer, far = on.gossip._router.scorer, library_id(on.bad.peer)

        def gates() -> tuple[bool, bool, bool]:
            return (
                scorer.allow_gossip(far, [TOPIC]),
                scorer.allow_publish(far, [TOPIC]),
                scorer.is_graylisted(far, [TOPIC]),
            )

        assert gates() == (True, True, False)
        assert not scorer.allow_px_from(far, [TOPIC])
        on.node.report(on.bad.peer, Fault.BAD_SIGNATURE)
        assert gates() == (False, True, False)
        on.node.report(on.bad.peer, Fault.MALFORMED)
        assert gates() == (False, False, False)
        on.node.report(on.bad.peer, Fault.UNCLAIMED)
        on.node.report(on.bad.peer, Fault.REFUSED_FIRM)
        on.node.report(on.bad.peer, Fault.BAD_SIGNATURE)
        assert gates() == (False, False, True)
        await until(on.shut_out)


# -- the DHT ---------------------------------------------------------------------------------------------------------


async def _ask(host: Host, node: Host, message: Message, times: int = 1) -> bytes:
    stream = await host.open(node.peer, KAD)
    await stream.send(encode_varint_prefixed(message.SerializeToString()) * times)
    heard = b""
    try:
        with trio.move_on_after(5):
            while data := await stream.receive():
                heard += data
                if times == 1:
                    break
    except Unavailable:
        pass
    await stream.reset()
    return heard


FIND = Message(type=Message.MessageType.FIND_NODE, key=b"k" * 32)
PING = Message(type=Message.MessageType.PING)


async def test_streams_that_ask_the_dht_nothing_hold_their_places_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "STREAM_LIFE", 1.0)
    async with flood() as on:
        silent = [await on.bad.open(on.node.peer, KAD) for _ in range(3 * STREAMS_EACH)]
        for stream in silent:
            await stream.send(b"")
        await until(lambda: on.dht._asking[on.bad.peer] > 0)
        assert on.dht._asking[on.bad.peer] <= STREAMS_EACH
        assert await _ask(on.honest, on.node, FIND), "others are answered meanwhile"
        await until(lambda: not on.dht._asking)
        assert on.node.scores.faults(on.bad.peer) == {}


async def test_a_stream_of_the_dht_ends_after_so_many_answers() -> None:
    async with flood() as on:
        heard = await _ask(on.bad, on.node, PING, times=1000)
        one = encode_varint_prefixed(PING.SerializeToString())
        assert len(heard) == len(one) * kadstore.WRITES_EACH // 2


async def test_a_flood_of_streams_to_the_dht(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.host.STREAMS_BURST", 10_000)
    async with flood() as on:
        question = encode_varint_prefixed(FIND.SerializeToString())
        for _ in range(400):
            try:
                stream = await on.bad.open(on.node.peer, KAD)
                await stream.send(question)
                await stream.receive()
                await stream.reset()
            except PasarError:
                if on.shut_out():
                    break
        await on.ends_well()


async def test_a_provider_record_is_small_whatever_was_sent() -> None:
    async with flood() as on:
        record = Message(type=Message.MessageType.ADD_PROVIDER, key=b"k" * 32)
        long = [Multiaddr(f"/dns4/{'x' * 60}.{n}/tcp/{n + 1}").to_bytes() for n in range(200)]
        record.providerPeers.add(id=on.bad.peer, addrs=long)
        await _ask(on.bad, on.node, record)
        await until(lambda: b"k" * 32 in on.dht._store.shelf)
        (claim,) = on.dht._store.get_claims(b"k" * 32)
        assert claim[0] == on.bad.peer
        assert len(claim[1]) == MAX_ADDRS
        assert sum(map(len, claim[1])) <= MAX_RECORD == MAX_ADDRS * MAX_ADDR_LENGTH


# -- waiting ---------------------------------------------------------------------------------------------------------


async def test_a_stream_that_never_opens_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    host = Host(key(1), LOOPBACK)
    far = key(2).peer

    async def never(*_: object) -> None:
        await trio.sleep_forever()

    host.connected = lambda: frozenset({far})  # type: ignore[method-assign]
    host.library.new_stream = never
    with pytest.raises(Unavailable):
        await host.open(far, ECHO)
    assert trio.current_time() == pytest.approx(OPEN_TIMEOUT)
    assert host._outbound == {}


def test_a_handshake_has_its_time() -> None:
    """The library keeps it; tests/test_door_namespaces.py waits for it."""
    assert Host(key(1), LOOPBACK)._swarm.connection_config.inbound_upgrade_timeout == HANDSHAKE_TIMEOUT


async def test_a_peer_that_is_shut_out_is_not_dialled_either() -> None:
    host = Host(key(1), LOOPBACK)
    host.report(key(2).peer, Fault.EQUIVOCATED)
    with pytest.raises(Unavailable, match="shut out"):
        await host.connect(PeerAddrs(key(2).peer, ("/ip4/127.0.0.1/tcp/9",)))
    host.report(host.peer, Fault.EQUIVOCATED)
    assert not host.unwelcome(host.peer), "never ourselves"
    assert STREAMS_PER_PEER < 1024
