"""batching: random arrivals at one real device: served one at a time, in batches of whole requests, in shared steps.

The model, the device, its step loop and its policy are the worker's own (``benchmarks/devicebench.py``); what differs
is only when a request is handed in:

    one      the next when the last is done, in order of arrival, as a runner with a lock does
    request  when the last batch is done, those that wait and have as many steps as the first of them, together
    step     at once; before each step it is decided anew who makes it

Step counts are mixed, arrivals are those of a Poisson process of which as many fall into the time as do on average,
the same for all three. A load of 1.0 is what the device does one at a time, measured just before. Above that, whoever
serves too slowly has a queue that grows with the number of requests, and so does its latency. Latency runs from the
arrival; the first step is the first that is told of. On a CPU one thread works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import trio

from benchmarks.devicebench import Asked, Counter, DeviceBench
from benchmarks.random_models import SATURATING, STABLE_DIFFUSION, build
from benchmarks.report import Report, Say, goal, quantile
from compute.batching import MAX_OPEN
from compute.modelfolder import bundled

STEPS = (8, 12, 20)
REQUESTS = {0.5: 24, 0.8: 24, 1.2: 39, 2.0: 120}  # by load; above 1.0 queues need time to form
SATURATED = {2.0: 12}
MEASURED = 6  # requests alone, for the capacity
SEED = 20

Arrivals = trio.MemoryReceiveChannel[Asked]
Way = Callable[[Counter, Arrivals], Awaitable[None]]


# -- three ways to serve -----------------------------------------------------------------------------------------------


async def one_at_a_time(counter: Counter, arrived: Arrivals) -> None:
    """In order of arrival."""
    async for asked in arrived:
        await counter.draw(asked)


async def whole_requests(counter: Counter, arrived: Arrivals) -> None:
    """A batch is formed of what waits, runs to its end, and nobody joins it."""
    waiting: list[Asked] = []
    async for asked in arrived:
        waiting.append(asked)
        while waiting:
            while arrived.statistics().current_buffer_used:
                waiting.append(arrived.receive_nowait())
            steps = waiting[0].spec.shape.steps
            batch = [one for one in waiting if one.spec.shape.steps == steps][:MAX_OPEN]
            waiting = [one for one in waiting if one not in batch]
            async with trio.open_nursery() as nursery:
                for one in batch:
                    nursery.start_soon(counter.draw, one)


async def shared_steps(counter: Counter, arrived: Arrivals) -> None:
    """The device has them all."""
    async with trio.open_nursery() as nursery:
        async for asked in arrived:
            nursery.start_soon(counter.draw, asked)


WAYS: dict[str, Way] = {"one": one_at_a_time, "request": whole_requests, "step": shared_steps}


def serve(bench: DeviceBench, way: Way, arrivals: list[tuple[float, int]]) -> dict[str, float]:
    """Throughput, and the times of the callers, for requests of so many steps at such times."""
    requests = [Asked(bench.spec(steps, number), at) for number, (at, steps) in enumerate(arrivals)]

    async def scenario(counter: Counter) -> None:
        put, arrived = trio.open_memory_channel[Asked](len(requests))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(way, counter, arrived)
            with put:
                for asked in requests:
                    asked.at += began
                    await trio.sleep_until(asked.at)
                    put.send_nowait(asked)

    whole = bench.serve(scenario)
    took = [asked.done - asked.at for asked in requests]
    return {
        "throughput": round(len(requests) / whole, 3),
        "mean_s": round(fmean(took), 3),
        "p95_s": round(quantile(took, 0.95), 3),
        "first_s": round(fmean(asked.first - asked.at for asked in requests), 3),
    }


def arrivals(load: float, capacity: float, count: int) -> list[tuple[float, int]]:
    """Random times and step counts, the same for the same load and capacity.

    Given how many arrivals of a Poisson process fall into a time, each is anywhere in it. So the load is what it is
    said to be, whatever the chance; likewise there are as many of each step count, in random order.
    """
    chance = Random(SEED + int(load * 10))
    steps = [STEPS[number % len(STEPS)] for number in range(count)]
    chance.shuffle(steps)
    return list(zip(sorted(chance.uniform(0, count / (load * capacity)) for _ in range(count)), steps, strict=True))


# -- the runs ----------------------------------------------------------------------------------------------------------


def run(say: Say) -> Report:
    """The bundled model at four loads, a net that one request saturates, a large one on an accelerator if any."""
    results: dict[str, Any] = {}
    with TemporaryDirectory(prefix="pasar-bench-") as home:
        place = Path(home)
        bench = DeviceBench(bundled(), place / "traces", 64, "cpu")
        results["bundled"] = _compare(say, "bundled", bench, REQUESTS, tuple(WAYS))
        bench = DeviceBench(build(place / "saturating", SATURATING), place / "traces", 192, "cpu")
        results["saturating"] = _compare(say, "saturating", bench, SATURATED, ("one", "step"))
        if _has_cuda():
            folder = build(place / "large", STABLE_DIFFUSION, half=True)
            bench = DeviceBench(folder, place / "traces", 512, "cuda")
            results["accelerator"] = _compare(say, "accelerator", bench, REQUESTS, tuple(WAYS))
    return {"device": bench.device.name, "results": results, "goals": _goals(results)}


def _compare(
    say: Say, name: str, bench: DeviceBench, requests: dict[float, int], ways: tuple[str, ...]
) -> dict[str, Any]:
    alone = [(0.0, STEPS[number % len(STEPS)]) for number in range(MEASURED)]
    capacity = serve(bench, one_at_a_time, alone)["throughput"]
    gains = list(bench.device.gains(bench.entry.model))
    say(
        f"{name}: {bench.side} x {bench.side} on {bench.device.name}, steps {STEPS}: {capacity:.2f} a second alone; "
        f"steps shared by 1, 2, 4, 8, 16 do {gains} percent, as far as they pay"
    )
    results: dict[str, Any] = {"side": bench.side, "alone_per_s": capacity, "gains_percent": gains}
    for load, count in requests.items():
        found = results[f"load {load}"] = {}
        for way in ways:
            one = found[way] = serve(bench, WAYS[way], arrivals(load, capacity, count))
            say(
                f"  load {load}, {count} requests, {way:8} {one['throughput']:6.2f} a second, mean {one['mean_s']:7.3f}"
                f" s, p95 {one['p95_s']:7.3f} s, first step {one['first_s']:7.3f} s"
            )
        if "request" in found:
            told = ", ".join(f"{what} {value}" for what, value in _ratios(found).items())
            say(f"  load {load}: {told}")
    return results


def _ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    one, request, step = found["one"], found["request"], found["step"]
    return {
        "throughput over one at a time": _ratio(step, one, "throughput"),
        "latency of one at a time over it": _ratio(one, step, "mean_s"),
        "that of whole requests over it": _ratio(request, step, "mean_s"),
    }


def _goals(results: dict[str, Any]) -> list[dict[str, Any]]:
    goals = []
    for name in ("bundled", "accelerator"):
        if name in results:
            ratios = _ratios(results[name]["load 2.0"])
            wanted = zip(ratios.items(), (1.8, 4.5, 1.5), strict=True)
            goals += [goal(f"{name}, load 2.0: {what}", value, ">=", least) for (what, value), least in wanted]
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
