"""One real worker on a model with random weights: from the node's question to a picture that can be checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from compute.spec import JobSpec
from compute.trace import verify_leaf
from compute.work import Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from p2p.errors import Refused
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import random_model

pytest.importorskip("torch")
np = pytest.importorskip("numpy")
pytestmark = pytest.mark.live
A, B = job_id("a"), job_id("b")


async def test_a_worker_draws_proves_cancels_and_stays_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = random_model(tmp_path / "random")
    capfd.readouterr()
    worker = Worker(WorkerConfig(tmp_path / "node", (model,), device="cpu", threads=1))
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            await draw_and_prove(worker)
            await share(worker)
            await cancel(worker)
            nursery.cancel_scope.cancel()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


async def draw_and_prove(worker: Worker) -> None:
    spec = job_spec(worker.capability().models[0].model, steps=3)
    steps: list[Step] = []
    result = await worker.generate(A, spec, steps.append)
    assert [step.step for step in steps if not step.loading] == [0, 1, 2, 3]
    picture = result.artifacts[0]
    assert (picture.media_type, picture.data[:8]) == ("image/png", b"\x89PNG\r\n\x1a\n")
    entry = worker.capability().models[0]
    assert entry.warm
    assert entry.units_per_second > 0
    assert entry.load_ms > 0
    leaves = await worker.open_trace(A, range(4))
    assert all(verify_leaf(result.trace_root, A, 3, leaf) for leaf in leaves)
    assert (await worker.replay_start(spec, leaves[0])).max_diff_nano == 0
    assert (await worker.replay_step(spec, leaves[1], leaves[2])).max_diff_nano < 100_000
    assert (await worker.replay_step(spec, leaves[0], leaves[2])).max_diff_nano > 100_000
    assert (await worker.replay_picture(spec, leaves[3], picture.data)).max_diff_nano < 10**7
    with pytest.raises(Refused, match="BAD_PICTURE"):
        await worker.replay_picture(spec, leaves[3], b"no picture")


async def share(worker: Worker) -> None:
    """Two jobs of a real model at the same time, one of which joins late: what each gives is what it gives alone."""
    model = worker.capability().models[0].model
    assert worker.gains(model)[0] == 100
    long, short = job_spec(model, seed=1, steps=40), job_spec(model, seed=2, steps=8, prompt="a blue square")
    order: list[str] = []
    under_way = trio.Event()

    def on_step(step: Step) -> None:
        order.append("long")
        if step.step == 5:
            under_way.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.generate, job_id("long"), long, on_step)
        await under_way.wait()
        await worker.generate(job_id("short"), short, lambda step: order.append("short"))
    assert "long" in order[order.index("short") : len(order) - order[::-1].index("short")]  # in turns, or together
    for name, spec in (("long", long), ("short", short)):
        await worker.generate(job_id(f"{name} alone"), spec, lambda step: None)
        shared, alone = [await worker.open_trace(job_id(n), [spec.shape.steps]) for n in (name, f"{name} alone")]
        ours, theirs = (np.frombuffer(leaves[0].raw, "<f4") for leaves in (shared, alone))
        assert np.abs(ours - theirs).max() < 2e-5


async def cancel(worker: Worker) -> None:
    long: JobSpec = job_spec(worker.capability().models[0].model, side=256, steps=1000)
    pid = worker.pid
    with trio.CancelScope() as scope:
        await worker.generate(B, long, lambda step: scope.cancel() if step.step == 2 else None)
    assert scope.cancelled_caught
    assert await worker.generate(job_id("c"), job_spec(long.shape.model, steps=1), lambda step: None)
    assert worker.pid == pid
