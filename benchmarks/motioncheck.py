"""Says whether a film of a still moves as the words asked, from its pixels alone.

Draws its own stills and the frames that are meant, in its own hand, and follows each thing by its colour. Imports
nothing of the code that draws for training, that trains, or that moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.pixelcheck import PALETTE

Pixels: TypeAlias = NDArray[np.uint8]
Make: TypeAlias = Callable[[Pixels, str], Sequence[Pixels]]

SIDE: Final = 64
PAN, ZOOM, DRIFT = 0.25, math.exp(0.30), 0.30  # how far a film goes when no pace is said
_PEN: Final = 8
# Background and two things on it. Each is a combination that is kept away from training.
STILLS: Final = (
    ("orange", ("white", "star"), ("purple", "circle")),
    ("cyan", ("black", "triangle"), ("red", "square")),
    ("pink", ("green", "triangle"), ("black", "circle")),
    ("gray", ("yellow", "square"), ("black", "star")),
    ("yellow", ("black", "circle"), ("blue", "cross")),
    ("white", ("red", "star"), ("green", "square")),
    ("purple", ("orange", "star"), ("green", "circle")),
    ("black", ("cyan", "cross"), ("pink", "star")),
    ("brown", ("white", "triangle"), ("pink", "star")),
    ("green", ("red", "circle"), ("white", "diamond")),
    ("blue", ("yellow", "diamond"), ("orange", "diamond")),
    ("red", ("white", "circle"), ("purple", "circle")),
)  # fmt: skip
_WAYS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_VERBS: Final = ("moves", "drifts", "slides", "floats")
_SUN, _SEA, _GRASS = (255, 225, 60), (25, 90, 180), (60, 160, 60)
_SKY: Final = ((110, 180, 250), (200, 230, 255))


@dataclass(frozen=True, slots=True)
class Thing:
    """A flat thing at a place in the first and in the last frame, as shares of a side. ``grows``: its end size."""

    colour: tuple[int, int, int]
    shape: str
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float = 0.1
    grows: float = 1.0

    @property
    def way(self) -> tuple[float, float]:
        return self.end[0] - self.start[0], self.end[1] - self.start[1]


@dataclass(frozen=True, slots=True)
class Asked:
    """A sentence and what it means. ``ground`` is a flat colour, or the colour below a sky."""

    kind: str
    prompt: str
    ground: tuple[int, int, int]
    things: tuple[Thing, ...]
    sky: bool = False
    sinks: bool = False

    def frame(self, part: float) -> Pixels:
        """What is meant after this part of the film. Skies keep their colours here."""
        image = Image.new("RGB", (SIDE * _PEN, SIDE * _PEN), self.ground)
        if self.sky:
            image.paste(_sky(), (0, 0))
        pen = ImageDraw.Draw(image)
        for thing in self.things:
            share = 1.0 + (thing.grows - 1.0) * part
            x, y = (a + (b - a) * part for a, b in zip(thing.start, thing.end, strict=True))
            pen.polygon([((x + px * thing.radius * share) * SIDE * _PEN, (y + py * thing.radius * share) * SIDE * _PEN)
                         for px, py in _outline(thing.shape)], fill=thing.colour)  # fmt: skip
        if self.sinks:
            pen.rectangle([0, int(0.6 * SIDE * _PEN), SIDE * _PEN, SIDE * _PEN], fill=self.ground)
        return np.asarray(image.reduce(_PEN), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Found:
    """What a film did. ``flicker`` is its largest change between two frames over that of the frames that are meant.

    Where the light changes too, which only the film knows, it is the largest over the usual one.
    """

    direction: bool
    amount: bool
    others_stay: bool
    first_psnr: float
    flicker: float


def asked() -> Iterator[Asked]:
    """All sentences, each with a still of its own."""
    for index, (ground, one, two) in enumerate(STILLS):
        name = list(_WAYS)[index % 4]
        x, y = _WAYS[name]
        across = (0.28, 0.74) if index % 2 else (0.74, 0.28)
        start, other = (
            ((0.5 - x * 0.15, across[0]), (0.5, across[1])) if x else ((across[0], 0.5 - y * 0.15), (across[1], 0.5))
        )
        moved = Thing(PALETTE[one[0]], one[1], start, (start[0] + x * DRIFT, start[1] + y * DRIFT), 0.12)
        words = f"the {one[0]} {one[1]} {_VERBS[index % len(_VERBS)]} {name}"
        yield Asked("drift", words, PALETTE[ground], (Thing(PALETTE[two[0]], two[1], other, other, 0.12), moved))
    for index, (ground, one, two) in enumerate(STILLS):
        yield _camera(index, PALETTE[ground], (one, two))
    for index, side in enumerate((0.25, 0.4, 0.6, 0.75)):
        sun = Thing(_SUN, "circle", (side, 0.2), (side, 0.8), 0.1)
        yield Asked("sun", ("the sun sets", "the sun goes down")[index % 2], _GRASS, (sun,), sky=True, sinks=True)
    for index, colour in enumerate(("red", "yellow", "orange", "pink")):
        name = ("left", "right")[index % 2]
        x = _WAYS[name][0]
        parts = (("hull", (110, 60, 30)), ("sail", PALETTE[colour]))
        boat = tuple(Thing(c, s, (0.5 - x * 0.15, 0.73), (0.5 + x * 0.15, 0.73), 0.14) for s, c in parts)
        yield Asked("boat", f"the boat sails {name}", _SEA, boat, sky=True)


def check(film: Sequence[Pixels], wish: Asked) -> Found:
    """Judge a film of equally spaced frames against what was asked."""
    first, last, meant = film[0], film[-1], [wish.frame(k / (len(film) - 1)) for k in range(len(film))]
    moving = [thing for thing in wish.things if thing.way != (0, 0) and thing.shape != "hull"]
    still = [thing for thing in wish.things if thing.way == (0, 0)]
    if wish.kind == "zoom":
        scale = _spread(last, wish) / max(1e-6, _spread(first, wish))
        wanted = wish.things[0].grows
        direction, amount = (scale - 1) * (wanted - 1) > 0 and abs(scale - 1) > 0.1, abs(scale - wanted) <= 0.08
    elif wish.kind == "sun":
        direction, amount = _sun_goes(film, wish), not _mask(last, wish.things[0], wish).any()
    else:
        ways = [(_way(first, last, thing, wish), thing.way) for thing in moving]
        direction = all(_along(way, wanted) >= 0.5 and _off(way, wanted) <= 0.08 for way, wanted in ways)
        amount = all(math.dist(way, wanted) <= 0.25 * math.hypot(*wanted) + 0.02 for way, wanted in ways)
    stay = all(math.hypot(*_way(first, last, thing, wish)) < 0.03 for thing in still)
    flicker = max(_changes(film)) / (float(np.median(_changes(film)) + 1e-6) if wish.sinks else max(_changes(meant)))
    return Found(direction, amount, stay, _psnr(film[0], meant[0]), flicker)


def rates(make: Make) -> dict[str, Any]:
    """Everything that is asked, judged: shares, and the worst of the rest."""
    kinds: dict[str, list[Found]] = {}
    for wish in asked():
        kinds.setdefault(wish.kind, []).append(check(make(wish.frame(0.0), wish.prompt), wish))
    found = [one for many in kinds.values() for one in many]
    return {
        "films": len(found),
        "direction": {kind: _share(one.direction for one in many) for kind, many in kinds.items()},
        "direction right": _share(one.direction for one in found),
        "amount right": _share(one.amount for one in found),
        "others stay": _share(one.others_stay for one in found),
        "first frame, dB at least": round(min(one.first_psnr for one in found), 1),
        "change between frames, most over what is meant": round(max(one.flicker for one in found if one.flicker), 2),
    }


def _camera(index: int, ground: tuple[int, int, int], two: Sequence[tuple[str, str]]) -> Asked:
    places = ((0.36, 0.42), (0.62, 0.6))
    if index % 3 == 2:
        grows, words = ((ZOOM, "zoom in"), (1 / ZOOM, "zoom out"))[index // 3 % 2]
        ends = [(0.5 + (x - 0.5) * grows, 0.5 + (y - 0.5) * grows) for x, y in places]
        kind = "zoom"
    else:
        name = list(_WAYS)[(index - index // 3) % 4]
        (x, y), words, grows, kind = _WAYS[name], f"the camera pans {name}", 1.0, "pan"
        ends = [(a - x * PAN, b - y * PAN) for a, b in places]
    things = [Thing(PALETTE[colour], shape, start, end, 0.1, grows)
              for (colour, shape), start, end in zip(two, places, ends, strict=True)]  # fmt: skip
    return Asked(kind, words, ground, tuple(things))


def _mask(frame: Pixels, thing: Thing, wish: Asked) -> NDArray[np.bool_]:
    """Pixels nearest to the thing's colour, among all that the still shows."""
    others = [one.colour for one in wish.things if one.colour != thing.colour]
    rows = frame.astype(np.float64)
    near = np.abs(rows - thing.colour).sum(-1)
    if wish.sky:
        return np.asarray(near < 50)  # an evening sky is not far from yellow
    nearest = np.all([near < np.abs(rows - colour).sum(-1) for colour in (wish.ground, *others)], 0)
    return np.asarray(nearest & (near < 100))  # a rim mixes two colours, which may look like a third


def _place(frame: Pixels, thing: Thing, wish: Asked) -> tuple[float, float]:
    rows, columns = np.nonzero(_mask(frame, thing, wish))
    if not len(rows):
        return math.nan, math.nan
    return (float(columns.mean()) + 0.5) / frame.shape[1], (float(rows.mean()) + 0.5) / frame.shape[0]


def _way(first: Pixels, last: Pixels, thing: Thing, wish: Asked) -> tuple[float, float]:
    start, end = _place(first, thing, wish), _place(last, thing, wish)
    return end[0] - start[0], end[1] - start[1]


def _spread(frame: Pixels, wish: Asked) -> float:
    return math.dist(*(_place(frame, thing, wish) for thing in wish.things))


def _sun_goes(film: Sequence[Pixels], wish: Asked) -> bool:
    """Down, straight, for as long as it is seen whole."""
    way = _way(film[0], film[len(film) // 3], wish.things[0], wish)
    return way[1] > 0.1 and abs(way[0]) < 0.05


def _along(way: tuple[float, float], wanted: tuple[float, float]) -> float:
    return (way[0] * wanted[0] + way[1] * wanted[1]) / (wanted[0] ** 2 + wanted[1] ** 2)


def _off(way: tuple[float, float], wanted: tuple[float, float]) -> float:
    return abs(way[0] * wanted[1] - way[1] * wanted[0]) / math.hypot(*wanted)


def _changes(film: Sequence[Pixels]) -> list[float]:
    return [float(np.abs(a.astype(int) - b).mean()) for a, b in pairwise(film)]


def _psnr(one: Pixels, other: Pixels) -> float:
    square = float(np.mean((one.astype(np.float64) - other) ** 2))
    return min(99.0, 10 * math.log10(255**2 / max(square, 1e-9)))


def _share(right: Any) -> float:
    listed = list(right)
    return round(sum(listed) / len(listed), 4)


def _sky() -> Image.Image:
    """Above the horizon, which is at 0.6 of the height."""
    height = int(0.6 * SIDE * _PEN)
    fade = (np.arange(height) / height)[:, None]
    column = np.array(_SKY[0]) * (1 - fade) + np.array(_SKY[1]) * fade
    return Image.fromarray(np.repeat(column.astype(np.uint8)[:, None], SIDE * _PEN, 1), "RGB")


def _outline(shape: str) -> Sequence[tuple[float, float]]:
    """Corners of a shape of radius one, with y downwards."""
    if shape in ("circle", "star"):
        count = 40 if shape == "circle" else 10
        far = [1.0 if shape == "circle" else (1.1, 0.46)[corner % 2] for corner in range(count)]
        turns = [corner * 2 * math.pi / count for corner in range(count)]
        return [(math.sin(turn) * reach, -math.cos(turn) * reach) for turn, reach in zip(turns, far, strict=True)]
    if shape == "cross":
        corner = [(-0.34, -1.0), (0.34, -1.0), (0.34, -0.34), (1.0, -0.34), (1.0, 0.34), (0.34, 0.34)]
        return corner + [(-x, -y) for x, y in corner]
    return {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "triangle": [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
        "diamond": [(0.0, -1.2), (0.8, 0.0), (0.0, 1.2), (-0.8, 0.0)],
        "hull": [(-1.0, 0.0), (1.0, 0.0), (0.6, 0.5), (-0.6, 0.5)],
        "sail": [(0.0, -1.8), (0.95, -0.12), (0.0, -0.12)],
    }[shape]
