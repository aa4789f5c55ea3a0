"""Receipt: the signed statement of what was asked, run, delivered and paid.

The orchestrator signs it and the gateway countersigns the whole signed thing, so each stands behind the same bytes. A
client keeps one file and checks it alone, with nothing but the artifact: no network, no chain, no clock. What a
Receipt says of the work is the seller's word; the trace root is what makes that word expensive to break.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from compute.digest import ArtifactDigest, digest_artifact, digest_bytes
from compute.safety import Safety
from compute.safety import as_dict as safety_as_dict
from compute.spec import MAX_SEED, MAX_STEPS, Artifact, JobSpec, Verification
from ledger.money import Amount, Settlement
from market.offer import Dtype, NetworkName
from p2p.codec import U32, U64, Hash, JobId, Name, Range, Size, decode, decode_as, encode, message
from p2p.envelope import Signed, Signer, digest_of, sign
from p2p.errors import BadSignature, MalformedMessage, UnknownMessage
from p2p.peer import PeerId, WireAddress, WirePeer, address_of, address_text, peer_text, recover

PROTOCOL = 1
MAX_RECEIPT = 16 * 1024
MAX_ARTIFACTS = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """The seller's calendar in milliseconds, and durations by its steady clock, which no clock change bends."""

    queued_at: U64
    started_at: U64
    sealed_at: U64
    queued_ms: U32
    run_ms: U32


@message("receipt", 1)
@dataclass(frozen=True, slots=True)
class Receipt:
    """Signed by ``orchestrator``. ``paid`` is what was credited when it was signed; the Statement closes the rest.

    ``trace_root`` is None, and ``trace_kept_until`` (calendar milliseconds) 0, where no trace was bought. ``safety`` is
    what the seller's checker found, None where none looked.
    """

    protocol: U32
    network: NetworkName
    settlement: Settlement
    job_id: JobId
    attempt: U32
    gateway: WirePeer
    sender: WireAddress
    orchestrator: WirePeer
    quote: Hash
    spec: Hash
    pipeline: Name
    model: Hash
    dtype: Dtype
    seed: Annotated[int, Range(0, MAX_SEED)]
    steps: Annotated[int, Range(0, MAX_STEPS)]
    artifacts: Annotated[tuple[ArtifactDigest, ...], Size(1, MAX_ARTIFACTS)]
    trace_root: Hash | None
    trace_kept_until: U64
    price: Amount
    paid: Amount
    times: Times
    safety: Safety | None = None


@message("countersigned-receipt", 1)
@dataclass(frozen=True, slots=True)
class CountersignedReceipt:
    """The orchestrator's signed Receipt. The gateway signs this, so its file is a Signed of a Signed."""

    receipt: Signed


class Problem(StrEnum):
    """What a check of a Receipt found wrong."""

    MALFORMED = "MALFORMED"
    UNKNOWN_VERSION = "UNKNOWN_VERSION"
    SELLER_SIGNATURE = "SELLER_SIGNATURE"
    GATEWAY_SIGNATURE = "GATEWAY_SIGNATURE"
    NOT_COUNTERSIGNED = "NOT_COUNTERSIGNED"
    ARTIFACT_COUNT = "ARTIFACT_COUNT"
    ARTIFACT_SIZE = "ARTIFACT_SIZE"
    ARTIFACT_DIGEST = "ARTIFACT_DIGEST"
    SPEC_DIGEST = "SPEC_DIGEST"
    SPEC_FIELDS = "SPEC_FIELDS"
    TRACE_MISSING = "TRACE_MISSING"


@dataclass(frozen=True, slots=True)
class Found:
    """One problem, with a sentence for people."""

    problem: Problem
    text: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Everything that can be checked alone was checked and holds."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class NotVerified:
    """What is wrong, at least one thing; ``receipt`` where it could be read at all, for showing only."""

    problems: tuple[Found, ...]
    receipt: Receipt | None


def digests_of(files: Sequence[tuple[str, bytes]]) -> tuple[ArtifactDigest, ...]:
    """What a Receipt says of delivered files, each given as media type and bytes."""
    return tuple(digest_artifact(Artifact(media, data)) for media, data in files)


def countersign(receipt: Signed, gateway: Signer) -> bytes:
    """The file a client keeps. The gateway checks the receipt before it signs; this does not."""
    return encode(sign(CountersignedReceipt(receipt), gateway))


def verify_receipt(data: bytes, artifacts: Sequence[bytes], spec: JobSpec | None = None) -> Verified | NotVerified:
    """Check a countersigned receipt against the delivered files, and against the spec where the caller has it.

    ``data`` comes from anywhere: nothing is raised for what it holds.
    """
    try:
        receipt, found = _signatures(data)
    except UnknownMessage as exc:
        return NotVerified((Found(Problem.UNKNOWN_VERSION, f"{exc}; a newer version may read it"),), None)
    except MalformedMessage as exc:
        return NotVerified((Found(Problem.MALFORMED, f"this is no receipt: {exc}"),), None)
    found += _artifacts(receipt, artifacts)
    if spec is not None:
        found += _spec(receipt, spec)
    return NotVerified(tuple(found), receipt) if found else Verified(receipt)


def spec_in(data: bytes) -> bytes:
    """The digest of the spec that a countersigned receipt is about; nothing is checked. Raises MalformedMessage."""
    return _inside(data).spec


def safety_in(data: bytes) -> Safety | None:
    """What a countersigned receipt says of safety; nothing is checked. Raises MalformedMessage."""
    return _inside(data).safety


def _inside(data: bytes) -> Receipt:
    outer = decode_as(Signed, data, MAX_RECEIPT)
    inner = decode_as(CountersignedReceipt, outer.payload, MAX_RECEIPT)
    return decode_as(Receipt, inner.receipt.payload, MAX_RECEIPT)


def check_signed(receipt: Signed, artifacts: Sequence[bytes], spec: JobSpec | None = None) -> Verified | NotVerified:
    """The same for a receipt that only its seller signed: what the gateway does before it countersigns."""
    match verify_receipt(encode(receipt), artifacts, spec):
        case NotVerified(problems=problems, receipt=Receipt() as inner):
            rest = tuple(found for found in problems if found.problem is not Problem.NOT_COUNTERSIGNED)
            return NotVerified(rest, inner) if rest else Verified(inner)
        case verdict:
            return verdict


def _signatures(data: bytes) -> tuple[Receipt, list[Found]]:
    found: list[Found] = []
    outer = decode_as(Signed, data, MAX_RECEIPT)
    if type(decode(outer.payload, MAX_RECEIPT)) is Receipt:
        found.append(Found(Problem.NOT_COUNTERSIGNED, "the gateway has not countersigned it"))
        return _opened(outer, found), found
    countersigned, gateway = _author(outer, CountersignedReceipt)
    receipt = _opened(countersigned.receipt, found)
    if gateway != receipt.gateway:
        found.append(Found(Problem.GATEWAY_SIGNATURE, "not countersigned by the gateway it names"))
    return receipt, found


def _opened(signed: Signed, found: list[Found]) -> Receipt:
    receipt, seller = _author(signed, Receipt)
    if seller != receipt.orchestrator:
        found.append(Found(Problem.SELLER_SIGNATURE, "not signed by the orchestrator it names"))
    if _address(receipt.gateway) != receipt.sender:
        found.append(Found(Problem.GATEWAY_SIGNATURE, "the sender's address is not the gateway's"))
    return receipt


def _author(signed: Signed, cls: type[T]) -> tuple[T, PeerId | None]:
    """The message inside and who signed it; nobody, where the signature is none."""
    value = decode_as(cls, signed.payload, MAX_RECEIPT)
    try:
        return value, recover(digest_of(value), signed.signature)
    except BadSignature:
        return value, None


def _address(peer: PeerId) -> bytes:
    try:
        return address_of(peer)
    except MalformedMessage:
        return b""


def _artifacts(receipt: Receipt, artifacts: Sequence[bytes]) -> list[Found]:
    if len(artifacts) != len(receipt.artifacts):
        text = f"{len(artifacts)} files given, the receipt names {len(receipt.artifacts)}"
        return [Found(Problem.ARTIFACT_COUNT, text)]
    found = []
    for number, (data, named) in enumerate(zip(artifacts, receipt.artifacts, strict=True), 1):
        if len(data) != named.size:
            found.append(Found(Problem.ARTIFACT_SIZE, f"file {number} has {len(data)} bytes, not {named.size}"))
        elif digest_bytes(data) != named.digest:
            found.append(Found(Problem.ARTIFACT_DIGEST, f"file {number} is not the one that was delivered"))
    return found


def _spec(receipt: Receipt, spec: JobSpec) -> list[Found]:
    found = []
    if spec.digest != receipt.spec:
        found.append(Found(Problem.SPEC_DIGEST, "the receipt is about another job spec"))
    asked = (spec.shape.pipeline, spec.shape.model, spec.seed, spec.shape.steps)
    if asked != (receipt.pipeline, receipt.model, receipt.seed, receipt.steps):
        found.append(Found(Problem.SPEC_FIELDS, "pipeline, model, seed or steps are not those that were asked"))
    if spec.shape.verification is Verification.TRACE and receipt.trace_root is None:
        found.append(Found(Problem.TRACE_MISSING, "a trace was asked, and the receipt has no trace root"))
    return found


def as_dict(receipt: Receipt) -> dict[str, Any]:
    """A Receipt as JSON for people: hex ids, wei as text (JSON numbers lose digits), times in UTC."""
    return {
        "protocol": receipt.protocol,
        "network": receipt.network,
        "settlement": str(receipt.settlement),
        "job_id": receipt.job_id.hex(),
        "attempt": receipt.attempt,
        "gateway": peer_text(receipt.gateway),
        "sender": address_text(receipt.sender),
        "orchestrator": peer_text(receipt.orchestrator),
        "quote": receipt.quote.hex(),
        "spec": receipt.spec.hex(),
        "pipeline": receipt.pipeline,
        "model": receipt.model.hex(),
        "dtype": receipt.dtype,
        "seed": receipt.seed,
        "steps": receipt.steps,
        "artifacts": [
            {"media_type": file.media_type, "size": file.size, "sha256": file.digest.hex()}
            for file in receipt.artifacts
        ],
        "trace_root": receipt.trace_root.hex() if receipt.trace_root is not None else None,
        "trace_kept_until": _utc(receipt.trace_kept_until) if receipt.trace_kept_until else None,
        "price_wei": str(receipt.price),
        "paid_wei": str(receipt.paid),
        "queued_at": _utc(receipt.times.queued_at),
        "started_at": _utc(receipt.times.started_at),
        "sealed_at": _utc(receipt.times.sealed_at),
        "queued_ms": receipt.times.queued_ms,
        "run_ms": receipt.times.run_ms,
        **safety_as_dict(receipt.safety),
    }


def _utc(ms: int) -> str:
    """ISO 8601, or the bare number where it is no date: a peer chose it."""
    try:
        whole = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(ms)
    return f"{whole}.{ms % 1000:03d}Z"
