"""The line between node and worker: messages in order, bounded, and a typed end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from compute.capability import Dtype
from compute.link import Link, LinkBroken
from compute.messages import Attach, Channel, LeafOpened, Ping
from compute.trace import MAX_LEAF, TraceLeaf
from p2p.codec import encode
from p2p.errors import MalformedMessage
from p2p.framing import frame


async def test_messages_arrive_in_order_however_they_are_cut() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    link = Link(theirs)
    sent = [Attach(Channel.WORK), *(Ping(n) for n in range(5))]
    data = b"".join(frame(encode(message)) for message in sent)

    async def trickle() -> None:
        for at in range(0, len(data), 3):
            await ours.send_all(data[at : at + 3])
        await ours.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert [message async for message in link.messages()] == sent


async def test_what_is_said_goes_out_behind_the_speaker() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    speaker, listener = Link(ours), Link(theirs)
    leaf = LeafOpened(bytes(16), TraceLeaf(1, 2, Dtype.FP32, bytes(MAX_LEAF), ()))
    async with trio.open_nursery() as nursery:
        speaker.say(Ping(1))
        speaker.say(leaf)
        nursery.start_soon(speaker.run)
        assert await listener.receive() == Ping(1)
        assert await listener.receive() == leaf
        nursery.cancel_scope.cancel()


async def test_a_lost_connection_is_a_typed_end() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    link = Link(theirs)
    await ours.aclose()
    with pytest.raises(LinkBroken):
        await link.receive()
    link.say(Ping(1))
    with pytest.raises(LinkBroken):
        await link.run()
    await link.aclose()
    with pytest.raises(LinkBroken):
        link.say(Ping(1))


async def test_a_reader_that_sleeps_breaks_the_link_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compute.link.MAX_UNSENT", 3)
    ours, _ = trio.testing.memory_stream_pair()
    link = Link(ours)
    for number in range(3):
        link.say(Ping(number))
    with pytest.raises(LinkBroken):
        link.say(Ping(3))


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", frame(b"nonsense"), frame(encode(Ping(1)) + b"\0")])
async def test_nonsense_is_refused_before_it_is_held(data: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(data)
    with pytest.raises(MalformedMessage):
        await Link(theirs).receive()


async def test_a_message_of_another_version_is_passed_over() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    known = encode(Ping(1))
    unknown = known.replace(b"worker-ping", b"worker-pint")
    await ours.send_all(frame(unknown) + frame(known))
    assert await Link(theirs).receive() == Ping(1)
