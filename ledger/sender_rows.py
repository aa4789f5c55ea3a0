"""Rows of the journal that only a sender has: params it signed under, payments it signed, claims on its credit."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from ledger.rows import Rows
from ledger.schema import of_wei, wei
from ledger.sender import ParamsSeen, Plan, Purse
from ledger.ticket import Payment, Statement, payment_bytes, payment_digest
from p2p.codec import decode_as
from p2p.envelope import Signed
from p2p.peer import Address

SIGNED, SETTLED, REFUSED = "signed", "settled", "refused"


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment as it was signed, and what became of it."""

    digest: bytes
    job_id: bytes
    amount: int
    from_credit: int
    value: int
    credited: int
    state: str
    payment: bytes


class SenderRows(Rows):
    """The sender's rows under one settlement, inside one transaction."""

    def __init__(self, db: sqlite3.Connection, settlement: str) -> None:
        super().__init__(db, settlement, "out")

    def params(self, rand_hash: bytes) -> ParamsSeen | None:
        row = self.db.execute(
            "SELECT digest, next_nonce, dropped FROM params_out WHERE rand_hash = ?", (rand_hash,)
        ).fetchone()
        return None if row is None else ParamsSeen(row[0], row[1], bool(row[2]))

    def put_params(self, rand_hash: bytes, seen: ParamsSeen, now_ms: int) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO params_out VALUES (?, ?, ?, ?, ?)",
            (rand_hash, seen.digest, seen.next_nonce, int(seen.dropped), now_ms),
        )

    def payment(self, recipient: Address, payment_id: bytes) -> PaymentRow | None:
        row = self.db.execute(
            "SELECT digest, job_id, amount, from_credit, value, credited, state, payment FROM payments_out"
            " WHERE settlement = ? AND recipient = ? AND payment_id = ?",
            (self.settlement, recipient, payment_id),
        ).fetchone()
        if row is None:
            return None
        amount, from_credit, value, credited = (of_wei(column) for column in row[2:6])
        return PaymentRow(row[0], row[1], amount, from_credit, value, credited, row[6], row[7])

    def put_payment(self, recipient: Address, payment: Payment, plan: Plan, job_id: bytes, now_ms: int) -> None:
        amounts = (wei(plan.amount), wei(plan.from_credit), wei(plan.value), wei(0))
        self.db.execute(
            "INSERT OR REPLACE INTO payments_out VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.settlement,
                recipient,
                payment.payment_id,
                payment_digest(payment),
                job_id,
                *amounts,
                SIGNED,
                payment_bytes(payment),
                now_ms,
            ),
        )

    def open_payments(self, recipient: Address) -> list[tuple[bytes, int, int]]:
        """Id, value and age stamp of every payment that has no verdict yet."""
        found = self.db.execute(
            "SELECT payment_id, value, at_ms FROM payments_out"
            " WHERE settlement = ? AND recipient = ? AND state = 'signed'",
            (self.settlement, recipient),
        )
        return [(payment_id, of_wei(value), at_ms) for payment_id, value, at_ms in found]

    def close_payment(self, recipient: Address, payment_id: bytes, state: str, credited: int) -> None:
        self.db.execute(
            "UPDATE payments_out SET state = ?, credited = ? WHERE settlement = ? AND recipient = ? AND payment_id = ?",
            (state, wei(credited), self.settlement, recipient, payment_id),
        )

    def claim(self, recipient: Address, job_id: bytes) -> int:
        row = self.db.execute(
            "SELECT amount FROM claims WHERE settlement = ? AND recipient = ? AND job_id = ?",
            (self.settlement, recipient, job_id),
        ).fetchone()
        return 0 if row is None else of_wei(row[0])

    def put_claim(self, recipient: Address, job_id: bytes, amount: int) -> None:
        where = (self.settlement, recipient, job_id)
        if amount:
            self.db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", (*where, wei(amount)))
        else:
            self.db.execute("DELETE FROM claims WHERE settlement = ? AND recipient = ? AND job_id = ?", where)

    def purse(self, recipient: Address) -> Purse:
        where = (self.settlement, recipient)
        claimed = self.db.execute(
            "SELECT wei_sum(amount) FROM claims WHERE settlement = ? AND recipient = ?", where
        ).fetchone()[0]
        flying = self.db.execute(
            "SELECT wei_sum(value) FROM payments_out WHERE settlement = ? AND recipient = ? AND state = 'signed'", where
        ).fetchone()[0]
        kept = self.statement(recipient)
        stated = None if kept is None else max(0, kept.credit - kept.debit)
        return Purse(self.account(recipient), of_wei(claimed), of_wei(flying), stated)

    def signed_statement(self, recipient: Address) -> bytes | None:
        row = self.db.execute(
            "SELECT statement FROM accounts WHERE side = 'out' AND settlement = ? AND peer = ?",
            (self.settlement, recipient),
        ).fetchone()
        return None if row is None else row[0]

    def statement(self, recipient: Address) -> Statement | None:
        """The newest statement kept; its signature was checked when it came."""
        kept = self.signed_statement(recipient)
        return None if kept is None else decode_as(Statement, decode_as(Signed, kept).payload)

    def put_statement(self, recipient: Address, signed: bytes) -> None:
        self.db.execute(
            "UPDATE accounts SET statement = ? WHERE side = 'out' AND settlement = ? AND peer = ?",
            (signed, self.settlement, recipient),
        )
