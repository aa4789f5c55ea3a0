"""PSNR and structural similarity: known values, and what each of them finds."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy")

from compute.likeness import IDENTICAL, MIN_PSNR, MIN_SSIM, compare, psnr, ssim  # noqa: E402


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    y, x = np.mgrid[0:72, 0:128]
    return [(((x + 3 * n) % 64) * 2 + (y % 32) * 3 + seed).astype(np.uint8) for n in range(count)]


def test_the_same_film_is_identical() -> None:
    found = compare(frames(5), frames(5))
    assert (found.psnr_min, round(found.ssim_min, 6), found.frames, found.missing) == (IDENTICAL, 1.0, 5, 0)
    assert found.honest


def test_psnr_of_a_known_error() -> None:
    one = np.full((16, 16), 100, np.uint8)
    assert psnr(one, one + 5) == pytest.approx(20 * np.log10(255 / 5))


def test_ssim_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.integers(0, 256, (9, 8), dtype=np.uint8) for _ in range(2))
    windows = []
    for top in (0, 1):
        a, b = one[top : top + 8].astype(float), other[top : top + 8].astype(float)
        both = ((a - a.mean()) * (b - b.mean())).mean()
        light = (2 * a.mean() * b.mean() + 6.5025) / (a.mean() ** 2 + b.mean() ** 2 + 6.5025)
        windows.append(light * (2 * both + 58.5225) / (a.var() + b.var() + 58.5225))
    assert ssim(one, other) == pytest.approx(np.mean(windows))


def test_noise_and_a_drawn_in_logo_are_found() -> None:
    rng = np.random.default_rng(2)
    noisy = [np.clip(f + rng.normal(0, 6, f.shape), 0, 255).astype(np.uint8) for f in frames(4)]
    assert compare(frames(4), noisy).psnr_min < MIN_PSNR
    marked = [f.copy() for f in frames(4)]
    for frame in marked:
        frame[4:20, 4:40] = 255
    assert compare(frames(4), marked).ssim_min < MIN_SSIM
    assert not compare(frames(4), marked).honest


def test_missing_frames_are_counted() -> None:
    found = compare(frames(5), frames(3))
    assert (found.frames, found.missing, found.honest) == (3, 2, False)
    assert compare([], frames(2)).missing == 2
    assert not compare([], []).honest


def test_pictures_of_two_sizes_are_no_pair() -> None:
    with pytest.raises(ValueError, match="one size"):
        ssim(np.zeros((16, 16), np.uint8), np.zeros((16, 18), np.uint8))
