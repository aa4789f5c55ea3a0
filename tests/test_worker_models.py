"""Several models on one worker, as real processes with a pretended device: warm ones go on while others load."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from compute.spec import JobSpec
from compute.work import Step, WorkerLost
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from p2p.errors import Refused
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import hollow_model
from tests.support.pretend_worker import PICTURE

pytestmark = pytest.mark.live
PROGRAM = (sys.executable, str(Path(__file__).parent / "support" / "pretend_worker.py"))
A, B, C = job_id("a"), job_id("b"), job_id("c")


def config_in(folder: Path, *names: str, **changes: Any) -> WorkerConfig:
    """A worker of models of 75 bytes, each with weights of its own."""
    models = tuple(folder / "models" / name for name in names)
    for model in models:
        hollow_model(model, model.name.ljust(7).encode())
    return replace(WorkerConfig(folder, models, program=PROGRAM), **changes)


@asynccontextmanager
async def running(config: WorkerConfig) -> AsyncIterator[Worker]:
    worker = Worker(config)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


def spec_for(worker: Worker, name: str, prompt: str = "a red circle") -> JobSpec:
    (model,) = {entry.model for entry in worker.capability().models if entry.name == name}
    return job_spec(model, prompt=prompt)


def ignore(step: Step) -> None: ...


def warm(worker: Worker) -> set[str]:
    return {entry.name for entry in worker.capability().models if entry.warm}


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
        await trio.sleep(0.01)


async def test_a_model_that_loads_holds_up_no_warm_one(tmp_path: Path) -> None:
    config = config_in(tmp_path, "quick", "slow")
    (tmp_path / "models" / "slow" / "slowly").touch()
    async with running(config) as worker, trio.open_nursery() as nursery:
        heard: list[Step] = []
        slow_done = trio.Event()

        async def cold() -> None:
            result = await worker.generate(A, spec_for(worker, "slow"), heard.append)
            assert result.artifacts[0].data == PICTURE
            slow_done.set()

        nursery.start_soon(cold)
        for name in (B, C):
            assert (await worker.generate(name, spec_for(worker, "quick"), ignore)).artifacts[0].data == PICTURE
        await until(lambda: len(heard) > 1)
        assert not slow_done.is_set()
        assert warm(worker) == {"quick"}
        assert all(step.loading and step.step == 0 and step.eta_ms > 0 for step in heard)
        assert heard[-1].eta_ms < heard[0].eta_ms
        (tmp_path / "traces" / "worker" / "load-slow").touch()
        await slow_done.wait()
        assert [step.step for step in heard if not step.loading] == [0, 1, 2, 3, 4]
        assert warm(worker) == {"quick", "slow"}


async def test_models_take_turns_in_a_memory_that_holds_one(tmp_path: Path) -> None:
    async with running(config_in(tmp_path, "one", "two", memory=140)) as worker:
        for job, name in ((A, "one"), (B, "two"), (C, "one")):
            assert await worker.generate(job, spec_for(worker, name), ignore)
            await until(lambda name=name: warm(worker) == {name})


async def test_a_pinned_model_stays_and_what_does_not_fit_beside_it_is_refused(tmp_path: Path) -> None:
    async with running(config_in(tmp_path, "one", "two", memory=140)) as worker:
        one, two = spec_for(worker, "one"), spec_for(worker, "two").shape.model
        worker.pin(two, True)
        await until(lambda: warm(worker) == {"two"})
        assert [one.pinned for one in worker.shelved() if one.model == two] == [True]
        assert [one.place for one in worker.shelved() if one.model != two] == ["no-room"]
        assert {entry.name for entry in worker.capability().models} == {"two"}
        with pytest.raises(Refused, match="NO_MODEL"):
            await worker.generate(A, one, ignore)
        worker.pin(two, False)
        await until(lambda: not any(one.pinned for one in worker.shelved()))
        assert await worker.generate(A, spec_for(worker, "one"), ignore)


async def test_a_pin_outlives_the_worker_process(tmp_path: Path) -> None:
    async with running(config_in(tmp_path, "one", "two", memory=140)) as worker:
        two = spec_for(worker, "two").shape.model
        worker.pin(two, True)
        await until(lambda: warm(worker) == {"two"})
        pid = worker.pid
        with pytest.raises(WorkerLost):
            await worker.generate(A, spec_for(worker, "two", "die"), ignore)
        await until(lambda: worker.pid not in (None, pid) and warm(worker) == {"two"})


async def test_a_broken_model_fails_its_jobs_and_is_no_longer_said_to_run_here(tmp_path: Path) -> None:
    config = config_in(tmp_path, "whole", "torn")
    (tmp_path / "models" / "torn" / "broken").touch()
    async with running(config) as worker:
        torn = spec_for(worker, "torn")
        with pytest.raises((WorkerLost, Refused), match=r"BROKEN|NO_MODEL"):
            await worker.generate(A, torn, ignore)
        await until(lambda: {entry.name for entry in worker.capability().models} == {"whole"})
        with pytest.raises(Refused, match="NO_MODEL"):
            await worker.generate(B, torn, ignore)
        assert await worker.generate(C, spec_for(worker, "whole"), ignore)


async def test_a_job_given_up_while_its_model_loads_leaves_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path, "slow")
    (tmp_path / "models" / "slow" / "slowly").touch()
    async with running(config) as worker:
        with trio.CancelScope() as scope:
            await worker.generate(A, spec_for(worker, "slow"), lambda step: scope.cancel())
        assert worker.queue_depth == 0
        (tmp_path / "traces" / "worker" / "load-slow").touch()
        assert await worker.generate(B, spec_for(worker, "slow"), ignore)
