"""A worker process with a device that computes nothing and does what the prompt says: die, hang, or be full.

Run like ``compute.worker``; all of it but the device is real.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.noop_worker import blank
from compute.capability import Dtype, ModelCapability
from compute.catalog import ModelEntry
from compute.librarian import Brought
from compute.opendevice import Settings
from compute.openjob import OpenJob
from compute.pipeline import BrokenOutput, Finished
from compute.spec import Artifact, JobShape, JobSpec
from compute.trace import FINISHED
from compute.tracestore import TraceStore
from compute.work import Replay
from compute.worker import main
from p2p.errors import Misconfigured

LIMIT = 4  # jobs in a step
SWOLLEN = 400  # MiB
PICTURE = bytes(range(256)) * 12_000  # three parts; what ``slow`` gives is a picture in truth


class PretendDevice:
    """One byte of latents. A file named ``go`` in the folder of the traces ends what ``wait`` or ``slow`` began."""

    def __init__(
        self,
        settings: Settings,
        entries: tuple[ModelEntry, ...],
        traces: TraceStore,
        on_change: Callable[[ModelCapability], None],
    ) -> None:
        self.entries, self.traces, self.on_change = {e.model: e for e in entries}, traces, on_change
        self.dtype = Dtype.FP32
        self.budget = settings.memory
        self.go = traces.folder / "go"

    def bring(self, model: bytes) -> Brought:
        """Takes until a file named after the model is there, where its folder has a file ``slowly``."""
        entry = self.entries[model]
        while (Path(entry.folder) / "slowly").exists() and not (self.traces.folder / f"load-{entry.name}").exists():
            time.sleep(0.001)
        if (Path(entry.folder) / "broken").exists():
            raise Misconfigured(f"{entry.name} is broken")
        self.on_change(replace(entry.capability(Dtype.FP32), warm=True, load_ms=1))
        return Brought(entry.weight_bytes, 1)

    def put_out(self, model: bytes) -> None:
        self.on_change(self.entries[model].capability(Dtype.FP32))

    def begin(self, job_id: bytes, spec: JobSpec, files: Sequence[bytes], watch: Callable[[int, int], None]) -> OpenJob:
        trace = self.traces.begin(job_id, Dtype.FP32, keep=True)
        trace.add(spec.shape.steps, b"\0")
        pretended: Any = Pretended(spec.prompt)
        return OpenJob(job_id, spec, pretended, pretended, trace, 0, 0, time.monotonic())

    def advance(self, jobs: Sequence[OpenJob]) -> None:
        if len(jobs) > 1 and jobs[0].spec.prompt == "crowd":
            raise MemoryError("out of memory")
        for job in [job for job in jobs if job.index != 2 or self._obey(job.spec.prompt)]:
            if job.spec.prompt == "slow" and not self.go.exists():
                time.sleep(0.05)
            job.index += 1
            left = job.spec.shape.steps - job.index
            job.trace.add(left or FINISHED, bytes([job.index % 256]))

    def end(self, job: OpenJob) -> Finished:
        if job.spec.prompt == "broken":
            raise BrokenOutput("not finite")
        shape = job.spec.shape
        picture = blank(shape.width, shape.height) if job.spec.prompt == "slow" else PICTURE
        picture = b"" if job.spec.prompt == "empty" else picture
        return Finished((Artifact("image/png", picture),), job.trace.finish(), Dtype.FP32, 0, 1)

    def drop(self, job: OpenJob) -> None:
        job.trace.discard()

    def predict_ms(self, shape: JobShape, jobs: int) -> int:
        return shape.steps * jobs

    def sharing(self, shape: JobShape) -> tuple[int, int]:
        return LIMIT, 1

    def calibrate(self, model: bytes | None = None, wanted: Callable[[], bool] = bool) -> bool:
        return False

    def gains(self, model: bytes) -> tuple[int, ...]:
        return 100, 150, 220

    def replay_start(self, spec: JobSpec, dtype: Dtype, noise: bytes, files: Sequence[bytes]) -> Replay:
        return Replay(abs(noise[0]) * 10**9, 0)

    def _first(self, mark: str) -> bool:
        """Whether no worker of this node did it before."""
        path = self.traces.folder.parent / mark
        fresh = not path.exists()
        path.touch()
        return fresh

    def _obey(self, prompt: str) -> bool:
        """What is done after two steps; whether the job gets on."""
        match prompt:
            case "die":
                os._exit(3)
            case "die once" if self._first("died"):
                os._exit(3)
            case "hang once" if self._first("hung"):
                while True:
                    time.sleep(60)
            case "hang":
                while True:
                    time.sleep(60)
            case "swell once" if self._first("swollen"):
                held = []
                while len(held) < SWOLLEN:
                    held.append(b"x" * 2**20)  # written to, or it would take no memory
                while True:
                    time.sleep(60)
            case "full":
                raise MemoryError("out of memory")
            case "surprise":
                raise LookupError("in a library")
            case "for ever":
                time.sleep(0.001)
                return False
            case "wait":
                time.sleep(0.001)
                return self.go.exists()
        return True


@dataclass(frozen=True)
class Pretended:
    """Jobs with the same prompt share steps."""

    group: str


def make(
    settings: Settings,
    entries: tuple[ModelEntry, ...],
    traces: TraceStore,
    on_change: Callable[[ModelCapability], None],
) -> tuple[Any, str]:
    if settings.device == "missing":
        raise Misconfigured("no such device")
    while (traces.folder / "importing").exists():  # its libraries take so long
        time.sleep(0.01)
    return PretendDevice(settings, entries, traces, on_change), "pretended"


if __name__ == "__main__":
    code = main(make=make)
    os._exit(code)
