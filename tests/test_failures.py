"""A market of real processes in which things go wrong: no match, a caller who leaves, a winner who is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from market.bidwire import AskModels, CancelBid
from market.hello import Hello
from market.protocol import BID, BOOK, CONTROL, JOB, KAD, MESHSUB
from p2p.addresses import parse_target
from p2p.codec import encode
from p2p.errors import Unavailable
from p2p.framing import frame
from p2p.host import Host
from p2p.identity import Identity
from p2p.transport import PeerAddrs
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


def of_pipeline(refusal: dict[str, Any]) -> dict[str, int]:
    """What was excluded of the offers of the pipeline that was asked for."""
    return {rule: count for rule, count in refusal["excluded"].items() if rule != "pipeline"}


def test_what_nobody_can_serve_is_refused_at_once_and_says_why(market: LocalMarket, nodes: Nodes) -> None:
    cheap = market.bidding("a red circle", "--limit", "7", "--steps", "3")
    large = market.bidding("a red circle", "--width", "1024", "--height", "1024")
    absurd = market.bidding("a red circle", "--width", "4096")
    unknown = market.bidding("a red circle", "--model", "nobody-has-it")

    got = outcome(cheap)
    assert got.code == 3
    assert set(got.report) == {"refusal"}
    refusal = got.report["refusal"]
    assert set(refusal) == {"code", "excluded", "cheapest_wei", "limit_wei", "hint"}
    assert (refusal["code"], refusal["limit_wei"]) == ("NO_MATCH", 7)
    assert of_pipeline(refusal) == {"price": 2}
    assert refusal["cheapest_wei"] > 7
    assert "limit" in refusal["hint"]
    assert not [one for one in got.news if one["event"] == "auction"]  # without asking anybody

    got = outcome(large)
    assert got.code == 3
    assert of_pipeline(got.report["refusal"]) == {"parameters": 2}

    assert absurd.wait() == 2  # beyond what the wire of any market can say
    assert "4096" in absurd.errors().splitlines()[-1]
    got = outcome(unknown)
    assert got.code == 3
    assert of_pipeline(got.report["refusal"]) == {"model": 2}
    assert "nobody-has-it" in got.report["refusal"]["hint"]
    assert "on offer" in got.report["refusal"]["hint"]
    for bidding in (cheap, large, absurd, unknown):
        assert "Traceback" not in bidding.errors()


@pytest.mark.parametrize("victim", ["gateway", pytest.param("one", marks=pytest.mark.prove)])
def test_rubbish_on_every_stream_hurts_nobody(market: LocalMarket, nodes: Nodes, victim: str) -> None:
    answered = trio.run(attack, parse_target(said_ready(nodes[victim])["addrs"][0]))
    assert answered  # it was a node that was attacked, not a closed door
    assert all(node.alive for node in nodes.values())
    got = market.bid("a red circle", "--steps", "4")
    assert got.code == 0, got.process.tail()


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


async def attack(target: PeerAddrs) -> int:
    """Every kind of rubbish on every protocol, each from a key of its own; how many streams were opened."""
    hello = encode(Hello("main", "gateway", None, int(time.time() * 1000)))
    stranger = encode(Hello("elsewhere", "gateway", None, 0))
    rubbish = (
        *(os.urandom(4096), b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n"),
        *(frame(b"\xc1" * 100), frame(b"\x91" * 3000), frame(encode(CancelBid(b"\1" * 32)))),
        *(frame(hello) + frame(b"\0" * 100), frame(hello) + frame(hello), frame(hello)[:-3], frame(stranger)),
        frame(hello) + frame(encode(AskModels("text-to-image"))) + b"\x80",
    )
    opened = 0
    for number, data in enumerate(rubbish):
        async with trio.open_nursery() as nursery:
            host = Host(Identity(os.urandom(32)), ("/ip4/127.0.0.1/tcp/0",))
            await nursery.start(host.run)
            for protocol in (CONTROL, BID, JOB, BOOK, KAD, MESHSUB):
                with suppress(Unavailable), trio.move_on_after(5):
                    await host.connect(target)
                    stream = await host.open(target.peer, protocol)
                    opened += 1
                    await stream.send(data)
                    if number % 2:
                        await stream.reset()
                    else:
                        await stream.finish()
            nursery.cancel_scope.cancel()
    return opened


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
