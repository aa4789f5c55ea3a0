"""Checks: from a bought result to the evidence that others can judge, and from their verdicts to a conclusion.

Steps are drawn from the Receipt, which the seller signed first, and 32 bytes that nobody knew before the draw. Leaves
that do not lead to the signed root, or do not come at all, are a failed check without a verifier. A verdict against the
seller counts when a second verifier says the same. Pure: chance is an argument; buys nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from compute.capability import Dtype
from compute.checkverdict import Finding
from compute.digest import digest_bytes
from compute.evidence import EVIDENCE_TYPE, MAX_DRAWN, WITHOUT, Evidence, Trouble, Wrong, check_spec, needed
from compute.spec import DENOISED, MAX_INPUT, MAX_INPUTS, VERIFY_STEP, Artifact, Input, JobSpec
from compute.trace import TraceLeaf, draw_steps
from market.receipt import CountersignedReceipt, NotVerified, Receipt, verify_receipt
from market.tracewire import TraceAsk
from p2p.codec import decode_as, encode
from p2p.envelope import Signed, digest_of
from p2p.errors import MalformedMessage, Refused
from p2p.peer import PeerId, parse_peer, peer_text

MAX_NAMED = 4  # peers that one bid for a check excludes: as many as fit an option


class Conclusion(StrEnum):
    """How a check ended. Only FAILED counts against a seller."""

    PASSED = "passed"
    FAILED = "failed"  # by hashes alone, by an own worker, or by two verifiers
    DISPUTED = "disputed"  # one verifier against another
    UNCONFIRMED = "unconfirmed"  # one verifier against the seller, and no second one there
    UNOPENED = "unopened"  # the seller did not open its trace while it was to be kept
    UNVERIFIED = "unverified"  # nobody there to judge it


@dataclass(frozen=True, slots=True)
class Case:
    """One result as it was bought: the seller's signed Receipt, the spec, the files and what they were made from.

    ``whole``: the whole job is to be run again, also where a trace was bought.
    """

    signed: Signed
    receipt: Receipt
    spec: JobSpec
    files: tuple[Artifact, ...]
    inputs: tuple[bytes, ...] = ()
    whole: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether steps are to be run again: a trace was bought, and not the ``whole`` job is wanted."""
        return not self.whole and self.receipt.trace_root is not None and self.spec.shape.pipeline in DENOISED

    @property
    def seller(self) -> PeerId:
        """Whose work it is."""
        return PeerId(self.receipt.orchestrator)


@dataclass(frozen=True, slots=True)
class Checked:
    """A check that came to its end. ``verifiers`` in the order in which they were asked, none for an own worker."""

    conclusion: Conclusion
    drawn: tuple[int, ...]
    troubles: tuple[Trouble, ...] = ()
    findings: tuple[Finding, ...] = ()
    computed: Dtype = Dtype.FP32
    verifiers: tuple[PeerId, ...] = ()
    reason: str = ""


def read_case(kept: bytes, files: Sequence[bytes], spec: JobSpec, inputs: Sequence[bytes]) -> Case:
    """A case from a countersigned receipt and what goes with it. Raises Refused where that does not go together."""
    checked = verify_receipt(kept, files, spec)
    if isinstance(checked, NotVerified):
        raise Refused("NOT_VERIFIED", "; ".join(found.text for found in checked.problems))
    receipt = checked.receipt
    beside = {digest_bytes(data): data for data in inputs}
    missing = [file for file in spec.inputs if file.digest not in beside]
    if missing:
        raise Refused("INPUT_MISSING", "the job worked on files that are not given", need=len(spec.inputs))
    named = tuple(Artifact(one.media_type, data) for one, data in zip(receipt.artifacts, files, strict=True))
    return Case(signed_in(kept), receipt, spec, named, tuple(beside[file.digest] for file in spec.inputs))


def signed_in(kept: bytes) -> Signed:
    """The seller's own signed Receipt inside a countersigned one. Raises MalformedMessage."""
    return decode_as(CountersignedReceipt, decode_as(Signed, kept).payload).receipt


def draw(case: Case, challenge: bytes, count: int) -> tuple[int, ...]:
    """The steps to run again; none where the job left no trace of steps, and is to be run again whole."""
    if not case.has_steps:
        return ()
    return draw_steps(digest_of(case.receipt), challenge, case.spec.shape.steps, min(count, MAX_DRAWN))


def ask_for(case: Case, drawn: Sequence[int]) -> TraceAsk:
    """What the seller is asked to open."""
    return TraceAsk(case.signed, case.spec, needed(case.spec.shape.steps, drawn))


def evidence_for(case: Case, drawn: Sequence[int], leaves: Sequence[TraceLeaf]) -> Evidence:
    """What a verifier is given. Raises Refused for leaves that are more than one check shows."""
    root = case.receipt.trace_root if drawn else None
    try:
        return Evidence(
            case.receipt.job_id, case.spec, Dtype(case.receipt.dtype), case.receipt.artifacts, root, tuple(drawn),
            tuple(leaves),
        )  # fmt: skip
    except ValueError as exc:
        raise Refused("NO_EVIDENCE", str(exc)) from exc


def check_job(case: Case, evidence: Evidence, salt: bytes, without: Sequence[PeerId]) -> tuple[JobSpec, list[bytes]]:
    """The job that a verifier is asked to do, and its files, each once. Raises Refused for more than a job takes."""
    first = encode(evidence)
    files = {digest_bytes(first): (EVIDENCE_TYPE, first)}
    files |= {digest_bytes(one.data): (one.media_type[:64], one.data) for one in case.files}
    files |= {named.digest: (named.media_type, data) for named, data in zip(case.spec.inputs, case.inputs, strict=True)}
    inputs = [Input(media, len(data), digest) for digest, (media, data) in files.items()]
    if len(inputs) > MAX_INPUTS or sum(one.size for one in inputs) > MAX_INPUT:
        need = sum(one.size for one in inputs)
        raise Refused("NO_EVIDENCE", f"{len(inputs)} files, more than a job takes", have=MAX_INPUT, need=need)
    try:
        spec = check_spec(evidence, inputs, salt, names(without))
    except ValueError as exc:
        raise Refused("NO_EVIDENCE", str(exc)) from exc
    return spec, [data for _, data in files.values()]


def names(peers: Sequence[PeerId]) -> str:
    """Peers as the option of a check names them."""
    return ",".join(peer_text(peer) for peer in peers[:MAX_NAMED])


def excluded_by(spec: JobSpec) -> frozenset[PeerId]:
    """Who must not do this job: nobody checks its own work. Names that are none mean nobody."""
    if spec.shape.pipeline != VERIFY_STEP:
        return frozenset()
    found = set()
    for text in spec.option(WITHOUT).split(",")[:MAX_NAMED]:
        try:
            found.add(parse_peer(text))
        except MalformedMessage:
            continue
    return frozenset(found)


def words(trouble: Trouble) -> str:
    """One thing that is wrong, for people."""
    return _WORDS[trouble.what].format(trouble.index)


_WORDS = {
    Wrong.NOT_OPENED: "leaf {} was not opened",
    Wrong.WRONG_PROOF: "leaf {} is not part of what the seller committed to",
    Wrong.WRONG_DTYPE: "leaf {} is in another number format than the Receipt says",
    Wrong.WRONG_SIZE: "leaf {} has another size than the others",
    Wrong.WRONG_TIMESTEP: "leaf {} names a time that the job's schedule does not have there",
    Wrong.NOT_DELIVERED: "file {} was not delivered",
    Wrong.START: "the first latents are not those that the job starts from",
    Wrong.STEP: "step {} does not lead from what was committed before it to what was committed after it",
    Wrong.PICTURE: "the picture is not what the last committed latents give",
    Wrong.RESULT: "file {} is not what the job gives when it is run again",
}
