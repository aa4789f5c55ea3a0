"""Gateway and orchestrator killed in the middle of a job and started again: one result, paid once, books that agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from benchmarks.noop_worker import NoopWorker
from compute.capability import Capability
from market.bidwire import BidCancelled, JobNews, News
from market.client import Delivered
from market.conversation import AWARD_SENT, KEY_SENT, SEALED, TICKETS_SENT
from tests.support.bookkeeping import BookPair, book_pair, customer_jobs, delivered, violations
from tests.support.marketplace import Marketplace, Place, marketplace

# The first tickets of a job cover its beginning, the second ones are its price.
POINTS = ((AWARD_SENT, 1), (SEALED, 1), (TICKETS_SENT, 1), (TICKETS_SENT, 2), (KEY_SENT, 1))
GATEWAY, SELLER, CLIENT = 1, 2, 9
# Trio's clock against the real one: deadlines pass more quickly, journals take the time they take. Slow enough for a
# restart within the 8 s that a gateway waits, quick enough for one after them.
SOON, LATE = 4.0, 8.0
AWAY_S = 10.0


class Unhurried(NoopWorker):
    """Promises little, so that a restart on a busy machine breaks no promise."""

    def capability(self) -> Capability:
        capability = super().capability()
        return replace(capability, models=tuple(replace(one, units_per_second=1500) for one in capability.models))


class Fate:
    """Kills one node when it comes by a point for the nth time, and starts it again."""

    def __init__(self, market: Marketplace, folder: Path, victim: str, point: str, nth: int) -> None:
        self.folder = folder
        self.market, self.victim, self.point, self.left = market, victim, point, nth
        self.places: dict[str, Place] = {}
        self.struck = trio.Event()
        self.machine = Unhurried()

    async def start(self) -> None:
        for role in ("gateway", "seller"):
            await self.begin(role)

    async def begin(self, role: str) -> None:
        def reached(point: str) -> None:
            self.left -= (role, point) == (self.victim, self.point)
            if not self.left and not self.struck.is_set():
                self.struck.set()
                self.places[role].kill()

        if role == "gateway":
            self.places[role] = await self.market.gateway(GATEWAY, reached)
        else:
            self.places[role] = await self.market.orchestrator(
                SELLER, price=2_000_000, machine=self.machine, reached=reached
            )

    async def raise_the_dead(self, away_s: float) -> None:
        await self.struck.wait()
        await self.places[self.victim].gone.wait()
        await trio.sleep(away_s)
        await self.begin(self.victim)

    async def befriend(self) -> None:
        """No newcomers to each other any more: from now on money goes before the key."""
        gateway, seller = self.places["gateway"], self.places["seller"]
        for _ in range(5):
            await seller.books.record_delivered(gateway.key.address)
            await gateway.books.record_delivered(seller.key.address)

    async def until(self, word: str) -> None:
        """Give both sides the time to end what they have begun."""
        with trio.move_on_after(20):
            while not getattr(self.books(), word):  # noqa: ASYNC110  # a file on disk wakes nobody
                await trio.sleep(0.2)

    def books(self) -> BookPair:
        gateway, seller = self.places["gateway"], self.places["seller"]
        return book_pair(
            journal(self.folder, GATEWAY), journal(self.folder, SELLER), gateway.key.address, seller.key.address
        )


def journal(folder: Path, number: int) -> Path:
    return folder / f"{number}" / "journal.db"


def whole(folder: Path) -> None:
    """No journal contradicts itself."""
    assert violations(journal(folder, GATEWAY)) == violations(journal(folder, SELLER)) == ()


@pytest.mark.parametrize("friends", [False, True], ids=["newcomers", "friends"])
@pytest.mark.parametrize(("point", "nth"), POINTS)
@pytest.mark.parametrize("victim", ["gateway", "seller"])
async def test_killed_and_soon_back(
    tmp_path: Path, mock_clock: trio.testing.MockClock, victim: str, point: str, nth: int, friends: bool
) -> None:
    mock_clock.rate = SOON
    with trio.fail_after(600):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            fate, got = await one_job(market, nursery, Fate(market, tmp_path, victim, point, nth), friends, 0)
            await fate.until("agree")
            books, price = fate.books(), got.receipt.price
            assert books.agree, books
            assert books.sent_debit == price
            assert got.done.paid == price
            assert customer_jobs(journal(tmp_path, GATEWAY)) == {got.done.job_id: ("charged", price)}
            whole(tmp_path)


@pytest.mark.parametrize("friends", [pytest.param(False, marks=pytest.mark.prove), True], ids=["newcomers", "friends"])
@pytest.mark.parametrize(("point", "nth"), POINTS)
@pytest.mark.parametrize("victim", ["gateway", "seller"])
async def test_killed_and_away_for_long(
    tmp_path: Path, mock_clock: trio.testing.MockClock, victim: str, point: str, nth: int, friends: bool
) -> None:
    """The attempt may be lost then; what it had been paid is known on both sides, and the customer pays once."""
    mock_clock.rate = LATE
    with trio.fail_after(600):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            fate, got = await one_job(market, nursery, Fate(market, tmp_path, victim, point, nth), friends, AWAY_S)
            await fate.until("explained")
            books, price = fate.books(), got.receipt.price
            assert books.explained, books
            assert customer_jobs(journal(tmp_path, GATEWAY)) == {got.done.job_id: ("charged", price)}
            whole(tmp_path)


async def one_job(
    market: Marketplace, nursery: trio.Nursery, fate: Fate, friends: bool, away_s: float
) -> tuple[Fate, Delivered]:
    """One bid through whatever fate has for it, and the same bid again."""
    await fate.start()
    if friends:
        await fate.befriend()
    client, _ = await market.client(CLIENT)
    gateway = fate.places["gateway"].key.peer
    bid = await market.bid(client, gateway, deadline_ms=120_000)
    nursery.start_soon(fate.raise_the_dead, away_s)
    got = await client.bid(gateway, bid, lambda news: None)
    assert fate.struck.is_set()
    assert isinstance(got, Delivered)
    again = await client.bid(gateway, bid, lambda news: None)
    assert isinstance(again, Delivered)
    assert (again.done, again.files) == (got.done, got.files)
    return fate, got


async def test_a_delivery_counts_once_however_often_its_seller_restarts(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = SOON
    with trio.fail_after(600):
        async with marketplace(tmp_path) as market:
            gateway, seller = await market.gateway(GATEWAY), await market.orchestrator(SELLER, price=2_000_000)
            client, _ = await market.client(CLIENT)
            bid = await market.bid(client, gateway.key.peer)
            assert isinstance(await client.bid(gateway.key.peer, bid, lambda news: None), Delivered)
            for _ in range(3):
                seller.kill()
                await seller.gone.wait()
                seller = await market.orchestrator(SELLER, price=2_000_000)
                sales = seller.role._sales
                assert len(sales) == 1, "a sale is kept for its gateway to come back"
                while any(sale.session.entered is None for sale in sales.values()):  # noqa: ASYNC110  # nobody tells
                    await trio.sleep(0.1)
                await seller.journal.write(lambda tx: None)  # what the restart led to was handed in before
            assert delivered(journal(tmp_path, SELLER), "in", gateway.key.address) == 1


async def test_a_bid_that_waited_for_a_seller_still_waits_after_a_restart(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """The book of a gateway that starts is empty for a moment: no reason to refuse what was taken before."""
    mock_clock.rate = SOON
    with trio.fail_after(600):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(GATEWAY)
            seller = await market.orchestrator(SELLER, price=2_000_000)
            client, _ = await market.client(CLIENT)
            bid = await market.bid(client, gateway.key.peer, deadline_ms=120_000)
            seller.kill()
            await seller.gone.wait()
            taken, got = trio.Event(), []

            async def follow() -> None:
                got.append(await client.bid(gateway.key.peer, bid, lambda news: taken.set()))
                nursery.cancel_scope.cancel()

            nursery.start_soon(follow)
            await taken.wait()
            gateway.kill()
            await gateway.gone.wait()
            await market.gateway(GATEWAY)
            await trio.sleep(3)
            await market.orchestrator(SELLER, price=2_000_000)
            await trio.sleep_forever()
        assert isinstance(got[0], Delivered)


async def test_a_bid_taken_back_stays_so_over_a_restart(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = SOON
    with trio.fail_after(600):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            machine = NoopWorker(step_s=0.5)
            gateway = await market.gateway(GATEWAY)
            seller = await market.orchestrator(SELLER, price=2_000_000, machine=machine)
            client, _ = await market.client(CLIENT)
            bid = await market.bid(client, gateway.key.peer, steps=40, deadline_ms=120_000)
            cancelled, got = trio.Event(), []

            def tell(news: object) -> None:
                if isinstance(news, JobNews) and news.event is News.STEP and not cancelled.is_set():
                    seller.seat.kill()  # its answer to the cancellation never comes
                    cancelled.set()

            async def follow() -> None:
                got.append(await client.bid(gateway.key.peer, bid, tell, cancelled))
                nursery.cancel_scope.cancel()

            nursery.start_soon(follow)
            await cancelled.wait()
            await trio.sleep(2)
            gateway.kill()
            await gateway.gone.wait()
            await market.gateway(GATEWAY)
            await trio.sleep_forever()
        assert isinstance(got[0], BidCancelled)
        (state, _), *more = customer_jobs(journal(tmp_path, GATEWAY)).values()
        assert (state, more) == ("returned", [])
