"""A Machine that transcodes in a thread of the test's own process, one job at a time: the real pipeline and its child.

What a worker adds is tested with workers; this is for whole markets in memory. It can be told to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import trio

from compute.capability import Capability, Dtype
from compute.modelfolder import bundled, read_folder
from compute.pipelines.transcode import Transcode
from compute.spec import JobShape, JobSpec
from compute.trace import TraceLeaf
from compute.work import JobResult, Step, WorkerLost
from p2p.errors import Refused


class FilmMachine:
    """``lose`` names the starts of segments that it loses with whatever it is told to do."""

    def __init__(self, lose: Collection[str] = ()) -> None:
        entry = read_folder(bundled("x264-veryfast")).capability(Dtype.FP32)
        self._capability = Capability((entry.measured(500_000, 1000),), 1)
        self._turn = trio.CapacityLimiter(1)
        self._depth, self._lose = 0, lose
        self.done = 0

    @property
    def slots(self) -> int:
        return 1

    @property
    def queue_depth(self) -> int:
        return self._depth

    def capability(self) -> Capability:
        return self._capability

    def crowded_ms(self, shape: JobShape, jobs: int) -> int:
        return jobs * self._capability.predict_ms(shape)

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        unfit = self._capability.unfit(spec.shape)
        if unfit is not None:
            raise Refused(unfit.reason.value, have=unfit.have, need=unfit.need)
        if spec.option("start") in self._lose:
            raise WorkerLost("told to")
        self._depth += 1
        try:
            on_step(Step(0, 1, 1000))
            run = Transcode.load().open(spec, files)
            made = await trio.to_thread.run_sync(run.step, None, 0, limiter=self._turn)
        finally:
            self._depth -= 1
        self.done += 1
        return JobResult(made, bytes(32), Dtype.FP32, 0, 1)

    async def open_trace(self, job_id: bytes, indexes: Sequence[int]) -> tuple[TraceLeaf, ...]:
        raise Refused("NO_TRACE", "nothing is traced here")
