"""warm: a lone request at a warm worker against the library's own call, and a cold one against a warm one.

The plain call is diffusers' pipeline object in this process, the request goes to a real worker over its socket, which
also makes the trace and the file. Both use one thread; a pair is one of each, whichever goes first changes. Cold is a
worker that was just started and is asked at once; its start (process, imports, device) is taken off.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import trio

from benchmarks.model import load
from benchmarks.report import Report, Say, goal
from compute.modelfolder import bundled
from compute.offline import go_offline
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec
from compute.work import Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker

PAIRS, WARM_UP, COLD = 12, 2, 3
STEPS, SIDE, GUIDANCE = 20, 64, 3000
_LOOK_S = 0.005


def run(say: Say) -> Report:
    """Twelve pairs, three cold starts."""
    return trio.run(measure, say)


async def measure(say: Say) -> Report:
    """Pairs first, so that files are cached for the cold starts: those are the disk's, not the worker's."""
    go_offline()
    with TemporaryDirectory(prefix="pasar-bench-") as home:
        plain = _plain()
        pairs = await _pairs(say, Path(home) / "pairs", plain)
        colds = [await _cold(say, Path(home) / f"cold-{number}") for number in range(COLD)]
    ratio = round(median(worker / library for worker, library in pairs), 3)
    warm = median(worker for worker, _ in pairs)
    cold = median(colds)
    say(f"median: warm {warm:.3f} s, {ratio} of the plain call; cold without the start {cold:.3f} s")
    return {
        "device": "cpu",
        "results": {
            "steps": STEPS,
            "worker_s": [round(worker, 4) for worker, _ in pairs],
            "plain_s": [round(library, 4) for _, library in pairs],
            "cold_without_start_s": [round(one, 4) for one in colds],
        },
        "goals": [
            goal("a lone request over the plain diffusers call, median of pairs", ratio, "<=", 1.03),
            goal("a cold request without the start over a warm one, medians", round(cold / warm, 3), "<=", 2.0),
        ],
    }


def _plain() -> Any:
    import torch

    torch.set_num_threads(1)
    pipeline = load(bundled())

    def call(seed: int) -> float:
        started = perf_counter()
        generator = torch.Generator("cpu").manual_seed(seed)
        pipeline(
            _words(seed),
            width=SIDE,
            height=SIDE,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE / 1000,
            generator=generator,
        )
        return perf_counter() - started

    return call


async def _pairs(say: Say, folder: Path, plain: Any) -> list[tuple[float, float]]:
    worker = Worker(WorkerConfig(folder, (bundled(),), device="cpu", threads=1))
    found = []
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        for number in range(WARM_UP + PAIRS):
            if number % 2:
                library = plain(number)
                request = await _request(worker, number)
            else:
                request = await _request(worker, number)
                library = plain(number)
            if number >= WARM_UP:
                found.append((request, library))
                say(f"pair {number - WARM_UP + 1}: worker {request:.3f} s, plain {library:.3f} s")
        nursery.cancel_scope.cancel()
    return found


async def _cold(say: Say, folder: Path) -> float:
    """From the moment when the device is there to the picture."""
    worker = Worker(WorkerConfig(folder, (bundled(),), device="auto", threads=1))
    ready = 0.0

    async def look() -> None:
        nonlocal ready
        while worker.device == "auto":  # noqa: ASYNC110 - it says so in a message that nobody can wait for
            await trio.sleep(_LOOK_S)
        ready = perf_counter()

    async with trio.open_nursery() as nursery:
        began = perf_counter()
        await nursery.start(worker.run)
        nursery.start_soon(look)
        await _request(worker, 1)
        over = perf_counter()
        nursery.cancel_scope.cancel()
    say(f"cold: start {ready - began:.3f} s, then {over - ready:.3f} s to the picture")
    return over - ready


def _words(number: int) -> str:
    """A new prompt each time: the worker keeps the texts that it encoded, and this is not to be measured."""
    return f"a red circle {number}"


async def _request(worker: Worker, seed: int) -> float:
    def on_step(step: Step) -> None:
        """Steps are heard, as an orchestrator hears them."""

    shape = JobShape(TEXT_TO_IMAGE, worker.capability().models[0].model, SIDE, SIDE, STEPS, True)
    spec = JobSpec(shape, _words(seed), "", GUIDANCE, seed, secrets.token_bytes(16))
    started = perf_counter()
    await worker.generate(secrets.token_bytes(32), spec, on_step)
    return perf_counter() - started
