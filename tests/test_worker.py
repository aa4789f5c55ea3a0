"""A node and its worker as real processes, with a pretended device: results, cancels, deaths, and coming back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from compute.work import JobResult, Step, WorkerLost
from compute.workerchild import MAX_SOCKET_PATH, WorkerConfig, remove_socket, socket_path
from compute.workerlink import Worker
from p2p.errors import Misconfigured
from tests.contracts import worker as contract
from tests.contracts.worker import A, B, C, config_in, ignore, runs, spec_for, until
from tests.support.job_specs import job_id
from tests.support.model_folders import hollow_model
from tests.support.pretend_worker import PICTURE

pytestmark = pytest.mark.live


@asynccontextmanager
async def running(config: WorkerConfig) -> AsyncIterator[Worker]:
    worker = Worker(config)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("check", contract.CHECKS)
async def test_contract(tmp_path: Path, check: Callable[[contract.Stand], Awaitable[None]]) -> None:
    async with running(config_in(tmp_path)) as worker:
        await check(contract.Stand(worker, tmp_path / "traces" / "worker"))


async def test_a_stuck_or_swollen_worker_is_killed(tmp_path: Path) -> None:
    async with running(config_in(tmp_path, **contract.IMPATIENT)) as worker:
        await contract.check_a_stuck_or_swollen_worker_is_killed(contract.Stand(worker, tmp_path / "traces" / "worker"))


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


async def test_models_are_said_before_they_are_warm(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as worker:
        assert not worker.capability().models[0].warm


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
from tests.contracts.worker import A, B, C, config_in, spec_for
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
