"""Real processes, SIGKILL at a named point, the same directory again: the books of both sides and the chain."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from market.conversation import AWARD_SENT, KEY_SENT, SEALED, TICKETS_SENT
from tests.support.bookkeeping import BookPair, book_pair, customer_jobs, violations
from tests.support.processes import BidOutcome, LocalMarket, Process, eventually, local_market, outcome

pytestmark = pytest.mark.live

KILLABLE = "tests/support/killable.py"
ROLES = {"gateway": "gateway", "seller": "orchestrator"}
POINTS = ((AWARD_SENT, 1), (SEALED, 1), (TICKETS_SENT, 1), (KEY_SENT, 1))


@dataclass
class Pair:
    """A gateway and the only seller, each in its directory through all of its lives."""

    market: LocalMarket
    nodes: dict[str, Process]

    def begin(self, name: str, kill_at: str = "") -> None:
        """One life; with ``kill_at`` it ends there, and no supervisor begins another."""
        flags = ("--role", ROLES[name], "--data-dir", str(self.market.home / name))
        flags += ("--no-supervisor",) if kill_at else ()
        script = {"script": KILLABLE, "KILL_AT": kill_at} if kill_at else {}
        self.nodes[name] = self.market.start(*flags, **script)

    def again(self, name: str, kill_at: str = "") -> None:
        if self.nodes[name].alive:
            self.nodes[name].kill()
        self.begin(name, kill_at)
        self.nodes[name].ready()

    def journal(self, name: str) -> Path:
        return self.market.home / name / "journal.db"

    def address(self, name: str) -> bytes:
        said = json.loads(self.nodes[name].stdout[0].removeprefix("READY "))
        return bytes.fromhex(said["address"].removeprefix("0x"))

    def books(self) -> BookPair:
        return book_pair(
            self.journal("gateway"), self.journal("seller"), self.address("gateway"), self.address("seller")
        )

    def wallet(self, name: str) -> dict[str, Any]:
        process = self.market.run("wallet", "show", "--json", "--data-dir", str(self.market.home / name))
        said: dict[str, Any] = json.loads(process.stdout[-1])
        return said


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Generator[Pair]:
    with local_market(tmp_path_factory.mktemp("restarts"), request) as market:
        market.role("bootstrap").ready()
        pair = Pair(market, {})
        for name in ROLES:
            pair.begin(name)
        for node in pair.nodes.values():
            node.ready()
        yield pair


def killed_at(pair: Pair, victim: str, point: str, nth: int) -> BidOutcome:
    """A bid during which ``victim`` dies at ``point`` and comes back."""
    pair.again(victim, f"{point}:{nth}")
    pair.nodes["gateway"].said("offers=1")
    bidding = pair.market.bidding("a red circle", "--steps", "12", "--deadline", "120")
    pair.nodes[victim].wait()
    pair.begin(victim)
    pair.nodes[victim].ready()
    return outcome(bidding)


def check(pair: Pair, got: BidOutcome) -> None:
    assert got.code == 0, got.process.tail()
    job = bytes.fromhex(got.report["job_id"])
    eventually(lambda: pair.books().explained, f"the books differ: {pair.books()}", 30)
    assert customer_jobs(pair.journal("gateway"))[job] == ("charged", got.report["price_wei"])
    for name, node in pair.nodes.items():
        assert violations(pair.journal(name)) == ()
        assert "Traceback" not in node.errors(), node.tail()


def chain_agrees(pair: Pair) -> bool:
    """What the seller's books call redeemed is what the broker has for it, to the wei, and nothing was lost."""
    wallet = pair.wallet("seller")
    tickets = wallet["tickets"]
    assert tickets["lost"] == 0
    return bool(tickets["redeemed_wei"] == wallet["fees_wei"] and not tickets["pending"])


def test_a_gateway_killed_when_its_tickets_left(pair: Pair) -> None:
    check(pair, killed_at(pair, "gateway", TICKETS_SENT, 1))
    check(pair, pair.market.bid("a blue square", "--steps", "4"))


@pytest.mark.prove
@pytest.mark.parametrize(("point", "nth"), POINTS)
@pytest.mark.parametrize("victim", ["gateway", "seller"])
def test_killed_at_every_point(pair: Pair, victim: str, point: str, nth: int) -> None:
    check(pair, killed_at(pair, victim, point, nth))


def test_after_all_of_that_the_chain_agrees(pair: Pair) -> None:
    eventually(lambda: chain_agrees(pair), "the chain and the books differ", 90)
