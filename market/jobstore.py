"""JobStore: the bids a gateway has taken and not finished, in the journal's own file.

A row is on disk before the first award of its job leaves, and before every further one, so that after a restart no
attempt number is used twice. Knows no session; ``SessionStore`` keeps those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ledger.journal import Begun, Transaction, Writes
from market.bid import Bid
from market.job import Job
from p2p.codec import decode_as, encode
from p2p.errors import MalformedMessage, UnknownMessage
from p2p.peer import PeerId

_TABLE = """CREATE TABLE IF NOT EXISTS bids (
    job_id BLOB PRIMARY KEY, client BLOB NOT NULL, bid BLOB NOT NULL, job BLOB NOT NULL, free INTEGER NOT NULL,
    at_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID"""
MAX_RESTORED = 4096


@dataclass(frozen=True, slots=True)
class TakenBid:
    """A bid as it was taken ``age_ms`` ago, and how far its job has come."""

    job: Job
    client: PeerId
    bid: Bid
    free: bool
    age_ms: int


class JobStore:
    """One row for each job that has no outcome yet."""

    def __init__(self, journal: Writes, wall_time: Callable[[], float]) -> None:
        self._journal, self._wall_time = journal, wall_time

    async def load(self) -> list[TakenBid]:
        """Every bid without an outcome; rows that cannot be read any more are left out. Once, at the start."""
        now_ms = int(self._wall_time() * 1000)

        def read(tx: Transaction) -> list[tuple[bytes, bytes, bytes, int, int]]:
            tx.db.execute(_TABLE)
            query = "SELECT client, bid, job, free, at_ms FROM bids ORDER BY at_ms LIMIT ?"
            return tx.db.execute(query, (MAX_RESTORED,)).fetchall()

        found = []
        for client, data, record, free, at_ms in await self._journal.write(read):
            try:
                bid, job = decode_as(Bid, data), decode_as(Job, record)
            except (MalformedMessage, UnknownMessage):
                continue
            found.append(TakenBid(job, PeerId(client), bid, bool(free), max(0, now_ms - at_ms)))
        return found

    async def put(self, job: Job) -> Begun[None]:
        """How far it has come. On its way to the disk when this returns, before whatever is written later."""
        row = encode(job), job.job_id

        def write(tx: Transaction) -> None:
            tx.db.execute("UPDATE bids SET job = ? WHERE job_id = ?", row)

        return await self._journal.begin(write)

    def row(self, job: Job, client: PeerId, bid: Bid, free: bool) -> Callable[[Transaction], None]:
        """The write of a bid that is taken, for a transaction of somebody else's. The time of the first stays."""
        row = (job.job_id, client, encode(bid), encode(job), int(free), int(self._wall_time() * 1000))
        query = "INSERT INTO bids VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET job = excluded.job"

        def write(tx: Transaction) -> None:
            tx.db.execute(query, row)

        return write

    async def drop(self, job_id: bytes) -> None:
        """The job has its outcome."""
        await self._journal.write(lambda tx: tx.db.execute("DELETE FROM bids WHERE job_id = ?", (job_id,)))
