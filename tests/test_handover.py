"""Books handed over: everything that is lacking comes, by either version; whatever a neighbour does stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from market import bookserver, handover
from market.bookfeed import RECONCILE_S, TAKE_OVER_S, BookFeed
from market.bookserver import MOMENT_S, PAGES_BURST, SESSION_S, BookServer
from market.bookwire import (
    MAX_PAGE,
    MAX_WANTED,
    BookAsk,
    Described,
    Item,
    Page,
    Part,
    Span,
    SpanAsk,
    Sums,
    SumsAsk,
    Want,
)
from market.handover import LITTLE, hand_over
from market.hello import Greeter
from market.neighbours import FAULT_S, MAX_KNOWN, MAX_SET_ASIDE_S, Neighbours
from market.offer import Load
from market.protocol import BOOK, BOOK_1, offers_topic
from market.reconcile import WHOLE
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.errors import PeerFault, Unavailable
from p2p.host import Host
from p2p.identity import Identity
from p2p.memory import MemoryNetwork, MemoryNode, running
from p2p.peer import PeerId
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.contracts.network import target
from tests.support.market_values import NETWORK, NOW, PIPELINE, SETTLEMENT, Key, signed_offer, stranger

SALT = b"s" * 16
GREETER = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: float(NOW))
KEYS = [Key(number) for number in range(100, 500)]
OFFERS = {key.peer: signed_offer(key) for key in KEYS}
SORTED = sorted(OFFERS)


class World:
    """Two nodes, each with a book."""

    def __init__(self) -> None:
        self.net = MemoryNetwork()
        self.here, self.there = self.net.node(stranger(1)), self.net.node(stranger(2))
        self.ours, self.theirs = self.feed(self.here), self.feed(self.there)

    def feed(self, node: MemoryNode) -> BookFeed:
        return BookFeed(node, node, GREETER, (PIPELINE,), lambda: float(NOW))

    async def connect(self, node: MemoryNode | None = None) -> None:
        await (node or self.here).connect(PeerAddrs(self.there.peer, (self.there._addr,)))

    async def take(self) -> int:
        return await hand_over(self.here, GREETER, self.there.peer, self.ours, (PIPELINE,))


def put(feed: BookFeed, sellers: list[PeerId]) -> None:
    for seller in sellers:
        assert feed.take(*OFFERS[seller])


def sellers(feed: BookFeed) -> list[PeerId]:
    return feed.book.sellers(PIPELINE)


# -- honest neighbours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [0, LITTLE, LITTLE + 1, 200, 399, 400])
async def test_whatever_is_lacking_comes(own: int) -> None:
    world = World()
    put(world.theirs, SORTED)
    put(world.ours, SORTED[::-1][:own])
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()
        assert await world.take() == len(SORTED) - own
    assert sellers(world.ours) == SORTED


async def test_a_newer_offer_comes_and_an_older_one_does_not() -> None:
    world, key = World(), KEYS[0]
    put(world.theirs, SORTED)
    put(world.ours, SORTED)
    assert world.theirs.take(*signed_offer(key, serial=5))
    assert world.ours.take(*signed_offer(KEYS[1], serial=5))
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()
        assert await world.take() == 1
    serials = [world.ours.book.posting(one.peer, PIPELINE).offer.serial for one in KEYS[:2]]  # type: ignore[union-attr]
    assert serials == [5, 5]


async def test_a_neighbour_of_the_last_version_gives_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    put(world.theirs, SORTED)
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        del world.there._acceptors[BOOK]
        await world.connect()
        assert await world.take() == len(SORTED)
        monkeypatch.setattr(handover, "MAX_HANDED_OVER", 64)
        world.ours = world.feed(world.here)
        assert await world.take() == 64


async def test_above_one_list_the_rest_is_found_by_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "MAX_HANDED_OVER", 100)
    monkeypatch.setattr(bookserver, "PAGE_BYTES", 16 * 1024)
    world = World()
    put(world.theirs, SORTED)
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()
        assert await world.take() == len(SORTED)
    assert sellers(world.ours) == SORTED


async def test_what_gossip_lost_is_repaired(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    async with running(world.here, world.there), trio.open_nursery() as nursery:
        for feed in (world.ours, world.theirs):
            await nursery.start(feed.run)
        put(world.theirs, SORTED[:50])
        await world.connect()
        with trio.fail_after(5):
            await world.ours.caught_up.wait()
        assert sellers(world.ours) == SORTED[:50]
        put(world.theirs, SORTED[50:60])  # and nobody is told
        put(world.ours, SORTED[60:70])
        await trio.sleep(RECONCILE_S)
        assert sellers(world.ours) == sellers(world.theirs) == SORTED[:70]
        await world.there.publish(offers_topic(NETWORK, PIPELINE), encode(OFFERS[SORTED[70]][1]))
        await trio.sleep(1)
        assert len(sellers(world.ours)) == 71
        assert world.here.failures == world.there.failures == []
        nursery.cancel_scope.cancel()


async def test_with_most_gossip_lost_every_book_is_whole_in_minutes(autojump_clock: trio.testing.MockClock) -> None:
    net = MemoryNetwork(seed=5, loss=0.8)
    nodes = [net.node(stranger(number)) for number in range(1, 7)]
    feeds = [BookFeed(node, node, GREETER, (PIPELINE,), lambda: float(NOW)) for node in nodes]
    async with running(*nodes), trio.open_nursery() as nursery:
        for number, node in enumerate(nodes):
            await nursery.start(feeds[number].run)
            for other in nodes[:number]:
                await node.connect(PeerAddrs(other.peer, (other._addr,)))
        for number, seller in enumerate(SORTED[:60]):
            by = number % len(nodes)
            feeds[by].post(encode(OFFERS[seller][1]), PIPELINE)
            await nodes[by].publish(offers_topic(NETWORK, PIPELINE), encode(OFFERS[seller][1]))
            await trio.sleep(0.5)
        assert min(len(sellers(feed)) for feed in feeds) < 60
        await trio.sleep(3 * RECONCILE_S)
        assert [sellers(feed) for feed in feeds] == [SORTED[:60]] * len(nodes)
        assert [node.failures for node in nodes] == [[]] * len(nodes)
        nursery.cancel_scope.cancel()


async def test_the_next_neighbour_is_asked_when_the_first_hangs(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    stuck = world.net.node(stranger(0))  # first by its id
    put(world.theirs, SORTED)

    async def hang(raw: Stream) -> None:
        await trio.sleep_forever()

    async with running(world.here, world.there, stuck), trio.open_nursery() as nursery:
        stuck.serve(BOOK, hang)
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.here.connect(PeerAddrs(stuck.peer, (stuck._addr,)))
        await world.connect()
        began = trio.current_time()
        await nursery.start(world.ours.run)
        await world.ours.caught_up.wait()
        assert trio.current_time() - began <= 2
        assert sellers(world.ours) == SORTED
        nursery.cancel_scope.cancel()


async def test_a_slow_list_is_waited_for_and_a_drip_is_not(autojump_clock: trio.testing.MockClock) -> None:
    for each, hedged in ((150, False), (10, True)):
        world = World()
        slow = world.net.node(stranger(0))
        put(world.theirs, SORTED)

        async def page_a_second(raw: Stream, each: int = each) -> None:
            stream = MessageStream(raw)
            await GREETER.greet(stream)
            for start in range(0, len(GOOD), each):
                await stream.receive()
                await trio.sleep(0.9)
                more = start + each < len(GOOD)
                await stream.send(page(*GOOD[start : start + each], last=SORTED[start + each - 1] if more else None))
            await stream.receive()

        async with running(world.here, world.there, slow), trio.open_nursery() as nursery:
            slow.serve(BOOK, page_a_second)
            BookServer(world.there, GREETER, world.theirs.book).serve()
            await world.here.connect(PeerAddrs(slow.peer, (slow._addr,)))
            await world.connect()
            began = trio.current_time()
            await nursery.start(world.ours.run)
            await world.ours.caught_up.wait()
            assert (trio.current_time() - began < 2) is hedged
            assert sellers(world.ours) == SORTED
            nursery.cancel_scope.cancel()


async def test_what_stands_already_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world, opened = World(), []
    put(world.ours, SORTED[:LITTLE])
    put(world.theirs, SORTED[: LITTLE + 5])
    real = handover.open_offer
    monkeypatch.setattr(handover, "open_offer", lambda envelope: (opened.append(envelope), real(envelope))[1])
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()
        assert await world.take() == 5
    assert len(opened) == 5


# -- neighbours that lie ---------------------------------------------------------------------------------------------

Answer = Callable[[Any], Any]


async def lied_to(answer: Answer, own: int = 0) -> tuple[World, int, Exception | None]:
    """A session with a neighbour that answers as it likes: what came of it, and how often it was asked."""
    world, asked = World(), 0
    put(world.ours, SORTED[:own])

    async def serve(raw: Stream) -> None:
        nonlocal asked
        stream = MessageStream(raw)
        await GREETER.greet(stream)
        while (ask := await stream.receive()) is not None:
            asked += 1
            await stream.send(answer(ask))

    error: Exception | None = None
    async with running(world.here, world.there):
        world.there.serve(BOOK, serve)
        await world.connect()
        try:
            with trio.move_on_after(TAKE_OVER_S):
                await world.take()
        except (PeerFault, Unavailable) as exc:
            error = exc
    return world, asked, error


def page(*envelopes: Signed, last: PeerId | None = None) -> Page:
    return Page(tuple(envelopes), last)


GOOD = [OFFERS[seller][1] for seller in SORTED]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("a forged signature", lambda ask: page(GOOD[0], Signed(GOOD[1].payload, GOOD[0].signature))),
        ("another's name", lambda ask: page(GOOD[0], sign(OFFERS[SORTED[1]][0], KEYS[7]))),
        ("no offer", lambda ask: page(GOOD[0], sign(Load(PIPELINE, 1, 1, 0, 0, ()), KEYS[7]))),
        ("no message", lambda ask: page(GOOD[0], Signed(b"\xc1", bytes(65)))),
        ("too long an offer", lambda ask: page(GOOD[0], Signed(bytes(5000), bytes(65)))),
        ("another pipeline", lambda ask: page(GOOD[0], signed_offer(KEYS[7], pipeline="llm")[1])),
        ("an end that is none", lambda ask: page(last=SORTED[3])),
        ("the same page again", lambda ask: page(GOOD[0], last=SORTED[0])),
        ("offers beyond the page's end", lambda ask: page(*GOOD[:5], last=SORTED[3])),
        ("sums in place of a page", lambda ask: Sums(SALT, (Described((), ()),))),
    ],
)
async def test_a_page_that_no_honest_neighbour_sends_ends_the_session(name: str, answer: Answer) -> None:
    world, asked, error = await lied_to(answer)
    assert type(error) is not Unavailable, name
    assert isinstance(error, PeerFault), name
    assert asked <= 2
    assert sellers(world.ours) in ([], SORTED[:1], SORTED[:4]), "what was good before it stays"


async def test_offers_of_another_version_are_passed_over() -> None:
    odd = Signed(b"\x92\xa5offer\x63", bytes(65))
    world, _, error = await lied_to(lambda ask: page(GOOD[0], odd, GOOD[1]))
    assert error is None
    assert sellers(world.ours) == SORTED[:2]


async def test_pages_without_an_end_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "MAX_TAKEN", 40)
    left = list(GOOD)

    def forever(ask: Any) -> Any:
        if isinstance(ask, SumsAsk):
            return Sums(SALT, tuple(Described((), ()) for _ in ask.spans))
        taken = [left.pop(0) for _ in range(10)]
        return page(*taken, last=SORTED[len(GOOD) - len(left) - 1])

    world, asked, error = await lied_to(forever)
    assert error is None
    assert len(sellers(world.ours)) == 40
    assert asked == 5


async def test_offers_that_were_not_wanted_are_a_fault() -> None:
    def lie(ask: Any) -> Any:
        if isinstance(ask, SumsAsk):
            return Sums(SALT, (Described((), (Item(SORTED[300], bytes(16)),)),))
        return page(GOOD[301])

    world, asked, error = await lied_to(lie, own=LITTLE + 1)
    assert isinstance(error, PeerFault)
    assert asked == 2
    assert len(sellers(world.ours)) == LITTLE + 1


async def test_sums_that_never_agree_are_given_up(autojump_clock: trio.testing.MockClock) -> None:
    def lie(ask: Any) -> Any:
        if not isinstance(ask, SumsAsk):
            return page()
        return Sums(SALT, tuple(_cut(span) for span in ask.spans))

    world, asked, error = await lied_to(lie, own=300)
    assert error is None
    assert asked <= 100
    assert len(sellers(world.ours)) == 300


def _cut(span: Span) -> Described:
    inside = [one for one in SORTED[:300] if (span.after or b"") < one and (span.until is None or one < span.until)]
    if not inside:
        return Described((), ())
    half = inside[len(inside) // 2]
    return Described((Part(half, 1, bytes(16)), Part(span.until, 1, bytes(16))), ())


async def test_a_neighbour_that_says_nothing_more_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    world = World()

    async def silent(raw: Stream) -> None:
        stream = MessageStream(raw)
        await GREETER.greet(stream)
        await trio.sleep_forever()

    async with running(world.here, world.there):
        world.there.serve(BOOK, silent)
        await world.connect()
        with pytest.raises(Unavailable):
            await world.ours.take_over(world.there.peer)
        assert trio.current_time() <= TAKE_OVER_S


# -- askers that ask too much ----------------------------------------------------------------------------------------


async def asked(*asks: Any, offers: int = 400) -> tuple[list[Any], World, bool]:
    """What a server answers to these asks on one stream, and whether it hung up."""
    world, answers = World(), []
    put(world.theirs, SORTED[:offers])
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()
        async with MessageStream(await world.here.open(world.there.peer, BOOK)) as stream:
            await GREETER.greet(stream)
            try:
                for ask in asks:
                    await stream.send(ask)
                    answers.append(await stream.receive(timeout=5))
            except Unavailable:
                return answers, world, True
    return answers, world, False


async def test_pages_are_bounded_in_offers_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, _, _ = await asked(SpanAsk(PIPELINE, WHOLE), SpanAsk("llm", WHOLE), BookAsk(PIPELINE, None, 32))
    assert len(encode(answers[0])) < 256 * 1024
    assert 32 < len(answers[0].offers) <= MAX_PAGE
    assert answers[1] == Page((), None)
    assert len(answers[2].offers) == 32
    span = Span(SORTED[10], SORTED[20])
    answers, _, _ = await asked(SpanAsk(PIPELINE, span), Want(PIPELINE, tuple(SORTED[:3] * 2)))
    assert [list(one.offers) for one in answers] == [GOOD[11:21], GOOD[:3]]
    monkeypatch.setattr(bookserver, "PAGE_BYTES", 1)
    answers, _, _ = await asked(SpanAsk(PIPELINE, WHOLE), Want(PIPELINE, tuple(SORTED[:MAX_WANTED])))
    assert answers == [page(GOOD[0], last=SORTED[0])] * 2


async def test_one_kind_of_sums_for_each_stream() -> None:
    answers, world, closed = await asked(SumsAsk(PIPELINE, (WHOLE,)), SumsAsk("llm", (WHOLE,)))
    assert len(answers) == 1
    assert closed
    assert [type(one) for one in world.there.failures] == [PeerFault]
    _, world, closed = await asked(Load(PIPELINE, 1, 1, 0, 0, ()))
    assert closed
    assert [type(one) for one in world.there.failures] == [PeerFault]
    answers, _, _ = await asked(SumsAsk("llm", (WHOLE,)))
    assert answers[0].spans == (Described((), ()),)


async def test_sums_are_of_one_moment_for_a_session_and_for_all_that_begin_near_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world, ask = World(), SumsAsk(PIPELINE, (WHOLE,))
    put(world.theirs, SORTED[:100])
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()

        async def begin() -> tuple[MessageStream, Sums]:
            stream = MessageStream(await world.here.open(world.there.peer, BOOK))
            await GREETER.greet(stream)
            await stream.send(ask)
            return stream, await stream.receive()

        first, told = await begin()
        put(world.theirs, SORTED[100:200])
        assert (await begin())[1] == told
        await trio.sleep(MOMENT_S - 1)
        await first.send(ask)
        assert await first.receive() == told
        await trio.sleep(1.5)
        _, later = await begin()
        assert later.salt != told.salt
        assert sum(part.offers for part in later.spans[0].parts) == 200
        await first.send(ask)
        assert await first.receive() == told, "a session keeps its moment"


async def test_an_asker_runs_out_of_answers_and_of_time(autojump_clock: trio.testing.MockClock) -> None:
    asks = [SumsAsk(PIPELINE, (WHOLE,))] * int(2 * PAGES_BURST)
    answers, _, closed = await asked(*asks)
    assert closed
    assert PAGES_BURST <= len(answers) < 1.5 * PAGES_BURST
    world = World()
    async with running(world.here, world.there):
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.connect()
        async with MessageStream(await world.here.open(world.there.peer, BOOK)) as stream:
            await GREETER.greet(stream)
            began = trio.current_time()
            while (await _answered(stream, asks[0])) is not None:  # noqa: ASYNC110
                await trio.sleep(5)
        assert SESSION_S - 5 <= trio.current_time() - began <= SESSION_S + 10


async def _answered(stream: MessageStream, ask: SumsAsk) -> Any:
    try:
        await stream.send(ask)
        return await stream.receive(timeout=5)
    except Unavailable:
        return None


async def test_a_salt_that_changes_within_a_session_is_a_fault() -> None:
    salts = iter(bytes([number]) * 16 for number in range(10))
    world, asked, error = await lied_to(lambda ask: Sums(next(salts), tuple(map(_cut, ask.spans))), own=300)
    assert isinstance(error, PeerFault)
    assert asked == 2
    assert len(sellers(world.ours)) == 300


# -- whose turn it is ------------------------------------------------------------------------------------------------


def test_neighbours_take_turns_and_those_that_fail_wait_ever_longer() -> None:
    known, now = Neighbours(), 0.0
    peers = {stranger(number) for number in range(3)}
    turns = [known.next(peers, now + turn) for turn in range(6)]
    assert turns == [*sorted(peers), *sorted(peers)]
    assert known.next(set(), now) is None
    bad, waits = stranger(0), []
    for _ in range(20):
        known.set_aside(bad, now)
        began = now
        while known.next({bad}, now) is None:
            now += 0.5
        waits.append(now - began)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.5, MAX_SET_ASIDE_S)
    known.gave(bad)
    known.set_aside(bad, now, fault=True)
    assert known.next({bad}, now + FAULT_S - 1) is None
    assert known.next({bad}, now + FAULT_S) == bad
    for number in range(2 * MAX_KNOWN):
        known.next({stranger(number)}, now)
    assert len(known._asked) <= MAX_KNOWN


async def test_a_lying_neighbour_is_set_aside_and_the_next_one_asked(autojump_clock: trio.testing.MockClock) -> None:
    world, sessions = World(), 0
    liar = world.net.node(stranger(0))
    put(world.theirs, SORTED[:40])

    async def lie(raw: Stream) -> None:
        nonlocal sessions
        sessions += 1
        stream = MessageStream(raw)
        await GREETER.greet(stream)
        await stream.receive()
        await stream.send(page(Signed(GOOD[1].payload, GOOD[0].signature)))
        await stream.receive()

    async with running(world.here, world.there, liar), trio.open_nursery() as nursery:
        liar.serve(BOOK, lie)
        BookServer(world.there, GREETER, world.theirs.book).serve()
        await world.here.connect(PeerAddrs(liar.peer, (liar._addr,)))
        await world.connect()
        await nursery.start(world.ours.run)
        await world.ours.caught_up.wait()
        await trio.sleep(FAULT_S / 2)
        assert sessions == 1
        assert len(sellers(world.ours)) == 40
        nursery.cancel_scope.cancel()


# -- over real connections -------------------------------------------------------------------------------------------


class NoGossip:
    """Nobody is told of any offer."""

    async def join(self, topic: str, judge: object) -> None: ...
    async def publish(self, topic: str, data: bytes) -> None: ...
    def subscribe(self, topic: str) -> Any: ...


@pytest.mark.live
@pytest.mark.parametrize("versions", [(BOOK, BOOK_1), (BOOK_1,)])
async def test_both_versions_run_over_real_hosts(versions: tuple[str, ...]) -> None:
    here, there = (Host(Identity(bytes([number]) * 32), ("/ip4/127.0.0.1/tcp/0",)) for number in (1, 2))
    ours, theirs = (BookFeed(host, NoGossip(), GREETER, (PIPELINE,), lambda: float(NOW)) for host in (here, there))
    put(theirs, SORTED)
    server = BookServer(there, GREETER, theirs.book)
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            await nursery.start(here.run)
            await nursery.start(there.run)
            for protocol in versions:
                there.serve(protocol, server._accept)
            await here.connect(target(there))
            assert await ours.take_over(there.peer) == len(SORTED)
            assert theirs.take(*signed_offer(KEYS[0], serial=9))
            assert await ours.take_over(there.peer) == 1
            assert here.scores.score(there.peer, trio.current_time()) == 0
            assert there.scores.score(here.peer, trio.current_time()) == 0
            nursery.cancel_scope.cancel()
    assert sellers(ours) == SORTED
