"""The pixel check: it finds what is there, and refuses what is not, on pictures this file draws itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.pixelcheck import PALETTE, Facts, Wanted, background_of, check, largest_patch, things_in

COLOURS = st.sampled_from(sorted(PALETTE))
OUTLINES = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0, -1), (1, 0.9), (-1, 0.9)],
    "diamond": [(0, -1.2), (0.8, 0), (0, 1.2), (-0.8, 0)],
    "cross": [(-1, -.33), (-.33, -.33), (-.33, -1), (.33, -1), (.33, -.33), (1, -.33), (1, .33), (.33, .33), (.33, 1),
              (-.33, 1), (-.33, .33), (-1, .33)],
    "star": [(0, -1.1), (0.26, -0.36), (1.05, -0.34), (0.42, 0.14), (0.65, 0.89), (0, 0.44), (-0.65, 0.89),
             (-0.42, 0.14), (-1.05, -0.34), (-0.26, -0.36)],
}  # fmt: skip


def picture(background: str, *things: tuple[str, str, float, float, float], side: int = 64) -> NDArray[np.uint8]:
    """Soft-edged forms (colour, shape, x, y, radius) on a flat background."""
    big = side * 4
    image = Image.new("RGB", (big, big), PALETTE[background])
    pen = ImageDraw.Draw(image)
    for colour, shape, x, y, radius in things:
        if shape == "circle":
            pen.ellipse(
                [(x - radius) * big, (y - radius) * big, (x + radius) * big, (y + radius) * big], PALETTE[colour]
            )
        else:
            pen.polygon(
                [((x + px * radius) * big, (y + py * radius) * big) for px, py in OUTLINES[shape]], PALETTE[colour]
            )
    return np.asarray(image.reduce(4), dtype=np.uint8)


@given(COLOURS, COLOURS, st.sampled_from(["circle", *OUTLINES]), st.sampled_from([64, 128]))
@settings(max_examples=80, deadline=None)
def test_a_clean_picture_has_every_fact(background: str, colour: str, shape: str, side: int) -> None:
    if colour == background:
        return
    pixels = picture(background, (colour, shape, 0.5, 0.25, 0.185), side=side)
    verdicts = check(pixels, Facts(background, (Wanted(colour, shape, "medium", "top"),)))
    assert verdicts == {"background": [True], "colour": [True], "shape": [True], "size": [True], "position": [True]}


@given(COLOURS, COLOURS, COLOURS)
@settings(max_examples=60, deadline=None)
def test_another_colour_is_refused(background: str, drawn: str, asked: str) -> None:
    if len({background, drawn, asked}) < 3:
        return
    verdicts = check(
        picture(background, (drawn, "circle", 0.5, 0.5, 0.2)), Facts(background, (Wanted(asked, "circle"),))
    )
    assert verdicts["colour"] == verdicts["shape"] == [False]


def test_an_empty_picture_has_only_its_background() -> None:
    verdicts = check(picture("blue"), Facts("blue", (Wanted("red", "circle", "small", "left"),)))
    assert verdicts == {"background": [True], "colour": [False], "shape": [False], "size": [False], "position": [False]}


def test_soft_edges_are_no_thing() -> None:
    # Between black and white lies gray, and the rim of a black disc has plenty of it.
    assert [seen.colour for seen in things_in(picture("white", ("black", "circle", 0.5, 0.5, 0.3)))] == ["black"]


def test_noise_is_no_thing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert things_in(noise) == []


@pytest.mark.parametrize(
    ("relation", "holds"), [("above", True), ("below", False), ("to the left of", False), ("to the right of", False)]
)
def test_a_relation_is_judged_both_ways(relation: str, holds: bool) -> None:
    pixels = picture("white", ("red", "circle", 0.5, 0.25, 0.15), ("blue", "square", 0.5, 0.75, 0.15))
    facts = Facts("white", (Wanted("red", "circle"), Wanted("blue", "square")), relation)
    assert check(pixels, facts)["relation"] == [holds]
    assert check(pixels, facts)["colour"] == [True, True]


def test_a_missing_second_thing_fails_its_relation() -> None:
    pixels = picture("white", ("red", "circle", 0.5, 0.25, 0.15))
    verdicts = check(pixels, Facts("white", (Wanted("red", "circle"), Wanted("blue", "square")), "above"))
    assert verdicts["colour"] == [True, False]
    assert verdicts["relation"] == [False]


def test_a_third_larger_thing_pushes_the_wanted_one_out() -> None:
    pixels = picture("white", ("red", "circle", 0.2, 0.2, 0.1), ("green", "square", 0.6, 0.6, 0.25))
    assert check(pixels, Facts("white", (Wanted("red", "circle"),)))["colour"] == [False]


def test_the_wrong_size_and_place_are_refused() -> None:
    pixels = picture("gray", ("yellow", "star", 0.75, 0.5, 0.12))
    verdicts = check(pixels, Facts("gray", (Wanted("yellow", "star", "large", "left"),)))
    assert verdicts["colour"] == verdicts["shape"] == [True]
    assert verdicts["size"] == verdicts["position"] == [False]


def test_the_background_is_what_the_border_has() -> None:
    assert background_of(picture("brown", ("cyan", "square", 0.5, 0.5, 0.45))) == "brown"


def test_the_largest_patch_is_one_piece() -> None:
    mask = np.zeros((8, 8), dtype=np.bool_)
    mask[0, :3] = mask[4:7, 4:7] = True
    patch = largest_patch(mask)
    assert patch.sum() == 9
    assert patch[5, 5]
    assert not patch[0, 0]
    assert not largest_patch(np.zeros((4, 4), dtype=np.bool_)).any()
