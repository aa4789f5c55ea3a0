"""Sellers with a valid key that lie: the customer gets an honest picture, and a lie draws no more than is due."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
import trio.lowlevel

from benchmarks.noop_worker import blank
from ledger.money import ETH
from ledger.ticket import CERTAIN
from market import jobwire as wire
from market.bidwire import JobNews, News
from market.client import Client, Delivered
from market.purchase import MAX_FAULTY_STREAMS
from market.reputation import FAILURES_BAN, MAX_BAN_MS, SET_ASIDE_MS, Reputation
from market.sale import Sale
from p2p.blobs import Chunk
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.stream import MessageStream
from tests.support.hostile import Act, HostileSeller
from tests.support.market_values import SETTLEMENT, Key, stranger
from tests.support.marketplace import Marketplace, Place, marketplace

HONEST, LIAR = 2, 9


@dataclass
class Stage:
    """A gateway, a client, an honest seller, and a liar who is cheaper and therefore asked first."""

    market: Marketplace
    gateway: Place
    honest: Place
    liar: HostileSeller
    client: Client
    heard: list[JobNews]

    async def bid(self, **wish: Any) -> Any:
        def tell(news: object) -> None:
            if isinstance(news, JobNews):
                self.heard.append(news)

        bid = await self.market.bid(self.client, self.gateway.key.peer, **wish)
        return await self.client.bid(self.gateway.key.peer, bid, tell)

    def record(self) -> Any:
        return self.gateway.role.reputation.of(self.liar.key.peer, int(trio.current_time() * 1000))  # type: ignore

    @property
    def spared(self) -> bool:
        """Whether the liar got nothing but what a reservation may be."""
        books: Any = self.gateway.books
        award = self.liar.awards[0]
        return bool(books.at_risk(self.liar.key.address) <= award.price // 4)


@asynccontextmanager
async def stage(folder: Path, act: Act) -> AsyncGenerator[Stage]:
    with trio.fail_after(40):
        async with marketplace(folder) as market, trio.open_nursery() as nursery:
            gateway = await market.gateway(1)
            liar = await HostileSeller.join(market, LIAR, nursery, act)
            honest = await market.orchestrator(HONEST, price=2_000_000)
            client, _ = await market.client(3)
            yield Stage(market, gateway, honest, liar, client, [])
            nursery.cancel_scope.cancel()


def honestly(stage: Stage, got: Any) -> None:
    """The picture came from the honest seller, after the liar had its chance, at the honest price alone."""
    assert isinstance(got, Delivered), (got, stage.liar.errors)
    assert got.done.orchestrator == stage.honest.key.peer
    assert stage.liar.awards
    assert got.receipt.price == got.done.price


# -- bytes that are wrong --------------------------------------------------------------------------------------------


def odd(*parts: Any) -> bytes:
    data: bytes = msgpack.packb(list(parts))
    return data


async def test_ticket_params_that_cannot_be_read(tmp_path: Path) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        junk = (odd("ticket-params", 99, 1), b"\xc1")[len(liar.awards) - 1]
        await liar.accept(stream, award, due=award.price // 16, params=junk)
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        for count in (1, 2):
            honestly(on, await on.bid())
            assert on.spared
            with trio.fail_after(5):
                while len(on.liar.closed_as) < count:
                    await trio.lowlevel.checkpoint()
        assert on.liar.closed_as == ["BAD_PARAMS"] * 2


async def test_a_commitment_of_an_unknown_version_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.session.buyer.GRACE_MS", 300)
    monkeypatch.setattr("market.purchase.REDIAL_S", 0.01)

    streams = 0

    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        nonlocal streams
        streams += 1
        await liar.accept(stream, award)
        strange = Signed(odd("commitment", 99), bytes(65))
        await stream.send(wire.Seal(award.job_id, award.attempt, strange))
        await stream.send(wire.Failure(award.job_id, award.attempt, wire.FAILED))
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        assert streams == 1
        assert on.record().faults == 0
        assert on.record().measured == 1


async def test_ever_new_files_are_not_all_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More blobs than a Resume may name, begun one by one, and the stream broken: it must be resumed all the same."""
    monkeypatch.setattr("market.session.buyer.GRACE_MS", 300)
    monkeypatch.setattr("market.purchase.REDIAL_S", 0.01)
    named = 0

    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        nonlocal named
        await liar.accept(stream, award)
        big = 2 * 2**20
        while True:
            named += 1
            digest = named.to_bytes(16, "big") + bytes(16)
            file = wire.SealedArtifact("image/png", wire.BlobRef(digest, big), wire.BlobRef(digest, big))
            await stream.send(wire.Seal(award.job_id, award.attempt, liar.commitment(award, [file])))

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        assert on.record().faults == 1


@pytest.mark.parametrize("lie", ["key", "receipt"])
async def test_a_result_that_is_none_is_a_fault_and_not_paid(tmp_path: Path, lie: str) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award)
        data = blank(64, 64)
        artifacts, ciphers = liar.sealed(award, data)
        receipt = liar.receipt(award, [data], stream.peer, seed=8 if lie == "receipt" else award.spec.seed)
        key = liar.secret(award, b"?" * 32 if lie == "key" else b"k" * 32)
        await stream.send(wire.Seal(award.job_id, award.attempt, liar.commitment(award, artifacts), key, receipt))
        await liar.upload(stream, ciphers[0])
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        record = on.record()
        assert record.faults == 1
        assert record.banned_until > trio.current_time() * 1000 + 60_000
        assert on.gateway.books.at_risk(on.liar.key.address) == 0  # type: ignore[union-attr]


async def test_a_true_key_and_receipt_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award)
        data = blank(64, 64)
        artifacts, ciphers = liar.sealed(award, data)
        receipt = liar.receipt(award, [data], stream.peer)
        bound = liar.commitment(award, artifacts)
        await stream.send(wire.Seal(award.job_id, award.attempt, bound, liar.secret(award), receipt))
        await liar.upload(stream, ciphers[0])
        await liar.listen(stream)

    monkeypatch.setattr("market.session.buyer.PAYING_MS", 100)
    async with stage(tmp_path, act) as on:
        with trio.move_on_after(2):
            await on.bid()
        assert News.OPENED in [news.event for news in on.heard if news.orchestrator == on.liar.key.peer]


async def test_signatures_and_names_of_a_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.session.buyer.GRACE_MS", 100)
    monkeypatch.setattr("market.purchase.REDIAL_S", 0.01)
    turn = 0

    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        nonlocal turn
        await liar.accept(stream, award)
        artifacts, _ = liar.sealed(award)
        bound = liar.commitment(award, artifacts)
        stolen = sign(wire.Commitment(award.job_id, award.attempt, tuple(artifacts), award.price, 0, b""), Key(77))
        other = liar.commitment(award, artifacts, attempt=award.attempt + 1)
        turn += 1
        await stream.send(wire.Seal(award.job_id, award.attempt, (stolen, other, bound)[turn % 3]))
        junk = Chunk(b"?" * 16, 0, b"d" * 32, b"data")
        await stream.send(junk)  # a chunk that nobody waits for
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        assert turn == MAX_FAULTY_STREAMS, "a broken stream is tried again, a few times"
        assert on.record().faults == 1


# -- money -----------------------------------------------------------------------------------------------------------


async def test_a_seal_above_the_quote(tmp_path: Path) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award)
        artifacts, _ = liar.sealed(award)
        dear = liar.commitment(award, artifacts, price=award.price + 1)
        await stream.send(wire.Seal(award.job_id, award.attempt, dear))
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        assert on.record().faults == 1
        assert on.gateway.books.at_risk(on.liar.key.address) == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "lies",
    [
        [{"face_value": ETH // 20, "win_prob": CERTAIN}, {"face_value": ETH // 10, "win_prob": CERTAIN // 2}],
        [{"face_value": ETH * 1000, "win_prob": CERTAIN // 10**9}, {"face_value": 2**96 - 1, "win_prob": CERTAIN}],
        [{"win_prob": 0}, {"recipient": Key(77).address}],
        [{"settlement": replace(SETTLEMENT, chain_id=1)}, {"lives_for_ms": 1}],
    ],
    ids=["certain", "absurd", "nothing", "elsewhere"],
)
async def test_ticket_params_that_would_draw_more_than_is_due(tmp_path: Path, lies: list[Any]) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        plain, changes = liar.params(face_value=award.price // 4), lies[len(liar.awards) - 1]
        bad = encode(replace(plain, **changes))
        await liar.accept(stream, award, due=2**64, params=bad)
        while True:
            said = await stream.receive(timeout=10)
            if isinstance(said, wire.Tickets):
                liar.said.append(said)
                name = (award.job_id, award.attempt, said.payment_id)
                fresh = encode(replace(plain, rand_hash=len(liar.said).to_bytes(32, "big"), **changes))
                if said.payment:
                    await stream.send(wire.Failure(award.job_id, award.attempt, wire.FAILED))
                else:
                    await stream.send(wire.TicketsVerdict(*name, b"", 2**64, fresh))
            elif said is None or isinstance(said, wire.Closure):
                break

    async with stage(tmp_path, act) as on:
        for count in (1, 2):
            honestly(on, await on.bid())
            assert on.spared
            assert on.record().measured == count


async def test_paid_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seller that takes the price and keeps the key: a fault, and what it has is credit with it."""
    monkeypatch.setattr("market.session.buyer.KEY_MS", 150)
    honest, kept = Sale._receipt, []

    async def keep_it(self: Sale, price: int, paid: int) -> None:
        if self._shop.signer.peer == Key(LIAR).peer:
            kept.append(price)
        else:
            await honest(self, price, paid)

    monkeypatch.setattr(Sale, "_receipt", keep_it)
    with trio.fail_after(40):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            liar = await market.orchestrator(LIAR, price=1_000_000)
            for _ in range(5):  # no newcomer, so that it is paid before its key is due
                await liar.books.record_delivered(gateway.key.address)
            seller = await market.orchestrator(HONEST, price=2_000_000)
            client, _ = await market.client(3)
            bid = await market.bid(client, gateway.key.peer)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Delivered)
            assert got.done.orchestrator == seller.key.peer
            assert kept
            books: Any = gateway.books
            assert books.standing(liar.key.address).faults == 1
            assert books.credit_with(liar.key.address) == kept[0]
            assert await books.spent_on(got.done.job_id) == got.receipt.price


async def test_verdicts_that_somebody_else_signed_credit_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.session.buyer.KEY_MS", 100)
    monkeypatch.setattr("market.session.buyer.GRACE_MS", 100)

    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award, due=award.price // 16, params=encode(liar.params(face_value=award.price // 4)))
        while isinstance(said := await stream.receive(timeout=5), wire.Tickets | wire.Award):
            if isinstance(said, wire.Tickets):
                name = (award.job_id, award.attempt, said.payment_id)
                for verdict in (b"junk", odd("payment-verdict", 99), liar.verdict(said, stream.peer, Key(77))):
                    await stream.send(wire.TicketsVerdict(*name, verdict, 0, b""))
                await stream.send(wire.Failure(award.job_id, award.attempt, wire.FAILED))

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        books: Any = on.gateway.books
        assert books.credit_with(on.liar.key.address) == 0
        assert on.spared


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [wire.DONE, wire.CANCELLED, wire.DEADLINE, "WHATEVER"])
async def test_a_job_taken_and_dropped_is_measured_whatever_it_is_called(tmp_path: Path, code: str) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award)
        await stream.send(wire.Closure(award.job_id, award.attempt, code))
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        assert on.record().measured == 1
        assert on.record().delivered_ppm < 800_000


async def test_a_job_held_until_its_deadline_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.session.buyer.CANCEL_MS", 50)

    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award)
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        await on.bid(deadline_ms=1500)
        while not on.record().measured:
            await trio.lowlevel.checkpoint()
        assert on.record().delivered_ppm < 800_000


def test_failures_in_a_row_ban_for_a_while() -> None:
    known, seller = Reputation(), stranger(1)
    for _ in range(FAILURES_BAN - 1):
        known.failed(seller, 0)
    known.delivered(seller, 0)
    for _ in range(FAILURES_BAN - 1):
        known.failed(seller, 0)
    assert not known.view(seller, 1).banned
    known.failed(seller, 0)
    assert known.view(seller, SET_ASIDE_MS - 1).banned
    assert not known.view(seller, SET_ASIDE_MS).banned


def test_each_further_failure_sets_aside_for_twice_as_long() -> None:
    known, seller, now = Reputation(), stranger(1), 0
    for _ in range(FAILURES_BAN - 1):
        known.failed(seller, now)
    for times in range(20):
        known.failed(seller, now)
        ends = now + min(SET_ASIDE_MS << times, MAX_BAN_MS)
        assert known.view(seller, ends - 1).banned
        assert not known.view(seller, ends).banned
        now = ends
    known.delivered(seller, now)
    known.failed(seller, now)
    assert not known.view(seller, now).banned


def test_what_was_under_way_at_a_failure_is_no_failure_in_the_row() -> None:
    known, seller = Reputation(), stranger(1)
    for _ in range(10):
        known.failed(seller, 5000, awarded=4000)
    assert not known.view(seller, 5000).banned
    assert known.of(seller, 5000).measured == 10
    known.failed(seller, 6000, awarded=5000)
    known.failed(seller, 7000, awarded=6500)
    assert known.view(seller, 7000).banned


async def test_progress_beyond_any_job_and_endless_previews(tmp_path: Path) -> None:
    async def act(liar: HostileSeller, stream: MessageStream, award: wire.Award) -> None:
        await liar.accept(stream, award)
        for step in (3, 2, 3, 10**9, 4):
            await stream.send(wire.Progress(award.job_id, award.attempt, step, 4, 0))
        for _ in range(300):
            await stream.send(wire.Preview(award.job_id, award.attempt, 1, "image/png", bytes(wire.MAX_PREVIEW)))
        await stream.send(wire.Failure(award.job_id, award.attempt, wire.FAILED))
        await liar.listen(stream)

    async with stage(tmp_path, act) as on:
        honestly(on, await on.bid())
        told = [n.step for n in on.heard if n.event is News.STEP and n.orchestrator == on.liar.key.peer]
        assert told == [3, 4]
