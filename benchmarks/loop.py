"""loop: how late the node's event loop is while its worker draws, and while it loads a model, against an idle one.

A task sleeps for five milliseconds again and again; how much later it wakes is the lag. The worker is a real one in its
own process; the loop is this process's, which reads its steps and results as a node does. Idle and busy stretches
alternate in one run.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from benchmarks.report import Report, Say, goal, quantile
from compute.modelfolder import bundled
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker

NAP_S = 0.005
IDLE_S = 6.0
ROUNDS = 3
JOBS, STEPS = 8, 30  # at the same time, in each round
GOAL = 3.0


def run(say: Say) -> Report:
    """Three rounds of idle, drawing and loading."""
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """The lags of all rounds together, by what the worker did."""
    lags: dict[str, list[float]] = {"idle": [], "drawing": [], "loading": []}
    with TemporaryDirectory(prefix="pasar-bench-") as home:
        for number in range(ROUNDS):
            worker = Worker(WorkerConfig(Path(home) / f"{number}", (bundled(),), device="cpu", threads=1))
            async with trio.open_nursery() as nursery:

                async def start(nursery: trio.Nursery = nursery, worker: Worker = worker) -> None:
                    await nursery.start(worker.run)
                    await _draw(worker)  # cold: the worker starts and loads first

                lags["loading"] += await _lags(start)
                lags["idle"] += await _lags(_rest)
                lags["drawing"] += await _lags(partial(_draw_many, worker))
                nursery.cancel_scope.cancel()
            say(f"round {number + 1} of {ROUNDS} done")
    p99 = {name: round(quantile(found, 0.99) * 1000, 3) for name, found in lags.items()}
    for name, found in lags.items():
        say(f"{name}: {len(found)} naps, median {quantile(found, 0.5) * 1000:.2f} ms, p99 {p99[name]:.2f} ms late")
    return {
        "device": "cpu",
        "results": {"p99_ms": p99, "naps": {name: len(found) for name, found in lags.items()}},
        "goals": [
            goal(f"p99 lag while {name} over idle", round(p99[name] / max(p99["idle"], 1e-3), 3), "<=", GOAL)
            for name in ("drawing", "loading")
        ],
    }


async def _lags(work: Callable[[], Awaitable[None]]) -> list[float]:
    """How late each nap ended while ``work`` ran."""
    found: list[float] = []

    async def nap() -> None:
        while True:
            wanted = trio.current_time() + NAP_S
            await trio.sleep_until(wanted)
            found.append(trio.current_time() - wanted)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nap)
        await work()
        nursery.cancel_scope.cancel()
    return found


async def _rest() -> None:
    await trio.sleep(IDLE_S)


async def _draw(worker: Worker) -> None:
    shape = JobShape(TEXT_TO_IMAGE, worker.capability().models[0].model, 64, 64, STEPS, True)
    spec = JobSpec(shape, "a red circle", "", 3000, 1, secrets.token_bytes(16))
    await worker.generate(secrets.token_bytes(32), spec, lambda step: None)


async def _draw_many(worker: Worker) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(JOBS):
            nursery.start_soon(_draw, worker)
