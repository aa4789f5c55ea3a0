"""The messages of ``/pasar/job/1``: everything two ends say about one attempt at one job.

Every message names its job and its attempt, so that a late one is recognised for what it is. What belongs to another
family (tickets, their verdicts and parameters, a Receipt) rides inside as the encoding of that family, opaque here,
and keeps its own version. Chunks of blobs (``p2p/blobs.py``) share the stream. Pure; knows no state of a session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from compute.spec import MAX_INPUTS, JobSpec
from ledger.money import Amount, Settlement
from p2p.codec import U32, Hash, JobId, Name, Range, Size, message
from p2p.envelope import Signed, open_from
from p2p.errors import MalformedMessage
from p2p.peer import PeerId

MAX_ATTEMPT = 255
MAX_SLICES = 16
MAX_ARTIFACTS = 16
MAX_ARTIFACT = 2**31
MAX_PREVIEW = 16 * 1024
MAX_DURATION_MS = 24 * 3600 * 1000

# Why something was declined, ended or failed. A code is stable and travels; words for people come with it.
DONE = "DONE"
CANCELLED = "CANCELLED"
DEADLINE = "DEADLINE"  # the bid's deadline passed
LOST = "LOST"  # the connection was gone for longer than the job could wait
SILENT = "SILENT"  # an award without an answer
UNKNOWN = "UNKNOWN"  # a Resume for an attempt that this node never accepted
OTHER_BODY = "OTHER_BODY"  # the same job and attempt with other contents
UNFUNDED = "UNFUNDED"  # no known cover; ``need`` is the deposit
UNCOVERED = "UNCOVERED"  # the payment that the next piece of work needs did not come
UNPAID = "UNPAID"  # sealed, received, and not paid in time
NO_KEY = "NO_KEY"  # paid, connected, and no key in time
WRONG_KEY = "WRONG_KEY"  # a signed key that does not open to what was committed
OVERPRICED = "OVERPRICED"  # asks for more than its own Quote allows
PAYMENT_REFUSED = "PAYMENT_REFUSED"  # replaced as often as allowed, still not credited
FAILED = "FAILED"  # the work failed at the seller
POLICY = "POLICY"  # the operator does not take such jobs: nobody's fault
BUSY = "BUSY"  # no place left: nobody's fault
BAD_INPUT = "BAD_INPUT"  # the caller's mistake, never the seller's

Attempt = Annotated[int, Range(1, MAX_ATTEMPT)]
Code = Annotated[str, Size(1, 32)]
Duration = Annotated[int, Range(0, MAX_DURATION_MS)]
BlobId = Annotated[bytes, Size(16, 16)]
Bitmap = Annotated[bytes, Size(0, MAX_ARTIFACT // 2**20 // 8)]  # a bit per chunk of 1 MiB
Params = Annotated[bytes, Size(0, 2048)]  # encoded TicketParams; empty: none
PaymentBytes = Annotated[bytes, Size(0, 64 * 1024)]  # an encoded Payment; empty: none
VerdictBytes = Annotated[bytes, Size(0, 64 * 1024)]  # the seller's signed verdict on one payment
Slice = Annotated[int, Range(0, MAX_SLICES)]


def blob_id(digest: bytes) -> bytes:
    """The name of a blob on the stream: the head of its digest."""
    return digest[:16]


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes that travel in chunks: their digest and their length."""

    digest: Hash
    size: Annotated[int, Range(0, MAX_ARTIFACT)]

    @property
    def blob(self) -> bytes:
        return blob_id(self.digest)


@dataclass(frozen=True, slots=True)
class BlobHave:
    """Which chunks of a blob have arrived, a bit each, the first chunk in the lowest bit of the first byte."""

    blob: BlobId
    chunks: Bitmap


Haves = Annotated[tuple[BlobHave, ...], Size(0, MAX_ARTIFACTS + MAX_INPUTS)]


@message("award", 2)
@dataclass(frozen=True, slots=True)
class Award:
    """The job goes to you, at your Quote: price, finish and late rate are the Quote's own.

    ``slices`` is 0 for value at the end, sealed until paid, and 1 to 16 for value as it streams. ``deadline_ms`` is
    what is left to the bid's deadline. ``reservation`` is the payment that goes with it, empty when no TicketParams of
    this seller were at hand; it is not part of the award's body.
    """

    job_id: JobId
    attempt: Attempt
    settlement: Settlement
    quote: Signed
    price: Amount
    finish_by_ms: Duration
    late_rate: Amount
    deadline_ms: Duration
    slices: Slice
    spec: JobSpec
    inputs: Annotated[tuple[BlobRef, ...], Size(0, MAX_INPUTS)] = ()
    reservation: PaymentBytes = b""


@message("acceptance", 1)
@dataclass(frozen=True, slots=True)
class Acceptance:
    """The award is taken. ``due`` must be covered before the work starts; ``have`` says which inputs are here."""

    job_id: JobId
    attempt: Attempt
    due: Amount
    params: Params
    have: Haves = ()


@message("job-refusal", 1)
@dataclass(frozen=True, slots=True)
class JobRefusal:
    """The award is declined: why, what there is, what would be needed, and TicketParams for a better try."""

    job_id: JobId
    attempt: Attempt
    code: Code
    have: Amount = 0
    need: Amount = 0
    hint: str = ""
    params: Params = b""


@message("tickets", 1)
@dataclass(frozen=True, slots=True)
class Tickets:
    """A payment. A repeat is byte for byte the same and gets the same verdict; an empty one asks for TicketParams."""

    job_id: JobId
    attempt: Attempt
    payment_id: Hash
    payment: PaymentBytes


@message("tickets-verdict", 1)
@dataclass(frozen=True, slots=True)
class TicketsVerdict:
    """What became of a payment. ``verdict`` is signed; ``need`` is what is still missing for what is due now."""

    job_id: JobId
    attempt: Attempt
    payment_id: Hash
    verdict: VerdictBytes
    need: Amount = 0
    params: Params = b""


@message("start", 1)
@dataclass(frozen=True, slots=True)
class Start:
    """The work has begun: from here on a cancel is not free."""

    job_id: JobId
    attempt: Attempt


@message("progress", 1)
@dataclass(frozen=True, slots=True)
class Progress:
    """A step was done; ``eta_ms`` to the end of the work. Of many in a short time some are left out.

    Step 0, said again as time goes on: a model loads.
    """

    job_id: JobId
    attempt: Attempt
    step: U32
    steps: U32
    eta_ms: Duration


@message("preview", 1)
@dataclass(frozen=True, slots=True)
class Preview:
    """What the result looks like so far, small."""

    job_id: JobId
    attempt: Attempt
    step: U32
    media_type: Name
    data: Annotated[bytes, Size(1, MAX_PREVIEW)]


@message("slice-output", 1)
@dataclass(frozen=True, slots=True)
class SliceOutput:
    """One slice of a streamed result is worked; its bytes follow as a blob. ``total`` is what was charged with it."""

    job_id: JobId
    attempt: Attempt
    slice: Slice
    output: BlobRef
    total: Amount


@message("due", 1)
@dataclass(frozen=True, slots=True)
class Due:
    """``slice`` is not worked before ``amount`` more is covered."""

    job_id: JobId
    attempt: Attempt
    slice: Slice
    amount: Amount
    params: Params


@dataclass(frozen=True, slots=True)
class SealedArtifact:
    """One file of the result, plain as the caller will see it and sealed as it travels."""

    media_type: Name
    plain: BlobRef
    cipher: BlobRef


@message("commitment", 1)
@dataclass(frozen=True, slots=True)
class Commitment:
    """What the seller binds itself to by its signature before it is paid.

    ``price`` is the Quote's price less its late rate for each full second of ``late_ms``.
    """

    job_id: JobId
    attempt: Attempt
    artifacts: Annotated[tuple[SealedArtifact, ...], Size(1, MAX_ARTIFACTS)]
    price: Amount
    late_ms: Duration
    params: Params


@message("seal-key", 1)
@dataclass(frozen=True, slots=True)
class SealKey:
    """The key that opens what was committed. Signed: a wrong one is a fault with proof."""

    job_id: JobId
    attempt: Attempt
    key: Annotated[bytes, Size(32, 32)]


@message("seal", 1)
@dataclass(frozen=True, slots=True)
class Seal:
    """The result is ready and sealed; its bytes follow as blobs. A seller who moves first adds key and Receipt."""

    job_id: JobId
    attempt: Attempt
    commitment: Signed
    key: Signed | None = None
    receipt: Signed | None = None


@message("delivery", 1)
@dataclass(frozen=True, slots=True)
class Delivery:
    """Paid: the key (none for a streamed result, which was never sealed) and the Receipt."""

    job_id: JobId
    attempt: Attempt
    key: Signed | None
    receipt: Signed


@message("cancellation", 1)
@dataclass(frozen=True, slots=True)
class Cancellation:
    """Stop. Free before the start; after it, it costs at most the reservation; after the seal it is too late."""

    job_id: JobId
    attempt: Attempt
    code: Code


@message("resume", 1)
@dataclass(frozen=True, slots=True)
class Resume:
    """A new connection for an old conversation: what the asker has of blobs and slices already."""

    job_id: JobId
    attempt: Attempt
    slices: Slice = 0
    have: Haves = ()


@message("failure", 1)
@dataclass(frozen=True, slots=True)
class Failure:
    """The work ended without a result, and is not paid."""

    job_id: JobId
    attempt: Attempt
    code: Code
    hint: str = ""


@message("closure", 1)
@dataclass(frozen=True, slots=True)
class Closure:
    """This attempt is over on the sender's side. ``cost`` is what a cancelled one was charged."""

    job_id: JobId
    attempt: Attempt
    code: Code
    cost: Amount = 0


FromGateway = Award | Tickets | Cancellation | Resume | Closure
FromOrchestrator = (
    Acceptance
    | JobRefusal
    | TicketsVerdict
    | Start
    | Progress
    | Preview
    | SliceOutput
    | Due
    | Seal
    | Delivery
    | Failure
    | Closure
)
JobMessage = FromGateway | FromOrchestrator


def authenticate(said: JobMessage, seller: PeerId) -> None:
    """Check what ``said`` carries under the seller's signature. The machines take it as checked.

    Raises BadSignature or MalformedMessage when a commitment or key is not the seller's, or not of this attempt. The
    Receipt is checked when the seal is opened.
    """
    if isinstance(said, Seal):
        _same(said, open_from(said.commitment, Commitment, seller))
    if isinstance(said, Seal | Delivery) and said.key is not None:
        _same(said, open_from(said.key, SealKey, seller))


def _same(said: Seal | Delivery, signed: Commitment | SealKey) -> None:
    if (signed.job_id, signed.attempt) != (said.job_id, said.attempt):
        raise MalformedMessage("signed for another attempt")
