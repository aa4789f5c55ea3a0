"""herd: twenty gateways after the same sellers, simulated: refusals, match time, what choosing at random costs.

Sixty sellers with one place each, prices spread evenly over a factor of two, jobs of four seconds on average
(lognormal), a round trip of 100 ms between any two. Jobs arrive at random at half of what the sellers can do, and at
four fifths. A first try is refused when the first draw of a bid comes to no accepted award. The match is from the bid's
arrival to the departure of the award that was accepted. The premium is the price over that of the cheapest seller that
had a place at that moment. Time is simulated: a busy machine changes nothing. The roles, the book, the Load streams and
the auctions are the real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, product
from random import Random
from statistics import mean
from typing import Any
from unittest.mock import patch

import trio

from benchmarks.report import Report, Say, goal, quantile
from benchmarks.simulator.network import World
from benchmarks.simulator.stillness import JumpingClock, prepared, still
from benchmarks.simulator.town import MODEL, SETTLEMENT, Node, Town, Worker, units_of
from benchmarks.simulator.trace import Seen, Trace
from compute.spec import TEXT_TO_IMAGE
from market.auction import Auction, AwardTo
from market.auctioneer import Auctioneer
from market.bid import Prefer
from market.bidwire import ModelOnOffer
from market.client import Client, Delivered, Wish, bid_for
from market.jobrun import JobRun
from market.offering import Terms
from market.orchestrator import Orchestrator
from p2p.peer import Address, PeerId

GATEWAYS, SELLERS = 20, 60
RTT_S = 0.1
STEP_S, JOB_S, SPREAD = 0.5, 4.0, 0.6  # a job has steps of half a second; the mean of all, and sigma of the logarithm
LEAST, MOST = 1_000_000, 2_000_000  # wei per million units
WARM_S, MEASURED_S = 10.0, 25.0  # everybody has met before anything counts
SEED = 1
LOADS = (0.5, 0.8)
ON_OFFER = ModelOnOffer("noop", MODEL, 64, 64, 8, 1, 1, LEAST)


@dataclass(slots=True)
class Match:
    """One bid's way to its award."""

    began: float
    first_refused: bool = False
    tries: int = 0
    matched_s: float | None = None
    accepted_s: float | None = None
    premium: float | None = None


@dataclass(slots=True)
class Tally:
    """All of one run, by the bid they are of."""

    matches: dict[bytes, Match] = field(default_factory=dict)
    delivered: int = 0
    asked: int = 0


def run(say: Say) -> Report:
    """Every load and preference."""
    results: dict[str, Any] = {}
    with prepared(calm=False):
        for load, prefer in product(LOADS, (Prefer.SPEED, Prefer.PRICE)):
            found = measured(load, prefer)
            results[f"{prefer.value}, load {load}"] = found
            say(
                f"load {load}, prefer {prefer.value}: {found['jobs']} jobs, first tries refused "
                f"{found['first_refused']:.1%}, match {found['match_rtt']} RTT on average and {found['match_p99_rtt']} "
                f"at p99, accepted after {found['accepted_rtt']}, premium {found['premium']:.1%}, "
                f"delivered {found['delivered']:.1%}"
            )
    half = results[f"{Prefer.SPEED.value}, load 0.5"]
    return {
        "results": results,
        "goals": [
            goal("first tries refused at load 0.5, prefer speed", half["first_refused"], "<=", 0.10),
            goal("mean match at load 0.5, prefer speed, in RTT", half["match_rtt"], "<=", 1.5),
            goal("price over the best free at load 0.5, prefer speed", half["premium"], "<=", 0.20),
        ],
    }


def measured(load: float, prefer: Prefer, seconds: float = MEASURED_S, seed: int = SEED) -> dict[str, Any]:
    """One market at one load. Call inside ``prepared(calm=False)``."""
    with still(seed):
        seen = trio.run(_Herd(load, prefer, WARM_S + seconds, seed).whole, clock=JumpingClock())
    counted = [match for match in seen.matches.values() if match.began >= WARM_S]
    matched = [match.matched_s / RTT_S for match in counted if match.matched_s is not None]
    return {
        "jobs": len(counted),
        "delivered": round(seen.delivered / max(1, seen.asked), 4),
        "first_refused": round(mean(match.first_refused for match in counted), 4),
        "match_rtt": round(mean(matched), 2),
        "match_p99_rtt": round(quantile(matched, 0.99), 2),
        "accepted_rtt": round(mean(m.accepted_s / RTT_S for m in counted if m.accepted_s is not None), 2),
        "premium": round(mean(match.premium for match in counted if match.premium is not None), 4),
    }


class _Herd:
    """One run."""

    def __init__(self, load: float, prefer: Prefer, until: float, seed: int) -> None:
        self._prefer, self._until = prefer, until
        self._chance = Random(seed)
        self._rate = load * SELLERS / JOB_S
        world = World(self._chance, RTT_S / 2, 0.0, 0.0, lambda *_: None, alike=True)
        self._town = Town(self._chance, world, Seen(), Trace(), commit_s=0.003)
        self._seen = Tally()

    async def whole(self) -> Tally:
        town, numbers = self._town, count(1)
        for n in range(GATEWAYS):
            town.gateway(f"g{n}", next(numbers))
        for n in range(SELLERS):
            price = LEAST + (MOST - LEAST) * n // (SELLERS - 1)
            worker = Worker(STEP_S, 1)
            worker.settle(units_of(1))
            town.orchestrator(f"o{n}", next(numbers), Terms(price, 1, SETTLEMENT, Address(bytes(20))), worker)
        with patch.object(Auctioneer, "hold", self._watching(Auctioneer.hold)):
            async with trio.open_nursery() as lives:
                for node in town.nodes.values():
                    await lives.start(town.live, node)
                clients = [await town.client(f"c{n}", next(numbers), lives) for n in range(GATEWAYS)]
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    while trio.current_time() - began < self._until:
                        at = self._chance.randrange(GATEWAYS)
                        nursery.start_soon(self._bid, clients[at], town.nodes[f"g{at}"])
                        await trio.sleep(self._chance.expovariate(self._rate))
                lives.cancel_scope.cancel()
        return self._seen

    async def _bid(self, client: Client, gateway: Node) -> None:
        drawn = self._chance.lognormvariate(math.log(JOB_S / STEP_S) - SPREAD**2 / 2, SPREAD)
        wish = Wish("a red circle", steps=max(1, round(drawn)), deadline_ms=60_000, prefer=self._prefer, wait=True)
        bid = bid_for(wish, ON_OFFER, TEXT_TO_IMAGE, self._chance.randbytes)
        self._seen.asked += 1
        ending = await client.bid(gateway.key.peer, bid, lambda news: None)
        self._seen.delivered += isinstance(ending, Delivered)

    def _watching(self, hold: Callable[..., Any]) -> Callable[..., Any]:
        """``Auctioneer.hold`` with an eye on when which award leaves, and what becomes of it."""
        herd = self

        async def watched(auctioneer: Auctioneer, auction: Auction, award: Callable[..., Any], *rest: Any) -> Any:
            job: JobRun = award.__self__  # type: ignore[attr-defined]
            match = herd._seen.matches.setdefault(job.job_id, Match(trio.current_time()))
            held = match.tries

            async def give(to: AwardTo) -> bool:
                match.tries += 1
                leaves, best = trio.current_time(), herd._best_free(to.seller)
                accepted: bool = await award(to)
                if accepted:
                    match.matched_s = leaves - match.began
                    match.accepted_s = trio.current_time() - match.began
                    match.premium = to.offer.price / best - 1
                if match.tries == 1:
                    match.first_refused |= auction._rounds > 1 or not accepted
                return accepted

            won = await hold(auctioneer, auction, give, *rest)
            match.first_refused |= match.tries == held  # nobody was given the job
            return won

        return watched

    def _best_free(self, winner: PeerId) -> int:
        """The lowest price among those with a place now; the winner keeps one for this award."""
        free = [node.price for node in self._town.nodes.values() if self._is_free(node, winner)]
        return min(free)

    def _is_free(self, node: Node, winner: PeerId) -> bool:
        if not isinstance(node.role, Orchestrator):
            return False
        busy = node.role.desk.held() or any(sale.in_work for sale in node.role._sales.values())
        return node.key.peer == winner or not busy
