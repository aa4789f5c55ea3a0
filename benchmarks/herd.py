"""herd: twenty gateways after the same sellers, simulated: refusals, match time, what choosing at random costs.

Sixty sellers with one place each, prices spread evenly over a factor of two, jobs of four seconds on average
(lognormal), a round trip of 100 ms between any two. Jobs arrive at random at half of what the sellers can do, and at
four fifths. Time is simulated: a busy machine changes nothing. The roles, the book, the Load streams and the auctions
are the real ones; only beats of Loads that say nothing new come less often.

*First tries refused*: the first draw of a bid came to no accepted award. *Match*: from the bid's arrival at its gateway
to the decision who gets the job, that is, to the choice of the quote whose award was accepted. One round of questions
is one round trip, and everything above it is waiting, other rounds, or awards in vain. The award and its acceptance are
a round trip of their own, with which no auction could match in one and a half: *accepted* is printed beside it.

*Premium*: the price over that of the cheapest seller that had a place when the award left; a place kept for this very
auction is one. It is the product of four parts, printed each: *news*, the cheapest place that there was when the bid
came, over the one when the award left; *unknown*, the cheapest of them that its Loads called free, over the cheapest;
*draw*, the cheapest that gave a quote, over that one; *choice*, the winner over the cheapest that gave a quote.

The reference is the same market with a draw that takes any three of the best eight alike.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count, product
from multiprocessing import get_context
from random import Random
from statistics import mean
from typing import Any, cast
from unittest.mock import patch

import trio

from benchmarks.report import Report, Say, cores, goal, quantile
from benchmarks.simulator.network import World
from benchmarks.simulator.stillness import JumpingClock, prepared, still
from benchmarks.simulator.town import MODEL, SETTLEMENT, Node, Town, Worker, units_of
from benchmarks.simulator.trace import Seen, Trace
from compute.spec import TEXT_TO_IMAGE
from market import loaddesk, scoring
from market.auction import Auction, AwardTo
from market.auctioneer import Auctioneer
from market.bid import Prefer
from market.bidwire import ModelOnOffer
from market.client import Client, Delivered, Wish, bid_for
from market.conversation import now_ms
from market.jobrun import JobRun
from market.offering import Terms
from market.orchestrator import Orchestrator
from p2p.peer import Address, PeerId

GATEWAYS, SELLERS = 20, 60
RTT_S = 0.1
STEP_S, JOB_S, SPREAD = 0.5, 4.0, 0.6  # a job has steps of half a second; the mean of all, and sigma of the logarithm
LEAST, MOST = 1_000_000, 2_000_000  # wei per million units
WARM_S, MEASURED_S = 8.0, 25.0  # everybody has met before anything counts
TOLD_S = 10.0
BEAT_MS = 2500
SEED = 1
LOADS = (0.5, 0.8)
ON_OFFER = ModelOnOffer("noop", MODEL, 64, 64, 8, 1, 1, LEAST)


@dataclass(frozen=True, slots=True)
class Market:
    """What is measured; ``alike``: any three of the best eight are drawn with the same chance."""

    load: float
    prefer: Prefer
    alike: bool = False

    @property
    def name(self) -> str:
        return f"load {self.load}, prefer {self.prefer.value}{', all eight drawn alike' if self.alike else ''}"


@dataclass(slots=True)
class Match:
    """One bid's way to its award."""

    began: float
    first_refused: bool = False
    tries: int = 0
    matched_s: float | None = None
    accepted_s: float | None = None
    free_then: dict[PeerId, int] = field(default_factory=dict)  # the prices of those that had a place when it came
    parts: tuple[float, ...] | None = None  # of the price over the best free: news, unknown, draw, choice

    @property
    def premium(self) -> float | None:
        return None if self.parts is None else math.prod(self.parts) - 1


@dataclass(slots=True)
class Tally:
    """All of one run, by the bid they are of."""

    began: float = 0.0
    matches: dict[bytes, Match] = field(default_factory=dict)
    delivered: int = 0
    asked: int = 0


def run(say: Say) -> Report:
    """Every load and preference, and the reference, each in a process of its own, as many at a time as there are cores.

    What one market leaves behind is not carried through the next ones.
    """
    markets = [Market(load, prefer) for load, prefer in product(LOADS, (Prefer.SPEED, Prefer.PRICE))]
    markets.append(Market(LOADS[0], Prefer.SPEED, alike=True))
    say(f"{WARM_S:.0f} s to meet and {MEASURED_S:.0f} s that count are simulated of each of {len(markets)} markets")
    with ProcessPoolExecutor(min(cores(), len(markets)), get_context("spawn")) as pool:
        found = pool.map(_told, markets, [say.to is sys.stderr] * len(markets))
        results = {market.name: one for market, one in zip(markets, found, strict=True)}
    half = results[Market(LOADS[0], Prefer.SPEED).name]
    return {
        "results": results,
        "goals": [
            goal("first tries refused at load 0.5, prefer speed", half["first_refused"], "<=", 0.10),
            goal("mean match at load 0.5, prefer speed, in RTT", half["match_rtt"], "<=", 1.5),
            goal("price over the best free at load 0.5, prefer speed", half["premium"], "<=", 0.20),
        ],
    }


def _told(market: Market, aside: bool) -> dict[str, Any]:
    say, name = Say(sys.stderr if aside else sys.stdout), market.name
    with prepared(calm=False), patch.object(scoring, "STEEP", 0 if market.alike else scoring.STEEP):
        found = measured(market.load, market.prefer, say=lambda text: say(f"  {name}: {text}"))
    say(
        f"{name}: {found['jobs']} jobs, first tries refused {found['first_refused']:.1%}, match {found['match_rtt']} "
        f"RTT on average, {found['match_p50_rtt']} at p50, {found['match_p99_rtt']} at p99, accepted after "
        f"{found['accepted_rtt']}, premium {found['premium']:.1%} (news {found['news']:.1%}, unknown "
        f"{found['unknown']:.1%}, draw {found['draw']:.1%}, choice {found['choice']:.1%}), "
        f"delivered {found['delivered']:.1%}"
    )
    return found


def measured(
    load: float, prefer: Prefer, seconds: float = MEASURED_S, seed: int = SEED, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """One market at one load. Call inside ``prepared(calm=False)``."""
    with still(seed), patch.object(loaddesk, "BEAT_MS", BEAT_MS):
        seen = trio.run(_Herd(load, prefer, WARM_S + seconds, seed, say).whole, clock=JumpingClock())
    counted = [match for match in seen.matches.values() if match.began >= seen.began + WARM_S]
    matched = [match.matched_s / RTT_S for match in counted if match.matched_s is not None]
    parts = [match.parts for match in counted if match.parts is not None]
    news, unknown, draw, choice = (mean(part) - 1 for part in zip(*parts, strict=True))
    return {
        "jobs": len(counted),
        "delivered": round(seen.delivered / max(1, seen.asked), 4),
        "first_refused": round(mean(match.first_refused for match in counted), 4),
        "match_rtt": round(mean(matched), 2),
        "match_p50_rtt": round(quantile(matched, 0.5), 2),
        "match_p99_rtt": round(quantile(matched, 0.99), 2),
        "accepted_rtt": round(mean(m.accepted_s / RTT_S for m in counted if m.accepted_s is not None), 2),
        "premium": round(mean(match.premium for match in counted if match.premium is not None), 4),
        "news": round(news, 4),
        "unknown": round(unknown, 4),
        "draw": round(draw, 4),
        "choice": round(choice, 4),
    }


class _Herd:
    """One run."""

    def __init__(self, load: float, prefer: Prefer, until: float, seed: int, say: Callable[[str], None] | None) -> None:
        self._prefer, self._until, self._say = prefer, until, say
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
                await self._bids(clients)
                lives.cancel_scope.cancel()
        for node in town.nodes.values():
            node.disk.close()
        return self._seen

    async def _bids(self, clients: list[Client]) -> None:
        self._seen.began = began = trio.current_time()
        told = TOLD_S
        async with trio.open_nursery() as nursery:
            while (passed := trio.current_time() - began) < self._until:
                if self._say is not None and passed >= told:
                    self._say(f"{passed:.0f} s: {self._seen.asked} bids, {self._seen.delivered} delivered")
                    told += TOLD_S
                at = self._chance.randrange(GATEWAYS)
                nursery.start_soon(self._bid, clients[at], self._town.nodes[f"g{at}"])
                await trio.sleep(self._chance.expovariate(self._rate))

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
            match = herd._seen.matches.setdefault(job.job_id, Match(job._clock.arrived / 1000))
            held, match.free_then = match.tries, match.free_then or herd._free(set())

            async def give(to: AwardTo) -> bool:
                match.tries += 1
                leaves, parts = trio.current_time(), herd._parts(match, auction, to)
                accepted: bool = await award(to)
                if accepted:
                    match.matched_s, match.parts = leaves - match.began, parts
                    match.accepted_s = trio.current_time() - match.began
                if match.tries == 1:
                    match.first_refused |= auction._rounds > 1 or not accepted
                return accepted

            won = await hold(auctioneer, auction, give, *rest)
            match.first_refused |= match.tries == held  # nobody was given the job
            return won

        return watched

    def _parts(self, match: Match, auction: Auction, to: AwardTo) -> tuple[float, ...]:
        """The winner's price over that of the cheapest with a place now, in four steps."""
        best_now = min([to.offer.price, *self._free({rfq.digest for _, rfq in auction._asked.values()}).values()])
        then = match.free_then or {to.seller: to.offer.price}
        called_free = {one.seller for one in auction.matched.candidates if not one.full}
        best_then = min(then.values())
        known = min((price for seller, price in then.items() if seller in called_free), default=best_then)
        quoted = min(answer.candidate.posting.offer.price for answer in auction._answers.values())
        return best_then / best_now, known / best_then, quoted / known, to.offer.price / quoted

    def _free(self, ours: set[bytes]) -> dict[PeerId, int]:
        """The prices of the sellers whose place an auction with these questions could have now."""
        sellers = (node for node in self._town.nodes.values() if isinstance(node.role, Orchestrator))
        return {node.key.peer: node.price for node in sellers if not _is_busy(cast(Orchestrator, node.role), ours)}


def _is_busy(seller: Orchestrator, ours: set[bytes]) -> bool:
    now = now_ms()
    held = any(
        hold.place and hold.until > now for digest, hold in seller.desk._quoting._open.items() if digest not in ours
    )
    return held or any(sale.in_work for sale in seller._sales.values())
