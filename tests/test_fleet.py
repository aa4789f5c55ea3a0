"""Several devices behind one machine: real worker processes with pretended devices, and a guest over TLS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from compute import doorway, fleet
from compute.digestcache import DigestCache
from compute.doorway import Doorway
from compute.fleet import Fleet
from compute.served import read_folders
from compute.trace import verify_leaf
from compute.work import JobResult, Step, WorkerLost
from p2p.errors import Misconfigured, Refused
from tests.contracts.worker import IMPATIENT, A, B, C, config_in, ignore, opens, runs, until
from tests.support.far_worker import key_of, outpost_of
from tests.support.job_specs import job_id, job_spec
from tests.support.pretend_worker import PICTURE

pytestmark = pytest.mark.live
NAMES = ("worker-1", "worker-2")


def fleet_in(folder: Path, count: int = 2, each: int = 1, door: Doorway | None = None, **changes: Any) -> Fleet:
    config = config_in(folder, **changes)
    configs = [replace(config, name=name) for name in NAMES[:count]]
    return Fleet(configs, partial(read_folders, config.models, DigestCache(config.digests)), each, door)


@asynccontextmanager
async def running(machine: Fleet) -> AsyncIterator[Fleet]:
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            yield machine
            nursery.cancel_scope.cancel()


def spec_for(machine: Fleet, prompt: str = "a red circle") -> Any:
    return job_spec(machine.capability().models[0].model, prompt=prompt)


def go(folder: Path) -> None:
    for traces in (folder / "traces").iterdir():
        if traces.is_dir():  # beside them lie the marks of what happened once
            (traces / "go").touch()


async def test_jobs_lie_on_all_devices_and_their_traces_are_found(tmp_path: Path) -> None:
    async with running(fleet_in(tmp_path)) as machine:
        assert (machine.slots, len(machine.workers)) == (2, 2)
        await until(lambda: all(worker.connected for worker in machine.workers))
        pids = {worker.pid for worker in machine.workers}
        gates, results = [trio.Event(), trio.Event()], dict[bytes, JobResult]()

        async def one(job: bytes, gate: trio.Event) -> None:
            results[job] = await machine.generate(job, spec_for(machine, "wait"), opens(gate))

        async with trio.open_nursery() as nursery:
            for job, gate in zip((A, B), gates, strict=True):
                nursery.start_soon(one, job, gate)
                await gate.wait()
            assert [worker.queue_depth for worker in machine.workers] == [1, 1]
            assert machine.queue_depth == 2
            with pytest.raises(Refused, match="RUNNING"):
                await machine.generate(A, spec_for(machine, "wait"), ignore)
            go(tmp_path)
        for job, result in results.items():
            (leaf,) = await machine.open_trace(job, [1])
            assert verify_leaf(result.trace_root, job, 4, leaf)
        with pytest.raises(Refused, match="NO_TRACE"):
            await machine.open_trace(C, [1])
        assert {worker.pid for worker in machine.workers} == pids
        spec = spec_for(machine)
        assert machine.crowded_ms(spec.shape, 2) == machine.workers[0].crowded_ms(spec.shape, 1)
        model = spec.shape.model
        machine.pin(model, True)
        await until(lambda: machine.shelved() and machine.shelved()[0].pinned)
        with pytest.raises(Refused, match="NO_MODEL"):
            await machine.generate(C, job_spec(b"x" * 32), ignore)


@pytest.mark.parametrize(
    "prompt", ["die once", *(pytest.param(one, marks=pytest.mark.prove) for one in ("hang once", "swell once"))]
)
async def test_a_job_whose_worker_died_of_it_runs_once_more_elsewhere(tmp_path: Path, prompt: str) -> None:
    async with running(fleet_in(tmp_path, **IMPATIENT)) as machine:
        await until(lambda: all(worker.connected for worker in machine.workers))
        pids = {worker.pid for worker in machine.workers}
        result = await machine.generate(A, spec_for(machine, prompt), ignore)
        assert result.artifacts[0].data == PICTURE
        died = [pid for pid in pids if pid is not None and not runs(pid)]
        assert len(died) == 1
        await until(lambda: all(worker.connected for worker in machine.workers))  # and it is there again
        assert await machine.generate(B, spec_for(machine), ignore)


@pytest.mark.prove
@pytest.mark.parametrize("prompt", ["die", "full"])
async def test_a_job_that_kills_twice_is_given_up_and_nobody_else_is(tmp_path: Path, prompt: str) -> None:
    async with running(fleet_in(tmp_path)) as machine:
        gate, results = trio.Event(), list[JobResult]()

        async def beside() -> None:
            """Its worker may die of the other job, once."""
            results.append(await machine.generate(B, spec_for(machine, "wait"), opens(gate)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
            await gate.wait()
            with pytest.raises(WorkerLost):
                await machine.generate(A, spec_for(machine, prompt), ignore)
            go(tmp_path)
        assert results[0].artifacts[0].data == PICTURE


@pytest.mark.prove
async def test_a_death_among_several_jobs_of_one_device_loses_none_the_first_time(tmp_path: Path) -> None:
    async with running(fleet_in(tmp_path, count=1, each=4)) as machine:
        await machine.generate(C, spec_for(machine), ignore)
        pid, gate = machine.workers[0].pid, trio.Event()

        async def waits() -> None:
            result = await machine.generate(A, spec_for(machine, "wait"), opens(gate))
            assert result.artifacts[0].data == PICTURE

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await gate.wait()
            assert await machine.generate(B, spec_for(machine, "die once"), ignore)
            go(tmp_path)
        assert machine.workers[0].pid != pid


async def test_workers_that_cannot_start_lose_what_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compute.workerlife.BACK_OFF_S", (0.01,))
    async with running(fleet_in(tmp_path, program=(sys.executable, "-c", "raise SystemExit(5)"))) as machine:
        with pytest.raises(WorkerLost, match="5"):
            await machine.generate(A, spec_for(machine), ignore)
        assert fleet.MAX_WAITS < 10


async def test_a_device_that_is_not_there_stops_the_node(tmp_path: Path) -> None:
    with trio.fail_after(60), pytest.RaisesGroup(Misconfigured, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(fleet_in(tmp_path, count=1, device="missing").run)


NODE = """
import sys, trio
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.contracts.worker import A, B, opens, until
from tests.test_fleet import fleet_in, spec_for
async def main():
    machine = fleet_in(Path({folder!r}))
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.run)
        await until(lambda: all(worker.connected for worker in machine.workers))
        for job in (A, B):
            gate = trio.Event()
            nursery.start_soon(machine.generate, job, spec_for(machine, "wait"), opens(gate))
            await gate.wait()
        print(*(worker.pid for worker in machine.workers if worker.holds(B)), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.prove
async def test_a_restarted_node_finds_each_job_on_its_device(tmp_path: Path) -> None:
    fleet_in(tmp_path)
    source = NODE.format(root=str(Path(__file__).parents[1]), folder=str(tmp_path))
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process([sys.executable, "-c", source], stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = b""
        async with process.stdout:
            while b"\n" not in said:
                said += await process.stdout.receive_some()
            process.kill()
            await process.wait()
    async with running(fleet_in(tmp_path)) as machine:
        steps: list[Step] = []

        def resume(step: Step) -> None:
            steps.append(step)
            go(tmp_path)

        result = await machine.generate(B, spec_for(machine, "wait"), resume)  # though the first device is idle too
        assert result.artifacts[0].data == PICTURE
        assert steps[0].step >= 2
        assert [worker.pid for worker in machine.workers if worker.holds(B)] == [int(said)]


async def test_a_guest_adds_its_places_and_takes_them_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "REJOIN_S", 0.0)
    door = Doorway("127.0.0.1", 0, tmp_path, away_s=0.2)
    async with running(fleet_in(tmp_path, count=1, each=2, door=door)) as machine:
        assert machine.slots == 2
        far = config_in(tmp_path / "far", models=(tmp_path / "model",), orphan_s=0.2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outpost_of(far, door.port, key_of(tmp_path)).run)
            await until(lambda: machine.slots == 4)
            await until(lambda: all(worker.connected for worker in machine.workers))
            results: list[JobResult] = []

            async def one(job: bytes) -> None:
                results.append(await machine.generate(job, spec_for(machine), ignore))

            async with trio.open_nursery() as jobs:
                for number in range(4):
                    jobs.start_soon(one, job_id(f"job {number}"))
                await until(lambda: results or all(worker.queue_depth for worker in machine.workers))
            assert len(results) == 4
            nursery.cancel_scope.cancel()
        await until(lambda: machine.slots == 2 and len(machine.workers) == 1)
        assert await machine.generate(C, spec_for(machine), ignore)


@pytest.mark.prove
async def test_a_machine_whose_devices_are_all_elsewhere_offers_nothing_until_one_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway, "REJOIN_S", 0.0)
    door = Doorway("127.0.0.1", 0, tmp_path)
    async with running(fleet_in(tmp_path, count=0, door=door)) as machine:
        assert machine.capability().models == ()
        with pytest.raises(Refused, match="NO_PIPELINE"):
            await machine.generate(A, job_spec(b"m" * 32), ignore)
        async with trio.open_nursery() as nursery:
            far = config_in(tmp_path / "far", models=(tmp_path / "model",))
            nursery.start_soon(outpost_of(far, door.port, key_of(tmp_path)).run)
            await until(lambda: machine.capability().models)
            assert await machine.generate(A, spec_for(machine), ignore)
            nursery.cancel_scope.cancel()
