"""On GossipSub: junk, forged and stuffed messages, equivocation, and control entries without end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed

from market.protocol import MESHSUB, offers_topic
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.gossip import GossipSub
from p2p.identity import Identity
from tests.attacker.stand import PIPELINE, Act, Stand, token


def topic(stand: Stand) -> str:
    return offers_topic(stand.network, PIPELINE)


def message(stand: Stand, data: bytes, **changes: Any) -> Any:
    made = rpc_pb2.Message(
        from_id=Identity.fresh(development=True).peer, data=data, seqno=token(8), topicIDs=[topic(stand)]
    )
    made.signature = token(64)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


async def rpcs(stand: Stand, *each: Any, times: int) -> None:
    """RPCs as they are, on a stream of the mesh."""
    async with stand.connected() as (host, target):
        stream = await host.open(target.peer, MESHSUB)
        for number in range(times):
            await stream.send(encode_varint_prefixed(each[number % len(each)].SerializeToString()))
            stand.done["rpcs"] += 1


async def empty_rpcs(stand: Stand) -> None:
    """RPCs that say nothing."""
    await rpcs(stand, rpc_pb2.RPC(), times=20_000)


async def forged_messages(stand: Stand) -> None:
    """Messages whose signature is none, many in an RPC."""
    many = [rpc_pb2.RPC(publish=[message(stand, stand.junk(500)) for _ in range(50)]) for _ in range(20)]
    await rpcs(stand, *many, times=400)


async def subscriptions(stand: Stand) -> None:
    """In and out of topics, of this network and of none."""
    names = [f"pasar/{stand.network}/offers/{token(4).hex()}" for _ in range(500)]
    both = [
        rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=here, topicid=name) for name in names[n::20]])
        for n in range(20)
        for here in (True, False)
    ]
    await rpcs(stand, *both, times=2000)


async def control_flood(stand: Stand) -> None:
    """IHAVE, IWANT, GRAFT, PRUNE and IDONTWANT about topics and messages that are none."""
    ids = [token(20) for _ in range(2000)]
    peers = [rpc_pb2.PeerInfo(peerID=Identity.fresh(development=True).peer) for _ in range(20)]
    entries: list[dict[str, Any]] = []
    for name in (topic(stand), token(50).hex()):
        entries += [
            {"ihave": [rpc_pb2.ControlIHave(topicID=name, messageIDs=ids)]},
            {"iwant": [rpc_pb2.ControlIWant(messageIDs=ids)]},
            {"graft": [rpc_pb2.ControlGraft(topicID=name)] * 100},
            {"prune": [rpc_pb2.ControlPrune(topicID=name, peers=peers, backoff=10**6)] * 100},
            {"idontwant": [rpc_pb2.ControlIDontWant(messageIDs=ids)]},
        ]
    each = [rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**entry)) for entry in entries]
    await rpcs(stand, *each, times=2000)


async def published(stand: Stand, *data: bytes) -> None:
    """Messages as a good neighbour publishes them, signed and all."""
    async with stand.peer() as host, trio.open_nursery() as nursery:
        gossip = GossipSub(host, f"pasar/{stand.network}/")
        await nursery.start(gossip.run)
        await host.connect(stand.target())
        with trio.move_on_after(2):
            while not any(gossip._pubsub.peer_topics.values()):  # noqa: ASYNC110  the library tells nobody
                await trio.sleep(0.05)
        for one in data:
            await gossip.publish(topic(stand), one)
            stand.done["published"] += 1
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()


def stuffed(stand: Stand, who: Identity, **changes: Any) -> Signed:
    """An offer of a seller that nobody needs, like a real one in all but its key."""
    real, _ = stand.chance.choice(stand.offers)
    plain = replace(real, seller=who.peer, payout=who.address, serial=1, issued_at=int(time.time()), refresh_s=10)
    return sign(replace(plain, **changes), who)


async def book_stuffing(stand: Stand) -> None:
    """Offers of sellers that were made for them, at the least price."""
    if stand.offers:
        made = [encode(stuffed(stand, Identity.fresh(development=True), price=1)) for _ in range(100)]
        await published(stand, *made)


async def equivocation(stand: Stand) -> None:
    """Two offers under one serial, signed by one key."""
    if stand.offers:
        both: list[bytes] = []
        for _ in range(10):
            who = Identity.fresh(development=True)
            both += [encode(stuffed(stand, who, price=price)) for price in (1, 2)]
        await published(stand, *both)


async def replays(stand: Stand) -> None:
    """Good offers of others, said again by somebody else; and junk under a good signature."""
    again = [encode(envelope) for _, envelope in stand.offers] * 20
    await published(stand, *again, *[stand.junk(3000) for _ in range(30)], encode(Signed(b"x", bytes(65))))


ACTS: list[Act] = [
    empty_rpcs,
    forged_messages,
    subscriptions,
    control_flood,
    book_stuffing,
    equivocation,
    replays,
]
