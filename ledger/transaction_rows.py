"""Chain transactions in the journal: what was signed under which nonce, and which nonces are done.

The store behind ``ledger/transactor.py`` that outlives a restart. Knows no node and no contract.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ledger.journal import Transaction, Writes
from ledger.txstore import SentTransaction
from p2p.peer import Address


class JournalTransactions:
    """No nonce is forgotten between signing and the block that holds it."""

    def __init__(self, journal: Writes, *, wall_time: Callable[[], float] = time.time) -> None:
        self._journal, self._wall_time = journal, wall_time

    async def next_nonce(self, chain_id: int, key: Address) -> int:
        """One above the highest nonce that was mined."""

        def read(tx: Transaction) -> int:
            row = tx.db.execute(
                "SELECT max(nonce) FROM txs WHERE chain_id = ? AND key = ? AND state = 'mined'", (chain_id, key)
            ).fetchone()
            return 0 if row[0] is None else int(row[0]) + 1

        return await self._journal.write(read)

    async def record(self, sent: SentTransaction) -> None:
        """Before it is broadcast; also when the same bytes were dropped before and are tried again."""
        row = (sent.chain_id, sent.key, sent.nonce, sent.hash, sent.raw, int(self._wall_time() * 1000))

        def put(tx: Transaction) -> None:
            tx.db.execute(
                "INSERT INTO txs VALUES (?, ?, ?, ?, ?, 'sent', ?)"
                " ON CONFLICT DO UPDATE SET state = 'sent' WHERE state = 'dropped'",
                row,
            )

        await self._journal.write(put)

    async def end(self, sent: SentTransaction, *, mined: bool) -> None:
        """The nonce is closed: one of its transactions was mined, or none is to be any more."""
        row = ("mined" if mined else "dropped", sent.chain_id, sent.key, sent.nonce)

        def put(tx: Transaction) -> None:
            tx.db.execute("UPDATE txs SET state = ? WHERE chain_id = ? AND key = ? AND nonce = ?", row)

        await self._journal.write(put)

    async def open_transactions(self, chain_id: int, key: Address) -> Sequence[SentTransaction]:
        """Signed and neither mined nor dropped, by nonce."""

        def read(tx: Transaction) -> list[SentTransaction]:
            found = tx.db.execute(
                "SELECT nonce, raw FROM txs WHERE chain_id = ? AND key = ? AND state = 'sent' ORDER BY nonce, at_ms",
                (chain_id, key),
            )
            return [SentTransaction(chain_id, key, nonce, raw) for nonce, raw in found]

        return await self._journal.write(read)
