"""Steps that several jobs share: each row as diffusers' own scheduler would, each job as if it were alone."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from compute.calibration import calibrate
from compute.capability import Dtype
from compute.modelfolder import bundled, read_folder
from compute.offline import go_offline, hush
from compute.openjob import OpenJob
from compute.samplers import Ddim, Euler, FlowEuler
from compute.spec import JobSpec
from compute.trace import FINISHED
from compute.tracestore import TraceStore
from p2p.errors import Misconfigured, Refused
from tests.support.alone import run_alone
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import SCHEDULER, random_model

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()
import diffusers  # noqa: E402 - after the environment is set

from compute.device import PUT_OFFS, Device  # noqa: E402
from compute.pipelines.text_to_image import TextToImage, decode_png  # noqa: E402
from compute.schedule import Schedule  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),  # diffusers' Euler
]
TOLERANCE = 2e-5  # of latents, between a batch and alone, in single precision
COLOURS = ("red", "blue", "green")
PLAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
KINDS: list[tuple[str, dict[str, Any], type]] = [
    ("DDIMScheduler", SCHEDULER, Ddim),
    ("DDIMScheduler", {**PLAIN, "prediction_type": "epsilon", "steps_offset": 1, "set_alpha_to_one": False}, Ddim),
    ("EulerDiscreteScheduler", {**PLAIN, "prediction_type": "epsilon", "timestep_spacing": "linspace"}, Euler),
    ("EulerDiscreteScheduler", {**PLAIN, "prediction_type": "epsilon", "use_karras_sigmas": True}, Euler),
    ("EulerDiscreteScheduler", {**SCHEDULER, "timestep_spacing": "trailing"}, Euler),
    ("EulerDiscreteScheduler", {**PLAIN, "prediction_type": "v_prediction", "timestep_spacing": "leading"}, Euler),
    ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000, "shift": 3.0}, FlowEuler),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def device(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    entry = read_folder(folder)
    return Device("cpu", Dtype.FP32, (entry,), TraceStore(tmp_path_factory.mktemp("traces")), 0, lambda change: None)


# -- samplers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("name", "config", "kind"), KINDS)
def test_each_step_is_the_library_s_to_the_last_bit(
    name: str, config: dict[str, Any], kind: type, dtype: str, steps: int
) -> None:
    sampler = Schedule(name, config).sampler(steps)
    assert isinstance(sampler, kind)
    plain = {key: value for key, value in config.items() if key not in ("_class_name", "clip_sample")}
    theirs = getattr(diffusers, name).from_config(plain, **({"clip_sample": False} if kind is Ddim else {}))
    theirs.set_timesteps(steps)
    assert [float(t) for t in theirs.timesteps] == list(sampler.timesteps)
    chance = torch.Generator().manual_seed(steps)
    latents = torch.randn(1, 4, 8, 8, generator=chance).mul(sampler.first_scale).to(getattr(torch, dtype))
    if kind is not FlowEuler:
        assert float(theirs.init_noise_sigma) == sampler.first_scale
    for index, timestep in enumerate(theirs.timesteps):
        told = torch.randn(1, 4, 8, 8, generator=chance).to(latents.dtype)
        if kind is not FlowEuler:
            shown = theirs.scale_model_input(latents, timestep)
            assert torch.equal(sampler.shown(latents, index), shown)
        expected = theirs.step(told, timestep, latents, return_dict=False)[0]
        ours = sampler.after(latents, told, index)
        assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
        assert torch.equal(torch.nan_to_num(ours), torch.nan_to_num(expected))
        latents = torch.nan_to_num(expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("DDIMScheduler", {"thresholding": True}),
        ("EulerDiscreteScheduler", {"prediction_type": "sample"}),
        ("EulerDiscreteScheduler", {"beta_schedule": "no such"}),
    ],
)
def test_a_schedule_that_cannot_be_stepped_alone_is_refused(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="schedule"):
        Schedule(name, config)


def test_another_scheduler_becomes_ddim_and_counts_have_limits() -> None:
    schedule = Schedule("PNDMScheduler", {**PLAIN, "skip_prk_steps": True, "steps_offset": 1})
    assert isinstance(schedule.sampler(50), Ddim)
    assert schedule.sampler(50) is schedule.sampler(50)
    with pytest.raises(Refused, match="TOO_MANY_STEPS"):
        schedule.sampler(1001)
    with pytest.raises(Refused, match="STEPS_UNSERVED"):
        schedule.sampler(1000)  # with its offset, the first would lie past the last one trained


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_folder_chooses_its_sampler_and_each_step_stands_alone(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = {"num_train_timesteps": 1000} if name.startswith("Flow") else {**PLAIN, "steps_offset": 1}
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **config}))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
    device = Device("cpu", Dtype.FP32, (read_folder(copy),), TraceStore(tmp_path / "traces"), 0, lambda change: None)
    spec = job_spec(read_folder(copy).model, steps=5)
    assert type(device.load(spec.shape.model).schedule.sampler(5)) in (Euler, FlowEuler)
    run_alone(device, job_id(name), spec)
    leaves = device._traces.open(job_id(name), range(6))
    assert [leaf.timestep for leaf in leaves[:-1]] == sorted({leaf.timestep for leaf in leaves[:-1]}, reverse=True)
    assert leaves[-1].timestep == FINISHED
    for before, after in pairwise(leaves):
        replay = device.replay_step(spec, before.index, Dtype.FP32, before.raw, after.raw)
        assert replay.max_diff_nano < TOLERANCE * 1e9


# -- jobs that share steps ---------------------------------------------------------------------------------------------


def specs(folder: Path) -> list[JobSpec]:
    """Different prompts, seeds, step counts, and guidance; one is not guided."""
    model = read_folder(folder).model
    return [
        job_spec(model, prompt="a red circle", seed=1, steps=6),
        job_spec(model, prompt="a blue square", seed=2, steps=3, guidance=7000, negative="red"),
        job_spec(model, prompt="", seed=3, steps=9, guidance=1000),
    ]


def assert_alike(device: Device, number: int, spec: JobSpec) -> None:
    """The two traces of one job, alone and shared, agree at every leaf."""
    names = job_id(f"alone {number}"), job_id(f"shared {number}")
    ours, theirs = (device._traces.open(name, range(spec.shape.steps + 1)) for name in names)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.timestep, one.dtype) == (other.timestep, other.dtype)
        assert np.abs(np.frombuffer(one.raw, "<f4") - np.frombuffer(other.raw, "<f4")).max() < TOLERANCE


def test_jobs_that_join_and_leave_a_batch_come_out_as_alone(device: Device, folder: Path) -> None:
    alone = [run_alone(device, job_id(f"alone {n}"), spec) for n, spec in enumerate(specs(folder))]
    waiting = [device.begin(job_id(f"shared {n}"), spec) for n, spec in enumerate(specs(folder))]
    assert len({job.group for job in waiting}) == 1
    together: list[OpenJob] = []
    shared = {}
    while waiting or together:
        together += waiting[:1]  # one more joins at each step
        del waiting[:1]
        device.advance(together)
        for job in [job for job in together if job.finished]:
            together.remove(job)
            shared[job.job_id] = device.end(job)
    for number, (before, spec) in enumerate(zip(alone, specs(folder), strict=True)):
        assert_alike(device, number, spec)
        after = shared[job_id(f"shared {number}")]
        pictures = [decode_png(done.artifacts[0].data, 64, 64).astype(int) for done in (before, after)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.skipif(not (bundled() / "model_index.json").is_file(), reason="the bundled model is not in this checkout")
def test_the_bundled_model_draws_the_same_in_company(tmp_path: Path) -> None:
    entry = read_folder(bundled())
    device = Device("cpu", Dtype.FP32, (entry,), TraceStore(tmp_path), 0, lambda change: None)
    wanted = [
        job_spec(entry.model, prompt=f"a {colour} circle", seed=n, steps=3 + n) for n, colour in enumerate(COLOURS)
    ]
    alone = [run_alone(device, job_id(f"alone {n}"), spec) for n, spec in enumerate(wanted)]
    jobs = [device.begin(job_id(f"shared {n}"), spec) for n, spec in enumerate(wanted)]
    while going := [job for job in jobs if not job.finished]:
        device.advance(going)
    for number, (job, before) in enumerate(zip(jobs, alone, strict=True)):
        shared = device.end(job)
        assert_alike(device, number, job.spec)
        pictures = [decode_png(done.artifacts[0].data, 64, 64).astype(int) for done in (before, shared)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_a_batch_that_fails_leaves_its_jobs_as_they_were(device: Device, folder: Path) -> None:
    jobs = [device.begin(job_id(f"whole {n}"), spec) for n, spec in enumerate(specs(folder)[:2])]
    pipeline = jobs[0].pipeline

    class Full:
        def step_together(self, turns: Any) -> Any:
            raise RuntimeError("out of memory")

    device.advance(jobs)
    before = [(job.index, job.latents) for job in jobs]
    full: Any = Full()
    jobs[0].pipeline = full
    with pytest.raises(RuntimeError):
        device.advance(jobs)
    assert [(job.index, job.latents) for job in jobs] == before
    jobs[0].pipeline = pipeline
    for job in jobs:
        while not job.finished:
            device.advance([job])
        device.end(job)


def test_sizes_and_models_do_not_mix(device: Device, folder: Path) -> None:
    model = read_folder(folder).model
    small, large = (device.begin(job_id(f"side {side}"), job_spec(model, side=side)) for side in (64, 128))
    try:
        assert small.group != large.group
        assert device.sharing(large.spec.shape)[0] <= device.sharing(small.spec.shape)[0]
    finally:
        device.drop(small)
        device.drop(large)


class Costly:
    """A model whose batches cost what they are told; ``full``: the size for which there is no memory."""

    def __init__(self, pipeline: TextToImage, full: int = 99) -> None:
        self.pipeline, self.full, self.sizes = pipeline, full, list[int]()

    def step_together(self, turns: Any) -> Any:
        self.sizes.append(len(turns))
        if len(turns) >= self.full:
            raise RuntimeError("CUDA out of memory")
        return [latents for _, latents, _ in turns]


def test_a_calibration_stops_where_memory_ends(device: Device, folder: Path) -> None:
    loaded = device.load(read_folder(folder).model)
    assert isinstance(loaded, TextToImage)
    run = loaded.open(specs(folder)[0])
    costly: Any = Costly(loaded, full=2)
    gains, step_s = calibrate(costly, run)
    assert gains == (100,)
    assert step_s > 0
    assert max(costly.sizes) == 2
    assert device.gains(read_folder(folder).model)[0] == 100


def test_a_calibration_makes_way_for_jobs_a_few_times(folder: Path, tmp_path: Path) -> None:
    model = read_folder(folder).model
    device = Device("cpu", Dtype.FP32, (read_folder(folder),), TraceStore(tmp_path), 0, lambda change: None)
    device.load(model)
    for _ in range(PUT_OFFS):
        assert device.calibrate(wanted=lambda: True)
        assert (model, torch.get_num_threads()) not in device._gains_of
    assert device.calibrate(wanted=lambda: True)
    assert device.gains(model)[0] == 100
    assert not device.calibrate(wanted=lambda: True)
