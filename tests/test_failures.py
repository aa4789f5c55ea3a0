"""A market of real processes in which things go wrong: no match, a caller who leaves, a winner who is killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.bookkeeping import book_pair, customer_jobs, faults, violations
from tests.support.processes import LocalMarket, Process, local_market, news_of, outcome

pytestmark = pytest.mark.live

Nodes = dict[str, Process]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path_factory.mktemp("failures"), request) as market:
        yield market


@pytest.fixture(scope="module")
def nodes(market: LocalMarket) -> Nodes:
    """A gateway that everybody meets at, and two sellers."""
    started = {
        "gateway": market.role("gateway", "--data-dir", str(market.home / "gateway")),
        "one": market.role("orchestrator", "--data-dir", str(market.home / "one")),
        "two": market.role("orchestrator", "--data-dir", str(market.home / "two")),
    }
    for node in started.values():
        node.ready()
    started["gateway"].said("offers=2")
    return started


def journal(market: LocalMarket, name: str) -> Path:
    return market.home / name / "journal.db"


def said_ready(node: Process) -> dict[str, str]:
    said: dict[str, str] = json.loads(node.stdout[0].removeprefix("READY "))
    return said


def address(node: Process) -> bytes:
    return bytes.fromhex(said_ready(node)["address"].removeprefix("0x"))


@pytest.fixture(autouse=True)
def nobody_stumbles(nodes: Nodes) -> Generator[None]:
    """Whatever happens in a test, no traceback comes on any terminal."""
    yield
    for node in nodes.values():
        assert "Traceback" not in node.errors(), node.tail()


def test_a_limit_below_every_price_is_no_match(market: LocalMarket) -> None:
    got = market.bid("a red circle", "--limit", "7", "--steps", "3")
    assert got.code == 3
    assert set(got.report) == {"refusal"}
    refusal = got.report["refusal"]
    assert set(refusal) == {"code", "excluded", "cheapest_wei", "limit_wei", "hint"}
    assert (refusal["code"], refusal["limit_wei"]) == ("NO_MATCH", 7)
    assert refusal["excluded"] == {"price": 2}
    assert refusal["cheapest_wei"] > 7
    assert "limit" in refusal["hint"]
    assert not [one for one in got.news if one["event"] == "auction"]  # at once, without asking anybody


def test_a_picture_larger_than_anybody_makes_is_no_match(market: LocalMarket) -> None:
    got = market.bid("a red circle", "--width", "1024", "--height", "1024")
    assert got.code == 3
    assert got.report["refusal"]["excluded"] == {"parameters": 2}


def test_a_picture_larger_than_any_market_serves_is_bad_usage(market: LocalMarket) -> None:
    process = market.start("bid", "text-to-image", "--prompt", "a red circle", "--width", "4096", "--json")
    assert process.wait() == 2
    assert "4096" in process.errors().splitlines()[-1]
    assert "Traceback" not in process.errors()


def test_an_unknown_model_is_refused_by_name(market: LocalMarket) -> None:
    process = market.start("bid", "text-to-image", "--prompt", "a red circle", "--model", "nobody-has-it", "--json")
    assert process.wait() == 2
    assert "nobody-has-it" in process.errors()
    assert "on offer" in process.errors()


def test_ctrl_c_takes_the_bid_back_and_says_what_it_cost(market: LocalMarket, nodes: Nodes) -> None:
    bidding = market.bidding("a red circle", "--steps", "900", "--deadline", "300")
    bidding.said('"event": "step"')
    bidding.signal(signal.SIGINT)
    got = outcome(bidding)
    assert got.code == 4
    refusal = got.report["refusal"]
    assert refusal["code"] == "CANCELLED"
    taken = next(one for one in got.news if one["event"] == "taken")
    assert 0 <= refusal["charged_wei"] <= taken["limit_wei"] // 16
    assert "charged" in refusal["hint"]


def test_a_killed_winner_is_replaced_and_paid_nothing_by_the_customer(market: LocalMarket, nodes: Nodes) -> None:
    bidding = market.bidding("a red circle", "--steps", "200", "--deadline", "300")
    bidding.said('"event": "step"')
    winner = next(one["orchestrator"] for one in news_of(bidding) if one["event"] == "step")
    dead = next(name for name in ("one", "two") if said_ready(nodes[name])["peer_id"] == winner)
    nodes[dead].kill()
    got = outcome(bidding)
    assert got.code == 0, bidding.tail()
    assert got.report["tried"] == [winner, got.report["orchestrator"]]
    assert got.report["orchestrator"] != winner
    assert {one["job_id"] for one in got.news if one.get("job_id")} == {got.report["job_id"]}

    ours, theirs = journal(market, "gateway"), journal(market, dead)
    books = book_pair(ours, theirs, address(nodes["gateway"]), address(nodes[dead]))
    assert books.explained, books
    assert books.sent_credit > books.sent_debit  # what it was paid for this job is credit with it
    assert faults(ours, "out", address(nodes[dead])) == 1
    spent = customer_jobs(ours)[bytes.fromhex(got.report["job_id"])]
    assert spent == ("charged", got.report["price_wei"])
    assert violations(ours) == ()
