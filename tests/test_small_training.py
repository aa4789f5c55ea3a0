"""The training of the small models, where it can be held to something exact: data, resuming, picking the best."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from benchmarks.pixelcheck import things_in  # noqa: E402
from benchmarks.quality import _edits  # noqa: E402
from compute.nets.ears import EarsConfig  # noqa: E402
from compute.training import course, outlining, utterances  # noqa: E402
from compute.training.captions import is_held_out  # noqa: E402
from compute.training.course import Course, Measured, Standing  # noqa: E402
from compute.training.listening import edit_distance  # noqa: E402
from compute.training.smallcards import publish  # noqa: E402
from compute.training.telling import told_example  # noqa: E402
from compute.training.things import segmented  # noqa: E402
from p2p.errors import Misconfigured  # noqa: E402

SEEDS = st.integers(0, 2**32)
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_sentence_is_made_of_the_vocabulary(seed: int) -> None:
    assert set(utterances.sentence(Random(seed)).split()) <= set(utterances.VOCABULARY)


def test_the_vocabulary_can_be_spelt_and_about_an_eighth_of_the_sentences_is_held_out() -> None:
    EarsConfig(utterances.VOCABULARY)
    rng = Random(1)
    held = sum(utterances.held_out(utterances.sentence(rng)) for _ in range(2000))
    assert 180 < held < 320


def test_without_espeak_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Misconfigured, match="espeak-ng"):
        utterances.say("red", "en", pace=120, pitch=50)


@given(WORDS, WORDS)
def test_edits_are_counted_alike_by_trainer_and_benchmark(wanted: list[str], got: list[str]) -> None:
    edits = edit_distance(wanted, got)
    assert edits == _edits(wanted, got) == edit_distance(got, wanted)
    assert abs(len(wanted) - len(got)) <= edits <= max(len(wanted), len(got))
    assert (edits == 0) == (wanted == got)


@given(SEEDS, st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_told_is_from_the_side_it_is_asked_from(seed: int, kept_away: bool) -> None:
    made = told_example(Random(seed), kept_away=kept_away)
    assert is_held_out(made) == kept_away
    assert made == told_example(Random(seed), kept_away=kept_away)


@given(SEEDS, st.booleans(), st.sampled_from([(64, 64), (96, 64)]))
@example(129184, False, (64, 64))  # two of its things meet on a pixel
@settings(max_examples=40, deadline=None)
def test_masks_cover_the_things_and_no_pixel_twice(seed: int, kept_away: bool, size: tuple[int, int]) -> None:
    made = segmented(Random(seed), *size, kept_away=kept_away)
    assert made.pixels.shape == (size[1], size[0], 3)
    assert made.masks
    assert not any((one & two).any() for one, two in combinations(made.masks, 2))
    for mask in made.masks:
        left, top, right, bottom = outlining.box_around(mask)
        x, y = outlining.point_on(mask, Random(seed))
        assert mask[y, x]
        assert left <= x <= right
        assert top <= y <= bottom


def test_masks_of_flat_things_are_those_that_pixels_tell() -> None:
    rng = Random(9)
    for _ in range(20):
        made = segmented(rng, 64, 64, kept_away=True)
        seen = [thing.mask for thing in things_in(made.pixels)]
        best = [max((one & two).sum() / (one | two).sum() for two in seen) for one in made.masks]
        assert min(best) > 0.8


def straight(work: Path, minutes: float, scores: list[float], exports: list[float]) -> Course:
    torch.manual_seed(0)

    def loss(model: torch.nn.Module, step: int) -> torch.Tensor:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    def measure(model: torch.nn.Module) -> Measured:
        score = scores.pop(0)
        return Measured(score, {"right": score})

    return Course(
        work=work,
        minutes=minutes,
        model=torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)),
        loss=loss,
        measure=measure,
        export=lambda model, folder: exports.append(model[0].weight.sum().item()),
        rate=0.01,
        say=lambda line: None,
    )


def test_a_run_stops_at_its_budget_goes_on_after_it_and_keeps_the_best(tmp_path: Path) -> None:
    exports: list[float] = []
    first = course.run(straight(tmp_path, 0.004, [0.5], exports))
    assert first.step > 0
    assert (first.best, len(exports)) == (0.5, 1)
    same = course.run(straight(tmp_path, 0.004, [0.4], exports))
    assert (same.step, same.best, same.rates) == (first.step, 0.5, {"right": 0.5})
    assert len(exports) == 1  # the worse one is not exported
    more = course.run(straight(tmp_path, 0.008, [0.9], exports))
    assert more.step > first.step
    assert (more.best, len(exports)) == (0.9, 2)


def test_a_card_says_what_was_measured(tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / "model.safetensors").write_bytes(b"weights")
    publish("listener", export, tmp_path / "to", Standing(70, 600.0, 1.0, {"word error rate": 0.0625}))
    card = (tmp_path / "to" / "README.md").read_text()
    assert "| word error rate | 0.062 |" in card
    assert "70 steps in 10 minutes" in card
    assert (tmp_path / "to" / "model.safetensors").read_bytes() == b"weights"
    assert "Apache" in (tmp_path / "to" / "LICENSE.txt").read_text()
