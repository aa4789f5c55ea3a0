"""A Machine that computes nothing: steps pass at once, the picture is black. For measuring all that is around it.

Everything a buyer can check holds (trace, digests, step counts, idempotence by job id), so a whole market runs on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from compute.capability import Capability, Dtype, ModelCapability
from compute.spec import MAX_DENOISED_SIDE, MAX_STEPS, TEXT_TO_IMAGE, Artifact, JobShape, JobSpec
from compute.trace import FINISHED, TraceLeaf, leaf_hash, merkle_path, merkle_root
from compute.work import JobResult, Step, WorkerLost
from p2p.errors import Refused

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MODEL = bytes(range(32))
STEP_UNITS = 2 * 64 * 64  # of a guided step of the model's own size
KEPT = 1024  # jobs whose trace can still be opened


def blank(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, all black (PNG specification, section 11)."""
    rows = bytes((1 + -(-width // 8)) * height)
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


MakeLeaf = Callable[[bytes, int, int], tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class _Trace:
    spec: JobSpec
    hashes: tuple[bytes, ...]


class NoopWorker:
    """Invariant: the same job id and spec give the same result. ``step_s`` is how long a step pretends to take.

    ``lose_at`` makes it fail at that step, as a worker that dies; ``leaf`` makes the latents it commits to.
    """

    def __init__(
        self,
        step_s: float = 0.0,
        model: bytes = MODEL,
        slots: int = 1,
        lose_at: int | None = None,
        leaf: MakeLeaf | None = None,
    ) -> None:
        self.step_s, self.lose_at, self._leaf = step_s, lose_at, leaf or noop_leaf
        speed = int(STEP_UNITS / step_s / 2) if step_s else 10**9  # units a second; it promises half of what it does
        entry = ModelCapability(
            model, "noop", TEXT_TO_IMAGE, 64, MAX_DENOISED_SIDE, 8, MAX_STEPS, Dtype.FP32, speed, load_ms=1, warm=True
        )
        self._capability = Capability((entry,), slots)
        self._places = trio.CapacityLimiter(slots)
        self._depth = 0
        self._traces: dict[bytes, _Trace] = {}
        self.done = 0

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return self._capability.slots

    @property
    def queue_depth(self) -> int:
        """Jobs accepted and not finished."""
        return self._depth

    def capability(self) -> Capability:
        """One model, warm, that serves every size."""
        return self._capability

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        task_status.started()
        await trio.sleep_forever()

    def crowded_ms(self, shape: JobShape, jobs: int) -> int:
        """As long as alone: sleeping jobs do not disturb each other."""
        return self.capability().predict_ms(shape)

    def places(self, shape: JobShape, beside: Sequence[JobShape]) -> int:
        """Whatever else runs, up to all of them."""
        return max(0, self.slots - len(beside))

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        """A black picture after all steps."""
        unfit = self._capability.unfit(spec.shape)
        if unfit is not None:
            raise Refused(unfit.reason.value, have=unfit.have, need=unfit.need)
        known = self._traces.get(job_id)
        if known is not None and known.spec != spec:
            raise Refused("CONFLICT", "this job id names another job")
        self._depth += 1
        try:
            async with self._places:
                await self._take_steps(spec.shape.steps, on_step)
        finally:
            self._depth -= 1
        leaves = [self._leaf(job_id, index, spec.shape.steps) for index in range(spec.shape.steps + 1)]
        hashes = tuple(leaf_hash(job_id, k, timestep, Dtype.FP32, raw) for k, (timestep, raw) in enumerate(leaves))
        self._traces[job_id] = _Trace(spec, hashes)
        if len(self._traces) > KEPT:
            del self._traces[next(iter(self._traces))]
        self.done += 1
        run_ms = int(self.step_s * 1000) * spec.shape.steps
        return JobResult(
            (Artifact("image/png", blank(spec.shape.width, spec.shape.height)),),
            merkle_root(hashes),
            Dtype.FP32,
            0,
            run_ms,
        )

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        """Leaves of a job that is still known."""
        trace = self._traces.get(job_id)
        if trace is None:
            raise Refused("NO_TRACE", "this job's trace is not kept here")
        steps = trace.spec.shape.steps
        if any(not 0 <= index <= steps for index in indexes):
            raise Refused("NO_LEAF", "the trace has fewer leaves", have=steps + 1, need=max(indexes) + 1)
        return tuple(
            TraceLeaf(k, timestep, Dtype.FP32, raw, merkle_path(trace.hashes, k))
            for k in indexes
            for timestep, raw in [self._leaf(job_id, k, steps)]
        )

    async def _take_steps(self, steps: int, on_step: Callable[[Step], None]) -> None:
        on_step(Step(0, steps, int(self.step_s * 1000) * steps))
        for step in range(1, steps + 1):
            await trio.sleep(self.step_s)
            if self.lose_at is not None and step >= self.lose_at:
                raise WorkerLost("told to")
            on_step(Step(step, steps, int(self.step_s * 1000) * (steps - step)))


def noop_leaf(job_id: bytes, index: int, steps: int) -> tuple[int, bytes]:
    """The timestep and the latents of one leaf."""
    timestep = steps - index - 1 if index < steps else FINISHED
    return timestep, job_id[:4] + index.to_bytes(4, "little")
