"""The broker contract's rules, as a seam and as a model in memory.

A broker keeps deposits and reserves of senders, and pays a winning ticket whole or not at all. ``MemoryBroker`` decides
as the contract does, check by check and word for word; simulations settle on it. Time is handed in as ``now``. Knows no
chain; who calls is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ledger.money import Settlement
from ledger.ticket import Ticket, TicketCode, Winner, check_signature, wins
from p2p.errors import Refused
from p2p.peer import Address, keccak256

DEVELOPMENT_CHAINS = range(1_337_000_000, 1_338_000_000)
DAY = 24 * 3600
_NOBODY = Address(bytes(20))
_SIGNATURE_TEXT = {
    TicketCode.SIG_LENGTH: "INVALID_SIGNATURE_LENGTH",
    TicketCode.SIG_HIGH_S: "ECDSA: invalid signature 's' value",
    TicketCode.SIG_V: "ECDSA: invalid signature",
    TicketCode.SIG_SIGNER: "invalid signature over ticket hash",
}


def is_development(chain_id: int) -> bool:
    """Whether a chain is one of ours, whose money is worth nothing: there, and only there, nodes fund themselves."""
    return chain_id in DEVELOPMENT_CHAINS


class Reverted(Refused):
    """A call that the broker refuses; ``text`` is the contract's own word for why. Nothing changed."""

    def __init__(self, text: str) -> None:
        super().__init__("REVERTED", text)
        self.text = text


@dataclass(frozen=True, slots=True)
class BrokerTerms:
    """Seconds of a round, rounds in which a ticket can be redeemed, rounds from unlock to withdrawal."""

    round_length: int = 3600
    validity: int = 7 * 24
    unlock_period: int = 7 * 24

    def round_at(self, now: int) -> int:
        return now // self.round_length


@dataclass(frozen=True, slots=True)
class SenderInfo:
    """A sender's funds. ``withdraw_round`` is 0 unless it unlocks."""

    deposit: int = 0
    reserve: int = 0
    withdraw_round: int = 0


class Broker(Protocol):
    """What a broker does for whom. Every method that changes something raises Reverted, and then nothing changed."""

    terms: BrokerTerms

    def fund(self, sender: Address, deposit: int, reserve: int, now: int, *, by: Address | None = None) -> None: ...
    def unlock(self, sender: Address, now: int) -> None: ...
    def cancel_unlock(self, sender: Address, now: int) -> None: ...
    def withdraw(self, sender: Address, now: int) -> int: ...
    def redeem(self, winner: Winner, now: int) -> None: ...
    def redeem_batch(self, winners: Sequence[Winner], now: int) -> list[bool]: ...
    def withdraw_fees(self, recipient: Address, amount: int, now: int) -> None: ...

    def info(self, sender: Address) -> SenderInfo: ...
    def fees_of(self, recipient: Address) -> int: ...
    def is_used(self, hash_: bytes) -> bool: ...
    def round_hash(self, number: int) -> bytes | None: ...


@dataclass
class MemoryBroker:
    """The contract as a dict. What went in is what senders have, recipients earned and withdrawals took: always."""

    settlement: Settlement
    terms: BrokerTerms = field(default_factory=BrokerTerms)
    senders: dict[Address, SenderInfo] = field(default_factory=dict)
    fees: dict[Address, int] = field(default_factory=dict)
    used: set[bytes] = field(default_factory=set)
    rounds: dict[int, bytes] = field(default_factory=dict)
    paid_in: int = 0
    paid_out: int = 0

    def touch(self, now: int) -> int:
        """The current round, initialised by whoever comes first."""
        number = self.terms.round_at(now)
        seed = f"{self.settlement}/{number}".encode()
        self.rounds.setdefault(number, keccak256(seed))
        return number

    def fund(self, sender: Address, deposit: int, reserve: int, now: int, *, by: Address | None = None) -> None:
        self.touch(now)
        had = self.info(sender)
        kept = had.withdraw_round if by not in (None, sender) else 0
        self.senders[sender] = SenderInfo(had.deposit + deposit, had.reserve + reserve, kept)
        self.paid_in += deposit + reserve

    def unlock(self, sender: Address, now: int) -> None:
        number, had = self.touch(now), self.info(sender)
        _must(had.deposit + had.reserve > 0, "sender deposit and reserve are zero")
        _must(had.withdraw_round == 0, "unlock already initiated")
        self.senders[sender] = replace(had, withdraw_round=number + self.terms.unlock_period)

    def cancel_unlock(self, sender: Address, now: int) -> None:
        self.touch(now)
        _must(self.info(sender).withdraw_round > 0, "no unlock in progress")
        self.senders[sender] = replace(self.info(sender), withdraw_round=0)

    def withdraw(self, sender: Address, now: int) -> int:
        number, had = self.touch(now), self.info(sender)
        _must(had.deposit + had.reserve > 0, "sender deposit and reserve are zero")
        _must(had.withdraw_round > 0, "no unlock in progress")
        _must(number >= had.withdraw_round, "account is locked")
        self.senders[sender] = SenderInfo()
        self.paid_out += had.deposit + had.reserve
        return had.deposit + had.reserve

    def redeem(self, winner: Winner, now: int) -> None:
        """Pay the whole face value, from the deposit first and the reserve then."""
        number = self.touch(now)
        _must((wrong := self._why_not(winner, number)) == "", wrong)
        ticket, had = winner.ticket, self.info(winner.ticket.sender)
        from_deposit = min(ticket.face_value, had.deposit)
        from_reserve = ticket.face_value - from_deposit
        self.senders[ticket.sender] = replace(
            had, deposit=had.deposit - from_deposit, reserve=had.reserve - from_reserve
        )
        self.fees[ticket.recipient] = self.fees_of(ticket.recipient) + ticket.face_value
        self.used.add(winner.ticket_hash)

    def redeem_batch(self, winners: Sequence[Winner], now: int) -> list[bool]:
        """Each on its own: one that fails is passed over. Which were paid."""
        paid = []
        for winner in winners:
            try:
                self.redeem(winner, now)
            except Reverted:
                paid.append(False)
            else:
                paid.append(True)
        return paid

    def withdraw_fees(self, recipient: Address, amount: int, now: int) -> None:
        _must(amount <= self.fees_of(recipient), "insufficient fees to withdraw")
        self.fees[recipient] = self.fees_of(recipient) - amount
        self.paid_out += amount

    def info(self, sender: Address) -> SenderInfo:
        return self.senders.get(sender, SenderInfo())

    def fees_of(self, recipient: Address) -> int:
        return self.fees.get(recipient, 0)

    def is_used(self, hash_: bytes) -> bool:
        return hash_ in self.used

    def round_hash(self, number: int) -> bytes | None:
        return self.rounds.get(number)

    def _why_not(self, winner: Winner, now_round: int) -> str:
        """The first of the contract's checks that fails, in the contract's order; empty when none does."""
        ticket = winner.ticket
        if ticket.recipient == _NOBODY:
            return "ticket recipient is null address"
        if ticket.sender == _NOBODY:
            return "ticket sender is null address"
        if wrong := self._wrong_creation(ticket, now_round):
            return wrong
        if keccak256(winner.rand) != ticket.rand_hash:
            return "recipientRand does not match recipientRandHash"
        if winner.ticket_hash in self.used:
            return "ticket is used"
        code = check_signature(winner.ticket_hash, winner.signature, ticket.sender)
        if code is not TicketCode.OK:
            return _SIGNATURE_TEXT[code]
        if not wins(winner.signature, winner.rand, ticket.win_prob):
            return "ticket did not win"
        funds = self.info(ticket.sender)
        if funds.withdraw_round != 0 and now_round >= funds.withdraw_round:
            return "sender is unlocked"
        if ticket.face_value > funds.deposit + funds.reserve:
            return "sender deposit and reserve insufficient to cover ticket face value"
        return ""

    def _wrong_creation(self, ticket: Ticket, now_round: int) -> str:
        if len(ticket.aux_data) != 64:
            return "invalid length for ticket auxData: must be 64 bytes"
        known = self.rounds.get(ticket.creation_round)
        if known is None:
            return "ticket creationRound does not have a block hash"
        if known != ticket.creation_round_hash:
            return "ticket creationRoundBlockHash invalid for creationRound"
        return "ticket is expired" if ticket.creation_round + self.terms.validity <= now_round else ""


def _must(condition: bool, text: str) -> None:
    if not condition:
        raise Reverted(text)
