"""The journal: one SQLite file, one writer, and nothing leaves the node that a restart would forget.

``Journal.write(fn)`` runs ``fn`` inside a transaction and returns once it is on disk (WAL, synchronous=FULL). Writes
that wait together share one commit, each in a savepoint of its own. It also keeps what a database knows of itself: its
epoch, the recipient's secret, whether it was closed in order. It knows no ticket and no account.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import trio

from ledger.schema import APPLICATION_ID, TABLES, VERSION, WeiSum
from p2p.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_WAITING = 1024
MAX_GROUP = 256
CHECK_WHOLE_BELOW = 64 * 2**20

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Transaction:
    """What a write works on: the connection, and what to do once its commit is on disk (on trio's thread)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self._after: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        self._after.append(callback)

    def committed(self) -> None:
        for callback in self._after:
            callback()


class Writes(Protocol):
    """What the books ask of a journal."""

    @property
    def epoch(self) -> bytes: ...
    @property
    def secret(self) -> bytes: ...
    async def write(self, fn: Callable[[Transaction], T]) -> T: ...
    async def begin(self, fn: Callable[[Transaction], T]) -> Begun[T]: ...


class Begun(Protocol[T_co]):
    """A write that was handed in. Writes are done in the order in which they were."""

    async def wait(self) -> T_co:
        """What it returned, once it is on disk. Raises what it raised."""
        ...


class _Write(Generic[T]):
    """One ``fn`` on its way: its transaction, then its result or its error."""

    def __init__(self, fn: Callable[[Transaction], T]) -> None:
        self.fn = fn
        self.done = trio.Event()
        self.transaction: Transaction | None = None
        self.result: T
        self.error: BaseException | None = None

    async def wait(self) -> T:
        await self.done.wait()
        return self.unwrap()

    def unwrap(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result


class Database:
    """The file, synchronously, for one thread at a time. Opening takes a lock that a second process cannot have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epoch = b""
        self.secret = b""
        self.unclean = False
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None

    @property
    def db(self) -> sqlite3.Connection:
        if self._db is None:
            raise Unavailable("the journal is closed")
        return self._db

    def open(self) -> None:
        """Raises Misconfigured for a file in use, damaged, or of a newer version."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(self.path)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as exc:
            raise Misconfigured(f"cannot open the journal {self.path}: {exc.strerror}") from exc
        try:
            self._open()
        except BaseException as exc:
            self._close_all()
            if isinstance(exc, sqlite3.Error):
                raise Misconfigured(
                    f"the journal {self.path} is damaged ({exc}): restore a backup of it, or move it away; "
                    "a new one forgets credit and winning tickets that were not redeemed yet"
                ) from exc
            raise

    def commit(self, writes: Sequence[_Write[Any]]) -> None:
        """Run every write in its own savepoint and commit them together. sqlite3.Error: nothing of it is on disk."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                self._apply(write)
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def run(self, fn: Callable[[Transaction], T]) -> T:
        """One write, alone."""
        write = _Write(fn)
        self.commit([write])
        if write.error is None and write.transaction is not None:
            write.transaction.committed()
        return write.unwrap()

    def close(self) -> None:
        """In order: the next start may trust what it finds."""
        if self._db is None:
            return
        self._set("clean", self._where())
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._close_all()

    def abandon(self) -> None:
        """Close without the mark of an orderly end."""
        self._close_all()

    def _apply(self, write: _Write[Any]) -> None:
        transaction = Transaction(self.db)
        self.db.execute("SAVEPOINT one")
        try:
            write.result = write.fn(transaction)
        except Exception as exc:  # whatever the write raised is its caller's, and undoes that write alone
            if isinstance(exc, sqlite3.OperationalError) or type(exc) is sqlite3.DatabaseError:
                raise  # the file, not the write
            self.db.execute("ROLLBACK TO one")
            write.error = exc
        else:
            write.transaction = transaction
        self.db.execute("RELEASE one")

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        self._db.create_aggregate("wei_sum", 1, WeiSum)  # type: ignore[arg-type]
        new = self._is_new()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if new:
            self._create()
        self._start()

    def _is_new(self) -> bool:
        """Whether the file is empty. Raises Misconfigured, before anything is changed, when it is not ours to write."""
        application, version, tables = (
            self.db.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if tables and application != APPLICATION_ID:
            raise Misconfigured(f"{self.path} is a database of something else: point to another data directory")
        if version > VERSION:
            raise Misconfigured(
                f"{self.path} was written by a newer Pasar (schema {version}): upgrade, or move it away"
            )
        return not tables

    def _create(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        for statement in TABLES:
            self.db.execute(statement)
        self._set("secret", secrets.token_bytes(32))
        self._set("epoch", secrets.token_bytes(16))
        self._set("clean", self._where())
        self.db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self.db.execute(f"PRAGMA user_version={VERSION}")
        self.db.execute("COMMIT")

    def _start(self) -> None:
        """Was the last end orderly, and is this the same file? If not, no params from before are signed again."""
        clean = self._get("clean")
        self.unclean = clean != self._where()
        if self.unclean or self.path.stat().st_size < CHECK_WHOLE_BELOW:
            found = self.db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        self.db.execute("BEGIN IMMEDIATE")
        if self.unclean:
            self.db.execute("UPDATE params_out SET dropped = 1")
        if clean not in (b"", self._where()):
            self._set("epoch", secrets.token_bytes(16))  # a copy put in place of the file that was closed
        self._set("clean", b"")
        self.db.execute("COMMIT")
        self.epoch, self.secret = self._get("epoch"), self._get("secret")

    def _where(self) -> bytes:
        found = self.path.stat()
        return f"{found.st_dev}:{found.st_ino}".encode()

    def _get(self, key: str) -> bytes:
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"no {key} in it")
        value: bytes = row[0]
        return value

    def _set(self, key: str, value: bytes) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _close_all(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Journal:
    """The one writer. Its ``run`` belongs to the node's nursery; writes from before it wait for it.

    A write that was handed in may happen even when its caller is cancelled. After a failed commit nothing is written
    again: ``run`` ends with Misconfigured, every waiting write with Unavailable.
    """

    def __init__(self, path: Path | str) -> None:
        self._database = Database(Path(path))
        self._send, self._receive = trio.open_memory_channel[_Write[Any]](MAX_WAITING)
        self._limiter = trio.CapacityLimiter(1)

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
        return await (await self.begin(fn)).wait()

    async def begin(self, fn: Callable[[Transaction], T]) -> Begun[T]:
        """Hand ``fn`` in and go on: what is handed in later, here or with ``write``, is on disk no earlier."""
        write = _Write(fn)
        try:
            await self._send.send(write)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as exc:
            raise Unavailable("the journal is closed") from exc
        return write

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens (Misconfigured when it cannot), writes until cancelled, then closes in order."""
        await self._in_thread(self._database.open)
        try:
            task_status.started()
            while True:
                await self._commit([await self._receive.receive()])
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _commit(self, group: list[_Write[Any]]) -> None:
        while len(group) < MAX_GROUP:
            try:
                group.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
        with trio.CancelScope(shield=True):
            try:
                await self._in_thread(self._database.commit, group)
            except sqlite3.Error as exc:
                _fail(group)
                await self._in_thread(self._database.abandon)
                raise Misconfigured(f"the journal cannot be written ({exc}): is the disk full?") from exc
        for write in group:
            if write.transaction is not None:
                write.transaction.committed()
            write.done.set()

    async def _end(self) -> None:
        waiting = []
        while True:
            try:
                waiting.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        self._receive.close()
        _fail(waiting)
        await self._in_thread(self._database.close)

    async def _in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await trio.to_thread.run_sync(fn, *args, limiter=self._limiter)


def _fail(writes: list[_Write[Any]]) -> None:
    for write in writes:
        write.error, write.transaction = Unavailable("the journal is closed"), None
        write.done.set()


def _lock(path: Path) -> int:
    """A lock beside the file. Raises Misconfigured when another process has it."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise Misconfigured(f"another process uses {path}: stop it, or give this one its own data directory") from exc
    return lock
