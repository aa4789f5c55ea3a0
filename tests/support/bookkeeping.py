"""Both books of one pair side by side, read from the journals: what they agree on, and what may explain the rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.auditor import audit
from ledger.journal import Transaction
from ledger.schema import WeiSum, of_wei


@dataclass(frozen=True, slots=True)
class BookPair:
    """A gateway's account with a seller, and that seller's with the gateway. ``open_``: signed, no verdict known."""

    sent_credit: int
    sent_debit: int
    open_: int
    got_credit: int
    got_debit: int

    @property
    def agree(self) -> bool:
        """Both say the same of the same money, and nothing is under way."""
        return (self.sent_credit, self.sent_debit, self.open_) == (self.got_credit, self.got_debit, 0)

    @property
    def explained(self) -> bool:
        """The seller may know of payments whose verdict is lost, never of others; it earned at least what we say."""
        return 0 <= self.got_credit - self.sent_credit <= self.open_ and self.sent_debit <= self.got_debit


@contextmanager
def reading(journal: Path) -> Iterator[sqlite3.Connection]:
    """The journal as it is, also of a running node."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        db.create_aggregate("wei_sum", 1, WeiSum)  # type: ignore[arg-type]
        yield db


def book_pair(gateway: Path, seller: Path, gateway_address: bytes, seller_address: bytes) -> BookPair:
    """Both accounts; nothing where there is none yet. The arguments are the two journals and the two addresses."""
    with reading(gateway) as db:
        sent = _account(db, "out", seller_address)
        row = db.execute(
            "SELECT wei_sum(value) FROM payments_out WHERE recipient = ? AND state = 'signed'", (seller_address,)
        ).fetchone()
    with reading(seller) as db:
        got = _account(db, "in", gateway_address)
    return BookPair(*sent, of_wei(row[0]), *got)


def violations(journal: Path) -> tuple[str, ...]:
    """What does not add up inside one journal."""
    with reading(journal) as db:
        return audit(Transaction(db))


def delivered(journal: Path, side: str, peer: bytes) -> int:
    """How many deliveries this node has counted with a counterpart."""
    with reading(journal) as db:
        row = db.execute("SELECT delivered FROM standings WHERE side = ? AND peer = ?", (side, peer)).fetchone()
    return int(row[0]) if row else 0


def faults(journal: Path, side: str, peer: bytes) -> int:
    """How many faults this node has recorded of a counterpart."""
    with reading(journal) as db:
        row = db.execute("SELECT faults FROM standings WHERE side = ? AND peer = ?", (side, peer)).fetchone()
    return int(row[0]) if row else 0


def customer_jobs(journal: Path) -> dict[bytes, tuple[str, int]]:
    """State and price of every job that a customer reserved money for."""
    with reading(journal) as db:
        rows = db.execute("SELECT job_id, state, price FROM jobs").fetchall()
    return {job: (state, of_wei(price)) for job, state, price in rows}


def _account(db: sqlite3.Connection, side: str, peer: bytes) -> tuple[int, int]:
    row = db.execute("SELECT credit, debit FROM accounts WHERE side = ? AND peer = ?", (side, peer)).fetchone()
    return (of_wei(row[0]), of_wei(row[1])) if row else (0, 0)
