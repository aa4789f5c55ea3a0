"""What can happen to a session: the messages of the job stream as they are, and these events of its own side.

A shell reports everything that it was commanded to do by one of these. Every event may come late, twice, or in
another order. Pure; knows no state.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.jobwire import BlobHave, BlobRef, JobMessage
from p2p.envelope import Signed

# -- the link and the clock, on both sides ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream to the other side is open. ``have``: the chunks of the other side's blobs that are already here."""

    have: tuple[BlobHave, ...] = ()
    rtt_ms: int = 0


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream is gone. No failure yet."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """``wake_at`` was reached, or passed."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The process began anew and this machine was restored: what was commanded last may not have been done."""


@dataclass(frozen=True, slots=True)
class BlobReceived:
    """All chunks of a blob are here and its digest is right."""

    blob: bytes


# -- the seller's own side -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwardJudged:
    """Answer to JudgeAward. An empty ``code`` takes it; ``first`` when this seller gives key and Receipt first.

    ``cover`` is the gateway's credit that no other session of it holds; ``params`` are fresh.
    """

    code: str = ""
    have: int = 0
    need: int = 0
    hint: str = ""
    params: bytes = b""
    cover: int = 0
    first: bool = False


@dataclass(frozen=True, slots=True)
class PaymentJudged:
    """Answer to CreditPayment: the signed verdict, and what now covers this attempt.

    ``cover`` counts what this attempt was debited already, so that an old event can only understate it: the gateway's
    credit, less what its other sessions hold (``Selling.held``), plus this attempt's own debits.
    """

    payment_id: bytes
    verdict: bytes
    cover: int
    params: bytes = b""


@dataclass(frozen=True, slots=True)
class ParamsOffered:
    """Answer to OfferParams."""

    payment_id: bytes
    params: bytes


@dataclass(frozen=True, slots=True)
class Stepped:
    """The worker finished a step of ``steps``."""

    step: int
    steps: int
    eta_ms: int


@dataclass(frozen=True, slots=True)
class PreviewMade:
    """The worker shows what it has."""

    step: int
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SliceWorked:
    """One slice of a streamed result is done; ``params`` are fresh, for the next one."""

    slice: int
    output: BlobRef
    params: bytes = b""


@dataclass(frozen=True, slots=True)
class WorkDone:
    """The result is there, plain, in the seller's hands."""


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """The worker gave up, or was lost."""

    code: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SealMade:
    """Answer to SealArtifacts: the signed Commitment, what travels, and the signed SealKey, still secret."""

    commitment: Signed
    ciphers: tuple[BlobRef, ...]
    key: Signed


@dataclass(frozen=True, slots=True)
class BlobSent:
    """Every chunk of a blob was acknowledged."""

    blob: bytes


@dataclass(frozen=True, slots=True)
class ReceiptSigned:
    """Answer to SignReceipt."""

    receipt: Signed


# -- the buyer's own side --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Awarded:
    """The auction chose. ``params`` are the seller's TicketParams if some are at hand and fresh."""

    params: bytes = b""


@dataclass(frozen=True, slots=True)
class PaymentReady:
    """Answer to Pay: the signed payment, journaled."""

    payment_id: bytes
    payment: bytes


@dataclass(frozen=True, slots=True)
class PaymentDeclined:
    """Other answer to Pay: not under these TicketParams (expired, or from before an unclean start), or not at all.

    An empty ``code`` asks for fresh params; any other ends the attempt.
    """

    payment_id: bytes
    code: str = ""


@dataclass(frozen=True, slots=True)
class PaymentSettled:
    """Answer to SettlePayment, with its ``verdict``: what the seller credited by its signature.

    ``refused`` when it says, signed, that nothing of this payment was or will be credited.
    """

    payment_id: bytes
    verdict: bytes
    credited: int
    refused: bool = False


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The client, or its caller, wants no result any more."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Answer to OpenSeal: digests and Receipt are right, or ``code`` says what is not, with proof."""

    code: str = ""
    proof: bytes = b""


Link = Connected | Disconnected | Ticked | Restarted | BlobReceived
SellerOwn = (
    AwardJudged
    | PaymentJudged
    | ParamsOffered
    | Stepped
    | PreviewMade
    | SliceWorked
    | WorkDone
    | WorkFailed
    | SealMade
    | BlobSent
    | ReceiptSigned
)
BuyerOwn = Awarded | PaymentReady | PaymentDeclined | PaymentSettled | CancelAsked | Opened
Event = JobMessage | Link | SellerOwn | BuyerOwn
