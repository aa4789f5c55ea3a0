"""The world the bundled model learns: canvases render at any size, captions say what is drawn, held-out stays out."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from benchmarks.pixelcheck import background_of
from benchmarks.prompts import PROMPTS
from compute.training import captions, world
from compute.training.captions import Thing, held_out, held_out_pair

SEEDS = st.integers(min_value=0, max_value=2**32)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_the_same_chance_makes_the_same_example(seed: int) -> None:
    first, second = captions.example(Random(seed)), captions.example(Random(seed))
    assert first == second
    assert np.array_equal(world.render(first.canvas, 64, 64), world.render(second.canvas, 64, 64))


@given(SEEDS, st.sampled_from([(64, 64), (96, 64), (64, 128), (40, 256)]))
@settings(max_examples=40, deadline=None)
def test_a_canvas_renders_at_any_size(seed: int, size: tuple[int, int]) -> None:
    width, height = size
    pixels = world.render(captions.example(Random(seed)).canvas, width, height)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("side", [0, 7, 1025, -64])
def test_a_size_out_of_bounds_is_refused(side: int) -> None:
    canvas = world.plain((1, 2, 3), ())
    with pytest.raises(ValueError, match="a side must be"):
        world.render(canvas, side, 64)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_caption_names_what_is_drawn(seed: int) -> None:
    made = captions.single(Random(seed))
    thing = made.things[0]
    said = set(made.caption.replace(",", " ").replace("grey", "gray").replace("violet", "purple").split())
    assert thing.colour in said
    assert made.background in said or made.background == "white"
    assert background_of(world.render(made.canvas, 64, 64)) == made.background


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_training_never_sees_what_is_held_out(seed: int) -> None:
    assert not captions.is_held_out(captions.example(Random(seed)))


def test_the_rule_holds_out_a_share_and_not_everything() -> None:
    combinations = [
        (Thing(colour, shape), background)
        for colour in world.COLOURS
        for shape in world.SHAPES
        for background in world.COLOURS
    ]
    share = sum(held_out(*combination) for combination in combinations) / len(combinations)
    assert 0.5 / captions.HELD_OUT_SHARE < share < 2 / captions.HELD_OUT_SHARE


def test_each_benchmark_prompt_is_held_out() -> None:
    for prompt in PROMPTS:
        things = [Thing(wanted.colour, wanted.shape) for wanted in prompt.facts.things]
        kept_away = any(held_out(thing, prompt.facts.background) for thing in things)
        if len(things) == 2:
            kept_away = kept_away or held_out_pair(things[0], prompt.facts.relation, things[1])
        assert kept_away, prompt.text


def test_there_are_sixty_different_prompts() -> None:
    assert len({prompt.text for prompt in PROMPTS}) == len({prompt.seed for prompt in PROMPTS}) == 60


def test_no_benchmark_prompt_is_ever_a_training_caption() -> None:
    asked = {prompt.text for prompt in PROMPTS}
    rng = Random(0)
    assert not asked & {captions.example(rng).caption for _ in range(5_000)}
