"""Evidence of finished jobs, and checks of it on a device without a worker around it. Imports no model library."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from compute.capability import Dtype
from compute.checkverdict import Verdict, from_json
from compute.digest import digest_artifact
from compute.evidence import EVIDENCE_TYPE, Evidence, check_spec, needed
from compute.pipeline import Finished
from compute.spec import Artifact, Input, JobSpec
from compute.trace import TraceLeaf
from p2p.codec import encode
from tests.support.alone import run_alone
from tests.support.job_specs import job_id

if TYPE_CHECKING:
    from compute.device import Device

OpenLeaves = Callable[[bytes, Sequence[int]], Sequence[TraceLeaf]]


def evidence_of(job: bytes, spec: JobSpec, done: Finished, opens: OpenLeaves, drawn: Sequence[int]) -> Evidence:
    """What a gateway puts together: of drawn steps, or of the whole job when none is drawn."""
    return Evidence(
        job,
        spec,
        Dtype(done.dtype),
        tuple(digest_artifact(one) for one in done.artifacts),
        done.trace_root if drawn else None,
        tuple(drawn),
        tuple(opens(job, needed(spec.shape.steps, drawn))) if drawn else (),
    )


def check_job(
    evidence: Evidence, artifacts: Sequence[Artifact], inputs: Sequence[bytes] = (), without: str = ""
) -> tuple[JobSpec, tuple[bytes, ...]]:
    """The job that checks it, with its files."""
    first = encode(evidence)
    beside = [(one.media_type, one.data) for one in artifacts]
    beside += [(named.media_type, data) for named, data in zip(evidence.spec.inputs, inputs, strict=False)]
    files = {sha256(data).digest(): (media, data) for media, data in [(EVIDENCE_TYPE, first), *beside]}
    named = [Input(media, len(data), digest) for digest, (media, data) in files.items()]
    return check_spec(evidence, named, b"c" * 16, without), tuple(data for _, data in files.values())


def check_on(
    device: Device, evidence: Evidence, artifacts: Sequence[Artifact], inputs: Sequence[bytes] = ()
) -> Verdict:
    """The verdict of this device."""
    return from_json(told_by(device, evidence, artifacts, inputs))


def told_by(device: Device, evidence: Evidence, artifacts: Sequence[Artifact], inputs: Sequence[bytes] = ()) -> bytes:
    """The file that it delivers."""
    spec, files = check_job(evidence, artifacts, inputs)
    return run_alone(device, job_id("check"), spec, files=files).artifacts[0].data


def as_dict(told: bytes) -> dict[str, Any]:
    """What a person reads."""
    found: dict[str, Any] = json.loads(told)
    return found
