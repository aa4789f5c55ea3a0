"""Checks on a real device: honest jobs stay inside what is declared, every cheat falls outside, nonsense is refused."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from compute.capability import Dtype
from compute.checkverdict import FAR, from_json, judge
from compute.digest import digest_artifact
from compute.evidence import EVIDENCE_TYPE, Evidence, Trouble, Wrong
from compute.modelfolder import bundled, read_folder
from compute.offline import go_offline, hush
from compute.pipeline import Finished
from compute.spec import (
    IMAGE_TO_IMAGE,
    TEXT_TO_IMAGE,
    UPSCALE,
    Artifact,
    Input,
    JobShape,
    JobSpec,
    Option,
    Verification,
)
from compute.trace import TraceLeaf, leaf_hash, merkle_path, merkle_root
from compute.tracestore import TraceStore
from p2p.codec import encode
from p2p.errors import Refused
from tests.support.alone import run_alone
from tests.support.checks import as_dict, check_job, check_on, evidence_of, told_by
from tests.support.job_specs import job_id, job_spec
from tests.support.model_folders import random_model

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()
from PIL import Image  # noqa: E402 - after the environment is set

from compute.device import Device  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
JOB, STEPS = job_id("job"), 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    there = random_model(tmp_path_factory.mktemp("models") / "random")
    if not bundled("tiny-upscaler").is_dir():
        pytest.skip("the bundled models are not here")
    return there, bundled("tiny-upscaler")


@pytest.fixture(scope="module")
def device(folders: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Device:
    return make_device(folders, tmp_path_factory.mktemp("traces"))


def make_device(folders: Sequence[Path], traces: Path, dtype: Dtype = Dtype.FP32) -> Device:
    entries = tuple(read_folder(folder) for folder in folders)
    return Device("cpu", dtype, entries, TraceStore(traces), 2**33, lambda entry: None)


def paid_for(folders: Sequence[Path], **changes: Any) -> JobSpec:
    return job_spec(read_folder(folders[0]).model, **{"steps": STEPS, **changes})


def made(device: Device, spec: JobSpec, drawn: Sequence[int] = (1, 3)) -> tuple[Evidence, Finished]:
    """A job done by ``device``, and the evidence of it."""
    done = run_alone(device, JOB, spec)
    return evidence_of(JOB, spec, done, device._traces.open, drawn), done


def recommitted(evidence: Evidence, done: Finished, device: Device, change: dict[int, bytes]) -> Evidence:
    """What a seller shows that committed to other leaves from the start: every proof is right."""
    steps = evidence.spec.shape.steps
    opened = [
        replace(leaf, raw=change.get(leaf.index, leaf.raw)) for leaf in device._traces.open(JOB, range(steps + 1))
    ]
    hashes = [leaf_hash(JOB, one.index, one.timestep, one.dtype, one.raw) for one in opened]
    shown = tuple(replace(opened[k], path=merkle_path(hashes, k)) for k in evidence.needed)
    return replace(evidence, trace_root=merkle_root(hashes), leaves=shown)


def raws(device: Device) -> list[bytes]:
    return [leaf.raw for leaf in device._traces.open(JOB, range(STEPS + 1))]


def whats(troubles: Sequence[Trouble]) -> set[Wrong]:
    return {one.what for one in troubles}


# -- honest ------------------------------------------------------------------------------------------------------------


def test_an_honest_job_passes_and_the_file_says_so(device: Device, folders: tuple[Path, ...]) -> None:
    evidence, done = made(device, paid_for(folders))
    told = told_by(device, evidence, done.artifacts)
    verdict = from_json(told)
    assert judge(evidence, verdict) == ()
    assert as_dict(told)["passed"] is True
    measured = [(one.what, one.index) for one in verdict.findings]
    assert measured == [(Wrong.START, 0), (Wrong.STEP, 1), (Wrong.STEP, 3), (Wrong.PICTURE, STEPS)]


def test_a_job_that_shared_its_steps_passes(device: Device, folders: tuple[Path, ...]) -> None:
    specs = [paid_for(folders, prompt=f"a red circle {n}", seed=n) for n in range(4)]
    jobs = [device.begin(JOB if n == 2 else job_id(f"other {n}"), spec) for n, spec in enumerate(specs)]
    while not jobs[0].finished:
        device.advance(jobs)
    done = [device.end(job) for job in jobs][2]
    evidence = evidence_of(JOB, specs[2], done, device._traces.open, range(STEPS))
    assert judge(evidence, check_on(device, evidence, done.artifacts)) == ()


@pytest.mark.prove
def test_a_job_made_by_two_threads_passes(device: Device, folders: tuple[Path, ...]) -> None:
    torch.set_num_threads(2)
    try:
        evidence, done = made(device, paid_for(folders), range(STEPS))
    finally:
        torch.set_num_threads(1)
    assert judge(evidence, check_on(device, evidence, done.artifacts)) == ()


@pytest.mark.prove
@pytest.mark.parametrize("formats", [(Dtype.BF16, Dtype.BF16), (Dtype.FP32, Dtype.BF16), (Dtype.BF16, Dtype.FP32)])
def test_a_job_passes_in_and_across_number_formats(
    folders: tuple[Path, ...], tmp_path: Path, formats: tuple[Dtype, Dtype]
) -> None:
    seller = make_device(folders[:1], tmp_path / "seller", formats[0])
    verifier = make_device(folders[:1], tmp_path / "verifier", formats[1])
    evidence, done = made(seller, paid_for(folders), range(STEPS))
    verdict = check_on(verifier, evidence, done.artifacts)
    assert (verdict.committed, verdict.computed) == formats
    assert judge(evidence, verdict) == ()


# -- cheats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ran", "found"),
    [
        ({"seed": 8}, Wrong.START),
        ({"guidance": 2000}, Wrong.STEP),
        ({"guidance": 0}, Wrong.STEP),
        ({"prompt": "a blue square"}, Wrong.STEP),
    ],
)
def test_another_job_than_the_paid_one_is_found(
    device: Device, folders: tuple[Path, ...], ran: dict[str, Any], found: Wrong
) -> None:
    paid = paid_for(folders)
    evidence, done = made(device, paid_for(folders, **ran))
    verdict = check_on(device, replace(evidence, spec=paid), done.artifacts)
    assert found in whats(judge(replace(evidence, spec=paid), verdict))


def test_fewer_steps_are_found(device: Device, folders: tuple[Path, ...]) -> None:
    """Four were made, and the last latents stand twice; the schedule is another one, so every step is false."""
    paid = paid_for(folders)
    fewer, done = made(device, paid_for(folders, steps=STEPS - 1), (1,))
    short = device._traces.open(JOB, range(STEPS))
    honest, _ = made(device, paid, range(STEPS))
    shown = recommitted(honest, done, device, {k: short[min(k, STEPS - 1)].raw for k in range(STEPS + 1)})
    shown = replace(shown, delivered=fewer.delivered)
    troubles = judge(shown, check_on(device, shown, done.artifacts))
    assert len([one for one in troubles if one.what is Wrong.STEP]) >= STEPS - 1


@pytest.mark.parametrize("index", range(STEPS))
def test_one_step_left_out_is_found_by_who_draws_it(device: Device, folders: tuple[Path, ...], index: int) -> None:
    honest, done = made(device, paid_for(folders), (index,))
    shown = recommitted(honest, done, device, {index + 1: raws(device)[index]})
    assert Trouble(Wrong.STEP, index) in judge(shown, check_on(device, shown, done.artifacts))


@pytest.mark.prove
@pytest.mark.parametrize("bits", [8, 4])
def test_coarser_weights_are_found(folders: tuple[Path, ...], tmp_path: Path, device: Device, bits: int) -> None:
    runs = pytest.importorskip("benchmarks.tolerance_runs")
    cheap = make_device(folders[:1], tmp_path)
    runs.coarser(cheap.load(read_folder(folders[0]).model), runs.quantised(bits))
    evidence, done = made(cheap, paid_for(folders), range(STEPS))
    troubles = judge(evidence, check_on(device, evidence, done.artifacts))
    assert {one.index for one in troubles if one.what is Wrong.STEP} == set(range(STEPS))


@pytest.mark.prove
def test_the_weights_of_another_model_are_found(folders: tuple[Path, ...], tmp_path: Path, device: Device) -> None:
    runs = pytest.importorskip("benchmarks.tolerance_runs")
    other = make_device(folders[:1], tmp_path)
    runs.coarser(other.load(read_folder(folders[0]).model), runs.shaken(0.02))
    evidence, done = made(other, paid_for(folders))
    assert Wrong.STEP in whats(judge(evidence, check_on(device, evidence, done.artifacts)))


@pytest.mark.prove
def test_half_precision_said_to_be_single_is_found(folders: tuple[Path, ...], tmp_path: Path, device: Device) -> None:
    half = make_device(folders[:1], tmp_path, Dtype.BF16)
    coarse, done = made(half, paid_for(folders), range(STEPS))
    as_single = {leaf.index: widened(leaf) for leaf in coarse.leaves}
    honest, _ = made(device, paid_for(folders), range(STEPS))
    shown = replace(recommitted(honest, done, device, as_single), delivered=coarse.delivered)
    assert Wrong.STEP in whats(judge(shown, check_on(device, shown, done.artifacts)))


def widened(leaf: TraceLeaf) -> bytes:
    numbers = torch.frombuffer(bytearray(leaf.raw), dtype=torch.bfloat16).float()
    raw: bytes = numbers.numpy().astype("<f4").tobytes()
    return raw


def test_another_picture_and_no_picture_are_found(device: Device, folders: tuple[Path, ...]) -> None:
    evidence, _ = made(device, paid_for(folders))
    for data in (_png(np.full((64, 64, 3), 9, np.uint8)), _png(np.zeros((32, 64, 3), np.uint8)), b"no picture"):
        other = Artifact("image/png", data)
        shown = replace(evidence, delivered=(digest_artifact(other),))
        assert judge(shown, check_on(device, shown, [other])) == (Trouble(Wrong.PICTURE, STEPS),)


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 1e38])
def test_numbers_that_are_none_are_far(device: Device, folders: tuple[Path, ...], fill: float) -> None:
    honest, done = made(device, paid_for(folders), (1,))
    bad = np.full(len(raws(device)[1]) // 4, fill, "<f4").tobytes()
    shown = recommitted(honest, done, device, {2: bad})
    verdict = check_on(device, shown, done.artifacts)
    assert Trouble(Wrong.STEP, 1) in judge(shown, verdict)
    assert max(one.nano for one in verdict.findings) == FAR


def test_leaves_of_another_size_are_far(device: Device, folders: tuple[Path, ...]) -> None:
    honest, done = made(device, paid_for(folders), (1,))
    shown = recommitted(honest, done, device, dict.fromkeys(range(STEPS + 1), b"\0" * 12))
    assert whats(judge(shown, check_on(device, shown, done.artifacts))) == {Wrong.START, Wrong.STEP, Wrong.PICTURE}


def test_times_of_another_schedule_are_found(device: Device, folders: tuple[Path, ...]) -> None:
    evidence, done = made(device, paid_for(folders), (1,))
    leaves = device._traces.open(JOB, range(STEPS + 1))
    moved = [replace(one, timestep=one.timestep + (one.index == 1)) for one in leaves]
    hashes = [leaf_hash(JOB, one.index, one.timestep, one.dtype, one.raw) for one in moved]
    shown = replace(
        evidence,
        trace_root=merkle_root(hashes),
        leaves=tuple(replace(moved[k], path=merkle_path(hashes, k)) for k in evidence.needed),
    )
    verdict = check_on(device, shown, done.artifacts)
    assert verdict.troubles == judge(shown, verdict) == (Trouble(Wrong.WRONG_TIMESTEP, 1),)


def test_a_false_proof_is_told_and_nothing_is_run(device: Device, folders: tuple[Path, ...]) -> None:
    evidence, done = made(device, paid_for(folders))
    shown = replace(evidence, trace_root=b"r" * 32)
    verdict = check_on(device, shown, done.artifacts)
    assert verdict.findings == ()
    assert whats(judge(shown, verdict)) == {Wrong.WRONG_PROOF}


# -- whole jobs, with inputs -------------------------------------------------------------------------------------------


def _png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def picture() -> bytes:
    rows, columns = np.mgrid[0:40, 0:40]
    return _png(np.stack([rows * 6, columns * 6, (rows + columns) * 3], axis=-1).astype(np.uint8))


def upscale(folders: Sequence[Path], picture: bytes, verification: Verification = Verification.RECEIPT) -> JobSpec:
    shape = JobShape(
        UPSCALE,
        read_folder(folders[1]).model,
        80,
        80,
        1,
        False,
        input_bytes=len(picture),
        verification=verification,
    )
    file = Input("image/png", len(picture), sha256(picture).digest())
    return JobSpec(shape, "", "", 0, 0, b"s" * 16, (file,), (Option("factor", "2"),))


def test_a_job_without_steps_is_run_again_whole(device: Device, folders: tuple[Path, ...], picture: bytes) -> None:
    spec = upscale(folders, picture)
    done = run_alone(device, JOB, spec, files=(picture,))
    evidence = evidence_of(JOB, spec, done, device._traces.open, ())
    verdict = check_on(device, evidence, done.artifacts, (picture,))
    assert judge(evidence, verdict) == ()
    assert [one.what for one in verdict.findings] == [Wrong.RESULT]

    with Image.open(io.BytesIO(picture)) as small:
        cheap = Artifact("image/png", _png(np.asarray(small.resize((80, 80), Image.Resampling.BICUBIC))))
    shown = replace(evidence, delivered=(digest_artifact(cheap),))
    assert judge(shown, check_on(device, shown, [cheap], (picture,))) == (Trouble(Wrong.RESULT, 0),)


def test_a_picture_that_was_drawn_over_is_checked_step_by_step(
    device: Device, folders: tuple[Path, ...], picture: bytes
) -> None:
    """What it starts from is the picture of its input under the noise of its seed: both must be those of the job."""
    plain = paid_for(folders)
    shape = replace(plain.shape, pipeline=IMAGE_TO_IMAGE, input_bytes=len(picture))
    file = Input("image/png", len(picture), sha256(picture).digest())
    spec = replace(plain, shape=shape, inputs=(file,), options=(Option("strength", "0.5"),))
    done = run_alone(device, JOB, spec, files=(picture,))
    evidence = evidence_of(JOB, spec, done, device._traces.open, range(STEPS))
    assert judge(evidence, check_on(device, evidence, done.artifacts, (picture,))) == ()

    run_alone(device, JOB, replace(spec, seed=8), files=(picture,))
    other = evidence_of(JOB, replace(spec, seed=8), done, device._traces.open, (1,))
    hashes = [leaf_hash(JOB, one.index, one.timestep, one.dtype, one.raw) for one in device._traces.open(JOB, range(6))]
    shown = replace(other, spec=spec, trace_root=merkle_root(hashes))
    assert Wrong.START in whats(judge(shown, check_on(device, shown, done.artifacts, (picture,))))


@pytest.mark.prove
def test_a_picture_of_receipt_only_is_run_again_whole(device: Device, folders: tuple[Path, ...]) -> None:
    spec = paid_for(folders, verification=Verification.RECEIPT)
    evidence, done = made(device, spec, ())
    assert judge(evidence, check_on(device, evidence, done.artifacts)) == ()
    other = evidence_of(JOB, spec, run_alone(device, JOB, replace(spec, seed=9)), device._traces.open, ())
    redone = run_alone(device, JOB, replace(spec, seed=9))
    assert whats(judge(other, check_on(device, other, redone.artifacts))) == {Wrong.RESULT}


# -- what a buyer of a check may send ----------------------------------------------------------------------------------


def test_evidence_of_which_nothing_can_be_said_is_refused(
    device: Device, folders: tuple[Path, ...], picture: bytes
) -> None:
    evidence, done = made(device, paid_for(folders))
    spec, files = check_job(evidence, done.artifacts)
    garbage = (b"garbage", *files[1:])
    other = encode(replace(evidence, drawn=(1,), leaves=evidence.leaves))
    unlike = replace(evidence.spec, shape=replace(evidence.spec.shape, width=128))
    for wrong in (
        (spec, garbage),
        (spec, (b"", *files[1:])),
        (spec, (other, *files[1:])),
        (spec, files[:1]),
        (spec, (encode(replace(evidence, spec=unlike)), *files[1:])),
        (replace(spec, options=(Option("factor", "2"),)), files),
        (spec, (encode(upscale_evidence(folders, picture)), *files[1:])),
    ):
        with pytest.raises(Refused, match="BAD_INPUT"):
            run_alone(device, job_id("check"), wrong[0], files=wrong[1])
    assert device.load(read_folder(folders[0]).model)


def upscale_evidence(folders: Sequence[Path], picture: bytes) -> Evidence:
    spec = upscale(folders, picture, Verification.TRACE)
    return Evidence(JOB, spec, Dtype.FP32, (digest_artifact(Artifact("image/png", picture)),), b"r" * 32, (0,))


def test_checks_of_checks_and_steps_of_what_has_none_are_refused(
    device: Device, folders: tuple[Path, ...], picture: bytes
) -> None:
    evidence = upscale_evidence(folders, picture)
    spec, files = check_job(evidence, [Artifact("image/png", picture)], ())
    assert spec.inputs[0].media_type == EVIDENCE_TYPE
    with pytest.raises(Refused, match="has no steps"):
        run_alone(device, job_id("check"), spec, files=files)
    inner = Evidence(JOB, spec, Dtype.FP32, evidence.delivered)
    again, more = check_job(inner, [Artifact("image/png", picture)], ())
    with pytest.raises(Refused, match="checks are not checked"):
        run_alone(device, job_id("check"), again, files=more)


def test_a_check_measures_no_speed_of_the_model(folders: tuple[Path, ...], tmp_path: Path) -> None:
    changes: list[Any] = []
    entries = tuple(read_folder(folder) for folder in folders[:1])
    device = Device("cpu", Dtype.FP32, entries, TraceStore(tmp_path), 2**33, changes.append)
    evidence, done = made(device, paid_for(folders))
    before = len(changes)
    check_on(device, evidence, done.artifacts)
    assert len(changes) == before
    assert {entry.pipeline for entry in changes} == {TEXT_TO_IMAGE}
