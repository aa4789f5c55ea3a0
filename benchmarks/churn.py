"""churn: twenty nodes of which a third is killed each minute, while bids go on: does every bid come to an honest end?

A bootstrap, three gateways and sixteen orchestrators with a machine that does nothing, each under its own supervisor
and all on this machine. At random moments of each minute seven nodes, drawn from all twenty, are killed by SIGKILL;
their supervisors start them again. Meanwhile one bid after the other is made, each at one of the gateways in turn, with
a deadline; one that a gateway does not take goes to the next, as a client does it. A bid ends well when its result was
delivered and checked, or it was refused with a reason, inside its deadline; what a gateway decides at the deadline is
heard a moment after it, for which a second is allowed and which is counted apart. ``CHURN_MINUTES`` makes it shorter.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

import psutil
import trio

from benchmarks.report import NotRun, Report, Say, goal, quantile
from benchmarks.stage import NODE, NOOP_ORCHESTRATOR, READY_S, Stage, stage
from market.bidwire import BidCancelled, JobFailed, ModelOnOffer
from market.client import Delivered, GatewayLost, Wish, bid_for
from market.console import configure_logs
from market.refusal import Code, Refusal
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.errors import PasarError, Unavailable
from p2p.peer import PeerId

MINUTES = 10.0
GATEWAYS, ORCHESTRATORS = 3, 16
AT_ONCE = 4  # started together: each takes two seconds of a core
PART = 3
EVERY_S = 1.0
DEADLINE_S = 30.0
HEARD_S = 1.0
STEPS, STEP_S = 20, 0.1
REDIAL_S = 0.5
LOOK_S = 0.25
TELL_S = 30.0
NO_ROOM = (Code.BUSY, Code.TOO_MANY)
BACK = "ready again"
GOAL = "bids delivered, or refused with a reason, inside their deadline, percent"


@dataclass
class Tally:
    """What came of the bids and of the killed. ``bad`` bids are those that the goal is about."""

    ends: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    at_the_deadline: int = 0  # heard after it
    kills: int = 0
    back_s: list[float] = field(default_factory=list)

    @property
    def bids(self) -> int:
        return sum(self.ends.values())

    def note(self, ending: str, took: float, *, good: bool) -> None:
        """One bid is over."""
        self.ends[ending] += 1
        self.seconds.append(took)
        self.at_the_deadline += took > DEADLINE_S
        if not good or took > DEADLINE_S + HEARD_S:
            self.bad.append(f"{ending} after {took:.1f} s")


def run(say: Say) -> Report:
    """Ten minutes, or as many as ``CHURN_MINUTES`` says."""
    return trio.run(measure, say, float(os.environ.get("CHURN_MINUTES", MINUTES)))


async def measure(say: Say, minutes: float) -> Report:
    """Build the market, let it run while nodes die, add up."""
    tally, seed = Tally(), secrets.randbits(32)
    configure_logs(as_json=False, level="error")  # dials that fail are what this is about
    async with stage(say) as market:
        gateways, nodes = await _build(market)
        model = (await market.offered(ORCHESTRATORS)).models[0]
        shopper = Shopper(market, gateways, model, tally)
        say(f"{len(nodes)} nodes are up; for {minutes:g} minutes a third of them is killed in each (seed {seed})")
        async with trio.open_nursery() as killing:
            killing.start_soon(_tell, say, tally)
            async with trio.open_nursery() as shopping:
                shopping.start_soon(shopper.run, shopping)
                async with trio.open_nursery() as dying:
                    await _kill(market, nodes, minutes, random.Random(seed), tally, dying)
                shopper.closing = True
            killing.cancel_scope.cancel()
    if not tally.bids or not tally.kills:
        raise NotRun("nobody bid, or nobody died")
    return _report(tally, minutes, seed, len(nodes), say)


async def _build(market: Stage) -> tuple[list[PeerId], list[str]]:
    """Everybody up; the gateways, and the names of all nodes. A bootstrap and a gateway stand already."""
    gateways = [market.gateway]
    for number in range(2, GATEWAYS + 1):
        ready = await market.orchestrator(f"gateway-{number}", [*NODE, "--role", "gateway"])
        target = parse_target(ready["addrs"][0])
        market.overlay.remember([target], "gateway")
        gateways.append(target.peer)
    flags = ("--step-s", str(STEP_S))
    for first in range(1, ORCHESTRATORS + 1, AT_ONCE):
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + AT_ONCE, ORCHESTRATORS + 1)):
                price = ("--price", str(2_000_000 + number))
                nursery.start_soon(market.orchestrator, f"seller-{number}", NOOP_ORCHESTRATOR, *price, *flags)
    return gateways, [name for name in market.pids if name != "devchain"]


class Shopper:
    """One client with a bid each second, whatever became of those before."""

    def __init__(self, market: Stage, gateways: list[PeerId], model: ModelOnOffer, tally: Tally) -> None:
        self._market, self._gateways, self._model, self._tally = market, gateways, model, tally
        self.closing = False

    async def run(self, nursery: trio.Nursery) -> None:
        """Until ``closing``; the bids end by themselves."""
        number = 0
        while not self.closing:
            nursery.start_soon(self._one, number)
            number += 1
            await trio.sleep(EVERY_S)

    async def _one(self, number: int) -> None:
        """One bid to its end, at the gateway whose turn it is or the next that takes it."""
        started = trio.current_time()
        ending, good = "NO_GATEWAY", True
        while (left := DEADLINE_S - (trio.current_time() - started)) > REDIAL_S:
            gateway = self._gateways[number % len(self._gateways)]
            try:
                found = await self._at(gateway, left)
            except GatewayLost:  # it was taken, and came to no end
                ending, good = GatewayLost.__name__, False
                break
            except Unavailable:
                found = None
            except PasarError as exc:
                ending, good = f"{type(exc).__name__}: {exc}", False
                break
            if found is not None:
                ending, good = found
                break
            number += 1
            await trio.sleep(REDIAL_S)
        self._tally.note(ending, trio.current_time() - started, good=good)

    async def _at(self, gateway: PeerId, left: float) -> tuple[str, bool] | None:
        """How it ended; None when this gateway has no room. Raises Unavailable when it did not take the bid."""
        wish = Wish("a red circle", steps=STEPS, deadline_ms=int(left * 1000))
        bid = bid_for(wish, self._model, PIPELINES[0], secrets.token_bytes)
        ending = await self._market.client.bid(gateway, bid, lambda news: None)
        match ending:
            case Delivered():
                return "delivered", True
            case Refusal(code=code):
                return None if code in NO_ROOM else (f"refused: {code.value}", True)
            case JobFailed(code=reason):
                return f"failed: {reason}", bool(reason)
            case BidCancelled():
                return "cancelled by nobody", False


async def _kill(
    market: Stage, nodes: list[str], minutes: float, chance: random.Random, tally: Tally, nursery: trio.Nursery
) -> None:
    """A third of all in each minute, each at its moment."""
    each = -(-len(nodes) // PART)
    begun = trio.current_time()
    for minute in range(max(1, round(minutes))):
        moments = sorted(chance.uniform(0, 60 * min(1.0, minutes)) for _ in range(each))
        for moment, name in zip(moments, chance.sample(nodes, each), strict=True):
            await trio.sleep_until(begun + 60 * minute + moment)
            nursery.start_soon(_kill_one, market, name, tally)
    await trio.sleep_until(begun + 60 * minutes)


async def _kill_one(market: Stage, name: str, tally: Tally) -> None:
    """SIGKILL to the node, not to its supervisor; how long until it serves again."""
    before, killed = _returns(market, name), trio.current_time()
    with suppress(psutil.Error):
        supervisor = psutil.Process(market.pids[name])
        forks = [child for child in supervisor.children() if child.cmdline() == supervisor.cmdline()]
        min(forks, key=psutil.Process.create_time).send_signal(signal.SIGKILL)  # a spare is younger
        tally.kills += 1
    with trio.move_on_after(READY_S):
        while _returns(market, name) == before:  # noqa: ASYNC110 - a log wakes nobody
            await trio.sleep(LOOK_S)
        tally.back_s.append(trio.current_time() - killed)


def _returns(market: Stage, name: str) -> int:
    """How often a node has come back."""
    return market.log_of(name).read_text(errors="replace").count(BACK)


async def _tell(say: Say, tally: Tally) -> None:
    while True:
        await trio.sleep(TELL_S)
        say(f"{tally.kills} killed, {len(tally.back_s)} back; {tally.bids} bids over: {dict(tally.ends)}")


def _report(tally: Tally, minutes: float, seed: int, nodes: int, say: Say) -> Report:
    back = tally.back_s or [READY_S]
    for one in tally.bad:
        say(f"a bid without an honest end: {one}")
    say(f"{tally.kills} killed; back after {median(back):.1f} s in the median, {max(back):.1f} s at most")
    share = 100 * (tally.bids - len(tally.bad)) / tally.bids
    return {
        "results": {
            "minutes": minutes,
            "seed": seed,
            "nodes": nodes,
            "killed": tally.kills,
            "back": len(tally.back_s),
            "back_s": {"median": round(median(back), 2), "max": round(max(back), 2)},
            "bids": tally.bids,
            "ends": dict(tally.ends),
            "bad": tally.bad,
            "heard_after_the_deadline": tally.at_the_deadline,
            "bid_s": {name: round(quantile(tally.seconds, part), 2) for name, part in (("p50", 0.5), ("p99", 0.99))},
        },
        "goals": [goal(GOAL, round(share, 2), ">=", 100)],
    }
