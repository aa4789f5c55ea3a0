"""Work in pieces: how far it is reaches whoever follows the job, and what is given up ends between two pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Dtype
from compute.jobboard import BoardJob, JobBoard, State
from compute.openjob import OpenJob
from compute.pipeline import Cancelled, Finished
from compute.pipelines.piecework import Piecework, Progress
from compute.spec import Artifact, JobShape, JobSpec
from compute.steploop import StepLoop, Told
from compute.tracestore import TraceStore
from compute.watching import PARTS, Watch
from tests.support.job_specs import job_id, job_spec

SPEC = job_spec(b"m" * 32, steps=1)
A, B = job_id("a"), job_id("b")
PIECES = 5


@given(st.integers(0, 100_000), st.integers(1, 3000))
def test_what_is_told_grows_and_is_little(of: int, stride: int) -> None:
    told: list[tuple[int, int]] = []
    watch = Watch(lambda: False, lambda part, parts, eta_ms: told.append((part, parts)))
    for done in range(0, of + 1, stride):
        watch(done, of)
    assert len(told) <= PARTS
    assert all(0 < part < parts == min(of, PARTS) for part, parts in told)
    assert [part for part, _ in told] == sorted({part for part, _ in told})


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_nonsense_of_a_pipeline_is_not_told(done: int, of: int) -> None:
    told: list[tuple[int, int]] = []
    Watch(lambda: False, lambda part, parts, eta_ms: told.append((part, parts)))(done, of)
    assert all(0 < part < parts for part, parts in told)


def test_what_is_given_up_ends_at_the_next_piece() -> None:
    given_up = False
    watch = Watch(lambda: given_up, lambda *told: None)
    watch(1, 3)
    given_up = True
    with pytest.raises(Cancelled):
        watch(2, 3)


class Bench:
    """A device on which a job is PIECES pieces; each waits until it may be made. It counts those that were begun."""

    def __init__(self, folder: Path) -> None:
        self._traces, self._may = TraceStore(folder), threading.Semaphore(0)
        self.begun = list[int]()
        self.left = threading.Event()  # a step is over, whatever came of it

    def let(self, pieces: int) -> None:
        self._may.release(pieces)

    def work(self, progress: Progress) -> tuple[Artifact, ...]:
        for piece in range(PIECES):
            progress(piece, PIECES)
            self.begun.append(piece)
            self._may.acquire()
        progress(PIECES, PIECES)
        return (Artifact("text/plain", b"done"),)

    def begin(self, job_id: bytes, spec: JobSpec, files: Sequence[bytes], watch: Callable[[int, int], None]) -> OpenJob:
        trace, run = self._traces.begin(job_id, Dtype.FP32, keep=False), Piecework(self.work).watched(watch)
        trace.add(run.timestep_of(0), run.to_bytes(None))
        pipeline: Any = None
        return OpenJob(job_id, spec, pipeline, run, trace, None, 0, time.monotonic())

    def advance(self, jobs: Sequence[OpenJob]) -> None:
        try:
            for job in jobs:
                job.latents, job.index = job.run.step(job.latents, job.index), job.index + 1
        finally:
            self.left.set()

    def end(self, job: OpenJob) -> Finished:
        return Finished(job.run.finish(job.latents), bytes(32), Dtype.FP32, 0, 1)

    def drop(self, job: OpenJob) -> None:
        job.trace.discard()

    def predict_ms(self, shape: JobShape, jobs: int) -> int:
        return 1

    def sharing(self, shape: JobShape) -> tuple[int, int]:
        return 1, 1

    def calibrate(self, model: bytes | None = None, wanted: Callable[[], bool] = bool) -> bool:
        return False


class Follower:
    """The board of a worker, and what became of its jobs."""

    def __init__(self) -> None:
        self.board = JobBoard[str]()
        self.steps = list[tuple[bytes, int, int]]()
        self.ended = list[bytes]()
        self._news = trio.Event()

    def take(self) -> BoardJob[Any] | None:
        return self.board.take()

    def release(self, job: BoardJob[Any]) -> None:
        self._wake()

    def stepped(self, job: BoardJob[Any], step: int, steps: int, eta_ms: int) -> None:
        if job.state is State.RUNNING:
            self.board.progress(job.job_id, step, steps, eta_ms)
        self.steps.append((job.job_id, step, steps))
        self._wake()

    def finished(self, job: BoardJob[Any], done: Finished) -> None:
        self.board.end(job.job_id, "done", 1, 0)
        self.ended.append(job.job_id)
        self._wake()

    async def failed(self, job: BoardJob[Any], exc: Exception, works: bool) -> None:
        raise exc

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(30):
            while not condition():
                await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


@asynccontextmanager
async def at_work(folder: Path) -> AsyncIterator[tuple[Bench, Follower, StepLoop]]:
    bench, follower = Bench(folder), Follower()
    loop = StepLoop(
        follower.board,
        follower,
        Told(lambda phase: None, follower.stepped, lambda *preview: None, follower.finished, follower.failed),
    )
    device: Any = bench
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run, device)
        yield bench, follower, loop
        bench.let(10 * PIECES)
        nursery.cancel_scope.cancel()


async def test_each_piece_is_told_before_the_work_is_done(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (bench, follower, loop):
        follower.board.submit(A, SPEC)
        loop.wake()
        await follower.until(lambda: (A, 0, 1) in follower.steps)
        for piece in range(1, PIECES):
            bench.let(1)
            await follower.until(lambda at=piece: (A, at, PIECES) in follower.steps)  # type: ignore[misc]
            assert follower.ended == []
        known = follower.board.find(A)
        assert known is not None
        assert (known.step, known.steps) == (PIECES - 1, PIECES)
        bench.let(1)
        await follower.until(lambda: follower.ended == [A])
        assert follower.steps == [(A, 0, 1), *((A, part, PIECES) for part in range(1, PIECES + 1))]


async def test_a_cancel_ends_the_work_between_two_pieces(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (bench, follower, loop):
        follower.board.submit(A, SPEC)
        follower.board.submit(B, SPEC)
        loop.wake()
        bench.let(1)
        await follower.until(lambda: (A, 1, PIECES) in follower.steps)
        follower.board.cancel(A)
        loop.wake()
        bench.let(1)
        await follower.until(lambda: follower.board.find(A) is None)
        first = len(bench.begun)
        bench.let(PIECES)
        await follower.until(lambda: follower.ended == [B])
        assert first <= 3  # of five: the one under way when it was given up, and the first of the other job
        assert bench.begun[-PIECES:] == list(range(PIECES))


async def test_a_cancel_that_is_withdrawn_begins_the_work_anew(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (bench, follower, loop):
        follower.board.submit(A, SPEC)
        loop.wake()
        bench.let(2)
        await follower.until(lambda: (A, 2, PIECES) in follower.steps)
        follower.board.cancel(A)
        bench.let(1)
        assert bench.left.wait(30)  # without a turn of the event loop, which would let the job go
        follower.board.submit(A, SPEC)
        bench.let(PIECES)
        await follower.until(lambda: follower.ended == [A])
        assert bench.begun == [0, 1, 2, *range(PIECES)]
        assert follower.steps[-1] == (A, PIECES, PIECES)
