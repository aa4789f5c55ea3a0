"""Fleet: the devices of one node behind the one Machine that the market sees.

    generate -> who has the job already, else placement's choice -> its worker
                a worker that died of it, or beside it: once more, elsewhere if there is an elsewhere

One worker each, of this host or, through the doorway, of others. Shell; knows no price and no buyer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from compute import messages as m
from compute.capability import Capability
from compute.opendevice import in_thread
from compute.placement import Seat, choose, spread, together
from compute.served import Served
from compute.shelf import NO_ROOM, Place
from compute.spec import JobShape, JobSpec
from compute.trace import TraceLeaf
from compute.work import JobResult, Replay, Step, WorkerLost
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from p2p.errors import Refused

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from compute.doorway import Doorway

MAX_RUNS = 2  # a job that was on the device of two workers that died is not tried a third time
MAX_WAITS = 4  # nor one that waited for so many
LOOK_S = 2.0  # a worker from before is found sooner than this
MAX_REMEMBERED = 4096  # jobs whose worker is known, for their traces
BEST_FIRST = (Place.WARM, Place.LOADING, Place.COLD, NO_ROOM, Place.BROKEN)


class Fleet:
    """Invariant: a job is with one worker at a time, and ends once: result, refusal, WorkerLost or cancel."""

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        serve: Callable[[], Served],
        each: int | None = None,
        doorway: Doorway | None = None,
    ) -> None:
        """A worker for each of ``configs``. ``each`` is how many jobs a device gets at a time; None: as many as pay."""
        self._configs, self._serve, self._each, self._doorway = tuple(configs), serve, each, doorway
        self._local: list[Worker] = []
        self._remembered: OrderedDict[bytes, Worker] = OrderedDict()

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those of this host, then those of others that are there now."""
        return (*self._local, *(self._doorway.workers if self._doorway is not None else ()))

    @property
    def present(self) -> tuple[Worker, ...]:
        """Of them, those that new jobs may go to. One of this host is soon back when it is gone; another may not be."""
        return tuple(worker for worker in self.workers if worker in self._local or worker.connected)

    @property
    def device(self) -> str:
        """What the first of them is; costs are measured there."""
        return next((worker.device for worker in self.present), "")

    @property
    def slots(self) -> int:
        """How many jobs run at the same time, on all devices."""
        return self.capability().slots

    @property
    def queue_depth(self) -> int:
        """Jobs accepted and not finished, the running ones included."""
        return sum(worker.queue_depth for worker in self.workers)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all workers running until cancelled. Ready when the models are known, before they are warm.

        Raises Misconfigured for a model that cannot be served, or a device that is not there.
        """
        served: Served = await in_thread(self._serve)  # given up when the node ends: a pull may take long
        self._local = [Worker(config, lambda: served) for config in self._configs]
        async with trio.open_nursery() as nursery:
            for worker in self._local:
                await nursery.start(worker.run)
            if self._doorway is not None:
                await nursery.start(partial(self._doorway.run, served))
            task_status.started()

    def capability(self) -> Capability:
        """What runs here now, on all devices together; nothing while there is no device."""
        return together((w.capability(), min(self._each or w.slots, w.slots)) for w in self.present)

    def crowded_ms(self, shape: JobShape, jobs: int) -> int:
        """How long ``shape`` takes at most when so many jobs lie on the devices. See ``Machine.crowded_ms``."""
        able = [worker for worker in self.present if worker.capability().fits(shape)]
        if not able:
            raise ValueError("no such model here")
        rooms = [max(1, self._left(worker, shape, ())) for worker in able]
        counts = spread(rooms, lambda at, n: able[at].crowded_ms(shape, n), max(1, jobs))
        return max(worker.crowded_ms(shape, n) for worker, n in zip(able, counts, strict=True) if n)

    def places(self, shape: JobShape, beside: Sequence[JobShape]) -> int:
        """How many more jobs like this are worth taking. See ``Machine.places``.

        Those of ``beside`` that the devices have lie where they lie; the others would be placed by the same rule.
        """
        able = [worker for worker in self.present if worker.capability().fits(shape)]
        lying, others = _found(beside, {worker: worker.shapes for worker in self.present})
        for other in others:
            worker = self._best(other, lying, None)
            if worker is not None:
                lying[worker].append(other)
        return sum(self._left(worker, shape, lying[worker]) for worker in able)

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        """Run one job, or attach to it where it is. See ``Machine.generate``."""
        due_at = trio.current_time() + due_ms / 1000
        runs, waits, died = 0, 0, None
        await self._look()
        while True:
            worker = self._of(job_id) or self._chosen(spec.shape, died)
            self._remember(job_id, worker)
            left_ms = max(1, int((due_at - trio.current_time()) * 1000)) if due_ms else 0
            try:
                return await worker.generate(job_id, spec, on_step, files, due_ms=left_ms)
            except WorkerLost as exc:
                runs, waits, died = runs + exc.begun, waits + 1, worker
                if runs >= MAX_RUNS or waits >= MAX_WAITS:
                    raise

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        """Open leaves of a finished job, wherever it ran. See ``Machine.open_trace``."""
        known = self._remembered.get(job_id)
        refused = Refused("NO_TRACE", "this job's trace is not kept here")
        for worker in (known,) if known in self.workers else self.workers:
            assert worker is not None
            try:
                return await worker.open_trace(job_id, indexes)
            except Refused as exc:
                if exc.code != "NO_TRACE":
                    raise
                refused = exc
        raise refused

    async def replay_step(self, spec: JobSpec, before: TraceLeaf, after: TraceLeaf) -> Replay:
        """Re-run the step between two neighbouring leaves. Raises Refused, WorkerLost."""
        return await self._chosen(spec.shape, None).replay_step(spec, before, after)

    async def replay_start(self, spec: JobSpec, first: TraceLeaf, picture: bytes = b"") -> Replay:
        """Compare the first leaf with the noise of the seed, over a picture if there is one. Raises as above."""
        return await self._chosen(spec.shape, None).replay_start(spec, first, picture)

    async def replay_picture(self, spec: JobSpec, last: TraceLeaf, picture: bytes) -> Replay:
        """Compare a delivered picture with what the last leaf decodes to. Raises Refused, WorkerLost."""
        return await self._chosen(spec.shape, None).replay_picture(spec, last, picture)

    def shelved(self) -> tuple[m.ModelShelved, ...]:
        """Where each model is: where it is loaded, if it is anywhere; nothing while the workers start."""
        found: dict[bytes, m.ModelShelved] = {}
        for one in (one for worker in self.workers for one in worker.shelved()):
            known = found.get(one.model, one)
            place = min((known.place, one.place), key=BEST_FIRST.index)
            pinned = known.pinned and one.pinned
            found[one.model] = replace(known, place=place, cost=max(known.cost, one.cost), pinned=pinned)
        return tuple(found.values())

    def pin(self, model: bytes, pinned: bool) -> None:
        """Keep a model loaded on every device, or no longer; the next worker processes are told too."""
        for worker in self.workers:
            worker.pin(model, pinned)

    async def _look(self) -> None:
        """Until it is known who has which job from before a restart."""
        with trio.move_on_after(LOOK_S):
            for worker in self._local:
                await worker.looked()
        if self._doorway is not None:
            await self._doorway.settled.wait()

    # -- who does what -----------------------------------------------------------------------------------------------

    def _left(self, worker: Worker, shape: JobShape, beside: Sequence[JobShape]) -> int:
        """How many more jobs of a shape a device should get beside those."""
        if self._each is None:
            return worker.places(shape, beside)
        return max(0, min(self._each, worker.slots) - len(beside))

    def _of(self, job_id: bytes) -> Worker | None:
        return next((worker for worker in self.workers if worker.holds(job_id)), None)

    def _chosen(self, shape: JobShape, died: Worker | None) -> Worker:
        """The worker for a new job. Raises Refused when none can take it."""
        worker = self._best(shape, {worker: worker.shapes for worker in self.present}, died)
        if worker is not None:
            return worker
        unfit = self.capability().unfit(shape)
        if unfit is None:
            raise Refused("BUSY", "no device of this machine can take it now")
        raise Refused(unfit.reason.value, have=unfit.have, need=unfit.need)

    def _best(self, shape: JobShape, lying: Mapping[Worker, Sequence[JobShape]], died: Worker | None) -> Worker | None:
        """Where a job of this shape goes when those lie there; None when it fits nowhere."""
        workers = list(lying)
        seats = [self._seat(worker, shape, lying[worker]) for worker in workers]
        at = choose(seats, workers.index(died) if died is not None and died in lying else None)
        return None if at is None else workers[at]

    def _seat(self, worker: Worker, shape: JobShape, beside: Sequence[JobShape]) -> Seat | None:
        if not worker.capability().fits(shape):
            return None
        jobs, left = len(beside), self._left(worker, shape, beside)
        room = jobs + left if left else max(1, min(jobs, self._left(worker, shape, ())))
        return Seat(room, jobs, worker.crowded_ms(shape, min(room, jobs + 1)))

    def _remember(self, job_id: bytes, worker: Worker) -> None:
        self._remembered[job_id] = worker
        self._remembered.move_to_end(job_id)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _found(
    asked: Sequence[JobShape], there: Mapping[Worker, Sequence[JobShape]]
) -> tuple[dict[Worker, list[JobShape]], list[JobShape]]:
    """Those of ``asked`` by where they are, and those that are nowhere yet."""
    left, lying = Counter(asked), dict[Worker, list[JobShape]]()
    for worker, shapes in there.items():
        lying[worker] = []
        for shape in shapes:
            if left[shape] > 0:
                left[shape] -= 1
                lying[worker].append(shape)
    return lying, list(left.elements())
