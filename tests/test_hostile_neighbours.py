"""Peers at the door: hellos that are none, books that drip or never end or are asked for without end, stray quotes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.lowlevel

from market import bookfeed
from market.bookfeed import BookFeed
from market.bookserver import PAGES_BURST
from market.bookwire import PAGE, BookAsk, BookPage
from market.controls import MAX_STRAYS, ControlLines
from market.handover import MAX_HANDED_OVER
from market.hello import HELLO_TIMEOUT_S, Greeter, Hello
from market.protocol import BOOK_1, CONTROL
from market.quote import (
    RFQ,
)
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.errors import MalformedMessage, PasarError, Refused, Unavailable
from p2p.memory import MemoryNetwork, running
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.support.hostile import HostileGateway, HostileSeller, hung_up, stream_to
from tests.support.market_values import NETWORK, PIPELINE, SETTLEMENT, Key, shape, signed_offer, stranger
from tests.support.marketplace import marketplace

LIAR = 9


def odd(*parts: Any) -> bytes:
    data: bytes = msgpack.packb(list(parts))
    return data


# -- control lines and books -----------------------------------------------------------------------------------------


async def test_quotes_that_nobody_asked_for_end_the_line() -> None:
    network = MemoryNetwork()
    key = Key(LIAR)
    here, there = network.node(stranger(1)), network.node(key)
    greeter = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: 0.0)
    liar = HostileSeller(None, key, there, None)  # type: ignore[arg-type]
    sent = 0

    async def serve(raw: Stream) -> None:
        nonlocal sent
        stream = MessageStream(raw)
        await greeter.greet(stream)
        asked = await stream.receive()
        answer = sign(liar.quote(asked, stream.peer), key)
        unasked = Signed(liar_quote_bytes(liar, stream), bytes(65))
        await stream.send(answer)
        while True:
            await stream.send(unasked)
            sent += 1

    async def reach(peer: object) -> None:
        await here.connect(PeerAddrs(key.peer, (there._addr,)))

    async with running(here, there), trio.open_nursery() as nursery:
        there.serve(CONTROL, serve)
        lines = ControlLines(here, greeter, reach)
        await nursery.start(lines.run)
        rfq = RFQ(b"n" * 16, NETWORK, SETTLEMENT, shape(), 1000)
        assert (await lines.ask(key.peer, rfq)).quote.seller == key.peer  # type: ignore[union-attr]
        with trio.fail_after(5):
            while key.peer in lines._lines:
                await trio.lowlevel.checkpoint()
        assert sent > MAX_STRAYS
        nursery.cancel_scope.cancel()


def liar_quote_bytes(liar: HostileSeller, stream: MessageStream) -> bytes:
    return encode(liar.quote(RFQ(b"?" * 16, NETWORK, SETTLEMENT, shape(), 1000), stream.peer))


def neighbour(serve: Any) -> tuple[Any, Any, BookFeed]:
    network = MemoryNetwork()
    here, there = network.node(stranger(1)), network.node(stranger(2))
    greeter = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: 1_800_000_000.0)
    feed = BookFeed(here, here, greeter, (PIPELINE,), lambda: 1_800_000_000.0)

    async def accept(raw: Stream) -> None:
        stream = MessageStream(raw)
        await greeter.greet(stream)
        while isinstance(ask := await stream.receive(), BookAsk):
            await serve(stream, ask)

    there.serve(BOOK_1, accept)
    return here, there, feed


async def test_a_book_that_drips_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    keys = iter(sorted((Key(n) for n in range(200)), key=lambda key: key.peer))

    async def drip(stream: MessageStream, ask: BookAsk) -> None:
        await trio.sleep(9)
        page = [signed_offer(next(keys))[1] for _ in range(PAGE)]
        await stream.send(BookPage(tuple(page)))

    here, there, feed = neighbour(drip)
    async with running(here, there):
        await here.connect(PeerAddrs(there.peer, (there._addr,)))
        before = trio.current_time()
        with pytest.raises(Unavailable):
            await feed.take_over(there.peer)
        assert trio.current_time() - before == bookfeed.TAKE_OVER_S
        assert len(feed.book) == 3 * PAGE  # what came in time is kept


async def test_a_book_without_an_end_has_one() -> None:
    page = BookPage(tuple(signed_offer(Key(7))[1] for _ in range(PAGE)))
    asked = 0

    async def again(stream: MessageStream, ask: BookAsk) -> None:
        nonlocal asked
        asked += 1
        await stream.send(page)

    here, there, feed = neighbour(again)
    async with running(here, there):
        await here.connect(PeerAddrs(there.peer, (there._addr,)))
        assert await feed.take_over(there.peer) == 1
        assert asked == 2 <= MAX_HANDED_OVER // PAGE


async def test_offers_of_other_networks_and_times_stay_out() -> None:
    now = 1_800_000_000
    lies = [
        signed_offer(Key(1), network="main")[1],
        signed_offer(Key(2), issued_at=now + 10_000)[1],
        signed_offer(Key(3), issued_at=now - 10_000)[1],
        signed_offer(Key(4), pipeline="verify-step")[1],
        sign(signed_offer(Key(5))[0], Key(6)),
        Signed(odd("offer", 99), bytes(65)),
        Signed(b"\xc1", bytes(65)),
        signed_offer(Key(8))[1],
    ]

    async def serve(stream: MessageStream, ask: BookAsk) -> None:
        await stream.send(BookPage(tuple(lies)))

    here, there, feed = neighbour(serve)
    async with running(here, there):
        await here.connect(PeerAddrs(there.peer, (there._addr,)))
        assert await feed.take_over(there.peer) == 1
    assert [posting.offer.seller for posting in feed.book.postings()] == [Key(8).peer]


async def test_a_book_is_handed_over_at_a_bounded_rate(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            seller = await market.orchestrator(2, 2_000_000)
            bad = await HostileGateway.join(market, 9, nursery)
            pages = 0
            async with stream_to(market, bad.seat, seller.key.peer, BOOK_1) as stream:
                try:
                    while True:
                        await stream.send(BookAsk(PIPELINE, None, 32))
                        assert isinstance(await stream.receive(timeout=5), BookPage)
                        pages += 1
                except Unavailable:
                    pass  # hung up
            assert PAGES_BURST <= pages < 2 * PAGES_BURST
            late = await market.gateway(3)
            feed = late.role._m.feed  # type: ignore[union-attr]
            await feed.take_over(seller.key.peer)
            assert len(feed.book) == 1
            nursery.cancel_scope.cancel()


# -- hello -----------------------------------------------------------------------------------------------------------


def _greeted(faults: list[Exception], network: str = NETWORK) -> Any:
    greeter = Greeter(network, "gateway", lambda: SETTLEMENT, lambda: 1000.0)

    async def serve(raw: Stream) -> None:
        try:
            await greeter.greet(MessageStream(raw))
        except PasarError as exc:
            faults.append(exc)
            raise

    return serve


async def test_a_stream_begins_with_a_hello_of_this_network(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    here, there = network.node(stranger(1)), network.node(stranger(2))
    faults: list[Exception] = []
    async with running(here, there):
        here.serve(CONTROL, _greeted(faults))
        await there.connect(PeerAddrs(here.peer, (here._addr,)))

        async def say(*said: object) -> None:
            stream = MessageStream(await there.open(here.peer, CONTROL))
            await stream.send(*said)
            assert await hung_up(stream)

        await say(Hello("elsewhere", "gateway", None, 0))
        await say(RFQ(b"n" * 16, NETWORK, SETTLEMENT, shape(), 1))
        raw = await there.open(here.peer, CONTROL)
        await raw.send(b"\xff\xff\xff\xff")
        assert await hung_up(MessageStream(raw))
        before = trio.current_time()
        slow = await there.open(here.peer, CONTROL)
        await slow.send(b"\0\0")  # half a length, and then nothing
        with suppress(Unavailable):
            await slow.receive()
            await slow.receive()
        assert trio.current_time() - before == pytest.approx(HELLO_TIMEOUT_S)
    assert [type(fault) for fault in faults] == [Refused, MalformedMessage, MalformedMessage, Unavailable]


async def test_a_wrong_clock_is_said_once_for_each_peer(capsys: pytest.CaptureFixture[str]) -> None:
    network = MemoryNetwork()
    here, there = network.node(stranger(1)), network.node(stranger(2))
    async with running(here, there):
        here.serve(CONTROL, _greeted([]))
        await there.connect(PeerAddrs(here.peer, (here._addr,)))
        for wall_ms in (0, 2**64 - 1):
            stream = MessageStream(await there.open(here.peer, CONTROL))
            await stream.send(Hello(NETWORK, "gateway", None, wall_ms))
            assert await hung_up(stream)
    assert capsys.readouterr().out.count("clock differs") == 1
