"""A damaged weight file is a typed refusal by every loader, and the worker goes on with its other models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from compute.capability import Dtype
from compute.imagefile import read_picture
from compute.modelfolder import bundled, bundled_names, read_folder
from compute.offline import go_offline, hush
from compute.spec import UPSCALE, VERIFY_STEP
from compute.work import WorkerLost
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from compute.yardstick import shape_of, yardstick
from p2p.errors import Misconfigured, Refused
from tests.support.damage import DAMAGES, copied, half_a_sign, weights_of
from tests.support.job_specs import job_id, job_spec

go_offline()
pytest.importorskip("torch")
hush()

from compute.device import pipeline_class  # noqa: E402 - after the environment is set


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", [name for name in bundled_names() if weights_of(bundled(name))])
def test_every_loader_refuses_damaged_weights_in_one_way(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    entry = read_folder(bundled(name))
    each = range(len(weights_of(bundled(name))) if damage is half_a_sign else 1)
    for number in each:
        folder = copied(bundled(name), tmp_path / str(number))
        damage(weights_of(folder)[number])
        with pytest.raises(Misconfigured, match="cannot be loaded"):
            pipeline_class(entry.pipeline).load(folder, device="cpu", dtype=Dtype.FP32)


@pytest.mark.prove
@pytest.mark.live
async def test_a_worker_refuses_jobs_of_a_damaged_model_and_goes_on_with_the_others(tmp_path: Path) -> None:
    damaged = copied(bundled("tiny"), tmp_path / "damaged")
    for path in weights_of(damaged):
        half_a_sign(path)  # what a reader of headers lets pass, and no library reads
    models = (damaged, bundled("tiny-upscaler"))
    worker = Worker(WorkerConfig(tmp_path / "node", models, device="cpu", threads=1))
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            broken, *_, whole = worker.capability().models
            with pytest.raises((Refused, WorkerLost), match=r"BROKEN_MODEL|NO_MODEL"):
                await worker.generate(job_id("a"), job_spec(broken.model), lambda step: None)
            pid = worker.pid
            spec, files = yardstick(shape_of(UPSCALE, whole.model, 0), bytes(16))
            for name in ("b", "c"):
                made = await worker.generate(job_id(name), spec, lambda step: None, files)
                assert read_picture(made.artifacts[0].data).size == (256, 256)
            assert {entry.pipeline for entry in worker.capability().models} == {UPSCALE, VERIFY_STEP}
            with pytest.raises(Refused, match="NO_PIPELINE"):
                await worker.generate(job_id("d"), job_spec(broken.model), lambda step: None)
            assert worker.pid == pid
            nursery.cancel_scope.cancel()
