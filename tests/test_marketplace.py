"""The roles together, over the network in memory: a bid becomes a picture, a receipt, and balanced books."""

from __future__ import annotations

from pathlib import Path

import trio

from benchmarks.noop_worker import NoopWorker
from market.bidwire import JobNews, News
from market.client import Delivered
from market.refusal import Refusal
from tests.support.marketplace import marketplace


async def test_a_bid_becomes_a_paid_picture(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, price=2_000_000)
            client, seat = await market.client(3)
            heard: list[object] = []
            bid = await market.bid(client, gateway.key.peer)
            got = await client.bid(gateway.key.peer, bid, heard.append)
            assert isinstance(got, Delivered)
            assert got.done.orchestrator == seller.key.peer
            assert got.done.price <= got.done.paid
            events = [news.event for news in heard if isinstance(news, JobNews)]
            assert events[:3] == [News.AUCTION, News.QUOTED, News.AWARDED]
            assert News.STEP in events
            assert News.SEALED in events
            assert News.PAID in events
            assert seller.books.standing(gateway.key.address).delivered == 1
            assert await gateway.books.spent_on(got.done.job_id) == got.receipt.price
            assert gateway.seat.failures == seller.seat.failures == seat.failures == []


async def test_the_same_bid_again_gets_the_same_result(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            machine = NoopWorker()
            await market.orchestrator(2, price=2_000_000, machine=machine)
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer)
            one = await client.bid(gateway.key.peer, bid, lambda news: None)
            two = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(one, Delivered)
            assert isinstance(two, Delivered)
            assert (one.done, one.files) == (two.done, two.files)
            assert machine.done == 1


async def test_a_bid_below_every_price_is_refused_with_counts(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000)
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer, limit=1)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Refusal)
            assert got.counts == {"price": 1}
            assert got.cheapest_wei == bid.spec.shape.units * 2
            assert "raise the limit" in got.hint


async def test_a_dead_winner_is_replaced_under_the_same_job(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            slow = [await market.orchestrator(n, price=2_000_000, machine=NoopWorker(step_s=0.05)) for n in (2, 3)]
            client, _ = await market.client(4)
            bid = await market.bid(client, gateway.key.peer, steps=40, deadline_ms=60_000)
            killed = []

            def tell(news: object) -> None:
                if isinstance(news, JobNews) and news.event is News.STEP and news.step >= 5 and not killed:
                    winner = next(place for place in slow if place.key.peer == news.orchestrator)
                    killed.append(winner.key.peer)
                    winner.seat.kill()
                    winner.scope.cancel()

            got = await client.bid(gateway.key.peer, bid, tell)
            assert isinstance(got, Delivered)
            assert killed
            assert got.done.orchestrator not in killed
            assert list(got.done.tried) == [killed[0], got.done.orchestrator]
            assert await gateway.books.spent_on(got.done.job_id) == got.receipt.price
