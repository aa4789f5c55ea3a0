"""A still that moves, on the bundled weights: where it was told to, from the still, steadily; and what is refused."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compute.offline import go_offline, hush

go_offline()
torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
hush()

from benchmarks import motioncheck  # noqa: E402
from compute.capability import Dtype  # noqa: E402
from compute.likeness import psnr  # noqa: E402
from compute.modelfolder import bundled  # noqa: E402
from compute.nets.layering import Layers, compose, sharpened  # noqa: E402
from compute.pipeline import BrokenOutput, Cancelled  # noqa: E402
from compute.pipelines.image_to_video import MAX_FRAMES, MOTIONS, ImageToVideo, Wish, mp4  # noqa: E402
from compute.training.captions import Thing, held_out  # noqa: E402
from p2p.errors import Misconfigured, Refused  # noqa: E402

ASKED = list(motioncheck.asked())
BUNDLED = pytest.mark.skipif(not bundled("tiny-mover").is_dir(), reason="the mover's weights are not here")


@pytest.fixture(scope="module")
def model() -> ImageToVideo:
    return ImageToVideo.load(bundled("tiny-mover"), device="cpu", dtype=Dtype.FP32)


def test_the_check_finds_the_frames_that_are_meant_right() -> None:
    for wish in ASKED:
        found = motioncheck.check([wish.frame(part / 9) for part in range(10)], wish)
        assert (found.direction, found.amount, found.others_stay) == (True, True, True), wish.prompt
        assert found.flicker == pytest.approx(1.0, abs=0.5 if wish.sinks else 1e-9)


def test_the_check_finds_what_is_wrong() -> None:
    for wish in ASKED:
        stands = motioncheck.check([wish.frame(0.0)] * 9 + [wish.frame(0.01)], wish)
        assert not stands.direction
        backwards = motioncheck.check([wish.frame(1 - part / 9) for part in range(10)], wish)
        assert not backwards.direction or not backwards.amount
        jumps = motioncheck.check([wish.frame(float(part > 4)) for part in range(10)], wish)
        assert jumps.flicker > 2


def test_the_stills_of_the_check_are_kept_out_of_training() -> None:
    for ground, *things in motioncheck.STILLS:
        assert all(held_out(Thing(colour, shape), ground) for colour, shape in things)
    assert Counter(wish.kind for wish in ASKED).keys() == {"drift", "pan", "zoom", "sun", "boat"}


@BUNDLED
def test_stills_move_as_they_are_told(model: ImageToVideo) -> None:
    found = motioncheck.rates(lambda still, prompt: list(model.take_apart(still, Wish(prompt, frames=8)).frames()))
    assert found["direction right"] >= 0.95
    assert found["amount right"] >= 0.85
    assert found["first frame, dB at least"] >= 40
    assert found["direction"]["pan"] == found["direction"]["zoom"] == 1.0


@BUNDLED
@pytest.mark.parametrize("motion", [name for name in MOTIONS if name.startswith(("pan", "zoom", "still"))])
def test_a_setting_moves_as_its_sentence(model: ImageToVideo, motion: str) -> None:
    still = ASKED[14].frame(0.0)
    by_name, by_word = model.take_apart(still, Wish(motion=motion)), model.take_apart(still, Wish(MOTIONS[motion]))
    assert torch.equal(by_name.steering, by_word.steering)
    twice = model.take_apart(still, Wish(motion=motion, amount=2.0))
    assert torch.allclose(twice.steering, 2 * by_name.steering)


@BUNDLED
def test_a_larger_still_keeps_its_pixels_and_its_sides(model: ImageToVideo) -> None:
    small = ASKED[0].frame(0.0)
    large = np.kron(small, np.ones((3, 3, 1), np.uint8))[:190, :170]
    moving = model.take_apart(large, Wish(ASKED[0].prompt, frames=4))
    frames = list(moving.frames())
    assert all(frame.shape == large.shape for frame in frames)
    assert psnr(frames[0], large) >= 35
    assert psnr(frames[-1], large) < 30


@BUNDLED
def test_a_frame_can_be_made_alone_and_again(model: ImageToVideo) -> None:
    moving = model.take_apart(ASKED[1].frame(0.0), Wish(ASKED[1].prompt))
    assert np.array_equal(list(moving.frames())[7], moving.frame(7))
    again = model.take_apart(ASKED[1].frame(0.0), Wish(ASKED[1].prompt))
    assert np.array_equal(again.frame(15), moving.frame(15))


@BUNDLED
def test_progress_is_told_and_work_ends_between_two_frames(model: ImageToVideo) -> None:
    moving, heard = model.take_apart(ASKED[0].frame(0.0), Wish("pan left", frames=3)), []  # type: ignore[var-annotated]
    list(moving.frames(lambda done, of: heard.append((done, of))))
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def stop(done: int, of: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        list(moving.frames(stop))


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"motion": "spin"}, "BAD_MOTION"), ({"prompt": "a" * 4097}, "PROMPT_TOO_LONG"),
        ({"amount": 0.0}, "BAD_AMOUNT"), ({"amount": float("nan")}, "BAD_AMOUNT"),
        ({"amount": float("inf")}, "BAD_AMOUNT"), ({"frames": 1}, "BAD_FRAMES"),
        ({"frames": MAX_FRAMES + 1}, "BAD_FRAMES"), ({"frames": 2.5}, "BAD_FRAMES"),
    ],
)  # fmt: skip
def test_a_wish_out_of_bounds_is_refused(wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused, match=code):
        Wish(**wrong)


@BUNDLED
def test_a_still_out_of_bounds_is_refused(model: ImageToVideo) -> None:
    good = ASKED[0].frame(0.0)
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (100_000, 100_000, 3))
    for bad in (huge, good[:16], good[..., 0], good.astype(np.float32), good[..., :2]):
        with pytest.raises(Refused, match="BAD_PICTURE"):
            model.take_apart(bad, Wish("pan left"))


@BUNDLED
def test_numbers_that_are_none_are_no_film(model: ImageToVideo) -> None:
    broken = ImageToVideo.load(bundled("tiny-mover"), device="cpu", dtype=Dtype.FP32)
    broken._splitter.conv_out.bias.fill_(float("nan"))
    with pytest.raises(BrokenOutput):
        broken.take_apart(ASKED[0].frame(0.0), Wish("pan left"))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        ImageToVideo.load(tmp_path, device="cpu", dtype=Dtype.FP32)


def test_layers_that_are_exact_give_the_exact_frame() -> None:
    """A square of ten pixels that goes five to the right over a plain ground, behind a post."""
    still = torch.zeros(1, 3, 32, 32)
    still[:, :, 10:20, 5:15] = 0.8
    still[:, 0, :, 17:20] = -0.9  # the post hides what comes behind it
    share = torch.zeros(1, 1, 32, 32)
    moving, front = share.clone(), share.clone()
    moving[:, :, 10:20, 5:15] = 1
    front[:, :, :, 17:20] = 1
    behind = still.clone()
    behind[:, :, 10:20, 5:15] = 0.0
    made = Layers(moving, front, share, behind, still, torch.zeros_like(still))
    steering = torch.tensor([[0.0, 0.0, 0.0, 5 / 32, 0.0]])
    frame = compose(still, made, steering, torch.ones(1))
    expected = behind.clone()
    expected[:, :, 10:20, 10:20] = 0.8
    expected[:, 0, :, 17:20] = -0.9
    expected[:, 1:, :, 17:20] = 0.0
    assert torch.allclose(frame, expected, atol=1e-5)
    assert torch.allclose(compose(still, made, steering, torch.zeros(1)), still, atol=1e-6)


def test_a_rim_is_found_again_at_a_larger_size() -> None:
    wide = torch.zeros(1, 3, 64, 64)
    wide[:, :, 20:44, 20:44] = 0.9
    share = torch.zeros(1, 1, 16, 16)
    share[:, :, 5:11, 5:11] = 1
    none, ground = torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16)
    made = sharpened(wide, Layers(share, none, none, ground, ground, ground))
    truth = (wide[:, :1] > 0).float()
    assert (made.moving - truth).abs().max() < 0.05


def test_a_film_is_a_file_that_plays() -> None:
    av = pytest.importorskip("av")
    frames = [ASKED[0].frame(part / 7)[:63, :61] for part in range(8)]
    with av.open(io.BytesIO(mp4(frames, fps=8))) as source:
        stream = source.streams.video[0]
        shown = [frame for packet in source.demux(stream) for frame in packet.decode()]
        assert (stream.codec_context.name, stream.average_rate, len(shown)) == ("h264", 8, 8)
        assert (shown[0].width, shown[0].height) == (60, 62)
        assert psnr(shown[-1].to_ndarray(format="rgb24"), frames[-1][:62, :60]) > 25
    with pytest.raises(Refused, match="BAD_FPS"):
        mp4(frames, fps=0)
