"""OpenJob: one job that has its place on a device, between two of its steps.

Shell, as it holds an open trace; computes nothing. Knows no other job.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from compute.pipeline import Run, Stepping
from compute.spec import JobSpec
from compute.tracestore import TraceWriter


@dataclass(slots=True)
class OpenJob:
    """``latents`` are those after ``index`` steps, ``before`` those before the last of them.

    ``alone_s``: what its steps would have taken without the others. ``may_be_seen`` before it is done: not where a
    checker decides whether it is seen at all.
    """

    job_id: bytes
    spec: JobSpec
    pipeline: Stepping
    run: Run
    trace: TraceWriter
    latents: Any
    load_ms: int
    begun_at: float
    before: Any = None
    index: int = 0
    alone_s: float = 0.0
    may_be_seen: bool = True

    @property
    def group(self) -> Hashable:
        """Open jobs with equal groups may make a step together."""
        return self.spec.shape.model, self.run.group

    @property
    def finished(self) -> bool:
        """Whether no step is left, only the result to be made."""
        return self.index >= self.spec.shape.steps

    def eta_ms(self, now: float) -> int:
        """How long the rest will take if it goes on like so far. Raises ZeroDivisionError before the first step."""
        return int((now - self.begun_at) * 1000) * (self.spec.shape.steps - self.index) // self.index
