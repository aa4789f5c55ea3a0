"""Procedural textures: smooth noise under stripes, waves, checks and rings. What a plain world lacks in detail.

Knows arrays only.
"""

from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compute.training.world import Pixels

_KINDS: Final = ("waves", "stripes", "checks", "rings", "noise")


def texture(rng: Random, width: int, height: int) -> Pixels:
    """One texture as (height, width, 3) bytes."""
    kind = rng.choice(_KINDS)
    base = _noise(rng, width, height, rng.choice((4, 8, 16)))
    if kind == "noise":
        fine = _noise(rng, width, height, max(8, min(width, height) // 3))
        return _bytes(base * 0.6 + fine * 0.4)
    pattern = _pattern(rng, kind, width, height)
    one, other = _colour(rng), _colour(rng)
    over = one + (other - one) * pattern[:, :, None]
    share = rng.uniform(0.3, 0.8)
    return _bytes(base * (1 - share) + over * share)


def _pattern(rng: Random, kind: str, width: int, height: int) -> NDArray[np.float64]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    turn, pitch, phase = rng.uniform(0, np.pi), rng.uniform(0.12, 0.75), rng.uniform(0, 6.28)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if kind == "rings":
        along = np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height))
    wave: Any = np.sin(along * pitch + phase)
    if kind == "checks":
        wave = wave * np.sin(across * pitch)
    hard = kind in ("stripes", "checks") or rng.random() < 0.3
    edge = 6.0 if hard else 1.0  # a steep slope instead of a step, which no pixel grid could hold
    return np.clip(wave * edge, -1, 1) / 2 + 0.5


def _noise(rng: Random, width: int, height: int, cells: int) -> NDArray[np.float64]:
    source = np.random.default_rng(rng.getrandbits(32))
    small = Image.fromarray((source.random((cells, cells, 3)) * 255).astype(np.uint8), "RGB")
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float64)


def _colour(rng: Random) -> NDArray[np.float64]:
    return np.array([rng.uniform(0, 255) for _ in range(3)])


def _bytes(values: NDArray[np.float64]) -> Pixels:
    return np.clip(values, 0, 255).astype(np.uint8)
