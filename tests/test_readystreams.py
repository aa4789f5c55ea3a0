"""Streams opened ahead: an award takes one, a broken one costs nothing, and nobody can hoard them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from market import orchestrator as orchestrators
from market import readystreams
from market.client import Delivered
from market.hello import Greeter
from market.protocol import JOB
from market.quote import Release
from market.readystreams import ReadyStreams
from p2p.errors import Refused, Unavailable
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.support.market_values import NETWORK, SETTLEMENT, Key
from tests.support.marketplace import marketplace

GATEWAY, SELLER = Key(1), Key(2)


def greeter(role: str) -> Greeter:
    return Greeter(NETWORK, role, lambda: SETTLEMENT, lambda: 0.0)


class Far:
    """A seller that greets, keeps every stream, and does with it what the test wants."""

    def __init__(self, seat: MemoryNode) -> None:
        self.seat = seat
        self.streams: list[MessageStream] = []
        self.more = trio.Event()

    async def accept(self, raw: Stream) -> None:
        stream = MessageStream(raw, JOB_FRAME)
        await greeter("orchestrator").greet(stream)
        self.streams.append(stream)
        self.more.set()
        self.more = trio.Event()
        await trio.sleep_forever()

    async def has(self, count: int) -> None:
        while len(self.streams) < count:
            await self.more.wait()


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[ReadyStreams, Far, MemoryNode]]:
    net = MemoryNetwork()
    near, far = net.node(GATEWAY), Far(net.node(SELLER))

    async def reach(_: object) -> None:
        await near.connect(PeerAddrs(SELLER.peer, (far.seat._addr,)))

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            await nursery.start(near.run)
            await nursery.start(far.seat.run)
            far.seat.serve(JOB, far.accept)
            await reach(None)
            streams = ReadyStreams(near, greeter("gateway"), reach)
            await nursery.start(streams.run)
            yield streams, far, near
            nursery.cancel_scope.cancel()


async def ready(streams: ReadyStreams, far: Far, count: int = 1) -> None:
    streams.prepare(SELLER.peer)
    await far.has(count)
    await trio.testing.wait_all_tasks_blocked()


async def test_an_award_finds_its_stream_open_and_greeted() -> None:
    async with pair() as (streams, far, _):
        await ready(streams, far)
        stream, greet = await streams.take(SELLER.peer)
        assert greet is None
        await stream.send(Release(bytes(32)))
        assert await far.streams[0].receive() == Release(bytes(32))
        other, greet = await streams.take(SELLER.peer)
        assert greet is not None, "one is taken once"
        await greet()
        await far.has(2)
        await stream.reset()
        await other.reset()


async def test_one_is_enough_however_often_it_is_asked_for() -> None:
    async with pair() as (streams, far, _):
        for _ in range(5):
            await ready(streams, far)
        assert len(far.streams) == 1


@pytest.mark.parametrize("what", ["hangs up", "breaks", "speaks"])
async def test_a_stream_that_is_no_use_any_more_is_not_handed_out(what: str) -> None:
    async with pair() as (streams, far, _):
        await ready(streams, far)
        if what == "hangs up":
            await far.streams[0].aclose()
        elif what == "breaks":
            await far.streams[0].reset()
        else:
            await far.streams[0].send(Release(bytes(32)))
        await trio.testing.wait_all_tasks_blocked()
        stream, greet = await streams.take(SELLER.peer)
        assert greet is not None
        await far.has(2)
        await stream.reset()


async def test_nobody_is_dialled_ahead_and_a_lost_seller_is_unavailable() -> None:
    async with pair() as (streams, far, _):
        far.seat.kill()
        streams.prepare(SELLER.peer)
        await trio.testing.wait_all_tasks_blocked()
        assert not far.streams
        with pytest.raises(Unavailable):
            await streams.take(SELLER.peer)


async def test_one_that_nobody_takes_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (streams, far, _):
        await ready(streams, far)
        with trio.fail_after(10 * readystreams.UNUSED_S):
            assert await far.streams[0].receive() is None
        assert readystreams.UNUSED_S < orchestrators.FIRST_MESSAGE_S, "the gateway lets go before the seller does"


async def test_a_gateway_cannot_hoard_silent_job_streams(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway, seller = await market.gateway(1), await market.orchestrator(2, 2_000_000)
            seat = market.net.node(Key(9))
            await nursery.start(seat.run)
            await seat.connect(PeerAddrs(seller.key.peer, (seller.seat._addr,)))
            silent = []
            for _ in range(orchestrators.MAX_UNOPENED):
                stream = MessageStream(await seat.open(seller.key.peer, JOB), JOB_FRAME)
                await market.greeter("gateway").greet(stream)
                silent.append(stream)
            one_more = MessageStream(await seat.open(seller.key.peer, JOB), JOB_FRAME)
            with pytest.raises((Refused, Unavailable)):
                await market.greeter("gateway").greet(one_more)
            await silent.pop().aclose()
            await trio.testing.wait_all_tasks_blocked()
            again = MessageStream(await seat.open(seller.key.peer, JOB), JOB_FRAME)
            await market.greeter("gateway").greet(again)
            client, _ = await market.client(50)
            bid = await market.bid(client, gateway.key.peer)
            assert isinstance(await client.bid(gateway.key.peer, bid, lambda news: None), Delivered)
            nursery.cancel_scope.cancel()


async def test_a_bid_survives_the_stream_on_which_models_were_asked(tmp_path: Path) -> None:
    """The gateway restarts between the question and the bid; the client notices when it bids, and opens another."""
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, 2_000_000)
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer)
            gateway.kill()
            await gateway.gone.wait()
            await market.gateway(1)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Delivered)
