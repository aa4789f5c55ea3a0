"""The ways of saying things in captions: synonyms, places, backgrounds, openings, and words that mean nothing.

Knows the words of the world by name only, not what they look like.
"""

from random import Random
from typing import Final

WORDS_FOR: Final = {
    "large": ("large", "large", "big", "big", "huge"),
    "small": ("small", "small", "small", "tiny", "little"),
    "gray": ("gray", "gray", "grey"),
    "purple": ("purple", "purple", "purple", "violet"),
    "circle": ("circle", "circle", "circle", "circle", "disc", "ball", "dot"),
    "square": ("square", "square", "square", "square", "box"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
    "cross": ("cross", "cross", "cross", "plus"),
    "above": ("above", "above", "above", "over", "on top of"),
    "below": ("below", "below", "below", "under", "beneath"),
    "to the left of": ("to the left of", "to the left of", "left of", "on the left of"),
    "to the right of": ("to the right of", "to the right of", "right of", "on the right of"),
}
_PLACES: Final = {
    "center": ("in the center", "in the center", "in the middle", "at the center", "centered"),
    "left": ("on the left", "on the left", "at the left", "on the left side"),
    "right": ("on the right", "on the right", "at the right", "on the right side"),
    "top": ("at the top", "at the top", "on top", "near the top"),
    "bottom": ("at the bottom", "at the bottom", "near the bottom"),
}
_OPENINGS: Final = (
    "a picture of", "an image of", "a drawing of", "draw", "a photo of", "a simple picture of", "please draw", 
    "show me", "a painting of", "paint",
)  # fmt: skip
_FILLERS: Final = (
    "beautiful", "nice", "lovely", "shiny", "bright", "very", "cute", "modern", "minimal", "flat", "digital", "art",
    "vector", "clean", "just", "one", "single", "colorful", "simple", "geometric", "illustration", "quality",
    "please", "style",
)  # fmt: skip


def word(rng: Random, name: str) -> str:
    return rng.choice(WORDS_FOR.get(name, (name,)))


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def place(rng: Random, position: str) -> str:
    if position in _PLACES:
        return rng.choice(_PLACES[position])
    return rng.choice((f"in the {position}", f"in the {position}", f"in the {position} corner", f"at the {position}"))


def on_background(rng: Random, text: str, background: str) -> str:
    """The caption with its background said in one of several ways (white may go unsaid)."""
    if background == "white" and rng.random() < 0.5:
        return opened(rng, text)
    name = word(rng, background)
    ground = article(f"{name} background")
    ways = (
        f"{text} on {ground}",
        f"{text} on {ground}",
        f"{text} on {ground}",
        f"{text} on {name}",
        f"{text}, {name} background",
        f"{text} with {ground}",
        f"{text} in front of {ground}",
        f"on {ground}, {text}",
        f"{ground} with {text}",
    )
    return opened(rng, rng.choice(ways))


def opened(rng: Random, text: str) -> str:
    draw = rng.random()
    if draw < 0.05:  # a word that means nothing here teaches that strange words do not matter
        words = text.split()
        words.insert(rng.randrange(len(words) + 1), rng.choice(_FILLERS) if rng.random() < 0.7 else _gibberish(rng))
        return " ".join(words)
    if draw < 0.15:
        return f"{rng.choice(_OPENINGS)} {text}"
    if draw < 0.24:  # telegram style: no articles at all
        return " ".join(part for part in text.split() if part not in ("a", "an", "the"))
    return text


def _gibberish(rng: Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))
