"""The moving world that the mover is trained on: exact layers, words within the window, nothing that is held out."""

from __future__ import annotations

from random import Random

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from compute.nets.layering import compose  # noqa: E402
from compute.training import motions, moving, textures, upscaling, world  # noqa: E402
from compute.training.autoencoder import to_tensor  # noqa: E402
from compute.training.motions import DRIFT, PAN, SET, ZOOM, clip  # noqa: E402


def test_a_clip_begins_with_its_still_and_moves_unless_it_is_told_to_stay() -> None:
    rng = Random(1)
    for _ in range(60):
        made = clip(rng)
        first, last = (world.render(made.at(part), 32, 32) for part in (0.0, 1.0))
        if made.motion == motions.Motion():
            assert np.array_equal(first, last)
        assert made.first <= made.last <= len(made.canvas.marks)
        assert all(abs(way) <= 1.5 * PAN for way in made.motion.pan)
        assert abs(made.motion.zoom) <= 1.5 * ZOOM
        assert all(abs(way) <= max(SET, 1.5 * DRIFT) for way in made.motion.drift)


def test_words_and_motion_agree() -> None:
    rng = Random(2)
    for _ in range(400):
        text, motion = motions.camera(rng)
        words = text.split()
        if "left" in words:
            assert motion.pan[0] > 0  # what is seen goes to the right
        if "right" in words:
            assert motion.pan[0] < 0
        assert (motion.zoom > 0) == any(word in text for word in ("zoom in", "zooms in", "zooming in", "closer"))
        if {"slow", "slowly"} & set(words):
            assert max(abs(motion.pan[0]), abs(motion.pan[1]), abs(motion.zoom)) <= 0.5 * ZOOM


def test_the_layers_of_the_world_give_its_frames() -> None:
    """Put together from the truth, frames are those that are drawn, but for rims that fall between pixels."""
    rng = Random(3)
    clips = [clip(rng) for _ in range(24)]

    def drawn(canvases: list[world.Canvas]) -> torch.Tensor:
        return to_tensor([world.render(canvas, 64, 64) for canvas in canvases])

    still, frame = drawn([made.at(0.0) for made in clips]), drawn([made.at(0.6) for made in clips])
    truth = moving._truth(clips, still, drawn)
    steering = torch.tensor([moving.steering_of(made) for made in clips])
    made = compose(still, truth, steering, torch.full((len(clips),), 0.6))
    errors = (made - frame).square().mean((1, 2, 3))
    assert errors.median() < 4 / 10**2.7  # 27 dB
    assert errors.max() < 4 / 10**1.8


def test_textures_and_pairs_are_what_the_upscaler_expects() -> None:
    picture = textures.texture(Random(4), 48, 32)
    assert (picture.shape, picture.dtype) == ((32, 48, 3), np.uint8)
    small, large = upscaling.examples(7)
    assert small.shape[2] * 2 == large.shape[2] == 64
    again = upscaling.examples(7)
    assert torch.equal(small, again[0])
    assert torch.equal(large, again[1])
