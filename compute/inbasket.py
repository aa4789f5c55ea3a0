"""Jobs whose inputs are still on their way to the worker, part by part, within what their specs say.

Pure; knows no connection and no device.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from compute.spec import JobSpec
from p2p.errors import PeerFault

MAX_ARRIVING = 64  # jobs; the one that came first is forgotten, and asked for again by whoever waits for it


@dataclass(slots=True)
class Arriving:
    """One job; ``parts`` grow to the sizes of its inputs."""

    spec: JobSpec
    parts: list[bytearray] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether every byte is here."""
        return [len(part) for part in self.parts] == [file.size for file in self.spec.inputs]


class Inbasket:
    """At most ``MAX_ARRIVING`` jobs, each with no more bytes than its spec names."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, Arriving] = {}

    def expect(self, job_id: bytes, spec: JobSpec) -> tuple[bytes, ...] | None:
        """The inputs of a job: at once where it has none, else None, and from now on they are taken in."""
        if not spec.inputs:
            return ()
        self._jobs.pop(job_id, None)
        self._jobs[job_id] = Arriving(spec, [bytearray() for _ in spec.inputs])
        if len(self._jobs) > MAX_ARRIVING:
            del self._jobs[next(iter(self._jobs))]
        return None

    def take(self, job_id: bytes, index: int, data: bytes) -> tuple[JobSpec, tuple[bytes, ...]] | None:
        """The next bytes of one input; the job with all its inputs when these were the last.

        Those of a job that is not expected mean nothing. Raises PeerFault for more than its spec names.
        """
        job = self._jobs.get(job_id)
        if job is None:
            return None
        if index >= len(job.parts) or len(job.parts[index]) + len(data) > job.spec.inputs[index].size:
            del self._jobs[job_id]
            raise PeerFault("more input than the job has")
        job.parts[index] += data
        if not job.whole:
            return None
        del self._jobs[job_id]
        return job.spec, tuple(bytes(part) for part in job.parts)

    def forget(self, job_id: bytes) -> None:
        """It is given up. An unknown id changes nothing."""
        self._jobs.pop(job_id, None)
