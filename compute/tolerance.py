"""Tolerance: how far an honest run of the same job may lie from a committed one. Declared here and nowhere else.

Two machines that do the same work differ in the last bits: threads, batches, kernels and number formats do that. Every
bound was measured (``python -m benchmarks tolerance`` measures it again) and stands well above what honest runs do and
well below what skipping, guessing or coarser weights do. It is the checker's rule and does not travel: a seller that
named its own would be judged by itself. What a buyer must know of a seller is the number format, which its Offer and
its Receipt name. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from compute.capability import Dtype
from compute.spec import IMAGE_TO_IMAGE

LEVEL: Final = 10**9 // 255 + 1  # one step of a byte of a picture, in billionths


@dataclass(frozen=True, slots=True)
class Bound:
    """``nano``: the largest difference of two numbers in billionths; ``ppm``: the whole difference over the whole."""

    nano: int
    ppm: int

    def holds(self, nano: int, ppm: int) -> bool:
        """Whether a measured difference lies inside."""
        return 0 <= nano <= self.nano and 0 <= ppm <= self.ppm


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``start``: noise of the seed; ``step``: latents after one step that is run again from those before it.

    The latter relative to how far the step moved them. ``picture``: pixels of the last latents, white being 1;
    ``result``: what a whole job gave when it was run again.
    """

    start: Bound
    step: Bound
    picture: Bound
    result: Bound


_SINGLE = Tolerance(
    start=Bound(1_000, 10),
    step=Bound(100_000, 500),
    picture=Bound(2 * LEVEL, 400),
    result=Bound(2 * LEVEL, 400),
)
_HALF = Tolerance(
    start=Bound(40_000_000, 5_000),
    step=Bound(2_000_000_000, 140_000),
    picture=Bound(12 * LEVEL, 6_000),
    result=Bound(64 * LEVEL, 20_000),
)


def tolerance(pipeline: str, committed: Dtype, computed: Dtype) -> Tolerance:
    """For jobs of ``pipeline`` made in one number format and run again in another."""
    found = _SINGLE if committed is computed is Dtype.FP32 else _HALF  # half precision differs as much as formats do
    if pipeline == IMAGE_TO_IMAGE:  # its first latents are no bare noise: a picture was encoded for them
        return replace(found, start=found.step)
    return found
