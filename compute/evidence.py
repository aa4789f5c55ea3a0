"""Evidence: what a checker is given of one finished job, in one file, and what is wrong with it before anything is run.

It holds the job as it was asked, the digests of what was delivered, the committed root and the leaves that were opened.
Files lie beside it and are found by their digests: what was delivered, and what the job worked on. Without a root the
whole job is run again. Pure: hashes, no tensor; knows no buyer and no Receipt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from compute.capability import MAX_MODELS, Capability, Dtype, ModelCapability
from compute.digest import MAX_ARTIFACTS, ArtifactDigest
from compute.spec import MAX_INPUT, MAX_STEPS, VERIFY_STEP, Input, JobShape, JobSpec, Option, Quality, Verification
from compute.trace import FINISHED, TraceLeaf, verify_leaf
from p2p.codec import Hash, JobId, Range, Size, message

MAX_DRAWN = 8  # steps of one check
MAX_SHOWN = 2 * MAX_DRAWN + 2  # leaves: both sides of each, the first and the last
MAX_SHOWN_BYTES = 32 * 2**20  # of latents in one check
MAX_EVIDENCE = MAX_SHOWN_BYTES + 256 * 1024
EVIDENCE_TYPE = "application/x-pasar-evidence"
WITHOUT = "without"  # the option that names who must not do the check


class Wrong(StrEnum):
    """What a check finds. The first six are found in the bytes alone, by anybody, without a model."""

    NOT_OPENED = "NOT_OPENED"
    WRONG_PROOF = "WRONG_PROOF"
    WRONG_DTYPE = "WRONG_DTYPE"
    WRONG_SIZE = "WRONG_SIZE"
    WRONG_TIMESTEP = "WRONG_TIMESTEP"
    NOT_DELIVERED = "NOT_DELIVERED"
    START = "START"
    STEP = "STEP"
    PICTURE = "PICTURE"
    RESULT = "RESULT"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong; ``index`` is the leaf, the step or the file."""

    what: Wrong
    index: int = 0


@message("evidence", 1)
@dataclass(frozen=True, slots=True)
class Evidence:
    """``drawn`` are the steps to run again, none where the whole job is; ``leaves`` are those of ``needed``."""

    job_id: JobId
    spec: JobSpec
    dtype: Dtype
    delivered: Annotated[tuple[ArtifactDigest, ...], Size(1, MAX_ARTIFACTS)]
    trace_root: Hash | None = None
    drawn: Annotated[tuple[Annotated[int, Range(0, MAX_STEPS - 1)], ...], Size(0, MAX_DRAWN)] = ()
    leaves: Annotated[tuple[TraceLeaf, ...], Size(0, MAX_SHOWN)] = ()

    def __post_init__(self) -> None:
        if list(self.drawn) != sorted(set(self.drawn)) or any(k >= self.spec.shape.steps for k in self.drawn):
            raise ValueError("drawn steps rise and are steps of the job")
        if (self.trace_root is None) != (not self.drawn) or (self.leaves and not self.drawn):
            raise ValueError("steps are run again of a trace, and without one the whole job")
        if sum(len(leaf.raw) for leaf in self.leaves) > MAX_SHOWN_BYTES:
            raise ValueError(f"more than {MAX_SHOWN_BYTES} bytes of latents")

    @property
    def needed(self) -> tuple[int, ...]:
        """The leaves that have to be opened."""
        return needed(self.spec.shape.steps, self.drawn)

    def leaf(self, index: int) -> TraceLeaf | None:
        """One of the leaves."""
        return next((leaf for leaf in self.leaves if leaf.index == index), None)


def needed(steps: int, drawn: Sequence[int]) -> tuple[int, ...]:
    """Which leaves a check of ``drawn`` steps opens: both sides of each, the noise, and what became the picture."""
    if not drawn:
        return ()
    return tuple(sorted({0, steps, *drawn, *(k + 1 for k in drawn)}))


def openings_wrong(evidence: Evidence) -> tuple[Trouble, ...]:
    """What is wrong with the opened leaves, as far as hashes tell."""
    if evidence.trace_root is None:
        return ()
    found = [Trouble(Wrong.NOT_OPENED, k) for k in evidence.needed if evidence.leaf(k) is None]
    size = len(evidence.leaves[0].raw) if evidence.leaves else 0
    for leaf in evidence.leaves:
        if not verify_leaf(evidence.trace_root, evidence.job_id, evidence.spec.shape.steps, leaf):
            found.append(Trouble(Wrong.WRONG_PROOF, leaf.index))
        if leaf.dtype is not evidence.dtype:
            found.append(Trouble(Wrong.WRONG_DTYPE, leaf.index))
        if len(leaf.raw) != size:
            found.append(Trouble(Wrong.WRONG_SIZE, leaf.index))
        if (leaf.timestep == FINISHED) != (leaf.index == evidence.spec.shape.steps):
            found.append(Trouble(Wrong.WRONG_TIMESTEP, leaf.index))
    return tuple(dict.fromkeys(found))


def check_shape(evidence: Evidence, input_bytes: int) -> JobShape:
    """The shape of the job that checks this: as many steps as are run again, and one for noise and picture."""
    checked = evidence.spec.shape
    return replace(
        checked,
        pipeline=VERIFY_STEP,
        steps=len(evidence.drawn) + 1 if evidence.drawn else checked.steps,
        verification=Verification.RECEIPT,
        input_bytes=input_bytes,
        length=0 if evidence.drawn else checked.length,
        quality=Quality.EXACT,
    )


def check_spec(evidence: Evidence, inputs: Sequence[Input], salt: bytes, without: str = "") -> JobSpec:
    """The job that checks this, on ``inputs``: the evidence first, then the files it names."""
    options = (Option(WITHOUT, without),) if without else ()
    shape = check_shape(evidence, sum(one.size for one in inputs))
    return JobSpec(shape, "", "", evidence.spec.guidance, 0, salt, tuple(inputs), options)


def with_checks(capability: Capability) -> Capability:
    """What a machine runs, and that it checks jobs of all these models, at the speed at which it runs them."""
    jobs = [entry for entry in capability.models if entry.pipeline != VERIFY_STEP]
    checks = {entry.model: _check_of(entry) for entry in jobs}  # one for each model, whatever it does
    return replace(capability, models=(*jobs, *checks.values())[:MAX_MODELS])


def _check_of(entry: ModelCapability) -> ModelCapability:
    """Without a cost of its own: one offer of checks covers models whose units cost differently."""
    steps = max(entry.max_steps, MAX_DRAWN + 1)
    return replace(entry, pipeline=VERIFY_STEP, max_steps=steps, max_input=MAX_INPUT, unit_ps=0)
