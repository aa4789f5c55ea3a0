"""What a light client and a gateway say on ``/pasar/bid/1``, one stream for each job.

    client   Hello, AskModels | Bid, Chunk... of its inputs, CancelBid, ChunkAck..., Thanks
    gateway  Hello, ModelsOnOffer, Refusal | BidTaken, SendInputs, JobNews and JobPreview...,
             JobDone + artifacts | JobFailed | BidCancelled

A bid is idempotent by its job id: the same bid on a new stream picks the job up where it is. Messages only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from compute.spec import MAX_INPUTS
from ledger.money import Amount
from market.jobwire import MAX_PREVIEW, BlobHave
from p2p.codec import U32, Hash, JobId, Name, Range, Size, message
from p2p.peer import WirePeer

MAX_ARTIFACTS = 16
MAX_TRIED = 32
MAX_MODELS_LISTED = 64


class News(StrEnum):
    """What happened to a job; the words that ``--json`` progress shows."""

    AUCTION = "auction"  # an auction began; ``wei`` is the limit
    QUOTED = "quoted"  # a quote arrived; ``wei`` is its price
    AWARDED = "awarded"  # ``orchestrator`` has the job; ``wei`` is its price
    STARTED = "started"  # the work began
    STEP = "step"  # ``step`` of ``steps`` is done
    SEALED = "sealed"  # the result is made and sealed
    PAID = "paid"  # tickets were credited; ``wei`` is their expected value
    OPENED = "opened"  # the key came and fits
    RETRIED = "retried"  # that attempt ended without a result; a new auction follows


@message("ask-models", 1)
@dataclass(frozen=True, slots=True)
class AskModels:
    """Which models of ``pipeline`` are on offer now?"""

    pipeline: Name


@dataclass(frozen=True, slots=True)
class ModelOnOffer:
    """One model as the gateway's book has it: how many offers, the cheapest in wei per million units."""

    name: Name
    model: Hash
    native_side: U32
    max_side: U32
    max_steps: U32
    offers: U32
    warm: U32
    cheapest: Amount


@message("models-on-offer", 1)
@dataclass(frozen=True, slots=True)
class ModelsOnOffer:
    """The models of one pipeline, the most offered first."""

    pipeline: Name
    models: Annotated[tuple[ModelOnOffer, ...], Size(0, MAX_MODELS_LISTED)]


@message("bid-taken", 1)
@dataclass(frozen=True, slots=True)
class BidTaken:
    """The gateway works on it. ``limit_chosen`` when the bid named no limit and the gateway took one."""

    job_id: JobId
    limit: Amount
    limit_chosen: bool
    deadline_ms: U32


@message("send-inputs", 1)
@dataclass(frozen=True, slots=True)
class SendInputs:
    """The inputs of this bid, please, in chunks under the head of their digest; ``have`` says what is here already.

    Said again on a new stream, as long as something is missing. No auction begins before everything is here.
    """

    job_id: JobId
    have: Annotated[tuple[BlobHave, ...], Size(0, MAX_INPUTS)]


@message("job-news", 1)
@dataclass(frozen=True, slots=True)
class JobNews:
    """One event on the way of a job; unused numbers are 0. ``eta_ms`` until the work is done, 0 when not known."""

    job_id: JobId
    event: News
    orchestrator: WirePeer | None = None
    step: U32 = 0
    steps: U32 = 0
    wei: Amount = 0
    eta_ms: U32 = 0


@message("job-preview", 1)
@dataclass(frozen=True, slots=True)
class JobPreview:
    """What the result looks like after ``step`` steps, for a bid that asked: a small picture, as its seller made it.

    Of several in a short time the newest is told.
    """

    job_id: JobId
    step: U32
    data: Annotated[bytes, Size(1, MAX_PREVIEW)]


@dataclass(frozen=True, slots=True)
class ArtifactHead:
    """One file of the result, which follows in chunks under ``blob``. ``digest`` is SHA-256 of the plain bytes."""

    blob: Annotated[bytes, Size(16, 16)]
    media_type: Annotated[str, Size(1, 64)]
    size: Annotated[int, Range(1, 2**31)]
    digest: Hash


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time of a job went, in milliseconds, as the gateway measured it."""

    auction: U32
    queue: U32
    run: U32
    transfer: U32


@message("job-done", 1)
@dataclass(frozen=True, slots=True)
class JobDone:
    """The job is delivered. ``receipt`` is the countersigned Receipt; ``tried`` are all winners in order, last one won.

    ``price`` is the winner's quote, ``paid`` the expected value of the tickets credited for it, rounded down.
    """

    job_id: JobId
    orchestrator: WirePeer
    tried: Annotated[tuple[WirePeer, ...], Size(1, MAX_TRIED)]
    price: Amount
    paid: Amount
    limit: Amount
    spent: Spent
    receipt: Annotated[bytes, Size(1, 32 * 1024)]
    artifacts: Annotated[tuple[ArtifactHead, ...], Size(1, MAX_ARTIFACTS)]


@message("job-failed", 1)
@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job ended without a result; ``charged`` is what the customer lost by it (0 unless it cancelled)."""

    job_id: JobId
    code: Annotated[str, Size(1, 32)]
    hint: Annotated[str, Size(0, 512)]
    tried: Annotated[tuple[WirePeer, ...], Size(0, MAX_TRIED)]
    charged: Amount


@message("cancel-bid", 1)
@dataclass(frozen=True, slots=True)
class CancelBid:
    """The client wants it no more; answered with BidCancelled, or JobDone when it was too late."""

    job_id: JobId


@message("bid-cancelled", 1)
@dataclass(frozen=True, slots=True)
class BidCancelled:
    """``charged`` is what the customer pays for work already done, in wei."""

    job_id: JobId
    charged: Amount


@message("thanks", 1)
@dataclass(frozen=True, slots=True)
class Thanks:
    """The client holds the whole result and its Receipt; the gateway may forget the files."""

    job_id: JobId
