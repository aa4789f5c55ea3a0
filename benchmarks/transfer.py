"""transfer: 1, 16 and 100 MiB over the chunked, digested, acknowledged transfer, against bare streams.

Every sender and every receiver is a process of its own, on loopback. A round is one transfer of each kind, one after
the other, and the best round of each kind counts: what disturbs a transfer only ever makes it slower. The sender of the
blob knows the digest of what it sends, as whoever sends a result does; the receiver checks every chunk and the whole.
js-libp2p takes part where Node and the packages of tests/js are.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from benchmarks.lines import Child, children
from benchmarks.report import Report, Say, goal

KINDS = {"bare": "ours", "blob": "ours", "stock": "stock", "tls": "tls"}  # who sends: who serves
ROUNDS = {1: 15, 16: 8, 100: 3}
NODE = (sys.executable, "-m", "benchmarks.transfer_node")
OF_BARE, OF_STOCK = 0.90, 1.15
READY_S, ONE_S = 60.0, 120.0


def run(say: Say) -> Report:
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """All sizes, all kinds in turn."""
    results: dict[str, Any] = {}
    goals = list[dict[str, Any]]()
    async with senders(say) as kinds:
        for mib, rounds in ROUNDS.items():
            best = await _best(kinds, mib, rounds)
            shown = ", ".join(f"{kind} {rate:.0f}" for kind, rate in best.items())
            say(f"{mib} MiB, the best of {rounds}, in MiB/s: {shown}")
            results[f"{mib} MiB"] = {kind: round(rate, 1) for kind, rate in best.items()}
            for other, least in (("bare", OF_BARE), ("stock", OF_STOCK)):
                named = {"bare": "a bare stream of the same host", "stock": "a stock py-libp2p stream"}[other]
                goals.append(goal(f"{mib} MiB over {named}", round(best["blob"] / best[other], 3), ">=", least))
    return {"results": results, "goals": goals}


async def _best(kinds: dict[str, Child], mib: int, rounds: int) -> dict[str, float]:
    """The highest rate of each kind in MiB/s, after one transfer that does not count."""
    fastest = dict.fromkeys(kinds, 0.0)
    for number in range(rounds + 1):
        for kind, child in kinds.items():
            with trio.fail_after(ONE_S):
                took = await child.ask(mib)
            if number:
                fastest[kind] = max(fastest[kind], mib / took)
    return fastest


@asynccontextmanager
async def senders(say: Say) -> AsyncGenerator[dict[str, Child]]:
    """A sender of each kind, connected with a receiver of its own kind."""
    async with AsyncExitStack() as stack:
        made: dict[str, Child] = {}
        for kind, server in KINDS.items():
            made[kind] = await _pair(stack, [*NODE, server], [*NODE, kind])
        await _javascript(stack, made, say)
        yield made


async def _pair(stack: AsyncExitStack, serving: list[str], sending: list[str], **where: Any) -> Child:
    with trio.fail_after(READY_S):
        (far,) = await stack.enter_async_context(children([serving], **where))
        addr = (await far.ready())["addrs"][0]
        (near,) = await stack.enter_async_context(children([[*sending, addr]], **where))
        await near.ready()
    return near


async def _javascript(stack: AsyncExitStack, made: dict[str, Child], say: Say) -> None:
    """The same between two processes of js-libp2p, for information."""
    from tests.support.javascript import NoJavascript, command, workplace

    try:
        script = [*command(), "transfer.mjs"]
        made["js"] = await _pair(stack, script, script, cwd=await trio.to_thread.run_sync(workplace))
    except NoJavascript as exc:
        say(f"without js-libp2p: {exc}")
