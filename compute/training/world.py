"""The little world that the bundled model is trained on: what can be drawn, and drawing it.

A picture is a `Canvas` (sky, ground, marks) in relative coordinates, so that one canvas renders at any size. This
module does not know what a caption is, what a model is, or which pictures a benchmark will ask for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = NDArray[np.uint8]

COLOURS: Final[Mapping[str, Colour]] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 70, 220),
    "yellow": (245, 215, 40),
    "orange": (245, 135, 25),
    "purple": (135, 45, 175),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "pink": (250, 130, 180),
    "cyan": (40, 200, 215),
    "gray": (130, 130, 130),
    "brown": (125, 75, 35),
}
SHAPES: Final = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES: Final[Mapping[str, float]] = {"small": 0.12, "medium": 0.185, "large": 0.28}
POSITIONS: Final[Mapping[str, tuple[float, float]]] = {
    "center": (0.5, 0.5),
    "left": (0.25, 0.5),
    "right": (0.75, 0.5),
    "top": (0.5, 0.25),
    "bottom": (0.5, 0.75),
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
}
SKIES: Final[Mapping[str, tuple[Colour, Colour]]] = {
    "day": ((110, 180, 250), (200, 230, 255)),
    "sunset": ((245, 105, 60), (255, 210, 120)),
    "night": ((8, 10, 40), (30, 35, 80)),
}
GROUNDS: Final[Mapping[str, Colour]] = {
    "sea": (25, 90, 180),
    "grass": (60, 160, 60),
    "desert": (225, 190, 110),
    "snow": (240, 245, 250),
}
MIN_SIDE, MAX_SIDE = 8, 1024
_PEN_SIDE = 256  # small pictures are drawn at about this size and averaged down, which gives soft edges


@dataclass(frozen=True, slots=True)
class Mark:
    """One filled form. (x, y) are shares of width and height; radius and points are shares of the shorter side.

    Invariant: without points it is a disc of `radius`; with points it is that polygon around (x, y), and radius is 0.
    """

    x: float
    y: float
    colour: Colour
    radius: float = 0.0
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Canvas:
    """A whole picture. Invariant: from `rise` to `horizon` it fades from `top` to `bottom`, below it is `ground`."""

    top: Colour
    bottom: Colour
    ground: Colour
    horizon: float = 1.0
    marks: tuple[Mark, ...] = ()
    rise: float = 0.0


def plain(colour: Colour, marks: tuple[Mark, ...]) -> Canvas:
    """A canvas of one flat background colour."""
    return Canvas(top=colour, bottom=colour, ground=colour, marks=marks)


def shape_mark(shape: str, x: float, y: float, radius: float, colour: Colour) -> Mark:
    """The mark for one of SHAPES; all look about equally heavy at the same radius."""
    if shape == "circle":
        return Mark(x, y, colour, radius=radius)
    return Mark(x, y, colour, points=tuple((px * radius, py * radius) for px, py in _OUTLINES[shape]))


def box(x: float, y: float, colour: Colour, left: float, up: float, right: float, down: float) -> Mark:
    """An axis-parallel rectangle that reaches this far from its anchor on each side."""
    return Mark(x, y, colour, points=((-left, -up), (right, -up), (right, down), (-left, down)))


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter, kept within bytes."""
    red, green, blue = (min(255, max(0, int(part * factor))) for part in colour)
    return red, green, blue


def render(canvas: Canvas, width: int, height: int) -> Pixels:
    """The picture as (height, width, 3) bytes. Raises ValueError for a side out of bounds."""
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise ValueError(f"a side must be {MIN_SIDE} to {MAX_SIDE} pixels, got {width}x{height}")
    scale = max(2, _PEN_SIDE // min(width, height)) if min(width, height) < 2 * _PEN_SIDE else 1
    image = _ground(canvas, width * scale, height * scale)
    pen = ImageDraw.Draw(image)
    for mark in canvas.marks:
        _draw(pen, mark, width * scale, height * scale)
    return np.asarray(image.reduce(scale) if scale > 1 else image, dtype=np.uint8)


def _ground(canvas: Canvas, width: int, height: int) -> Image.Image:
    if canvas.top == canvas.bottom == canvas.ground:
        return Image.new("RGB", (width, height), canvas.top)
    rows = np.arange(height, dtype=np.float32) / height
    fade = np.clip((rows - canvas.rise) / (canvas.horizon - canvas.rise), 0.0, 1.0)[:, None]
    column = np.array(canvas.top) * (1 - fade) + np.array(canvas.bottom) * fade
    column[rows >= canvas.horizon] = canvas.ground
    return Image.fromarray(column.astype(np.uint8)[:, None, :], "RGB").resize((width, height), Image.Resampling.NEAREST)


def _draw(pen: ImageDraw.ImageDraw, mark: Mark, width: int, height: int) -> None:
    unit = min(width, height)
    cx, cy = mark.x * width, mark.y * height
    if mark.points:
        pen.polygon([(cx + px * unit, cy + py * unit) for px, py in mark.points], fill=mark.colour)
    else:
        reach = mark.radius * unit
        pen.ellipse([cx - reach, cy - reach, cx + reach, cy + reach], fill=mark.colour)


def _star() -> tuple[tuple[float, float], ...]:
    reach = [1.15 if corner % 2 == 0 else 0.48 for corner in range(10)]
    turns = [corner * math.pi / 5 for corner in range(10)]
    return tuple((math.sin(turn) * far, -math.cos(turn) * far) for turn, far in zip(turns, reach, strict=True))


def _cross(arm: float = 0.34) -> tuple[tuple[float, float], ...]:
    corner = ((-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm))
    return corner + tuple((-px, -py) for px, py in corner)


_OUTLINES: Final[Mapping[str, tuple[tuple[float, float], ...]]] = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0.0, -1.0), (1.05, 0.85), (-1.05, 0.85)),
    "diamond": ((0.0, -1.2), (0.8, 0.0), (0.0, 1.2), (-0.8, 0.0)),
    "star": _star(),
    "cross": _cross(),
}
