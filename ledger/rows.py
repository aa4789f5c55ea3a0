"""Rows of the journal that both ends of payment have: accounts, standings, debits.

``Rows`` binds a connection to one side ('in' where we are the recipient, 'out' where we are the sender) and one
settlement. It reads and writes what the pure modules reason about, and reasons about nothing itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ledger.account import NOTHING, Account, Standing
from ledger.schema import of_wei, wei
from p2p.peer import Address

Side = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class DebitKey:
    """What is debited once: one slice of one attempt of a job."""

    job_id: bytes
    attempt: int
    slice_: int


class Rows:
    """One side's rows under one settlement, inside one transaction."""

    side: Side

    def __init__(self, db: sqlite3.Connection, settlement: str, side: Side) -> None:
        self.db, self.settlement, self.side = db, settlement, side

    def account(self, peer: Address) -> Account:
        row = self.db.execute(
            "SELECT credit, debit, sequence FROM accounts WHERE side = ? AND settlement = ? AND peer = ?",
            (self.side, self.settlement, peer),
        ).fetchone()
        return NOTHING if row is None else Account(of_wei(row[0]), of_wei(row[1]), row[2])

    def put_account(self, peer: Address, account: Account) -> None:
        credit, debit, none = wei(account.credit), wei(account.debit), wei(0)
        self.db.execute(
            "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT DO UPDATE"
            " SET credit = excluded.credit, debit = excluded.debit, sequence = excluded.sequence",
            (self.side, self.settlement, peer, credit, debit, account.sequence, none, none),
        )

    def carry(self, peer: Address, credit: int, debit: int) -> None:
        """Note that this much of the account rests on no row any more."""
        where = (self.side, self.settlement, peer)
        row = self.db.execute(
            "SELECT carried_credit, carried_debit FROM accounts WHERE side = ? AND settlement = ? AND peer = ?", where
        ).fetchone()
        self.db.execute(
            "UPDATE accounts SET carried_credit = ?, carried_debit = ? WHERE side = ? AND settlement = ? AND peer = ?",
            (wei(of_wei(row[0]) + credit), wei(of_wei(row[1]) + debit), *where),
        )

    def accounts(self) -> Iterator[tuple[Address, Account]]:
        for peer, credit, debit, sequence in self.db.execute(
            "SELECT peer, credit, debit, sequence FROM accounts WHERE side = ? AND settlement = ?",
            (self.side, self.settlement),
        ):
            yield Address(peer), Account(of_wei(credit), of_wei(debit), sequence)

    def standing(self, peer: Address) -> Standing:
        row = self.db.execute(
            "SELECT level, delivered, faults FROM standings WHERE side = ? AND settlement = ? AND peer = ?",
            (self.side, self.settlement, peer),
        ).fetchone()
        return Standing() if row is None else Standing(*row)

    def put_standing(self, peer: Address, standing: Standing) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO standings VALUES (?, ?, ?, ?, ?, ?)",
            (self.side, self.settlement, peer, standing.level, standing.delivered, standing.faults),
        )

    def standings(self) -> Iterator[tuple[Address, Standing]]:
        for peer, *numbers in self.db.execute(
            "SELECT peer, level, delivered, faults FROM standings WHERE side = ? AND settlement = ?",
            (self.side, self.settlement),
        ):
            yield Address(peer), Standing(*numbers)

    def debit(self, peer: Address, key: DebitKey) -> int | None:
        """What was debited under ``key`` before, None when nothing was."""
        row = self.db.execute(
            "SELECT amount FROM debits WHERE side = ? AND settlement = ? AND peer = ? AND job_id = ? AND attempt = ?"
            " AND slice = ?",
            (self.side, self.settlement, peer, key.job_id, key.attempt, key.slice_),
        ).fetchone()
        return None if row is None else of_wei(row[0])

    def put_debit(self, peer: Address, key: DebitKey, amount: int, now_ms: int) -> None:
        self.db.execute(
            "INSERT INTO debits VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.side, self.settlement, peer, key.job_id, key.attempt, key.slice_, wei(amount), now_ms),
        )

    def debited_for(self, job_id: bytes) -> int:
        """Wei debited for a job, over all its attempts and peers."""
        row = self.db.execute(
            "SELECT wei_sum(amount) FROM debits WHERE side = ? AND settlement = ? AND job_id = ?",
            (self.side, self.settlement, job_id),
        ).fetchone()
        return of_wei(row[0])

    def debited_since(self, since_ms: int) -> int:
        row = self.db.execute(
            "SELECT wei_sum(amount) FROM debits WHERE side = ? AND settlement = ? AND at_ms >= ?",
            (self.side, self.settlement, since_ms),
        ).fetchone()
        return of_wei(row[0])
