"""Rows of the journal that only a recipient has: nonces seen, payments judged, winners, adopted accounts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from ledger.recipient import ParamsUse
from ledger.rows import Rows
from ledger.schema import NO_WEI, of_wei, wei
from ledger.ticket import MAX_NONCE, Ticket, Winner
from p2p.peer import Address

_BITMAP = MAX_NONCE // 8
_WINNER = (
    "recipient, sender, face, win_prob, nonce, rand_hash, creation_round, creation_round_hash, signature, rand,"
    " ripe_at_ms"
)


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A payment that was judged: the digest of its bytes, what it was credited, the verdict's own bytes."""

    digest: bytes
    credited: int
    verdict: bytes


class RecipientRows(Rows):
    """The recipient's rows under one settlement, inside one transaction."""

    def __init__(self, db: sqlite3.Connection, settlement: str) -> None:
        super().__init__(db, settlement, "in")

    def use(self, rand_hash: bytes) -> ParamsUse | None:
        row = self.db.execute(
            "SELECT sender, ripe_at_ms, bitmap, redeemed FROM params_in WHERE settlement = ? AND rand_hash = ?",
            (self.settlement, rand_hash),
        ).fetchone()
        return None if row is None else ParamsUse(row[0], row[1], int.from_bytes(row[2], "big"), bool(row[3]))

    def put_use(self, rand_hash: bytes, use: ParamsUse) -> None:
        bitmap = use.bitmap.to_bytes(_BITMAP, "big")
        self.db.execute(
            "INSERT OR REPLACE INTO params_in VALUES (?, ?, ?, ?, ?, ?)",
            (self.settlement, rand_hash, use.sender, use.ripe_at_ms, bitmap, int(use.redeemed)),
        )

    def verdict(self, sender: Address, payment_id: bytes) -> VerdictRow | None:
        row = self.db.execute(
            "SELECT digest, credited, verdict FROM payments_in WHERE settlement = ? AND sender = ? AND payment_id = ?",
            (self.settlement, sender, payment_id),
        ).fetchone()
        return None if row is None else VerdictRow(row[0], of_wei(row[1]), row[2])

    def put_verdict(self, sender: Address, payment_id: bytes, row: VerdictRow, now_ms: int) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO payments_in VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.settlement, sender, payment_id, row.digest, wei(row.credited), row.verdict, now_ms),
        )

    def refused(self, sender: Address) -> int:
        """How many refused payments of a sender are remembered."""
        row = self.db.execute(
            f"SELECT count(*) FROM payments_in WHERE settlement = ? AND sender = ? AND credited = {NO_WEI}",
            (self.settlement, sender),
        ).fetchone()
        return int(row[0])

    def put_winner(self, winner: Winner, now_ms: int) -> None:
        t = winner.ticket
        self.db.execute(
            "INSERT OR IGNORE INTO winners VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, '', 'pending', ?)",
            (
                self.settlement,
                winner.ticket_hash,
                t.sender,
                t.recipient,
                wei(t.face_value),
                t.win_prob.to_bytes(32, "big"),
                t.nonce,
                t.rand_hash,
                t.creation_round,
                t.creation_round_hash,
                winner.signature,
                winner.rand,
                winner.ripe_at_ms,
                now_ms,
            ),
        )

    def winners(self, state: str, ripe_by_ms: int, most: int) -> tuple[Winner, ...]:
        """Oldest round first: that is the order in which they expire."""
        found = self.db.execute(
            f"SELECT {_WINNER} FROM winners WHERE settlement = ? AND state = ? AND ripe_at_ms <= ?"
            " ORDER BY creation_round, ripe_at_ms LIMIT ?",
            (self.settlement, state, ripe_by_ms, most),
        )
        return tuple(_winner(row) for row in found)

    def move_winners(self, hashes: Iterable[bytes], state: str, tx_hash: bytes, reason: str, now_ms: int) -> None:
        """A winner that was confirmed never moves again."""
        self.db.executemany(
            "UPDATE winners SET state = ?, tx_hash = ?, reason = ?, updated_at_ms = ?"
            " WHERE settlement = ? AND ticket_hash = ? AND state != 'confirmed'",
            [(state, tx_hash or None, reason, now_ms, self.settlement, h) for h in hashes],
        )

    def publish_rands(self, hashes: Iterable[bytes]) -> None:
        """The rand of these winners is about to be on chain: their params are over for good."""
        self.db.executemany(
            "UPDATE params_in SET redeemed = 1 WHERE settlement = ?1 AND rand_hash ="
            " (SELECT rand_hash FROM winners WHERE settlement = ?1 AND ticket_hash = ?2)",
            [(self.settlement, h) for h in hashes],
        )

    def unredeemed(self, sender: Address) -> int:
        """Face values that ``sender``'s cover has yet to pay."""
        found = self.db.execute(  # grouped, since most faces are alike and each that is added here costs a call
            "SELECT face, count(*) FROM winners WHERE settlement = ? AND sender = ?"
            " AND state IN ('pending', 'submitted') GROUP BY face",
            (self.settlement, sender),
        )
        return sum(of_wei(face) * count for face, count in found)

    def taken_since(self, sender: Address, since_ms: int) -> int:
        """Face values that it paid after its cover was last read."""
        row = self.db.execute(
            "SELECT wei_sum(face) FROM winners WHERE settlement = ? AND sender = ? AND state = 'confirmed'"
            " AND updated_at_ms > ?",
            (self.settlement, sender, since_ms),
        ).fetchone()
        return of_wei(row[0])

    def won(self, sender: Address | None) -> int:
        """How many winning tickets there ever were, from one sender or from all."""
        row = self.db.execute(
            "SELECT count(*) FROM winners WHERE settlement = ?1 AND (?2 IS NULL OR sender = ?2)",
            (self.settlement, sender),
        ).fetchone()
        return int(row[0])

    def adopted(self, sender: Address, epoch: bytes) -> tuple[int, int]:
        row = self.db.execute(
            "SELECT credit, debit FROM adopted WHERE settlement = ? AND sender = ? AND epoch = ?",
            (self.settlement, sender, epoch),
        ).fetchone()
        return (0, 0) if row is None else (of_wei(row[0]), of_wei(row[1]))

    def put_adopted(self, sender: Address, epoch: bytes, credit: int, debit: int) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO adopted VALUES (?, ?, ?, ?, ?)",
            (self.settlement, sender, epoch, wei(credit), wei(debit)),
        )


def _winner(row: tuple[bytes, bytes, bytes, bytes, int, bytes, int, bytes, bytes, bytes, int]) -> Winner:
    recipient, sender, face, win_prob, nonce, rand_hash, round_, round_hash, signature, rand, ripe_at_ms = row
    ticket = Ticket(
        Address(recipient),
        Address(sender),
        of_wei(face),
        int.from_bytes(win_prob, "big"),
        nonce,
        rand_hash,
        round_,
        round_hash,
    )
    return Winner(ticket, signature, rand, ripe_at_ms)
