"""The books of a gateway's customers: credit paid in, reserved for a job, charged once or returned.

A free customer (loopback on a development chain) has no credit and needs none; its jobs are rows all the same, so that
they can be counted. A reservation is closed exactly once, and its close returns what was not charged, in the same
transaction. Knows no result; whoever charges has checked its digest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ledger.journal import Also, Begun, Transaction, Writes, nothing
from ledger.schema import of_wei, wei
from p2p.errors import Refused

MAX_NAME = 128
_RESERVED, _CHARGED, _RETURNED = "reserved", "charged", "returned"


@dataclass(frozen=True, slots=True)
class Balance:
    """A customer's credit: what may still be reserved, and what is."""

    available: int
    reserved: int


@dataclass(frozen=True, slots=True)
class JobMoney:
    """What a job cost its customer: ``price`` is the seller's part, ``margin`` the gateway's."""

    customer: str
    free: bool
    reserved: int
    price: int
    margin: int
    state: str


class CustomerBooks:
    """No job is charged twice, none above its reservation, and no customer below nothing."""

    def __init__(self, journal: Writes, *, wall_time: Callable[[], float] = time.time) -> None:
        self._journal, self._wall_time = journal, wall_time

    async def pay_in(self, customer: str, amount: int) -> Balance:
        """Credit bought: the new balance."""
        _check(customer, amount)
        return await self._journal.write(lambda tx: _move(tx, customer, paid_in=amount))

    async def pay_out(self, customer: str, amount: int) -> Balance:
        """Unused credit withdrawn. Raises Refused NO_CREDIT for more than is available."""
        _check(customer, amount)
        return await self._journal.write(lambda tx: _pay_out(tx, customer, amount))

    async def reserve(
        self,
        job_id: bytes,
        customer: str,
        amount: int,
        *,
        free: bool = False,
        also: Also = nothing,
    ) -> JobMoney:
        """Set ``amount`` aside for a job; again for the same job: what was set aside. Raises Refused NO_CREDIT.

        ``also`` is written in the same transaction while the job is neither charged nor returned.
        """
        return await (await self.begin_reserve(job_id, customer, amount, free=free, also=also)).wait()

    async def begin_reserve(
        self,
        job_id: bytes,
        customer: str,
        amount: int,
        *,
        free: bool = False,
        also: Also = nothing,
    ) -> Begun[JobMoney]:
        """``reserve``, handed in: applied, whatever is written later may build on it."""
        _check(customer, amount)
        now_ms = int(self._wall_time() * 1000)

        def write(tx: Transaction) -> JobMoney:
            money = _reserve(tx, job_id, customer, amount, free, now_ms)
            if money.state == _RESERVED:
                also(tx)
            return money

        return await self._journal.begin(write)

    async def charge(self, job_id: bytes, price: int, margin: int = 0) -> JobMoney:
        """The job was delivered: take its price and margin once, return the rest. Raises Refused when it cannot be."""
        return await self._journal.write(lambda tx: _close(tx, job_id, _CHARGED, price, margin))

    async def give_back(self, job_id: bytes) -> JobMoney:
        """The job came to nothing: return its whole reservation. A charged job stays charged."""
        return await self._journal.write(lambda tx: _close(tx, job_id, _RETURNED, 0, 0))

    async def balance(self, customer: str) -> Balance:
        return await self._journal.write(lambda tx: _balance(tx, customer))

    async def job(self, job_id: bytes) -> JobMoney | None:
        return await self._journal.write(lambda tx: _job(tx, job_id))

    async def open_jobs(self) -> tuple[bytes, ...]:
        """Jobs whose reservation is neither charged nor returned: after a restart, what to finish or give back."""
        return await self._journal.write(_open_jobs)


def _check(customer: str, amount: int) -> None:
    if not 1 <= len(customer) <= MAX_NAME or amount < 0:
        raise ValueError("a customer has a short name, and amounts are not negative")


def _balance(tx: Transaction, customer: str) -> Balance:
    row = tx.db.execute("SELECT paid_in, paid_out, spent FROM customers WHERE customer = ?", (customer,)).fetchone()
    held = 0 if row is None else of_wei(row[0]) - of_wei(row[1]) - of_wei(row[2])
    reserved = tx.db.execute(
        "SELECT wei_sum(reserved) FROM jobs WHERE customer = ? AND state = 'reserved' AND NOT free", (customer,)
    ).fetchone()[0]
    return Balance(held - of_wei(reserved), of_wei(reserved))


def _move(tx: Transaction, customer: str, paid_in: int = 0, paid_out: int = 0, spent: int = 0) -> Balance:
    row = tx.db.execute("SELECT paid_in, paid_out, spent FROM customers WHERE customer = ?", (customer,)).fetchone()
    before = (0, 0, 0) if row is None else tuple(of_wei(column) for column in row)
    now = (wei(b + more) for b, more in zip(before, (paid_in, paid_out, spent), strict=True))
    tx.db.execute("INSERT OR REPLACE INTO customers VALUES (?, ?, ?, ?)", (customer, *now))
    return _balance(tx, customer)


def _pay_out(tx: Transaction, customer: str, amount: int) -> Balance:
    available = _balance(tx, customer).available
    if amount > available:
        raise Refused("NO_CREDIT", "only unreserved credit can be withdrawn", have=available, need=amount)
    return _move(tx, customer, paid_out=amount)


def _job(tx: Transaction, job_id: bytes) -> JobMoney | None:
    row = tx.db.execute(
        "SELECT customer, free, reserved, price, margin, state FROM jobs WHERE job_id = ?", (job_id,)
    ).fetchone()
    if row is None:
        return None
    return JobMoney(row[0], bool(row[1]), of_wei(row[2]), of_wei(row[3]), of_wei(row[4]), row[5])


def _open_jobs(tx: Transaction) -> tuple[bytes, ...]:
    return tuple(row[0] for row in tx.db.execute("SELECT job_id FROM jobs WHERE state = 'reserved' ORDER BY at_ms"))


def _reserve(tx: Transaction, job_id: bytes, customer: str, amount: int, free: bool, now_ms: int) -> JobMoney:
    known = _job(tx, job_id)
    if known is not None:
        if known.customer != customer:
            raise Refused("JOB_TAKEN", "another customer has a job of this id")
        return known
    available = amount if free else _balance(tx, customer).available
    if amount > available:
        raise Refused("NO_CREDIT", "buy credit first", have=available, need=amount)
    tx.db.execute(
        "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (job_id, customer, int(free), wei(amount), wei(0), wei(0), _RESERVED, now_ms),
    )
    return JobMoney(customer, free, amount, 0, 0, _RESERVED)


def _close(tx: Transaction, job_id: bytes, state: str, price: int, margin: int) -> JobMoney:
    job = _job(tx, job_id)
    if job is None:
        raise Refused("JOB_UNKNOWN", "nothing was reserved for it")
    if job.state != _RESERVED:
        if job.state == _RETURNED and state == _CHARGED:
            raise Refused("JOB_CLOSED", "its reservation was returned")
        return job
    if price + margin > job.reserved:
        raise Refused("NO_CREDIT", "more than was reserved", have=job.reserved, need=price + margin)
    tx.db.execute(
        "UPDATE jobs SET state = ?, price = ?, margin = ? WHERE job_id = ?", (state, wei(price), wei(margin), job_id)
    )
    if not job.free and state == _CHARGED:
        _move(tx, job.customer, spent=price + margin)
    return JobMoney(job.customer, job.free, job.reserved, price, margin, state)
