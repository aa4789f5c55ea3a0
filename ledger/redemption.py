"""When and what to redeem: what the broker's words mean, which winners are worth a transaction now, what one costs.

Pure: receipts, rounds and prices are handed in. Wei only, no float. Knows no chain and no journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ledger.ticket import Winner

MAX_BATCH = 50
GAS_FIRST = 110_000  # one ticket alone, before anything was measured
GAS_NEXT = 60_000  # each further ticket of a batch
WORTH = 4  # wait for more tickets while their faces are below so many times the cost ...
URGENT = 4  # ... unless one of them has less than this part of its time left
WEIGHT = 4  # a new measurement counts a quarter


class Outcome(Enum):
    """What a rehearsal's answer means for a ticket."""

    READY = "ready"
    PAID = "paid"
    WAIT = "wait"
    DEAD = "dead"


_PAID = ("ticket is used",)  # the hash names the recipient: whoever redeemed it paid us
_WAIT = (
    "sender deposit and reserve insufficient",
    "sender is unlocked",
    "current round is not initialized",
    "system is paused",
)
_DEAD = (
    "ticket is expired",
    "ticket did not win",
    "invalid signature",
    "INVALID_SIGNATURE_LENGTH",
    "ECDSA: invalid signature",
    "recipientRand does not match",
    "ticket creationRound",
    "invalid length for ticket auxData",
    "null address",
)


def outcome_of(reason: str | None) -> Outcome:
    """None is success. A text that no broker of ours says is taken for a passing trouble of the node."""
    if reason is None:
        return Outcome.READY
    for texts, outcome in ((_PAID, Outcome.PAID), (_WAIT, Outcome.WAIT), (_DEAD, Outcome.DEAD)):
        if any(text in reason for text in texts):
            return outcome
    return Outcome.WAIT


@dataclass(frozen=True, slots=True)
class Costs:
    """What redeeming costs per ticket: measured from own receipts, and before the first from gas and its price."""

    gas_price: int = 0
    per_ticket: int | None = None

    def of(self, tickets: int) -> int:
        """Wei for one transaction that redeems so many, by gas."""
        return self.gas_price * (GAS_FIRST + GAS_NEXT * max(0, tickets - 1))

    def expected(self) -> int:
        """Wei for one ticket in the batches that are really filled: what face values have to carry."""
        return self.of(1) if self.per_ticket is None else self.per_ticket

    def at_price(self, gas_price: int) -> Costs:
        return replace(self, gas_price=gas_price)

    def after(self, cost: int, tickets: int) -> Costs:
        """With one more receipt."""
        each = -(-cost // max(1, tickets))
        if self.per_ticket is None:
            return replace(self, per_ticket=each)
        return replace(self, per_ticket=-(-(self.per_ticket * (WEIGHT - 1) + each) // WEIGHT))


def batch_of(winners: Sequence[Winner], costs: Costs, current_round: int, validity: int) -> tuple[Winner, ...]:
    """The winners to redeem in one transaction now; none while it pays to wait for more.

    Those nearest to their end come first. A face value below what its own place in the batch costs is left out.
    """
    place = costs.of(2) - costs.of(1)
    worthy = sorted((w for w in winners if w.ticket.face_value > place), key=lambda w: w.ticket.creation_round)
    batch = tuple(worthy[:MAX_BATCH])
    if not batch:
        return ()
    faces, cost = sum(w.ticket.face_value for w in batch), costs.of(len(batch))
    left = batch[0].ticket.creation_round + validity - current_round
    urgent = left * URGENT <= validity
    if len(batch) == MAX_BATCH or faces >= WORTH * cost or (urgent and faces > cost):
        return batch
    return ()
