"""A device with its real step loop in this process, on a clock that counts only what the device works.

The board, the loop, the policy, the device and the model are those of a worker; between them and the caller there is no
socket. On a CPU the clock is the processor time of the thread that works, so that a busy machine changes little; on an
accelerator it is the wall clock around each piece of work. While nothing works it jumps to the next arrival.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from compute.jobboard import BoardJob, JobBoard
from compute.modelfolder import read_folder
from compute.offline import go_offline, hush
from compute.pipeline import Finished
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec, Verification
from compute.steploop import StepLoop, Told
from compute.tracestore import TraceStore

if TYPE_CHECKING:
    from compute.device import Device


@dataclass(slots=True)
class Asked:
    """One picture: when it was asked for, when its first step and its end were seen, in seconds of the clock."""

    spec: JobSpec
    at: float
    first: float = math.nan
    done: float = math.nan
    over: trio.Event = field(default_factory=trio.Event)


class DeviceBench:
    """One model on one device. ``serve`` runs a scenario on a clock of its own."""

    def __init__(self, folder: Path, traces: Path, side: int, device: str) -> None:
        """Loads and calibrates."""
        go_offline()
        import torch

        from compute.device import Device, pick

        hush()
        torch.set_num_threads(1)
        self.entry, self.side = read_folder(folder), side
        name, dtype = pick(device, "auto")
        self.device: Device = Device(name, dtype, (self.entry,), TraceStore(traces), 0, lambda change: None)
        self.device.load(self.entry.model)
        self.device.calibrate(self.entry.model)
        self._spent = time.thread_time if name == "cpu" else time.perf_counter

    def spec(self, steps: int, seed: int) -> JobSpec:
        """A guided picture of the model's side."""
        shape = JobShape(
            TEXT_TO_IMAGE, self.entry.model, self.side, self.side, steps, True, verification=Verification.RECEIPT
        )
        return JobSpec(shape, f"a red circle {seed}", "", 3000, seed, secrets.token_bytes(16))

    def serve(self, scenario: Callable[[Counter], Awaitable[None]]) -> float:
        """Until the scenario is over; how long it took on the clock."""
        return trio.run(self._serve, scenario, clock=trio.testing.MockClock(autojump_threshold=0))

    async def _serve(self, scenario: Callable[[Counter], Awaitable[None]]) -> float:
        counter = Counter(self.device, self._spent)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counter.run)
            await scenario(counter)
            nursery.cancel_scope.cancel()
        return trio.current_time() - began


class Loaded:
    """The one model of the device is there, whoever asks."""

    def __init__(self, board: JobBoard[str]) -> None:
        self._board = board

    def take(self) -> BoardJob[Any] | None:
        """The next job."""
        return self._board.take()

    def release(self, job: BoardJob[Any]) -> None:
        """It stays loaded."""


class Counter:
    """Where requests are handed in while a scenario runs."""

    def __init__(self, device: Device, spent: Callable[[], float]) -> None:
        self._device, self._spent = device, spent
        self._asked: dict[bytes, Asked] = {}
        self._board: JobBoard[str] = JobBoard()
        told = Told(lambda phase: None, self._stepped, lambda *preview: None, self._finished, self._failed)
        self._loop = StepLoop(self._board, Loaded(self._board), told, self._aside)

    async def run(self) -> None:
        """The step loop."""
        await self._loop.run(self._device)

    async def draw(self, asked: Asked) -> None:
        """Hand it in and wait for the picture."""
        job_id = secrets.token_bytes(32)
        self._asked[job_id] = asked
        self._board.submit(job_id, asked.spec)
        self._loop.wake()
        await asked.over.wait()
        self._board.cancel(job_id)  # nobody will ask for it again

    async def _aside(self, work: Callable[[], Any]) -> Any:
        """Work here, and let the clock go on by what it cost. Every step is looked at, so that it has its own time."""
        clock, started = trio.lowlevel.current_clock(), self._spent()
        assert isinstance(clock, trio.testing.MockClock)
        self._loop.interrupt()
        try:
            return work()
        finally:
            clock.jump(self._spent() - started)
            said = trio.Event()
            trio.lowlevel.current_trio_token().run_sync_soon(said.set)
            with trio.CancelScope(shield=True):
                await said.wait()

    def _stepped(self, job: BoardJob[Any], step: int, steps: int, eta_ms: int) -> None:
        if step == 1:
            self._asked[job.job_id].first = trio.current_time()

    def _finished(self, job: BoardJob[Any], done: Finished) -> None:
        self._board.end(job.job_id, "done", 1, 0)
        asked = self._asked[job.job_id]
        asked.done = trio.current_time()
        asked.over.set()

    async def _failed(self, job: BoardJob[Any], exc: Exception, works: bool) -> None:
        raise exc
