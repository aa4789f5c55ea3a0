"""Which pixels belong to which thing: pictures of the little world with a mask for every thing in them.

A thing is what a caption names with one noun (a house with its roof and door, a tree with its trunk). Knows no model.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from compute.training.captions import is_held_out, pair, row, single
from compute.training.scenes import landscape
from compute.training.world import Canvas, Mark, Pixels, plain, render

Mask: TypeAlias = NDArray[np.bool_]
_LEAST_PIXELS: Final = 12  # a thing that others cover but for a crumb is not asked for


@dataclass(frozen=True, slots=True)
class Segmented:
    """A picture and one mask for each thing that can be seen in it. Masks do not overlap."""

    pixels: Pixels
    masks: tuple[Mask, ...]


def segmented(rng: Random, width: int, height: int, *, kept_away: bool = False) -> Segmented:
    """A picture with at least one thing; from training, or one of flat shapes that is kept away from it."""
    while True:
        draw = rng.random() * (0.7 if kept_away else 1.0)
        if draw < 0.7:
            made = single(rng) if draw < 0.25 else pair(rng) if draw < 0.5 else row(rng)
            if is_held_out(made) != kept_away:
                continue
            canvas = made.canvas
            groups: list[tuple[Mark, ...]] = [(mark,) for mark in canvas.marks]
        else:
            scene = landscape(rng)
            canvas, groups = scene.canvas, [marks for _, marks in scene.parts]
        masks = _masks(canvas, groups, width, height)
        if masks:
            return Segmented(render(canvas, width, height), masks)


def _masks(canvas: Canvas, groups: list[tuple[Mark, ...]], width: int, height: int) -> tuple[Mask, ...]:
    """Each thing drawn white and all else black: what comes out white is what can be seen of it."""
    found = list[Mask]()
    for group in groups:
        marks = tuple(replace(mark, colour=(255,) * 3 if mark in group else (0,) * 3) for mark in canvas.marks)
        mask = render(plain((0, 0, 0), marks), width, height)[..., 0] > 127
        for other in found:
            mask &= ~other  # a pixel on the border that both cover by half, rounded up twice
        if mask.sum() >= _LEAST_PIXELS:
            found.append(mask)
    return tuple(found)
