"""What every Network does, whatever it is made of. Each check takes nodes that run and know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import pytest
import trio

from p2p.codec import Size, message
from p2p.errors import Unavailable
from p2p.peer import PeerId, parse_peer
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Network, PeerAddrs, Stream

ECHO = "/pasar/test-echo/1"


@message("test-note", 1)
@dataclass(frozen=True, slots=True)
class Note:
    text: Annotated[bytes, Size(0, 1024 * 1024)]


def target(node: Network) -> PeerAddrs:
    """Where ``node`` says it is."""
    bases = []
    for addr in node.addrs():
        base, _, peer = addr.rpartition("/p2p/")
        assert parse_peer(peer) == node.peer
        bases.append(base)
    return PeerAddrs(node.peer, tuple(bases))


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)
    await stream.finish()


async def read_all(stream: Stream) -> bytes:
    whole = bytearray()
    while data := await stream.receive():
        whole += data
    return bytes(whole)


async def check_one_connection_serves_both_directions(one: Network, two: Network) -> None:
    one.serve(ECHO, echo)
    two.serve(ECHO, echo)
    await one.connect(target(two))
    assert one.connected() == {two.peer}
    await until(lambda: two.connected() == {one.peer})
    for near, far in ((one, two), (two, one)):
        stream = await near.open(far.peer, ECHO)
        assert stream.peer == far.peer
        assert stream.remote.loopback
        await stream.send(b"hello")
        await stream.finish()
        assert await read_all(stream) == b"hello"
        await stream.aclose()


async def check_bytes_arrive_whole_and_in_order(one: Network, two: Network) -> None:
    two.serve(ECHO, echo)
    await one.connect(target(two))
    stream = await one.open(two.peer, ECHO)
    sent = bytes(range(256)) * 8192
    got = bytearray()

    async def write() -> None:
        for start in range(0, len(sent), 300_000):
            await stream.send(sent[start : start + 300_000])
        await stream.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        got += await read_all(stream)
    assert bytes(got) == sent


async def check_messages_from_several_tasks_stay_whole(one: Network, two: Network) -> None:
    two.serve(ECHO, echo)
    await one.connect(target(two))
    stream = MessageStream(await one.open(two.peer, ECHO), JOB_FRAME)
    notes = [Note(bytes([n]) * 200_000) for n in range(8)]
    async with trio.open_nursery() as nursery:
        for note in notes:
            nursery.start_soon(stream.send, note)
        echoed = [await stream.receive(20) for _ in notes]
    assert sorted(echoed, key=lambda n: n.text) == notes
    await stream.finish()
    assert await stream.receive(20) is None


async def check_what_cannot_be_reached_is_unavailable(one: Network, two: Network, stranger: PeerId) -> None:
    with pytest.raises(Unavailable):
        await one.open(two.peer, ECHO)  # not connected
    with pytest.raises(Unavailable):
        await one.connect(PeerAddrs(stranger, target(two).addrs))  # somebody else answers there
    with pytest.raises(Unavailable):
        await one.connect(PeerAddrs(two.peer, ()))
    with pytest.raises(Unavailable):
        await one.connect(PeerAddrs(two.peer, ("no address at all",)))
    await one.connect(target(two))  # failures before are not held against a later dial
    with pytest.raises(Unavailable):
        await one.open(two.peer, "/pasar/nobody-serves-this/1")
    assert one.connected() == {two.peer}


async def check_a_failing_acceptor_ends_its_stream_only(one: Network, two: Network) -> None:
    async def fail(stream: Stream) -> None:
        await stream.receive()
        raise RuntimeError("a bug in a role")

    two.serve("/pasar/test-fail/1", fail)
    two.serve(ECHO, echo)
    await one.connect(target(two))
    healthy = await one.open(two.peer, ECHO)
    doomed = await one.open(two.peer, "/pasar/test-fail/1")
    await doomed.send(b"x")
    await expect_the_end(doomed)
    await healthy.send(b"still here")
    assert await healthy.receive() == b"still here"


async def check_disconnect_breaks_streams_and_is_noticed(one: Network, two: Network) -> None:
    two.serve(ECHO, echo)
    async with two.subscribe_peers() as changes:
        await one.connect(target(two))
        with trio.fail_after(20):
            change = await changes.receive()
        assert (change.peer, change.connected) == (one.peer, True)
        stream = await one.open(two.peer, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await one.disconnect(two.peer)
        with trio.fail_after(20):
            change = await changes.receive()
        assert (change.peer, change.connected) == (one.peer, False)
        await expect_the_end(stream)
        assert one.connected() == two.connected() == frozenset()
        await one.connect(target(two))  # at once, with no wait for a cache to expire
        assert one.connected() == {two.peer}


async def check_the_number_of_streams_is_bounded(one: Network, two: Network, most: int) -> None:
    async def keep(stream: Stream) -> None:
        await read_all(stream)

    two.serve("/pasar/test-keep/1", keep)
    await one.connect(target(two))
    streams = [await one.open(two.peer, "/pasar/test-keep/1") for _ in range(most)]
    with pytest.raises(Unavailable):
        await one.open(two.peer, "/pasar/test-keep/1")
    await streams[0].aclose()
    with trio.fail_after(20):
        while True:
            try:
                await one.open(two.peer, "/pasar/test-keep/1")
                return
            except Unavailable:
                await trio.sleep(0.05)


async def expect_the_end(stream: Stream) -> None:
    """A broken stream ends: by an error, or as if the far end had finished, which is why an end proves nothing."""
    with trio.fail_after(20), suppress(Unavailable):
        assert await read_all(stream) == b""


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition that another task brings about."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - the seam has no event for it
            await trio.sleep(0.01)
