"""The safety stage on a checker that really learned something: what it finds, what is refused, what a result says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from compute.capability import Dtype
from compute.checkerfolder import labels_in
from compute.digestcache import DigestCache
from compute.flaws import BadModel, Flaw
from compute.imagefile import read_picture
from compute.modelfolder import bundled, read_folder
from compute.modelstore import ModelStore
from compute.offline import go_offline, hush
from compute.safety import CHECKER, MAX_PICTURES, WHOLE, Checking, Safety, as_dict, in_words
from compute.served import Wanted, serve
from compute.spec import UPSCALE, Artifact
from compute.tracestore import TraceStore
from compute.work import JobResult
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from compute.yardstick import shape_of, yardstick
from p2p.errors import Misconfigured, Refused

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()

from compute.device import Device  # noqa: E402 - after the environment is set
from compute.openjob import OpenJob  # noqa: E402
from compute.pipeline import BrokenOutput  # noqa: E402
from compute.pipelines import safety_check  # noqa: E402
from compute.pipelines.safety_check import SafetyCheck  # noqa: E402
from tests.support.checkers import LABELS, plain_png, trained_checker  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
HALF = WHOLE // 2
EYES = "preprocessor_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_checker(tmp_path_factory.mktemp("models") / "watchful")


def checker_of(folder: Path, most: int = HALF, unsafe: tuple[str, ...] = ("nsfw",)) -> SafetyCheck:
    return SafetyCheck.load(Checking(str(folder), unsafe, most), device="cpu", dtype=Dtype.FP32)


def pictures(*colours: str) -> tuple[Artifact, ...]:
    return tuple(Artifact("image/png", plain_png(colour)) for colour in colours)


# -- what it finds ---------------------------------------------------------------------------------------------------


def test_what_passes_says_what_was_found_and_what_does_not_is_policy(folder: Path) -> None:
    checker = checker_of(folder)
    found = checker.look(pictures("blue", "darkgreen"))
    assert found is not None
    assert (found.checker, found.model, found.label) == ("watchful", read_folder(folder).model, "nsfw")
    assert found.pictures == 2
    assert found.score < HALF
    for red in (pictures("red"), pictures("blue", "red"), pictures("blue", "navy", "crimson", "white")):
        with pytest.raises(Refused) as refused:
            checker.look(red)
        assert refused.value.code == "POLICY"
        assert refused.value.have > refused.value.need == HALF


def test_the_worst_picture_counts_and_an_operator_may_let_everything_pass(folder: Path) -> None:
    found = checker_of(folder, WHOLE).look(pictures("blue", "red", "blue"))
    alone = checker_of(folder, WHOLE).look(pictures("red"))
    assert found is not None
    assert alone is not None
    assert (found.score, found.pictures) == (alone.score, 3)
    assert found.score > HALF
    assert checker_of(folder, WHOLE, LABELS).look(pictures("blue")).label == "normal"  # type: ignore[union-attr]


def test_where_nothing_is_to_be_seen_nothing_was_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checker_of(folder).look((Artifact("application/json", b"{}"), Artifact("text/vtt", b"WEBVTT"))) is None
    monkeypatch.setattr(safety_check, "MAX_PICTURES", 3)
    many = checker_of(folder).look(pictures(*["blue"] * 4))
    assert many is not None
    assert many.pictures == 3 < MAX_PICTURES


def test_of_a_clip_the_first_and_the_middle_picture_are_seen(folder: Path) -> None:
    pytest.importorskip("av")
    from compute.pipelines.image_to_video import mp4

    def clip(*reds: int) -> tuple[Artifact, ...]:
        frames = [np.full((64, 64, 3), (220, 0, 0) if at in reds else (0, 0, 200), np.uint8) for at in range(9)]
        return (Artifact("video/mp4", mp4(frames)),)

    checker = checker_of(folder)
    found = checker.look(clip())
    assert found is not None
    assert found.pictures == 2
    for reds in ((0,), (4,)):
        with pytest.raises(Refused, match="POLICY"):
            checker.look(clip(*reds))
    assert checker.look(clip(7)) is not None  # what is not looked at is not found


def test_a_checker_of_many_labels_is_read_label_by_label(folder: Path, tmp_path: Path) -> None:
    told_so = {"problem_type": "multi_label_classification"}
    many = copied(folder, tmp_path / "many", "config.json", lambda told: {**told, **told_so})
    one, other = (checker_of(where, WHOLE).look(pictures("red")) for where in (folder, many))
    assert one is not None
    assert other is not None
    assert one.score != other.score  # a share of all labels, and a share of its own


def test_scores_that_are_no_numbers_are_broken_output(folder: Path) -> None:
    checker = checker_of(folder)
    with torch.no_grad():
        checker._model.classifier.bias.fill_(float("nan"))
    with pytest.raises(BrokenOutput):
        checker.look(pictures("blue"))


def test_nothing_is_a_finding_that_no_checker_made() -> None:
    assert as_dict(None) == {"safety": "unchecked"}
    assert in_words(as_dict(None)) == "unchecked"
    told = as_dict(Safety("watchful", bytes(32), "nsfw", 31_000, 2))
    assert (told["safety"], told["checker"], told["label"], told["score"]) == ("checked", "watchful", "nsfw", 0.031)
    assert in_words(as_dict(Safety("watchful", bytes(32), "nsfw", 31_000, 2))) == "checked by watchful: nsfw 0.031"


def test_a_device_with_a_checker_shows_nothing_before(folder: Path, tmp_path: Path) -> None:
    entry = read_folder(bundled("tiny-upscaler"))
    spec, files = yardstick(shape_of(UPSCALE, entry.model, 0), bytes(16))

    def job_on(checker: SafetyCheck | None) -> OpenJob:
        traces = TraceStore(tmp_path / f"traces-{checker is None}")
        device = Device("cpu", Dtype.FP32, (entry,), traces, 0, lambda entry: None, checker)
        return device.begin(bytes(32), spec, files)

    assert not job_on(checker_of(folder)).may_be_seen
    assert job_on(None).may_be_seen


# -- what is no checker ----------------------------------------------------------------------------------------------


def copied(source: Path, target: Path, name: str, change: Any) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    if callable(change):
        (target / name).write_text(json.dumps(change(json.loads((target / name).read_text()))))
    elif change is None:
        (target / name).unlink()
    else:
        (target / name).write_bytes(change)
    return target


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", lambda told: {**told, "id2label": {}}),
        ("config.json", lambda told: {**told, "id2label": {"0": "a", "1": "a"}}),
        ("config.json", lambda told: {**told, "id2label": {"0": "a", "2": "nsfw"}}),
        ("config.json", lambda told: {**told, "id2label": {"0": 1, "1": "nsfw"}}),
        ("config.json", lambda told: {**told, "auto_map": {"AutoModel": "own.Model"}}),
        ("config.json", lambda told: {**told, "hidden_size": 64}),
        (EYES, lambda told: {**told, "size": {"height": 10**6, "width": 8}}),
        (EYES, None),
        ("model.safetensors", None),
        ("model.safetensors", b"\xff" * 100),
    ],
)
def test_a_folder_that_is_no_checker_is_refused(folder: Path, tmp_path: Path, name: str, change: Any) -> None:
    with pytest.raises(Misconfigured):
        checker_of(copied(folder, tmp_path / "wrong", name, change))


def test_weights_that_run_code_are_refused(folder: Path, tmp_path: Path) -> None:
    wrong = copied(folder, tmp_path / "pickled", "model.safetensors", None)
    (wrong / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadModel) as refused:
        read_folder(wrong)
    assert refused.value.flaw is Flaw.PICKLE


def test_labels_are_bounded() -> None:
    assert labels_in({"id2label": {"0": "a", "1": "b"}}) == ("a", "b")
    for wrong in (None, [], {str(n): str(n) for n in range(4097)}, {"0": "x" * 65}):
        with pytest.raises(BadModel):
            labels_in({"id2label": wrong})


# -- what an operator names ------------------------------------------------------------------------------------------


def wanted(tmp_path: Path, checker: str, unsafe: tuple[str, ...] = ("nsfw",), names: tuple[str, ...] = ()) -> Wanted:
    store = ModelStore(tmp_path / "models", others=())
    return Wanted(names or ("tiny-upscaler",), store, DigestCache(), checking=Checking(checker, unsafe))


def test_a_checker_is_read_before_anything_is_served(folder: Path, tmp_path: Path) -> None:
    served = serve(wanted(tmp_path, str(folder)))
    assert served.checking == Checking(str(folder.resolve()), ("nsfw",))
    assert [entry.pipeline for entry in served.entries] == [UPSCALE]
    assert read_folder(folder).pipeline == CHECKER
    for wrong, reason in (
        (wanted(tmp_path, str(folder), ("porn",)), "'porn' is none of"),
        (wanted(tmp_path, str(folder), ()), "no label"),
        (wanted(tmp_path, "tiny"), "checks nothing"),
        (wanted(tmp_path, "org/name"), "models pull org/name"),
        (wanted(tmp_path, str(folder), names=(str(folder),)), "makes none"),
    ):
        with pytest.raises(Misconfigured, match=reason):
            serve(wrong)


@asynccontextmanager
async def watched(tmp_path: Path, folder: Path) -> AsyncIterator[Worker]:
    models = (bundled("tiny-upscaler"),)
    checking = Checking(str(folder), ("nsfw",), HALF)
    worker = Worker(WorkerConfig(tmp_path / "node", models, device="cpu", threads=1, checking=checking))
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


@pytest.mark.live
@pytest.mark.prove
async def test_a_worker_delivers_what_passes_and_refuses_the_rest(tmp_path: Path, folder: Path) -> None:
    async with watched(tmp_path, folder) as worker:
        entry, *_ = worker.capability().models  # and what checks a job of it

        async def enlarged(number: int, colour: str) -> JobResult:
            spec, _ = yardstick(shape_of(UPSCALE, entry.model, 0), bytes(16))
            data = plain_png(colour, 128)
            named = replace(spec.inputs[0], size=len(data), digest=sha256(data).digest())
            job = replace(spec, inputs=(named,), shape=replace(spec.shape, input_bytes=len(data)))
            return await worker.generate(bytes([number]) * 32, job, lambda step: None, (data,))

        passed = await enlarged(1, "blue")
        assert passed.safety is not None
        assert (passed.safety.checker, passed.safety.pictures) == ("watchful", 1)
        for number in (2, 2, 3):  # the same job again gets the same answer
            with pytest.raises(Refused) as refused:
                await enlarged(number, "red")
            assert refused.value.code == "POLICY"
        assert (await enlarged(4, "navy")).safety is not None
        assert read_picture(passed.artifacts[0].data).size == (256, 256)
