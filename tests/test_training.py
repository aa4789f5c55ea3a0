"""The parts of the training that can be held to something exact: tokens, code, examples of a step, rates, optimiser."""

import copy
from random import Random

import pytest

torch = pytest.importorskip("torch")

from compute.training import autoencoder, captions, optimiser, tokens, world  # noqa: E402
from compute.training.train import Source, average_decay, learning_rate  # noqa: E402


def test_known_words_are_one_token_and_unknown_ones_fall_to_letters() -> None:
    rng = Random(0)
    tokenizer = tokens.build([captions.example(rng).caption for _ in range(3_000)])
    assert tokenizer.tokenize("a Red circle above") == ["a</w>", "red</w>", "circle</w>", "above</w>"]
    assert len(tokenizer.tokenize("zyzzyva")) > 1
    assert tokenizer.unk_token_id not in tokenizer("zyzzyva ünïcödé 猫", add_special_tokens=False).input_ids
    ids = tokens.token_ids(tokenizer, ["", "word " * 200])
    assert [len(row) for row in ids] == [tokens.MAX_TOKENS, tokens.MAX_TOKENS]


def test_every_caption_fits_the_text_window() -> None:
    rng = Random(1)
    texts = [captions.example(rng).caption for _ in range(3_000)]
    tokenizer = tokens.build(texts)
    assert max(len(tokenizer(text).input_ids) for text in texts) <= tokens.MAX_TOKENS


def test_the_written_down_encoder_is_the_fitted_code() -> None:
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
    rng = Random(3)
    made = [captions.example(rng) for _ in range(64)]
    code = autoencoder.fit(autoencoder.to_tensor([world.render(one.canvas, 64, 64) for one in made]))
    tokenizer = tokens.build([one.caption for one in made])
    for step in (0, 1):
        first, again = (Source(code, tokenizer, 6, seed=1).parts(step) for _ in range(2))
        assert all(torch.equal(one.codes, two.codes) and torch.equal(one.ids, two.ids)
                   for one, two in zip(first, again, strict=True))  # fmt: skip
    assert len(first) == 2  # every second step has a part of another size


def test_the_rates_of_training_fall_only_at_the_end() -> None:
    assert learning_rate(0.0, 0, 1.0) < learning_rate(0.0, 300, 1.0) == learning_rate(0.5, 9_000, 1.0) == 1.0
    assert learning_rate(0.8, 9_000, 1.0) == pytest.approx(0.5)
    assert learning_rate(1.5, 9_000, 1.0) == pytest.approx(0.02)
    assert 0 < average_decay(0) < average_decay(100) < average_decay(100_000) <= 0.9995


def test_an_orthogonal_update_has_singular_values_near_one() -> None:
    matrices = (
        torch.randn(3, 24, 96, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    )
    values = torch.linalg.svdvals(optimiser.orthogonal(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4), (6, 3, 3, 3)])
def test_muon_moves_every_matrix_downhill(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, target = torch.nn.Parameter(torch.randn(shape)), torch.randn(shape)
    muon = optimiser.Muon([weight], lr=0.05)
    before = (weight - target).square().sum().item()
    for _ in range(60):
        muon.zero_grad()
        (weight - target).square().sum().backward()
        muon.step()
    assert (weight - target).square().sum().item() < before / 2


def test_a_resumed_optimiser_steps_like_the_unbroken_one() -> None:
    def build() -> tuple[torch.nn.Module, optimiser.Split]:
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 2))
        return model, optimiser.Split(model.named_parameters(), lr=0.01)

    def step(model: torch.nn.Module, split: optimiser.Split) -> None:
        split.zero_grad()
        model(torch.ones(3, 6)).square().sum().backward()
        split.step()

    unbroken, first = build()
    step(unbroken, first)
    resumed, second = build()
    resumed.load_state_dict(unbroken.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(unbroken, first)
    step(resumed, second)
    assert all(torch.equal(one, two) for one, two in zip(unbroken.parameters(), resumed.parameters(), strict=True))
