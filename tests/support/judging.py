"""Machines for tests of checks: one that also judges, truly or falsely, and one that commits to what it did not do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

from benchmarks.noop_worker import NoopWorker, noop_leaf
from compute.capability import Dtype
from compute.checkverdict import FAR, Finding, Verdict, as_json, judge, wanted
from compute.evidence import Evidence, Wrong, with_checks
from compute.spec import VERIFY_STEP, Artifact, JobSpec
from compute.trace import TraceLeaf
from compute.work import JobResult, Step
from p2p.codec import decode_as
from p2p.errors import Refused

Lie = Callable[[bool], bool]  # from what is true of a step to what is told


class Judging(NoopWorker):
    """Does no work, and knows what no work leaves behind: a step is true when the leaf after it is the no-op's own.

    Sells checks only, unless ``sells_all``.
    """

    def __init__(self, tells: Lie = lambda true: true, *, sells_all: bool = False) -> None:
        super().__init__()
        known = with_checks(self._capability)
        kept = tuple(entry for entry in known.models if sells_all or entry.pipeline == VERIFY_STEP)
        self._capability = replace(known, models=kept)
        self._tells = tells
        self.checked: list[Evidence] = []

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        if spec.shape.pipeline != VERIFY_STEP:
            return await super().generate(job_id, spec, on_step, files, due_ms=due_ms)
        evidence = decode_as(Evidence, files[0], 2**26)
        assert {one.digest for one in evidence.delivered} <= {sha256(data).digest() for data in files[1:]}
        self.checked.append(evidence)
        data = self._verdict(evidence, sha256(files[0]).digest())
        return JobResult((Artifact("application/json", data),), bytes(32), Dtype.FP32, 0, 1)

    def _verdict(self, evidence: Evidence, name: bytes) -> bytes:
        found = []
        for what, index in wanted(evidence):
            far = 0 if self._tells(what is not Wrong.STEP or self._true(evidence, index)) else FAR
            found.append(Finding(what, index, far, far))
        verdict = Verdict(name, evidence.dtype, Dtype.FP32, tuple(found))
        return as_json(verdict, judge(evidence, verdict))

    def _true(self, evidence: Evidence, index: int) -> bool:
        after = evidence.leaf(index + 1)
        own = noop_leaf(evidence.job_id, index + 1, evidence.spec.shape.steps)
        return after is not None and (after.timestep, after.raw) == own


class Nonsense(Judging):
    """Delivers what is no verdict."""

    def _verdict(self, evidence: Evidence, name: bytes) -> bytes:
        return b'{"passed": true}'


def cheat() -> NoopWorker:
    """Commits to the noise in place of every later leaf: each step is false, each proof right."""

    def leaf(job_id: bytes, index: int, steps: int) -> tuple[int, bytes]:
        return noop_leaf(job_id, index, steps)[0], noop_leaf(job_id, 0, steps)[1]

    return NoopWorker(leaf=leaf)


class Forgetful(NoopWorker):
    """Keeps no trace."""

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        raise Refused("NO_TRACE", "forgotten")


class Forging(NoopWorker):
    """Opens other leaves than it committed to."""

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        leaves = await super().open_trace(job_id, indexes)
        return tuple(TraceLeaf(one.index, one.timestep, one.dtype, b"\0" * 8, one.path) for one in leaves)
