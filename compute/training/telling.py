"""What a describer should say of a picture of the little world: one plain way of telling it, without synonyms.

Captions for training a painter vary as people do; a describer is taught one wording, so that what it says can be held
against the picture word by word. Knows examples, no model.
"""

from random import Random
from typing import Final

from compute.training.captions import Example, Thing, bare, is_held_out, pair, row, single
from compute.training.scenes import scene
from compute.training.wording import article

_PLACES: Final = {
    "center": "in the center", "left": "on the left", "right": "on the right", "top": "at the top",
    "bottom": "at the bottom", "top left": "in the top left", "top right": "in the top right",
    "bottom left": "in the bottom left", "bottom right": "in the bottom right",
}  # fmt: skip


def told_example(rng: Random, *, kept_away: bool = False) -> Example:
    """An example whose caption is what should be said of it; from training, or flat ones kept away from it."""
    while True:
        draw = rng.random() * (0.85 if kept_away else 1.0)
        if draw >= 0.85:
            caption, canvas = scene(rng)
            return Example(caption, canvas)
        made = single(rng) if draw < 0.45 else pair(rng) if draw < 0.76 else row(rng) if draw < 0.81 else bare(rng)
        if is_held_out(made) == kept_away:
            return Example(told(made), made.canvas, made.background, made.things, made.relation)


def told(made: Example) -> str:
    """The words for an example that is no landscape."""
    ground = f"on {article(made.background)} background"
    if not made.things:
        return article(f"{made.background} background")
    if len(made.things) == 1:
        return f"{_named(made.things[0])} {_PLACES[made.things[0].position]} {ground}"
    if len(made.things) == 2:
        one, relation, two = _from_the_top_left(made)
        return f"{_named(one)} {relation} {_named(two)} {ground}"
    first, second, third = (article(f"{thing.colour} {thing.shape}") for thing in made.things)
    return f"{first}, {second} and {third} {ground}"


def _from_the_top_left(made: Example) -> tuple[Thing, str, Thing]:
    """The two things in the order of reading, and their relation in it."""
    one, two = made.things
    turned = {"below": "above", "to the right of": "to the left of"}.get(made.relation)
    return (two, turned, one) if turned else (one, made.relation, two)


def _named(thing: Thing) -> str:
    size = f"{thing.size} " if thing.size != "medium" else ""
    return article(f"{size}{thing.colour} {thing.shape}")
