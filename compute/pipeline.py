"""What a worker expects of a pipeline: the seam between the device and the files in ``compute/pipelines``.

A pipeline class is found through the entry-point group ``pasar.pipelines`` by its name. Latents are opaque to everybody
but the pipeline. Imports no model library, so that the worker's event loop may name these too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from compute.capability import Dtype
from compute.safety import Safety
from compute.spec import Artifact, JobShape, JobSpec

AnyRun = TypeVar("AnyRun")
Turn: TypeAlias = tuple[AnyRun, Any, int]  # a job's run, its latents, the index of the step that it makes next


class Cancelled(Exception):
    """Raised out of a progress callback: the work ends here and the model stays loaded."""


class BrokenOutput(Exception):
    """The model produced numbers that are no result: weights or number format are at fault, not the caller."""


def out_of_memory(exc: Exception) -> bool:
    """Whether a device was full. torch says so with a RuntimeError."""
    return isinstance(exc, MemoryError) or (isinstance(exc, RuntimeError) and "out of memory" in str(exc).lower())


@dataclass(frozen=True, slots=True)
class Finished:
    """What one job gave."""

    artifacts: tuple[Artifact, ...]
    trace_root: bytes
    dtype: Dtype
    load_ms: int
    run_ms: int
    safety: Safety | None = None


class Run(Protocol):
    """One job on one loaded model: functions from latents to latents, without hidden state between steps."""

    @property
    def group(self) -> Hashable:
        """Runs of one model with equal groups can make a step together."""
        ...

    def start(self) -> Any:
        """The latents before the first step."""
        ...

    def step(self, latents: Any, index: int) -> Any:
        """The latents after step ``index``."""
        ...

    def finish(self, latents: Any) -> tuple[Artifact, ...]:
        """The result. Raises BrokenOutput."""
        ...

    def pixels(self, latents: Any) -> Any:
        """The result as an array, for comparing with a delivered one."""
        ...

    def timestep_of(self, index: int) -> int:
        """What the model sees next after ``index`` steps; ``trace.FINISHED`` after the last."""
        ...

    def to_bytes(self, latents: Any) -> bytes:
        """Raw little-endian numbers, as the trace commits to them."""
        ...

    def from_bytes(self, raw: bytes, dtype: Dtype) -> Any:
        """The inverse, for latents that somebody else committed to. Raises Refused for a wrong size."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A run whose step is long and made of pieces: it tells how far it is between two of them."""

    def watched(self, watch: Callable[[int, int], None]) -> Any:
        """The same run, with somebody who is told; what ``watch`` raises (``Cancelled``) ends the step."""
        ...


@runtime_checkable
class Glimpsed(Protocol):
    """A run that can be looked at between two steps."""

    def glimpse(self, before: Any, after: Any, index: int) -> Any:
        """A small picture, (height, width, 3) bytes, of what step ``index`` was heading for. Raises BrokenOutput."""
        ...


class Stepping(Protocol):
    """What makes steps of open jobs."""

    def step_together(self, turns: Sequence[Turn[Any]]) -> list[Any]:
        """The latents after one step of each job, all of one group, in their order. They may be at different steps."""
        ...


class Pipeline(Stepping, Protocol):
    """One loaded model. Holds no state of any job."""

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> Self:
        """Load from a local folder. Raises Misconfigured."""
        ...

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Run:
        """Prepare one job; ``files`` are its inputs, in the order of the spec. Raises Refused."""
        ...

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """A small job to measure a loaded model by, with its inputs, of a shape like this one.

        Not asked of what denoises: there the device knows what to try.
        """
        ...
