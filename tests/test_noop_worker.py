"""The no-op machine keeps every promise of a Machine but the picture."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from benchmarks.noop_worker import MODEL, NoopWorker, blank
from compute.trace import verify_leaf
from compute.work import JobResult, Machine, Step, WorkerLost
from p2p.errors import Refused
from tests.support.job_specs import job_id, job_spec

A, B = job_id("a"), job_id("b")


async def test_steps_result_and_trace_are_those_of_a_machine() -> None:
    worker: Machine = NoopWorker()
    spec, steps = job_spec(MODEL, steps=5), list[Step]()
    result = await worker.generate(A, spec, steps.append)
    assert [step.step for step in steps] == [0, 1, 2, 3, 4, 5]
    assert result.artifacts[0].data == blank(spec.shape.width, spec.shape.height)
    leaves = await worker.open_trace(A, range(6))
    assert all(verify_leaf(result.trace_root, A, 5, leaf) for leaf in leaves)
    assert await worker.generate(A, spec, steps.append) == result
    with pytest.raises(Refused, match="CONFLICT"):
        await worker.generate(A, job_spec(MODEL, seed=8), steps.append)
    with pytest.raises(Refused, match="NO_TRACE"):
        await worker.open_trace(B, [0])
    with pytest.raises(Refused, match="NO_LEAF"):
        await worker.open_trace(A, [6])
    with pytest.raises(Refused, match="NO_MODEL"):
        await worker.generate(B, job_spec(b"x" * 32), steps.append)


async def test_jobs_wait_for_a_slot(autojump_clock: trio.testing.MockClock) -> None:
    worker = NoopWorker(step_s=1.0, slots=2)
    results: list[JobResult] = []

    async def run(name: str) -> None:
        results.append(await worker.generate(job_id(name), job_spec(MODEL, steps=4), lambda step: None))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(run, name)
        await trio.testing.wait_all_tasks_blocked()
        assert worker.queue_depth == 3
    assert (len(results), worker.queue_depth, trio.current_time()) == (3, 0, pytest.approx(8.0))


async def test_it_can_be_told_to_die() -> None:
    worker = NoopWorker(lose_at=2)
    steps: list[Step] = []
    with pytest.raises(WorkerLost):
        await worker.generate(A, job_spec(MODEL), steps.append)
    assert (steps[-1].step, worker.queue_depth) == (1, 0)
