"""SessionStore: the records of sessions that are not over, in the journal's own file.

A record goes to disk in the same journal as the money it speaks of, so that both survive a kill together. What a
record holds is the session's business; this is a table of bytes with a name and an age.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ledger.journal import Transaction, Writes
from p2p.peer import PeerId

_TABLE = """CREATE TABLE IF NOT EXISTS sessions (
    side TEXT NOT NULL CHECK (side IN ('buying', 'selling')), peer BLOB NOT NULL, job_id BLOB NOT NULL,
    attempt INTEGER NOT NULL, record BLOB NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (side, peer, job_id, attempt)) STRICT, WITHOUT ROWID"""
MAX_RESTORED = 4096


@dataclass(frozen=True, slots=True)
class Kept:
    """One session as it was ``age_ms`` ago."""

    peer: PeerId
    job_id: bytes
    attempt: int
    record: bytes
    age_ms: int


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
                "SELECT peer, job_id, attempt, record, at_ms FROM sessions WHERE side = ? ORDER BY at_ms LIMIT ?",
                (self._side, MAX_RESTORED),
            ).fetchall()
            return [Kept(PeerId(p), j, a, r, max(0, now_ms - at)) for p, j, a, r, at in rows]

        return await self._journal.write(read)

    async def put(self, peer: PeerId, job_id: bytes, attempt: int, record: bytes) -> None:
        """On disk when this returns."""
        row = (self._side, peer, job_id, attempt, record, int(self._wall_time() * 1000))
        await self._journal.write(
            lambda tx: tx.db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?)", row)
        )

    async def drop(self, peer: PeerId, job_id: bytes, attempt: int) -> None:
        """The session is over and forgotten."""
        row = (self._side, peer, job_id, attempt)
        await self._journal.write(
            lambda tx: tx.db.execute(
                "DELETE FROM sessions WHERE side = ? AND peer = ? AND job_id = ? AND attempt = ?", row
            )
        )
