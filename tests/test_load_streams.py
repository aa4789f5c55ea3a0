"""Load streams from end to end in memory: gateways know who is busy, and nobody can make either end hold more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from market import loaddesk
from market.bookfeed import BookFeed
from market.client import Delivered
from market.hello import Greeter
from market.loaddesk import LoadDesk
from market.loadfeed import ASKS_BURST, BURST, LoadFeed, ask_loads
from market.loads import BEAT_MS, GAP_MS, STALE_MS, LoadAsk
from market.offer import Load, Offer
from market.protocol import LOAD
from market.quote import Release
from market.reputation import Reputation
from p2p.codec import encode
from p2p.errors import PasarError, Unavailable
from p2p.host import Host
from p2p.identity import Identity
from p2p.memory import MemoryNetwork, MemoryNode, running
from p2p.peer import PeerId
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs, Stream, Verdict
from tests.support.hostile import hung_up
from tests.support.market_values import NETWORK, NOW, PIPELINE, SETTLEMENT, Key, shape, signed_offer
from tests.support.marketplace import marketplace

PLAIN = Load(PIPELINE, 0, 1, 0, 0, ())


async def until(true: Callable[[], object]) -> None:
    """Wait until something holds."""
    with trio.fail_after(20):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.01)


# -- a whole market --------------------------------------------------------------------------------------------------


async def test_a_gateway_knows_who_is_busy_and_asks_the_other(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(1)
            cheap = await market.orchestrator(2, price=1_000_000, machine=NoopWorker(step_s=0.05))
            other = await market.orchestrator(3, price=1_500_000)
            board, feed = gateway.role.loads.board, gateway.role.loads
            await until(lambda: len(feed.loads(shape())) == 2)
            assert {load.free for load in feed.loads(shape()).values()} == {1}
            client, _ = await market.client(4)
            long = await market.bid(client, gateway.key.peer, steps=200, deadline_ms=60_000)
            working = trio.Event()

            async def first() -> None:
                got = await client.bid(gateway.key.peer, long, lambda news: working.set())
                assert isinstance(got, Delivered)

            def busy() -> PeerId | None:
                loads = feed.loads(shape()).items()
                return next((who for who, load in loads if not load.free and load.queue_ms > 500), None)

            nursery.start_soon(first)
            await until(busy)
            taken, refused = busy(), []
            for place in (cheap, other):
                place.role.desk._quoting._refused = _counting(place.role.desk._quoting._refused, refused)
            quick = await client.bid(
                gateway.key.peer, await market.bid(client, gateway.key.peer, steps=1), lambda news: None
            )
            assert isinstance(quick, Delivered)
            assert quick.done.orchestrator != taken
            assert refused == [], "whoever is full was not even asked"
            told = await ask_loads(client._network, market.greeter("client"), gateway.key.peer, (PIPELINE,))
            assert {(one.seller, one.load.free > 0) for one in told.loads} >= {(taken, False)}
            assert board.of(taken, PIPELINE, 0) is not None
            nursery.cancel_scope.cancel()


def _counting(inner: Callable[..., Any], into: list[Any]) -> Callable[..., Any]:
    def refused(*given: Any) -> Any:
        code = inner(*given)
        if code is not None:
            into.append(code)
        return code

    return refused


async def test_a_seller_that_dies_is_stale_in_three_beats_and_followed_again_when_back(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, price=1_000_000)
            feed = gateway.role.loads
            await until(lambda: feed.loads(shape()))
            seller.kill()
            await seller.gone.wait()
            await until(lambda: not feed.loads(shape()))
            await market.orchestrator(2, price=1_000_000)
            await until(lambda: feed.loads(shape()))
            assert gateway.role.reputation.of(seller.key.peer, 0).faults == 0


async def test_the_line_to_a_followed_seller_is_open_before_the_first_question(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            sellers = {(await market.orchestrator(n, price=1_000_000)).key.peer for n in (2, 3)}
            lines = gateway.role._m.lines
            await until(lambda: lines._lines.keys() == sellers)
            opened: list[PeerId] = []
            lines._open = _counting(lines._open, opened)
            client, _ = await market.client(4)
            bid = await market.bid(client, gateway.key.peer, steps=1)
            assert isinstance(await client.bid(gateway.key.peer, bid, lambda news: None), Delivered)
            assert opened == []


# -- the two ends alone ----------------------------------------------------------------------------------------------


class Ends:
    """A gateway's end and a seller's end on one memory network; the seller's end is told how busy it is."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self.net, self.key = MemoryNetwork(), Key(2)
        self.here, self.there = self.net.node(Key(1)), self.net.node(self.key)
        self.load: Load | None = PLAIN
        self.funded: set[PeerId] = set()
        self.greeter = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: float(NOW))
        self.book = BookFeed(self.here, self.here, self.greeter, (PIPELINE,), lambda: float(NOW))
        self.reputation = Reputation()
        self.feed = LoadFeed(
            self.here,
            self.greeter,
            self.reach,
            self.book,
            self.reputation,
            SETTLEMENT,
            _Middle(),
            b"salt",
        )
        self.desk = LoadDesk(self.there, self.greeter, look=lambda _: self.load, favours=self.funded.__contains__)

    async def reach(self, peer: PeerId) -> None:
        await self.here.connect(PeerAddrs(peer, (self.net.nodes[peer]._addr,)))

    def offered(self, key: Key | None = None) -> Offer:
        made, envelope = signed_offer(key or self.key)
        assert self.book.post(encode(envelope), PIPELINE) is Verdict.ACCEPT
        return made

    async def stream(self, node: MemoryNode, *said: object) -> MessageStream:
        """A greeted stream of ``node`` to the desk."""
        await node.connect(PeerAddrs(self.there.peer, (self.there._addr,)))
        stream = MessageStream(await node.open(self.there.peer, LOAD))
        await self.greeter.greet(stream)
        await stream.send(*said)
        return stream


class _Middle:
    def randrange(self, stop: int, /) -> int:
        return stop // 2


async def test_loads_come_on_change_at_most_five_a_second_and_beat_when_nothing_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    async with running(ends.here, ends.there), trio.open_nursery() as nursery:
        await nursery.start(ends.desk.run)
        stream = await ends.stream(ends.here, LoadAsk((PIPELINE,)))
        heard: list[tuple[float, Load]] = []

        async def listen() -> None:
            while (load := await stream.receive()) is not None:
                heard.append((trio.current_time(), load))

        nursery.start_soon(listen)
        began = trio.current_time()
        await trio.sleep(10 * BEAT_MS / 1000 + 0.5)
        assert len(heard) == 11
        quiet = len(heard)
        for number in range(200):  # a hundred changes a second, for two seconds
            ends.load = replace(PLAIN, free=number % 3)
            await trio.sleep(0.01)
        times = [at for at, _ in heard[quiet - 1 :]]
        assert 9 <= len(times) - 1 <= 11
        assert all(later - earlier >= GAP_MS / 1000 - 1e-6 for earlier, later in pairwise(times))
        ends.load = replace(PLAIN, free=77)
        changed = trio.current_time()
        await trio.sleep(1.5)
        assert next(at for at, load in heard if load.free == 77) - changed <= 0.3
        assert [load.sequence for _, load in heard] == list(range(len(heard)))
        assert began == heard[0][0]
        nursery.cancel_scope.cancel()


async def test_a_desk_tells_one_stream_for_each_gateway_and_the_funded_first(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(loaddesk, "MAX_FOLLOWERS", 3)
    ends = Ends()
    others = [ends.net.node(Key(number)) for number in range(10, 16)]
    async with running(ends.there, *others), trio.open_nursery() as nursery:
        await nursery.start(ends.desk.run)
        first = await ends.stream(others[0], LoadAsk((PIPELINE,)))
        assert await first.receive() == PLAIN
        again = await ends.stream(others[0], LoadAsk((PIPELINE, PIPELINE)))
        assert await again.receive() == PLAIN
        assert await hung_up(first), "the older stream of the same gateway ends"
        for node in others[1:3]:
            assert await (await ends.stream(node, LoadAsk((PIPELINE,)))).receive() == PLAIN
        assert len(ends.desk.followers()) == 3
        late = await ends.stream(others[3], LoadAsk((PIPELINE,)))
        with pytest.raises(PasarError):
            await late.receive()
        ends.funded.add(others[4].peer)
        paying = await ends.stream(others[4], LoadAsk((PIPELINE,)))
        assert await paying.receive() == PLAIN
        assert ends.desk.followers() == {others[1].peer, others[2].peer, others[4].peer}
        ends.load = None
        with pytest.raises(PasarError):
            await (await ends.stream(others[5], LoadAsk((PIPELINE,)))).receive()
        nursery.cancel_scope.cancel()


async def test_a_follower_that_never_reads_is_let_go_and_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()
    reading, deaf = ends.net.node(Key(10)), ends.net.node(Key(11))
    async with running(ends.there, reading, deaf), trio.open_nursery() as nursery:
        await nursery.start(ends.desk.run)
        good = await ends.stream(reading, LoadAsk((PIPELINE,)))
        await ends.stream(deaf, LoadAsk((PIPELINE,)))
        held = next(stream for stream in ends.there._streams if stream.peer == deaf.peer)

        async def stuck(data: bytes) -> None:
            await trio.sleep_forever()

        held.send = stuck  # type: ignore[method-assign]
        for _ in range(10):
            assert isinstance(await good.receive(), Load)
        assert ends.desk.followers() == {reading.peer}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("said", [Release(b"r" * 32), LoadAsk((PIPELINE,))])
async def test_a_second_word_of_a_follower_is_a_fault(said: object, autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()
    async with running(ends.here, ends.there), trio.open_nursery() as nursery:
        await nursery.start(ends.desk.run)
        stream = await ends.stream(ends.here, LoadAsk((PIPELINE,)), said)
        assert await hung_up(stream)
        assert [type(fault).__name__ for fault in ends.there.failures] == ["PeerFault"]
        assert ends.desk.followers() == frozenset()
        nursery.cancel_scope.cancel()


Say = Callable[[MessageStream], Any]


async def _followed(ends: Ends, say: Say, seconds: float = 5.0) -> int:
    """Let the gateway follow a seller that says what it likes; how often it opened a stream."""
    opened = 0

    async def serve(raw: Stream) -> None:
        nonlocal opened
        opened += 1
        stream = MessageStream(raw)
        await ends.greeter.greet(stream)
        assert isinstance(await stream.receive(), LoadAsk)
        await say(stream)

    async with running(ends.here, ends.there), trio.open_nursery() as nursery:
        ends.there.serve(LOAD, serve)
        ends.offered()
        await nursery.start(ends.feed.run)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return opened


async def test_a_seller_that_says_load_a_thousand_times_a_second_is_shut_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends, said = Ends(), 0

    async def flood(stream: MessageStream) -> None:
        nonlocal said
        while True:
            await stream.send(replace(PLAIN, sequence=said))
            said += 1
            await trio.sleep(0.001)

    assert await _followed(ends, flood, 60) == 1
    assert said <= BURST + 10
    assert ends.reputation.view(ends.key.peer, int(trio.current_time() * 1000)).banned
    assert ends.feed.followed() == frozenset()


async def test_loads_that_come_in_bunches_are_no_fault(autojump_clock: trio.testing.MockClock) -> None:
    ends, said = Ends(), 0

    async def bunched(stream: MessageStream) -> None:
        nonlocal said
        while True:
            for _ in range(10):
                await stream.send(replace(PLAIN, sequence=said))
                said += 1
            await trio.sleep(2)
            if said == 1000:  # we stood still: a minute and a half at five a second
                for _ in range(450):
                    await stream.send(replace(PLAIN, sequence=said))
                    said += 1

    assert await _followed(ends, bunched, 600) == 1
    assert said > 3000
    assert ends.reputation.of(ends.key.peer, 0).faults == 0


@pytest.mark.parametrize(
    "said",
    [
        replace(PLAIN, pipeline="llm"),
        LoadAsk((PIPELINE,)),
        Release(b"r" * 32),
    ],
)
async def test_what_is_no_load_that_was_asked_for_is_a_fault(
    said: object, autojump_clock: trio.testing.MockClock
) -> None:
    ends = Ends()

    async def lie(stream: MessageStream) -> None:
        await stream.send(said)
        await trio.sleep_forever()

    assert await _followed(ends, lie) == 1
    assert ends.reputation.of(ends.key.peer, 0).faults == 1
    assert ends.feed.board.loads(PIPELINE, 0) == {}


async def test_numbers_that_go_back_are_a_fault(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()

    async def lie(stream: MessageStream) -> None:
        await stream.send(replace(PLAIN, sequence=5), replace(PLAIN, sequence=5, free=9))
        await trio.sleep_forever()

    assert await _followed(ends, lie) == 1
    assert ends.reputation.of(ends.key.peer, 0).faults == 1


async def test_a_load_of_an_offer_that_is_not_there_is_nothing(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()

    async def late(stream: MessageStream) -> None:
        _, envelope = signed_offer(ends.key, serial=2, slots=0)
        ends.book.post(encode(envelope), PIPELINE)
        await stream.send(PLAIN)
        await trio.sleep_forever()

    await _followed(ends, late)
    assert ends.feed.board.loads(PIPELINE, 0) == {}
    assert ends.reputation.of(ends.key.peer, 0).faults == 0, "it may just have been withdrawn"
    assert ends.feed.followed() == frozenset()


async def test_a_silent_seller_is_stale_and_asked_again_ever_later(autojump_clock: trio.testing.MockClock) -> None:
    ends, at = Ends(), []

    async def silent(stream: MessageStream) -> None:
        at.append(trio.current_time())
        await stream.send(PLAIN)
        await trio.sleep_forever()

    opened = await _followed(ends, silent, 120)
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert 3 <= opened <= 8
    assert gaps == sorted(gaps)
    assert gaps[0] >= STALE_MS / 1000
    assert ends.feed.loads(shape()) == {}


async def test_a_newer_load_with_a_place_clears_a_refusal_and_wakes_who_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends, woken = Ends(), []
    async with running(ends.here, ends.there), trio.open_nursery() as nursery:
        await nursery.start(ends.desk.run)
        ends.load = replace(PLAIN, free=0, queue=1, queue_ms=60_000)
        ends.offered()
        await nursery.start(ends.feed.run)
        await trio.sleep(3)
        ends.reputation.refused(ends.key.peer, int(trio.current_time() * 1000))

        async def wait() -> None:
            await ends.book.changed()
            woken.append(trio.current_time())

        nursery.start_soon(wait)
        await trio.sleep(0.9)
        now = int(trio.current_time() * 1000)
        assert ends.reputation.view(ends.key.peer, now).refused_lately, "it says itself that it is full"
        assert woken == []
        assert 55_000 < ends.feed.loads(shape())[ends.key.peer].queue_ms < 61_000
        ends.load, freed = PLAIN, trio.current_time()
        await trio.sleep(0.5)
        assert not ends.reputation.view(ends.key.peer, now).refused_lately
        assert woken[0] - freed <= 0.3
        nursery.cancel_scope.cancel()


async def test_sellers_that_cannot_be_reached_make_way_for_others(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends()
    absent = [Key(number) for number in range(50, 55)]
    for key in absent:
        ends.offered(key)

    async def reach(peer: PeerId) -> None:
        if peer not in ends.net.nodes:
            raise Unavailable("no address")
        await Ends.reach(ends, peer)

    ends.feed._reach = reach
    async with running(ends.here, ends.there), trio.open_nursery() as nursery:
        await nursery.start(ends.desk.run)
        ends.offered()
        await nursery.start(ends.feed.run)
        await trio.sleep(0.1)
        assert len(ends.feed.followed()) == 6
        await trio.sleep(30)
        assert ends.feed.followed() == {ends.key.peer}
        late = ends.net.node(absent[0])
        await nursery.start(late.run)
        desk = LoadDesk(late, ends.greeter, look=lambda _: PLAIN, favours=lambda _: False)
        await nursery.start(desk.run)
        await late.connect(PeerAddrs(ends.here.peer, (ends.here._addr,)))
        await trio.sleep(3)
        assert set(ends.feed.loads(shape())) == {ends.key.peer, absent[0].peer}, "it dialled us, as private ones do"
        nursery.cancel_scope.cancel()


async def test_what_a_gateway_heard_is_told_at_a_bounded_rate(autojump_clock: trio.testing.MockClock) -> None:
    ends, told = Ends(), 0
    asking = ends.net.node(Key(9))
    async with running(ends.here, asking), trio.open_nursery() as nursery:
        await nursery.start(ends.feed.run)
        await asking.connect(PeerAddrs(ends.here.peer, (ends.here._addr,)))
        with suppress(Unavailable):
            while told < 100:
                assert (await ask_loads(asking, ends.greeter, ends.here.peer, (PIPELINE,))).loads == ()
                told += 1
        assert told == ASKS_BURST
        stream = MessageStream(await asking.open(ends.here.peer, LOAD))
        await ends.greeter.greet(stream)
        await stream.send(PLAIN)
        assert await hung_up(stream)
        assert [type(fault).__name__ for fault in ends.here.failures] == ["PeerFault"]
        nursery.cancel_scope.cancel()


# -- over real connections -------------------------------------------------------------------------------------------


@pytest.mark.live
async def test_loads_run_over_real_hosts_and_stop_with_the_seller() -> None:
    ours, theirs = Identity(b"\x01" * 32), Identity(b"\x02" * 32)
    here, there = (Host(who, ("/ip4/127.0.0.1/tcp/0",)) for who in (ours, theirs))
    greeter = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: float(NOW))
    book, load, reputation = BookFeed(here, NoGossip(), greeter, (PIPELINE,), lambda: float(NOW)), [PLAIN], Reputation()

    async def reach(_: PeerId) -> None:
        await here.connect(PeerAddrs(there.peer, tuple(addr.partition("/p2p/")[0] for addr in there.addrs())))

    feed = LoadFeed(here, greeter, reach, book, reputation, SETTLEMENT, _Middle(), b"salt")
    desk = LoadDesk(there, greeter, look=lambda _: load[0], favours=lambda _: False)
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            await nursery.start(here.run)
            async with trio.open_nursery() as seller:
                await seller.start(there.run)
                await seller.start(desk.run)
                assert book.take(*signed_offer(theirs))  # type: ignore[arg-type]
                await nursery.start(feed.run)
                await until(lambda: feed.loads(shape()).get(there.peer, PLAIN).free == 1 and feed.loads(shape()))
                for free in (0, 5, 2):
                    load[0] = replace(PLAIN, free=free)
                    await until(lambda wanted=free: feed.loads(shape())[there.peer].free == wanted)
                assert desk.followers() == {here.peer}
                seller.cancel_scope.cancel()
            await until(lambda: not feed.loads(shape()))
            assert reputation.of(there.peer, 0).faults == 0
            nursery.cancel_scope.cancel()


class NoGossip:
    """Nobody is told of any offer."""

    async def join(self, topic: str, judge: object) -> None: ...
    async def publish(self, topic: str, data: bytes) -> None: ...
    def subscribe(self, topic: str) -> Any: ...
