"""The jobs of one worker: queued, running, ended, forgotten. Keeps an ended job so that a restarted node can ask again.

    state      submit        take      progress   end               cancel            expire
    -------------------------------------------------------------------------------------------
    (none)     QUEUED        -         -          -                 -                 -
    QUEUED     same          RUNNING   -          ENDED (declined)  (none)            -
    RUNNING    same          -         RUNNING    ENDED             CANCELLING        -
    CANCELLING RUNNING       -         CANCELLING (none)            CANCELLING        -
    ENDED      same; QUEUED  -         -          -                 (none)            (none)
               after a
               passing fault

Pure: time is ``now`` in milliseconds, results are opaque. Knows no device and no connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from compute.spec import JobSpec
from p2p.errors import Refused

KEEP_MS = 60_000  # an ended job is kept this long for a node that comes back
KEEP_BYTES = 256 * 2**20
MAX_JOBS = 256  # queued and running

Outcome = TypeVar("Outcome")


class State(StrEnum):
    """Where a job stands. A job that is not on the board has no state."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"


@dataclass(slots=True)
class BoardJob(Generic[Outcome]):
    """One job. ``outcome`` is set exactly when the state is ENDED; ``step`` of ``steps`` is the last progress reported.

    ``due`` is when it should be done, None when nobody said.
    """

    job_id: bytes
    spec: JobSpec
    files: tuple[bytes, ...] = ()
    due: int | None = None
    state: State = State.QUEUED
    step: int = 0
    steps: int = 0
    eta_ms: int = 0
    outcome: Outcome | None = None
    size: int = 0
    passing: bool = False
    ended_at: int = 0


@dataclass(slots=True)
class JobBoard(Generic[Outcome]):
    """Every job once by its id, and once on the device. Illegal calls raise KeyError and change nothing."""

    keep_ms: int = KEEP_MS
    keep_bytes: int = KEEP_BYTES
    _jobs: dict[bytes, BoardJob[Outcome]] = field(default_factory=dict)
    _queue: deque[bytes] = field(default_factory=deque)

    @property
    def depth(self) -> int:
        """Jobs queued and running."""
        return sum(job.state is not State.ENDED for job in self._jobs.values())

    @property
    def keeps(self) -> bool:
        """Whether anything here would be missed if the worker ended now."""
        return bool(self._jobs)

    def known(self) -> tuple[bytes, ...]:
        """All of them, in order of arrival."""
        return tuple(self._jobs)

    def running(self) -> list[BoardJob[Outcome]]:
        """Jobs that have a place on the device."""
        return [job for job in self._jobs.values() if job.state in (State.RUNNING, State.CANCELLING)]

    def waits(self) -> bool:
        """Whether somebody may be waiting. May be asked by any thread."""
        return bool(self._queue)

    def queued(self) -> list[BoardJob[Outcome]]:
        """Jobs that wait, in order of arrival."""
        found = (self._jobs.get(job_id) for job_id in self._queue)
        return [job for job in found if job is not None and job.state is State.QUEUED]

    def find(self, job_id: bytes) -> BoardJob[Outcome] | None:
        """The job as it stands, if it is known."""
        return self._jobs.get(job_id)

    def submit(self, job_id: bytes, spec: JobSpec, files: tuple[bytes, ...] = ()) -> BoardJob[Outcome]:
        """Queue a job, or attach to it when it is known. Raises Refused ``CONFLICT`` (another spec), ``BUSY``."""
        known = self._jobs.get(job_id)
        if known is not None and known.spec != spec:
            raise Refused("CONFLICT", "this job id names another job")
        if known is not None and known.state is State.CANCELLING:
            known.state = State.RUNNING
        if known is not None and not (known.state is State.ENDED and known.passing):
            return known
        if self.depth >= MAX_JOBS:
            raise Refused("BUSY", "the queue is full", have=MAX_JOBS, need=MAX_JOBS + 1)
        fresh = self._jobs[job_id] = BoardJob[Outcome](job_id, spec, files)
        self._queue.append(job_id)
        return fresh

    def expect(self, job_id: bytes, due: int) -> None:
        """Somebody says when a job should be done. Of an unknown one it means nothing, of an ended one neither."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.due = due

    def take(self, ready: Callable[[bytes], bool] = lambda model: True) -> BoardJob[Outcome] | None:
        """The next job in order of arrival whose model is ``ready``, now RUNNING; None when there is none."""
        for job_id in tuple(self._queue):
            job = self._jobs.get(job_id)
            if job is None or job.state is not State.QUEUED:
                self._queue.remove(job_id)
            elif ready(job.spec.shape.model):
                self._queue.remove(job_id)
                job.state = State.RUNNING
                return job
        return None

    def decline(self, job_id: bytes, outcome: Outcome, now: int, *, passing: bool) -> bool:
        """End a job that is still QUEUED. False, and nothing changes, for any other."""
        job = self._jobs.get(job_id)
        if job is None or job.state is not State.QUEUED:
            return False
        job.state = State.RUNNING
        return self.end(job_id, outcome, 0, now, passing=passing)

    def progress(self, job_id: bytes, step: int, steps: int, eta_ms: int) -> None:
        """Note how far a running job is."""
        job = self._running(job_id)
        job.step, job.steps, job.eta_ms = step, steps, eta_ms

    def cancelled(self, job_id: bytes) -> bool:
        """Whether a running job is to stop at its next step."""
        return self._running(job_id).state is State.CANCELLING

    def cancel(self, job_id: bytes) -> None:
        """Give a job up. An unknown id changes nothing."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        if job.state in (State.RUNNING, State.CANCELLING):
            job.state = State.CANCELLING
        else:
            del self._jobs[job_id]

    def end(self, job_id: bytes, outcome: Outcome, size: int, now: int, *, passing: bool = False) -> bool:
        """Keep a running job's outcome of ``size`` bytes; ``passing`` when a new try makes sense.

        False, and the job is forgotten, when it had been cancelled.
        """
        job = self._running(job_id)
        if job.state is State.CANCELLING:
            del self._jobs[job_id]
            return False
        job.state, job.outcome, job.size, job.passing, job.ended_at = State.ENDED, outcome, size, passing, now
        job.files = ()
        self._shed()
        return True

    def expire(self, now: int) -> None:
        """Forget what ended longer ago than it is kept."""
        for job in self._ended():
            if now - job.ended_at >= self.keep_ms:
                del self._jobs[job.job_id]

    def _shed(self) -> None:
        ended = sorted(self._ended(), key=lambda job: job.ended_at)
        total = sum(job.size for job in ended)
        for job in ended[:-1]:  # the newest stays, whatever its size
            if total <= self.keep_bytes:
                return
            total -= job.size
            del self._jobs[job.job_id]

    def _ended(self) -> list[BoardJob[Outcome]]:
        return [job for job in self._jobs.values() if job.state is State.ENDED]

    def _running(self, job_id: bytes) -> BoardJob[Outcome]:
        job = self._jobs[job_id]
        if job.state not in (State.RUNNING, State.CANCELLING):
            raise KeyError(job_id)
        return job
