"""Says whether a caption is true of a picture, from its words and the picture's pixels alone.

What is there is read off the pixels by ``benchmarks/pixelcheck.py``; nothing of the code that draws, tells or trains is
imported. Knows flat things on flat backgrounds, no landscapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.pixelcheck import PALETTE, background_of, things_in

_SHAPES: Final = ("circle", "square", "triangle", "diamond", "star", "cross")
_THING: Final = re.compile(rf"\b({'|'.join(PALETTE)}) ({'|'.join(_SHAPES)})\b")
_GROUND: Final = re.compile(rf"\b({'|'.join(PALETTE)}) background\b")


@dataclass(frozen=True, slots=True)
class Told:
    """What a caption claims: the background's colour, and each thing's colour and shape in the order of telling."""

    background: str
    things: tuple[tuple[str, str], ...]


def told_in(caption: str) -> Told:
    """The claims of a caption; empty where it makes none."""
    grounds = _GROUND.findall(caption)
    return Told(grounds[-1] if grounds else "", tuple(_THING.findall(caption)))


def check(pixels: NDArray[np.uint8], caption: str) -> dict[str, list[bool]]:
    """One verdict for the background, and for each thing that is there: its colour is told, its shape with it.

    A thing that is told and not there counts as a wrong colour.
    """
    claims = told_in(caption)
    there = things_in(pixels)
    shapes = dict(claims.things)
    verdicts = {"background": [background_of(pixels) == claims.background]}
    for thing in there:
        verdicts.setdefault("colour", []).append(thing.colour in shapes)
        verdicts.setdefault("shape", []).append(shapes.get(thing.colour) == thing.shape)
    invented = shapes.keys() - {thing.colour for thing in there}
    verdicts.setdefault("colour", []).extend(False for _ in invented)
    return verdicts
