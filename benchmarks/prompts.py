# ruff: noqa: E501 (a table is read by its rows)
"""Sixty fixed prompts of the `model` benchmark and what must be true of their pictures.

None of these combinations of colour, shape and background (or, for two things, of the pair) occurs in training; a test
holds the trainer's rule against this list. Knows no model.
"""

from dataclasses import dataclass
from typing import Final

from benchmarks.pixelcheck import Facts, Wanted


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt with its own seed, so that a result can be made again alone."""

    text: str
    facts: Facts
    seed: int


# prompt | background | thing | size | place ("-": not said, not checked)
_SINGLES: Final = """
a picture of a large purple star in the top left corner on a cyan background | cyan | purple star | large | top left
a gray circle in the bottom right corner on yellow | yellow | gray circle | - | bottom right
a large brown triangle on a blue background | blue | brown triangle | large | -
a large yellow square at the bottom on a gray background | gray | yellow square | large | bottom
a small green triangle | white | green triangle | small | -
a cyan circle on a gray background | gray | cyan circle | - | -
a purple cross in the top right corner on a red background | red | purple cross | - | top right
on a brown background, a medium black diamond in the bottom left corner | brown | black diamond | medium | bottom left
a picture of a large orange star on the right on a purple background | purple | orange star | large | right
a large red square at the bottom on an orange background | orange | red square | large | bottom
on a white background, a brown diamond in the bottom right corner | white | brown diamond | - | bottom right
a blue cross, black background | black | blue cross | - | -
a small pink square on the right on a red background | red | pink square | small | right
a large red square on the left, yellow background | yellow | red square | large | left
a small red triangle on a pink background | pink | red triangle | small | -
a cyan cross in the top left corner | white | cyan cross | - | top left
on a green background, a small gray diamond in the center | green | gray diamond | small | center
a picture of an orange diamond at the bottom on a blue background | blue | orange diamond | - | bottom
on a cyan background, a medium green square | cyan | green square | medium | -
a pink circle at the top on a red background | red | pink circle | - | top
a picture of a small blue square at the top on a purple background | purple | blue square | small | top
on a black background, a green star | black | green star | - | -
a small gray square on the left on an orange background | orange | gray square | small | left
a medium blue star in the center | white | blue star | medium | center
a large white circle on a pink background | pink | white circle | large | -
a large pink star on a green background | green | pink star | large | -
a brown circle in the top right corner, green background | green | brown circle | - | top right
a picture of a large yellow star on the left on a white background | white | yellow star | large | left
a large yellow square | white | yellow square | large | -
a large purple circle in the center on a blue background | blue | purple circle | large | center
a large pink star on a black background | black | pink star | large | -
a cyan diamond in the bottom right corner on a pink background | pink | cyan diamond | - | bottom right
a picture of a medium white star in the top right corner on an orange background | orange | white star | medium | top right
on a brown background, a black star | brown | black star | - | -
a brown background with a small white triangle in the top left corner | brown | white triangle | small | top left
a medium green star in the bottom left corner on a yellow background | yellow | green star | medium | bottom left
on a purple background, a small red square on the right | purple | red square | small | right
a red star | white | red star | - | -
a small yellow cross on a cyan background | cyan | yellow cross | small | -
a medium black circle at the top, gray background | gray | black circle | medium | top
"""

# prompt | background | first thing | relation | second thing
_PAIRS: Final = """
a red star above a green circle on an orange background | orange | red star | above | green circle
a green star below a cyan cross | white | green star | below | cyan cross
a black triangle to the left of a white square on a gray background | gray | black triangle | to the left of | white square
a yellow diamond to the right of a pink diamond on a cyan background | cyan | yellow diamond | to the right of | pink diamond
a black circle above an orange triangle on a pink background | pink | black circle | above | orange triangle
a brown diamond under a yellow triangle | white | brown diamond | below | yellow triangle
a brown star to the left of a cyan star on a white background | white | brown star | to the left of | cyan star
a cyan star to the right of a black cross on a gray background | gray | cyan star | to the right of | black cross
an orange cross above a blue square on a brown background | brown | orange cross | above | blue square
a white square below a green star on a cyan background | cyan | white square | below | green star
a white diamond left of a red circle on a cyan background | cyan | white diamond | to the left of | red circle
a black circle to the right of a blue square on a gray background | gray | black circle | to the right of | blue square
a pink star above a red circle on a gray background | gray | pink star | above | red circle
a pink circle below a white diamond on an orange background | orange | pink circle | below | white diamond
a brown cross to the left of a purple square on a pink background | pink | brown cross | to the left of | purple square
a blue diamond right of a brown diamond on a black background | black | blue diamond | to the right of | brown diamond
a green diamond above an orange square on a brown background | brown | green diamond | above | orange square
a pink circle below a black triangle on a yellow background | yellow | pink circle | below | black triangle
a cyan cross to the left of a black diamond on a purple background | purple | cyan cross | to the left of | black diamond
a brown triangle to the right of a yellow triangle on a blue background | blue | brown triangle | to the right of | yellow triangle
"""


def _single(line: str, seed: int) -> Prompt:
    text, background, thing, size, place = (part.strip() for part in line.split("|"))
    colour, shape = thing.split()
    wanted = Wanted(colour, shape, size.strip("-"), place.strip("-"))
    return Prompt(text, Facts(background, (wanted,)), seed)


def _pair(line: str, seed: int) -> Prompt:
    text, background, first, relation, second = (part.strip() for part in line.split("|"))
    things = tuple(Wanted(*thing.split()) for thing in (first, second))
    return Prompt(text, Facts(background, things, relation), seed)


_SINGLE_LINES: Final = _SINGLES.strip().splitlines()
PROMPTS: Final = tuple(_single(line, seed) for seed, line in enumerate(_SINGLE_LINES, start=1)) + tuple(
    _pair(line, seed) for seed, line in enumerate(_PAIRS.strip().splitlines(), start=len(_SINGLE_LINES) + 1)
)
