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


def test_known_words_are_one_token_and_unknown_ones_fall_to_letters() -> None:
    from compute.training import tokens

    rng = Random(0)
    tokenizer = tokens.build([captions.example(rng).caption for _ in range(3_000)])
    assert tokenizer.tokenize("a Red circle above") == ["a</w>", "red</w>", "circle</w>", "above</w>"]
    assert len(tokenizer.tokenize("zyzzyva")) > 1
    assert tokenizer.unk_token_id not in tokenizer("zyzzyva ünïcödé 猫", add_special_tokens=False).input_ids
    ids = tokens.token_ids(tokenizer, ["", "word " * 200])
    assert [len(row) for row in ids] == [tokens.MAX_TOKENS, tokens.MAX_TOKENS]


def test_every_caption_fits_the_text_window() -> None:
    from compute.training import tokens

    rng = Random(1)
    texts = [captions.example(rng).caption for _ in range(3_000)]
    tokenizer = tokens.build(texts)
    assert max(len(tokenizer(text).input_ids) for text in texts) <= tokens.MAX_TOKENS


def test_the_written_down_encoder_is_the_fitted_code() -> None:
    import torch

    from compute.training import autoencoder

    rng = Random(2)
    batch = autoencoder.to_tensor([world.render(captions.example(rng).canvas, 64, 96) for _ in range(48)])
    code = autoencoder.fit(batch)
    vae = autoencoder.build(code)
    with torch.no_grad():
        written = vae.encode(batch).latents * vae.config.scaling_factor
    assert torch.allclose(written, code.encode(batch), atol=1e-4)
    error = (code.decode(code.encode(batch)) - batch).square().mean()
    assert error < batch.var() / 20


def test_a_step_sees_the_same_parts_after_a_resume() -> None:
    import torch

    from compute.training import autoencoder, tokens
    from compute.training.train import Source

    rng = Random(3)
    made = [captions.example(rng) for _ in range(64)]
    code = autoencoder.fit(autoencoder.to_tensor([world.render(one.canvas, 64, 64) for one in made]))
    tokenizer = tokens.build([one.caption for one in made])
    for step in (0, 3):
        first, again = (Source(code, tokenizer, 6, seed=1).parts(step) for _ in range(2))
        assert all(torch.equal(one.codes, two.codes) and torch.equal(one.ids, two.ids)
                   for one, two in zip(first, again, strict=True))  # fmt: skip
    assert len(first) == 2  # every fourth step has a part of another size


def test_the_rates_of_training_fall_only_at_the_end() -> None:
    from compute.training.train import average_decay, learning_rate

    assert learning_rate(0.0, 0, 1.0) < learning_rate(0.0, 300, 1.0) == learning_rate(0.5, 9_000, 1.0) == 1.0
    assert learning_rate(0.8, 9_000, 1.0) == pytest.approx(0.5)
    assert learning_rate(1.5, 9_000, 1.0) == pytest.approx(0.02)
    assert 0 < average_decay(0) < average_decay(100) < average_decay(100_000) <= 0.9995
