"""Describing: the bundled model on pictures it never saw, judged from words; folders that are none; cancelling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from compute.capability import Dtype
from compute.modelfolder import bundled
from compute.offline import go_offline, hush
from p2p.errors import Misconfigured

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()
from PIL import Image  # noqa: E402

from benchmarks.captioncheck import Told, check, told_in  # noqa: E402
from compute.pipeline import BrokenOutput, Cancelled  # noqa: E402
from compute.pipelines.image_to_text import MAX_TOKENS, Eyes, ImageToText, artifacts  # noqa: E402
from compute.training import world  # noqa: E402
from compute.training.captions import Example, Thing  # noqa: E402
from compute.training.describing import judge  # noqa: E402
from compute.training.telling import told, told_example  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = bundled("tiny-describer")


@pytest.fixture(scope="module")
def model() -> ImageToText:
    return ImageToText.load(FOLDER, device="cpu", dtype=Dtype.FP32)


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def pictures(count: int, seed: str, side: int = 64) -> list[tuple[Image.Image, Example]]:
    rng = Random(seed)
    made = [told_example(rng, kept_away=True) for _ in range(count)]
    return [(Image.fromarray(world.render(one.canvas, side, side)), one) for one in made]


def test_colours_shapes_and_backgrounds_it_never_saw_together_are_right(model: ImageToText) -> None:
    verdicts: dict[str, list[bool]] = {}
    for picture, _ in pictures(60, "describing, tested"):
        for kind, right in check(np.asarray(picture), model.describe(picture, quiet).text).items():
            verdicts.setdefault(kind, []).extend(right)
    rates = {kind: sum(right) / len(right) for kind, right in verdicts.items()}
    assert rates["background"] >= 0.90
    assert rates["colour"] >= 0.90
    assert rates["shape"] >= 0.80


def test_a_larger_picture_and_another_format_of_it_say_the_same(model: ImageToText) -> None:
    same = 0
    for (small, _), (large, _) in zip(pictures(10, "sizes"), pictures(10, "sizes", 256), strict=True):
        same += model.describe(small, quiet).text == model.describe(large.convert("RGBA"), quiet).text
    assert same >= 8


def test_it_is_surer_of_its_world_than_of_noise(model: ImageToText) -> None:
    known = [model.describe(picture, quiet).confidence for picture, _ in pictures(10, "sure")]
    rng = np.random.default_rng(1)
    noise = [
        model.describe(Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)), quiet).confidence
        for _ in range(10)
    ]
    assert all(0 <= one <= 1 for one in known + noise)
    assert sum(known) > sum(noise)


def test_the_file_of_a_description(model: ImageToText) -> None:
    ((picture, _),) = pictures(1, "file")
    found = model.describe(picture, quiet)
    (file,) = artifacts(found)
    assert file.media_type == "application/json"
    assert json.loads(file.data) == {"text": found.text, "confidence": found.confidence}


def test_what_progress_raises_ends_the_work_at_the_next_word(model: ImageToText) -> None:
    seen: list[int] = []

    def cancel(done: int, total: int) -> None:
        seen.append(done)
        assert total == MAX_TOKENS
        if len(seen) == 3:
            raise Cancelled

    ((picture, _),) = pictures(1, "cancel")
    before = model.describe(picture, quiet)
    with pytest.raises(Cancelled):
        model.describe(picture, cancel)
    assert len(seen) == 3
    assert model.describe(picture, quiet) == before


def test_scores_that_are_no_numbers_are_broken_output() -> None:
    broken = ImageToText.load(FOLDER, device="cpu", dtype=Dtype.FP32)
    with torch.no_grad():
        broken._model.decoder.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(BrokenOutput):
        broken.describe(Image.new("RGB", (64, 64)), quiet)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "pickle"}'),
        (
            "preprocessor_config.json",
            b'{"size": {"height": 100000, "width": 64}, "image_mean": [0,0,0], "image_std": [1,1,1]}',
        ),
        ("preprocessor_config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b""),
    ],
)
def test_a_folder_that_is_no_describer_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    shutil.copytree(FOLDER, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(data)
    with pytest.raises(Misconfigured):
        ImageToText.load(tmp_path / "model", device="cpu", dtype=Dtype.FP32)


def test_eyes_read_both_ways_of_giving_a_size(tmp_path: Path) -> None:
    def eyes(size: Any) -> Eyes:
        told = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
        return Eyes.read(tmp_path)

    assert (eyes({"shortest_edge": 32}).width, eyes(48).height, eyes({"height": 8, "width": 9}).width) == (32, 48, 9)
    seen = eyes({"height": 8, "width": 16}).see(Image.new("RGB", (50, 50), (255, 0, 0)))
    assert tuple(seen.shape) == (1, 3, 8, 16)
    assert seen[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_telling_names_everything_that_is_there() -> None:
    rng = Random(5)
    for _ in range(200):
        made = told_example(rng, kept_away=True)
        verdicts = judge(made.caption, made)
        assert all(all(right) for right in verdicts.values()), made.caption
        pixels = world.render(made.canvas, 64, 64)
        assert all(all(right) for right in check(pixels, made.caption).values()), made.caption


def test_the_checks_of_a_caption_find_what_is_wrong() -> None:
    thing = Thing("red", "star")
    made = Example("", world.plain((0, 0, 0), ()), "blue", (thing,))
    assert told(made) == "a red star in the center on a blue background"
    assert judge("a red star in the center on a blue background", made) == {
        "background": [True], "colour": [True], "shape": [True]
    }  # fmt: skip
    assert judge("a green circle on a red background", made) == {
        "background": [False], "colour": [False], "shape": [False]
    }  # fmt: skip
    assert told_in("a large red star, a green circle and a pink cross on an orange background") == Told(
        "orange", (("red", "star"), ("green", "circle"), ("pink", "cross"))
    )
    assert told_in("a gray background") == Told("gray", ())
    assert told_in("the sea at night") == Told("", ())
