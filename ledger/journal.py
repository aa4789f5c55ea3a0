"""The journal: one writer over one database file, and nothing leaves the node that a restart would forget.

    begun = await journal.begin(fn)      # applied in order, at once where the file is free
    result = await begun.applied()       # what it returned; only further writes may follow from it yet
    await begun.wait()                   # on disk, and with it everything handed in before: now it may be seen
    await begun.kept()                   # the same for who can wait for a commit that others want, LINGER_S at most

``write`` is both in one. Writes share a commit as long as nobody waits for one: a chain of writes that build on each
other costs one. Short writes are applied on trio's thread, everything else, and every commit, in a thread of its own.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from ledger.database import Database, Transaction, Write
from p2p.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

__all__ = ["Also", "Begun", "Database", "Journal", "Transaction", "Writes", "nothing"]

MAX_WAITING = 1024
MAX_GROUP = 256
AT_ONCE = 16  # writes applied on trio's thread after a commit that they had to wait for
LINGER_S = 0.01  # how long a write that nobody waits for is left off the disk

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Also = Callable[[Transaction], None]  # a write of somebody else's, for the same transaction


def nothing(tx: Transaction) -> None:
    """Also nothing."""


class Writes(Protocol):
    """What the books ask of a journal."""

    @property
    def epoch(self) -> bytes: ...
    @property
    def secret(self) -> bytes: ...
    async def write(self, fn: Callable[[Transaction], T]) -> T: ...
    async def begin(self, fn: Callable[[Transaction], T], *, short: bool = True) -> Begun[T]: ...


class Begun(Protocol[T_co]):
    """A write that was handed in. Writes are done in the order in which they were."""

    async def applied(self) -> T_co:
        """What it returned, when it may not be on disk yet: nothing that could be seen may follow before ``wait``.

        Raises what it raised.
        """
        ...

    async def wait(self) -> T_co:
        """What it returned, once it is on disk, and everything that was handed in before. Raises what it raised."""
        ...

    async def kept(self) -> T_co:
        """``wait`` that hurries nobody: it is on disk with another's commit, or a moment later. Raises as that does."""
        ...


class _Begun(Generic[T]):
    """One write on its way. ``short``: it may be applied on trio's thread."""

    def __init__(self, fn: Callable[[Transaction], T], want: Callable[[], None], *, short: bool) -> None:
        self.write = Write(fn)
        self.short = short
        self.has_run, self.done = trio.Event(), trio.Event()
        self._want = want

    async def applied(self) -> T:
        await self.has_run.wait()
        return self.write.unwrap()

    async def wait(self) -> T:
        if self.write.error is None:
            self._want()
            await self.done.wait()
        return self.write.unwrap()

    async def kept(self) -> T:
        await self.has_run.wait()
        if self.write.error is None:
            await self.done.wait()
        return self.write.unwrap()

    def committed(self) -> None:
        if self.write.transaction is not None:
            self.write.transaction.committed()
        self.has_run.set()
        self.done.set()

    def fail(self) -> None:
        self.write.error, self.write.transaction = Unavailable("the journal is closed"), None
        self.has_run.set()
        self.done.set()


class Journal:
    """The one writer. Its ``run`` belongs to the node's nursery; writes from before it wait for it.

    A write that was handed in may happen even when its caller is cancelled. After a failed commit nothing is written
    again: ``run`` ends with Misconfigured, every waiting write with Unavailable.
    """

    def __init__(self, path: Path | str) -> None:
        self._database = Database(Path(path))
        self._limiter = trio.CapacityLimiter(1)
        self._free = False  # open, and no thread is in it
        self._closed = False
        self._open: list[_Begun[Any]] = []  # applied, and not committed
        self._queue: deque[_Begun[Any]] = deque()
        self._room = trio.Semaphore(MAX_WAITING)  # of the queue
        self._some, self._wanted = trio.Event(), trio.Event()
        self._broken: sqlite3.Error | None = None

    @property
    def epoch(self) -> bytes:
        """16 bytes that name this life of the database; another one after a restore."""
        return self._database.epoch

    @property
    def secret(self) -> bytes:
        return self._database.secret

    @property
    def unclean(self) -> bool:
        """Whether the last end was not an orderly one."""
        return self._database.unclean

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` returns, once it is on disk. Raises what ``fn`` raises, then without effect; or Unavailable."""
        return await (await self._hand_in(fn, short=False)).wait()

    async def begin(self, fn: Callable[[Transaction], T], *, short: bool = True) -> Begun[T]:
        """Hand ``fn`` in and go on: what is handed in later is on disk no earlier.

        ``short``: a few rows and no scan, so that it may hold up trio's thread.
        """
        return await self._hand_in(fn, short=short)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens (Misconfigured when it cannot), writes until cancelled, then closes in order."""
        await self._in_thread(self._database.open)
        self._free = True
        try:
            task_status.started()
            while True:
                await self._due()
                await self._commit()
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _hand_in(self, fn: Callable[[Transaction], T], *, short: bool) -> _Begun[T]:
        await trio.lowlevel.checkpoint_if_cancelled()
        begun = _Begun(fn, self._want, short=short)
        if short and self._may_apply():
            self._apply(begun)
        else:
            await self._room.acquire()
            if self._closed:
                raise Unavailable("the journal is closed")
            self._queue.append(begun)
        self._some.set()
        return begun

    def _may_apply(self) -> bool:
        return self._free and not self._queue and len(self._open) < MAX_GROUP

    def _apply(self, begun: _Begun[Any]) -> None:
        """Apply it here and now; a file that fails ends the journal at its next commit."""
        self._open.append(begun)
        try:
            self._database.apply(begun.write)
        except sqlite3.Error as exc:
            self._broken, self._free = exc, False
            self._want()
        else:
            begun.has_run.set()

    def _want(self) -> None:
        """Somebody waits. For what is in the thread already, nothing is left to be done."""
        if self._open or self._queue:
            self._some.set()
            self._wanted.set()

    async def _due(self) -> None:
        """Wait until somebody waits for a write, or one has been left off the disk for long enough."""
        if not self._some.is_set():
            await self._some.wait()
        if len(self._open) < MAX_GROUP and not self._wanted.is_set():
            with trio.move_on_after(LINGER_S):
                await self._wanted.wait()

    async def _commit(self) -> None:
        group, self._open = self._open, []
        while self._queue and len(group) < MAX_GROUP:
            group.append(self._taken())
        self._wanted = trio.Event()
        self._some = trio.Event()
        self._free = False
        with trio.CancelScope(shield=True):
            await self._put_on_disk(group)
        self._free = True
        for begun in group:
            begun.committed()
        while self._queue and self._queue[0].short and len(self._open) < AT_ONCE and self._free:
            self._apply(self._taken())
        if self._queue:
            self._want()
        elif self._open:
            self._some.set()

    async def _put_on_disk(self, group: list[_Begun[Any]]) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            await self._in_thread(self._database.commit, [begun.write for begun in group])
        except sqlite3.Error as exc:
            _fail(group)
            await self._in_thread(self._database.abandon)
            raise Misconfigured(f"the journal cannot be written ({exc}): is the disk full?") from exc

    def _taken(self) -> _Begun[Any]:
        self._room.release()
        return self._queue.popleft()

    async def _end(self) -> None:
        """What was applied is put on disk, since something may follow from it; what waits fails."""
        self._closed, self._free = True, False
        waiting = [self._taken() for _ in range(len(self._queue))]
        applied, self._open = self._open, []
        try:
            if applied and self._broken is None:
                await self._put_on_disk(applied)
                for begun in applied:
                    begun.committed()
        finally:
            _fail([begun for begun in (*applied, *waiting) if not begun.done.is_set()])
            await self._in_thread(self._database.close)

    async def _in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiter)


def _fail(begun: Iterable[_Begun[Any]]) -> None:
    for one in begun:
        one.fail()
