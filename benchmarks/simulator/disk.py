"""The disk of a simulated node: a journal in memory, and the files beside it. It outlives the node's crashes.

``DiskJournal`` keeps the promises of ``ledger/journal.py`` without threads and fsync: what was handed in is committed a
moment later, in its order, and what was not committed when the node crashed is gone. ``DiskKeeping`` is
``market/keeping.py`` without files. Both run through the same contract tests as the real ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from ledger.database import Transaction, Write
from ledger.journal import LINGER_S, Begun
from ledger.schema import TABLES, WeiSum
from market.keeping import Keeping
from p2p.codec import decode_as, encode
from p2p.errors import MalformedMessage, Unavailable, UnknownMessage

if TYPE_CHECKING:
    from trio_typing import TaskStatus

T = TypeVar("T")
_EMPTY: list[bytes] = []  # a database with its tables and nothing in them


def _opened() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.create_aggregate("wei_sum", 1, WeiSum)  # type: ignore[arg-type]
    if not _EMPTY:
        for statement in TABLES:
            db.execute(statement)
        _EMPTY.append(db.serialize())
    else:
        db.deserialize(_EMPTY[0])
    return db


class Disk:
    """What a crash leaves: committed rows, whole files, and whether the last end was an orderly one."""

    def __init__(self, name: bytes) -> None:
        self.db = _opened()
        self.secret, self.epoch = b"secret".ljust(32 - len(name), b"\0") + name, name.rjust(16, b"\0")
        self.files: dict[tuple[str, str], tuple[bytes, tuple[bytes, ...], float]] = {}
        self.clean = True

    def close(self) -> None:
        self.db.close()


class _Handed(Generic[T]):
    """One write on its way: applied when it was handed in, on disk when ``done``."""

    def __init__(self, write: Write[T], want: Callable[[], None]) -> None:
        self.write, self._want = write, want
        self.done = trio.Event()

    async def applied(self) -> T:
        return self.write.unwrap()

    async def wait(self) -> T:
        if self.write.error is None:
            self._want()
            await self.done.wait()
        return self.write.unwrap()

    async def kept(self) -> T:
        if self.write.error is None:
            await self.done.wait()
        return self.write.unwrap()

    def lost(self) -> None:
        self.write.error, self.write.transaction = Unavailable("the journal is closed"), None
        self.done.set()

    def committed(self) -> None:
        if self.write.transaction is not None:
            self.write.transaction.committed()
        self.done.set()


class DiskJournal:
    """One life of the journal. ``pause`` says how long a commit takes, and how long its callers wait for the news."""

    def __init__(self, disk: Disk, pause: Callable[[], float] = lambda: 0.0) -> None:
        self._disk, self._pause = disk, pause
        self._group: list[_Handed[Any]] = []  # applied, and not committed
        self._handed_in, self._wanted = trio.Event(), trio.Event()
        self._over = False
        self.unclean = not disk.clean
        disk.clean = False
        if self.unclean:
            disk.db.execute("UPDATE params_out SET dropped = 1")

    @property
    def epoch(self) -> bytes:
        return self._disk.epoch

    @property
    def secret(self) -> bytes:
        return self._disk.secret

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` returns, once it is committed. Raises what ``fn`` raises, then without effect; or Unavailable."""
        return await (await self.begin(fn)).wait()

    async def begin(self, fn: Callable[[Transaction], T], *, short: bool = True) -> Begun[T]:
        """Hand ``fn`` in and go on."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._over:
            raise Unavailable("the journal is closed")
        handed = _Handed(Write(fn), lambda: self._wanted.set())
        if not self._group:
            self._disk.db.execute("BEGIN")
        self._group.append(handed)
        self._apply(handed.write)
        self._handed_in.set()
        return handed

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until cancelled, then close in order."""
        task_status.started()
        group: list[_Handed[Any]] = []
        try:
            while True:
                await self._handed_in.wait()
                if not self._wanted.is_set():
                    with trio.move_on_after(LINGER_S):
                        await self._wanted.wait()
                if (pause := self._pause()) > 0:
                    await trio.sleep(pause)
                group = self._commit()
                if (pause := self._pause()) > 0:
                    await trio.sleep(pause)  # it is on disk, and nobody knows
                _tell(group)
                group = []
        finally:
            _tell(group)
            self._end(clean=not self._over)

    def crash(self) -> None:
        """The node dies: what is not committed is gone."""
        self._end(clean=False)

    def _end(self, *, clean: bool) -> None:
        if self._over:
            return
        self._over, self._disk.clean = True, clean
        if self._group:
            self._disk.db.execute("ROLLBACK")
        for handed in self._group:
            handed.lost()
        self._group = []

    def _apply(self, write: Write[Any]) -> None:
        transaction = Transaction(self._disk.db)
        transaction.db.execute("SAVEPOINT one")
        try:
            write.result = write.fn(transaction)
        except Exception as exc:  # whatever the write raised is its caller's, and undoes that write alone
            transaction.db.execute("ROLLBACK TO one")
            write.error = exc
        else:
            write.transaction = transaction
        transaction.db.execute("RELEASE one")

    def _commit(self) -> list[_Handed[Any]]:
        group, self._group = self._group, []
        self._handed_in, self._wanted = trio.Event(), trio.Event()
        if group:
            self._disk.db.execute("COMMIT")
        return group


def _tell(group: Sequence[_Handed[Any]]) -> None:
    for handed in group:
        handed.committed()


class DiskKeeping(Keeping):
    """Files of one folder of a Disk: whole or absent."""

    def __init__(self, disk: Disk, folder: str, wall_time: Callable[[], float]) -> None:
        super().__init__(Path(folder))
        self._on_disk, self._place, self._wall_time = disk.files, folder, wall_time

    async def put(self, name: str, note: object, files: Sequence[bytes]) -> None:
        data = encode(note)
        await trio.lowlevel.checkpoint()
        self._on_disk[self._place, name] = (data, tuple(files), self._wall_time())

    async def get(self, name: str, kind: type[T]) -> tuple[T, list[bytes]] | None:
        note = await self.note(name, kind)
        return None if note is None else (note, list(self._on_disk[self._place, name][1]))

    async def note(self, name: str, kind: type[T]) -> T | None:
        await trio.lowlevel.checkpoint()
        kept = self._on_disk.get((self._place, name))
        try:
            return None if kept is None else decode_as(kind, kept[0])
        except (MalformedMessage, UnknownMessage):
            return None

    async def read(self, name: str, index: int, offset: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        kept = self._on_disk.get((self._place, name))
        if kept is None or index >= len(kept[1]):
            raise Unavailable("a kept file cannot be read")
        piece = kept[1][index][offset : offset + length]
        if len(piece) != length:
            raise Unavailable("a kept file is shorter than it was")
        return piece

    async def drop(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._on_disk.pop((self._place, name), None)

    async def names(self) -> list[tuple[str, float]]:
        await trio.lowlevel.checkpoint()
        return [(name, kept[2]) for (place, name), kept in self._on_disk.items() if place == self._place]
