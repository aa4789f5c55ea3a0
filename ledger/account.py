"""Account: cumulative credit and debit of one counterpart pair, and how much that counterpart is trusted with.

Credit is what tickets were worth, debit is what work was worth; both only grow, and the difference is never negative.
A recipient signs its account as a Statement; a sender keeps the newest. Pure values; knows no ticket and no job.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from ledger.money import MAX_WEI, Settlement
from ledger.ticket import Statement
from p2p.errors import Refused
from p2p.peer import Address

NO_PAYMENT = bytes(32)
MAX_LEVEL = 20  # a million small jobs


@dataclass(frozen=True, slots=True)
class Account:
    """0 <= debit <= credit <= MAX_WEI, always; ``sequence`` counts the statements made of it."""

    credit: int = 0
    debit: int = 0
    sequence: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.debit <= self.credit <= MAX_WEI:
            raise ValueError(f"an account of credit {self.credit} and debit {self.debit} cannot be")

    @property
    def balance(self) -> int:
        return self.credit - self.debit

    def credited(self, amount: int) -> Account:
        return replace(self, credit=self.credit + amount)

    def debited(self, amount: int) -> Account:
        """Raises Refused NO_CREDIT rather than to go below nothing."""
        if amount < 0:
            raise ValueError("a debit is no credit")
        if amount > self.balance:
            raise Refused("NO_CREDIT", "the account does not hold that much", have=self.balance, need=amount)
        return replace(self, debit=self.debit + amount)

    def stated(self) -> Account:
        """The account after one more statement."""
        return replace(self, sequence=self.sequence + 1)


NOTHING = Account()


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose account it is: the fixed part of every statement of it."""

    settlement: Settlement
    sender: Address
    recipient: Address

    def statement(
        self,
        account: Account,
        epoch: bytes,
        payment_id: bytes = NO_PAYMENT,
        payment_digest: bytes = NO_PAYMENT,
        credited: int = 0,
    ) -> Statement:
        return Statement(
            self.settlement,
            self.sender,
            self.recipient,
            epoch,
            account.sequence,
            account.credit,
            account.debit,
            payment_id,
            payment_digest,
            credited,
        )

    def matches(self, statement: Statement) -> bool:
        named = (statement.settlement, statement.sender, statement.recipient)
        return named == (self.settlement, self.sender, self.recipient)


class News(Enum):
    """What a statement is beside the last one kept of the same account."""

    NEWER = auto()
    OLD = auto()  # late or repeated: nothing follows from it
    ROLLED_BACK = auto()  # its author forgot what it had signed before


def compare(kept: Statement | None, new: Statement) -> News:
    """A sender's view of a recipient's ``new`` statement. Late arrival alone never counts as a rollback."""
    if kept is None:
        return News.NEWER
    if kept.epoch == new.epoch and new.sequence <= kept.sequence:
        return News.OLD
    shrunk = new.credit < kept.credit or new.debit < kept.debit
    return News.ROLLED_BACK if shrunk else News.NEWER


def adopted(account: Account, epoch: bytes, known: tuple[int, int], proof: Statement) -> Account | None:
    """A recipient's account after it was shown ``proof``, a statement it signed itself and does not remember.

    None when there is nothing to learn. ``known`` is what was adopted from that other epoch before. In our own epoch
    only a sequence we never reached tells of a rollback.
    """
    if proof.epoch == epoch:
        if proof.sequence <= account.sequence:
            return None
        credit, debit = max(account.credit, proof.credit), max(account.debit, proof.debit)
        return Account(max(credit, debit), debit, proof.sequence)
    more_credit, more_debit = proof.credit - known[0], proof.debit - known[1]
    if more_credit < 0 or more_debit < 0 or (more_credit, more_debit) == (0, 0):
        return None
    credit = account.credit + more_credit
    return replace(account, credit=credit, debit=min(account.debit + more_debit, credit))


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a counterpart is trusted: one small job, doubled by each that is delivered, one again after a fault."""

    level: int = 0
    delivered: int = 0
    faults: int = 0

    def limit(self, small_job: int = 1) -> int:
        """The exposure limit, in whatever ``small_job`` is measured in."""
        return small_job << self.level

    def after_delivery(self) -> Standing:
        return replace(self, level=min(self.level + 1, MAX_LEVEL), delivered=self.delivered + 1)

    def after_fault(self) -> Standing:
        return replace(self, level=0, faults=self.faults + 1)
