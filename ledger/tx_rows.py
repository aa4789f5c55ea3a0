"""The journal's memory of transactions: ``TransactionStore`` over its table ``txs``. Knows no node."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ledger.journal import Transaction, Writes
from ledger.txstore import SentTransaction
from p2p.peer import Address


class JournalTransactions:
    """Transactions on disk. What was mined stays confirmed, and its rivals under the nonce replaced."""

    def __init__(self, journal: Writes, wall_time: Callable[[], float] = time.time) -> None:
        self._journal, self._wall_time = journal, wall_time

    async def next_nonce(self, chain_id: int, key: Address) -> int:
        def read(tx: Transaction) -> int:
            row = tx.db.execute(
                "SELECT max(nonce) FROM txs WHERE chain_id = ? AND key = ? AND state IN ('confirmed', 'replaced')",
                (chain_id, key),
            ).fetchone()
            return 0 if row[0] is None else int(row[0]) + 1

        return await self._journal.write(read)

    async def record(self, sent: SentTransaction) -> None:
        row = (sent.chain_id, sent.key, sent.nonce, sent.hash, sent.raw, "sent", int(self._wall_time() * 1000))
        await self._journal.write(lambda tx: self._insert(tx, row))

    async def end(self, sent: SentTransaction, *, mined: bool) -> None:
        mine, others = ("confirmed", "replaced") if mined else ("failed", "failed")
        place = (sent.chain_id, sent.key, sent.nonce)

        def update(tx: Transaction) -> None:
            tx.db.execute(
                "UPDATE txs SET state = CASE WHEN tx_hash = ? THEN ? ELSE ? END"
                " WHERE chain_id = ? AND key = ? AND nonce = ? AND state = 'sent'",
                (sent.hash, mine, others, *place),
            )

        await self._journal.write(update)

    async def open_transactions(self, chain_id: int, key: Address) -> Sequence[SentTransaction]:
        def read(tx: Transaction) -> list[SentTransaction]:
            rows = tx.db.execute(
                "SELECT nonce, raw FROM txs WHERE chain_id = ? AND key = ? AND state = 'sent' ORDER BY nonce, at_ms",
                (chain_id, key),
            ).fetchall()
            return [SentTransaction(chain_id, key, nonce, raw) for nonce, raw in rows]

        return await self._journal.write(read)

    def _insert(self, tx: Transaction, row: tuple[object, ...]) -> None:
        tx.db.execute(
            "INSERT INTO txs VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET state = 'sent' WHERE state = 'failed'",
            row,
        )
