"""Whenever an auction ends or is broken off, no seller is left keeping a place for it, and nobody is blamed."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from market.auction import Auction, AwardTo, Buyer
from market.auctioneer import Auctioneer
from market.bid import Prefer
from market.controls import ControlLines
from market.conversation import now_ms
from market.hello import Greeter
from market.prefilter import Terms, prefilter
from market.quote import LATE_WORD_MS, RFQ, Places
from market.quotedesk import QuoteDesk
from market.reputation import Reputation
from p2p.memory import MemoryNetwork, MemoryNode, running
from p2p.peer import PeerId
from p2p.scores import Fault
from p2p.transport import PeerAddrs
from tests.support.market_values import NETWORK, NOW, SETTLEMENT, Key, book_of, offer, shape, stranger

LATENCY = 0.1  # one way: a question is answered after 0.2 s, the first on a line after 0.4 s or more
SELLERS = 3


@dataclass
class Scene:
    """A gateway's lines, and sellers that keep places for it."""

    here: MemoryNode
    sellers: dict[PeerId, MemoryNode]
    desks: dict[PeerId, QuoteDesk]
    lines: ControlLines

    @property
    def held(self) -> int:
        """Places kept for the gateway, everywhere."""
        return sum(desk.held() for desk in self.desks.values())

    async def nobody_is_blamed(self) -> None:
        """Whether the gateway's name is clean when every word has had its time, seen by the next question."""
        await trio.sleep(3 + LATE_WORD_MS / 1000)
        for seller, node in self.sellers.items():
            await self.lines.ask(seller, RFQ(b"z" * 16, NETWORK, SETTLEMENT, shape(), 1))
            assert Fault.UNCLAIMED not in node.scores.faults(self.here.peer)

    async def auction(self, award: object = None) -> AwardTo:
        """One auction among all sellers; ``award`` is asked for the seller's answer, which else never comes."""

        async def give(to: AwardTo) -> bool:
            if award is None:
                await trio.sleep_forever()
            return True

        async def take_back() -> None:
            await trio.lowlevel.checkpoint()

        book = book_of(*(offer(seller, price=n * 10**6) for n, seller in enumerate(self.sellers, 1)))
        matched = prefilter(book, Terms(shape(), SETTLEMENT, 10**6, 60_000), {}, NOW)
        buyer = Buyer(self.here.peer, NETWORK, SETTLEMENT, Prefer.PRICE, deadline=now_ms() + 60_000)
        auctioneer = Auctioneer(self.lines, Reputation(), random.Random(1))
        won = await auctioneer.hold(Auction(buyer, matched, b"n" * 16), give, take_back, lambda seller, price: None)
        assert isinstance(won, AwardTo)
        return won


@asynccontextmanager
async def scene() -> AsyncGenerator[Scene]:
    network = MemoryNetwork(latency=LATENCY)
    here, keys = network.node(stranger(1)), [Key(2 + number) for number in range(SELLERS)]
    there = {key.peer: network.node(key) for key in keys}
    greeter = Greeter(NETWORK, "gateway", lambda: SETTLEMENT, lambda: 0.0)
    desks = {}
    for number, key in enumerate(keys, 1):
        desks[key.peer] = QuoteDesk(
            there[key.peer],
            greeter,
            key,
            SETTLEMENT,
            offer=lambda pipeline, key=key, number=number: offer(key.peer, price=number * 10**6),  # type: ignore[misc]
            places=lambda shape: Places(free=4, queue=0, queue_ms=0, run_ms=1000),
            funded=lambda who: True,
        )
        desks[key.peer].serve()

    async def reach(peer: PeerId) -> None:
        await here.connect(PeerAddrs(peer, (there[peer]._addr,)))

    async with running(here, *there.values()), trio.open_nursery() as nursery:
        lines = ControlLines(here, greeter, reach)
        await nursery.start(lines.run)
        yield Scene(here, there, desks, lines)
        nursery.cancel_scope.cancel()


async def test_a_quote_that_comes_when_nobody_waits_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    async with scene() as s:
        seller = next(iter(s.sellers))
        first = RFQ(b"a" * 16, NETWORK, SETTLEMENT, shape(), 1)
        await s.lines.ask(seller, first)
        await s.lines.release(seller, first.digest)
        await trio.sleep(2 * LATENCY)  # and the line is there
        assert s.held == 0
        with trio.move_on_after(1.5 * LATENCY):
            await s.lines.ask(seller, RFQ(b"b" * 16, NETWORK, SETTLEMENT, shape(), 2000))
        assert s.held == 1
        await trio.sleep(2 * LATENCY)
        assert s.held == 0, "long before the two seconds are over"
        await s.nobody_is_blamed()


@pytest.mark.parametrize("tenths", range(16))
async def test_an_auction_broken_off_at_any_moment_keeps_no_place(
    tenths: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene() as s:
        with trio.move_on_after(tenths / 10 + 0.05):
            await s.auction()
        await trio.sleep(4 * LATENCY)
        assert s.held == 0
        await s.nobody_is_blamed()


async def test_whoever_has_the_award_keeps_its_place_and_nobody_else_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scene() as s:
        won = await s.auction(award=True)
        await trio.sleep(2 * LATENCY)
        assert {seller for seller, desk in s.desks.items() if desk.held()} == {won.seller}
