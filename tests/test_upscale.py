"""The upscaler on its bundled weights: better than bicubic, no seams, bounded, ended between two tiles."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
from PIL import Image  # noqa: E402

from compute.capability import Dtype  # noqa: E402
from compute.likeness import psnr  # noqa: E402
from compute.modelfolder import bundled  # noqa: E402
from compute.pipeline import BrokenOutput, Cancelled  # noqa: E402
from compute.pipelines import upscale  # noqa: E402
from compute.pipelines.upscale import MAX_PIXELS, TILE, Upscale, tiles  # noqa: E402
from compute.training.textures import texture  # noqa: E402
from p2p.errors import Misconfigured, Refused  # noqa: E402


@pytest.fixture(scope="module")
def model() -> Upscale:
    return Upscale.load(bundled("tiny-upscaler"), device="cpu", dtype=Dtype.FP32)


def picture(height: int, width: int, seed: int = 0) -> Any:
    """Hard edges at slants, which bicubic blurs: drawn here, not by the trainer."""
    y, x = np.mgrid[0 : height * 4, 0 : width * 4] / 4
    inside = (np.hypot(x - width * 0.4, y - height * 0.5) < height * 0.3) | (x + 2 * y > width * 1.9 + seed)
    flat = np.where(inside[..., None], (230, 40, 60), (20, 120, 200)).astype(np.uint8)
    return np.asarray(Image.fromarray(flat).reduce(4))


@pytest.mark.parametrize("factor", [2, 4])
def test_edges_come_out_better_than_bicubic_by_a_decibel(model: Upscale, factor: int) -> None:
    for seed in range(4):
        large = picture(96, 128, seed * 3)
        small = Image.fromarray(large).reduce(factor)
        made = model.enlarge(np.asarray(small), factor)
        smooth = np.asarray(small.resize((128, 96), Image.Resampling.BICUBIC))
        assert made.shape == large.shape
        assert psnr(made, large) >= psnr(smooth, large) + 1.0


@pytest.mark.parametrize("factor", [2, 4])
def test_tiles_make_no_seams(model: Upscale, factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small = texture(Random(1), 70, 53)
    at_once = model.enlarge(small, factor).astype(int)
    monkeypatch.setattr(upscale, "TILE", 20)
    assert np.abs(model.enlarge(small, factor) - at_once).max() <= 1  # one level: the order of additions


def test_tiles_cover_a_picture_once() -> None:
    seen = np.zeros((300, 260), int)
    for top, left, bottom, right in tiles(300, 260):
        assert bottom - top <= TILE
        assert right - left <= TILE
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()


def test_progress_is_told_and_work_ends_between_two_tiles(model: Upscale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "TILE", 16)
    heard: list[tuple[int, int]] = []
    model.enlarge(picture(32, 48), 2, lambda done, of: heard.append((done, of)))
    assert heard == [(done, 6) for done in range(7)]

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.enlarge(picture(32, 48), 2, stop)
    assert model.enlarge(picture(32, 48), 2).shape == (64, 96, 3)  # the model stays usable


def test_what_cannot_be_enlarged_is_refused_before_anything_is_allocated(model: Upscale) -> None:
    good = picture(16, 16)
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (100_000, 100_000, 3))
    for bad, factor, code in (
        (good, 3, "BAD_FACTOR"), (good, 0, "BAD_FACTOR"), (good.astype(np.float32), 2, "BAD_PICTURE"),
        (good[..., :2], 2, "BAD_PICTURE"), (good[0], 2, "BAD_PICTURE"), (good[:3], 2, "SIDE_TOO_SMALL"),
        (good[:0], 2, "SIDE_TOO_SMALL"), (huge, 2, "PICTURE_TOO_LARGE"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=code):
            model.enlarge(bad, factor)
    assert MAX_PIXELS * 3 < 1 << 28  # what one result may take


def test_weights_that_are_not_its_own_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = load_file(bundled("tiny-upscaler") / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    bad: list[dict[str, Any]] = [
        {}, dict(list(whole.items())[1:]), {**whole, "more": torch.zeros(1)}, {**whole, "conv_in.bias": torch.zeros(5)},
        {**whole, "more": torch.zeros(10**6)},
    ]  # fmt: skip
    for number, weights in enumerate([None, *bad]):
        if weights is not None:
            save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(Misconfigured):
            Upscale.load(tmp_path, device="cpu", dtype=Dtype.FP32)
        assert number < 6


def test_numbers_that_are_none_are_no_picture(model: Upscale) -> None:
    broken = Upscale.load(bundled("tiny-upscaler"), device="cpu", dtype=Dtype.FP32)
    with torch.no_grad():
        broken._net.conv_out.bias.fill_(float("nan"))
    with pytest.raises(BrokenOutput):
        broken.enlarge(picture(16, 16), 2)
