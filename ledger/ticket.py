"""Tickets: signed chances of money, bit for bit those of Livepeer's TicketBroker, and the messages that carry them.

A ticket's hash, signature and draw follow the contract (packed fields, EIP-191 over the hash, low s, v of 27 or 28).
Everything here is arithmetic on bytes: it keeps no nonce, no balance and no clock, and it knows no job.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Annotated

import coincurve

from ledger.money import Amount, Settlement
from p2p.codec import MAX_INT, U32, U64, Hash, Range, Signature, Size, encode, message
from p2p.envelope import Signed, digest_of
from p2p.peer import Address, WireAddress, keccak256

CERTAIN = 2**256 - 1  # the win probability is a numerator over this: here every ticket wins
MAX_BATCH = 100
MAX_NONCE = 1024  # tickets under one recipient rand
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_EIP191 = b"\x19Ethereum Signed Message:\n32"
_ZERO_HASH = bytes(32)

Probability = Annotated[int, Range(0, CERTAIN)]


class TicketCode(StrEnum):
    """What became of a ticket. The names are stable: they travel, and they are what a refusal is looked up by."""

    OK = "OK"
    SETTLEMENT_MISMATCH = "SETTLEMENT_MISMATCH"
    RECIPIENT_MISMATCH = "RECIPIENT_MISMATCH"
    SENDER_ZERO = "SENDER_ZERO"
    SENDER_UNFUNDED = "SENDER_UNFUNDED"
    SENDER_UNLOCKING = "SENDER_UNLOCKING"
    ROUND_UNKNOWN = "ROUND_UNKNOWN"
    ROUND_HASH_MISMATCH = "ROUND_HASH_MISMATCH"
    ROUND_EXPIRED = "ROUND_EXPIRED"
    PARAMS_EXPIRED = "PARAMS_EXPIRED"
    PARAMS_NOT_MINE = "PARAMS_NOT_MINE"
    PARAMS_REDEEMED = "PARAMS_REDEEMED"
    PARAMS_DROPPED = "PARAMS_DROPPED"
    FACE_OUT_OF_RANGE = "FACE_OUT_OF_RANGE"
    WINPROB_OUT_OF_RANGE = "WINPROB_OUT_OF_RANGE"
    NONCE_REPLAY = "NONCE_REPLAY"
    NONCE_EXHAUSTED = "NONCE_EXHAUSTED"
    SIG_LENGTH = "SIG_LENGTH"
    SIG_V = "SIG_V"
    SIG_HIGH_S = "SIG_HIGH_S"
    SIG_SIGNER = "SIG_SIGNER"
    FLOAT_EXCEEDED = "FLOAT_EXCEEDED"
    BATCH_TOO_LARGE = "BATCH_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The seven fields that the contract hashes; ``aux_data`` is made of the last two."""

    recipient: Address
    sender: Address
    face_value: int
    win_prob: int
    nonce: int
    rand_hash: bytes
    creation_round: int
    creation_round_hash: bytes

    @property
    def aux_data(self) -> bytes:
        """Round and block hash, 64 bytes; nothing at all when both are zero."""
        if self.creation_round == 0 and self.creation_round_hash == _ZERO_HASH:
            return b""
        return self.creation_round.to_bytes(32, "big") + self.creation_round_hash


def ticket_hash(ticket: Ticket) -> bytes:
    """keccak256 of the packed fields: the name of the ticket on chain."""
    before, after = _around_nonce(ticket)
    return keccak256(before + ticket.nonce.to_bytes(32, "big") + after)


def signing_digest(hash_: bytes) -> bytes:
    """The 32 bytes that a ticket's signature covers: EIP-191 over its hash."""
    return keccak256(_EIP191 + hash_)


def wins(signature: bytes, rand: bytes, win_prob: int) -> bool:
    """The draw: strictly below the win probability."""
    return int.from_bytes(keccak256(signature + rand), "big") < win_prob


def expected_value(face_value: int, win_prob: int) -> Fraction:
    """What one ticket is worth on average, exactly."""
    return Fraction(face_value * win_prob, CERTAIN)


def ticket_value(face_value: int, win_prob: int) -> int:
    """Whole wei that one ticket is credited with: its expected value, rounded down per ticket."""
    return face_value * win_prob // CERTAIN


def win_prob_for(face_value: int, value: int) -> int:
    """The least win probability whose ``ticket_value`` is ``value``; at most certainty."""
    if not 0 <= value <= face_value:
        raise ValueError("a ticket is worth between nothing and its face value")
    return 0 if face_value == 0 else -(-value * CERTAIN // face_value)


def check_signature(hash_: bytes, signature: bytes, sender: Address) -> TicketCode:
    """OK, or the first reason for which the contract would refuse this signature. Always recovers: v is in the draw."""
    if len(signature) != 65:
        return TicketCode.SIG_LENGTH
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return TicketCode.SIG_HIGH_S
    if signature[64] not in (27, 28):
        return TicketCode.SIG_V
    compact = signature[:64] + bytes([signature[64] - 27])
    try:
        key = coincurve.PublicKey.from_signature_and_message(compact, signing_digest(hash_), hasher=None)
    except Exception:  # coincurve raises plain Exception and ValueError on bytes that are no signature
        return TicketCode.SIG_SIGNER
    signer = keccak256(key.format(compressed=False)[1:])[12:]
    return TicketCode.OK if signer == sender else TicketCode.SIG_SIGNER


@message("ticket-params", 1)
@dataclass(frozen=True, slots=True)
class TicketParams:
    """What a recipient asks tickets to look like. ``rand_hash`` names them.

    They live for ``lives_for_ms`` from their arrival on the sender's clock. ``seed`` means something to its
    recipient alone, who derives the rand from it and from every field here.
    """

    settlement: Settlement
    recipient: WireAddress
    face_value: Amount
    win_prob: Probability
    rand_hash: Hash
    seed: Annotated[bytes, Size(32, 32)]
    creation_round: U64
    creation_round_hash: Hash
    lives_for_ms: Annotated[int, Range(1, 24 * 3600 * 1000)]

    @property
    def params_id(self) -> bytes:
        return self.rand_hash

    @property
    def value(self) -> int:
        """Whole wei that each ticket under these params is credited with."""
        return ticket_value(self.face_value, self.win_prob)

    def ticket(self, sender: Address, nonce: int) -> Ticket:
        """The ticket that ``sender`` signs under ``nonce``."""
        return Ticket(
            self.recipient,
            sender,
            self.face_value,
            self.win_prob,
            nonce,
            self.rand_hash,
            self.creation_round,
            self.creation_round_hash,
        )

    def hashes(self, sender: Address, nonces: tuple[int, ...]) -> tuple[bytes, ...]:
        """``ticket_hash`` of many tickets that differ in their nonce alone, packed once."""
        before, after = _around_nonce(self.ticket(sender, 0))
        return tuple(keccak256(before + nonce.to_bytes(32, "big") + after) for nonce in nonces)


@dataclass(frozen=True, slots=True)
class SignedNonce:
    """One ticket of a batch: all the rest is in the params."""

    nonce: U32
    signature: Signature


@message("payment", 1)
@dataclass(frozen=True, slots=True)
class Payment:
    """Tickets under one set of params. No tickets at all when credit already covers the amount."""

    payment_id: Hash
    params: TicketParams
    tickets: Annotated[tuple[SignedNonce, ...], Size(0, MAX_BATCH)]

    @property
    def value(self) -> int:
        """Wei that it credits when every ticket is good."""
        return self.params.value * len(self.tickets)


@message("statement", 1)
@dataclass(frozen=True, slots=True)
class Statement:
    """A recipient's signed cumulative account with one sender, as of ``sequence`` in one life of its database.

    It names the payment it answers (zeros when none) and what that was credited: a signed zero is the leave to
    replace a payment.
    """

    settlement: Settlement
    sender: WireAddress
    recipient: WireAddress
    epoch: Annotated[bytes, Size(16, 16)]
    sequence: U64
    credit: Amount
    debit: Amount
    payment_id: Hash
    payment_digest: Hash
    credited: Amount


@message("payment-verdict", 1)
@dataclass(frozen=True, slots=True)
class PaymentVerdict:
    """A recipient's answer to a payment: a code per ticket, in its order, and the account that follows from it.

    ``balance`` is what the sender has, ``need`` what a refusal asks for (0 when nothing); ``params`` are fresh ones
    when the old will not serve again.
    """

    payment_id: Hash
    codes: Annotated[tuple[TicketCode, ...], Size(0, MAX_BATCH)]
    credited: Amount
    balance: Amount
    need: Amount
    params: TicketParams | None
    statement: Signed


@dataclass(frozen=True, slots=True)
class Winner:
    """A winning ticket with all that its redemption takes. ``ripe_at_ms`` (calendar): its params are over by then."""

    ticket: Ticket
    signature: bytes
    rand: bytes
    ripe_at_ms: int

    @property
    def ticket_hash(self) -> bytes:
        return ticket_hash(self.ticket)


def payment_id(job_id: bytes, attempt: int, slice_: int, turn: int = 0) -> bytes:
    """The name of one payment for one part of one attempt; ``turn`` counts top-ups after a partial credit."""
    numbers = b"".join(n.to_bytes(4, "big") for n in (attempt, slice_, turn))
    return keccak256(b"pasar/payment-id/1\0" + len(job_id).to_bytes(4, "big") + job_id + numbers)


def payment_digest(payment: Payment) -> bytes:
    """The name of one payment's very bytes."""
    return digest_of(payment)


def payment_bytes(payment: Payment) -> bytes:
    """A payment as it is journaled and sent: always the same bytes."""
    return encode(payment)


def _around_nonce(ticket: Ticket) -> tuple[bytes, bytes]:
    if not (0 <= ticket.face_value <= MAX_INT and 0 <= ticket.win_prob <= MAX_INT):
        raise ValueError("face value and win probability are 256-bit numbers")
    head = (
        ticket.recipient + ticket.sender + ticket.face_value.to_bytes(32, "big") + ticket.win_prob.to_bytes(32, "big")
    )
    return head, ticket.rand_hash + ticket.aux_data
