"""The tables of the journal, their version, and how wei lie in them.

Amounts are 16 bytes, big-endian: SQLite's own integers end at 63 bits. Every row of money names its settlement, so
that books of two chains in one file never mix. Knows no meaning of a row; ``ledger/rows.py`` does.
"""

from __future__ import annotations

from ledger.money import MAX_WEI

VERSION = 1
APPLICATION_ID = 0x50415341  # "PASA"
_WEI_BYTES = 16
NO_WEI = "x'" + "00" * _WEI_BYTES + "'"  # wei(0) as SQL writes it

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    # side: 'in' where we are the recipient, 'out' where we are the sender. carried_*: what no row below accounts for
    # any more (pruned) or ever did (adopted from a proof of our own).
    """CREATE TABLE accounts (
        side TEXT NOT NULL CHECK (side IN ('in', 'out')), settlement TEXT NOT NULL, peer BLOB NOT NULL,
        credit BLOB NOT NULL, debit BLOB NOT NULL, sequence INTEGER NOT NULL,
        carried_credit BLOB NOT NULL, carried_debit BLOB NOT NULL, statement BLOB,
        PRIMARY KEY (side, settlement, peer)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE standings (
        side TEXT NOT NULL CHECK (side IN ('in', 'out')), settlement TEXT NOT NULL, peer BLOB NOT NULL,
        level INTEGER NOT NULL, delivered INTEGER NOT NULL, faults INTEGER NOT NULL,
        PRIMARY KEY (side, settlement, peer)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE params_in (
        settlement TEXT NOT NULL, rand_hash BLOB NOT NULL, sender BLOB NOT NULL, ripe_at_ms INTEGER NOT NULL,
        bitmap BLOB NOT NULL, redeemed INTEGER NOT NULL,
        PRIMARY KEY (settlement, rand_hash)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE params_out (
        rand_hash BLOB PRIMARY KEY, digest BLOB NOT NULL, next_nonce INTEGER NOT NULL, dropped INTEGER NOT NULL,
        at_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE payments_in (
        settlement TEXT NOT NULL, sender BLOB NOT NULL, payment_id BLOB NOT NULL, digest BLOB NOT NULL,
        credited BLOB NOT NULL, verdict BLOB NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (settlement, sender, payment_id)) STRICT, WITHOUT ROWID""",
    f"CREATE INDEX payments_in_refused ON payments_in (settlement, sender) WHERE credited = {NO_WEI}",
    """CREATE TABLE payments_out (
        settlement TEXT NOT NULL, recipient BLOB NOT NULL, payment_id BLOB NOT NULL, digest BLOB NOT NULL,
        job_id BLOB NOT NULL, amount BLOB NOT NULL, from_credit BLOB NOT NULL, value BLOB NOT NULL,
        credited BLOB NOT NULL, state TEXT NOT NULL CHECK (state IN ('signed', 'settled', 'refused')),
        payment BLOB NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (settlement, recipient, payment_id)) STRICT, WITHOUT ROWID""",
    "CREATE INDEX payments_out_open ON payments_out (settlement, recipient) WHERE state = 'signed'",
    """CREATE TABLE claims (
        settlement TEXT NOT NULL, recipient BLOB NOT NULL, job_id BLOB NOT NULL, amount BLOB NOT NULL,
        PRIMARY KEY (settlement, recipient, job_id)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE debits (
        side TEXT NOT NULL CHECK (side IN ('in', 'out')), settlement TEXT NOT NULL, peer BLOB NOT NULL,
        job_id BLOB NOT NULL, attempt INTEGER NOT NULL, slice INTEGER NOT NULL, amount BLOB NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (side, settlement, peer, job_id, attempt, slice)) STRICT, WITHOUT ROWID""",
    "CREATE INDEX debits_by_job ON debits (job_id)",
    "CREATE INDEX debits_by_time ON debits (at_ms)",
    """CREATE TABLE winners (
        settlement TEXT NOT NULL, ticket_hash BLOB NOT NULL, sender BLOB NOT NULL, recipient BLOB NOT NULL,
        face BLOB NOT NULL, win_prob BLOB NOT NULL, nonce INTEGER NOT NULL, rand_hash BLOB NOT NULL,
        creation_round INTEGER NOT NULL, creation_round_hash BLOB NOT NULL, signature BLOB NOT NULL,
        rand BLOB NOT NULL, ripe_at_ms INTEGER NOT NULL, tx_hash BLOB, reason TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL CHECK (state IN ('pending', 'submitted', 'confirmed', 'failed')),
        updated_at_ms INTEGER NOT NULL,
        PRIMARY KEY (settlement, ticket_hash)) STRICT, WITHOUT ROWID""",
    "CREATE INDEX winners_by_sender ON winners (settlement, sender, state)",
    "CREATE INDEX winners_by_age ON winners (settlement, state, ripe_at_ms)",
    """CREATE TABLE adopted (
        settlement TEXT NOT NULL, sender BLOB NOT NULL, epoch BLOB NOT NULL, credit BLOB NOT NULL, debit BLOB NOT NULL,
        PRIMARY KEY (settlement, sender, epoch)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE txs (
        chain_id INTEGER NOT NULL, key BLOB NOT NULL, nonce INTEGER NOT NULL, tx_hash BLOB NOT NULL, raw BLOB NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('sent', 'mined', 'dropped')), at_ms INTEGER NOT NULL,
        PRIMARY KEY (chain_id, key, nonce, tx_hash)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE customers (
        customer TEXT PRIMARY KEY, paid_in BLOB NOT NULL, paid_out BLOB NOT NULL, spent BLOB NOT NULL
        ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE jobs (
        job_id BLOB PRIMARY KEY, customer TEXT NOT NULL, free INTEGER NOT NULL, reserved BLOB NOT NULL,
        price BLOB NOT NULL, margin BLOB NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('reserved', 'charged', 'returned')), at_ms INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX jobs_by_customer ON jobs (customer, state)",
)


def wei(amount: int) -> bytes:
    """An amount as a column holds it. Raises ValueError out of bounds (our bug: inputs were bounded before)."""
    if not 0 <= amount <= MAX_WEI:
        raise ValueError(f"{amount} is no amount")
    return amount.to_bytes(_WEI_BYTES, "big")


def of_wei(column: bytes | None) -> int:
    """The amount in a column; 0 for an empty sum."""
    return int.from_bytes(column or b"", "big")


class WeiSum:
    """``wei_sum(column)`` for SQL."""

    def __init__(self) -> None:
        self._total = 0

    def step(self, column: bytes | None) -> None:
        self._total += of_wei(column)

    def finalize(self) -> bytes:
        return self._total.to_bytes(32, "big")
