"""Benching models: a worker of its own on this machine, the yardstick's jobs, what they took, and what they would earn.

What a unit costs is written into the cost book, from which nodes of this home take their prices from their next start
on. Sells nothing and speaks to no network.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from compute.capability import ModelCapability
from compute.costbook import CostBook
from compute.modelfolder import bundled
from compute.served import read_folders
from compute.spec import DENOISED, TEXT_TO_IMAGE, JobShape
from compute.work import JobResult, Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from compute.yardstick import MEASURES, shape_of, unit_ps, yardstick
from ledger.money import price_for
from market.config import Config
from market.modeldoor import cache_of, costs_of
from market.prices import PriceList, dearest
from p2p.errors import Misconfigured, Unavailable

HOUR_S = 3600
START_S = 600.0
COARSE_MS = 10
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Benched:
    """What was measured. ``job_ms`` of each warm job, ``cold_ms`` from a cold start to the end of the model's first.

    ``unit_ps``: picoseconds of a unit in the shortest job, ``reference_ps``: of one of text-to-image here.
    """

    name: str
    model: bytes
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
    unit_ps: int
    reference_ps: int

    @property
    def units_per_second(self) -> int:
        """Of all warm jobs together."""
        return self.units * len(self.job_ms) * 1000 // max(1, sum(self.job_ms))

    @property
    def wei_per_hour(self) -> int:
        """What an hour without a pause would be paid at this price."""
        return price_for(self.units_per_second * HOUR_S, self.price)

    @property
    def relative_cost(self) -> float:
        """How many units of text-to-image one costs."""
        return self.unit_ps / self.reference_ps

    @property
    def job(self) -> str:
        """What was run, in words."""
        steps = f"{self.side} x {self.side}, {self.steps} guided steps"
        return steps if self.pipeline in DENOISED else MEASURES[self.pipeline].job

    def as_dict(self) -> dict[str, object]:
        """What a program gets."""
        return {
            "model": self.name,
            "pipeline": self.pipeline,
            "device": self.device,
            "side": self.side,
            "steps": self.steps,
            "units": self.units,
            "cold_ms": self.cold_ms,
            "load_ms": self.load_ms,
            "memory_bytes": self.memory,
            "job_ms": list(self.job_ms),
            "units_per_second": self.units_per_second,
            "seconds_per_unit": self.unit_ps / 10**12,
            "relative_cost": round(self.relative_cost, 6),
            "price_wei": self.price,
            "wei_per_hour": self.wei_per_hour,
        }


async def bench(config: Config, folders: Sequence[Path], steps: int, jobs: int, say: Say) -> list[Benched]:
    """Measure models, each once. Raises Misconfigured for one that cannot be, Unavailable when its worker dies.

    Where this machine knows no text-to-image to compare with, and none is among them, the bundled one is measured too.
    """
    served = await trio.to_thread.run_sync(read_folders, folders, cache_of(config))
    for entry in served.entries:
        if entry.pipeline not in MEASURES:
            raise Misconfigured(f"there is no yardstick for {entry.pipeline}, which {entry.name} serves")
    book = costs_of(config)
    known = book.reference(book.known("")) or any(one.pipeline == TEXT_TO_IMAGE for one in served.entries)
    with tempfile.TemporaryDirectory(prefix="pasar-bench-") as scratch:
        told = WorkerConfig(
            Path(scratch),
            served.folders if known else (*served.folders, bundled()),
            threads=config.threads,
            memory=config.shelf.memory,
            digest_store=cache_of(config).store,
        )
        worker = Worker(told)
        found: list[Benched] | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            with trio.move_on_after(START_S * len(told.models)):
                found = await _Bench(worker, book, steps, jobs, say).run()
            nursery.cancel_scope.cancel()
    if found is None:
        raise Unavailable(f"no results in {START_S:.0f} s for each model")
    wanted = {entry.model for entry in served.entries}
    return [one for one in _priced(found, PriceList(config.price, config.prices), book) if one.model in wanted]


def _priced(found: Sequence[Benched], prices: PriceList, book: CostBook) -> list[Benched]:
    """With what each would be sold at, were it the only model of its pipeline."""
    costs = dearest((one.pipeline, one.unit_ps) for one in found)
    reference = costs.get(TEXT_TO_IMAGE) or book.reference(found[0].device)
    priced = []
    for one in found:
        price = prices.of(one.pipeline, {TEXT_TO_IMAGE: reference, one.pipeline: one.unit_ps})
        priced.append(replace(one, reference_ps=reference, price=price))
    return priced


def _cost(shortest_ms: int, units: int, known: ModelCapability) -> int:
    """Of a unit, by the shortest job; where whole milliseconds say too little, as the worker measured it itself."""
    by_job = unit_ps((shortest_ms + 0.5) / 1000, units)
    return by_job if shortest_ms >= COARSE_MS else known.unit_ps or by_job


class _Bench:
    """One worker and its models: first a job of each, which loads it, then those that count."""

    def __init__(self, worker: Worker, book: CostBook, steps: int, jobs: int, say: Say) -> None:
        self._worker, self._book, self._steps, self._jobs, self._say = worker, book, steps, jobs, say

    async def run(self) -> list[Benched]:
        cold_ms, began = list[int](), time.monotonic()
        entries = [entry for entry in self._worker.capability().models if entry.pipeline in MEASURES]
        for entry in entries:
            await self._job(self._shape(entry))
            cold_ms.append(int((time.monotonic() - began) * 1000))
            began = time.monotonic()
        return [await self._measure(entry, cold) for entry, cold in zip(entries, cold_ms, strict=True)]

    def _shape(self, entry: ModelCapability) -> JobShape:
        side = max(entry.side_step, entry.native_side - entry.native_side % entry.side_step)
        shape = shape_of(entry.pipeline, entry.model, side)
        return replace(shape, steps=min(self._steps, entry.max_steps)) if entry.pipeline in DENOISED else shape

    async def _measure(self, entry: ModelCapability, cold_ms: int) -> Benched:
        shape, times = self._shape(entry), list[int]()
        for number in range(1, self._jobs + 1):
            result = await self._job(shape)
            times.append(result.run_ms)
            self._say(f"{entry.name}: job {number} of {self._jobs}: {result.run_ms} ms")
        known = self._worker.capability().find(entry.pipeline, entry.model) or entry
        cost, device = _cost(min(times), shape.units, known), self._worker.device
        await trio.to_thread.run_sync(self._book.put, device, entry.pipeline, entry.model, cost)
        return Benched(
            name=entry.name,
            model=entry.model,
            pipeline=entry.pipeline,
            device=device,
            side=shape.width,
            steps=shape.steps,
            units=shape.units,
            cold_ms=cold_ms,
            load_ms=known.load_ms,
            memory=next((one.cost for one in self._worker.shelved() if one.model == entry.model), 0),
            job_ms=tuple(times),
            price=0,
            unit_ps=cost,
            reference_ps=cost,
        )

    async def _job(self, shape: JobShape) -> JobResult:
        def on_step(step: Step) -> None:
            if step.loading:
                self._say(f"loading, about {step.eta_ms / 1000:.0f} s to the first result")

        spec, files = yardstick(shape, secrets.token_bytes(16))
        return await self._worker.generate(secrets.token_bytes(32), spec, on_step, files)
