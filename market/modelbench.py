"""Benching a model: a worker of its own on this machine, real jobs, what they took, and what they would earn.

The prices are those at which the node's configuration offers. Sells nothing and speaks to no network.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from compute.capability import ModelCapability
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec
from compute.work import Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from ledger.money import price_for
from market.config import Config
from p2p.errors import Misconfigured, Unavailable

HOUR_S = 3600
START_S = 600.0
PROMPT = "a red circle on a blue background"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Benched:
    """What was measured. ``job_ms`` of each warm job, ``cold_ms`` from the worker's start to the model's first job."""

    name: str
    pipeline: str
    device: str
    side: int
    steps: int
    units: int
    cold_ms: int
    load_ms: int
    memory: int
    job_ms: tuple[int, ...]
    price: int

    @property
    def units_per_second(self) -> int:
        """Of all warm jobs together."""
        return self.units * len(self.job_ms) * 1000 // max(1, sum(self.job_ms))

    @property
    def wei_per_hour(self) -> int:
        """What an hour without a pause would be paid at the price of the configuration."""
        return price_for(self.units_per_second * HOUR_S, self.price)

    def as_dict(self) -> dict[str, object]:
        """What a program gets."""
        return {
            "model": self.name,
            "pipeline": self.pipeline,
            "device": self.device,
            "side": self.side,
            "steps": self.steps,
            "cold_ms": self.cold_ms,
            "load_ms": self.load_ms,
            "memory_bytes": self.memory,
            "job_ms": list(self.job_ms),
            "units_per_second": self.units_per_second,
            "price_wei": self.price,
            "wei_per_hour": self.wei_per_hour,
        }


async def bench(config: Config, folder: Path, steps: int, jobs: int, say: Say) -> Benched:
    """Measure one model. Raises Misconfigured for one that cannot be served, Unavailable when its worker dies."""
    with tempfile.TemporaryDirectory(prefix="pasar-bench-") as scratch:
        told = WorkerConfig(
            Path(scratch),
            (folder,),
            threads=config.threads,
            memory=config.shelf.memory,
            digest_store=config.home / "digests.json",
        )
        worker, began = Worker(told), time.monotonic()
        found: Benched | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            entry = worker.capability().models[0]
            if entry.pipeline != TEXT_TO_IMAGE:
                raise Misconfigured(f"bench measures {TEXT_TO_IMAGE}; {entry.name} is a model of {entry.pipeline}")
            with trio.move_on_after(START_S):
                found = await _measure(worker, entry, steps, jobs, began, config.price, say)
            nursery.cancel_scope.cancel()
    if found is None:
        raise Unavailable(f"{folder} gave no results in {START_S:.0f} s")
    return found


async def _measure(
    worker: Worker, entry: ModelCapability, steps: int, jobs: int, began: float, price: int, say: Say
) -> Benched:
    side = max(entry.side_step, entry.native_side - entry.native_side % entry.side_step)
    shape = JobShape(entry.pipeline, entry.model, side, side, min(steps, entry.max_steps), True)

    def on_step(step: Step) -> None:
        if step.loading:
            say(f"loading, about {step.eta_ms / 1000:.0f} s to the first result")

    async def one(seed: int) -> int:
        spec = JobSpec(shape, PROMPT, "", 4000, seed, secrets.token_bytes(16))
        return (await worker.generate(secrets.token_bytes(32), spec, on_step)).run_ms

    await one(0)
    cold_ms = int((time.monotonic() - began) * 1000)
    times = []
    for seed in range(1, jobs + 1):
        times.append(await one(seed))
        say(f"job {seed} of {jobs}: {times[-1]} ms")
    known = worker.capability().find(entry.pipeline, entry.model) or entry
    memory = next((one.cost for one in worker.shelved() if one.model == entry.model), 0)
    units = shape.units
    return Benched(
        name=entry.name,
        pipeline=entry.pipeline,
        device=worker.device,
        side=side,
        steps=shape.steps,
        units=units,
        cold_ms=cold_ms,
        load_ms=known.load_ms,
        memory=memory,
        job_ms=tuple(times),
        price=price,
    )
