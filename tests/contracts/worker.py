"""What every Worker does, wherever its process is and however it is reached. Only the device is pretended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from compute.batching import MAX_OPEN
from compute.spec import JobSpec
from compute.trace import verify_leaf
from compute.work import JobResult, Step, WorkerLost
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from p2p.errors import Refused
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import hollow_model
from tests.support.pretend_worker import PICTURE

PROGRAM = (sys.executable, str(Path(__file__).parents[1] / "support" / "pretend_worker.py"))
A, B, C = job_id("a"), job_id("b"), job_id("c")


@dataclass(frozen=True, slots=True)
class Stand:
    """A worker that runs, and where its device looks for orders."""

    worker: Worker
    traces: Path

    def go(self) -> None:
        """What waits goes on."""
        (self.traces / "go").touch()


def config_in(folder: Path, **changes: Any) -> WorkerConfig:
    model = folder / "model"
    if not model.exists():
        hollow_model(model)
    return replace(WorkerConfig(folder, (model,), program=PROGRAM), **changes)


def spec_for(worker: Worker, prompt: str = "a red circle", **rest: Any) -> JobSpec:
    return job_spec(worker.capability().models[0].model, prompt=prompt, **rest)


def ignore(step: Step) -> None: ...


def opens(gate: trio.Event) -> Callable[[Step], None]:
    return lambda step: gate.set() if step.step == 2 else None


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
        await trio.sleep(0.01)


async def check_a_job_gives_its_steps_its_result_and_its_trace(stand: Stand) -> None:
    worker = stand.worker
    spec, steps = spec_for(worker), list[Step]()
    result = await worker.generate(A, spec, steps.append)
    assert [step.step for step in steps if not step.loading] == [0, 1, 2, 3, 4]
    assert result.artifacts[0].data == PICTURE
    assert worker.capability().models[0].warm
    assert worker.device == "pretended"
    leaves = await worker.open_trace(A, range(5))
    assert all(verify_leaf(result.trace_root, A, 4, leaf) for leaf in leaves)
    assert (await worker.replay_start(spec, leaves[3])).max_diff_nano == 3 * 10**9
    with pytest.raises(Refused, match="NO_TRACE"):
        await worker.open_trace(B, [0])
    with pytest.raises(Refused, match="NO_LEAF"):
        await worker.open_trace(A, [0, 5])
    assert await worker.generate(A, spec, ignore) == result
    with pytest.raises(Refused, match="CONFLICT"):
        await worker.generate(A, replace(spec, seed=8), ignore)
    assert worker.queue_depth == 0


async def check_what_cannot_run_is_refused_before_it_is_sent(stand: Stand) -> None:
    worker = stand.worker
    for spec, code in (
        (spec_for(worker, side=512), "SIDE_TOO_LARGE"),
        (spec_for(worker, steps=1001), "TOO_MANY_STEPS"),
        (job_spec(b"x" * 32), "NO_MODEL"),
    ):
        with pytest.raises(Refused, match=code):
            await worker.generate(A, spec, ignore)


async def check_jobs_queue_and_a_cancel_frees_the_device(stand: Stand) -> None:
    worker, endless = stand.worker, trio.CancelScope()

    async def first() -> None:
        with endless:
            await worker.generate(A, spec_for(worker, "for ever"), ignore)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await until(lambda: worker.capability().models[0].warm)
        results: list[JobResult] = []

        async def second() -> None:
            results.append(await worker.generate(B, spec_for(worker), ignore))

        nursery.start_soon(second)
        await until(lambda: worker.queue_depth == 2)
        with pytest.raises(Refused, match="RUNNING"):
            await worker.generate(B, spec_for(worker), ignore)
        pid = worker.pid
        endless.cancel()
    assert len(results) == 1
    assert worker.pid == pid
    assert (await _after_its_cancel(worker)).artifacts[0].data == PICTURE


async def _after_its_cancel(worker: Worker) -> JobResult:
    """The id of a job that was given up, for another job: it is free when the first has left the step it was in."""
    with trio.fail_after(20):
        while True:
            try:
                return await worker.generate(A, spec_for(worker, "again"), ignore)
            except Refused as exc:
                assert exc.code == "CONFLICT"  # noqa: PT017
                await trio.sleep(0.01)


async def check_jobs_run_at_the_same_time_and_no_more_than_have_places(stand: Stand) -> None:
    assert stand.worker.slots == MAX_OPEN
    results, steps = await _shared(stand, {job_id(f"job {n}"): "wait" for n in range(MAX_OPEN + 2)})
    assert {result.artifacts[0].data for result in results.values()} == {PICTURE}
    for seen in steps.values():
        assert sorted(set(seen)) == [0, 1, 2, 3, 4]
        assert seen == sorted(seen)


async def _shared(stand: Stand, prompts: dict[bytes, str]) -> tuple[dict[bytes, JobResult], dict[bytes, list[int]]]:
    """All at once; what became of them, and their steps. They wait for each other after two steps."""
    worker, results = stand.worker, dict[bytes, JobResult]()
    steps: dict[bytes, list[int]] = {job: [] for job in prompts}

    async def one(job: bytes, prompt: str) -> None:
        def told(step: Step) -> None:
            if not step.loading:  # told to whoever waits for the model, place or no place
                steps[job].append(step.step)

        results[job] = await worker.generate(job, spec_for(worker, prompt), told)

    async with trio.open_nursery() as nursery:
        for job, prompt in prompts.items():
            nursery.start_soon(one, job, prompt)
        yield_to = min(MAX_OPEN, len(prompts))
        await until(lambda: sum(2 in seen for seen in steps.values()) >= yield_to)
        assert sum(bool(seen) for seen in steps.values()) == yield_to
        stand.go()
    return results, steps


async def check_one_of_several_jobs_fails_alone_and_one_leaves_alone(stand: Stand) -> None:
    worker, gate, leaving = stand.worker, trio.Event(), trio.CancelScope()

    async def waits() -> None:
        assert await worker.generate(A, spec_for(worker, "wait"), opens(gate))

    async def leaves() -> None:
        with leaving:
            await worker.generate(B, spec_for(worker, "for ever"), ignore)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        nursery.start_soon(leaves)
        await gate.wait()
        for prompt, code in (("broken", "BROKEN_MODEL"), ("surprise", "MODEL_FAILED"), ("empty", "MODEL_FAILED")):
            with pytest.raises(WorkerLost, match=code):
                await worker.generate(job_id(prompt), spec_for(worker, prompt), ignore)
        leaving.cancel()
        stand.go()


async def check_a_death_loses_its_job_and_the_next_worker_serves(stand: Stand) -> None:
    worker = stand.worker
    before = await worker.generate(C, spec_for(worker), ignore)
    for prompt in ("die", "full"):
        pid = worker.pid
        with pytest.raises(WorkerLost):
            await worker.generate(A, spec_for(worker, prompt), ignore)
        await until(lambda pid=pid: worker.pid not in (None, pid))  # what is asked before may be lost too
        after = await worker.generate(B, spec_for(worker, prompt + " no more"), ignore)
        assert after.artifacts == before.artifacts
        (leaf,) = await worker.open_trace(C, [1])
        assert verify_leaf(before.trace_root, C, 4, leaf)


async def check_a_stuck_or_swollen_worker_is_killed(stand: Stand) -> None:
    """Asks for a configuration with little patience."""
    worker = stand.worker
    for job, prompt in ((A, "hang once"), (B, "swell once")):
        pid = worker.pid
        with pytest.raises(WorkerLost):
            await worker.generate(job, spec_for(worker, prompt), ignore)
        assert pid is None or not runs(pid)
    assert await worker.generate(C, spec_for(worker), ignore)


CHECKS = (
    check_a_job_gives_its_steps_its_result_and_its_trace,
    check_what_cannot_run_is_refused_before_it_is_sent,
    check_jobs_queue_and_a_cancel_frees_the_device,
    check_jobs_run_at_the_same_time_and_no_more_than_have_places,
    check_one_of_several_jobs_fails_alone_and_one_leaves_alone,
    check_a_death_loses_its_job_and_the_next_worker_serves,
)
IMPATIENT: dict[str, Any] = {"ping_s": 0.05, "least_step_s": 0.5, "resident": 300 * 2**20}
