"""The seam between the market and whatever runs jobs: ``Machine``, and the values that cross it.

The market sees a Machine only; a Worker (a child process with a device) is one, a no-op for benchmarks is another.
Knows no process, no socket and no model library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from compute.capability import Capability, Dtype
from compute.safety import Safety
from compute.spec import Artifact, JobShape, JobSpec
from compute.trace import TraceLeaf
from p2p.errors import Unavailable

PREVIEW_TYPE = "image/webp"


class WorkerLost(Unavailable):
    """The worker ended in the middle of a job, or could not start. Another machine may still do the job.

    ``begun``: the job had its place, so that it may be what the worker died of.
    """

    def __init__(self, reason: str, *, begun: bool = True) -> None:
        super().__init__(reason)
        self.begun = begun


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step: ``step`` of ``steps``, and how long the rest will take.

    Step 0: the job has its place; with ``loading`` it has none yet, because its model loads first. With ``preview``
    a step is said once more, with a small WebP picture of what is being made.
    """

    step: int
    steps: int
    eta_ms: int
    loading: bool = False
    preview: bytes = b""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a finished job left. ``trace_root`` commits to every latent; ``run_ms`` counts neither queue nor loading.

    ``safety`` is what a checker found, None where none looked.
    """

    artifacts: tuple[Artifact, ...]
    trace_root: bytes
    dtype: Dtype
    load_ms: int
    run_ms: int
    safety: Safety | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a re-run lies from what was committed: the largest difference in billionths, the relative one in ppm."""

    max_diff_nano: int
    relative_ppm: int


class Machine(Protocol):
    """Runs jobs, one result for one job id: the same id with the same spec gives the same result, not a second run."""

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        ...

    @property
    def queue_depth(self) -> int:
        """Jobs accepted and not finished, the running ones included."""
        ...

    def capability(self) -> Capability:
        """What runs here now; a model that still loads says ``warm=False``."""
        ...

    def crowded_ms(self, shape: JobShape, jobs: int) -> int:
        """How long ``shape`` takes from its start when so many jobs run at the same time, itself included.

        Raises ValueError for a shape that does not fit.
        """
        ...

    def places(self, shape: JobShape, beside: Sequence[JobShape]) -> int:
        """How many more jobs like this are worth running beside those, as far as was measured; at least 1 beside none.

        As long as no more are taken, ``crowded_ms`` of as many as there were beside none holds for each of them.
        """
        ...

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        """Run one job; ``files`` are its inputs, in the order of the spec; it should be done in ``due_ms``, if not 0.

        Raises Refused for a spec or an input that cannot be worked here, WorkerLost when the machine dies.

        Cancelling the caller's scope ends the work within one step.
        """
        ...

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        """The leaves of a finished job's trace. Raises Refused ``NO_TRACE`` when it is not kept, WorkerLost."""
        ...
