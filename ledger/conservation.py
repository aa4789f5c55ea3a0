"""Conservation: no wei comes from nowhere and none is lost, as one pure function over the totals of the journal.

For every counterpart: what payments were credited is the account's credit, what jobs took is its debit, and neither
claims nor spending exceed what there is. For every customer: what is reserved and spent is covered by what was paid
in; unspent credit is a liability. Reads nothing; ``ledger/auditor.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from p2p.errors import Misconfigured
from p2p.peer import Address, address_text


@dataclass(frozen=True, slots=True)
class PairTotals:
    """One account beside the sums of the rows it stands for. ``carried_*``: what rests on no row any more."""

    side: str
    settlement: str
    peer: Address
    credit: int
    debit: int
    payments: int
    debits: int
    carried_credit: int = 0
    carried_debit: int = 0
    claimed: int = 0

    def __str__(self) -> str:
        return f"{self.side} {self.settlement} {address_text(self.peer)}"


@dataclass(frozen=True, slots=True)
class CustomerTotals:
    """One customer's money: paid in, taken out again, spent by its account and by its charged jobs, still reserved."""

    customer: str
    paid_in: int
    paid_out: int
    spent: int
    charged: int
    reserved: int


@dataclass(frozen=True, slots=True)
class WinnerTotals:
    """What one sender's winners say: their number, and how many of them come under params this node never credited."""

    settlement: str
    peer: Address
    orphans: int


class BooksBroken(Misconfigured):
    """The journal contradicts itself. The node stops: to go on would spend money that nobody has."""


def violations(
    pairs: Iterable[PairTotals], customers: Iterable[CustomerTotals] = (), winners: Iterable[WinnerTotals] = ()
) -> tuple[str, ...]:
    """Every broken equation, in words with both numbers; empty when the books are right."""
    found: list[str] = []
    for pair in pairs:
        found.extend(f"{pair}: {text}" for text in _of_pair(pair))
    for customer in customers:
        found.extend(f"customer {customer.customer}: {text}" for text in _of_customer(customer))
    found.extend(
        f"in {w.settlement} {address_text(w.peer)}: {w.orphans} winners of tickets never credited"
        for w in winners
        if w.orphans
    )
    return tuple(found)


def liability(customers: Iterable[CustomerTotals]) -> int:
    """What customers could ask back now, reservations included."""
    return sum(c.paid_in - c.paid_out - c.spent for c in customers)


def _of_pair(pair: PairTotals) -> Iterator[str]:
    numbers = (pair.credit, pair.debit, pair.payments, pair.debits, pair.carried_credit, pair.carried_debit)
    if min(*numbers, pair.claimed) < 0:
        yield "a negative amount"
    if pair.payments + pair.carried_credit != pair.credit:
        yield f"payments of {pair.payments} and {pair.carried_credit} carried where the credit is {pair.credit}"
    if pair.debits + pair.carried_debit != pair.debit:
        yield f"debits of {pair.debits} and {pair.carried_debit} carried where the debit is {pair.debit}"
    if pair.debit > pair.credit:
        yield f"debit {pair.debit} above credit {pair.credit}"
    if pair.claimed > pair.credit - pair.debit:
        yield f"claims of {pair.claimed} on a balance of {pair.credit - pair.debit}"


def _of_customer(customer: CustomerTotals) -> Iterator[str]:
    if min(customer.paid_in, customer.paid_out, customer.spent, customer.charged, customer.reserved) < 0:
        yield "a negative amount"
    if customer.spent != customer.charged:
        yield f"spent {customer.spent} where jobs were charged {customer.charged}"
    held = customer.paid_in - customer.paid_out - customer.spent
    if customer.reserved > held:
        yield f"{customer.reserved} reserved of {held}"
