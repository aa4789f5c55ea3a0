"""auction: the time from a bid to its award, with 1, 3 and 10 orchestrators, as a multiple of a bare RPC.

From the client's call, on the stream on which it has asked what is on offer, to the news that a seller has accepted the
award, over real processes on loopback; the sellers are whole orchestrators whose machine does nothing, and every job is
paid and delivered, and the market at rest for a tenth of a second, before the next one begins. The reference is one
small message there and back on an open stream to a peer that does nothing else, measured before each bid of the same
run, through the same host, encryption, framing and codec. The prefilter alone is measured in this process.
"""

from __future__ import annotations

import secrets
import sys
from statistics import median
from time import perf_counter
from typing import Any

import trio

from benchmarks import prefilter
from benchmarks.echo import ECHO, round_trip
from benchmarks.report import NotRun, Report, Say, goal, quantile
from benchmarks.stage import NOOP_ORCHESTRATOR, Stage, stage
from market.bidwire import BidTaken, JobNews, ModelOnOffer, News
from market.client import Delivered, Wish, bid_for
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.stream import MessageStream

SELLERS = (1, 3, 10)
BIDS, WARM_UP, PINGS = 100, 8, 5
REST_S = 0.1  # so that no bid pays for the book-keeping of the job before it
GOAL = 12


def run(say: Say) -> Report:
    """Both halves: live auctions, then the prefilter alone."""
    live = trio.run(measure, say)
    say("prefilter: both books are filled and judged in this process")
    alone = prefilter.measure()
    few, many = alone["results"]["median_ms"]
    say(f"prefilter: {few} ms at 1 000 offers, {many} ms at 100 000")
    return {
        "results": {**live, "prefilter": alone["results"]},
        "goals": [
            *(goal(f"p50 with {n}, in bare RPCs", live[f"{n}"]["p50_rpcs"], "<=", GOAL) for n in SELLERS),
            *alone["goals"],
        ],
    }


async def measure(say: Say) -> dict[str, Any]:
    """The live part, one more orchestrator after the other."""
    results: dict[str, Any] = {}
    async with stage(say) as market:
        echo = await market.start("echo", [sys.executable, "-m", "benchmarks.echo"])
        target = parse_target(echo["addrs"][0])
        await market.overlay.host.connect(target)
        bare = MessageStream(await market.overlay.host.open(target.peer, ECHO))
        running = 0
        for count in SELLERS:
            while running < count:
                running += 1
                await market.orchestrator(f"seller-{running}", NOOP_ORCHESTRATOR, "--price", str(2_000_000 + running))
            results[str(count)] = await _measure(market, bare, count, say)
    return results


async def _measure(market: Stage, bare: MessageStream, count: int, say: Say) -> dict[str, Any]:
    model = (await market.offered(count)).models[0]
    for _ in range(WARM_UP * count):  # also makes every seller known: newcomers move first and are drawn at random
        await bid_to_award(market, model)
    bids: list[float] = []
    rpcs: list[float] = []
    for _ in range(BIDS):
        await trio.sleep(REST_S)
        rpcs += [await round_trip(bare) for _ in range(PINGS)]
        bids.append(await bid_to_award(market, model))
    rpc, p50, p99 = median(rpcs), quantile(bids, 0.5), quantile(bids, 0.99)
    say(
        f"{count} orchestrators: bid to award p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms over {BIDS} bids; "
        f"a bare RPC takes {rpc * 1000:.2f} ms"
    )
    return {
        "bids": BIDS,
        "p50_ms": round(p50 * 1000, 2),
        "p99_ms": round(p99 * 1000, 2),
        "rpc_ms": round(rpc * 1000, 3),
        "p50_rpcs": round(p50 / rpc, 2),
        "p99_rpcs": round(p99 / rpc, 2),
    }


async def bid_to_award(market: Stage, model: ModelOnOffer) -> float:
    """Seconds from a bid to its award. Returns when the job is delivered."""
    awarded: list[float] = []

    def hear(news: BidTaken | JobNews) -> None:
        if isinstance(news, JobNews) and news.event is News.AWARDED:
            awarded.append(perf_counter())

    await market.client.models(market.gateway, PIPELINES[0])  # as a client does: what there is, then a bid for it
    bid = bid_for(Wish("a red circle", steps=4, deadline_ms=30_000), model, PIPELINES[0], secrets.token_bytes)
    started = perf_counter()
    ending = await market.client.bid(market.gateway, bid, hear)
    if not isinstance(ending, Delivered) or not awarded:
        raise NotRun(f"a bid had another end: {ending}")
    return awarded[0] - started
