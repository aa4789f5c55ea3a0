"""The worker's models between its board of jobs and its shelf: has models loaded for the jobs that wait, and says so.

Opened with the device; what was asked before is asked then. Shell. Knows no connection, only whom to say things to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

import trio

from compute import messages as m
from compute.capability import MAX_LOAD_MS, Capability, Dtype
from compute.catalog import ModelEntry
from compute.jobboard import BoardJob, JobBoard, State
from compute.librarian import Librarian, Stacks, Tellers
from compute.phases import Progress
from compute.shelf import Shelf, Shelved
from p2p.errors import Refused

Say = Callable[[Any], None]
MAX_WORDS = 128


class ShelvedDevice(Stacks, Protocol):
    """A device whose models share ``budget`` bytes."""

    budget: int
    dtype: Dtype


class ModelDesk:
    """Invariant: once open, every queued job of the board waits on the shelf for its model."""

    def __init__(
        self,
        board: JobBoard[Any],
        progress: Progress,
        say: Say,
        capability: Callable[[], Capability],
        stir: Callable[[], None],
    ) -> None:
        """``stir`` is called when a job may begin that could not, or there is somebody new."""
        self._board, self._progress, self._say, self._capability = board, progress, say, capability
        self._stir = stir
        self._librarian: Librarian | None = None
        self._told: dict[bytes, m.ModelShelved] = {}
        self._waited: dict[bytes, int] = {}
        self._pins: list[m.PinModel] = []  # asked before the device is open

    def open(self, device: ShelvedDevice, entries: Iterable[ModelEntry]) -> None:
        """The device is there."""
        shelf = Shelf(device.budget)
        for entry in entries:
            shelf.add(entry.model, entry.guess(device.dtype))
        tellers = Tellers(self._stir, self._decline, self._waits, self._broken, self._loading, self._shelved)
        self._librarian = Librarian(shelf, device, tellers)
        self._progress.rest(m.Phase.LOADING)
        for pin in self._pins:
            self.pin(pin)
        for job in self._board.queued():
            self.want(job)

    async def run(self) -> None:
        """Load and put out, until cancelled. To be called once it is open."""
        await self._open_librarian().run()

    def take(self) -> BoardJob[Any] | None:
        """The next job that may run; its model stays until the job is ``released``."""
        librarian = self._open_librarian()
        job = self._board.take(librarian.may_begin)
        if job is not None:
            self._waited[job.job_id] = librarian.begin(job.spec.shape.model, job.job_id)
        return job

    def waited_ms(self, job: BoardJob[Any]) -> int:
        """How long a job that was taken had waited for its model to load."""
        return min(MAX_LOAD_MS, self._waited.get(job.job_id, 0))

    def release(self, job: BoardJob[Any]) -> None:
        """A job that was taken is over, or back in the queue because a cancel was withdrawn."""
        self._waited.pop(job.job_id, None)
        self._open_librarian().leave(job.spec.shape.model, job.job_id)
        if job.state is State.QUEUED:
            self.want(job)

    def borrowed(self, model: bytes) -> AbstractAsyncContextManager[None]:
        """The model for something that is no job of the board. Raises Refused."""
        return self._open_librarian().borrowed(model)

    def want(self, job: BoardJob[Any]) -> None:
        """Have the model of a queued job loaded. Before the device is open nothing is known; then all are wanted."""
        if self._librarian is not None:
            try:
                self._librarian.want(job.spec.shape.model, job.job_id)
            except Refused as exc:
                self._decline((job.job_id,), exc.code, exc.hint, exc.have, exc.need)
        self._stir()

    def cancel(self, job_id: bytes) -> None:
        """Give a job up, and its wait for a model with it."""
        job = self._board.find(job_id)
        if job is not None and job.state is State.QUEUED and self._librarian is not None:
            self._librarian.leave(job.spec.shape.model, job_id)
        self._board.cancel(job_id)

    def pin(self, command: m.PinModel) -> None:
        """Keep a model loaded, or no longer."""
        if self._librarian is None:
            self._pins.append(command)
            return
        try:
            self._librarian.pin(command.model, command.pinned)
        except Refused as exc:
            self._say(m.ModelFailed(command.model, words(str(exc))))

    def tell_all(self) -> None:
        """A node has come: where every model is."""
        for told in self._told.values():
            self._say(told)

    def tell_waiting(self, load_ms: int) -> None:
        """The device is not open yet: whoever waits hears how long that may take, as of a model that loads."""
        for job in self._board.queued():
            self._waits(job.job_id, load_ms)

    # -- what the librarian tells ------------------------------------------------------------------------------------

    def _decline(self, jobs: tuple[bytes, ...], code: str, hint: str, have: int = 0, need: int = 0) -> None:
        """Jobs that will not have their model here. Another machine may serve them."""
        told = words(counted(hint, have, need))
        for job_id in jobs:
            failed = m.JobFailed(job_id, code, told, True)
            if self._board.decline(job_id, (failed,), int(trio.current_time() * 1000), passing=True):
                self._say(failed)

    def _waits(self, job_id: bytes, load_ms: int) -> None:
        job = self._board.find(job_id)
        known = None if job is None else self._capability().find(job.spec.shape.pipeline, job.spec.shape.model)
        if job is not None and known is not None and job.state is State.QUEUED:
            run_ms = replace(known, warm=True).predict_ms(job.spec.shape)
            self._say(m.JobLoading(job_id, load_ms + run_ms))

    def _broken(self, model: bytes, hint: str) -> None:
        print(hint, file=sys.stderr)
        self._say(m.ModelFailed(model, words(hint)))

    def _loading(self, begins: bool) -> None:
        if begins:
            self._progress.move(m.Phase.LOADING, trio.current_time())
        else:
            self._progress.rest(m.Phase.LOADING)

    def _shelved(self, one: Shelved, standing: str) -> None:
        now = m.ModelShelved(one.model, standing, one.cost, one.pinned)
        if self._told.get(one.model) != now:
            self._told[one.model] = now
            self._say(now)

    def _open_librarian(self) -> Librarian:
        assert self._librarian is not None, "the device is not open"
        return self._librarian


def counted(hint: str, have: int, need: int) -> str:
    """A hint with its numbers, where there are some."""
    return f"{hint} (have {have}, need {need})" if need else hint


def words(text: str) -> str:
    """What may travel of a text that a library wrote: short, and valid UTF-8."""
    return text[:MAX_WORDS].encode(errors="replace").decode()
