"""One job on a device without a worker around it. Imports no model library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compute.pipeline import Finished
from compute.spec import JobSpec

if TYPE_CHECKING:
    from compute.device import Device


def run_alone(
    device: Device,
    job_id: bytes,
    spec: JobSpec,
    on_step: Callable[[int], None] | None = None,
    files: Sequence[bytes] = (),
) -> Finished:
    """Begin, all steps, end. What ``on_step`` raises gives the job up."""
    job = device.begin(job_id, spec, files)
    try:
        while not job.finished:
            device.advance([job])
            if on_step is not None:
                on_step(job.index)
    except BaseException:
        device.drop(job)
        raise
    return device.end(job)
