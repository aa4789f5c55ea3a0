"""Checks in a whole market: who opens, who judges, what is concluded, and what it costs a seller."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from compute.evidence import Wrong
from compute.spec import TEXT_TO_IMAGE, VERIFY_STEP
from compute.work import Machine
from market.bid import Bid
from market.checking import Buying, CheckErrand, Outcome
from market.checks import Case, Checked, Conclusion, check_job, evidence_for, excluded_by, read_case, words
from market.checkwords import as_json, lines
from market.client import Client, Delivered
from market.examining import examine
from market.gateway import Gateway
from market.inspecting import NO_INSPECTION, Inspection
from market.refusal import Refusal, Rule
from market.tracedesk import ask_leaves
from p2p.memory import MemoryNode
from tests.support.judging import Forgetful, Forging, Judging, Nonsense, cheat
from tests.support.marketplace import Marketplace, Place, marketplace

BOTH = (TEXT_TO_IMAGE, VERIFY_STEP)
CHALLENGE = b"c" * 32
PRICE = 2_000_000


@dataclass
class Scene:
    """A gateway, a seller, a client that bought of it, and verifiers."""

    market: Marketplace
    gateway: Place
    seller: Place
    client: Client
    seat: MemoryNode
    got: Delivered

    @property
    def case(self) -> Case:
        return read_case(self.got.done.receipt, self.got.files, self.got.bid.spec, ())

    async def check(self, *, through_gateway: bool = False) -> tuple[Checked, Outcome]:
        """The verb, without its command line."""
        case, outcome = self.case, Outcome()
        errand = CheckErrand(case, 2, deadline_ms=10_000)
        buying = Buying(self.client, [self.gateway.key.peer], errand, outcome)
        asked = self.gateway.key.peer if through_gateway else self.seller.key.peer
        greeter, reach = self.market.greeter("client"), self.market.reach(self.seat)

        async def opened(ask: object) -> object:
            return await ask_leaves(self.seat, greeter, reach, asked, ask)  # type: ignore[arg-type]

        return await examine(case, CHALLENGE, 2, opened, buying.verify), outcome  # type: ignore[arg-type]


@asynccontextmanager
async def scene(
    folder: Path, seller: Machine, verifiers: tuple[Machine, ...], inspection: Inspection = NO_INSPECTION
) -> AsyncGenerator[Scene]:
    """The client has bought of the seller; the verifiers sell nothing but checks."""
    with trio.fail_after(60):
        async with marketplace(folder, pipelines=BOTH) as market:
            gateway = await market.gateway(1, inspection=inspection)
            sold = await market.orchestrator(2, price=PRICE, machine=seller)
            for number, machine in enumerate(verifiers, 10):
                await market.orchestrator(number, price=PRICE, machine=machine)
            client, seat = await market.client(3)
            bid = await market.bid(client, gateway.key.peer)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Delivered), got
            assert got.done.orchestrator == sold.key.peer
            yield Scene(market, gateway, sold, client, seat, got)
            role = gateway.role
            assert isinstance(role, Gateway)
            while await role._sessions.load():  # noqa: ASYNC110 - what was bought last is being written down
                await trio.sleep(0.01)


async def test_an_honest_result_passes_and_the_check_is_bought_of_somebody_else(tmp_path: Path) -> None:
    verifier = Judging()
    async with scene(tmp_path, Judging(sells_all=True), (verifier,)) as s:
        checked, outcome = await s.check()
        assert (checked.conclusion, checked.troubles) == (Conclusion.PASSED, ())
        (evidence,) = verifier.checked
        assert evidence.drawn == checked.drawn
        assert evidence.spec == s.got.bid.spec
        assert s.seller.key.peer not in checked.verifiers
        assert outcome.cost > 0
        told = as_json(s.case, checked, outcome.cost)
        assert told["passed"]
        assert len(told["findings"]) == 2 + len(checked.drawn)
        assert lines(s.case, checked, "1 wei")[-1].startswith("passed")


async def test_leaves_come_through_the_gateway_for_who_reaches_nobody_else(tmp_path: Path) -> None:
    async with scene(tmp_path, NoopWorker(), (Judging(),)) as s:
        checked, _ = await s.check(through_gateway=True)
        assert checked.conclusion is Conclusion.PASSED
        assert s.gateway.seat.failures == s.seller.seat.failures == []


async def test_a_cheat_fails_when_two_verifiers_agree(tmp_path: Path) -> None:
    async with scene(tmp_path, cheat(), (Judging(), Judging())) as s:
        checked, _ = await s.check()
        assert checked.conclusion is Conclusion.FAILED
        assert len(set(checked.verifiers)) == 2
        assert {one.what for one in checked.troubles} == {Wrong.STEP}
        assert all(words(one) for one in checked.troubles)


async def test_one_verifier_against_the_seller_is_not_enough(tmp_path: Path) -> None:
    async with scene(tmp_path, cheat(), (Judging(),)) as s:
        checked, _ = await s.check()
        assert checked.conclusion is Conclusion.UNCONFIRMED


async def test_a_lying_verifier_only_raises_a_dispute(tmp_path: Path) -> None:
    async with scene(tmp_path, NoopWorker(), (Judging(tells=lambda true: False), Judging())) as s:
        found = set()
        for _ in range(2):  # whichever is asked first
            found.add((await s.check())[0].conclusion)
        assert found <= {Conclusion.PASSED, Conclusion.DISPUTED}


async def test_what_is_no_verdict_is_passed_over(tmp_path: Path) -> None:
    async with scene(tmp_path, NoopWorker(), (Nonsense(), Judging())) as s:
        checked, _ = await s.check()
        assert checked.conclusion is Conclusion.PASSED
    async with scene(tmp_path / "other", NoopWorker(), (Nonsense(),)) as s:
        checked, _ = await s.check()
        assert checked.conclusion is Conclusion.UNVERIFIED


async def test_no_opening_and_a_false_one_fail_without_a_verifier(tmp_path: Path) -> None:
    async with scene(tmp_path, Forgetful(), ()) as s:
        checked, outcome = await s.check()
        assert checked.conclusion is Conclusion.UNOPENED
        assert "NO_TRACE" in checked.reason
        assert outcome.cost == 0
    async with scene(tmp_path / "other", Forging(), ()) as s:
        checked, outcome = await s.check()
        assert checked.conclusion is Conclusion.FAILED
        assert Wrong.WRONG_PROOF in {one.what for one in checked.troubles}
        assert outcome.cost == 0


async def test_nobody_checks_its_own_work_and_the_counts_say_so(tmp_path: Path) -> None:
    async with scene(tmp_path, Judging(sells_all=True), ()) as s:
        checked, _ = await s.check()
        assert checked.conclusion is Conclusion.UNVERIFIED
        evidence = evidence_for(s.case, (), ())
        spec, files = check_job(s.case, evidence, b"s" * 16, (s.seller.key.peer,))
        assert excluded_by(spec) == {s.seller.key.peer}
        bid = Bid(b"n" * 16, spec, 10**12, 5000)
        refused = await s.client.bid(s.gateway.key.peer, bid, lambda news: None, files=files)
        assert isinstance(refused, Refusal)
        assert refused.counts[Rule.WITHOUT.value] == 1
        assert "own work" in refused.hint


# -- a gateway that checks by itself -----------------------------------------------------------------------------------


async def inspected(s: Scene) -> Checked:
    gateway = s.gateway.role
    assert isinstance(gateway, Gateway)
    while not gateway.inspector.ended:
        await gateway.inspector.changed()
    return gateway.inspector.ended[-1]


EVERY = Inspection(every=1, steps=2)


async def test_a_caught_cheat_loses_its_standing(tmp_path: Path) -> None:
    async with scene(tmp_path, cheat(), (Judging(), Judging()), EVERY) as s:
        gateway = s.gateway.role
        assert isinstance(gateway, Gateway)
        seller = s.seller.key
        assert (await inspected(s)).conclusion is Conclusion.FAILED
        view = gateway.reputation.view(seller.peer, _now())
        assert view.banned
        assert view.newcomer
        assert view.delivered_ppm < 800_000
        assert s.gateway.books.standing(seller.address).faults == 1


@pytest.mark.parametrize("verifiers", [(Judging(),), (Judging(tells=lambda true: False),), ()])
async def test_an_honest_seller_is_held_to_nothing(tmp_path: Path, verifiers: tuple[Machine, ...]) -> None:
    async with scene(tmp_path, NoopWorker(), verifiers, EVERY) as s:
        gateway = s.gateway.role
        assert isinstance(gateway, Gateway)
        checked = await inspected(s)
        assert checked.conclusion in (Conclusion.PASSED, Conclusion.UNCONFIRMED, Conclusion.UNVERIFIED)
        assert not gateway.reputation.view(s.seller.key.peer, _now()).banned
        assert gateway.reputation.of(s.seller.key.peer, _now()).delivered > 0


async def test_a_seller_that_opens_nothing_counts_as_not_delivering(tmp_path: Path) -> None:
    async with scene(tmp_path, Forgetful(), (Judging(),), EVERY) as s:
        gateway = s.gateway.role
        assert isinstance(gateway, Gateway)
        assert (await inspected(s)).conclusion is Conclusion.UNOPENED
        assert gateway.reputation.of(s.seller.key.peer, _now()).failed_in_row == 1


def _now() -> int:
    return int(trio.current_time() * 1000)
