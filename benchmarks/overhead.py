"""overhead: a job of about one second through the whole market, against the same job in a worker alone.

Two equal worker processes with one torch thread each: one belongs to a real orchestrator, the other to this process.
Both are warm; a pair is one job in each with the same prompt and seed, and whichever goes first changes from pair to
pair. The market's time runs from the call of a connected client to its checked result: bid, auction, award, work,
seal, tickets, key, Receipt, delivery, verification. The alone time is the worker's answer to this process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import trio

from benchmarks.report import NotRun, Report, Say, goal
from benchmarks.stage import NODE, Stage, stage
from compute.modelfolder import bundled
from compute.spec import JobSpec
from compute.work import Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from market.bidwire import ModelOnOffer
from market.client import Delivered, Wish, bid_for
from market.rolekit import PIPELINES

PAIRS, WARM_UP, TRIES = 10, 2, 3
ABOUT_S = 1.0
GOAL = 1.10
MAX_STEPS = 1000


def run(say: Say) -> Report:
    """Ten pairs."""
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """Build both, warm both, alternate."""
    named = os.environ.get("PASAR_MODELS")
    folder = Path(named) if named else bundled()
    with TemporaryDirectory(prefix="pasar-bench-") as home:
        async with stage(say, PASAR_THREADS="1", PASAR_MODELS=str(folder)) as market, trio.open_nursery() as nursery:
            await market.orchestrator("seller", [*NODE, "--role", "orchestrator"])
            worker = Worker(WorkerConfig(Path(home), (folder,), threads=1))
            await nursery.start(worker.run)
            model = (await market.offered(1)).models[0]
            steps = await _steps(worker, model)
            say(f"one job: {model.native_side} x {model.native_side}, {steps} steps, one torch thread; {PAIRS} pairs")
            made = await _pairs(market, worker, model, steps, say)
            nursery.cancel_scope.cancel()
    return made


async def _pairs(market: Stage, worker: Worker, model: ModelOnOffer, steps: int, say: Say) -> Report:
    async def through(wish: Wish) -> float:
        return await _through(market, model, wish)

    async def alone(wish: Wish) -> float:
        return await _alone(worker, _spec(model, wish))

    kinds: dict[str, Callable[[Wish], Awaitable[float]]] = {"alone": alone, "market": through}
    seconds: dict[str, list[float]] = {"alone": [], "market": []}
    for number in range(WARM_UP + PAIRS):
        wish = Wish("a red circle above a blue square", steps=steps, seed=number)
        for kind in sorted(kinds, reverse=bool(number % 2)):
            took = await kinds[kind](wish)
            if number >= WARM_UP:
                seconds[kind].append(took)
        if number >= WARM_UP:
            say(
                f"pair {number - WARM_UP + 1}: alone {seconds['alone'][-1]:.3f} s, market {seconds['market'][-1]:.3f} s"
            )
    ratios = [through / alone for through, alone in zip(seconds["market"], seconds["alone"], strict=True)]
    added = [through - alone for through, alone in zip(seconds["market"], seconds["alone"], strict=True)]
    ratio = round(median(ratios), 3)
    say(f"the market adds {median(added) * 1000:.0f} ms in the median pair: {ratio} times the work alone")
    return {
        "device": worker.device,
        "results": {
            "pairs": PAIRS,
            "steps": steps,
            "alone_s": [round(one, 4) for one in seconds["alone"]],
            "market_s": [round(one, 4) for one in seconds["market"]],
            "added_ms": round(median(added) * 1000, 1),
            "ratio": ratio,
        },
        "goals": [goal("a job through the market over the same job in the worker, median of pairs", ratio, "<=", GOAL)],
    }


async def _steps(worker: Worker, model: ModelOnOffer) -> int:
    """How many steps take about a second here."""
    few, many = 10, 60
    await _alone(worker, _spec(model, Wish("warm", steps=few)))
    short = min([await _alone(worker, _spec(model, Wish("warm", steps=few))) for _ in range(TRIES)])
    long = min([await _alone(worker, _spec(model, Wish("warm", steps=many))) for _ in range(TRIES)])
    each = max(1e-4, (long - short) / (many - few))
    return max(few, min(MAX_STEPS, model.max_steps, round((ABOUT_S - short) / each) + few))


def _spec(model: ModelOnOffer, wish: Wish) -> JobSpec:
    return bid_for(wish, model, PIPELINES[0], secrets.token_bytes).spec


async def _alone(worker: Worker, spec: JobSpec) -> float:
    def on_step(step: Step) -> None:
        """Steps are heard, as an orchestrator hears them."""

    started = perf_counter()
    await worker.generate(secrets.token_bytes(32), spec, on_step)
    return perf_counter() - started


async def _through(market: Stage, model: ModelOnOffer, wish: Wish) -> float:
    bid = bid_for(wish, model, PIPELINES[0], secrets.token_bytes)
    started = perf_counter()
    ending = await market.client.bid(market.gateway, bid, lambda news: None)
    took = perf_counter() - started
    if not isinstance(ending, Delivered):
        raise NotRun(f"a bid had another end: {ending}")
    return took
