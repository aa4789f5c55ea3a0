"""A job's way at the gateway when sellers are dead, late, banned or slow to answer; the network is in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from benchmarks.noop_worker import MODEL, NoopWorker
from compute.capability import Capability
from market import jobwire
from market.basket import Ended
from market.bidwire import JobFailed, JobNews, News
from market.client import Client, Delivered, Wish, bid_for
from market.job import Job
from market.jobrun import JobRun
from market.jobstore import JobStore
from market.refusal import Code, Refusal
from market.reputation import SET_ASIDE_MS
from p2p.peer import PeerId
from p2p.stream import MessageStream
from tests.support.bookkeeping import customer_jobs
from tests.support.hostile import HostileSeller
from tests.support.market_values import PIPELINE, stranger
from tests.support.marketplace import Marketplace, marketplace

GATEWAY, SELLER, CLIENT = 1, 2, 9


def now_ms() -> int:
    return int(trio.current_time() * 1000)


class Boaster(NoopWorker):
    """Promises to take no time at all, whatever it takes."""

    def capability(self) -> Capability:
        capability = super().capability()
        return replace(capability, models=tuple(replace(one, units_per_second=10**9) for one in capability.models))


async def ask(market: Marketplace, client: Client, gateway: PeerId, **wish: Any) -> Any:
    bid = await market.bid(client, gateway, **wish)
    return await client.bid(gateway, bid, lambda news: None)


async def test_a_bid_whose_only_seller_is_dead_is_refused_long_before_its_deadline(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market:
            gateway, seller = await market.gateway(GATEWAY), await market.orchestrator(SELLER, price=2_000_000)
            client, _ = await market.client(CLIENT)
            bid = await market.bid(client, gateway.key.peer, deadline_ms=600_000)
            seller.kill()
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Refusal)
            assert got.code is Code.NO_ANSWER
            assert got.counts == {"no-answer": 1}
            assert "do not answer" in got.hint


async def test_a_bid_that_waits_for_a_dead_seller_ends_with_the_true_reason(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market:
            gateway, seller = await market.gateway(GATEWAY), await market.orchestrator(SELLER, price=2_000_000)
            client, _ = await market.client(CLIENT)
            bid = replace(await market.bid(client, gateway.key.peer, deadline_ms=4000), wait=True)
            seller.kill()
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Refusal)
            assert got.code is Code.DEADLINE
            assert got.counts == {"no-answer": 1}


async def test_a_bid_that_found_no_place_in_time_is_not_told_that_it_was_too_large(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(GATEWAY)
            await market.orchestrator(SELLER, price=2_000_000, machine=Boaster(step_s=0.1))
            client, _ = await market.client(CLIENT)
            endings: list[Any] = []

            async def first() -> None:
                endings.append(await ask(market, client, gateway.key.peer, steps=60, deadline_ms=60_000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(first)
                await trio.sleep(0.5)
                got = await ask(market, client, gateway.key.peer, deadline_ms=1500)
                nursery.cancel_scope.cancel()
            assert isinstance(got, Refusal)
            assert got.code is Code.DEADLINE
            assert set(got.counts) <= {"finish"}, "its queue, once that was heard"
            assert "nobody had a place" in got.hint


async def lose(seller: HostileSeller, stream: MessageStream, award: jobwire.Award) -> None:
    """Take the job, and end it unfinished."""
    await seller.accept(stream, award)
    await stream.send(jobwire.Closure(award.job_id, award.attempt, jobwire.FAILED))
    await seller.listen(stream)


async def test_a_job_whose_only_seller_is_banned_ends_at_once(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(GATEWAY)
            seller = await HostileSeller.join(market, SELLER, nursery, lose)
            client, _ = await market.client(CLIENT)
            await trio.sleep(0.1)
            got = await ask(market, client, gateway.key.peer, deadline_ms=SET_ASIDE_MS - 5000)  # not longer than that
            assert isinstance(got, JobFailed)
            assert got.code == Code.FAILED.value
            assert "banned" in got.hint
            assert len(seller.awards) > 1, "it was tried again while it might"
            nursery.cancel_scope.cancel()


async def test_a_late_seller_looks_late_to_the_next_auction(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(GATEWAY)
            seller = await market.orchestrator(SELLER, price=2_000_000, machine=Boaster(step_s=0.1))
            client, _ = await market.client(CLIENT)
            got = await ask(market, client, gateway.key.peer, steps=40)
            assert isinstance(got, Delivered)
            assert got.receipt.price < 2 * 512 * 512 * 40, "its own late rate"
            assert gateway.role.reputation.view(seller.key.peer, now_ms()).late_ms > 0  # type: ignore[union-attr]


async def test_a_cancel_is_charged_though_the_gateway_dies_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(GATEWAY)
            await market.orchestrator(SELLER, price=2_000_000, machine=NoopWorker(step_s=0.02))
            client, _ = await market.client(CLIENT)
            bid = await market.bid(client, gateway.key.peer, steps=100)
            stop, drop = trio.Event(), JobStore.drop

            async def die(store: JobStore, job_id: bytes) -> None:
                await drop(store, job_id)
                gateway.kill()
                await trio.sleep_forever()

            def tell(news: object) -> None:
                if isinstance(news, JobNews) and news.event is News.STEP and news.step == 5:
                    monkeypatch.setattr(JobStore, "drop", die)
                    stop.set()

            nursery.start_soon(client.bid, gateway.key.peer, bid, tell, stop)
            await gateway.gone.wait()
            nursery.cancel_scope.cancel()
        [(state, price)] = customer_jobs(tmp_path / f"{GATEWAY}" / "journal.db").values()
        assert state == "charged"
        assert price > 0


async def test_what_a_late_acceptance_cost_is_written_down(tmp_path: Path) -> None:
    kept: list[Job] = []

    async def put(job: Job, *rest: object) -> None:
        kept.append(job)

    bid = bid_for(
        Wish(prompt="a red circle"),
        cast(Any, SimpleNamespace(model=MODEL, native_side=64)),
        PIPELINE,
        Random(1).randbytes,
    )
    run = JobRun(
        cast(Any, SimpleNamespace(jobs=SimpleNamespace(put=put), inputs=None)), b"j" * 32, stranger(1), bid, free=True
    )
    run.job = run.job.award(stranger(2), 0).end(1, jobwire.SILENT)
    over = trio.Event()
    late = SimpleNamespace(
        bought=None,
        over=over,
        accepted=over,
        award=SimpleNamespace(attempt=1),
        ended=Ended(jobwire.CANCELLED, cost=6),
    )
    run._purchases.append(cast(Any, late))
    assert await run._delivered() is None
    assert not kept
    over.set()
    assert await run._delivered() is None
    assert [one.attempts[0].cost for one in kept] == [6]
    assert kept[0].attempts[0].code == jobwire.SILENT
    await run._delivered()
    assert len(kept) == 1, "written once"


async def test_who_fills_a_gateway_leaves_room_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.gateway.MAX_JOBS", 64)
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(GATEWAY)
            await market.orchestrator(SELLER, price=2_000_000, machine=NoopWorker(step_s=1))
            client, _ = await market.client(CLIENT)
            taken = []
            for key in range(5):
                stream = cast(
                    Any, SimpleNamespace(peer=stranger(key), remote=SimpleNamespace(loopback=True, ip="127.0.0.1"))
                )
                while True:
                    bid = replace(await market.bid(client, gateway.key.peer, deadline_ms=600_000), wait=True)
                    run = await gateway.role.take(stream, bid)  # type: ignore[union-attr]
                    if isinstance(run, Refusal):
                        break
                    taken.append(key)
                assert run.code is Code.TOO_MANY
            each = [taken.count(key) for key in range(5)]
            assert all(each)
            assert each == sorted(each, reverse=True)
            assert sum(each) < 32
