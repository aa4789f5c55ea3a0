"""Carries out what the shelf decides: loads one model at a time in a thread of its own, puts out, tells who waits.

Runs on the worker's event loop beside the jobs, so that jobs of warm models go on while another model loads. Shell
around ``compute/shelf.py``; knows no message, and of a job only its id.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

import trio

from compute.opendevice import in_thread
from compute.shelf import Decline, Evict, Load, Shelf, Shelved
from p2p.errors import Misconfigured

LOOK_S = 0.5  # how often waiting jobs hear how long it will take


@dataclass(frozen=True, slots=True)
class Brought:
    """A model was loaded: what it took in bytes, measured, and in milliseconds."""

    cost: int
    took_ms: int


class Stacks(Protocol):
    """What a device does with models. Both block; the device never runs a job of a model that is put out."""

    def bring(self, model: bytes) -> Brought:
        """Load it. Raises Misconfigured, MemoryError, and whatever a library raises."""
        ...

    def put_out(self, model: bytes) -> None:
        """Free what it took."""
        ...


@dataclass(frozen=True, slots=True)
class Tellers:
    """Who hears what. ``moved``: jobs may begin that could not. ``declined``: they never will, for that reason."""

    moved: Callable[[], None]
    declined: Callable[[tuple[bytes, ...], str, str, int, int], None]
    waits: Callable[[bytes, int], None]  # job, milliseconds until its model is there
    broken: Callable[[bytes, str], None]  # model, why
    loading: Callable[[bool], None]  # a load begins, or has ended
    shelved: Callable[[Shelved, str], None]  # where a model is, whenever something may have changed


class Librarian:
    """One shelf and the device it is for. ``run`` must be running for anything to be loaded."""

    def __init__(self, shelf: Shelf, stacks: Stacks, tellers: Tellers) -> None:
        self.shelf, self._stacks, self._tell = shelf, stacks, tellers
        self._changed = trio.Event()
        self._moved = trio.Event()
        self._numbers = count(1)

    async def run(self) -> None:
        """Until cancelled; a load under way is abandoned then."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                await self._carry_out(nursery)
                for model, job in self.shelf.waiting():
                    self._tell.waits(job, self.shelf.eta_ms(model, _now()))
                with trio.move_on_after(LOOK_S):
                    await self._changed.wait()

    def want(self, model: bytes, job: bytes) -> None:
        """A job needs its model. Raises Refused for one that it will never have."""
        self.shelf.want(model, job, _now())
        self._changed.set()

    def leave(self, model: bytes, job: bytes) -> None:
        """A job that ran is over, or one that waited is gone."""
        self.shelf.leave(model, job)
        self._changed.set()

    def pin(self, model: bytes, pinned: bool) -> None:
        """Load it and keep it, or no longer. Raises Refused."""
        self.shelf.pin(model, pinned, _now())
        self._changed.set()

    def may_begin(self, model: bytes) -> bool:
        """Whether a job of this model can run now."""
        return self.shelf.may_begin(model)

    def begin(self, model: bytes, job: bytes) -> int:
        """A job runs that waited for its model and ``may_begin``: how long it waited because that was not warm."""
        return self.shelf.begin(model, job)

    @asynccontextmanager
    async def borrowed(self, model: bytes) -> AsyncIterator[None]:
        """The model for a while, loaded first if it must be. Raises Refused."""
        job = b"borrowed %d" % next(self._numbers)
        self.want(model, job)
        try:
            while not self.shelf.may_begin(model):
                await self._moved.wait()
                if job not in self.shelf.jobs(model):
                    self.want(model, job)  # it was declined: asked once more, the reason is raised
            self.shelf.begin(model, job)
            yield
        finally:
            self.leave(model, job)

    async def _carry_out(self, nursery: trio.Nursery) -> None:
        for command in self.shelf.decide(_now()):
            match command:
                case Evict(model=model):
                    await in_thread(partial(self._stacks.put_out, model))
                case Load(model=model):
                    nursery.start_soon(self._load, model)
                case Decline():
                    self._tell.declined(command.jobs, command.code, command.hint, command.have, command.need)
        self._move()

    async def _load(self, model: bytes) -> None:
        self._tell.loading(True)
        try:
            brought = await in_thread(partial(self._stacks.bring, model))
        except Misconfigured as exc:
            self._fail(model, "BROKEN_MODEL", str(exc), mends=False)
        except Exception as exc:  # model code is foreign, and a device may be full: the others are served
            full = isinstance(exc, MemoryError) or "out of memory" in str(exc).lower()
            code = "OUT_OF_MEMORY" if full else "BROKEN_MODEL"
            self._fail(model, code, f"{type(exc).__name__}: {exc}", mends=isinstance(exc, MemoryError | RuntimeError))
        else:
            self.shelf.loaded(model, brought.cost, brought.took_ms, _now())
        self._tell.loading(False)
        self._changed.set()

    def _fail(self, model: bytes, code: str, hint: str, *, mends: bool) -> None:
        jobs = self.shelf.failed(model, hint, _now(), mends=mends)
        self._tell.broken(model, hint)
        self._tell.declined(jobs, code, hint, 0, 0)

    def _move(self) -> None:
        for one in self.shelf.models():
            self._tell.shelved(one, self.shelf.standing(one.model))
        self._moved.set()
        self._moved = trio.Event()
        self._tell.moved()


def _now() -> int:
    return int(trio.current_time() * 1000)
