"""Examples of the little world: a caption in plain words together with the canvas that it describes.

What a caption leaves open takes the default (medium, in the center, on white), so that one caption means one picture up
to small jitter. Held-out combinations are never produced unless asked for. Knows no model and no benchmark.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from compute.training import wording
from compute.training.scenes import scene
from compute.training.world import COLOURS, POSITIONS, SHAPES, SIZES, Canvas, Colour, Mark, plain, shape_mark

HELD_OUT_SHARE: Final = 8  # one combination in this many is kept away from training
RELATIONS: Final = ("above", "below", "to the left of", "to the right of")


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape by its words; every field is a key of the world's tables."""

    colour: str
    shape: str
    size: str = "medium"
    position: str = "center"


@dataclass(frozen=True, slots=True)
class Example:
    """A caption and its canvas. Invariant: a scene has no things; of a shape picture the other fields are true."""

    caption: str
    canvas: Canvas
    background: str = ""
    things: tuple[Thing, ...] = ()
    relation: str = ""


def held_out(thing: Thing, background: str) -> bool:
    """Whether this colour, shape and background together are kept away from training."""
    return _bucket(f"{thing.colour} {thing.shape} on {background}") == 0


def held_out_pair(first: Thing, relation: str, second: Thing) -> bool:
    """Whether this pair in this relation is kept away from training, on any background."""
    return _bucket(f"{first.colour} {first.shape} {relation} {second.colour} {second.shape}") == 0


def example(rng: Random) -> Example:
    """One training example: mostly shapes, some scenes, never a held-out combination."""
    draw = rng.random()
    while True:
        if draw < 0.45:
            made = single(rng)
        elif draw < 0.70:
            made = pair(rng)
        elif draw < 0.74:
            made = row(rng)
        elif draw < 0.765:
            made = bare(rng)
        else:
            caption, canvas = scene(rng)
            made = Example(wording.opened(rng, caption), canvas)
        if not is_held_out(made):
            return made


def is_held_out(made: Example) -> bool:
    """Whether any rule keeps this example away from training."""
    if any(held_out(thing, made.background) for thing in made.things):
        return True
    return len(made.things) == 2 and held_out_pair(made.things[0], made.relation, made.things[1])


def single(rng: Random) -> Example:
    """One shape somewhere on a flat background."""
    background = _background(rng)
    thing = Thing(
        _other_colour(rng, background),
        rng.choice(SHAPES),
        rng.choice(list(SIZES)),
        "center" if rng.random() < 0.35 else rng.choice(list(POSITIONS)),
    )
    x, y = POSITIONS[thing.position]
    pull = 0.8 if thing.size == "large" else 1.0  # a large shape would leave the picture
    at = (0.5 + (x - 0.5) * pull, 0.5 + (y - 0.5) * pull)
    text = _phrase(rng, thing)
    if thing.position != "center" or rng.random() < 0.25:
        text += " " + wording.place(rng, thing.position)
    canvas = plain(_jitter(rng, background), (_mark(rng, thing, at, SIZES[thing.size]),))
    return Example(wording.on_background(rng, text, background), canvas, background, (thing,))


def pair(rng: Random) -> Example:
    """Two shapes of different colours, one related to the other (a bare "and" means side by side)."""
    background = _background(rng)
    colour = _other_colour(rng, background)
    first = Thing(colour, rng.choice(SHAPES), _pair_size(rng))
    second = Thing(_other_colour(rng, background, colour), rng.choice(SHAPES), _pair_size(rng))
    relation = rng.choice(RELATIONS)
    word = rng.choice(wording.WORDS_FOR[relation])
    if relation == "to the left of" and rng.random() < 0.35:
        word = rng.choice(("and", "and", "next to", "beside"))
    low, high = 0.26, 0.74
    spots = {
        "above": ((0.5, low), (0.5, high)),
        "below": ((0.5, high), (0.5, low)),
        "to the left of": ((low, 0.5), (high, 0.5)),
        "to the right of": ((high, 0.5), (low, 0.5)),
    }
    marks = _marks(rng, (first, second), spots[relation])
    text = f"{_phrase(rng, first)} {word} {_phrase(rng, second)}"
    return Example(
        wording.on_background(rng, text, background),
        plain(_jitter(rng, background), marks),
        background,
        (first, second),
        relation,
    )


def row(rng: Random) -> Example:
    """Three shapes from left to right."""
    background = _background(rng)
    colours = rng.sample([name for name in COLOURS if name != background], 3)
    things = tuple(Thing(colour, rng.choice(SHAPES), "small") for colour in colours)
    marks = _marks(rng, things, ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)))
    first, second, third = (
        wording.article(f"{wording.word(rng, t.colour)} {wording.word(rng, t.shape)}") for t in things
    )
    text = f"{first}, {second} and {third}"
    return Example(
        wording.on_background(rng, text, background), plain(_jitter(rng, background), marks), background, things
    )


def bare(rng: Random) -> Example:
    """Nothing but a background."""
    background = rng.choice(list(COLOURS))
    word = wording.word(rng, background)
    text = rng.choice(
        (f"a {word} background", f"plain {word}", f"{word}", f"nothing but {word}", f"an empty {word} image")
    )
    return Example(text, plain(_jitter(rng, background), ()), background)


def _bucket(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE


def _background(rng: Random) -> str:
    return "white" if rng.random() < 0.22 else rng.choice(list(COLOURS))


def _other_colour(rng: Random, *taken: str) -> str:
    return rng.choice([name for name in COLOURS if name not in taken])


def _pair_size(rng: Random) -> str:
    return "medium" if rng.random() < 0.6 else rng.choice(("small", "large"))


def _jitter(rng: Random, name: str, reach: int = 5) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-reach, reach))) for part in COLOURS[name])
    return red, green, blue


def _mark(rng: Random, thing: Thing, at: tuple[float, float], radius: float) -> Mark:
    x, y = at[0] + rng.uniform(-0.015, 0.015), at[1] + rng.uniform(-0.015, 0.015)
    return shape_mark(thing.shape, x, y, radius * rng.uniform(0.95, 1.05), _jitter(rng, thing.colour))


def _marks(rng: Random, things: Sequence[Thing], spots: Sequence[tuple[float, float]]) -> tuple[Mark, ...]:
    reach = {"small": 0.115, "medium": 0.165, "large": 0.21}
    return tuple(_mark(rng, thing, spot, reach[thing.size]) for thing, spot in zip(things, spots, strict=True))


def _phrase(rng: Random, thing: Thing) -> str:
    size = thing.size if thing.size != "medium" or rng.random() < 0.2 else ""
    words = f"{wording.word(rng, size)} " if size else ""
    return wording.article(f"{words}{wording.word(rng, thing.colour)} {wording.word(rng, thing.shape)}")
