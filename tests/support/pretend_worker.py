"""A worker process with a device that computes nothing and does what the prompt says: die, hang, or be full.

Run like ``compute.worker``; all of it but the device is real.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.noop_worker import blank
from compute.capability import Dtype, ModelCapability
from compute.catalog import ModelEntry
from compute.librarian import Brought
from compute.opendevice import Settings
from compute.pipeline import BrokenOutput, Finished
from compute.spec import Artifact, JobSpec
from compute.trace import FINISHED
from compute.tracestore import TraceStore
from compute.work import Replay
from compute.worker import main
from p2p.errors import Misconfigured

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

    def run(self, job_id: bytes, spec: JobSpec, on_step: Callable[[int, int], None]) -> Finished:
        trace = self.traces.begin(job_id, Dtype.FP32, keep=True)
        try:
            on_step(0, 1)
            trace.add(spec.shape.steps, b"\0")
            for step in range(1, spec.shape.steps + 1):
                if step == 2:
                    self._obey(spec.prompt, step, on_step)
                if spec.prompt == "slow" and not self.go.exists():
                    time.sleep(0.05)
                timestep = spec.shape.steps - step if step < spec.shape.steps else FINISHED
                trace.add(timestep, bytes([step % 256]))
                on_step(step, 1)
            root = trace.finish()
        finally:
            trace.discard()
        picture = blank(spec.shape.width, spec.shape.height) if spec.prompt == "slow" else PICTURE
        return Finished((Artifact("image/png", picture),), root, Dtype.FP32, 0, 1)

    def replay_start(self, spec: JobSpec, dtype: Dtype, noise: bytes) -> Replay:
        return Replay(abs(noise[0]) * 10**9, 0)

    def _obey(self, prompt: str, step: int, on_step: Callable[[int, int], None]) -> None:
        match prompt:
            case "die":
                os._exit(3)
            case "hang":
                while True:
                    time.sleep(60)
            case "full":
                raise MemoryError("out of memory")
            case "surprise":
                raise LookupError("in a library")
            case "broken":
                raise BrokenOutput("not finite")
            case "for ever":
                while True:
                    time.sleep(0.001)
                    on_step(step, 1)
            case "wait":
                while not self.go.exists():
                    time.sleep(0.001)
                    on_step(step, 1)


def make(
    settings: Settings,
    entries: tuple[ModelEntry, ...],
    traces: TraceStore,
    on_change: Callable[[ModelCapability], None],
) -> tuple[Any, str]:
    if settings.device == "missing":
        raise Misconfigured("no such device")
    return PretendDevice(settings, entries, traces, on_change), "pretended"


if __name__ == "__main__":
    code = main(make=make)
    os._exit(code)
