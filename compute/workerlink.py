"""The node's end of a worker: hands it jobs, brings back steps, results and opened traces.

Never imports a model library. The process itself is kept by ``compute/workerlife.py``. Knows no price and no buyer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import trio

from compute import messages as m
from compute.batching import MAX_OPEN, crowded, fitting, worthwhile
from compute.capability import Capability
from compute.catalog import served_cold
from compute.digestcache import DigestCache
from compute.evidence import with_checks
from compute.opendevice import in_thread
from compute.served import Served, read_folders
from compute.shelf import NO_ROOM, Place
from compute.spec import VERIFY_STEP, Artifact, JobShape, JobSpec
from compute.trace import TraceLeaf
from compute.work import JobResult, Replay, Step, WorkerLost
from compute.workerchild import WorkerConfig
from compute.workerlife import Life, WorkerLife
from p2p.errors import Refused

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_PENDING = 64  # jobs
MAX_RESULT = 64 * 2**20  # bytes of all artifacts of a job, held in memory
MAX_EVENTS = 8192  # more than a job has steps

Live = Callable[
    [WorkerConfig, frozenset[bytes], Callable[[], None], Callable[[Any], None], Callable[[str], None]], Life
]


@dataclass(slots=True)
class _Pending:
    """One job that waits for its result. ``begun`` when it had the device."""

    spec: JobSpec
    put: trio.MemorySendChannel[Any]
    files: tuple[bytes, ...] = ()
    due_at: float | None = None
    begun: bool = False
    done: m.JobDone | None = None
    parts: list[bytearray] = field(default_factory=list)


class Worker:
    """A Machine in another process. Invariant: each job handed in ends once: result, refusal, WorkerLost or cancel.

    When the process ends, all that were there are lost: which of them it died of, nobody knows.
    """

    def __init__(
        self, config: WorkerConfig, serve: Callable[[], Served] | None = None, live: Live = WorkerLife
    ) -> None:
        """``serve`` finds the models, in a thread; without it they are the folders of the configuration.

        ``live`` keeps the process: a child of this one, or one of another host.
        """
        self._config, self._live = config, live
        self._serve = serve or partial(read_folders, config.models, DigestCache(config.digests))
        self._capability = Capability(())
        self._shelved: dict[bytes, m.ModelShelved] = {}
        self._pinned = set[bytes]()
        self._pending: dict[bytes, _Pending] = {}
        self._gains: dict[bytes, tuple[int, ...]] = {}
        self._asked: dict[bytes, trio.MemorySendChannel[Any]] = {}
        self._numbers = count(1)
        self._life: Life | None = None
        self._held = frozenset[bytes]()
        self.device = config.device

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return self._capability.slots

    @property
    def queue_depth(self) -> int:
        """Jobs accepted and not finished, the running ones included."""
        return len(self._pending)

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._life.pid if self._life else None

    def capability(self) -> Capability:
        """What runs here now; a model that still loads says ``warm=False``, one that cannot be loaded is not named."""
        lost = {one.model for one in self._shelved.values() if one.place in (Place.BROKEN, NO_ROOM)}
        here = tuple(entry for entry in self._capability.models if entry.model not in lost)
        return with_checks(replace(self._capability, models=here))

    def shelved(self) -> tuple[m.ModelShelved, ...]:
        """Where each model is, as the worker said last; nothing while it starts."""
        return tuple(self._shelved.values())

    def pin(self, model: bytes, pinned: bool) -> None:
        """Keep a model loaded, or no longer; the next worker process is told too."""
        (self._pinned.add if pinned else self._pinned.discard)(model)
        self._say(m.PinModel(model, pinned))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a worker running until cancelled, then end it. Ready when the models are known, before they are warm.

        Raises Misconfigured for a model folder that cannot be served, or a device that is not there.
        """
        served: Served = await in_thread(self._serve)  # given up when the node ends: a pull may take long
        config = self._config = replace(
            self._config, models=served.folders, checking=served.checking or self._config.checking
        )
        self._pinned |= served.pinned
        self._capability = Capability(served_cold(served.entries, config.offered_dtype), MAX_OPEN)
        models = frozenset(entry.model for entry in served.entries)
        self._life = self._live(config, models, self._submit_all, self._hear, self._lose)
        task_status.started()
        try:
            await self._life.run()
        finally:
            self._lose("the node ends")

    @property
    def connected(self) -> bool:
        """Whether the process can be told anything now."""
        return self._life is not None and self._life.connected

    @property
    def shapes(self) -> tuple[JobShape, ...]:
        """Of the jobs accepted and not finished."""
        return tuple(pending.spec.shape for pending in self._pending.values())

    async def looked(self) -> None:
        """Until it is known whether a worker from before is there, and what it holds."""
        if self._life is not None:
            await self._life.looked.wait()

    def holds(self, job_id: bytes) -> bool:
        """Whether this worker has the job: it was handed in, or found in a worker from before."""
        return job_id in self._pending or job_id in self._held

    def gains(self, model: bytes) -> tuple[int, ...]:
        """What shared steps of a model do in percent of one alone; nothing more than that until it was measured."""
        return self._gains.get(model, (100,))

    def crowded_ms(self, shape: JobShape, jobs: int) -> int:
        """How long ``shape`` takes when so many jobs run at the same time. See ``Machine.crowded_ms``."""
        return crowded(with_checks(self._capability).predict_ms(shape), jobs, self._gains_for(shape))

    def places(self, shape: JobShape, beside: Sequence[JobShape]) -> int:
        """Jobs of one kind share the device as long as that pays; another kind is alone. See ``Machine.places``."""
        if any(_kind(other) != _kind(shape) for other in beside):
            return 0
        return max(0, min(self.slots, worthwhile(self._gains_for(shape))) - len(beside))

    def _gains_for(self, shape: JobShape) -> tuple[int, ...]:
        if shape.pipeline == VERIFY_STEP:
            return (100,)  # checks share no step
        entry = self._capability.find(shape.pipeline, shape.model)
        native = entry.native_side if entry is not None else 1
        return fitting(self.gains(shape.model), shape.width * shape.height, native * native)

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        """Run one job, or attach to it when the worker has it from before. See ``Machine.generate``."""
        unfit = self.capability().unfit(spec.shape)
        if unfit is not None:
            raise Refused(unfit.reason.value, have=unfit.have, need=unfit.need)
        if job_id in self._pending:
            raise Refused("RUNNING", "this job is waited for already")
        if len(self._pending) >= MAX_PENDING:
            raise Refused("BUSY", "the queue is full", have=MAX_PENDING, need=MAX_PENDING + 1)
        put, events = trio.open_memory_channel[Any](MAX_EVENTS)
        due_at = trio.current_time() + due_ms / 1000 if due_ms else None
        self._pending[job_id] = pending = _Pending(spec, put, tuple(files), due_at)
        finished = False
        try:
            self._submit(job_id, pending)  # when there is no worker now, it is told when it is up
            async for event in events:
                if isinstance(event, Step):
                    on_step(event)
                    continue
                finished = True
                if isinstance(event, JobResult):
                    return event
                raise event
            raise WorkerLost("no result")
        finally:
            if self._pending.get(job_id) is pending:
                del self._pending[job_id]
            if not finished:
                self._say(m.CancelJob(job_id))

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        """Open leaves of a finished job. See ``Machine.open_trace``."""
        if not 1 <= len(indexes) <= m.MAX_OPENED:
            raise Refused("TOO_MANY_LEAVES", "at least one", have=m.MAX_OPENED, need=len(indexes))
        request = self._next_request()
        answers = await self._ask(request, m.OpenTrace(request, job_id, tuple(indexes)), len(indexes))
        return tuple(answer.leaf for answer in answers)

    async def replay_step(self, spec: JobSpec, before: TraceLeaf, after: TraceLeaf) -> Replay:
        """Re-run the step between two neighbouring leaves. Raises Refused, WorkerLost."""
        request = self._next_request()
        message = m.ReplayStep(request, spec, before.index, before.dtype, before.raw, after.raw)
        return await self._replay(request, message)

    async def replay_start(self, spec: JobSpec, first: TraceLeaf, picture: bytes = b"") -> Replay:
        """Compare the first leaf with the noise of the seed, over ``picture`` where the job draws over one.

        Raises Refused, WorkerLost.
        """
        request = self._next_request()
        return await self._replay(request, m.ReplayStart(request, spec, first.dtype, first.raw, picture))

    async def replay_picture(self, spec: JobSpec, last: TraceLeaf, picture: bytes) -> Replay:
        """Compare a delivered picture with what the last leaf decodes to. Raises Refused, WorkerLost."""
        request = self._next_request()
        return await self._replay(request, m.ReplayPicture(request, spec, last.dtype, last.raw, picture))

    # -- requests ------------------------------------------------------------------------------------------------

    async def _replay(self, request: bytes, message: Any) -> Replay:
        (answer,) = await self._ask(request, message, 1)
        return Replay(answer.max_diff_nano, answer.relative_ppm)

    async def _ask(self, request: bytes, message: Any, expected: int) -> list[Any]:
        put, answers = trio.open_memory_channel[Any](m.MAX_OPENED)
        self._asked[request] = put
        try:
            if not self._say(message):
                raise WorkerLost("the worker is not running")
            found: list[Any] = []
            async for answer in answers:
                if isinstance(answer, m.RequestFailed):
                    raise Refused(answer.code, answer.hint)
                found.append(answer)
                if len(found) == expected:
                    return found
            raise WorkerLost("the worker ended before it answered")
        finally:
            self._asked.pop(request, None)

    def _next_request(self) -> bytes:
        return next(self._numbers).to_bytes(m.REQUEST_ID, "big")

    # -- to and from the worker ----------------------------------------------------------------------------------

    def _say(self, message: Any) -> bool:
        return self._life is not None and self._life.say(message)

    def _submit_all(self) -> None:
        """A connection is up: the worker may know all of these jobs and pins, some, or none."""
        for model in self._pinned:
            self._say(m.PinModel(model, True))
        for job_id, pending in self._pending.items():
            pending.done, pending.parts = None, []
            self._submit(job_id, pending)

    def _submit(self, job_id: bytes, pending: _Pending) -> None:
        """Ask for a job, its inputs right behind: one that the worker knows already passes them over."""
        self._say(m.RunJob(job_id, pending.spec))
        for index, data in enumerate(pending.files):
            for at in range(0, len(data), m.PART):
                self._say(m.InputPart(job_id, index, data[at : at + m.PART]))
        if pending.due_at is not None:
            self._say(m.DueJob(job_id, max(0, int((pending.due_at - trio.current_time()) * 1000))))

    def _lose(self, reason: str) -> None:
        """The worker ended, and with it whatever was there."""
        for pending in self._pending.values():
            pending.put.send_nowait(WorkerLost(reason, begun=pending.begun))
        self._pending.clear()  # now: the next process may be there before those who wait have heard of it
        for put in self._asked.values():
            put.close()
        self._shelved.clear()
        self._held = frozenset()
        models = self._capability.models
        self._capability = Capability(tuple(replace(entry, warm=False) for entry in models), self._capability.slots)

    def _hear(self, said: Any) -> None:
        match said:
            case m.Ready():
                self.device, self._capability, self._held = said.device, said.capability, frozenset(said.held)
            case m.Calibrated():
                self._gains[said.model] = said.gains
            case m.ModelChanged():
                self._capability = self._capability.updated(said.entry)
            case m.LeafOpened() | m.Replayed() | m.RequestFailed():
                if said.request in self._asked:
                    self._asked[said.request].send_nowait(said)
            case m.ModelShelved():
                self._shelved[said.model] = said
            case m.JobStepped() | m.JobPreviewed() | m.JobLoading() | m.JobDone() | m.ArtifactPart() | m.JobFailed():
                if said.job_id in self._pending:
                    self._hear_of_job(self._pending[said.job_id], said)

    def _hear_of_job(self, pending: _Pending, said: Any) -> None:
        match said:
            case m.JobStepped():
                pending.begun = True
                pending.put.send_nowait(Step(said.step, said.steps, said.eta_ms))
            case m.JobPreviewed():
                pending.put.send_nowait(Step(said.step, pending.spec.shape.steps, 0, preview=said.data))
            case m.JobLoading():
                pending.put.send_nowait(Step(0, pending.spec.shape.steps, said.eta_ms, loading=True))
            case m.JobFailed():
                failed = WorkerLost(f"{said.code}: {said.hint}") if said.retriable else Refused(said.code, said.hint)
                pending.put.send_nowait(failed)
            case m.JobDone():
                if sum(head.size for head in said.artifacts) > MAX_RESULT:
                    pending.put.send_nowait(WorkerLost("the result is too large"))
                    return
                if self._config.checking is not None and said.safety is None and any(map(_is_seen, said.artifacts)):
                    pending.put.send_nowait(WorkerLost("the worker did not check its result"))  # one of an earlier node
                    return
                pending.done, pending.parts = said, [bytearray() for _ in said.artifacts]
            case m.ArtifactPart():
                if pending.done is not None and said.index < len(pending.parts):
                    pending.parts[said.index] += said.data
                    self._complete(pending, pending.done)

    def _complete(self, pending: _Pending, done: m.JobDone) -> None:
        sizes = [len(part) for part in pending.parts]
        wanted = [head.size for head in done.artifacts]
        if any(size > want for size, want in zip(sizes, wanted, strict=True)):
            pending.put.send_nowait(WorkerLost("the worker sent more than it announced"))
        elif sizes == wanted:
            artifacts = tuple(
                Artifact(head.media_type, bytes(part)) for head, part in zip(done.artifacts, pending.parts, strict=True)
            )
            result = JobResult(artifacts, done.trace_root, done.dtype, done.load_ms, done.run_ms, done.safety)
            pending.put.send_nowait(result)


def _is_seen(head: m.ArtifactHead) -> bool:
    return head.media_type.startswith(("image/", "video/"))


def _kind(shape: JobShape) -> tuple[bool, bytes, int, int, bool]:
    """Jobs that are alike in this share all their steps, and slow each other as was measured."""
    return shape.pipeline == VERIFY_STEP, shape.model, shape.width, shape.height, shape.guided
