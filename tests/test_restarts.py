"""Gateway and orchestrator killed in the middle of a job and started again: one result, paid once, books that agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from benchmarks.noop_worker import NoopWorker
from market.client import Delivered
from market.conversation import AWARD_SENT, KEY_SENT, SEALED, TICKETS_SENT
from tests.support.bookkeeping import BookPair, book_pair, customer_jobs, violations
from tests.support.marketplace import Marketplace, Place, marketplace

# The first tickets of a job cover its beginning, the second ones are its price.
POINTS = ((AWARD_SENT, 1), (SEALED, 1), (TICKETS_SENT, 1), (TICKETS_SENT, 2), (KEY_SENT, 1))
GATEWAY, SELLER, CLIENT = 1, 2, 9
RATE = 20.0  # trio's clock against the real one: deadlines pass quickly, journals take the time they take


class Fate:
    """Kills one node when it comes by a point for the nth time, and starts it again."""

    def __init__(self, market: Marketplace, victim: str, point: str, nth: int) -> None:
        self.market, self.victim, self.point, self.left = market, victim, point, nth
        self.places: dict[str, Place] = {}
        self.struck = trio.Event()
        self.machine = NoopWorker()

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

    async def raise_the_dead(self) -> None:
        await self.struck.wait()
        await self.places[self.victim].gone.wait()
        await self.begin(self.victim)

    async def befriend(self) -> None:
        """No newcomers to each other any more: from now on money goes before the key."""
        gateway, seller = self.places["gateway"], self.places["seller"]
        for _ in range(5):
            await seller.books.record_delivered(gateway.key.address)
            await gateway.books.record_delivered(seller.key.address)

    def books(self, folder: Path) -> BookPair:
        gateway, seller = self.places["gateway"], self.places["seller"]
        return book_pair(
            journal(folder, GATEWAY), journal(folder, SELLER), gateway.key.address, seller.key.address
        )


def journal(folder: Path, number: int) -> Path:
    return folder / f"{number}" / "journal.db"


@pytest.mark.parametrize("friends", [False, True], ids=["newcomers", "friends"])
@pytest.mark.parametrize(("point", "nth"), POINTS)
@pytest.mark.parametrize("victim", ["gateway", "seller"])
async def test_killed_and_started_again(
    tmp_path: Path, mock_clock: trio.testing.MockClock, victim: str, point: str, nth: int, friends: bool
) -> None:
    mock_clock.rate = RATE
    with trio.fail_after(600):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            fate = Fate(market, victim, point, nth)
            await fate.start()
            if friends:
                await fate.befriend()
            client, _ = await market.client(CLIENT)
            gateway = fate.places["gateway"].key.peer
            bid = await market.bid(client, gateway, deadline_ms=60_000)
            nursery.start_soon(fate.raise_the_dead)
            got = await client.bid(gateway, bid, lambda news: None)
            assert fate.struck.is_set()
            assert isinstance(got, Delivered)
            again = await client.bid(gateway, bid, lambda news: None)
            assert isinstance(again, Delivered)
            assert (again.done, again.files) == (got.done, got.files)

            with trio.move_on_after(60):
                while not fate.books(tmp_path).agree:
                    await trio.sleep(1)
            price = got.receipt.price
            books = fate.books(tmp_path)
            print("RESULT", victim, point, nth, friends, books, got.receipt.attempt, price, got.done.paid)
            assert books.agree
            assert books.sent_debit == price
            assert customer_jobs(journal(tmp_path, GATEWAY)) == {got.done.job_id: ("charged", price)}
            assert violations(journal(tmp_path, GATEWAY)) == violations(journal(tmp_path, SELLER)) == ()
