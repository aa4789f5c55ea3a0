"""A picture drawn over, on a model with random weights: as the library does it, checkable, alone and in company."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Dtype
from compute.catalog import MAX_DRAWN_OVER, all_served
from compute.digest import digest_artifact
from compute.evidence import Evidence, check_spec, needed
from compute.modelfolder import read_folder
from compute.offline import go_offline, hush
from compute.spec import IMAGE_TO_IMAGE, TEXT_TO_IMAGE, UPSCALE, Input, JobSpec, Option
from compute.trace import FINISHED, verify_leaf
from compute.tracestore import TraceStore
from p2p.codec import encode
from p2p.errors import Refused
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import random_model

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()
from diffusers import (  # noqa: E402 - after the environment is set
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image  # noqa: E402

from compute.device import Device  # noqa: E402
from compute.pipelines.image_to_image import ImageToImage, length_of  # noqa: E402
from compute.pipelines.text_to_image import TextToImage, decode_png  # noqa: E402
from compute.samplers import Tail  # noqa: E402
from compute.schedule import Schedule  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),  # diffusers' Euler
]
TOLERANCE = 100_000  # billionths
PLAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToImage:
    return TextToImage.load(folder, device="cpu", dtype=Dtype.FP32)


@pytest.fixture
def device(folder: Path, tmp_path: Path) -> Device:
    return Device("cpu", Dtype.FP32, (read_folder(folder),), TraceStore(tmp_path / "traces"), 0, lambda change: None)


def png(width: int = 64, height: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(out, format="PNG")
    return out.getvalue()


def drawn_over(folder: Path, picture: bytes, strength: str = "0.5", **changes: Any) -> JobSpec:
    spec = job_spec(read_folder(folder).model, **changes)
    shape = replace(spec.shape, pipeline=IMAGE_TO_IMAGE, input_bytes=len(picture))
    given_ = (Input("image/png", len(picture), sha256(picture).digest()),)
    return replace(spec, shape=shape, inputs=given_, options=(Option("strength", strength),))


def result(pipeline: ImageToImage, spec: JobSpec, picture: bytes) -> Any:
    run = pipeline.open(spec, (picture,))
    latents = run.start()
    for index in range(spec.shape.steps):
        latents = run.step(latents, index)
    return run.pixels(latents)


@pytest.mark.parametrize(("strength", "guidance"), [(0.5, 4000), (0.75, 1000), (1.0, 4000)])
def test_the_written_out_loop_equals_the_library_s(
    model: TextToImage, folder: Path, strength: float, guidance: int
) -> None:
    library = StableDiffusionImg2ImgPipeline(**model.parts.components, requires_safety_checker=False)
    library.set_progress_bar_config(disable=True)
    picture, steps = png(), round(8 * strength)
    spec = drawn_over(folder, picture, str(strength), steps=steps, guidance=guidance, negative="blue")
    theirs = library(
        spec.prompt,
        image=Image.open(io.BytesIO(picture)),
        strength=strength,
        num_inference_steps=8,
        guidance_scale=guidance / 1000,
        negative_prompt="blue",
        generator=torch.Generator().manual_seed(spec.seed),
    ).images[0]
    assert (result(ImageToImage.on(model), spec, picture) == np.asarray(theirs)).all()


def test_input_strength_and_words_all_count(model: TextToImage, folder: Path) -> None:
    pipeline, picture, other = ImageToImage.on(model), png(), png(72, 64)
    spec = drawn_over(folder, picture)
    same = result(pipeline, spec, picture)
    assert (result(pipeline, spec, picture) == same).all()
    for changed, file in (
        (drawn_over(folder, other), other),
        (drawn_over(folder, picture, "0.9"), picture),
        (drawn_over(folder, picture, prompt="a blue square"), picture),
        (drawn_over(folder, picture, seed=8), picture),
    ):
        assert (result(pipeline, changed, file) != same).any()


def test_at_full_strength_nothing_of_the_picture_is_left_and_near_none_all_of_it(
    model: TextToImage, folder: Path
) -> None:
    pipeline, picture = ImageToImage.on(model), png()
    full = pipeline.open(drawn_over(folder, picture, "1", steps=4), (picture,))
    assert torch.equal(full.start(), model.open(job_spec(read_folder(folder).model)).start())
    none = pipeline.open(drawn_over(folder, picture, "0", steps=1), (picture,))
    assert none.coded is not None
    assert float((none.start() - none.coded).norm() / none.noise().norm()) < 0.2


@given(st.integers(1, 1000), st.floats(0, 1), st.integers(1, 1000))
def test_the_steps_that_are_run_are_the_wished_share_of_the_schedule(steps: int, strength: float, longest: int) -> None:
    length = length_of(min(steps, longest), strength, longest)
    assert min(steps, longest) <= length <= longest
    if length < longest:
        assert abs(min(steps, longest) - strength * length) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (DDIMScheduler, "DDIMScheduler"),
        (EulerDiscreteScheduler, "EulerDiscreteScheduler"),
        (FlowMatchEulerDiscreteScheduler, "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_every_sampler_begins_later_as_the_library_does_and_tells_what_was_seen(scheduler: Any, name: str) -> None:
    config = {"num_train_timesteps": 1000} if "Flow" in name else PLAIN
    theirs, ours = scheduler.from_config(config), Tail(Schedule(name, config).sampler(10), 4)
    theirs.set_timesteps(10)
    generator = torch.Generator().manual_seed(1)
    picture, noise = (torch.randn((1, 4, 8, 8), generator=generator) for _ in range(2))
    if name != "DDIMScheduler":
        theirs.set_begin_index(4)
    at, begun = theirs.timesteps[4:5], ours.noised(picture, noise, 0)
    mixed = theirs.scale_noise(picture, at, noise) if "Flow" in name else theirs.add_noise(picture, noise, at)
    assert torch.equal(begun, mixed)
    assert ours.timesteps == tuple(theirs.timesteps[4:].tolist())
    for index in range(6):  # what the model tells when it knows picture and noise: the velocity of flow, else the noise
        before = ours.noised(picture, noise, index)
        told = noise - picture if "Flow" in name else noise
        after = ours.after(before, told, index)
        assert torch.allclose(ours.picture(before, after, index), picture, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ((Option("strength", "2"),), 1),
        ((Option("strength", "-0.1"),), 1),
        ((Option("strength", "nan"),), 1),
        ((Option("strength", "much"),), 1),
        ((Option("loud", "1"), Option("strength", "0.5")), 1),
        ((Option("strength", "0.5"),), 2),
    ],
)
def test_what_cannot_be_is_refused(model: TextToImage, folder: Path, options: tuple[Option, ...], files: int) -> None:
    picture = png()
    spec = replace(drawn_over(folder, picture), options=options)
    with pytest.raises(Refused, match="BAD_INPUT"):
        ImageToImage.on(model).open(spec, (picture,) * files)


def test_what_is_no_picture_or_too_large_is_refused_unread(model: TextToImage, folder: Path) -> None:
    wide = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    for data, code in ((b"nothing", "BAD_PICTURE"), (wide, "PICTURE_TOO_LARGE"), (png()[:-40], "BAD_PICTURE")):
        with pytest.raises(Refused, match=code):
            ImageToImage.on(model).open(drawn_over(folder, data), (data,))
    with pytest.raises(Refused, match="TOO_MANY_STEPS"):
        ImageToImage.on(model).open(drawn_over(folder, png(), steps=1001), (png(),))
    with pytest.raises(Refused, match="PICTURE_TOO_LARGE"):
        ImageToImage.on(model).open(drawn_over(folder, png()), (bytes(MAX_DRAWN_OVER + 1),))


def test_a_picture_of_another_size_is_fitted(model: TextToImage, folder: Path) -> None:
    picture = png(200, 120)
    assert result(ImageToImage.on(model), drawn_over(folder, picture, steps=1), picture).shape == (64, 64, 3)


def test_one_loaded_model_serves_both_and_their_jobs_share_steps(device: Device, folder: Path) -> None:
    picture = png()
    over, drawn = drawn_over(folder, picture, steps=5), job_spec(read_folder(folder).model, steps=3)

    def alone(name: str, spec: JobSpec, files: tuple[bytes, ...]) -> Any:
        job = device.begin(job_id(name), spec, files)
        while not job.finished:
            device.advance([job])
        return decode_png(device.end(job).artifacts[0].data, 64, 64).astype(int)

    apart = [alone("a", over, (picture,)), alone("b", drawn, ())]
    assert len(device._loaded) == 1
    jobs = [device.begin(job_id("c"), over, (picture,)), device.begin(job_id("d"), drawn)]
    assert jobs[0].group == jobs[1].group
    while going := [job for job in jobs if not job.finished]:
        device.advance(going)
    for job, before in zip(jobs, apart, strict=True):
        after = decode_png(device.end(job).artifacts[0].data, 64, 64).astype(int)
        assert np.abs(after - before).max() <= 1


def test_its_trace_can_be_checked_from_the_picture_to_the_picture(device: Device, folder: Path) -> None:
    picture = png()
    spec = drawn_over(folder, picture, steps=4)
    job = device.begin(job_id("a"), spec, (picture,))
    while not job.finished:
        device.advance([job])
    done = device.end(job)
    leaves = device._traces.open(job_id("a"), range(5))
    assert all(verify_leaf(done.trace_root, job_id("a"), 4, leaf) for leaf in leaves)
    assert leaves[-1].timestep == FINISHED
    assert device.replay_start(spec, Dtype.FP32, leaves[0].raw, (picture,)).max_diff_nano == 0
    assert device.replay_start(spec, Dtype.FP32, leaves[0].raw, (png(72, 64),)).max_diff_nano > TOLERANCE
    for before, after in pairwise(leaves):
        assert device.replay_step(spec, before.index, Dtype.FP32, before.raw, after.raw).max_diff_nano < TOLERANCE
    other = replace(spec, options=(Option("strength", "0.9"),))
    assert device.replay_step(other, 0, Dtype.FP32, leaves[0].raw, leaves[1].raw).max_diff_nano > TOLERANCE
    assert device.replay_picture(spec, Dtype.FP32, leaves[-1].raw, done.artifacts[0].data).max_diff_nano < 10**7
    with pytest.raises(Refused, match="BAD_INPUT"):
        device.replay_start(spec, Dtype.FP32, leaves[0].raw)


@pytest.mark.parametrize(("strength", "passes"), [("0.5", True), ("0.9", False)])
def test_a_check_of_its_steps_takes_the_picture_along(
    device: Device, folder: Path, strength: str, passes: bool
) -> None:
    picture = png()
    spec = drawn_over(folder, picture, steps=4)
    job = device.begin(job_id("a"), spec, (picture,))
    while not job.finished:
        device.advance([job])
    done = device.end(job)
    asked = replace(spec, options=(Option("strength", strength),))
    leaves = device._traces.open(job_id("a"), needed(4, (1,)))
    named = (digest_artifact(done.artifacts[0]),)
    evidence = Evidence(job_id("a"), asked, Dtype.FP32, named, done.trace_root, (1,), leaves)
    files = (encode(evidence), done.artifacts[0].data, picture)
    inputs = tuple(Input("image/png", len(data), sha256(data).digest()) for data in files)
    check = device.begin(job_id("check"), check_spec(evidence, inputs, bytes(16)), files)
    device.advance([check])
    assert json.loads(device.end(check).artifacts[0].data)["passed"] is passes


def test_no_job_without_its_picture_and_none_of_a_pipeline_that_the_model_does_not_serve(
    device: Device, folder: Path
) -> None:
    spec = drawn_over(folder, png())
    with pytest.raises(Refused, match="BAD_INPUT"):
        device.begin(job_id("a"), spec)
    with pytest.raises(Refused, match="NO_PIPELINE"):
        device.begin(job_id("a"), replace(spec, shape=replace(spec.shape, pipeline=UPSCALE)), (png(),))


def test_what_is_offered_of_one_model(folder: Path) -> None:
    drawn, over = all_served(read_folder(folder).capability(Dtype.FP32))
    assert (drawn.pipeline, drawn.max_input) == (TEXT_TO_IMAGE, 0)
    assert over == replace(drawn, pipeline=IMAGE_TO_IMAGE, max_input=MAX_DRAWN_OVER)
    assert all_served(replace(drawn, pipeline=UPSCALE)) == (replace(drawn, pipeline=UPSCALE),)
