"""batching: random arrivals at one real worker: served one at a time, in batches of whole requests, in shared steps.

The worker is the real process with the real device code; what differs is only when it is handed a request:

    one at a time   the next when the last is done, in order of arrival, as a runner with a lock does
    whole requests  when the last batch is done, all that wait and have as many steps as the first of them, together
    shared steps    at once; the worker decides anew before each step who makes it

Step counts are mixed, arrivals are those of a Poisson process, the same for all three. A load of 1.0 is what the worker
does one at a time, measured just before. Latency runs from the arrival, first step is the first that the caller sees.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import trio

from benchmarks.random_models import SATURATING, STABLE_DIFFUSION, build
from benchmarks.report import NotRun, Report, Say, goal, quantile
from compute.modelfolder import bundled
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec, Verification
from compute.work import Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STEPS = (8, 12, 20)
LOADS = (0.5, 0.8, 1.2, 2.0)
REQUESTS, REQUESTS_LARGE = 48, 24
TOGETHER = 8  # whole requests in a batch
MEASURED = 9  # requests alone, for the capacity
SEED = 20
PATIENCE_S = 400.0


@dataclass(slots=True)
class Request:
    """One picture that somebody wants ``at`` seconds after the start."""

    spec: JobSpec
    at: float
    first_s: float = 0.0
    took_s: float = 0.0


@dataclass(slots=True)
class Bench:
    """One worker with one warm model, and what can be asked of it."""

    worker: Worker
    side: int
    requests: int
    capacity: float = 0.0
    device: str = ""
    results: dict[str, Any] = field(default_factory=dict)

    def request(self, chance: Random, at: float, steps: int = 0) -> Request:
        """Any of the step counts unless one is given, its own words and seed."""
        model, steps = self.worker.capability().models[0].model, steps or chance.choice(STEPS)
        shape = JobShape(TEXT_TO_IMAGE, model, self.side, self.side, steps, True, verification=Verification.RECEIPT)
        words = f"a {chance.choice(('red', 'blue', 'green'))} circle"
        return Request(JobSpec(shape, words, "", 3000, chance.randrange(2**31), secrets.token_bytes(16)), at)

    async def draw(self, request: Request, begun: float) -> None:
        """Hand it in now and wait for the picture."""

        def on_step(step: Step) -> None:
            if step.step == 1:
                request.first_s = perf_counter() - begun - request.at

        await self.worker.generate(secrets.token_bytes(32), request.spec, on_step)
        request.took_s = perf_counter() - begun - request.at


# -- three ways to serve -----------------------------------------------------------------------------------------------

Serve = Callable[[Bench, trio.MemoryReceiveChannel[Request], float], Awaitable[None]]


async def one_at_a_time(bench: Bench, arrived: trio.MemoryReceiveChannel[Request], begun: float) -> None:
    """In order of arrival."""
    async for request in arrived:
        await bench.draw(request, begun)


async def whole_requests(bench: Bench, arrived: trio.MemoryReceiveChannel[Request], begun: float) -> None:
    """A batch is formed of what waits, runs to its end, and nobody joins it."""
    waiting: list[Request] = []
    async for request in arrived:
        waiting.append(request)
        while waiting:
            waiting += _all_of(arrived)
            batch = [one for one in waiting if one.spec.shape.steps == waiting[0].spec.shape.steps][:TOGETHER]
            waiting = [one for one in waiting if one not in batch]
            async with trio.open_nursery() as nursery:
                for one in batch:
                    nursery.start_soon(bench.draw, one, begun)


async def shared_steps(bench: Bench, arrived: trio.MemoryReceiveChannel[Request], begun: float) -> None:
    """The worker has them all."""
    async with trio.open_nursery() as nursery:
        async for request in arrived:
            nursery.start_soon(bench.draw, request, begun)


WAYS: dict[str, Serve] = {"one": one_at_a_time, "request": whole_requests, "step": shared_steps}


def _all_of(arrived: trio.MemoryReceiveChannel[Request]) -> list[Request]:
    found = []
    while arrived.statistics().current_buffer_used:
        found.append(arrived.receive_nowait())
    return found


async def serve(bench: Bench, way: Serve, load: float, seed: int) -> dict[str, float]:
    """The same arrivals whatever the way: throughput, and the times of the callers."""
    chance, at, requests = Random(seed), 0.0, list[Request]()
    for _ in range(bench.requests):
        at += chance.expovariate(load * bench.capacity)
        requests.append(bench.request(chance, at))
    put, arrived = trio.open_memory_channel[Request](bench.requests)
    begun = perf_counter()
    with trio.move_on_after(PATIENCE_S) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(way, bench, arrived, begun)
            with put:
                for request in requests:
                    await trio.sleep(begun + request.at - perf_counter())
                    put.send_nowait(request)
    if patience.cancelled_caught:
        raise NotRun(f"not served within {PATIENCE_S:.0f} s")
    whole = perf_counter() - begun
    took = [request.took_s for request in requests]
    return {
        "throughput": round(len(requests) / whole, 3),
        "mean_s": round(fmean(took), 3),
        "p95_s": round(quantile(took, 0.95), 3),
        "first_s": round(fmean(request.first_s for request in requests), 3),
    }


# -- the runs ----------------------------------------------------------------------------------------------------------


def run(say: Say) -> Report:
    """The bundled model at four loads, a net that one request saturates, a large one on an accelerator if any."""
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """One worker after the other: two would share the cores."""
    results: dict[str, Any] = {}
    with TemporaryDirectory(prefix="pasar-bench-") as home:
        async with _bench(say, "bundled", bundled(), Path(home), 64, REQUESTS) as bench:
            for load in LOADS:
                await _compare(say, bench, load, tuple(WAYS))
            results["bundled"], device = bench.results, bench.device
        large = await trio.to_thread.run_sync(build, Path(home) / "saturating", SATURATING)
        async with _bench(say, "saturating", large, Path(home), 256, REQUESTS_LARGE) as bench:
            await _compare(say, bench, 2.0, ("one", "step"))
            results["saturating"] = bench.results
        if await trio.to_thread.run_sync(_has_cuda):
            half = partial(build, half=True)
            large = await trio.to_thread.run_sync(half, Path(home) / "large", STABLE_DIFFUSION)
            async with _bench(say, "accelerator", large, Path(home), 512, REQUESTS) as bench:
                for load in LOADS:
                    await _compare(say, bench, load, tuple(WAYS))
                results["accelerator"] = bench.results
    return {"device": device, "results": results, "goals": _goals(results)}


@asynccontextmanager
async def _bench(say: Say, name: str, folder: Path, home: Path, side: int, requests: int) -> AsyncIterator[Bench]:
    device = "auto" if name == "accelerator" else "cpu"
    worker = Worker(WorkerConfig(home / f"{name}-worker", (folder,), device=device, threads=1))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        bench = Bench(worker, side, requests)
        await _capacity(bench)
        bench.device = worker.device
        bench.results = {"side": side, "requests": requests, "alone_per_s": round(bench.capacity, 3)}
        bench.results["gains_percent"] = list(worker.gains(worker.capability().models[0].model))
        say(
            f"{name}: {side} x {side} on {worker.device}, one thread, steps {STEPS}: {bench.capacity:.2f} a second "
            f"alone; batches of 1, 2, 4, 8 do {bench.results['gains_percent']} percent as far as they pay"
        )
        yield bench
        nursery.cancel_scope.cancel()


async def _capacity(bench: Bench) -> None:
    """Requests alone, as many of each step count."""
    chance, requests = Random(SEED), list[Request]()
    await bench.draw(bench.request(chance, 0.0), perf_counter())  # loads, and is not counted
    for number in range(MEASURED):
        request = bench.request(chance, 0.0, STEPS[number % len(STEPS)])
        await bench.draw(request, perf_counter())
        requests.append(request)
    bench.capacity = 1 / fmean(request.took_s for request in requests)


async def _compare(say: Say, bench: Bench, load: float, ways: tuple[str, ...]) -> None:
    found = {}
    for way in ways:
        found[way] = await serve(bench, WAYS[way], load, SEED + int(load * 10))
        one = found[way]
        say(
            f"  load {load}: {way:8} {one['throughput']:6.2f} a second, mean {one['mean_s']:7.3f} s, "
            f"p95 {one['p95_s']:7.3f} s, first step {one['first_s']:7.3f} s"
        )
    bench.results[f"load {load}"] = found


def _goals(results: dict[str, Any]) -> list[dict[str, Any]]:
    goals = []
    for name in ("bundled", "accelerator"):
        if name in results:
            found = results[name]["load 2.0"]
            one, request, step = found["one"], found["request"], found["step"]
            goals += [
                goal(f"{name}, load 2.0: throughput over one at a time", _ratio(step, one, "throughput"), ">=", 1.8),
                goal(f"{name}, load 2.0: latency of one at a time over it", _ratio(one, step, "mean_s"), ">=", 4.5),
                goal(f"{name}, load 2.0: that of whole requests over it", _ratio(request, step, "mean_s"), ">=", 1.5),
            ]
    found = results["saturating"]["load 2.0"]
    one, step = found["one"], found["step"]
    return [
        *goals,
        goal("saturating net: throughput over one at a time", _ratio(step, one, "throughput"), ">=", 0.97),
        goal("saturating net: how many times sooner the first step is", _ratio(one, step, "first_s"), ">=", 3.0),
    ]


def _ratio(over: dict[str, float], under: dict[str, float], what: str) -> float:
    return round(over[what] / max(1e-6, under[what]), 3)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())
