"""A node and its worker as real processes, with a pretended device: results, cancels, deaths, and coming back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from compute.batching import MAX_OPEN
from compute.spec import JobSpec
from compute.trace import verify_leaf
from compute.work import JobResult, Step, WorkerLost
from compute.workerchild import MAX_SOCKET_PATH, WorkerConfig, remove_socket, socket_path
from compute.workerlink import Worker
from p2p.errors import Misconfigured, Refused
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import hollow_model
from tests.support.pretend_worker import PICTURE

pytestmark = pytest.mark.live
PROGRAM = (sys.executable, str(Path(__file__).parent / "support" / "pretend_worker.py"))
A, B, C = job_id("a"), job_id("b"), job_id("c")


def config_in(folder: Path, **changes: Any) -> WorkerConfig:
    model = folder / "model"
    if not model.exists():
        hollow_model(model)
    return replace(WorkerConfig(folder, (model,), program=PROGRAM), **changes)


@asynccontextmanager
async def running(config: WorkerConfig) -> AsyncIterator[Worker]:
    worker = Worker(config)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


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


async def test_a_worker_that_does_its_jobs_is_started_again_at_once_however_often_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compute.workerlife.BACK_OFF_S", (0.0, 3600.0))
    async with running(config_in(tmp_path)) as worker:
        for job in (A, B, C):
            assert await worker.generate(job, spec_for(worker), ignore)
            pid = worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: worker.pid not in (None, pid))


async def test_whoever_waits_for_a_worker_that_imports_its_libraries_hears_that_it_gets_less(tmp_path: Path) -> None:
    importing = tmp_path / "traces" / "worker" / "importing"
    importing.parent.mkdir(parents=True)
    importing.touch()
    async with running(config_in(tmp_path)) as worker:
        steps: list[Step] = []

        def hear(step: Step) -> None:
            steps.append(step)
            if len(steps) == 3:
                importing.unlink()

        assert await worker.generate(A, spec_for(worker), hear)
        waited = steps[:3]
        assert all(step.loading and not step.step for step in waited)
        assert waited[0].eta_ms > waited[1].eta_ms > waited[2].eta_ms > 0


async def test_a_job_gives_its_steps_its_result_and_its_trace(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        assert not worker.capability().models[0].warm
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


async def test_what_cannot_run_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        for spec, code in (
            (spec_for(worker, side=512), "SIDE_TOO_LARGE"),
            (spec_for(worker, steps=1001), "TOO_MANY_STEPS"),
            (job_spec(b"x" * 32), "NO_MODEL"),
        ):
            with pytest.raises(Refused, match=code):
                await worker.generate(A, spec, ignore)


async def test_jobs_queue_and_a_cancel_frees_the_device(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        endless = trio.CancelScope()

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
        assert (await after_its_cancel(worker)).artifacts[0].data == PICTURE


async def after_its_cancel(worker: Worker) -> JobResult:
    """The id of a job that was given up, for another job: it is free when the first has left the step it was in."""
    with trio.fail_after(20):
        while True:
            try:
                return await worker.generate(A, spec_for(worker, "again"), ignore)
            except Refused as exc:
                assert exc.code == "CONFLICT"  # noqa: PT017
                await trio.sleep(0.01)


async def shared(worker: Worker, prompts: dict[bytes, str]) -> tuple[dict[bytes, JobResult], dict[bytes, list[int]]]:
    """All at once; what became of them, and their steps. They wait for each other after two steps."""
    results: dict[bytes, JobResult] = {}
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
        (worker._config.folder / "traces" / "worker" / "go").touch()
    return results, steps


async def test_jobs_run_at_the_same_time_and_no_more_than_have_places(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        assert worker.slots == MAX_OPEN
        results, steps = await shared(worker, {job_id(f"job {n}"): "wait" for n in range(MAX_OPEN + 2)})
        assert {result.artifacts[0].data for result in results.values()} == {PICTURE}
        for seen in steps.values():
            assert sorted(set(seen)) == [0, 1, 2, 3, 4]
            assert seen == sorted(seen)


async def test_a_batch_that_finds_no_memory_is_tried_one_by_one(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        pid = worker.pid
        results: list[JobResult] = []

        async def one(job: bytes) -> None:
            results.append(await worker.generate(job, spec_for(worker, "crowd"), ignore))

        async with trio.open_nursery() as nursery:
            for name in "abcdef":
                nursery.start_soon(one, job_id(name))
        assert len(results) == 6
        assert pid in (None, worker.pid)


async def test_a_death_among_several_jobs_loses_none_the_first_time(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        await worker.generate(C, spec_for(worker), ignore)
        pid = worker.pid
        gate = trio.Event()

        async def waits() -> None:
            result = await worker.generate(
                A, spec_for(worker, "wait"), lambda step: gate.set() if step.step == 2 else None
            )
            assert result.artifacts[0].data == PICTURE

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await gate.wait()
            assert await worker.generate(B, spec_for(worker, "die once"), ignore)
            (tmp_path / "traces" / "worker" / "go").touch()
        assert worker.pid != pid


async def test_one_of_several_jobs_fails_alone_and_one_leaves_alone(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        gate, leaving = trio.Event(), trio.CancelScope()

        async def waits() -> None:
            assert await worker.generate(
                A, spec_for(worker, "wait"), lambda step: gate.set() if step.step == 2 else None
            )

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
            (tmp_path / "traces" / "worker" / "go").touch()


@pytest.mark.parametrize("prompt", ["die", "full"])
async def test_a_death_loses_its_job_and_no_other(tmp_path: Path, prompt: str) -> None:
    async with running(config_in(tmp_path)) as worker:
        before = await worker.generate(C, spec_for(worker), ignore)
        pid = worker.pid
        with pytest.raises(WorkerLost):
            await worker.generate(A, spec_for(worker, prompt), ignore)
        after = await worker.generate(B, spec_for(worker), ignore)
        assert after.artifacts == before.artifacts
        assert worker.pid != pid
        (leaf,) = await worker.open_trace(C, [1])
        assert verify_leaf(before.trace_root, C, 4, leaf)


@pytest.mark.parametrize(
    ("prompt", "code"), [("broken", "BROKEN_MODEL"), ("surprise", "MODEL_FAILED"), ("empty", "MODEL_FAILED")]
)
async def test_what_goes_wrong_in_a_model_fails_the_job_and_not_the_worker(
    tmp_path: Path, prompt: str, code: str
) -> None:
    async with running(config_in(tmp_path)) as worker:
        with pytest.raises(WorkerLost, match=code):
            await worker.generate(A, spec_for(worker, prompt), ignore)
        pid = worker.pid
        assert await worker.generate(B, spec_for(worker), ignore)
        assert worker.pid == pid


@pytest.mark.parametrize("changes", [{"step_s": 0.05}, {"resident": 1}])
async def test_a_stuck_or_swollen_worker_is_killed(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with running(config_in(tmp_path, ping_s=0.05, **changes)) as worker:
        with pytest.raises(WorkerLost, match=r"stuck|memory"):
            await worker.generate(A, spec_for(worker, "hang"), ignore)


async def test_signals_of_the_group_do_not_reach_the_work(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        stopped = False

        def interrupt(step: Step) -> None:
            nonlocal stopped
            if step.step == 1 and worker.pid:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    os.kill(worker.pid, number)
                (tmp_path / "traces" / "worker" / "go").touch()
                stopped = True

        assert await worker.generate(A, spec_for(worker, "wait"), interrupt)
        assert stopped


async def test_the_worker_ends_with_the_node_that_ends_in_order(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        await worker.generate(A, spec_for(worker), ignore)
        pid = worker.pid
    assert pid is not None
    assert not runs(pid)
    assert worker.pid is None
    with pytest.raises(WorkerLost):
        await worker.open_trace(A, [0])


NODE = """
import os, sys, trio
from pathlib import Path
sys.path.insert(0, {root!r})
from compute.workerlink import Worker
from tests.test_worker import A, config_in, spec_for
def on_step(step):
    if step.step == 1:
        print(worker.pid, flush=True)
async def main():
    global worker
    worker = Worker(config_in(Path({folder!r}), **{changes!r}))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await worker.generate(A, spec_for(worker, "wait"), on_step)
trio.run(main)
"""


async def killed_node(folder: Path, **changes: Any) -> int:
    """Start a node in a process of its own, kill it in the middle of a job; the pid of the worker it leaves."""
    config_in(folder)
    source = NODE.format(root=str(Path(__file__).parents[1]), folder=str(folder), changes=changes)
    process = await trio.lowlevel.open_process([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = b""
    async with process.stdout:
        while b"\n" not in said:
            said += await process.stdout.receive_some()
        process.kill()
        await process.wait()
    return int(said)


async def test_a_restarted_node_finds_its_job(tmp_path: Path) -> None:
    with trio.fail_after(60):
        pid = await killed_node(tmp_path)
    async with running(config_in(tmp_path)) as worker:
        steps: list[Step] = []

        def resume(step: Step) -> None:
            steps.append(step)
            (tmp_path / "traces" / "worker" / "go").touch()

        result = await worker.generate(A, spec_for(worker, "wait"), resume)
        assert worker.pid == pid
        assert result.artifacts[0].data == PICTURE
        assert steps[0].step >= 1  # it went on, it did not begin again
    assert not runs(pid)


async def test_an_abandoned_worker_ends_alone(tmp_path: Path) -> None:
    with trio.fail_after(60):
        pid = await killed_node(tmp_path, orphan_s=0.1)
        await until(lambda: not runs(pid))


async def test_a_worker_with_other_models_is_not_taken_over(tmp_path: Path) -> None:
    with trio.fail_after(60):
        pid = await killed_node(tmp_path)
    other = hollow_model(tmp_path / "other", b"other weights")
    async with running(config_in(tmp_path, models=(other,))) as worker:
        assert await worker.generate(A, spec_for(worker), ignore)
        assert worker.pid != pid
        assert not runs(pid)


async def test_a_worker_that_cannot_start_loses_what_waits_for_it(tmp_path: Path) -> None:
    async with running(config_in(tmp_path, program=(sys.executable, "-c", "raise SystemExit(5)"))) as worker:
        with pytest.raises(WorkerLost, match="5"):
            await worker.generate(A, spec_for(worker), ignore)


async def test_a_worker_that_cannot_serve_stops_the_node(tmp_path: Path) -> None:
    with trio.fail_after(60), pytest.RaisesGroup(Misconfigured):
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker(config_in(tmp_path, device="missing")).run)


async def test_a_folder_that_is_no_model_stops_the_node(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Misconfigured, match="model_index")):
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker(WorkerConfig(tmp_path, (tmp_path,))).run)


def test_a_socket_has_a_short_private_place(tmp_path: Path) -> None:
    near = socket_path(tmp_path / "node", "worker")
    assert near == tmp_path / "node" / "worker.sock"
    assert near.parent.stat().st_mode & 0o777 == 0o700
    deep = tmp_path / ("d" * 120)
    far = socket_path(deep, "worker")
    assert far == socket_path(deep, "worker") != socket_path(tmp_path / ("e" * 120), "worker")
    assert len(os.fsencode(far)) <= MAX_SOCKET_PATH
    assert far.parent.stat().st_mode & 0o777 == 0o700
    far.touch()
    remove_socket(far)
    assert not far.parent.exists()
    near.touch()
    remove_socket(near)
    assert near.parent.exists()  # a data directory stays
    elsewhere = socket_path(tmp_path / ("e" * 120), "worker").parent
    elsewhere.rmdir()
    elsewhere.symlink_to(tmp_path)
    with pytest.raises(Misconfigured):
        socket_path(tmp_path / ("e" * 120), "worker")
    elsewhere.unlink()


async def test_the_node_imports_no_model_library(tmp_path: Path) -> None:
    source = "import sys, compute.workerlink, compute.work; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    with trio.fail_after(60):
        done = await trio.run_process([sys.executable, "-c", source], check=False)
    assert done.returncode == 0
