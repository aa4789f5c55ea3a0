"""Moving pictures of the little world: a still, words that say how it moves, and every later frame exactly.

A camera pans or zooms, a shape drifts, a boat sails, sun or moon sets; two of them may come together. Without a word of
motion the camera creeps in. Knows no model.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from compute.training import captions, scenes, wording
from compute.training.world import SKIES, Canvas, Colour, Mark, box, shade

PAN, ZOOM, DRIFT, SET = 0.25, 0.30, 0.30, 0.60  # shares of a side over a whole clip; the zoom as a logarithm
SLOW, FAST = 0.5, 1.5
DIRECTIONS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_TOWARDS: Final = {
    "left": ("left", "left", "to the left"),
    "right": ("right", "right", "to the right"),
    "up": ("up", "up", "upwards"),
    "down": ("down", "down", "downwards"),
}
_PANNING: Final = (
    "pan {}", "pan {}", "the camera pans {}", "camera pans {}", "the camera moves {}", "panning {}",
    "move the camera {}", "the view moves {}",
)  # fmt: skip
_ZOOMING: Final = {
    1: ("zoom in", "zoom in", "the camera zooms in", "zooming in", "move closer", "the camera moves closer"),
    -1: ("zoom out", "zoom out", "the camera zooms out", "zooming out", "pull back", "the camera moves away"),
}
_MOVING: Final = ("moves {}", "moves {}", "drifts {}", "drifts {}", "floats {}", "slides {}", "glides {}", "flies {}",
                  "moving {}", "drifting {}", "goes {}", "move {}")  # fmt: skip
_SAILING: Final = ("sails {}", "sails {}", "sails {}", "sailing {}", "moves {}", "drifts {}")
_SUN: Final = ("the sun sets", "the sun sets", "sun sets", "the sun goes down", "the setting sun", "a sun setting")
_MOON: Final = ("the moon sets", "the moon goes down", "moon sets", "the moon sinks")
_STILL: Final = ("nothing moves", "stand still", "a still picture", "no motion")


@dataclass(frozen=True, slots=True)
class Motion:
    """What changes over a whole clip. `pan` and `drift` are how far what is seen goes, in shares of width and height.

    Invariant: `drift` and `dusk` concern the moving marks and the sky; a camera concerns everything.
    """

    pan: tuple[float, float] = (0.0, 0.0)
    zoom: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    dusk: bool = False


@dataclass(frozen=True, slots=True)
class Clip:
    """A still and its motion. Marks from `first` up to `last` move; marks and ground behind them stay.

    Invariant: when `sinks`, ground and later marks hide what moves.
    """

    prompt: str
    canvas: Canvas
    motion: Motion
    first: int = 0
    last: int = 0
    sinks: bool = False
    day: bool = True

    def at(self, part: float) -> Canvas:
        """The canvas after this part, 0 to 1, of the clip."""
        return _seen(_moved(self, part), self.motion, part)

    @property
    def moving(self) -> bool:
        return self.last > self.first


def clip(rng: Random) -> Clip:
    """One training clip. Held-out pictures never appear."""
    still = _landscape(rng) if rng.random() < 0.45 else _shapes(rng)
    draw = rng.random()
    if draw < 0.30 or (not still.moving and draw < 0.88):
        still = _with_camera(rng, replace(still, first=0, last=0, sinks=False, motion=Motion(), prompt=""))
    elif draw < 0.88:
        still = _with_camera(rng, still) if rng.random() < 0.12 else still
    else:
        still = _rest(rng, still)
    return replace(still, prompt=wording.opened(rng, still.prompt) if rng.random() < 0.2 else still.prompt)


def camera(rng: Random) -> tuple[str, Motion]:
    """A camera movement and its words. It pans to where it turns, so what is seen goes the other way."""
    pace, words = _pace(rng)
    if rng.random() < 0.36:
        way = rng.choice((1, -1))
        return words(rng.choice(_ZOOMING[way])), Motion(zoom=way * ZOOM * pace)
    name = rng.choice(list(DIRECTIONS))
    x, y = DIRECTIONS[name]
    text = rng.choice(_PANNING).format(rng.choice(_TOWARDS[name]))
    return words(text), Motion(pan=(-x * PAN * pace, -y * PAN * pace))


def tinted(canvas: Canvas, day: bool, part: float) -> Canvas:
    """The canvas with its sky on the way into the evening."""
    top, bottom = SKIES["sunset"] if day else SKIES["night"]
    share = part if day else part * 0.6
    return replace(
        canvas,
        top=_between(canvas.top, top, share),
        bottom=_between(canvas.bottom, bottom, share),
        ground=_between(canvas.ground, shade(canvas.ground, 0.7), part),
    )


def _rest(rng: Random, still: Clip) -> Clip:
    """Nothing moves, or nothing was said of motion, or of something that is not there."""
    still = replace(still, first=0, last=0, sinks=False)
    draw = rng.random()
    if draw < 0.3:
        return replace(still, prompt=rng.choice(_STILL), motion=Motion())
    if draw < 0.55:
        absent = _absent(rng, still)
        return replace(still, prompt=absent, motion=Motion())
    plain = "" if rng.random() < 0.5 else captions.example(rng).caption
    return replace(still, prompt=plain, motion=Motion(zoom=ZOOM * SLOW))


def _absent(rng: Random, still: Clip) -> str:
    name = rng.choice(list(DIRECTIONS))
    if still.canvas.horizon < 1.0:
        shape = rng.choice(("square", "diamond", "cross", "star"))
        return _moves(rng, f"the {wording.word(rng, 'purple')} {shape}", name)
    return f"the boat {rng.choice(_SAILING).format(rng.choice(_TOWARDS[rng.choice(('left', 'right'))]))}"


def _with_camera(rng: Random, still: Clip) -> Clip:
    words, motion = camera(rng)
    both = replace(still.motion, pan=motion.pan, zoom=motion.zoom)
    if not still.prompt:
        return replace(still, prompt=words, motion=both)
    parts = [words, still.prompt]
    rng.shuffle(parts)
    return replace(still, prompt=rng.choice((", ", " and ", " while ")).join(parts), motion=both)


def _shapes(rng: Random) -> Clip:
    """One of the shapes of a flat picture drifts, in front of the others."""
    while True:  # with two things there is one to choose, which is what takes longest to learn
        made = captions.example(rng)
        if made.canvas.horizon == 1.0 and (len(made.things) > 1 or rng.random() < 0.5):
            break
    if not made.things:
        return Clip("", made.canvas, Motion())
    index = rng.randrange(len(made.things))
    marks = list(made.canvas.marks)
    marks.append(marks.pop(index))
    thing, name = made.things[index], rng.choice(list(DIRECTIONS))
    pace, words = _pace(rng)
    x, y = DIRECTIONS[name]
    colour = f"{wording.word(rng, thing.colour)} " if len(made.things) > 1 or rng.random() < 0.8 else ""
    size = f"{wording.word(rng, thing.size)} " if len(made.things) == 1 and rng.random() < 0.15 else ""
    subject = f"{rng.choice(('the', 'the', 'a'))} {size}{colour}{wording.word(rng, thing.shape)}"
    text = words(_moves(rng, subject, name))
    motion = Motion(drift=(x * DRIFT * pace, y * DRIFT * pace))
    return Clip(text, replace(made.canvas, marks=tuple(marks)), motion, len(marks) - 1, len(marks))


def _landscape(rng: Random) -> Clip:
    """Sun or moon sets, the boat sails, or a shape in the sky drifts, whichever there is."""
    wanted = ("boat", "ship") if rng.random() < 0.5 else ("sun", "moon", "boat", "ship")  # boats are rare by themselves
    for _ in range(8):
        made = scenes.landscape(rng)
        movable = [part for part in made.parts if any(name in part[0] for name in wanted)]
        if movable:
            break
    still = Clip("", made.canvas, Motion(), day=made.sky == "day")
    if not movable:
        return still
    words, marks = rng.choice(movable)
    first = made.canvas.marks.index(marks[0])
    still = replace(still, first=first, last=first + len(marks))
    text, motion = _sets(rng, "moon" in words) if "sun" in words or "moon" in words else _sails(rng, words)
    if rng.random() < 0.2:
        text = f"{text}, {scenes.caption(rng, made)}"
    return replace(still, prompt=text, motion=motion, sinks=motion.drift[1] > 0)


def _sets(rng: Random, moon: bool) -> tuple[str, Motion]:
    return rng.choice(_MOON if moon else _SUN), Motion(drift=(0.0, SET), dusk=not moon)


def _sails(rng: Random, words: str) -> tuple[str, Motion]:
    """Where no direction is said it sails to the right."""
    pace, paced = _pace(rng)
    subject = rng.choice(("the boat", "the boat", "a boat", "boat", "the ship", "the sailing boat"))
    if "sail" in words and "with" in words and rng.random() < 0.2:
        subject = words
    if rng.random() < 0.15:
        return paced(f"{subject} {rng.choice(('sails', 'sails away', 'is sailing'))}"), Motion(drift=(DRIFT * pace, 0))
    name = rng.choice(("left", "right"))
    text = f"{subject} {rng.choice(_SAILING).format(rng.choice(_TOWARDS[name]))}"
    return paced(text), Motion(drift=(DIRECTIONS[name][0] * DRIFT * pace, 0.0))


class _Paced:
    """Puts the word for a pace to a sentence."""

    def __init__(self, rng: Random, words: tuple[str, ...]) -> None:
        self._rng, self._words = rng, words

    def __call__(self, text: str) -> str:
        if not self._words:
            return text
        word = self._rng.choice(self._words)
        return f"{word} {text}" if self._rng.random() < 0.3 else f"{text} {word}"


def _pace(rng: Random) -> tuple[float, _Paced]:
    draw = rng.random()
    if draw < 0.1:
        return SLOW, _Paced(rng, ("slowly", "slowly", "slow"))
    if draw < 0.2:
        return FAST, _Paced(rng, ("fast", "quickly"))
    return 1.0, _Paced(rng, ())


def _moves(rng: Random, subject: str, name: str) -> str:
    return f"{subject} {rng.choice(_MOVING).format(rng.choice(_TOWARDS[name]))}"


def _moved(made: Clip, part: float) -> Canvas:
    canvas, (x, y) = made.canvas, made.motion.drift
    marks = [
        replace(mark, x=mark.x + x * part, y=mark.y + y * part) if made.first <= index < made.last else mark
        for index, mark in enumerate(canvas.marks)
    ]
    canvas = replace(canvas, marks=tuple(marks))
    if made.motion.dusk:
        canvas = tinted(canvas, made.day, part)
    if made.sinks:
        ground = box(0.5, canvas.horizon, canvas.ground, 9.0, 0.0, 9.0, 9.0)
        canvas = replace(canvas, marks=(*canvas.marks[: made.last], ground, *canvas.marks[made.last :]))
    return canvas


def _seen(canvas: Canvas, motion: Motion, part: float) -> Canvas:
    """The canvas through the camera, which scales about the middle and then shifts."""
    scale = 2.718281828 ** (motion.zoom * part)
    right, down = motion.pan[0] * part, motion.pan[1] * part
    flat = canvas.top == canvas.bottom == canvas.ground
    return Canvas(
        canvas.top,
        canvas.bottom,
        canvas.ground,
        canvas.horizon if flat else 0.5 + (canvas.horizon - 0.5) * scale + down,
        tuple(_seen_mark(mark, scale, right, down) for mark in canvas.marks),
        canvas.rise if flat else 0.5 + (canvas.rise - 0.5) * scale + down,
    )


def _seen_mark(mark: Mark, scale: float, right: float, down: float) -> Mark:
    return Mark(
        0.5 + (mark.x - 0.5) * scale + right,
        0.5 + (mark.y - 0.5) * scale + down,
        mark.colour,
        mark.radius * scale,
        tuple((x * scale, y * scale) for x, y in mark.points),
    )


def _between(start: Colour, end: Colour, part: float) -> Colour:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(start, end, strict=True))
    return red, green, blue
