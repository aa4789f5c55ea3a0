"""Buyers with a valid key that break rules: the seller goes on, holds little, and works for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from market import jobwire as wire
from market import orchestrator as orchestrators
from market.client import Delivered
from market.conversation import WAITING, Conversation
from market.jobwire import BlobRef
from market.parcels import MAX_EXPECTED, MAX_HELD, Parcels
from market.protocol import CONTROL, JOB
from market.quote import (
    MAX_INDICATIVE,
    MAX_OPEN_EACH,
    NEWCOMER_CHANCES,
    RFQ,
    RFQ_PER_SECOND,
    Decline,
    Places,
    Quote,
    QuoteRefusal,
    Quoting,
    Release,
)
from market.quotedesk import LAPSES
from market.session import Selling, SellingState
from p2p.envelope import Signed, open_signed
from p2p.errors import BadSignature, PeerFault, Refused
from p2p.memory import MemoryNetwork, running
from p2p.peer import address_of
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import PeerAddrs, Stream
from tests.support.hostile import SHAPE, SPEC, HostileGateway, hear, hung_up, stream_to
from tests.support.market_values import NETWORK, SETTLEMENT, Key, offer, shape, stranger
from tests.support.marketplace import Marketplace, Place, marketplace

PRICE = 2_000_000


async def works(market: Marketplace, gateway: Place, number: int = 50) -> None:
    """An honest client gets its picture."""
    client, _ = await market.client(number)
    got = await client.bid(gateway.key.peer, await market.bid(client, gateway.key.peer), lambda news: None)
    assert isinstance(got, Delivered)


def sales(seller: Place) -> dict[Any, Any]:
    return seller.role._sales  # type: ignore[union-attr]


async def quoted(bad: HostileGateway, seller: Place) -> Signed:
    answer = await bad.ask(seller.key.peer)
    assert isinstance(answer, Signed)
    return answer


# -- awards ----------------------------------------------------------------------------------------------------------


async def test_awards_that_take_no_quote_of_ours_leave_nothing(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway, seller = await market.gateway(1), await market.orchestrator(2, PRICE, NoopWorker(slots=2), slots=2)
            bad = await HostileGateway.join(market, 9, nursery)
            other = await HostileGateway.join(market, 8, nursery)
            good, stolen = await quoted(bad, seller), await quoted(other, seller)
            unread = Signed(msgpack.packb(["quote", 99]), bytes(65))
            plain = bad.award(good)
            for award, code in (
                (replace(plain, quote=unread), wire.BUSY),
                (bad.award(stolen), wire.BUSY),
                (replace(plain, price=1), wire.OTHER_BODY),
                (replace(plain, spec=replace(SPEC, shape=replace(SHAPE, width=1024))), wire.OTHER_BODY),
                (replace(plain, finish_by_ms=1), wire.OTHER_BODY),
                (replace(plain, slices=1), wire.BAD_INPUT),
                (replace(plain, inputs=(BlobRef(b"i" * 32, 1),)), wire.BAD_INPUT),
            ):
                said = await bad.send(seller.key.peer, award)
                assert isinstance(said, wire.JobRefusal)
                assert said.code == code
            forged = bad.award(bad.own_quote(bad.key))
            assert await bad.send(seller.key.peer, forged) is None
            assert [type(one) for one in seller.seat.failures if isinstance(one, PeerFault)] == [BadSignature]
            assert sales(seller) == {}
            assert await seller.role._shop.store.load() == []  # type: ignore[union-attr]
            await works(market, gateway)
            nursery.cancel_scope.cancel()


async def test_a_quote_is_taken_once_and_a_repeat_gets_the_same_answer(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            await market.gateway(1)
            seller = await market.orchestrator(2, PRICE)
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            award = bad.award(await quoted(bad, seller))
            first, again = [await bad.send(seller.key.peer, award) for _ in range(2)]
            assert isinstance(first, wire.Acceptance)
            assert again == first
            replay = await bad.send(seller.key.peer, replace(award, job_id=b"x" * 32))
            assert (type(replay), replay.code) == (wire.JobRefusal, wire.BUSY)
            assert len(sales(seller)) == 1
            for said in (wire.Resume(b"y" * 32, 1), wire.Closure(b"y" * 32, 1, wire.DONE)):
                assert (await bad.send(seller.key.peer, said)).code == wire.UNKNOWN
            assert await bad.send(seller.key.peer, wire.Start(b"y" * 32, 1)) is None
            assert isinstance(seller.seat.failures[-1], PeerFault)
            nursery.cancel_scope.cancel()


async def test_one_gateway_does_not_fill_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestrators, "MAX_SALES_EACH", 2)
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway, seller = await market.gateway(1), await market.orchestrator(2, PRICE, NoopWorker(slots=4), slots=4)
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            awards = [bad.award(await quoted(bad, seller), number) for number in (1, 2, 3)]
            said = [await bad.send(seller.key.peer, award) for award in awards]
            assert [type(one) for one in said] == [wire.Acceptance, wire.Acceptance, wire.JobRefusal]
            await works(market, gateway)
            over = await bad.send(seller.key.peer, wire.Cancellation(awards[0].job_id, 1, wire.CANCELLED))
            assert isinstance(over, wire.Closure)
            fresh = bad.award(await quoted(bad, seller), 4)  # the one that is over makes room
            assert isinstance(await bad.send(seller.key.peer, fresh), wire.Acceptance)
            nursery.cancel_scope.cancel()


async def test_places_that_are_taken_and_not_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.session.seller.COVER_MS", 20)
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway, seller = await market.gateway(1), await market.orchestrator(2, PRICE)
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            for number in range(LAPSES + 1):
                award = bad.award(await quoted(bad, seller), number)
                async with stream_to(market, bad.seat, seller.key.peer, JOB) as stream:
                    await stream.send(award)
                    assert (await hear(stream, wire.Failure)).code == wire.UNCOVERED
            refused = await bad.ask(seller.key.peer)
            assert isinstance(refused, QuoteRefusal)
            assert refused.code is Decline.UNFUNDED
            assert seller.books.standing(bad.key.address).faults == 0
            monkeypatch.undo()
            await works(market, gateway)
            nursery.cancel_scope.cancel()


# -- money -----------------------------------------------------------------------------------------------------------


async def _worked(bad: HostileGateway, seller: Place, number: int) -> wire.Seal:
    """The seal of one job that was reserved and awarded as it should be; then the buyer is gone."""
    award = bad.award(await quoted(bad, seller), number)
    async with stream_to(bad.market, bad.seat, seller.key.peer, JOB) as stream:
        await stream.send(award)
        taken = await hear(stream, wire.Acceptance)
        if taken.due:
            await stream.send(await bad.tickets(award, taken.due, taken.params))
        seal: wire.Seal = await hear(stream, wire.Seal)
    return seal


async def test_keys_are_given_first_to_one_job_at_a_time(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            seller = await market.orchestrator(2, PRICE)
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            assert (await _worked(bad, seller, 1)).key is not None
            assert (await _worked(bad, seller, 2)).key is None
            nursery.cancel_scope.cancel()


async def test_what_is_worked_and_not_paid_counts_into_the_exposure(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway, seller = await market.gateway(1), await market.orchestrator(2, PRICE)
            shop = seller.role._shop  # type: ignore[union-attr]
            seller.role._shop = replace(shop, small_job=2 * SHAPE.units)  # type: ignore[union-attr]
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            await _worked(bad, seller, 1)
            await _worked(bad, seller, 2)
            said = await bad.send(seller.key.peer, bad.award(await quoted(bad, seller), 3))
            assert (said.code, said.have, said.need) == ("EXPOSURE", 2 * SHAPE.units, 3 * SHAPE.units)
            await works(market, gateway)
            nursery.cancel_scope.cancel()


def test_a_key_that_was_given_first_and_never_paid_is_a_fault() -> None:
    from market.session import events as ev
    from tests.support.session_world import award, seal_made

    job, selling = award(), Selling()
    for event in (ev.Connected(), job, ev.AwardJudged(cover=10**6, first=True), ev.WorkDone(), seal_made(job, 1600)):
        selling.handle(event, 0)
    selling.handle(ev.ReceiptSigned(Signed(b"r", bytes(65))), 0)
    selling.handle(ev.Disconnected(), 0)  # with the key in its hands, and no byte acknowledged
    assert selling.state is SellingState.SEALED
    codes = [type(command).__name__ for command in selling.handle(ev.Ticked(), 600_000)]
    assert "Fault" in codes


async def test_a_closure_that_says_done_earns_no_standing(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            seller = await market.orchestrator(2, PRICE)
            bad = await HostileGateway.join(market, 9, nursery)
            await bad.fund(nursery, tmp_path)
            award = bad.award(await quoted(bad, seller))
            async with stream_to(market, bad.seat, seller.key.peer, JOB) as stream:
                await stream.send(award)
                await hear(stream, wire.Acceptance)
                await stream.send(wire.Closure(award.job_id, 1, wire.DONE))
                await stream.send(wire.Resume(award.job_id, 1))
                assert (await hear(stream, wire.Closure)).code == wire.CANCELLED
            assert seller.books.standing(bad.key.address).delivered == 0
            nursery.cancel_scope.cancel()


async def test_two_attempts_are_not_paid_with_one_credit(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            seller = await market.orchestrator(2, PRICE)
            buyer = Key(9)
            sender, job = address_of(buyer.peer), b"j" * 32
            seller.books._seen.accounts[sender] = SimpleNamespace(balance=100)
            sale = SimpleNamespace(sender=sender, name=(job, 1), held=70, is_finished=False)
            seller.role._going[buyer.peer, job, 1] = sale  # type: ignore[union-attr]
            spare = seller.role._spare  # type: ignore[union-attr]
            assert spare(sender, (job, 1)) == 100
            assert spare(sender, (job, 2)) == spare(sender, (b"k" * 32, 1)) == 30
            sale.is_finished = True
            assert spare(sender, (job, 2)) == 100


# -- floods ----------------------------------------------------------------------------------------------------------


async def test_a_flood_on_a_job_stream_waits_with_its_sender() -> None:
    network = MemoryNetwork()
    here, there = network.node(stranger(1)), network.node(stranger(2))
    stuck, handled = trio.Event(), 0

    class Busy:
        wake_at = None
        award = None

        def handle(self, event: object, now: int) -> list[object]:
            return ["work"] if isinstance(event, wire.Tickets) else []

    async def perform(command: object) -> None:
        nonlocal handled
        handled += 1
        await stuck.wait()

    async def keep(record: bytes) -> Any:
        raise AssertionError("nothing to keep")

    talk = Conversation(Busy(), here.peer, Parcels(), perform, keep, buying=False)  # type: ignore[arg-type]

    async def serve(raw: Stream) -> None:
        await talk.attach(MessageStream(raw, JOB_FRAME))

    sent = 0

    async def flood(stream: MessageStream) -> None:
        nonlocal sent
        for _ in range(400):
            await stream.send(wire.Tickets(b"j" * 32, 1, b"p" * 32, bytes(60_000)))
            sent += 1

    async with running(here, there), trio.open_nursery() as nursery:
        here.serve(JOB, serve)
        nursery.start_soon(talk.run)
        await there.connect(PeerAddrs(here.peer, (here._addr,)))
        stream = MessageStream(await there.open(here.peer, JOB), JOB_FRAME)
        nursery.start_soon(flood, stream)
        await trio.testing.wait_all_tasks_blocked(0.05)
        waiting = talk._events.statistics().current_buffer_used
        assert handled == 1
        assert waiting <= WAITING + 1
        assert sent < 200, "what is not read fills the sender's buffers, and no more"
        stuck.set()
        nursery.cancel_scope.cancel()


def test_a_job_has_so_many_blobs_and_so_many_bytes() -> None:
    parcels = Parcels()
    for number in range(MAX_EXPECTED):
        parcels.expect(BlobRef(bytes([number]) * 32, 1))
    assert parcels.expect(BlobRef(bytes(32), 1)) is False
    with pytest.raises(PeerFault):
        parcels.expect(BlobRef(b"\xff" * 32, 1))
    with pytest.raises(Refused):
        Parcels().expect(BlobRef(b"\xff" * 32, MAX_HELD + 1))
    two = Parcels()
    two.expect(BlobRef(b"\x01" * 32, MAX_HELD))
    with pytest.raises(Refused):
        two.expect(BlobRef(b"\x02" * 32, 1))


async def test_quotes_are_asked_for_at_a_bounded_rate(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            gateway, seller = await market.gateway(1), await market.orchestrator(2, PRICE)
            bad = await HostileGateway.join(market, 9, nursery)
            answers = []
            async with stream_to(market, bad.seat, seller.key.peer, CONTROL) as stream:
                for _ in range(3 * RFQ_PER_SECOND):
                    await stream.send(bad.rfq())
                for _ in range(3 * RFQ_PER_SECOND):
                    answers.append(await stream.receive(timeout=5))
                await stream.send(bad.rfq(shape=shape(model=b"\x07" * 32)))
                await stream.send(wire.Start(b"y" * 32, 1))
                assert await hung_up(stream)
            refused = [one.code for one in answers if isinstance(one, QuoteRefusal)]
            assert refused.count(Decline.TOO_MANY) >= RFQ_PER_SECOND
            assert any(isinstance(fault, PeerFault) for fault in seller.seat.failures)
            await works(market, gateway)
            nursery.cancel_scope.cancel()


def quoting() -> tuple[Quoting, Any]:
    seller = stranger(1)
    return Quoting(seller, NETWORK, SETTLEMENT), offer(seller)


def rfq(number: int) -> RFQ:
    return RFQ(number.to_bytes(16, "big"), NETWORK, SETTLEMENT, shape(), 2000)


FREE = Places(free=1, queue=0, queue_ms=0, run_ms=0)


def test_whoever_never_awards_gets_no_more_holds() -> None:
    desk, ours = quoting()
    held = 0
    for number in range(NEWCOMER_CHANCES + 5):
        answer = desk.answer(rfq(number), stranger(2), ours, FREE, 3000 * number, funded=True)
        assert isinstance(answer, Quote)
        held += answer.hold_ms > 0
    assert held == NEWCOMER_CHANCES
    honest = desk.answer(rfq(999), stranger(3), ours, FREE, 3000 * number, funded=True)
    assert isinstance(honest, Quote)
    assert honest.hold_ms


def test_strangers_together_hold_no_more_than_the_places() -> None:
    desk, ours = quoting()
    answers = [desk.answer(rfq(n), stranger(n), ours, FREE, 0, funded=True) for n in range(2, 40)]
    assert desk.held(0) == 1
    assert [type(answer) for answer in answers[1:]] == [QuoteRefusal] * 37


def test_open_quotes_are_bounded_and_nobody_pushes_a_held_one_out() -> None:
    desk, ours = quoting()
    kept = rfq(0)
    desk.answer(kept, stranger(2), ours, replace(FREE, free=2), 0, funded=True)
    for number in range(1, MAX_INDICATIVE + 200):
        desk.answer(rfq(number), stranger(3 + number), ours, replace(FREE, free=2), 0, funded=False)
    assert len(desk._open) == MAX_INDICATIVE + 1
    assert desk.find(kept.digest, stranger(2), 0) is not None
    for number in range(4):  # the rate lets a few hundred through within the life of a quote
        for turn in range(RFQ_PER_SECOND):
            fresh = rfq(10_000 + 100 * number + turn)
            desk.answer(fresh, stranger(9_999), ours, replace(FREE, free=2), 1000 * number, funded=False)
    assert sum(hold.gateway == stranger(9_999) for hold in desk._open.values()) <= MAX_OPEN_EACH


async def test_a_release_of_somebody_elses_quote_is_nothing(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market, trio.open_nursery() as nursery:
            seller = await market.orchestrator(2, PRICE)
            bad = await HostileGateway.join(market, 9, nursery)
            good = await HostileGateway.join(market, 8, nursery)
            await good.fund(nursery, tmp_path)
            kept = await quoted(good, seller)
            quote, _ = open_signed(kept, Quote)
            async with stream_to(market, bad.seat, seller.key.peer, CONTROL) as stream:
                await stream.send(Release(quote.rfq))
                await stream.send(bad.rfq(shape=shape(model=b"\x07" * 32)))
                assert (await stream.receive(timeout=5)).code is Decline.NOT_OFFERED
            assert isinstance(await good.send(seller.key.peer, good.award(kept)), wire.Acceptance)
            nursery.cancel_scope.cancel()
