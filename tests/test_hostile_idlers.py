"""Peers that are there and do nothing, or the same again and again: each is given up, or left, within a bound."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from market import jobwire as wire
from market import pace
from market.aftermath import Aftermath
from market.conversation import now_ms
from market.jobwire import BlobRef
from market.pace import Pace
from market.parcels import REPEATS, Parcels
from market.quote import HOLDS_EACH, LATE_WORD_MS, QUOTES_COUNTED, RFQ_PER_SECOND, Places, Quoting
from market.refusal import Code, Refusal, simple
from market.reputation import Reputation
from market.session import Selling, commands
from market.session import events as ev
from market.session.seller import COVERING_MS
from market.sessionstore import Counted
from p2p.blobs import Chunk, ChunkAck
from p2p.errors import PeerFault
from p2p.peer import PeerId
from p2p.scores import COST, Fault
from p2p.stream import MessageStream
from tests.support.hostile import HostileGateway, HostileSeller
from tests.support.market_values import NETWORK, SETTLEMENT, Key, offer, shape, stranger
from tests.support.marketplace import marketplace
from tests.test_hostile_sellers import honestly, stage
from tests.test_session_stories import TO, Story


async def test_a_seller_that_takes_the_job_and_does_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this the job lasts until its deadline, ten minutes here."""
    monkeypatch.setattr(pace, "STALL_LEAST_S", 0.2)
    monkeypatch.setattr("market.session.buyer.CANCEL_MS", 50)

    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await stream.send(wire.Acceptance(award.job_id, award.attempt, 0, b""))
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        on.liar.finish_ms = 100
        honestly(on, await on.bid(deadline_ms=600_000))
        record = on.record()
        assert (record.measured, record.failed_in_row) == (1, 1)
        assert record.delivered_ppm < 800_000


def bought(run_ms: int, queued_ms: int = 0) -> Any:
    return SimpleNamespace(inside=SimpleNamespace(times=SimpleNamespace(run_ms=run_ms, queued_ms=queued_ms)))


class Books:
    async def record_delivered(self, seller: object, also: object) -> None: ...


class Store:
    def mark(self, *name: object) -> None: ...
    async def count(self, mark: object) -> None: ...


def aftermath(award: wire.Award, seen: Pace, asked_at: int | None = None, **parts: Any) -> Aftermath:
    told: list[Any] = []
    basket = SimpleNamespace(books=Books(), store=Store(), reputation=Reputation(), measured=told.append, **parts)
    return Aftermath(cast(Any, basket), Key(9).peer, award, Counted.NOTHING, seen, asked_at)


@pytest.mark.parametrize(("signed_ms", "queue", "speed"), [(1, 0, 10), (10_000, 0, 10), (20_000, 0, 5), (1, 1, 10)])
async def test_a_speed_is_measured_by_our_own_clock(signed_ms: int, queue: int, speed: int) -> None:
    liar = HostileSeller(None, Key(9), None, None)  # type: ignore[arg-type]
    award = liar.sold_to(stranger(1))
    seen = Pace(award.finish_by_ms)
    seen.taken(100.0)
    seen.sealed_at = 110.0
    after = aftermath(award, seen)
    done = commands.Close(wire.DONE, 0, 0, "", None)
    await after.close(done, bought(signed_ms, 9_000), 0, accepted=True)
    known = after._b.reputation
    units = award.spec.shape.units
    record = known.of(Key(9).peer, 0)
    assert record.speeds[award.spec.shape.model] == units * 1000 // max(signed_ms, 10_000)
    assert speed == 10 * 10_000 // max(signed_ms, 10_000)


async def test_a_seller_that_takes_its_held_quote_back_breaks_its_word() -> None:
    faults: list[Fault] = []
    liar = HostileSeller(None, Key(9), None, None)  # type: ignore[arg-type]
    award = liar.sold_to(stranger(1))
    for code in (wire.BUSY, "EXPOSURE", wire.UNFUNDED):
        after = aftermath(award, Pace(1), report=lambda peer, fault: faults.append(fault), asked_at=now_ms())
        refusal = wire.JobRefusal(award.job_id, 1, code)
        await after.close(commands.Close(code, 0, 0, "", refusal), None, 0, accepted=False)
    assert faults == [Fault.REFUSED_FIRM]


@pytest.mark.parametrize("ago_ms", [None, 2_000, 60_000])
async def test_a_seller_is_not_to_blame_for_an_award_that_came_late(ago_ms: int | None) -> None:
    faults: list[Fault] = []
    liar = HostileSeller(None, Key(9), None, None)  # type: ignore[arg-type]
    award = liar.sold_to(stranger(1))
    asked_at = None if ago_ms is None else now_ms() - ago_ms
    after = aftermath(award, Pace(1), report=lambda peer, fault: faults.append(fault), asked_at=asked_at)
    refusal = wire.JobRefusal(award.job_id, 1, wire.BUSY)
    await after.close(commands.Close(wire.BUSY, 0, 0, "", refusal), None, 0, accepted=False)
    assert faults == []


class Sink:
    """Takes chunks, and acknowledges each at once."""

    def __init__(self, parcels: Parcels) -> None:
        self.parcels, self.bytes = parcels, 0

    async def send(self, chunk: Chunk) -> None:
        self.bytes += len(chunk.data)
        self.parcels.acked(ChunkAck(chunk.blob, chunk.index))
        await trio.lowlevel.checkpoint()


async def test_the_same_bytes_are_sent_so_often_and_no_more() -> None:
    data = bytes(3_000_000)
    ref, parcels = BlobRef(sha256(data).digest(), len(data)), Parcels()
    parcels.offer(ref, data)
    sink = Sink(parcels)
    for _ in range(REPEATS):
        assert await parcels.send(cast(Any, sink), ref.blob)
    for _ in range(3):
        with pytest.raises(PeerFault):
            await parcels.send(cast(Any, sink), ref.blob)
    assert sink.bytes == REPEATS * len(data)
    assert await parcels.send(cast(Any, sink), ref.blob, b"\x07"), "who has it all is sent nothing, as often as he asks"


def test_a_place_that_is_held_and_forgotten_is_told() -> None:
    seller = Quoting(stranger(1), NETWORK, SETTLEMENT)
    mine, places = offer(stranger(1)), Places(free=4, queue=0, queue_ms=0, run_ms=1000)
    rfqs = [HostileGateway(None, Key(n), None).rfq(shape=shape(), hold_ms=500) for n in range(3)]  # type: ignore
    for number, one in enumerate(rfqs):
        seller.answer(one, stranger(10 + number), mine, places, 0, funded=number < 2)
    seller.release(rfqs[0].digest, stranger(10), 100)
    seller.expire(500 + 300 + LATE_WORD_MS - 1)
    assert seller.take_unclaimed() == [], "a word may still be on its way"
    seller.expire(500 + 300 + LATE_WORD_MS)
    assert seller.take_unclaimed() == [stranger(11)], "not who let it go, and not who had no place"
    assert seller.take_unclaimed() == []


@pytest.mark.parametrize(("who", "told"), [(11, []), (12, [stranger(11)])])
def test_a_late_word_is_a_word_of_whose_place_it_was_alone(who: int, told: list[PeerId]) -> None:
    seller = Quoting(stranger(1), NETWORK, SETTLEMENT)
    mine, places = offer(stranger(1)), Places(free=4, queue=0, queue_ms=0, run_ms=1000)
    one = HostileGateway(None, Key(11), None).rfq(shape=shape(), hold_ms=500)  # type: ignore[arg-type]
    seller.answer(one, stranger(11), mine, places, 0, funded=True)
    assert seller.held(799) == 1
    assert seller.held(800) == 0
    seller.release(one.digest, stranger(who), 5000)
    seller.expire(60_000)
    assert seller.take_unclaimed() == told


def test_what_waits_for_a_late_word_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.quote.MAX_OVER", 4)
    seller = Quoting(stranger(1), NETWORK, SETTLEMENT)
    mine, places = offer(stranger(1)), Places(free=64, queue=0, queue_ms=0, run_ms=1000)
    for number in range(6):
        one = HostileGateway(None, Key(20 + number), None).rfq(shape=shape(), hold_ms=1)  # type: ignore[arg-type]
        seller.answer(one, stranger(20 + number), mine, places, number, funded=True)
    seller.expire(1000)
    assert len(seller._over) == 4
    assert seller.take_unclaimed() == [stranger(20), stranger(21)], "judged before their time, the oldest first"


def test_the_best_known_gateway_holds_so_many_places() -> None:
    seller = Quoting(stranger(1), NETWORK, SETTLEMENT)
    mine, places = offer(stranger(1)), Places(free=64, queue=0, queue_ms=0, run_ms=1000)
    known = HostileGateway(None, Key(5), None)  # type: ignore[arg-type]
    now = 0
    for _ in range(QUOTES_COUNTED):
        now += 100
        one = known.rfq(shape=shape(), hold_ms=500)
        seller.answer(one, stranger(5), mine, places, now, funded=True)
        assert seller.award(one.digest, stranger(5), 64, now) is not None
    for _ in range(RFQ_PER_SECOND):
        seller.answer(known.rfq(shape=shape(), hold_ms=2000), stranger(5), mine, places, now, funded=True)
    assert HOLDS_EACH < RFQ_PER_SECOND
    assert seller.held(now) == HOLDS_EACH


async def test_places_that_lapse_cost_whoever_had_them_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.quote.LATE_WORD_MS", 0)
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            seller = await market.orchestrator(2, 2_000_000, NoopWorker(slots=4), slots=4)
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            for _ in range(2):
                await bad.ask(seller.key.peer, bad.rfq(hold_ms=1))
            await trio.sleep(0.5)  # longer than the hold and its grace
            await bad.ask(seller.key.peer)
            assert seller.seat.scores.faults(bad.key.peer) == {Fault.UNCLAIMED: 2}
            assert COST[Fault.UNCLAIMED] > 0
            nursery.cancel_scope.cancel()


async def test_one_address_fills_a_quarter_of_a_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.gateway.MAX_JOBS", 64)
    with trio.fail_after(60):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=2_000_000, machine=NoopWorker(step_s=1))
            client, _ = await market.client(9)
            role: Any = gateway.role
            role._m = replace(role._m, binds=lambda ip: True)

            async def bid_from(ip: str, key: int) -> Any:
                remote = SimpleNamespace(loopback=True, ip=ip)
                bid = replace(await market.bid(client, gateway.key.peer, deadline_ms=600_000), wait=True)
                return await role.take(cast(Any, SimpleNamespace(peer=stranger(key), remote=remote)), bid)

            taken = [await bid_from("127.0.66.1", key) for key in range(20)]
            assert [isinstance(one, Refusal) for one in taken] == [False] * 16 + [True] * 4
            assert taken[-1].code is simple(Code.TOO_MANY, "").code
            assert not isinstance(await bid_from("127.0.0.1", 99), Refusal)


def test_an_award_has_its_time_to_be_covered_however_often_its_stream_breaks() -> None:
    long = replace(TO, finish_by_ms=60_000, deadline_ms=120_000)
    story = Story(Selling()) >> ev.Connected() >> long >> ev.AwardJudged(params=b"p")
    for at in range(4000, COVERING_MS, 4000):
        story = story.at(at) >> ev.Disconnected() >> ev.Connected()
    story.at(COVERING_MS) >> ev.Ticked()
    assert any(isinstance(said, commands.Close) and said.code == wire.UNCOVERED for said in story._out)
