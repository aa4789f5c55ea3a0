"""A real worker on bundled models that work on files: a sound becomes words, and what is no sound a refusal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio
from PIL import Image, ImageDraw

from compute.capability import ModelCapability
from compute.imagefile import read_picture
from compute.modelfolder import bundled
from compute.spec import AUDIO_TO_TEXT, Input, JobShape, JobSpec, Option, Verification
from compute.work import Step
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from p2p.errors import Refused
from tests.support.bad_media import wav
from tests.support.job_specs import job_id

pytest.importorskip("torch")
av = pytest.importorskip("av")
pytestmark = pytest.mark.live
SPEECH = Path(__file__).parent / "vectors" / "speech"


def heard(entry: ModelCapability, sound: bytes, length: int, *options: Option) -> JobSpec:
    shape = JobShape(
        AUDIO_TO_TEXT,
        entry.model,
        0,
        0,
        1,
        False,
        verification=Verification.RECEIPT,
        input_bytes=len(sound),
        length=length,
    )
    return JobSpec(shape, "", "", 0, 0, bytes(16), (Input("audio/wav", len(sound), sha256(sound).digest()),), options)


async def test_a_worker_hears(tmp_path: Path) -> None:
    worker = Worker(WorkerConfig(tmp_path / "node", (bundled("tiny-listener"),), device="cpu", threads=1))
    path = sorted(SPEECH.glob("*.wav"))[0]
    sound = path.read_bytes()
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            entry = worker.capability().models[0]
            assert (entry.pipeline, entry.native_side, entry.max_length) == (AUDIO_TO_TEXT, 0, 3_600_000)
            result = await worker.generate(job_id("a"), heard(entry, sound, 60_000), lambda step: None, (sound,))
            told, *subtitles = result.artifacts
            assert [one.media_type for one in subtitles] == ["application/x-subrip", "text/vtt"]
            assert json.loads(told.data)["text"]
            again = await worker.generate(job_id("a"), heard(entry, sound, 60_000), lambda step: None, (sound,))
            assert again == result
            nothing = wav(bytes(3200))
            quiet = await worker.generate(job_id("q"), heard(entry, nothing, 1000), lambda step: None, (nothing,))
            assert [bool(one.data) for one in quiet.artifacts] == [True] * 3  # nothing is said, and it is a result
            for name, spec, file, code in (
                ("b", heard(entry, sound, 1), sound, "SOUND_TOO_LONG"),
                ("c", heard(entry, b"no sound", 1000), b"no sound", "BAD_SOUND"),
                ("d", heard(entry, sound, 60_000, Option("loud", "1")), sound, "BAD_INPUT"),
            ):
                with pytest.raises(Refused) as refused:
                    await worker.generate(job_id(name), spec, lambda step: None, (file,))
                assert refused.value.code == code
            nursery.cancel_scope.cancel()


async def test_a_worker_enlarges_and_describes(tmp_path: Path) -> None:
    models = (bundled("tiny-upscaler"), bundled("tiny-describer"), bundled("tiny-mover"))
    worker = Worker(WorkerConfig(tmp_path / "node", models, device="cpu", threads=1))
    picture = circle()
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            upscaler, describer, mover, *_ = worker.capability().models
            steps = list[Step]()
            wide = circle(300)
            large = await worker.generate(job_id("a"), seen(upscaler, wide, 600), steps.append, (wide,))
            assert read_picture(large.artifacts[0].data).size == (600, 600)
            made = [(step.step, step.steps) for step in steps if not step.loading]
            assert made == [(0, 1), *((tile, 9) for tile in range(1, 10))]
            words = await worker.generate(job_id("b"), seen(describer, picture, 64), lambda step: None, (picture,))
            assert "red" in json.loads(words.artifacts[0].data)["text"]
            steps.clear()
            film = await worker.generate(job_id("f"), moved(mover, picture), steps.append, (picture,))
            assert [step.step for step in steps if step.steps == 6] == [1, 2, 3, 4, 5, 6]
            seen_so_far = [step.preview for step in steps if step.preview]
            assert seen_so_far
            assert read_picture(seen_so_far[0]).size == (64, 64)
            assert film.artifacts[0].media_type == "video/mp4"
            with av.open(io.BytesIO(film.artifacts[0].data)) as source:
                assert sum(1 for _ in source.decode(video=0)) == 6
            for name, spec, file, code in (
                ("c", seen(upscaler, picture, 64), picture, "BAD_INPUT"),
                ("d", seen(describer, picture[:99], 64), picture[:99], "BAD_PICTURE"),
            ):
                with pytest.raises(Refused) as refused:
                    await worker.generate(job_id(name), spec, lambda step: None, (file,))
                assert refused.value.code == code
            nursery.cancel_scope.cancel()


def seen(entry: ModelCapability, picture: bytes, side: int) -> JobSpec:
    shape = JobShape(
        entry.pipeline, entry.model, side, side, 1, False, verification=Verification.RECEIPT, input_bytes=len(picture)
    )
    return JobSpec(shape, "", "", 0, 0, bytes(16), (Input("image/png", len(picture), sha256(picture).digest()),))


def moved(entry: ModelCapability, picture: bytes) -> JobSpec:
    still = seen(entry, picture, 64)
    return replace(
        still, shape=replace(still.shape, length=6), options=(Option("motion", "pan-left"), Option("previews", "1"))
    )


def circle(side: int = 64) -> bytes:
    drawn, out = Image.new("RGB", (side, side), "white"), io.BytesIO()
    ImageDraw.Draw(drawn).ellipse((16, 16, 48, 48), fill=(220, 20, 20))
    drawn.save(out, format="PNG")
    return out.getvalue()
