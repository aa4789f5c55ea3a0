"""The roles together, over the network in memory: a bid becomes a picture, a receipt, and balanced books."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from market.bidwire import BidCancelled, JobFailed, JobNews, News
from market.client import Delivered, GatewayLost
from market.refusal import Code, Refusal
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


async def test_only_loopback_is_served_on_a_development_chain(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000)
            far, _ = await market.client(3, ip="203.0.113.7")
            bid = await market.bid(far, gateway.key.peer)
            got = await far.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Refusal)
            assert got.code is Code.NO_CREDIT


async def test_a_bid_that_is_taken_back_before_the_end_costs_at_most_the_reservation(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, price=2_000_000, machine=NoopWorker(step_s=0.02))
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer, steps=100)
            stop = trio.Event()

            def tell(news: object) -> None:
                if isinstance(news, JobNews) and news.event is News.STEP and news.step == 5:
                    stop.set()

            got = await client.bid(gateway.key.peer, bid, tell, stop)
            assert isinstance(got, BidCancelled)
            price = bid.spec.shape.units * 2
            assert 0 < got.charged <= -(-price // 16)
            assert await gateway.books.spent_on(got.job_id) == got.charged
            assert not seller.role.desk.held()
            again = await client.bid(gateway.key.peer, await market.bid(client, gateway.key.peer), lambda news: None)
            assert isinstance(again, Delivered)  # the place is free again, and what was left over is credit


async def test_bids_wait_for_the_one_place_there_is(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=NoopWorker(step_s=0.02))
            client, _ = await market.client(3)
            endings = []

            async def one() -> None:
                bid = await market.bid(client, gateway.key.peer, steps=20, deadline_ms=40_000)
                endings.append(await client.bid(gateway.key.peer, bid, lambda news: None))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(one)
            assert [type(ending) for ending in endings] == [Delivered] * 4
            assert gateway.seat.failures == []


async def test_a_seller_that_drains_delivers_first_and_is_out_of_the_book(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, price=2_000_000, machine=NoopWorker(step_s=0.02))
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer, steps=30)
            drained = trio.Event()

            async def drain() -> None:
                await seller.role.drain()
                seller.seat.kill()
                seller.scope.cancel()
                drained.set()

            async with trio.open_nursery() as nursery:

                def tell(news: object) -> None:
                    if isinstance(news, JobNews) and news.event is News.STEP and news.step == 5:
                        nursery.start_soon(drain)

                got = await client.bid(gateway.key.peer, bid, tell)
                await drained.wait()
            assert isinstance(got, Delivered)
            assert gateway.books.standing(seller.key.address).faults == 0
            again = await client.bid(gateway.key.peer, replace(bid, nonce=bytes(16)), lambda news: None)
            assert isinstance(again, Refusal)
            assert again.code is Code.NO_OFFERS


async def test_a_gateway_that_drains_hands_the_result_over_first(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=NoopWorker(step_s=0.02))
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer, steps=30)

            async def drain() -> None:
                await gateway.role.drain()
                gateway.seat.kill()
                gateway.scope.cancel()

            async with trio.open_nursery() as nursery:

                def tell(news: object) -> None:
                    if isinstance(news, JobNews) and news.event is News.STEP and news.step == 5:
                        nursery.start_soon(drain)

                got = await client.bid(gateway.key.peer, bid, tell)
            assert isinstance(got, Delivered)


async def test_a_client_whose_gateway_is_gone_is_not_left_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.client.GONE_S", 1.0)
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=NoopWorker(step_s=0.02))
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer, steps=30, deadline_ms=600_000)
            stop = trio.Event()

            def tell(news: object) -> None:
                if isinstance(news, JobNews) and news.event is News.STEP and news.step == 5:
                    gateway.seat.kill()
                    gateway.scope.cancel()
                    stop.set()

            with pytest.raises(GatewayLost):
                await client.bid(gateway.key.peer, bid, tell, stop)


async def test_a_full_disk_costs_one_job_and_no_gateway(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000)
            client, _ = await market.client(3)
            (tmp_path / "1" / "results").write_text("no folder")
            bid = await market.bid(client, gateway.key.peer)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, JobFailed)
            assert got.charged == 0
            (tmp_path / "1" / "results").unlink()
            again = await client.bid(gateway.key.peer, replace(bid, nonce=bytes(16)), lambda news: None)
            assert isinstance(again, Delivered)
