"""What every Gossip does. Each check takes nodes that are connected and run."""

from __future__ import annotations

import trio

from p2p.errors import MalformedMessage, UnknownMessage
from p2p.peer import PeerId
from p2p.transport import Gossip, Published, Verdict

TOPIC = "pasar/test/offers/text-to-image"


def accept(_forwarder: PeerId, _data: bytes) -> Verdict:
    return Verdict.ACCEPT


async def heard_by(sender: Gossip, inbox: trio.MemoryReceiveChannel[Published], prefix: bytes) -> Published:
    """Publish until it is heard: gossip promises nothing, and a mesh takes a moment to form."""
    for attempt in range(60):
        await sender.publish(TOPIC, prefix + str(attempt).encode())
        with trio.move_on_after(0.5):
            return await inbox.receive()
    raise AssertionError("nothing was heard")


async def drain(inbox: trio.MemoryReceiveChannel[Published], seconds: float) -> list[bytes]:
    got = []
    with trio.move_on_after(seconds):
        while True:
            got.append((await inbox.receive()).data)
    return got


async def check_accepted_messages_reach_every_reader(one: Gossip, two: Gossip) -> None:
    await one.join(TOPIC, accept)
    await two.join(TOPIC, accept)
    async with two.subscribe(TOPIC) as first, two.subscribe(TOPIC) as second, two.subscribe("pasar/other") as other:
        heard = await heard_by(one, first, b"offer ")
        assert heard.data.startswith(b"offer ")
        assert (await second.receive()).data == heard.data
        assert other.statistics().current_buffer_used == 0


async def check_a_node_does_not_hear_itself_nor_a_repeat(one: Gossip, two: Gossip) -> None:
    await one.join(TOPIC, accept)
    await two.join(TOPIC, accept)
    async with one.subscribe(TOPIC) as own, two.subscribe(TOPIC) as inbox:
        await heard_by(one, inbox, b"warm ")
        await drain(inbox, 1.0)
        for _ in range(3):
            await one.publish(TOPIC, b"the same offer")
        assert (await drain(inbox, 2.0)).count(b"the same offer") == 1
        assert await drain(own, 0.2) == []


async def check_what_the_judge_does_not_accept_is_dropped(one: Gossip, two: Gossip) -> None:
    def judge(_forwarder: PeerId, data: bytes) -> Verdict:
        if data.startswith(b"unknown"):
            raise UnknownMessage("offer", 9)
        if data.startswith(b"broken"):
            raise MalformedMessage("no offer")
        return Verdict.IGNORE if data.startswith(b"late") else Verdict.ACCEPT

    await one.join(TOPIC, accept)
    await two.join(TOPIC, judge)
    async with two.subscribe(TOPIC) as inbox:
        await heard_by(one, inbox, b"warm ")
        await drain(inbox, 1.0)
        for data in (b"unknown", b"late", b"broken", b"good"):
            await one.publish(TOPIC, data)
        assert await drain(inbox, 2.0) == [b"good"]
