"""join: a fresh gateway among neighbours that know 3 000 offers: when has it the first, and when 95 % of them.

Two neighbours with the same book and each gateway are processes on real hosts; a gateway starts with an empty
directory, knows the neighbours' addresses, and is the role as ``node.py`` runs it. Times are those of its own log, on
the one clock of this machine, from its first connection. A run ends when a client is told of the offers by the gateway,
so that what is counted is usable. Beside it, in the same run: one core that verifies the same offers and does nothing
else, and one reader that takes the book by either version of the protocol over one connection.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import trio

from benchmarks.neighbour import offers
from benchmarks.report import NotRun, Report, Say, goal
from benchmarks.stage import NODE, READY_S, Stage, empty_stage
from ledger.money import Settlement
from market.book import OrderBook
from market.handover import HandOver, open_books
from market.hello import Greeter
from market.looking import Reading
from market.protocol import BOOK_1
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.codec import encode
from p2p.peer import PeerId, parse_address
from p2p.stream import MessageStream

OFFERS, SHARE = 3000, 0.95
RUNS = 5
GOAL_S = 2.0
NEIGHBOUR = (NODE[0], "-m", "benchmarks.neighbour")


def run(say: Say) -> Report:
    """Five gateways, one after the other."""
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """Neighbours, the reference, the gateways."""
    async with empty_stage(say) as market:
        chain = await market.start("devchain", [*NODE, "devchain", "--port", "0"])
        settlement = Settlement(chain["chain_id"], parse_address(chain["broker"]))
        told = ["--network", market.network, "--chain", str(settlement.chain_id), "--broker", chain["broker"]]
        first = await market.start("neighbour-1", [*NEIGHBOUR, *told])
        second = await market.start("neighbour-2", [*NEIGHBOUR, *told, "--bootstrap", first["addrs"][0]])
        say(f"two neighbours with {first['offers']} offers each, on network {market.network}")
        alone, core = verified_alone(market.network, settlement)
        say(f"verifying {OFFERS} offers and nothing else takes {alone:.2f} s: a process gets {core:.0%} of a core here")
        market.joins(chain, first["addrs"][0], second["addrs"][0])
        await market.join(first["addrs"][0])
        lists = await read_both(market, parse_target(first["addrs"][0]).peer)
        say(f"one reader takes them in {lists['2']:.2f} s, by version 1 in {lists['1']:.2f} s")
        runs = [await one(market, number, say) for number in range(1, RUNS + 1)]
    return _report(runs, alone, core, lists)


def _report(runs: list[dict[str, float]], alone: float, core: float, lists: dict[str, float]) -> Report:
    first, most = (max(run[name] for run in runs) for name in ("first_offer_s", "most_offers_s"))
    share = f"{SHARE:.0%} of {OFFERS} offers"
    return {
        "results": {
            "offers": OFFERS,
            "runs": runs,
            "cold_start_to_connection_s": round(median(run["connected_s"] for run in runs), 3),
            "verified_alone_s": round(alone, 3),
            "share_of_a_core": round(core, 2),
            "read_by_version_s": {version: round(took, 3) for version, took in lists.items()},
            "most_offers_over_verified_alone": round(median(run["most_offers_s"] for run in runs) / alone, 2),
        },
        "goals": [
            goal(f"seconds from the first connection to the first usable offer, worst of {RUNS}", first, "<=", GOAL_S),
            goal(f"seconds from the first connection to {share}, worst of {RUNS}", most, "<=", GOAL_S),
        ],
    }


async def one(market: Stage, number: int, say: Say) -> dict[str, float]:
    """One gateway's start. Raises NotRun when it never has the offers."""
    name, began = f"gateway-{number}", time.time()
    ready = await market.node("gateway", name, "--log-json")
    peer = parse_target(ready["addrs"][0]).peer
    await market.overlay.host.connect(parse_target(ready["addrs"][0]))
    marks: dict[str, float] = {}
    with trio.move_on_after(READY_S):
        while len(marks := dict(_marks(market.log_of(name)))) < 3:  # noqa: ASYNC110
            await trio.sleep(0.1)
    usable = await _offered(market, peer)
    market.stop(name)
    if len(marks) < 3 or usable < SHARE * OFFERS:
        raise NotRun(f"{name} had {sorted(marks)} alone, and tells a client of {usable} offers")
    found = {
        "connected_s": round(marks["connected"] - began, 3),
        "first_offer_s": round(marks["first"] - marks["connected"], 3),
        "most_offers_s": round(marks["most"] - marks["connected"], 3),
    }
    first, most = found["first_offer_s"], found["most_offers_s"]
    say(
        f"run {number}: connected {found['connected_s']:.1f} s after its start; "
        f"from there {first:.2f} s to the first offer, {most:.2f} s to {SHARE:.0%}"
    )
    return found


async def _offered(market: Stage, gateway: PeerId) -> int:
    """How many models on offer a client is told of, one of each offer at least."""
    return sum(model.offers for model in (await market.client.models(gateway, PIPELINES[0])).models)


def _marks(log: Path) -> Iterator[tuple[str, float]]:
    """What a gateway's log tells, each mark once: the first of its kind."""
    told: set[str] = set()
    for line in log.read_text().splitlines():
        said = _said(line)
        for name, is_it in (
            ("connected", said.get("event") == "first connection"),
            ("first", said.get("event") == "offers known" and said["offers"] >= 1),
            ("most", said.get("event") == "offers known" and said["offers"] >= SHARE * OFFERS),
        ):
            if is_it and name not in told:
                told.add(name)
                yield name, datetime.fromisoformat(said["timestamp"]).timestamp()


def _said(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def verified_alone(network: str, settlement: Settlement) -> tuple[float, float]:
    """Seconds to judge the same offers and do nothing else, and which part of a core this process got for it."""
    book, envelopes = OrderBook(network), [encode(one) for one in offers(OFFERS, network, settlement, 1)]
    now, began, cpu = int(time.time()), perf_counter(), process_time()
    for data in envelopes:
        book.judge(data, now, PIPELINES[0])
    took, cpu = perf_counter() - began, process_time() - cpu
    if book.known() != OFFERS:
        raise NotRun("an offer that the book does not take")
    return took, cpu / took


async def read_both(market: Stage, peer: PeerId) -> dict[str, float]:
    """Seconds to read a neighbour's book over an open connection, by protocol version."""
    found = {}
    greeter = Greeter(market.network, "client", lambda: None, time.time)
    for version in ("1", "2"):
        reading, began = Reading(OrderBook(market.network)), perf_counter()
        if version == "1":
            stream = MessageStream(await market.overlay.host.open(peer, BOOK_1))
            await greeter.greet(stream)
        else:
            stream, _ = await open_books(market.overlay.host, greeter, peer)
        async with stream:
            session = HandOver(stream, PIPELINES[0], reading)
            await (session.run_1() if version == "1" else session.run())
        found[version] = perf_counter() - began
        if reading.book.known() < SHARE * OFFERS:
            raise NotRun(f"version {version} brought {reading.book.known()} offers")
    return found
