"""The yardstick: one job for each pipeline, which its readers take, and a page of what units count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compute.capability import Dtype
from compute.imagefile import read_picture
from compute.modelfolder import bundled, bundled_names, read_folder
from compute.offline import go_offline, hush
from compute.soundfile import RATE, read_sound
from compute.spec import AUDIO_TO_TEXT, TEXT_TO_IMAGE, TRANSCODE
from compute.yardstick import FILM, FILM_FRAMES, MEASURES, SOUND_MS, picture, shape_of, sound, unit_ps, yardstick

PAGE = Path(__file__).parent.parent / "docs" / "operating.md"
MODEL = b"m" * 32


@pytest.mark.parametrize("pipeline", MEASURES)
def test_every_pipeline_has_one_job_that_is_always_the_same(pipeline: str) -> None:
    shape = shape_of(pipeline, MODEL, 64)
    spec, files = yardstick(shape, bytes(16), b"film")
    assert (spec, files) == yardstick(shape, bytes(16), b"film")
    assert spec.digest != yardstick(shape, b"another salt, 16", b"film")[0].digest
    assert spec.shape.units == shape.units
    assert spec.shape.input_bytes == sum(map(len, files))


def test_its_files_are_what_they_say() -> None:
    assert read_picture(picture(128)).size == (128, 128)
    assert read_picture(picture(128)).getpixel((64, 64)) == (0xC0, 0x20, 0x20)
    heard = read_sound(sound(SOUND_MS))
    assert len(heard) == SOUND_MS * RATE // 1000
    assert 0.05 < abs(heard).max() < 0.5


def test_a_unit_costs_at_least_something() -> None:
    assert unit_ps(0.0, 10**9) == 1
    assert unit_ps(0.5, 1_000_000) == 500_000


def test_the_page_says_what_a_unit_of_each_pipeline_is() -> None:
    text = PAGE.read_text()
    for pipeline, measure in MEASURES.items():
        assert f"| {pipeline} | {measure.unit} | {measure.job} |" in text


@pytest.mark.parametrize("name", bundled_names())
def test_the_bundled_model_does_the_job(name: str) -> None:
    go_offline()
    pytest.importorskip("torch")
    pytest.importorskip("av")
    hush()
    from compute.device import pipeline_class
    from compute.pipelines.encoder import DRAWN, small_film

    assert DRAWN == FILM
    entry = read_folder(bundled(name))
    film = small_film(FILM_FRAMES) if entry.pipeline == TRANSCODE else b""
    spec, files = yardstick(shape_of(entry.pipeline, entry.model, entry.native_side), bytes(16), film)
    assert entry.capability(Dtype.FP32).unfit(spec.shape) is None
    model = pipeline_class(entry.pipeline).load(bundled(name), device="cpu", dtype=Dtype.FP32)
    run = model.open(spec, files)
    done = run.start()
    for index in range(min(2, spec.shape.steps) if entry.pipeline == TEXT_TO_IMAGE else 1):
        done = run.step(done, index)
    made = run.finish(done)
    assert made[0].data
    if entry.pipeline == AUDIO_TO_TEXT:
        assert json.loads(made[0].data)["duration_ms"] == SOUND_MS
