"""Every message between a node and its worker: work on one connection, health on another, over the same socket.

The node speaks first (``Attach``), the worker answers ``Ready`` and then reports. All are idempotent by job id, so a
node that restarts asks again for what it asked before. Pure; knows no socket, no process and no model library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from compute.batching import SIZES
from compute.capability import MAX_LOAD_MS, Capability, Dtype, ModelCapability
from compute.digest import MAX_ARTIFACT, MAX_ARTIFACTS
from compute.safety import Safety
from compute.spec import MAX_INPUTS, MAX_STEPS, JobSpec
from compute.trace import MAX_LEAF, TraceLeaf
from p2p.codec import Hash, JobId, Range, Size, message

LINK_LIMIT = 2 * MAX_LEAF + 64 * 1024  # one frame; the largest carries two leaves
PART = 2**20  # bytes of an artifact in one frame
MAX_OPENED = 64  # leaves in one request
MAX_PREVIEW = 8 * 1024  # bytes of a picture in the making
REQUEST_ID = 16
MAX_HELD = 1024  # jobs that a worker names

Millis = Annotated[int, Range(0, 2**53)]
StepCount = Annotated[int, Range(0, MAX_STEPS)]
RequestId = Annotated[bytes, Size(REQUEST_ID, REQUEST_ID)]
Code = Annotated[str, Size(1, 48)]
Gain = Annotated[int, Range(1, 1_000_000)]
Gains = Annotated[tuple[Gain, ...], Size(1, len(SIZES))]


class Channel(StrEnum):
    """What a connection is for. Health has its own, so that a large result never delays it."""

    WORK = "work"
    HEALTH = "health"


class Phase(StrEnum):
    """What the worker's device does. The phase tells how long silence is normal."""

    IDLE = "idle"
    LOADING = "loading"
    RUNNING = "running"


@message("worker-attach", 1)
@dataclass(frozen=True, slots=True)
class Attach:
    """First on every connection. A second work connection takes the place of the first."""

    channel: Channel


@message("worker-ready", 3)
@dataclass(frozen=True, slots=True)
class Ready:
    """The worker's answer on the work channel: who it is and what it will run. Models may still be cold.

    ``held`` are the jobs it knows, the newest of them: whoever asks for one of these must ask here.
    """

    pid: Annotated[int, Range(1, 2**31)]
    device: Annotated[str, Size(1, 96)]
    capability: Capability
    held: Annotated[tuple[JobId, ...], Size(0, MAX_HELD)] = ()


@message("worker-model-changed", 2)
@dataclass(frozen=True, slots=True)
class ModelChanged:
    """A model became warm or cold, or was measured again."""

    entry: ModelCapability


@message("worker-model-failed", 1)
@dataclass(frozen=True, slots=True)
class ModelFailed:
    """A model cannot be loaded; the worker serves the others."""

    model: Hash
    hint: Annotated[str, Size(0, 512)]


@message("worker-calibrated", 2)
@dataclass(frozen=True, slots=True)
class Calibrated:
    """What steps shared by 1, 2, 4, 8, 16 jobs of a model do in percent of one alone, as far as they pay."""

    model: Hash
    gains: Gains


@message("worker-pin", 1)
@dataclass(frozen=True, slots=True)
class PinModel:
    """Load this model and keep it loaded, or no longer. One that does not fit is answered with ``ModelFailed``."""

    model: Hash
    pinned: bool


@message("worker-shelved", 1)
@dataclass(frozen=True, slots=True)
class ModelShelved:
    """Where a model is on the worker's shelf, said on change: what it takes in bytes, measured once it was loaded."""

    model: Hash
    place: Annotated[str, Size(1, 16)]
    cost: Annotated[int, Range(0, 2**53)]
    pinned: bool


@message("worker-run", 2)
@dataclass(frozen=True, slots=True)
class RunJob:
    """Run this, or go on with it: an id that the worker knows attaches to the same job."""

    job_id: JobId
    spec: JobSpec


@message("worker-input", 1)
@dataclass(frozen=True, slots=True)
class InputPart:
    """The next bytes of input ``index`` of a job that was just asked for; it waits until all of them are there."""

    job_id: JobId
    index: Annotated[int, Range(0, MAX_INPUTS - 1)]
    data: Annotated[bytes, Size(1, PART)]


@message("worker-due", 1)
@dataclass(frozen=True, slots=True)
class DueJob:
    """When this job should be done, in milliseconds from now. Jobs that share the device go by it."""

    job_id: JobId
    due_ms: Millis


@message("worker-cancel", 1)
@dataclass(frozen=True, slots=True)
class CancelJob:
    """End this job within one step. An unknown id is no error."""

    job_id: JobId


@message("worker-step", 1)
@dataclass(frozen=True, slots=True)
class JobStepped:
    """One step is done; step 0 says that the job has its place on the device."""

    job_id: JobId
    step: StepCount
    steps: StepCount
    eta_ms: Millis


@message("worker-preview", 1)
@dataclass(frozen=True, slots=True)
class JobPreviewed:
    """What a job that asked for it looks like after ``step`` steps: a small WebP picture."""

    job_id: JobId
    step: StepCount
    data: Annotated[bytes, Size(1, MAX_PREVIEW)]


@message("worker-loading", 1)
@dataclass(frozen=True, slots=True)
class JobLoading:
    """The job has no place yet: its model loads first. ``eta_ms`` until the job is done, loading included."""

    job_id: JobId
    eta_ms: Millis


@dataclass(frozen=True, slots=True)
class ArtifactHead:
    """Announces one artifact; its bytes follow as parts."""

    media_type: Annotated[str, Size(1, 96)]
    size: Annotated[int, Range(1, MAX_ARTIFACT)]


@message("worker-done", 1)
@dataclass(frozen=True, slots=True)
class JobDone:
    """The job's result; ``ArtifactPart``s in order complete it."""

    job_id: JobId
    artifacts: Annotated[tuple[ArtifactHead, ...], Size(1, MAX_ARTIFACTS)]
    trace_root: Hash
    dtype: Dtype
    load_ms: Annotated[int, Range(0, MAX_LOAD_MS)]
    run_ms: Millis
    safety: Safety | None = None


@message("worker-part", 1)
@dataclass(frozen=True, slots=True)
class ArtifactPart:
    """The next bytes of artifact ``index``."""

    job_id: JobId
    index: Annotated[int, Range(0, MAX_ARTIFACTS - 1)]
    data: Annotated[bytes, Size(1, PART)]


@message("worker-failed", 1)
@dataclass(frozen=True, slots=True)
class JobFailed:
    """The job gave nothing. ``retriable`` when another machine may succeed with the same spec."""

    job_id: JobId
    code: Code
    hint: Annotated[str, Size(0, 512)]
    retriable: bool


@message("worker-open-trace", 1)
@dataclass(frozen=True, slots=True)
class OpenTrace:
    """Asks for leaves; each comes as ``LeafOpened`` in the order asked, or one ``RequestFailed`` for all."""

    request: RequestId
    job_id: JobId
    indexes: Annotated[tuple[StepCount, ...], Size(1, MAX_OPENED)]


@message("worker-leaf", 1)
@dataclass(frozen=True, slots=True)
class LeafOpened:
    """One leaf of the trace that was asked for."""

    request: RequestId
    leaf: TraceLeaf


@message("worker-replay-step", 2)
@dataclass(frozen=True, slots=True)
class ReplayStep:
    """Asks to re-run step ``index`` of ``spec`` from the latents ``before`` and to compare with ``after``."""

    request: RequestId
    spec: JobSpec
    index: StepCount
    dtype: Dtype
    before: Annotated[bytes, Size(1, MAX_LEAF)]
    after: Annotated[bytes, Size(1, MAX_LEAF)]


@message("worker-replay-start", 3)
@dataclass(frozen=True, slots=True)
class ReplayStart:
    """Asks whether ``noise`` is what the seed of ``spec`` gives, over ``picture`` (a file) where one is drawn over."""

    request: RequestId
    spec: JobSpec
    dtype: Dtype
    noise: Annotated[bytes, Size(1, MAX_LEAF)]
    picture: Annotated[bytes, Size(0, MAX_LEAF)] = b""


@message("worker-replay-picture", 2)
@dataclass(frozen=True, slots=True)
class ReplayPicture:
    """Asks how far the picture of ``latents`` is from ``picture`` (a file as delivered)."""

    request: RequestId
    spec: JobSpec
    dtype: Dtype
    latents: Annotated[bytes, Size(1, MAX_LEAF)]
    picture: Annotated[bytes, Size(1, MAX_LEAF)]


@message("worker-replayed", 1)
@dataclass(frozen=True, slots=True)
class Replayed:
    """How far the re-run lies from the claim: the largest difference in billionths, the relative one in ppm."""

    request: RequestId
    max_diff_nano: Annotated[int, Range(0, 2**63)]
    relative_ppm: Annotated[int, Range(0, 2**63)]


@message("worker-request-failed", 1)
@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A trace or replay request that gives nothing."""

    request: RequestId
    code: Code
    hint: Annotated[str, Size(0, 512)]


@message("worker-ping", 1)
@dataclass(frozen=True, slots=True)
class Ping:
    """On the health channel, from the node."""

    number: Annotated[int, Range(0, 2**53)]


@message("worker-pong", 2)
@dataclass(frozen=True, slots=True)
class Pong:
    """``quiet_ms`` is how long the device has shown no progress in its ``phase``.

    ``normal_ms`` is how long the longest step of its jobs takes by what was measured; 0 where nothing was.
    """

    number: Annotated[int, Range(0, 2**53)]
    phase: Phase
    quiet_ms: Millis
    normal_ms: Millis
    resident_bytes: Annotated[int, Range(0, 2**53)]


@message("worker-end", 1)
@dataclass(frozen=True, slots=True)
class End:
    """The order to end: the running job is given up and nothing is kept but traces."""
