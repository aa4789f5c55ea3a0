"""The auditor: adds up the journal against itself, now and then, and stops the node when it contradicts itself.

It also forgets what nobody can ask for any more, and carries the sums of it. It owns no row and decides nothing else.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import trio

from ledger.conservation import BooksBroken, CustomerTotals, PairTotals, WinnerTotals, violations
from ledger.journal import Transaction, Writes
from ledger.rows import Rows, Side
from ledger.schema import NO_WEI, of_wei
from p2p.peer import Address

if TYPE_CHECKING:
    from trio_typing import TaskStatus

EVERY = 60.0
PAUSE_PER_WORK = 100  # adding up takes at most one part in so many of the writer's time
DAY_MS = 24 * 3600 * 1000
KEEP_MS = 30 * DAY_MS


class Auditor:
    """As long as it runs, the books balance."""

    def __init__(self, journal: Writes, *, every: float = EVERY, wall_time: Callable[[], float] = time.time) -> None:
        self._journal, self._every, self._wall_time = journal, every, wall_time

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Raises BooksBroken. Started means that the books balanced once."""
        await self.check()
        task_status.started()
        pause = self._every
        while True:
            await trio.sleep(pause)
            before = trio.current_time()
            await self.check()
            await self.tidy()
            pause = max(self._every, PAUSE_PER_WORK * (trio.current_time() - before))

    async def check(self) -> None:
        """Raises BooksBroken with every broken equation."""
        found = await self._journal.write(audit)
        if found:
            raise BooksBroken("the books do not balance, nothing was paid since: " + "; ".join(found[:10]))

    async def tidy(self) -> None:
        """Forget what is over."""
        now_ms = int(self._wall_time() * 1000)
        await self._journal.write(lambda tx: prune(tx, now_ms))


def audit(tx: Transaction) -> tuple[str, ...]:
    """Every violation in the journal."""
    return violations(list(_pairs(tx.db)), list(_customers(tx.db)), list(_winners(tx.db)))


def prune(tx: Transaction, now_ms: int) -> None:
    """Forget params that are long over, refusals of yesterday, and payments and debits of last month, carried on."""
    tx.db.execute("DELETE FROM params_out WHERE at_ms < ?", (now_ms - 2 * DAY_MS,))
    tx.db.execute(
        "DELETE FROM params_in WHERE ripe_at_ms < ? AND NOT EXISTS (SELECT 1 FROM winners WHERE"
        " winners.settlement = params_in.settlement AND winners.rand_hash = params_in.rand_hash"
        " AND winners.state IN ('pending', 'submitted'))",
        (now_ms - 2 * DAY_MS,),
    )
    tx.db.execute(f"DELETE FROM payments_in WHERE at_ms < ? AND credited = {NO_WEI}", (now_ms - DAY_MS,))
    tx.db.execute("DELETE FROM payments_out WHERE at_ms < ? AND state = 'refused'", (now_ms - DAY_MS,))
    # No answer in a day: written off. It is never replaced, for its tickets may still be drawn.
    tx.db.execute("UPDATE payments_out SET state = 'settled' WHERE at_ms < ? AND state = 'signed'", (now_ms - DAY_MS,))
    tx.db.execute("DELETE FROM jobs WHERE at_ms < ? AND free AND state != 'reserved'", (now_ms - KEEP_MS,))
    tx.db.execute(
        "DELETE FROM winners WHERE updated_at_ms < ? AND state IN ('confirmed', 'failed')", (now_ms - KEEP_MS,)
    )
    _carry(tx.db, "in", "payments_in", "sender", "credited", "", now_ms - KEEP_MS)
    _carry(tx.db, "out", "payments_out", "recipient", "credited", " AND state = 'settled'", now_ms - KEEP_MS)
    _carry(tx.db, "in", "debits", "peer", "amount", " AND side = 'in'", now_ms - KEEP_MS)
    _carry(tx.db, "out", "debits", "peer", "amount", " AND side = 'out'", now_ms - KEEP_MS)


def _carry(db: sqlite3.Connection, side: Side, table: str, peer: str, amount: str, where: str, before: int) -> None:
    """Fold the rows of one table that are older than ``before`` into their accounts."""
    found = db.execute(
        f"SELECT settlement, {peer}, wei_sum({amount}) FROM {table} WHERE at_ms < ?{where} GROUP BY 1, 2", (before,)
    ).fetchall()
    for settlement, address, total in found:
        sums = (0, of_wei(total)) if table == "debits" else (of_wei(total), 0)
        Rows(db, settlement, side).carry(Address(address), *sums)
    db.execute(f"DELETE FROM {table} WHERE at_ms < ?{where}", (before,))


def _pairs(db: sqlite3.Connection) -> Iterator[PairTotals]:
    """Every account beside the sums of its rows; rows without an account show as an account of nothing."""
    paid = {
        ("in", s, p): of_wei(t)
        for s, p, t in db.execute("SELECT settlement, sender, wei_sum(credited) FROM payments_in GROUP BY 1, 2")
    } | {
        ("out", s, p): of_wei(t)
        for s, p, t in db.execute("SELECT settlement, recipient, wei_sum(credited) FROM payments_out GROUP BY 1, 2")
    }
    taken = _sums(db, "SELECT side, settlement, peer, wei_sum(amount) FROM debits GROUP BY 1, 2, 3")
    claimed = _sums(db, "SELECT 'out', settlement, recipient, wei_sum(amount) FROM claims GROUP BY 2, 3")
    accounts = {
        (row[0], row[1], row[2]): [of_wei(column) for column in row[3:]]
        for row in db.execute(
            "SELECT side, settlement, peer, credit, debit, carried_credit, carried_debit FROM accounts"
        )
    }
    for key in sorted(accounts.keys() | paid.keys() | taken.keys() | claimed.keys()):
        credit, debit, *carried = accounts.get(key, [0, 0, 0, 0])
        rows = (paid.get(key, 0), taken.get(key, 0), *carried, claimed.get(key, 0))
        yield PairTotals(key[0], key[1], Address(key[2]), credit, debit, *rows)


def _sums(db: sqlite3.Connection, query: str) -> dict[tuple[str, str, bytes], int]:
    return {(side, settlement, peer): of_wei(total) for side, settlement, peer, total in db.execute(query)}


def _customers(db: sqlite3.Connection) -> Iterator[CustomerTotals]:
    kept = {row[0]: [of_wei(column) for column in row[1:]] for row in db.execute("SELECT * FROM customers")}
    jobs: dict[str, list[int]] = {}
    for customer, state, reserved, price, margin in db.execute(
        "SELECT customer, state, wei_sum(reserved), wei_sum(price), wei_sum(margin) FROM jobs"
        " WHERE NOT free GROUP BY 1, 2"
    ):
        sums = jobs.setdefault(customer, [0, 0])
        sums[0] += of_wei(price) + of_wei(margin)
        sums[1] += of_wei(reserved) if state == "reserved" else 0
    for customer in sorted(kept.keys() | jobs.keys()):
        yield CustomerTotals(customer, *kept.get(customer, [0, 0, 0]), *jobs.get(customer, [0, 0]))


def _winners(db: sqlite3.Connection) -> Iterator[WinnerTotals]:
    for settlement, sender, orphans in db.execute(
        "SELECT settlement, sender, count(*) FROM winners w WHERE state = 'pending' AND NOT EXISTS"
        " (SELECT 1 FROM params_in p WHERE p.settlement = w.settlement AND p.rand_hash = w.rand_hash) GROUP BY 1, 2"
    ):
        yield WinnerTotals(settlement, Address(sender), orphans)
