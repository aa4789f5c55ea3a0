"""Two jobs of one gateway at one seller: what was paid for one of them is not counted for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from benchmarks.noop_worker import NoopWorker
from ledger.ticket import Payment, PaymentVerdict
from market.client import Delivered
from market.reputation import NEWCOMER_JOBS
from p2p.peer import Address
from tests.contracts.network import until
from tests.support.marketplace import Marketplace, Place, marketplace

STEP_S = 0.05


async def buy(market: Marketplace, gateway: Place, number: int, **wish: object) -> object:
    client, _ = await market.client(number)
    bid = await market.bid(client, gateway.key.peer, **wish)
    return await client.bid(gateway.key.peer, bid, lambda news: None)


class Held:
    """The seller's books, with the answer to the last payment for a job held back after its credit is on disk."""

    def __init__(self, books: Any) -> None:
        self._receive, self.wanted = books.receive, False
        self._books, self.price = books, 0
        self.credited, self.go = trio.Event(), trio.Event()
        books.receive = self.receive

    async def receive(self, sender: Address, payment: Payment, credited: Any) -> PaymentVerdict:
        verdict: PaymentVerdict = await self._receive(sender, payment, credited)
        if self.wanted and self._books.credit_of(sender) >= self.price and not self.credited.is_set():
            self.credited.set()
            await self.go.wait()
        return verdict


async def test_what_is_paid_for_one_job_covers_no_other_that_comes_meanwhile(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, 2_000_000, NoopWorker(STEP_S, slots=2), slots=2)
            held = Held(seller.role._shop.books)  # type: ignore[union-attr]
            for number in range(NEWCOMER_JOBS):
                got = await buy(market, gateway, 10 + number)
                assert isinstance(got, Delivered)
            held.price, held.wanted = got.receipt.price, True
            ends: list[object] = []

            async def bid(number: int, steps: int) -> None:
                ends.append(await buy(market, gateway, number, steps=steps))

            nursery.start_soon(bid, 50, 4)
            await held.credited.wait()
            nursery.start_soon(bid, 51, 40)
            await until(lambda: any(sale.in_work for sale in seller.role._going.values()))  # type: ignore[union-attr]
            held.go.set()
            await until(lambda: len(ends) == 2)
            assert [type(one) for one in ends] == [Delivered, Delivered]
            nursery.cancel_scope.cancel()
