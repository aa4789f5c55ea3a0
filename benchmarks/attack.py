"""attack: a market of processes before, under and after an attacker that speaks every protocol wrongly, at full speed.

The attacker (``tests/attacker``) has keys without end and a few addresses of loopback, and the nodes hold to their
limits there as they would on the internet (``strict_private``). An honest client buys jobs of a worker that takes no
time, so that all that is measured is the market's own. Memory is looked at after a warm-up, of honest jobs and honest
visitors (``benchmarks/visitors.py``), and after the attack and a pause in which what was kept of it runs out.
Half-lives of minutes pass in the pause as they do for a user.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil
import trio

from benchmarks.report import NotRun, Report, Say, goal, quantile
from benchmarks.stage import NOOP_ORCHESTRATOR, ROOT, Stage, stage
from benchmarks.visitors import visits
from market.bidwire import ModelOnOffer
from market.client import Delivered, Wish, bid_for
from market.rolekit import PIPELINES
from p2p.addresses import parse_target
from p2p.errors import PasarError
from p2p.host import TIDY
from p2p.peer import PeerId, peer_text

SECONDS = 60.0  # of the attack; PASAR_ATTACK_S=600 is the long one
PAUSE_S = 170.0  # for what it left to run out: streams, buckets, seen messages, and offers of ten seconds after 150;
# results are kept for ten minutes, those of the attacker's bids too: PASAR_ATTACK_PAUSE_S=640 waits for these as well
WARM_UP, VISITS, JOBS = 240, 8, 30
DEADLINE_MS = 20_000
UNDER_ATTACK_S = 2.0  # between two honest jobs while it lasts
SLOW, GROWTH = 2.0, 1.05
MEMORY = "memory of the node that grew most, after over before"
NODES = ("bootstrap", "gateway", "seller")
SHUT_OUT = re.compile(r"peer_shut_out.*?peer=(\S+)")
HONEST_FAULTS = (
    "fault of the seller",
    "the gateway broke the rules",
    "a seller is set aside",
)  # all sales here are honest
SELLER_FAULTS = ("a fault in a load", "a fault in a quote", "no quote")  # of whichever seller the line names
TRACEBACK = "Traceback (most recent call last)"


@dataclass
class Found:
    """What was measured."""

    before: list[float]
    during: list[float]
    after: list[float]
    failed_during: int
    memory: dict[str, tuple[int, int, int]]  # before, at the end of the attack, after the pause
    banned: list[str]
    restarted: list[str]
    tracebacks: int
    shut_out: int
    attack: dict[str, Any]


def run(say: Say) -> Report:
    """One minute of attack, or as many seconds as ``PASAR_ATTACK_S`` says, and the pause that follows it."""
    seconds = float(os.environ.get("PASAR_ATTACK_S", SECONDS))
    pause = float(os.environ.get("PASAR_ATTACK_PAUSE_S", PAUSE_S))
    return report(trio.run(measure, say, seconds, pause), seconds, say)


async def measure(say: Say, seconds: float, pause: float = PAUSE_S) -> Found:
    """Warm up, measure, attack, pause, measure."""
    async with stage(say, PASAR_STRICT_PRIVATE="true") as market:
        seller = await market.orchestrator("seller", NOOP_ORCHESTRATOR)
        model = (await market.offered(1)).models[0]
        await jobs(market, model, WARM_UP)
        targets = [*_addrs(market), seller["addrs"][0]]
        fresh, answered = _memory(market), await visits(market.network, targets, VISITS)
        say(f"after {WARM_UP} jobs: {_mib(fresh)}; {answered} questions of honest visitors answered")
        await trio.sleep(TIDY)
        before = await jobs(market, model, JOBS)
        births, rss = _births(market), [_memory(market)]
        say(f"{JOBS} honest jobs: {median(before) * 1000:.0f} ms each; {_mib(rss[0])}; now {seconds:.0f} s of attack")
        during, failed, attack = await _under_attack(market, model, targets, seconds, say)
        rss.append(_memory(market))
        say(f"after the attack: {_mib(rss[1])}; a pause of {pause:.0f} s")
        await trio.sleep(pause)
        try:
            after = await jobs(market, model, JOBS)
        finally:
            _keep_logs(market)
        rss.append(_memory(market))
        say(f"after the pause: {_mib(rss[2])}; {median(after) * 1000:.0f} ms a job")
        honest = {market.overlay.host.peer, *(parse_target(addr).peer for addr in targets)}
        logs = "".join(_said_by(market, name) for name in NODES)
        shut = SHUT_OUT.findall(logs)
        banned = [peer for peer in map(peer_text, honest) if peer in shut]
        banned += _blamed(logs, parse_target(targets[-1]).peer)
        return Found(
            before,
            during,
            after,
            failed,
            {name: (rss[0][name], rss[1][name], rss[2][name]) for name in NODES},
            banned,
            [name for name, born in births.items() if _births(market).get(name) != born],
            logs.count(TRACEBACK),
            len(shut),
            attack,
        )


async def jobs(market: Stage, model: ModelOnOffer, count: int) -> list[float]:
    """Seconds of so many honest jobs, one after the other. Raises NotRun where one does not end in a result."""
    return [await one_job(market, model, number) for number in range(count)]


async def one_job(market: Stage, model: ModelOnOffer, number: int) -> float:
    wish = Wish("a red circle", steps=4, seed=number, deadline_ms=DEADLINE_MS, wait=True)
    bid = bid_for(wish, model, PIPELINES[0], secrets.token_bytes)
    started = perf_counter()
    ending = await market.client.bid(market.gateway, bid, lambda news: None)
    if not isinstance(ending, Delivered):
        raise NotRun(f"an honest bid had another end: {ending}")
    return perf_counter() - started


async def _under_attack(
    market: Stage, model: ModelOnOffer, targets: list[str], seconds: float, say: Say
) -> tuple[list[float], int, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.attacker", "--network", market.network, "--seconds", str(seconds), *targets]
    took: list[float] = []
    failed = 0
    said: list[bytes] = []

    async def attack() -> None:
        done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, check=False, stderr=None)
        said.append(done.stdout)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attack)
        while True:
            await trio.sleep(UNDER_ATTACK_S)
            try:
                took.append(await one_job(market, model, len(took)))
            except (PasarError, NotRun) as exc:
                failed += 1
                say(f"under attack: {exc}")
    if not said or not said[0].strip():
        raise NotRun("the attacker did not live to its end")
    counted: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return took, failed, counted


def _keep_logs(market: Stage) -> None:
    """What the nodes said, for whoever looks for the cause: into the folder that ``PASAR_ATTACK_LOGS`` names."""
    if folder := os.environ.get("PASAR_ATTACK_LOGS"):
        for name in NODES:
            Path(folder, f"{name}.log").write_text(_said_by(market, name))


def _said_by(market: Stage, name: str) -> str:
    return market.log_of(name).read_text(errors="replace")


def _blamed(logs: str, seller: PeerId) -> list[str]:
    """Every line that holds something against the honest gateway or the honest seller."""
    lines = logs.splitlines()
    found = [line for line in lines for fault in HONEST_FAULTS if fault in line]
    named = (line for line in lines if peer_text(seller) in line)
    return found + [line for line in named for fault in SELLER_FAULTS if fault in line]


def _addrs(market: Stage) -> list[str]:
    return [market.ready[name]["addrs"][0] for name in ("bootstrap", "gateway")]


def _node(pid: int) -> psutil.Process:
    """The node itself: above one that was started with a role is a small process that starts it again."""
    above = psutil.Process(pid)
    return max([above, *above.children()], key=lambda process: int(process.memory_info().rss))


def _memory(market: Stage) -> dict[str, int]:
    return {name: int(_node(market.pids[name]).memory_info().rss) for name in NODES}


def _births(market: Stage) -> dict[str, float]:
    """When each node's process was born; one that is gone is missing."""
    return {name: _node(pid).create_time() for name, pid in market.pids.items() if psutil.pid_exists(pid)}


def _mib(memory: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in memory.items())


def report(found: Found, seconds: float, say: Say) -> Report:
    """The four goals; what happened while the attack lasted is there for information."""
    slower = round(median(found.after) / median(found.before), 3)
    growth = round(max(after / before for before, _, after in found.memory.values()), 4)
    for name, count in sorted(found.attack["done"].items()):
        say(f"the attacker: {count} {name}")
    say(f"{found.shut_out} attacking peers were shut out; {found.tracebacks} tracebacks in the nodes' logs")
    results = {
        "attack_s": seconds,
        "before_ms": _ms(found.before),
        "during_ms": _ms(found.during),
        "during_jobs": len(found.during),
        "during_failed": found.failed_during,
        "after_ms": _ms(found.after),
        "memory_mib": {name: [round(size / 2**20, 1) for size in sizes] for name, sizes in found.memory.items()},
        "shut_out": found.shut_out,
        "tracebacks": found.tracebacks,
        "banned": found.banned,
        "restarted": found.restarted,
        "attack": found.attack,
    }
    return {
        "results": results,
        "goals": [
            goal("an honest job after the attack over before it, medians", slower, "<=", SLOW),
            goal(MEMORY, growth, "<=", GROWTH),
            goal("honest peers banned", len(found.banned), "<=", 0),
            goal("processes restarted", len(found.restarted), "<=", 0),
        ],
    }


def _ms(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {"median": round(median(seconds) * 1000, 1), "p90": round(quantile(seconds, 0.9) * 1000, 1)}
