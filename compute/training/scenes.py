"""Landscapes of the little world: sky, ground, and the few things that stand in them.

Only what the caption names is drawn. Knows shapes and colours by their tables, nothing of flat pictures or of a model.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from compute.training.world import COLOURS, GROUNDS, SHAPES, SKIES, Canvas, Colour, Mark, box, shade, shape_mark

_GROUND_WORDS: Final = {
    "sea": ("the sea", "the sea", "the sea", "the ocean", "blue water"),
    "grass": ("green grass", "grass", "the grass", "a meadow", "a green field"),
    "desert": ("a desert", "the desert", "a desert", "sand"),
    "snow": ("snow", "snow", "the snow", "white snow"),
}
_SKY_WORDS: Final = {
    "day": ("", "", "under a blue sky", "in the day"),
    "sunset": ("at sunset", "at sunset", "at sunset", "at dusk"),
    "night": ("at night", "at night", "at night", "in the night", "under a night sky"),
}
_Part = tuple[str, tuple[Mark, ...]]


@dataclass(frozen=True, slots=True)
class Landscape:
    """A landscape by its words. Invariant: `canvas` has the stars first, then the marks of `parts` in their order."""

    sky: str
    ground: str
    parts: tuple[_Part, ...]
    canvas: Canvas


def scene(rng: Random) -> tuple[str, Canvas]:
    """A caption and the landscape it describes."""
    made = landscape(rng)
    return caption(rng, made), made.canvas


def landscape(rng: Random) -> Landscape:
    """A landscape that is not yet put into words."""
    sky, ground = rng.choice(list(SKIES)), rng.choice(list(GROUNDS))
    dim = 0.55 if sky == "night" else 1.0
    horizon = rng.uniform(0.58, 0.64)
    side = rng.choice((-1, 1))
    parts = tuple(_parts(rng, sky, ground, horizon, side, dim))
    top, bottom = SKIES[sky]
    marks = tuple(mark for _, part in parts for mark in part)
    stars = _stars(rng, horizon) if sky == "night" else ()
    return Landscape(sky, ground, parts, Canvas(top, bottom, shade(GROUNDS[ground], dim), horizon, stars + marks))


def _parts(rng: Random, sky: str, ground: str, horizon: float, side: int, dim: float) -> list[_Part]:
    """Back to front, so that later parts cover earlier ones."""
    parts: list[_Part] = []
    if rng.random() < 0.6:
        parts.append(_moon(rng, side) if sky == "night" else _sun(rng, side))
    elif rng.random() < 0.12:
        parts.append(_floating(rng, side))
    if rng.random() < 0.25:
        parts.append(_mountain(rng, side, horizon, dim))
    if ground == "sea":
        if rng.random() < 0.65:
            parts.append(_boat(rng, side, dim))
        return parts
    if rng.random() < 0.5:
        parts.append(_house(rng, side, dim))
    if rng.random() < 0.4:
        parts.append(_tree(rng, side, dim))
    return parts


def caption(rng: Random, made: Landscape) -> str:
    """One way of saying what a landscape shows."""
    parts, ground = [words for words, _ in made.parts], made.ground
    place, time = rng.choice(_GROUND_WORDS[ground]), rng.choice(_SKY_WORDS[made.sky])
    if not parts:
        return " ".join(filter(None, (place, time)))
    if rng.random() < 0.5:
        rng.shuffle(parts)
    named = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    # A boat needs no sea and a house no grass: the caption may leave the usual ground unsaid.
    usual = "boat" in named if ground == "sea" else ground == "grass" and ("house" in named or "tree" in named)
    if usual and rng.random() < 0.25:
        return " ".join(filter(None, (named, time)))
    joint = (
        rng.choice(("over", "over", "by", "on", "above")) if ground == "sea" else rng.choice(("on", "on", "over", "in"))
    )
    return " ".join(filter(None, (named, joint, place, time)))


def _sun(rng: Random, side: int) -> _Part:
    x, y = 0.5 - side * rng.uniform(0.2, 0.3), rng.uniform(0.17, 0.25)
    where = rng.choice(("", "", "", " on the left" if side > 0 else " on the right"))
    words = rng.choice(("a yellow sun", "a yellow sun", "the sun", "a sun"))
    return words + where, (Mark(x, y, (255, 225, 60), radius=rng.uniform(0.085, 0.105)),)


def _moon(rng: Random, side: int) -> _Part:
    x, y = 0.5 - side * rng.uniform(0.22, 0.3), rng.uniform(0.16, 0.24)
    words = rng.choice(("a white moon", "a white moon", "the moon", "a moon"))
    return words, (Mark(x, y, (245, 245, 215), radius=0.085),)


def _floating(rng: Random, side: int) -> _Part:
    colour, shape = rng.choice([name for name in COLOURS if name not in ("blue", "cyan", "orange")]), rng.choice(SHAPES)
    x, y = 0.5 - side * rng.uniform(0.1, 0.25), rng.uniform(0.2, 0.28)
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {shape}", (shape_mark(shape, x, y, 0.13, COLOURS[colour]),)


def _mountain(rng: Random, side: int, horizon: float, dim: float) -> _Part:
    x, half, height = 0.5 + side * 0.2, rng.uniform(0.26, 0.34), rng.uniform(0.27, 0.33)
    rock, snow = shade((120, 115, 125), dim), shade((250, 250, 250), dim)
    body = Mark(x, horizon, rock, points=((-half, 0.0), (0.0, -height), (half, 0.0)))
    cap = ((-half * 0.3, -height * 0.7), (0.0, -height), (half * 0.3, -height * 0.7))
    return rng.choice(("a mountain", "a mountain", "a snowy mountain")), (body, Mark(x, horizon, snow, points=cap))


def _boat(rng: Random, side: int, dim: float) -> _Part:
    colour = rng.choice(("red", "white", "yellow", "green", "orange", "purple", "black", "pink"))
    x, y, size = 0.5 + side * rng.uniform(0.02, 0.18), rng.uniform(0.70, 0.76), 0.14
    hull = ((-size, 0.0), (size, 0.0), (size * 0.6, size * 0.5), (-size * 0.6, size * 0.5))
    sail = ((0.0, -size * 1.8), (size * 0.95, -size * 0.12), (0.0, -size * 0.12))
    words = f"a boat with {'an' if colour == 'orange' else 'a'} {colour} sail"
    if colour == "white" and rng.random() < 0.4:
        words = rng.choice(("a boat", "a boat", "a sailing boat", "a ship"))
    return words, (
        Mark(x, y, shade((110, 60, 30), dim), points=hull),
        Mark(x, y, shade(COLOURS[colour], dim), points=sail),
    )


def _house(rng: Random, side: int, dim: float) -> _Part:
    roof = "red" if rng.random() < 0.4 else rng.choice(("blue", "brown", "green", "orange", "purple", "black", "gray"))
    wall = "white" if rng.random() < 0.4 else rng.choice(("yellow", "gray", "pink", "red", "blue", "orange", "brown"))
    x, y, half, height = 0.5 + side * rng.uniform(0.1, 0.2), rng.uniform(0.75, 0.8), 0.145, 0.21
    peak = ((-half * 1.25, -height), (0.0, -height - 0.15), (half * 1.25, -height))
    light: Colour = (255, 230, 120) if dim < 1 else (120, 180, 230)
    marks = (
        box(x, y, shade(COLOURS[wall], dim), half, height, half, 0.0),
        Mark(x, y, shade(COLOURS[roof], dim), points=peak),
        box(x, y, (70, 40, 20), half * 0.24, height * 0.55, half * 0.24, 0.0),
        box(x, y, light, -half * 0.42, height * 0.75, half * 0.82, -height * 0.4),
    )
    walls = f"{'an' if wall == 'orange' else 'a'} {wall} house" if wall != "white" or rng.random() < 0.5 else "a house"
    if roof == "red" and rng.random() < 0.5:
        return walls, marks
    return f"{walls} with {'an' if roof == 'orange' else 'a'} {roof} roof", marks


def _tree(rng: Random, side: int, dim: float) -> _Part:
    x, y, size = 0.5 - side * rng.uniform(0.2, 0.3), rng.uniform(0.74, 0.8), rng.uniform(0.09, 0.11)
    trunk = box(x, y, shade((110, 65, 30), dim), size * 0.22, size * 1.4, size * 0.22, 0.0)
    crown = Mark(x, y - size * 1.9, shade((35, 120, 45), dim), radius=size * 1.1)
    return rng.choice(("a green tree", "a tree", "a tree")), (trunk, crown)


def _stars(rng: Random, horizon: float) -> tuple[Mark, ...]:
    dots = [(rng.random(), rng.uniform(0.0, horizon * 0.9)) for _ in range(14)]
    return tuple(Mark(x, y, (240, 240, 220), radius=rng.uniform(0.006, 0.011)) for x, y in dots)
