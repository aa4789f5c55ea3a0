"""How alike two films or pictures are, frame by frame: what tells an honest rendition from a cheap one.

PSNR finds too few bits, another size and missing frames; structural similarity finds what was drawn in. Decoding is the
caller's. Pure: numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Measured on renditions of 2 s, scaled to the same size, in gray: honest encoders stay above both in their worst frame,
# a tenth of the bits, a quarter of the size, frames shown twice and a logo fall below one of them.
MIN_PSNR: Final = 36.0
MIN_SSIM: Final = 0.98
IDENTICAL: Final = 99.0
_WINDOW: Final = 8
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

Gray: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Over all frames. ``missing`` counts frames that only one side has."""

    psnr_mean: float
    psnr_min: float
    ssim_mean: float
    ssim_min: float
    frames: int
    missing: int

    @property
    def honest(self) -> bool:
        """Whether it is what an honest encoder makes of the source."""
        return self.frames > 0 and not self.missing and self.psnr_min >= MIN_PSNR and self.ssim_min >= MIN_SSIM


def compare(source: Iterable[Gray], made: Iterable[Gray]) -> Likeness:
    """Frames of equal size in order. Holds two frames at a time."""
    psnrs, ssims, missing = [], [], 0
    left, right = iter(source), iter(made)
    while True:
        one, other = next(left, None), next(right, None)
        if one is None and other is None:
            break
        if one is None or other is None:
            missing += 1
            continue
        psnrs.append(psnr(one, other))
        ssims.append(ssim(one, other))
    if not psnrs:
        return Likeness(0.0, 0.0, 0.0, 0.0, 0, missing)
    return Likeness(
        float(np.mean(psnrs)), min(psnrs), float(np.mean(ssims)), min(ssims), frames=len(psnrs), missing=missing
    )


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; IDENTICAL at most."""
    square = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return IDENTICAL if square == 0 else min(IDENTICAL, float(10 * np.log10(255**2 / square)))


def ssim(one: Gray, other: Gray) -> float:
    """Structural similarity of two gray pictures, the mean over all windows of 8x8. Raises ValueError for odd pairs."""
    if one.shape != other.shape or one.ndim != 2 or min(one.shape) < _WINDOW:
        raise ValueError("two gray pictures of one size, of 8 pixels at least")
    a, b = one.astype(np.float64), other.astype(np.float64)
    mean_a, mean_b = _means(a), _means(b)
    spread_a, spread_b = _means(a * a) - mean_a**2, _means(b * b) - mean_b**2
    both = _means(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return float(np.mean(light * (2 * both + _C2) / (spread_a + spread_b + _C2)))


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each window, by running sums."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    window = (
        sums[_WINDOW:, _WINDOW:] - sums[:-_WINDOW, _WINDOW:] - sums[_WINDOW:, :-_WINDOW] + sums[:-_WINDOW, :-_WINDOW]
    )
    return window / _WINDOW**2
