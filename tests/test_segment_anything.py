"""Segmenting: the bundled model on pictures it never saw, SAM by its folder, prompts that cannot be asked."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from compute.capability import Dtype
from compute.modelfolder import bundled
from compute.offline import go_offline, hush
from p2p.errors import Misconfigured, Refused

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()
from PIL import Image, ImageDraw  # noqa: E402

from compute.pipeline import BrokenOutput, Cancelled  # noqa: E402
from compute.pipelines.segment_anything import (  # noqa: E402
    MAX_POINTS,
    MAX_PROMPTS,
    Box,
    Point,
    Prompt,
    SegmentAnything,
    artifacts,
    box_of,
    check,
    read_prompt,
)
from compute.training.outlining import box_around, point_on  # noqa: E402
from compute.training.things import segmented  # noqa: E402
from tests.support.small_models import random_sam  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = bundled("tiny-segmenter")


@pytest.fixture(scope="module")
def model() -> SegmentAnything:
    return SegmentAnything.load(FOLDER, device="cpu", dtype=Dtype.FP32)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_sam(tmp_path_factory.mktemp("models") / "sam")


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def overlap(one: Any, two: Any) -> float:
    return float((one & two).sum() / max(1, (one | two).sum()))


@pytest.mark.parametrize(("kind", "wanted"), [("point", 0.80), ("box", 0.85)])
def test_masks_of_pictures_it_never_saw_overlap_with_the_truth(
    model: SegmentAnything, kind: str, wanted: float
) -> None:
    rng, found = Random("segmenting, tested"), []
    for _ in range(30):
        example = segmented(rng, 64, 64, kept_away=True)
        prompts = [
            Prompt((Point(*point_on(mask, rng)),)) if kind == "point" else Prompt(box=Box(*box_around(mask)))
            for mask in example.masks
        ]
        told = model.segment(Image.fromarray(example.pixels), prompts, quiet)
        found += [overlap(one.mask, mask) for one, mask in zip(told, example.masks, strict=True)]
    assert sum(found) / len(found) >= wanted


def test_a_wide_picture_is_answered_in_its_own_pixels(model: SegmentAnything) -> None:
    picture = Image.new("RGB", (300, 200), (250, 250, 250))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((40, 60, 119, 139), fill=(220, 30, 30))
    pen.ellipse((180, 60, 259, 139), fill=(35, 70, 220))
    red, blue = model.segment(picture, [Prompt((Point(80, 100),)), Prompt(box=Box(180, 60, 260, 140))], quiet)
    pixels = np.asarray(picture)
    assert red.mask.shape == (200, 300)
    assert overlap(red.mask, pixels[..., 2] == 30) > 0.75
    assert overlap(blue.mask, pixels[..., 0] == 35) > 0.75
    assert red.box is not None
    assert max(abs(one - two) for one, two in zip(red.box, (40, 60, 120, 140), strict=True)) < 15


def test_a_point_off_the_thing_and_a_box_with_a_point_are_taken(model: SegmentAnything) -> None:
    example = segmented(Random(3), 64, 64)
    inside, outside = point_on(example.masks[0], Random(1)), point_on(~example.masks[0], Random(1))
    both = Prompt((Point(*inside), Point(*outside, inside=False)), Box(*box_around(example.masks[0])))
    (found,) = model.segment(Image.fromarray(example.pixels), [both], quiet)
    assert overlap(found.mask, example.masks[0]) > 0.7


def test_the_score_says_how_good_a_mask_is(model: SegmentAnything) -> None:
    rng, off = Random("scores"), []
    for _ in range(20):
        example = segmented(rng, 64, 64)
        (told,) = model.segment(
            Image.fromarray(example.pixels), [Prompt((Point(*point_on(example.masks[0], rng)),))], quiet
        )
        off.append(abs(told.score - overlap(told.mask, example.masks[0])))
    assert sum(off) / len(off) < 0.2


def test_the_files_of_an_answer(model: SegmentAnything) -> None:
    example = segmented(Random(4), 64, 64)
    found = model.segment(
        Image.fromarray(example.pixels), [Prompt((Point(*point_on(example.masks[0], Random(1))),))], quiet
    )
    told, mask = artifacts(found)
    assert [told.media_type, mask.media_type] == ["application/json", "image/png"]
    assert json.loads(told.data) == {"segments": [{"score": found[0].score, "box": list(found[0].box or ())}]}
    back = np.asarray(Image.open(io.BytesIO(mask.data)))
    assert ((back == 255) == found[0].mask).all()
    assert set(np.unique(back)) <= {0, 255}


POINT = Point(1, 1)


@pytest.mark.parametrize(
    "prompts",
    [
        [],
        [Prompt((POINT,))] * (MAX_PROMPTS + 1),
        [Prompt((POINT,) * (MAX_POINTS + 1))],
        [Prompt()],
        [Prompt((Point(1, 1, inside=False),))],
        [Prompt((Point(float("nan"), 1),))],
        [Prompt((Point(1, float("inf")),))],
        [Prompt((Point(-1, 1),))],
        [Prompt((Point(65, 1),))],
        [Prompt(box=Box(5, 5, 5, 9))],
        [Prompt(box=Box(9, 5, 5, 9))],
        [Prompt(box=Box(0, 0, 10**30, 9))],
        [Prompt((POINT,)), Prompt((POINT,), Box(0, float("nan"), 3, 3))],
    ],
)
def test_what_cannot_be_asked_is_refused_before_it_costs(sam: Path, prompts: list[Prompt]) -> None:
    def never(done: int, total: int) -> None:
        raise AssertionError("work was begun")

    with pytest.raises(Refused, match="BAD_PROMPT"):
        check(prompts, 64, 64)
    with pytest.raises(Refused, match="BAD_PROMPT"):
        SegmentAnything.load(sam, device="cpu", dtype=Dtype.FP32).segment(Image.new("RGB", (64, 64)), prompts, never)


def test_a_prompt_is_read_from_the_texts_of_an_api() -> None:
    assert read_prompt("[[1, 2.5], [3, 4]]", "[1, 0]") == Prompt((Point(1, 2.5), Point(3, 4, inside=False)))
    assert read_prompt("[[1, 2]]") == Prompt((Point(1, 2),))
    assert read_prompt(box="[1, 2, 3, 4]") == Prompt(box=Box(1, 2, 3, 4))
    assert read_prompt() == Prompt()


@pytest.mark.parametrize(
    "texts",
    [
        ("[[1, 2]", ""),
        ("[1, 2]", ""),
        ("[[1, 2, 3]]", ""),
        ('[["1", 2]]', ""),
        ("[[1, 2]]", "[1, 1]"),
        ("[[1, 2]]", "[2]"),
        ("[[1, 2]]", "[-1]"),
        ("[[true, 2]]", ""),
        ("[[NaN, 2]]", ""),
        ("[[Infinity, 2]]", ""),
        ("[[1e999, 2]]", ""),
        ("{}", ""),
        ("", "", "[1, 2, 3]"),
        ("", "", "[1, 2, 3, 4, 5]"),
        ("", "", "7"),
        ("[" * 100_000, ""),
        (str([[1, 2]] * 17), ""),
    ],
)
def test_texts_that_are_no_prompt_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="BAD_PROMPT"):
        read_prompt(*texts)


def test_sam_by_its_folder_gives_what_the_library_gives(sam: Path) -> None:
    from transformers import SamModel, SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    pixels = np.random.default_rng(1).integers(0, 256, (64, 48, 3), np.uint8)
    (ours,) = SegmentAnything.load(sam, device="cpu", dtype=Dtype.FP32).segment(
        Image.fromarray(pixels), [Prompt((Point(20, 30), Point(5, 5, inside=False)))], quiet
    )
    processor = SamProcessor(SamImageProcessorPil.from_pretrained(sam))
    asked = processor(
        Image.fromarray(pixels), input_points=[[[20, 30], [5, 5]]], input_labels=[[1, 0]], return_tensors="pt"
    )
    sizes = asked.pop("original_sizes"), asked.pop("reshaped_input_sizes")
    told = SamModel.from_pretrained(sam)(
        **{**asked, "input_points": asked["input_points"].float()}, multimask_output=False
    )
    (meant,) = processor.image_processor.post_process_masks(told.pred_masks, *sizes)
    assert overlap(ours.mask, meant[0, 0].numpy()) > 0.99 or not meant.any()
    assert ours.score == pytest.approx(min(1.0, max(0.0, told.iou_scores.item())), abs=1e-3)


def test_what_progress_raises_ends_the_work_between_two_prompts(sam: Path) -> None:
    seen: list[int] = []

    def cancel(done: int, total: int) -> None:
        seen.append(done)
        if done == 2:
            raise Cancelled

    model = SegmentAnything.load(sam, device="cpu", dtype=Dtype.FP32)
    with pytest.raises(Cancelled):
        model.segment(Image.new("RGB", (64, 64)), [Prompt((POINT,))] * 5, cancel)
    assert seen == [0, 1, 2]
    assert len(model.segment(Image.new("RGB", (64, 64)), [Prompt((POINT,))], quiet)) == 1


def test_a_mask_that_is_no_number_is_broken_output(sam: Path) -> None:
    model = SegmentAnything.load(sam, device="cpu", dtype=Dtype.FP32)
    with torch.no_grad():
        model._model.mask_decoder.mask_tokens.weight.fill_(float("nan"))
    with pytest.raises(BrokenOutput):
        model.segment(Image.new("RGB", (64, 64)), [Prompt((POINT,))], quiet)


def test_the_box_of_a_mask() -> None:
    mask = np.zeros((10, 20), bool)
    assert box_of(mask) is None
    mask[3:5, 7:11] = True
    assert box_of(mask) == (7, 3, 11, 5)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"{"),
        ("preprocessor_config.json", b'{"image_mean": [0], "image_std": [1]}'),
        ("preprocessor_config.json", b'{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}'),
        ("preprocessor_config.json", b"[]"),
        ("model.safetensors", b"\xff" * 64),
        ("model.safetensors", b""),
    ],
)
def test_a_folder_that_is_no_sam_is_refused(sam: Path, tmp_path: Path, name: str, data: bytes) -> None:
    shutil.copytree(sam, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(data)
    with pytest.raises(Misconfigured):
        SegmentAnything.load(tmp_path / "model", device="cpu", dtype=Dtype.FP32)
