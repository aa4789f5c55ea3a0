"""gossip: real hosts in processes of their own, a message of 256 bytes from one of them at a time, to all others.

Each node dials four others at random and keeps a mesh of six. A message counts as delivered when it reached a node by
gossip, at the first publication and within three seconds of the end of the run; its age is the time from before its
publication to its reading by a subscriber. CPU is that of a node's whole process while it ran, heartbeats included,
for each message that it got, so that a swarm that loses messages does not look cheap for it. The mends are the patches
of p2p/hardening that only save time: the same swarm is started without them for comparison.
"""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import mean
from typing import Any

import trio

from benchmarks.lines import Child, children
from benchmarks.report import NotRun, Report, Say, goal, quantile
from p2p.hardening import MENDS

RATES = {10: (10.0, 20.0), 25: (6.0,), 50: (1.0,)}  # nodes: messages a second, of all of them together
COMPARED, COMPARED_AT, TURNS = 10, 20.0, 2
SECONDS, SEARCH_SECONDS = 15.0, 8.0
SEARCH_STEP, SEARCH_MOST = 1.5, 400.0
DIALS, NEIGHBOURS = 4, 4
READY_S, MESH_S = 300.0, 120.0
DELIVERED, AGE_MS, SAVED = 0.999, 300.0, 0.6


@dataclass
class Measured:
    """One run of a swarm."""

    rate: float
    sent: int
    delivered: float
    ages: list[float]
    cpu_ms: float

    @property
    def p99(self) -> float:
        return quantile(self.ages, 0.99) if self.ages else float("inf")

    def shown(self) -> dict[str, Any]:
        ages = {f"p{part}_ms": round(quantile(self.ages or [0.0], part / 100), 1) for part in (50, 95, 99, 100)}
        shares = {"delivered": round(self.delivered, 5), "cpu_ms_per_message_per_node": round(self.cpu_ms, 2)}
        return {"rate": round(self.rate, 1), "sent": self.sent, **shares, **ages}


@asynccontextmanager
async def swarm(nodes: int, without: Collection[str] = ()) -> AsyncGenerator[list[Child]]:
    """So many nodes, connected, with a mesh."""
    left_out = ",".join(sorted(without))
    commands = [[sys.executable, "-m", "benchmarks.gossip_node", str(index), left_out] for index in range(nodes)]
    async with children(commands) as made:
        addrs = list[str]()
        with trio.move_on_after(READY_S):
            for child in made:
                addrs.append((await child.ready())["addrs"][0])
        if len(addrs) < nodes:
            raise NotRun(f"{len(addrs)} of {nodes} nodes were ready after {READY_S:.0f} s")
        await _connect(made, addrs)
        yield made


async def _connect(made: list[Child], addrs: list[str]) -> None:
    chance = random.Random(len(made))
    for index, child in enumerate(made):
        others = [addr for place, addr in enumerate(addrs) if place != index]
        await child.ask({"do": "dial", "addrs": chance.sample(others, min(DIALS, len(others)))})
    with trio.move_on_after(MESH_S):
        for child in made:
            await child.ask({"do": "mesh", "least": min(NEIGHBOURS, len(made) - 1)})
        await trio.sleep(2)  # two heartbeats more, for the last of them to be grafted
        return
    raise NotRun("no mesh came about")


async def _send(made: list[Child], rate: float, seconds: float) -> Measured:
    """All nodes take their part of the rate."""
    answers = list[dict[str, Any]]()

    async def one(child: Child) -> None:
        answers.append(await child.ask({"do": "send", "every": len(made) / rate, "seconds": seconds}))

    async with trio.open_nursery() as nursery:
        for child in made:
            nursery.start_soon(one, child)
    sent = sum(answer["sent"] for answer in answers)
    ages = [age for answer in answers for age in answer["ages"]]
    cpu = mean(answer["cpu"] for answer in answers)
    delivered = len(ages) / max(1, sent * (len(made) - 1))
    return Measured(rate, sent, delivered, ages, cpu * 1000 / max(1.0, sent * delivered))


def run(say: Say) -> Report:
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """Every size at its rates, then as fast as it goes; and the smallest with and without the mends, in turn."""
    results: dict[str, Any] = {}
    goals = list[dict[str, Any]]()
    for nodes, rates in RATES.items():
        async with swarm(nodes) as made:
            for rate in rates:
                found = await _send(made, rate, max(SECONDS, 30 / rate))
                _tell(say, f"{nodes} nodes", found)
                results[f"{nodes} nodes, {rate:.0f}/s"] = found.shown()
                goals += _goals(f"{nodes} nodes, {rate:.0f} messages/s", found)
            most = await _search(say, made, rates[-1])
        say(f"{nodes} nodes: {most:.1f}/s is the highest rate tried that still delivers {DELIVERED:.1%}")
        results[f"{nodes} nodes, highest rate"] = round(most, 1)
    ratio = await _compare(say, results)
    goals.append(
        goal("CPU per message per node, 10 nodes at 20/s, over the same without the mends", ratio, "<=", SAVED)
    )
    return {"results": results, "goals": goals}


def _goals(what: str, found: Measured) -> list[dict[str, Any]]:
    return [
        goal(f"delivered, {what}", round(found.delivered, 5), ">=", DELIVERED),
        goal(f"p99 of the age in ms, {what}", round(found.p99, 1), "<=", AGE_MS),
    ]


async def _search(say: Say, made: list[Child], rate: float) -> float:
    """Raise the rate by half until one run delivers too little; the last rate before it."""
    held = 0.0
    while rate <= SEARCH_MOST:
        found = await _send(made, rate, max(SEARCH_SECONDS, 10 / rate))
        _tell(say, f"{len(made)} nodes, as fast as it goes", found)
        if found.delivered < DELIVERED:
            break
        held, rate = rate, rate * SEARCH_STEP
    return held


async def _compare(say: Say, results: dict[str, Any]) -> float:
    """CPU with the mends over CPU without, of swarms that run one after the other."""
    spent: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(TURNS):
        for kind, without in (("with", ()), ("without", MENDS)):
            async with swarm(COMPARED, without) as made:
                found = await _send(made, COMPARED_AT, SECONDS)
            _tell(say, f"{COMPARED} nodes {kind} the mends", found)
            spent[kind].append(found.cpu_ms)
            results.setdefault(f"{kind} the mends", []).append(found.shown())
    return round(min(spent["with"]) / min(spent["without"]), 3)


def _tell(say: Say, who: str, found: Measured) -> None:
    shown = found.shown()
    ages = f"age p50 {shown['p50_ms']} p95 {shown['p95_ms']} p99 {shown['p99_ms']} most {shown['p100_ms']} ms"
    say(
        f"{who}, {found.rate:.1f}/s: {found.delivered:.3%} of {found.sent} delivered, {ages}, {found.cpu_ms:.2f} ms CPU"
    )
