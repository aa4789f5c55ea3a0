"""The database under the journal: one SQLite file, for one thread at a time, that no second process can open.

A write runs in a savepoint of its own; ``commit`` puts everything that was applied since the last one on disk (WAL,
synchronous=FULL). It also keeps what a database knows of itself: its epoch, the recipient's secret, whether it was
closed in order. It knows no ticket, no account and no waiting.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ledger.schema import APPLICATION_ID, TABLES, VERSION, WeiSum
from p2p.errors import Misconfigured, Unavailable

CHECK_WHOLE_BELOW = 64 * 2**20

T = TypeVar("T")


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


class Write(Generic[T]):
    """One ``fn``, and what became of it: its transaction, then its result or its error."""

    def __init__(self, fn: Callable[[Transaction], T]) -> None:
        self.fn = fn
        self.applied = False
        self.transaction: Transaction | None = None
        self.result: T
        self.error: BaseException | None = None

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

    def apply(self, write: Write[Any]) -> None:
        """Run one write in a savepoint; it is on disk with the next ``commit``. sqlite3.Error: the file is at fault."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")
        self._apply(write)

    def commit(self, writes: Sequence[Write[Any]]) -> None:
        """Apply what is not applied yet, and put all of it on disk. sqlite3.Error: nothing of it is."""
        try:
            for write in writes:
                if not write.applied:
                    self.apply(write)
            if self.db.in_transaction:
                self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def run(self, fn: Callable[[Transaction], T]) -> T:
        """One write, alone."""
        write = Write(fn)
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

    def _apply(self, write: Write[Any]) -> None:
        transaction, write.applied = Transaction(self.db), True
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


def _lock(path: Path) -> int:
    """A lock beside the file. Raises Misconfigured when another process has it."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise Misconfigured(f"another process uses {path}: stop it, or give this one its own data directory") from exc
    return lock
