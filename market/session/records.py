"""What each end of a session remembers, and keeps over a restart: two records, and the states they are in.

A record is journaled as the canonical encoding of itself, under the job id and the attempt. Times are milliseconds of
the machine's own clock and are moved to the new clock when a record is restored. Pure; knows no rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from ledger.money import Amount
from market.jobwire import (
    MAX_ARTIFACTS,
    MAX_SLICES,
    Award,
    BlobHave,
    BlobId,
    BlobRef,
    Code,
    Delivery,
    Duration,
    JobRefusal,
    Params,
    PaymentBytes,
    Progress,
    Seal,
    Slice,
    SliceOutput,
)
from p2p.codec import U32, Hash, Range, Size, message
from p2p.envelope import Signed

Clock = Annotated[int, Range(-(2**62), 2**62)]
MAX_PAYMENTS = 32  # one, 16 slices or two, and what a seller may still miss
Blobs = Annotated[tuple[BlobId, ...], Size(0, 32)]


class SellingState(StrEnum):
    """Where the orchestrator's end is."""

    IDLE = "idle"  # nothing was awarded on this stream yet
    JUDGING = "judging"  # the award is with the shell: Quote, spec, cover
    COVERING = "covering"  # accepted; inputs and first cover are on their way
    WORKING = "working"  # the job, or one slice of it, runs
    PAUSED = "paused"  # a slice is out, the next is not covered
    SEALING = "sealing"  # the result is being sealed (and, moving first, receipted)
    SEALED = "sealed"  # the seal is out, the payment is due
    RECEIPTING = "receipting"  # paid in full, the Receipt is being signed
    DELIVERED = "delivered"  # key or last slice and Receipt are out, and kept for a repeat
    CLOSED = "closed"  # over; everything is answered with why


class BuyingState(StrEnum):
    """Where the gateway's end is."""

    IDLE = "idle"  # the award is not decided yet
    RESERVING = "reserving"  # the reservation is being signed
    AWARDED = "awarded"  # the award is out, no answer yet
    ACCEPTED = "accepted"  # taken; inputs and cover are on their way
    RUNNING = "running"  # the work has begun
    CANCELLING = "cancelling"  # the cancellation is out, its cost is not known yet
    RECEIVING = "receiving"  # sealed; its bytes are coming
    PAYING = "paying"  # the payment is out, the key (or the last verdict) is due
    OPENING = "opening"  # key and bytes are with the shell: digests, Receipt
    CLOSED = "closed"  # over


@message("selling-record", 2)
@dataclass(frozen=True, slots=True)
class SellingRecord:
    """The orchestrator's end. ``debited`` never exceeds the price, and never falls."""

    state: SellingState = SellingState.IDLE
    clock_at: Clock = 0
    connected: bool = False
    award: Award | None = None
    have: Annotated[tuple[BlobHave, ...], Size(0, 32)] = ()  # of the inputs, when the stream was opened
    inputs: Blobs = ()
    params: Params = b""
    first: bool = False  # we give key and Receipt before we are paid
    credited: bool = False  # at least one payment of this attempt was judged
    cover: Amount = 0  # what the gateway has with us for this attempt, our debits included
    debited: Amount = 0
    due: Amount = 0  # what must be covered, beyond what is debited, for the next thing we do
    awarded_at: Clock | None = None
    asked_at: Clock | None = None  # since when ``due`` is asked on a live stream
    kept_at: Clock | None = None  # since when the sealed result, or the key, is kept
    progress: Progress | None = None
    slice: Slice = 0
    outputs: Annotated[tuple[SliceOutput, ...], Size(0, MAX_SLICES)] = ()
    seal: Seal | None = None
    key: Signed | None = None
    receipt: Signed | None = None
    price: Amount = 0  # after lateness, once sealed
    late_ms: Duration = 0
    ciphers: Annotated[tuple[BlobRef, ...], Size(0, MAX_ARTIFACTS)] = ()
    sent: Blobs = ()
    fault: Annotated[Code | None, Size(1, 32)] = None
    code: Annotated[Code | None, Size(1, 32)] = None
    cost: Amount = 0
    refusal: JobRefusal | None = None


@dataclass(frozen=True, slots=True)
class PaymentLine:
    """One payment of an attempt: ``amount`` was decided once; ``payment`` is empty until it is signed."""

    payment_id: Hash
    amount: Amount
    cover: Amount
    params: Params
    payment: PaymentBytes = b""
    need: Amount = 0  # what the seller then still missed
    credited: Amount = 0
    settled: bool = False
    replaced: U32 = 0
    spent: Annotated[tuple[Hash, ...], Size(0, 8)] = ()  # verdicts that it was replaced on: each counts once
    asked: U32 = 0  # how often fresh TicketParams were asked for it

    @property
    def committed(self) -> int:
        """What it takes of the price: all of it, unless the seller's signed verdict left some out."""
        return min(self.credited, self.amount) if self.settled and self.need else self.amount


@message("buying-record", 2)
@dataclass(frozen=True, slots=True)
class BuyingRecord:
    """The gateway's end. What ``payments`` take together never exceeds the award's price."""

    award: Award
    state: BuyingState = BuyingState.IDLE
    clock_at: Clock = 0
    connected: bool = False
    rtt_ms: U32 = 0
    payments: Annotated[tuple[PaymentLine, ...], Size(0, MAX_PAYMENTS)] = ()
    ordinal: U32 = 0  # of the next payment: an id is never used for another amount
    topped: U32 = 0  # payments that were decided because the seller missed something
    params: Params = b""
    awarded_at: Clock | None = None
    lost_at: Clock | None = None
    waited_at: Clock | None = None  # since when the answer to the full payment is awaited on a live stream
    cancelled_at: Clock | None = None
    progress: U32 = 0
    blobs: Blobs = ()  # whole, and their digests right
    outputs: Annotated[tuple[SliceOutput, ...], Size(0, MAX_SLICES)] = ()
    worked: Slice = 0  # slices handed on
    asked: Slice = 0  # the slice for which the seller asked cover last
    asked_amount: Amount = 0
    covered: Slice = 0  # slices for which a payment was decided
    seal: Seal | None = None
    price: Amount = 0  # as the commitment has it
    ciphers: Annotated[tuple[BlobRef, ...], Size(0, MAX_ARTIFACTS)] = ()
    delivery: Delivery | None = None
    paid: bool = False  # the payment for the whole price was decided
    delivered: bool = False
    fault: Annotated[Code | None, Size(1, 32)] = None
    proof: Annotated[bytes, Size(0, 64 * 1024)] = b""
    code: Annotated[Code | None, Size(1, 32)] = None
    debited: Amount = 0
