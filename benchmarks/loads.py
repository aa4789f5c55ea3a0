"""loads: how old a gateway's view of 64 sellers is, and what it costs to have it.

The gateway's end of the load streams runs here on a real host, with a book of as many offers as it may follow; the
sellers are processes of sixteen hosts each, every one of which becomes busy or free about once a second. Counted is the
time from a change at the seller to the moment this process knows of it, and this process's own CPU time. Beside it a
bare round trip over the same kind of host in the same run.
"""

from __future__ import annotations

import sys
import time
from random import SystemRandom
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

import trio

from benchmarks.busy_sellers import WRAPS, seller, stamp
from benchmarks.echo import ECHO, round_trip
from benchmarks.neighbour import ANYWHERE, offers_by
from benchmarks.report import NotRun, Report, Say, goal, quantile
from benchmarks.stage import Stage, empty_stage
from ledger.money import Settlement
from market.bookfeed import BookFeed
from market.conversation import now_ms
from market.hello import Greeter
from market.loadfeed import LoadFeed
from market.loads import CAP, LoadBoard
from market.reputation import Reputation
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.host import Host
from p2p.identity import Identity
from p2p.peer import Address, PeerId
from p2p.stream import MessageStream
from p2p.transport import PeerAddrs

if TYPE_CHECKING:
    from market.offer import Load

SELLERS, IN_PROCESS = CAP, 16
SECONDS = 20.0
WAIT_S = 60.0
PINGS = 200
GOAL_MS = 1000
SETTLEMENT = Settlement(1337, Address(bytes(20)))


class Noting(LoadBoard):
    """A board that notes how old each news is when it comes; a Load that only repeats the last one is none."""

    def __init__(self) -> None:
        super().__init__()
        self.ages: list[int] = []
        self.heard_in_all = 0
        self._stamps: dict[PeerId, int] = {}

    def heard(self, seller: PeerId, load: Load, now: int) -> bool:
        """Take a Load as any board does."""
        self.heard_in_all += 1
        if self._stamps.get(seller) not in (None, load.queue):
            self.ages.append((stamp() - load.queue) % WRAPS)
        self._stamps[seller] = load.queue
        return super().heard(seller, load, now)


class NoGossip:
    """Every offer is known from the start."""

    async def join(self, topic: str, judge: object) -> None:
        """Nobody is told of any offer."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Nobody is told of any offer."""


def run(say: Say) -> Report:
    """Twenty seconds of a full list."""
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """Sellers, a follower, a wait."""
    async with empty_stage(say) as market, trio.open_nursery() as nursery:
        addrs: dict[PeerId, PeerAddrs] = {}
        for first in range(0, SELLERS, IN_PROCESS):
            flags = ("--network", market.network, "--first", str(first), "--sellers", str(IN_PROCESS))
            told = await market.start(f"sellers-{first}", [sys.executable, "-m", "benchmarks.busy_sellers", *flags])
            addrs |= {target.peer: target for target in map(parse_target, told["addrs"])}
        host = Host(Identity.fresh(development=True), (ANYWHERE,))
        await nursery.start(host.run)
        trip = await _round_trip(market, host)
        feed = await _follow(market.network, host, addrs, nursery)
        board = feed.board = Noting()
        with trio.move_on_after(WAIT_S):
            while len(board.loads(PIPELINES[0], now_ms())) < SELLERS:  # noqa: ASYNC110
                await trio.sleep(0.1)
        say(f"{len(feed.followed())} sellers in {SELLERS // IN_PROCESS} processes are followed; {SECONDS:.0f} s of it")
        board.ages.clear()
        board.heard_in_all, cpu = 0, process_time()
        await trio.sleep(SECONDS)
        cpu = process_time() - cpu
        known = len(board.loads(PIPELINES[0], now_ms()))
        nursery.cancel_scope.cancel()
    if known < SELLERS or not board.ages:
        raise NotRun(f"{known} of {SELLERS} sellers were known at the end")
    return _report(board, cpu, trip, say)


def _report(board: Noting, cpu: float, trip: float, say: Say) -> Report:
    p50, p99, most = (quantile(board.ages, part) for part in (0.5, 0.99, 1.0))
    each = cpu / board.heard_in_all * 1000
    say(f"{len(board.ages)} changes were heard {p50} ms after they happened, p99 {p99} ms, at most {most} ms")
    say(f"{board.heard_in_all} Loads cost {each:.2f} ms of CPU each; a bare round trip takes {trip:.2f} ms")
    return {
        "results": {
            "sellers": SELLERS,
            "seconds": SECONDS,
            "changes": len(board.ages),
            "age_ms": {"p50": p50, "p99": p99, "max": most},
            "loads": board.heard_in_all,
            "cpu_ms_per_load": round(each, 3),
            "cpu_share": round(cpu / SECONDS, 3),
            "round_trip_ms": round(trip, 3),
        },
        "goals": [goal("milliseconds from a change at a seller to the gateway's view, p99", p99, "<=", GOAL_MS)],
    }


async def _follow(network: str, host: Host, addrs: dict[PeerId, PeerAddrs], nursery: trio.Nursery) -> LoadFeed:
    greeter = Greeter(network, "gateway", lambda: None, time.time)
    book = BookFeed(host, NoGossip(), greeter, PIPELINES, time.time)  # type: ignore[arg-type]
    sellers = [seller(number) for number in range(SELLERS)]
    for made, envelope in offers_by(sellers, network, SETTLEMENT, 1, models_in_all=8):
        book.take(made, envelope)

    async def reach(peer: PeerId) -> None:
        await host.connect(addrs[peer])

    feed = LoadFeed(host, greeter, reach, book, Reputation(), SETTLEMENT, SystemRandom(), salt=b"benchmark")
    await nursery.start(feed.run)
    return feed


async def _round_trip(market: Stage, host: Host) -> float:
    """Milliseconds of the median bare round trip."""
    told = await market.start("echo", [sys.executable, "-m", "benchmarks.echo"])
    target = parse_target(told["addrs"][0])
    await host.connect(target)
    async with MessageStream(await host.open(target.peer, ECHO)) as stream:
        return median([await round_trip(stream) for _ in range(PINGS)]) * 1000
