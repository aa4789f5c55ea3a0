"""The pipeline on a model with random weights: same as the library's own, checkable step by step, bounded."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from compute.capability import Dtype, ModelCapability
from compute.modelfolder import bundled, read_folder
from compute.offline import go_offline, hush
from compute.spec import JobSpec, Verification
from compute.trace import FINISHED, TraceLeaf, verify_leaf
from compute.tracestore import TraceStore
from p2p.errors import Misconfigured, Refused
from tests.support.alone import run_alone
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import hollow_model, random_model

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()
from PIL import Image  # noqa: E402 - after the environment is set

from compute.device import Device, pick, pipeline_class  # noqa: E402
from compute.pipeline import BrokenOutput  # noqa: E402
from compute.pipelines.text_to_image import TextToImage, decode_png, encode_png  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
JOB = job_id("job")
TOLERANCE = 100_000  # billionths: 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToImage:
    return TextToImage.load(folder, device="cpu", dtype=Dtype.FP32)


@pytest.fixture
def changes() -> list[ModelCapability]:
    return []


@pytest.fixture
def device(folder: Path, tmp_path: Path, changes: list[ModelCapability]) -> Device:
    entry = read_folder(folder)
    return Device("cpu", Dtype.FP32, (entry,), TraceStore(tmp_path / "traces"), 0, changes.append)


def spec_for(folder: Path, **changes: Any) -> JobSpec:
    return job_spec(read_folder(folder).model, **changes)


def picture(model: TextToImage, spec: JobSpec) -> bytes:
    job = model.open(spec)
    latents = job.start()
    for index in range(spec.shape.steps):
        latents = job.step(latents, index)
    (artifact,) = job.finish(latents)
    return artifact.data


@pytest.mark.parametrize("guidance", [1000, 4000])
def test_the_written_out_loop_equals_the_library_s(model: TextToImage, folder: Path, guidance: int) -> None:
    spec = spec_for(folder, steps=6, guidance=guidance, negative="blue")
    theirs = model.parts(
        spec.prompt,
        width=64,
        height=64,
        num_inference_steps=6,
        guidance_scale=guidance / 1000,
        negative_prompt="blue",
        generator=torch.Generator().manual_seed(spec.seed),
    ).images[0]
    assert (decode_png(picture(model, spec), 64, 64) == np.asarray(theirs)).all()


def test_the_same_spec_gives_the_same_file_and_each_word_of_it_counts(model: TextToImage, folder: Path) -> None:
    spec = spec_for(folder)
    same = picture(model, spec)
    assert picture(model, spec) == same
    for changed in (
        spec_for(folder, seed=8),
        spec_for(folder, prompt="a blue square"),
        spec_for(folder, negative="red"),
        spec_for(folder, guidance=5000),
        spec_for(folder, steps=5),
    ):
        assert picture(model, changed) != same


@pytest.mark.parametrize("prompt", ["", "\0", "x" * 4096, "🙂 " * 50, "\u202e<end><start>"])
def test_any_prompt_makes_a_picture(model: TextToImage, folder: Path, prompt: str) -> None:
    assert picture(model, spec_for(folder, steps=1, prompt=prompt, negative=prompt))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (72, 104), (256, 64)])
def test_pictures_have_the_size_asked_for_and_nothing_but_pixels(
    model: TextToImage, folder: Path, width: int, height: int
) -> None:
    spec = spec_for(folder, steps=1)
    spec = replace(spec, shape=replace(spec.shape, width=width, height=height))
    with Image.open(io.BytesIO(picture(model, spec))) as found:
        assert (found.size, found.mode, found.info) == ((width, height), "RGB", {})


@pytest.mark.parametrize("steps", [1, 2, 61, 122, 998, 1000])
def test_every_step_count_has_its_own_schedule(model: TextToImage, folder: Path, steps: int) -> None:
    job = model.open(spec_for(folder, steps=steps))
    timesteps = job.sampler.timesteps
    assert len(timesteps) == steps
    assert list(timesteps) == sorted(set(timesteps), reverse=True)
    assert timesteps[-1] >= 0
    assert job.timestep_of(steps) == FINISHED


def test_more_steps_than_the_model_was_trained_for_are_refused(model: TextToImage, folder: Path) -> None:
    with pytest.raises(Refused, match="TOO_MANY_STEPS"):
        model.open(spec_for(folder, steps=1001))


def test_a_job_leaves_a_trace_that_can_be_checked_step_by_step(device: Device, folder: Path) -> None:
    spec, seen = spec_for(folder, steps=5), list[int]()
    done = run_alone(device, JOB, spec, seen.append)
    assert seen == [1, 2, 3, 4, 5]
    leaves = device._traces.open(JOB, range(6))
    assert all(verify_leaf(done.trace_root, JOB, 5, leaf) for leaf in leaves)
    assert device.replay_start(spec, Dtype.FP32, leaves[0].raw).max_diff_nano == 0
    for before, after in pairwise(leaves):
        assert device.replay_step(spec, before.index, Dtype.FP32, before.raw, after.raw).max_diff_nano < TOLERANCE
    replay = device.replay_picture(spec, Dtype.FP32, leaves[-1].raw, done.artifacts[0].data)
    assert replay.max_diff_nano <= 10**9 // 255 + 1  # at most one level of a byte


def test_a_tampered_leaf_is_found_twice(device: Device, folder: Path) -> None:
    spec = spec_for(folder, steps=3)
    done = run_alone(device, JOB, spec)
    before, after = device._traces.open(JOB, [1, 2])
    numbers = np.frombuffer(after.raw, "<f4").copy()
    numbers[7] += 0.01
    forged: TraceLeaf = replace(after, raw=numbers.tobytes())
    assert not verify_leaf(done.trace_root, JOB, 3, forged)
    assert device.replay_step(spec, 1, Dtype.FP32, before.raw, forged.raw).max_diff_nano > TOLERANCE


@pytest.mark.parametrize("claimed", [{"seed": 8}, {"steps": 4}, {"guidance": 2000}, {"prompt": "a blue square"}])
def test_another_job_than_the_paid_one_is_found(device: Device, folder: Path, claimed: dict[str, Any]) -> None:
    """The seller ran something cheaper or other than ``paid``; the check runs what was paid for."""
    paid = spec_for(folder, steps=3)
    ran = spec_for(folder, **{"steps": 3, **claimed})
    run_alone(device, JOB, ran)
    leaves = device._traces.open(JOB, range(4))
    worst = max(
        device.replay_start(paid, Dtype.FP32, leaves[0].raw).max_diff_nano,
        *(device.replay_step(paid, k, Dtype.FP32, leaves[k].raw, leaves[k + 1].raw).max_diff_nano for k in range(3)),
    )
    assert worst > TOLERANCE


def test_a_picture_that_is_not_the_committed_one_is_found(device: Device, folder: Path) -> None:
    spec = spec_for(folder, steps=2)
    run_alone(device, JOB, spec)
    (last,) = device._traces.open(JOB, [2])
    other = encode_png(np.full((64, 64, 3), 9, np.uint8))
    assert device.replay_picture(spec, Dtype.FP32, last.raw, other).max_diff_nano > 10**7
    for data in (b"no picture", encode_png(np.zeros((32, 64, 3), np.uint8))):
        with pytest.raises(Refused, match="BAD_PICTURE"):
            device.replay_picture(spec, Dtype.FP32, last.raw, data)


def test_claims_that_are_no_latents_are_refused_and_infinity_is_far(device: Device, folder: Path) -> None:
    spec = spec_for(folder, steps=2)
    with pytest.raises(Refused, match="BAD_LATENTS"):
        device.replay_start(spec, Dtype.FP32, b"\0" * 12)
    with pytest.raises(Refused, match="NO_STEP"):
        device.replay_step(spec, 2, Dtype.FP32, b"\0", b"\0")
    infinite = np.full(4 * 8 * 8, np.inf, "<f4").tobytes()
    assert device.replay_start(spec, Dtype.FP32, infinite).max_diff_nano > 10**18


@pytest.mark.parametrize("dtype", list(Dtype))
def test_latents_survive_their_bytes(model: TextToImage, folder: Path, dtype: Dtype) -> None:
    half = TextToImage(model.parts, "cpu", dtype)
    job = half.open(spec_for(folder))
    latents = job.start()
    raw = job.to_bytes(latents)
    assert len(raw) == 4 * 8 * 8 * dtype.size
    assert torch.equal(job.from_bytes(raw, dtype), latents)
    theirs = model.open(spec_for(folder)).from_bytes(raw, dtype)  # a checker with another number format
    assert torch.allclose(theirs, model.open(spec_for(folder)).start(), atol=2e-2)


def test_a_job_that_is_given_up_leaves_no_trace_and_keeps_the_model(
    device: Device, folder: Path, changes: list[ModelCapability]
) -> None:
    def stop(step: int) -> None:
        if step == 2:
            raise InterruptedError

    spec = spec_for(folder)
    with pytest.raises(InterruptedError):
        run_alone(device, JOB, spec, stop)
    with pytest.raises(Refused, match="NO_TRACE"):
        device._traces.open(JOB, [0])
    loads = sum(change.load_ms > 0 for change in changes)
    done = run_alone(device, JOB, spec)
    assert done.load_ms < 1000
    assert changes[-1].warm
    assert changes[-1].units_per_second > 0
    assert loads == 1


def test_without_a_trace_wanted_only_the_root_is_made(device: Device, folder: Path) -> None:
    kept = run_alone(device, JOB, spec_for(folder))
    bare = run_alone(device, JOB, spec_for(folder, verification=Verification.RECEIPT))
    assert bare.trace_root == kept.trace_root
    with pytest.raises(Refused, match="NO_TRACE"):
        device._traces.open(JOB, [0])


def test_numbers_that_are_no_picture_are_a_fault_of_the_model(model: TextToImage, folder: Path) -> None:
    job = model.open(spec_for(folder))
    with pytest.raises(BrokenOutput):
        job.finish(job.start() * float("nan"))


def test_a_load_is_measured_and_a_model_can_be_put_out(tmp_path: Path, folder: Path) -> None:
    entry = read_folder(folder)
    twin = replace(entry, model=b"t" * 32)
    warm: dict[bytes, bool] = {}
    device = Device(
        "cpu",
        Dtype.FP32,
        (entry, twin),
        TraceStore(tmp_path),
        0,
        lambda change: warm.update({change.model: change.warm}),
    )
    brought = device.bring(entry.model)
    assert brought.cost >= sum(file.stat().st_size for file in folder.rglob("*.safetensors")) // 2
    device.bring(twin.model)
    assert warm == {entry.model: True, twin.model: True}
    device.put_out(entry.model)
    device.put_out(entry.model)
    assert warm == {entry.model: False, twin.model: True}
    with pytest.raises(Refused, match="NO_MODEL"):
        device.bring(b"x" * 32)


@pytest.mark.prove
@pytest.mark.parametrize("dtype", [Dtype.FP32, Dtype.BF16])
def test_a_load_beside_a_job_changes_no_byte_of_it(tmp_path: Path, folder: Path, dtype: Dtype) -> None:
    """The libraries change a global number format while they load."""
    entry = read_folder(folder)
    twin = replace(entry, model=b"t" * 32)
    device = Device("cpu", dtype, (entry, twin), TraceStore(tmp_path), 0, lambda change: None)
    spec, loads = spec_for(folder, steps=6), 0

    def draw() -> tuple[object, bytes]:
        done = run_alone(device, JOB, spec)
        return done.artifacts, done.trace_root

    alone, over = draw(), threading.Event()

    def load_on() -> None:
        nonlocal loads
        while not over.is_set():
            device.bring(twin.model)
            device.put_out(twin.model)
            loads += 1

    other = threading.Thread(target=load_on)
    other.start()
    try:
        while loads < 3:
            assert draw() == alone
    finally:
        over.set()
        other.join()


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be loaded"):
        TextToImage.load(hollow_model(tmp_path / "hollow"), device="cpu", dtype=Dtype.FP32)
    with pytest.raises(Misconfigured, match="pipeline"):
        pipeline_class("text-to-opera")
    with pytest.raises(Misconfigured, match="device"):
        pick("no-such-device", "auto")
    assert pick("cpu", "auto") == ("cpu", Dtype.FP32)
    assert pick("cpu", "bf16") == ("cpu", Dtype.BF16)


@pytest.mark.skipif(not (bundled() / "model_index.json").is_file(), reason="the bundled model is not in this checkout")
def test_the_bundled_model_loads_and_draws() -> None:
    entry = read_folder(bundled())
    assert (entry.native_side, entry.max_steps) == (64, 1000)
    assert entry.max_side >= 256
    model = TextToImage.load(bundled(), device="cpu", dtype=Dtype.FP32)
    pixels = decode_png(picture(model, job_spec(entry.model, steps=4)), 64, 64)
    assert pixels.std() > 1
