"""The step loop: runs the open jobs of a device, many at a time, a step of some of them after the other.

    board  --begin-->  open  --step, step, ...-->  finished  --end-->  board

Before each step it is decided anew who makes it (``compute/batching.py``): jobs join and leave between any two.
Beginning (words are encoded) and ending (the picture is decoded) happen between steps too, and get no more time there
than the step before them took, or one piece of each. A step that is itself made of pieces is watched between them.
Everything that computes runs in the device's thread, one thing at a time; when all open jobs share one step, the thread
goes on by itself until something changes.
Shell. Knows no connection: what becomes of a job is told to whoever made the loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from compute.batching import MAX_OPEN, Batching
from compute.jobboard import BoardJob, JobBoard, State
from compute.messages import Phase
from compute.opendevice import in_thread
from compute.openjob import OpenJob
from compute.pipeline import Cancelled, Finished, out_of_memory
from compute.previewing import Previews
from compute.watching import Watch

if TYPE_CHECKING:
    from compute.device import Device

SLACK = 4  # a job without a deadline is due when so many times its own time has passed


@dataclass(frozen=True, slots=True)
class Told:
    """Where it goes what happens on the device: a phase that moved, a step, a result, an exception in place of one."""

    moved: Callable[[Phase], None]
    stepped: Callable[[BoardJob[Any], int, int, int], None]  # so many of so many, milliseconds to go
    previewed: Callable[[BoardJob[Any], int, bytes], None]  # after so many steps, a small file
    finished: Callable[[BoardJob[Any], Finished], None]
    failed: Callable[[BoardJob[Any], Exception, bool], Awaitable[None]]  # whether the device works for others


class Models(Protocol):
    """Whose turn it is, of those whose models are loaded."""

    def take(self) -> BoardJob[Any] | None:
        """The next job that may run. Its model stays loaded until ``release``."""
        ...

    def release(self, job: BoardJob[Any]) -> None:
        """A job that was taken has left the device."""
        ...


class StepLoop:
    """Invariant: one thing at a time runs on the device, and no more than ``MAX_OPEN`` jobs have a place there."""

    def __init__(
        self,
        board: JobBoard[Any],
        models: Models,
        told: Told,
        aside: Callable[[Callable[[], Any]], Awaitable[Any]] = in_thread,
    ) -> None:
        """``aside`` carries out what blocks; all that the device's thread said before its end arrives before that."""
        self._board, self._models, self._told, self._aside = board, models, told, aside
        self._open: dict[bytes, tuple[BoardJob[Any], OpenJob]] = {}
        self._done: deque[bytes] = deque()  # of them, those that made their last step
        self._batching = Batching()
        self._turn = trio.Lock()  # fair: who waits longest gets the device next
        self._changed, self._news = False, trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._step_s = 0.0
        self._previews = Previews()

    def wake(self) -> None:
        """Jobs came or were given up."""
        self.interrupt()
        self._news.set()

    def interrupt(self) -> None:
        """After the step under way it is looked at again who makes the next one."""
        self._changed = True

    def expect(self, job_id: bytes, due: int) -> None:
        """A job that may be open should be done by then."""
        self._batching.expect(job_id, due)

    async def between_steps(self, work: Callable[[], Any]) -> Any:
        """Run something else on the device, as soon as the step under way is done."""
        self.interrupt()
        return await self._on_device(work)

    async def run(self, device: Device) -> None:
        """Until cancelled."""
        while True:
            self._changed, self._news = False, trio.Event()
            await self._let_go(device)
            settled = await self._ends_and_begins(device)
            sharing = self._batching.next_step()
            if sharing:
                await self._step(device, sharing, go_on=settled and len(sharing) == len(self._open))
            elif settled and not await self._on_device(partial(device.calibrate, wanted=self._board.waits)):
                self._told.moved(Phase.IDLE)
                await self._news.wait()

    async def _on_device(self, work: Callable[[], Any]) -> Any:
        async with self._turn:
            return await self._aside(work)

    # -- between steps -------------------------------------------------------------------------------------------------

    async def _let_go(self, device: Device) -> None:
        """Those that were given up leave."""
        for job, place in list(self._open.values()):
            if job.state is State.CANCELLING:
                self._leave(job)
                self._board.end(job.job_id, (), 0, _now_ms())
                await self._on_device(partial(device.drop, place))
                self._models.release(job)

    async def _ends_and_begins(self, device: Device) -> bool:
        """One after the other in turn, while there are any and time is left for them. Whether there are no more."""
        started = trio.current_time()
        while True:
            ended = await self._end_one(device)
            begun = await self._begin_one(device)
            if not ended and not begun:
                return True
            if len(self._batching) and trio.current_time() - started >= self._step_s:
                return False

    async def _end_one(self, device: Device) -> bool:
        if not self._done:
            return False
        job, place = self._open[self._done[0]]
        self._leave(job)
        try:
            self._told.finished(job, await self._on_device(partial(device.end, place)))
        except Exception as exc:  # whose fault it is, is judged elsewhere
            await self._told.failed(job, exc, self._works(exc))
        self._models.release(job)
        return True

    async def _begin_one(self, device: Device) -> bool:
        job = self._models.take() if len(self._open) < MAX_OPEN else None
        if job is None:
            return False
        self._told.moved(Phase.RUNNING)
        watch = Watch(lambda: job.state is State.CANCELLING, partial(self._said_between, job))
        try:
            place = await self._on_device(partial(device.begin, job.job_id, job.spec, job.files, watch))
        except Exception as exc:
            self._models.release(job)
            await self._told.failed(job, exc, self._works(exc))
            return True
        self._open[job.job_id] = job, place
        if len(self._open) > 1:
            await self._on_device(partial(device.calibrate, job.spec.shape.model))
        alone_ms = device.predict_ms(job.spec.shape, 1)
        limit, cost = device.sharing(job.spec.shape)
        self._batching.join(job.job_id, place.group, (job.due or _now_ms() + SLACK * alone_ms), limit, cost)
        self._told.stepped(job, 0, job.spec.shape.steps, device.predict_ms(job.spec.shape, len(self._batching)))
        return True

    def _leave(self, job: BoardJob[Any]) -> None:
        del self._open[job.job_id]
        self._batching.leave(job.job_id)
        if job.job_id in self._done:
            self._done.remove(job.job_id)

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _step(self, device: Device, sharing: Sequence[bytes], *, go_on: bool) -> None:
        """One step together; with ``go_on`` more, while nothing changes."""
        places = [self._open[job_id][1] for job_id in sharing]
        self._told.moved(Phase.RUNNING)
        try:
            await self._on_device(partial(self._advance, device, places, go_on))
        except Cancelled:
            pass  # it leaves before the next step, unless it is wanted again: then its work begins anew
        except Exception as exc:
            if len(sharing) == 1:
                await self._fail(device, sharing[0], exc)
            else:
                await self._one_by_one(device, sharing)

    def _advance(self, device: Device, places: Sequence[OpenJob], go_on: bool) -> None:
        """In the device's thread."""
        while True:
            started = time.monotonic()
            device.advance(places)
            now = time.monotonic()
            steps = [(place.job_id, place.index, place.eta_ms(now)) for place in places if place.index]
            self._token.run_sync_soon(self._note, steps, now - started)
            for place in places:
                if file := self._previews.of(place):
                    self._token.run_sync_soon(self._note_preview, place.job_id, place.index, file)
            if not go_on or self._changed or any(place.finished for place in places):
                return

    def _note_preview(self, job_id: bytes, step: int, file: bytes) -> None:
        self._told.previewed(self._open[job_id][0], step, file)

    def _said_between(self, job: BoardJob[Any], part: int, parts: int, eta_ms: int) -> None:
        """In the device's thread, between two pieces of a step."""
        self._token.run_sync_soon(self._told.stepped, job, part, parts, eta_ms)
        if file := self._previews.between(self._open[job.job_id][1], part):
            self._token.run_sync_soon(self._told.previewed, job, part, file)

    def _note(self, made: Sequence[tuple[bytes, int, int]], took: float) -> None:
        """On the event loop, in order, before the thread's own end."""
        self._step_s = took
        self._batching.stepped([job_id for job_id, _, _ in made], int(took * 1_000_000))
        for job_id, step, eta_ms in made:
            job, place = self._open[job_id]
            last, steps = step == place.spec.shape.steps, job.steps or place.spec.shape.steps
            self._told.stepped(job, steps if last else step, steps, eta_ms)
            if place.finished and job_id not in self._done and last:
                self._done.append(job_id)
                self._batching.leave(job_id)

    async def _one_by_one(self, device: Device, sharing: Sequence[bytes]) -> None:
        """A batch failed, and nobody knows whose fault it was: each tries alone, and fewer share a step from now on."""
        self._batching.narrow(sharing[0], len(sharing) // 2)
        failed: list[tuple[bytes, Exception]] = []
        for job_id in sharing:
            try:
                await self._on_device(partial(self._advance, device, [self._open[job_id][1]], False))
            except Exception as exc:
                failed.append((job_id, exc))
        for job_id, why in failed:
            await self._fail(device, job_id, why, works=len(failed) < len(sharing))

    async def _fail(self, device: Device, job_id: bytes, exc: Exception, *, works: bool = False) -> None:
        job, place = self._open[job_id]
        self._leave(job)
        await self._on_device(partial(device.drop, place))
        self._models.release(job)
        await self._told.failed(job, exc, works or self._works(exc))

    def _works(self, exc: Exception) -> bool:
        """Whether the others may go on after this: what was too large for the memory is gone with its job."""
        return bool(self._open) and out_of_memory(exc)


def _now_ms() -> int:
    return int(trio.current_time() * 1000)
