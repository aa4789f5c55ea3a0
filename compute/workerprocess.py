"""What runs inside a worker: takes jobs from the node over a Unix socket and has them run on the device.

The event loop only passes messages; the device works in one thread and loads models in another, so health is answered
while a step runs, and a job whose model is warm does not wait for one whose model loads. How jobs share the device is
in ``compute/steploop.py``, how models share its memory in ``compute/shelf.py``. The worker ends on
order, when no node has been there for a minute, or at once when its parent is gone, nobody would start another one and
nothing is left to hand over.
Imports torch only in the device's thread. Knows no price and no buyer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import trio

from compute import messages as m
from compute.batching import MAX_OPEN
from compute.capability import Capability, Dtype, ModelCapability
from compute.catalog import ModelEntry, all_served, served_cold
from compute.evidence import with_checks
from compute.inbasket import Inbasket
from compute.jobboard import BoardJob, JobBoard, State
from compute.link import Link, LinkBroken
from compute.modeldesk import ModelDesk, counted, words
from compute.opendevice import MakeDevice, Settings, in_thread
from compute.otherprocess import look_up, runs
from compute.phases import Progress
from compute.pipeline import BrokenOutput, Finished, out_of_memory
from compute.spec import JobSpec
from compute.steploop import StepLoop, Told
from compute.tracestore import TraceStore
from p2p.codec import encode
from p2p.errors import Misconfigured, PeerFault, Refused

if TYPE_CHECKING:
    from compute.device import Device

ATTACH_S = 10.0
LAST_WORDS_S = 1.0
OPENING_MS = 10_000  # about what importing the libraries takes; what is told gets less for as long as it lasts
_TIDY_S = 10.0
_WATCH_S = 0.5
EXIT_MISCONFIGURED = 2
EXIT_DEVICE_FAILED = 75

Outcome = tuple[Any, ...]  # messages, in the order in which they go out


class WorkerProcess:
    """One device, one board of jobs, at most one node."""

    def __init__(
        self, settings: Settings, entries: tuple[ModelEntry, ...], traces: TraceStore, make_device: MakeDevice
    ) -> None:
        self._settings, self._entries, self._traces, self._make_device = settings, entries, traces, make_device
        self._board: JobBoard[Outcome] = JobBoard()
        self._calibrated: dict[bytes, m.Calibrated] = {}
        self._inbasket = Inbasket()
        self._progress = Progress(trio.current_time())
        self._link: Link | None = None
        self._alone_since = trio.current_time()
        self._keeper = look_up(settings.keeper)
        self._opened, self._begun_at = trio.Event(), self._now()
        self._device: Device | None = None
        self._device_name = settings.device
        dtype = Dtype.FP32 if settings.dtype == "auto" else Dtype(settings.dtype)
        self._capability = Capability(served_cold(self._entries, dtype), MAX_OPEN)
        told = Told(self._moved, self._note_step, self._note_preview, self._finish, self._failed)
        self._models = ModelDesk(
            self._board, self._progress, self._say, lambda: with_checks(self._capability), self._wake
        )
        self._loop = StepLoop(self._board, self._models, told)
        self._token = trio.lowlevel.current_trio_token()
        self.exit_code = 0

    async def run(self) -> int:
        """Serve until it is time to end; returns the exit code."""
        with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as listening:
            await listening.bind(str(self._settings.socket))
            listening.listen(8)
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(trio.serve_listeners, self._serve, [trio.SocketListener(listening)])
                nursery.start_soon(self._watch)
                nursery.start_soon(self._work)
        return self.exit_code

    # -- connections ---------------------------------------------------------------------------------------------

    async def _serve(self, stream: trio.SocketStream) -> None:
        link = Link(stream)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                with trio.fail_after(ATTACH_S):
                    first = await link.receive()
                if isinstance(first, m.Attach) and first.channel is m.Channel.HEALTH:
                    await self._answer_pings(link)
                elif isinstance(first, m.Attach):
                    await self._obey(link)
                nursery.cancel_scope.cancel()
        except* (LinkBroken, PeerFault, trio.TooSlowError):
            pass  # a connection that ends or talks nonsense is closed; the worker goes on
        finally:
            if self._link is link:
                self._link, self._alone_since = None, trio.current_time()
            await link.aclose()

    async def _answer_pings(self, link: Link) -> None:
        me = psutil.Process()
        async for ping in link.messages():
            if isinstance(ping, m.Ping):
                phase, quiet = self._progress.told(ping.number, trio.current_time())
                link.say(m.Pong(ping.number, phase, quiet, self._normal_ms(), me.memory_info().rss))

    def _normal_ms(self) -> int:
        """How long the longest step of the jobs on the device should take, by what was measured of their models."""
        running = self._board.running()
        if self._device is None:
            return 0
        shapes = [job.spec.shape for job in running]
        return max((self._device.predict_ms(shape, len(shapes)) // shape.steps for shape in shapes), default=0)

    async def _obey(self, link: Link) -> None:
        if self._link is not None:
            await self._link.aclose()
        self._link = link
        self._say(self._ready())
        for calibrated in self._calibrated.values():
            self._say(calibrated)
        self._models.tell_all()
        async with trio.open_nursery() as nursery:
            async for command in link.messages():
                match command:
                    case m.RunJob():
                        self._submit(command)
                    case m.InputPart():
                        self._take_in(command)
                    case m.DueJob():
                        self._board.expect(command.job_id, self._now() + command.due_ms)
                        self._loop.expect(command.job_id, self._now() + command.due_ms)
                    case m.CancelJob():
                        self._inbasket.forget(command.job_id)
                        self._models.cancel(command.job_id)
                        self._loop.wake()
                    case m.PinModel():
                        self._models.pin(command)
                    case m.OpenTrace():
                        nursery.start_soon(self._open_trace, link, command)
                    case m.ReplayStep() | m.ReplayStart() | m.ReplayPicture():
                        nursery.start_soon(self._replay, link, command)
                    case m.End():
                        self._scope.cancel()
            nursery.cancel_scope.cancel()

    def _ready(self) -> m.Ready:
        return m.Ready(os.getpid(), self._device_name, self._capability, self._board.known()[-m.MAX_HELD :])

    def _say(self, message: Any) -> None:
        """To the node, if there is one. What it misses it asks for again when it is back."""
        if self._link is None:
            return
        try:
            self._link.say(message)
        except LinkBroken:
            self._link, self._alone_since = None, trio.current_time()

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _submit(self, command: m.RunJob) -> None:
        """Take a job in, or go on with it. One with inputs waits for them; one that is known does not need them."""
        known = self._board.find(command.job_id)
        if known is not None and not (known.state is State.ENDED and known.passing):
            self._queue(command.job_id, command.spec, ())
        elif (files := self._inbasket.expect(command.job_id, command.spec)) is not None:
            self._queue(command.job_id, command.spec, files)

    def _take_in(self, part: m.InputPart) -> None:
        if (whole := self._inbasket.take(part.job_id, part.index, part.data)) is not None:
            self._queue(part.job_id, *whole)

    def _queue(self, job_id: bytes, spec: JobSpec, files: tuple[bytes, ...]) -> None:
        try:
            job = self._board.submit(job_id, spec, files)
        except Refused as exc:
            self._say(m.JobFailed(job_id, exc.code, words(exc.hint), False))
            return
        if job.state is State.ENDED and job.outcome is not None:
            for message in job.outcome:
                self._say(message)
        elif job.state is State.QUEUED:
            self._models.want(job)
        else:
            self._say(m.JobStepped(job.job_id, job.step, job.steps or job.spec.shape.steps, job.eta_ms))

    async def _work(self) -> None:
        device = await self._open_device()
        if device is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._models.run)
            await self._loop.run(device)

    async def _open_device(self) -> Device | None:
        make = partial(self._make_device, self._settings, self._entries, self._traces, self._model_changed)
        try:
            self._device, self._device_name = await in_thread(make)
        except Misconfigured as exc:
            await self._give_up(str(exc), EXIT_MISCONFIGURED)
            return None
        self._capability = Capability(served_cold(self._entries, self._device.dtype), MAX_OPEN)
        self._say(self._ready())
        self._models.open(self._device, self._entries)
        self._opened.set()
        return self._device

    def _wake(self) -> None:
        self._loop.wake()

    def _moved(self, phase: m.Phase) -> None:
        if phase is m.Phase.IDLE:
            self._progress.rest(m.Phase.RUNNING)
        else:
            self._progress.move(m.Phase.RUNNING, trio.current_time())

    def _finish(self, job: BoardJob[Outcome], done: Finished) -> None:
        outcome = _outcome(job.job_id, replace(done, load_ms=self._models.waited_ms(job)))
        try:
            encode(outcome[0])
        except ValueError as exc:  # no result that travels: an empty file, too many files
            self._fail(job, "MODEL_FAILED", str(exc), passing=True)
            return
        if self._board.end(job.job_id, outcome, sum(len(a.data) for a in done.artifacts), self._now()):
            for message in outcome:
                self._say(message)

    async def _failed(self, job: BoardJob[Outcome], exc: Exception, works: bool) -> None:
        """Its own fault, the model's, or the device's: when that does not work for others either, the worker ends."""
        match exc:
            case Refused():
                self._fail(job, exc.code, counted(exc.hint, exc.have, exc.need), passing=False)
            case BrokenOutput() | Misconfigured():
                self._fail(job, "BROKEN_MODEL", str(exc), passing=True)
            case MemoryError() | RuntimeError():  # torch reports a full device and a broken kernel as RuntimeError
                code = "OUT_OF_MEMORY" if out_of_memory(exc) else "DEVICE_FAILED"
                self._fail(job, code, str(exc), passing=True)
                if not works:
                    await self._give_up(f"the device failed: {exc}", EXIT_DEVICE_FAILED)
            case _:  # model code is foreign: no input of a buyer may end the worker by a surprise in it
                self._fail(job, "MODEL_FAILED", f"{type(exc).__name__}: {exc}", passing=True)

    def _note_step(self, job: BoardJob[Outcome], step: int, steps: int, eta_ms: int) -> None:
        self._progress.move(m.Phase.RUNNING, trio.current_time())
        if job.state is State.RUNNING:
            self._board.progress(job.job_id, step, steps, eta_ms)
            self._say(m.JobStepped(job.job_id, step, steps, eta_ms))

    def _note_preview(self, job: BoardJob[Outcome], step: int, file: bytes) -> None:
        """Said once, and not kept."""
        if job.state is State.RUNNING:
            self._say(m.JobPreviewed(job.job_id, step, file))

    def _fail(self, job: BoardJob[Outcome], code: str, hint: str, *, passing: bool) -> None:
        failed = m.JobFailed(job.job_id, code, words(hint), passing)
        if self._board.end(job.job_id, (failed,), 0, self._now(), passing=passing):
            self._say(failed)

    def _model_changed(self, entry: ModelCapability) -> None:
        """In the device's thread."""
        self._token.run_sync_soon(self._note_model, entry)

    def _note_model(self, entry: ModelCapability) -> None:
        if self._device is not None and entry.warm:
            fresh = m.Calibrated(entry.model, self._device.gains(entry.model))
            if self._calibrated.get(entry.model) != fresh:
                self._calibrated[entry.model] = fresh
                self._say(fresh)
        for one in all_served(entry):
            self._capability = self._capability.updated(one)
            self._say(m.ModelChanged(one))

    # -- traces --------------------------------------------------------------------------------------------------

    async def _open_trace(self, link: Link, command: m.OpenTrace) -> None:
        try:
            leaves = await trio.to_thread.run_sync(self._traces.open, command.job_id, command.indexes)
        except Refused as exc:
            link.say(m.RequestFailed(command.request, exc.code, words(exc.hint)))
            return
        for leaf in leaves:
            link.say(m.LeafOpened(command.request, leaf))

    async def _replay(self, link: Link, command: m.ReplayStep | m.ReplayStart | m.ReplayPicture) -> None:
        await self._opened.wait()
        assert self._device is not None
        c, device = command, self._device
        match c:
            case m.ReplayStep():
                work: Callable[[], Any] = partial(device.replay_step, c.spec, c.index, c.dtype, c.before, c.after)
            case m.ReplayStart():
                work = partial(device.replay_start, c.spec, c.dtype, c.noise, (c.picture,) if c.picture else ())
            case m.ReplayPicture():
                work = partial(device.replay_picture, c.spec, c.dtype, c.latents, c.picture)
        try:
            async with self._models.borrowed(c.spec.shape.model):
                found = await self._loop.between_steps(work)
        except (Refused, Misconfigured) as exc:
            code = exc.code if isinstance(exc, Refused) else "BROKEN_MODEL"
            link.say(m.RequestFailed(c.request, code, words(str(exc))))
        else:
            link.say(m.Replayed(c.request, found.max_diff_nano, found.relative_ppm))

    # -- its own end ---------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        tidied = trio.current_time()
        while True:
            await trio.sleep(_WATCH_S)
            self._board.expire(self._now())
            if not self._opened.is_set():
                self._models.tell_waiting(OPENING_MS**2 // (OPENING_MS + self._now() - self._begun_at))
            if trio.current_time() - tidied > _TIDY_S:
                await trio.to_thread.run_sync(self._traces.expire)
                tidied = trio.current_time()
            if self._link is not None:
                continue
            alone = trio.current_time() - self._alone_since
            orphan = os.getppid() != self._settings.parent
            missed = self._board.keeps or runs(self._keeper)
            if alone > self._settings.orphan_s or (orphan and not missed):
                self._scope.cancel()

    async def _give_up(self, reason: str, code: int) -> None:
        print(reason, file=sys.stderr)
        self.exit_code = code
        if self._link is not None:
            with trio.move_on_after(LAST_WORDS_S):
                await self._link.flush()
        self._scope.cancel()

    def _now(self) -> int:
        return int(trio.current_time() * 1000)


def _outcome(job_id: bytes, done: Finished) -> Outcome:
    heads = tuple(m.ArtifactHead(a.media_type, len(a.data)) for a in done.artifacts)
    parts = [
        m.ArtifactPart(job_id, index, artifact.data[at : at + m.PART])
        for index, artifact in enumerate(done.artifacts)
        for at in range(0, len(artifact.data), m.PART)
    ]
    head = m.JobDone(job_id, heads, done.trace_root, done.dtype, done.load_ms, done.run_ms, done.safety)
    return (head, *parts)
