"""SessionStore: the records of sessions that are not over, in the journal's own file.

A record goes to disk in the same journal as the money it speaks of, so that both survive a kill together. What a
record holds is the session's business; this is a table of bytes with a name and an age.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag

from ledger.journal import Also, Begun, Transaction, Writes
from p2p.peer import PeerId

_TABLE = """CREATE TABLE IF NOT EXISTS sessions (
    side TEXT NOT NULL CHECK (side IN ('buying', 'selling')), peer BLOB NOT NULL, job_id BLOB NOT NULL,
    attempt INTEGER NOT NULL, record BLOB NOT NULL, at_ms INTEGER NOT NULL, settled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (side, peer, job_id, attempt)) STRICT, WITHOUT ROWID"""
MAX_RESTORED = 4096


class Counted(IntFlag):
    """What follows from a session, each once; kept in the column that had only ``settled`` before."""

    NOTHING = 0
    CLOSE = 1
    FAULT = 2


@dataclass(frozen=True, slots=True)
class Kept:
    """One session as it was ``age_ms`` ago. ``counted``: what of it has changed the counterpart's standing already."""

    peer: PeerId
    job_id: bytes
    attempt: int
    record: bytes
    age_ms: int
    counted: Counted


class SessionStore:
    """One row per side, counterpart, job and attempt; the newest record of it."""

    def __init__(self, journal: Writes, side: str, wall_time: Callable[[], float]) -> None:
        self._journal, self._side, self._wall_time = journal, side, wall_time

    async def load(self) -> list[Kept]:
        """Every session that was not over, the oldest first. Once, at the start."""
        now_ms = int(self._wall_time() * 1000)

        def read(tx: Transaction) -> list[Kept]:
            tx.db.execute(_TABLE)
            rows = tx.db.execute(
                "SELECT peer, job_id, attempt, record, at_ms, settled FROM sessions"
                " WHERE side = ? ORDER BY at_ms LIMIT ?",
                (self._side, MAX_RESTORED),
            ).fetchall()
            return [Kept(PeerId(p), j, a, r, max(0, now_ms - at), Counted(s)) for p, j, a, r, at, s in rows]

        return await self._journal.write(read)

    async def put(self, peer: PeerId, job_id: bytes, attempt: int, record: bytes) -> Begun[None]:
        """On its way to the disk when this returns, before whatever is written later; ``wait`` until it is there."""
        row = (self._side, peer, job_id, attempt, record, int(self._wall_time() * 1000))

        def write(tx: Transaction) -> None:
            tx.db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, 0)"
                " ON CONFLICT DO UPDATE SET record = excluded.record, at_ms = excluded.at_ms",
                row,
            )

        return await self._journal.begin(write)

    def mark(self, peer: PeerId, job_id: bytes, attempt: int, what: Counted) -> Also:
        """The write that says that ``what`` of a session was counted, for the transaction that counts it."""
        row = (int(what), self._side, peer, job_id, attempt)

        def write(tx: Transaction) -> None:
            tx.db.execute(
                "UPDATE sessions SET settled = settled | ? WHERE side = ? AND peer = ? AND job_id = ? AND attempt = ?",
                row,
            )

        return write

    async def count(self, mark: Also) -> None:
        """``mark`` alone, where nothing else changes. On its way to the disk when this returns."""
        await self._journal.begin(mark)

    async def drop(self, peer: PeerId, job_id: bytes, attempt: int) -> None:
        """The session is over and forgotten."""
        row = (self._side, peer, job_id, attempt)
        await self._journal.write(
            lambda tx: tx.db.execute(
                "DELETE FROM sessions WHERE side = ? AND peer = ? AND job_id = ? AND attempt = ?", row
            )
        )
