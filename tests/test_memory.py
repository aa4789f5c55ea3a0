"""The network in memory: the same seed gives the same run; loss, partitions and deaths behave like the real ones."""

from __future__ import annotations

import pytest
import trio

from p2p.errors import MalformedMessage, Unavailable
from p2p.memory import MemoryNetwork, running
from p2p.peer import PeerId, peer_of
from p2p.pipe import BUFFER
from p2p.stream import MAX_UNKNOWN, MessageStream
from p2p.transport import PeerAddrs, Verdict
from tests.contracts.gossip import accept
from tests.contracts.network import ECHO, Note, echo, read_all, target, until

TOPIC = "pasar/test/offers"


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


def nodes(count: int, **how: float):
    network = MemoryNetwork(**how)
    return network, [network.node(peer(n)) for n in range(count)]


async def heard_with(seed: int, count: int = 200) -> list[bytes]:
    _, (one, two) = nodes(2, seed=seed, latency=0.05, loss=0.3, reorder=0.2)
    await two.join(TOPIC, accept)
    got = []
    async with running(one, two), two.subscribe(TOPIC) as inbox:
        for number in range(count):
            await one.publish(TOPIC, b"%d" % number)
            await trio.sleep(0.1)
        await trio.sleep(5)
        while inbox.statistics().current_buffer_used:
            got.append((await inbox.receive()).data)
    return got


async def test_gossip_is_lost_and_reordered_and_the_seed_says_how(autojump_clock):
    first = await heard_with(1)
    assert 100 < len(first) < 180
    assert first != sorted(first, key=int)
    assert first == await heard_with(1)
    assert first != await heard_with(2)


async def test_latency_is_what_was_asked_for(autojump_clock):
    _, (one, two) = nodes(2, latency=0.5)
    two.serve(ECHO, echo)
    async with running(one, two):
        await one.connect(target(two))
        stream = await one.open(two.peer, ECHO)
        before = trio.current_time()
        await stream.send(b"ping")
        assert await stream.receive() == b"ping"
        assert trio.current_time() - before == pytest.approx(1.0)


async def test_a_partition_holds_bytes_back_until_it_heals(autojump_clock):
    network, (one, two, three) = nodes(3, latency=0.01)
    two.serve(ECHO, echo)
    for node in (two, three):
        await node.join(TOPIC, accept)
    async with running(one, two, three), two.subscribe(TOPIC) as inbox, three.subscribe(TOPIC) as near:
        await one.connect(target(two))
        stream = await one.open(two.peer, ECHO)
        network.partition([one.peer, three.peer])
        await stream.send(b"late")
        await one.publish(TOPIC, b"unheard")
        with trio.move_on_after(60) as silence:
            await stream.receive()
        assert silence.cancelled_caught
        with pytest.raises(Unavailable):
            await one.open(two.peer, ECHO)
        with pytest.raises(Unavailable):
            await three.connect(target(two))
        await three.connect(target(one))
        assert (await near.receive()).data == b"unheard"
        assert inbox.statistics().current_buffer_used == 0
        network.heal()
        assert await stream.receive() == b"late"


async def test_a_killed_node_breaks_its_streams_and_can_come_back(autojump_clock):
    network, (one, two) = nodes(2, latency=0.01)
    two.serve(ECHO, echo)
    async with running(one, two):
        await one.connect(target(two))
        stream = await one.open(two.peer, ECHO)
        await two.provide(b"key")
        network.kill(two.peer)
        with pytest.raises(Unavailable):
            await stream.receive()
        assert one.connected() == frozenset()
        assert await one.find(b"key") == ()
        with pytest.raises(Unavailable):
            await one.connect(target(two))
        again = network.node(two.peer)
        again.serve(ECHO, echo)
        async with running(again):
            await one.connect(target(again))
            await (await one.open(two.peer, ECHO)).send(b"x")


async def test_a_slow_reader_stops_the_writer_and_loses_nothing(autojump_clock):
    _, (one, two) = nodes(2)
    sent, got = bytes(3 * BUFFER), []

    async def slow(stream):
        await trio.sleep(60)
        got.append(await read_all(stream))

    two.serve("/slow", slow)
    async with running(one, two):
        await one.connect(target(two))
        stream = await one.open(two.peer, "/slow")
        with trio.move_on_after(30) as waiting:
            await stream.send(sent)
        assert waiting.cancelled_caught
        stream = await one.open(two.peer, "/slow")
        await stream.send(sent)
        await stream.finish()
        await until(lambda: got != [], 120)
    assert sent in got


async def test_rejected_gossip_costs_the_forwarder_until_it_is_graylisted(autojump_clock):
    _, (one, two) = nodes(2)
    judged = []

    def judge(_forwarder, data):
        judged.append(data)
        raise MalformedMessage("no offer")

    await two.join(TOPIC, judge)
    async with running(one, two):
        for number in range(20):
            await one.publish(TOPIC, b"%d" % number)
            await trio.sleep(0.1)
    assert 5 < len(judged) < 20
    assert two.scores.graylisted(one.peer, trio.current_time())


async def test_a_slow_subscriber_loses_the_oldest_and_it_is_counted(autojump_clock):
    _, (one, two) = nodes(2)
    two._inboxes.depth = 3
    await two.join(TOPIC, accept)
    async with running(one, two), two.subscribe(TOPIC) as inbox:
        for number in range(5):
            await one.publish(TOPIC, b"%d" % number)
            await trio.sleep(0.1)
        assert [(await inbox.receive()).data for _ in range(3)] == [b"2", b"3", b"4"]
    assert two._inboxes.lost == 2


def test_a_peer_runs_once():
    network, (one,) = nodes(1)
    one.alive = True
    with pytest.raises(ValueError, match="runs already"):
        network.node(peer(0))


async def pair(acceptor):
    _, (one, two) = nodes(2)
    two.serve("/t", acceptor)
    return one, two


async def exchange(acceptor, timeout=5.0):
    one, two = await pair(acceptor)
    async with running(one, two):
        await one.connect(target(two))
        return await MessageStream(await one.open(two.peer, "/t")).receive(timeout)


async def test_an_end_inside_a_frame_is_a_break_and_a_bad_frame_a_fault(autojump_clock):
    async def cut(stream):
        await stream.send(b"\0\0\0\x09abc")

    async def oversized(stream):
        await stream.send(b"\xff\xff\xff\xff")
        await trio.sleep(1)

    async def silent(stream):
        await trio.sleep(60)

    async def nothing(stream):
        await stream.finish()

    with pytest.raises(Unavailable, match="inside a frame"):
        await exchange(cut)
    with pytest.raises(MalformedMessage):
        await exchange(oversized)
    with pytest.raises(Unavailable, match="silent"):
        await exchange(silent)
    assert await exchange(nothing) is None


@pytest.mark.parametrize("unknown", [1, MAX_UNKNOWN])
async def test_messages_of_unknown_kinds_are_skipped_within_reason(unknown, autojump_clock):
    async def send(stream):
        await stream.send(b"\0\0\0\x0a\x92\xa7unheard\x01" * unknown)
        await MessageStream(stream).send(Note(b"known"))
        await trio.sleep(1)

    if unknown < MAX_UNKNOWN:
        assert await exchange(send) == Note(b"known")
    else:
        with pytest.raises(Unavailable):
            await exchange(send)


async def test_a_cancelled_send_leaves_the_stream_unfit_for_more(autojump_clock):
    async def ignore(stream):
        await trio.sleep_forever()

    one, two = await pair(ignore)
    async with running(one, two):
        await one.connect(target(two))
        stream = MessageStream(await one.open(two.peer, "/t"), 2 * BUFFER)
        with trio.move_on_after(1):
            for _ in range(5):
                await stream.send(Note(bytes(1024 * 1024)))
        with pytest.raises(Unavailable, match="cut"):
            await stream.send(Note(b""))


async def test_addresses_matter(autojump_clock):
    _, (one, two) = nodes(2)
    async with running(one, two):
        with pytest.raises(Unavailable):
            await one.connect(PeerAddrs(two.peer, ("/ip4/127.0.0.1/tcp/1",)))
        assert accept(one.peer, b"") is Verdict.ACCEPT
