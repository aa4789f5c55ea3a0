"""Says what a picture shows, from its pixels alone: background, and colour, shape, size and place of flat things.

Written against the words, not against any renderer: it has its own palette and its own outlines, and imports nothing of
the code that draws or trains.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Mask: TypeAlias = NDArray[np.bool_]

PALETTE: Final[Mapping[str, tuple[int, int, int]]] = {
    "red": (215, 35, 35),
    "green": (35, 155, 55),
    "blue": (40, 70, 215),
    "yellow": (245, 215, 45),
    "orange": (245, 135, 30),
    "purple": (135, 45, 170),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "pink": (250, 130, 180),
    "cyan": (45, 200, 215),
    "gray": (130, 130, 130),
    "brown": (125, 75, 35),
}
_NAMES: Final = tuple(PALETTE)
_RADII: Final[Mapping[str, float]] = {"small": 0.12, "medium": 0.185, "large": 0.28}
# How far an outline of radius 1 reaches at most from the middle of its bounding box.
_REACH: Final[Mapping[str, float]] = {
    "circle": 1.0, "square": 0.88, "triangle": 1.05, "diamond": 1.2, "star": 1.1, "cross": 1.0
}  # fmt: skip
_PLACES: Final[Mapping[str, tuple[float, float]]] = {
    name: (x, y)
    for name, x, y in (
        ("center", 0.5, 0.5), ("left", 0.25, 0.5), ("right", 0.75, 0.5), ("top", 0.5, 0.25), ("bottom", 0.5, 0.75),
        ("top left", 0.25, 0.25), ("top right", 0.75, 0.25), ("bottom left", 0.25, 0.75), ("bottom right", 0.75, 0.75),
    )
}  # fmt: skip
_GRID: Final = 32
_PLACE_TOLERANCE: Final = 0.15


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing a prompt asks for; an empty field was not asked for and is not checked."""

    colour: str
    shape: str
    size: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What must be true of a picture. Invariant: one or two things; a relation only with two (first to second)."""

    background: str
    things: tuple[Wanted, ...]
    relation: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One connected patch of one colour; `x`, `y`, `reach` are relative to the picture, `mask` covers all of it."""

    colour: str
    shape: str
    x: float
    y: float
    reach: float
    mask: Mask


def background_of(pixels: NDArray[np.uint8]) -> str:
    """The colour most of the border has."""
    names = _nearest(pixels)
    border = np.concatenate([names[0], names[-1], names[:, 0], names[:, -1]])
    return _NAMES[int(np.bincount(border, minlength=len(_NAMES)).argmax())]


def things_in(pixels: NDArray[np.uint8]) -> list[Seen]:
    """The largest patch of each colour but the background's, largest first; soft edges count as nothing."""
    names, background = _nearest(pixels), background_of(pixels)
    height, width = names.shape
    thickness = max(1, min(height, width) // 64)
    found: list[tuple[int, Seen]] = []
    for index, name in enumerate(_NAMES):
        if name == background:
            continue
        mask = largest_patch(names == index)
        core = mask
        for _ in range(thickness):
            core = _eroded(core)
        if core.sum() >= max(6, height * width // 1000):
            found.append((int(core.sum()), _seen(name, mask, min(height, width))))
    return [seen for _, seen in sorted(found, key=lambda pair: -pair[0])]


def check(pixels: NDArray[np.uint8], facts: Facts) -> dict[str, list[bool]]:
    """Per kind of fact, one verdict for each time it was asked. What hangs on a missing thing is false."""
    seen = things_in(pixels)[: len(facts.things)]
    verdicts: dict[str, list[bool]] = {"background": [background_of(pixels) == facts.background]}
    matched: list[Seen | None] = []
    for wanted in facts.things:
        match = next((one for one in seen if one.colour == wanted.colour), None)
        matched.append(match)
        verdicts.setdefault("colour", []).append(match is not None)
        verdicts.setdefault("shape", []).append(match is not None and match.shape == wanted.shape)
        if wanted.size:
            verdicts.setdefault("size", []).append(match is not None and _size_of(match, wanted.shape) == wanted.size)
        if wanted.place:
            verdicts.setdefault("position", []).append(match is not None and _is_at(match, wanted.place))
    if facts.relation:
        verdicts["relation"] = [_related(matched[0], facts.relation, matched[1])]
    return verdicts


def shape_of(mask: Mask) -> str:
    """The outline whose overlap with this patch, both stretched to their bounding boxes, is the largest."""
    patch = _stretched(mask)
    overlap = {name: (patch & form).sum() / max(1, (patch | form).sum()) for name, form in _forms().items()}
    return max(overlap, key=lambda name: float(overlap[name]))


def largest_patch(mask: Mask) -> Mask:
    """The largest part of a mask that hangs together over edges."""
    left, best = mask.copy(), np.zeros_like(mask)
    size = 0
    while left.sum() > size:
        row, column = np.argwhere(left)[0]
        patch = _filled(left, int(row), int(column))
        left &= ~patch
        if patch.sum() > size:
            best, size = patch, int(patch.sum())
    return best


def _nearest(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    palette = np.array([PALETTE[name] for name in _NAMES], dtype=np.int64)
    return np.asarray(((pixels[:, :, None, :].astype(np.int64) - palette) ** 2).sum(-1).argmin(-1))


def _filled(mask: Mask, row: int, column: int) -> Mask:
    height, width = mask.shape
    patch = np.zeros_like(mask)
    patch[row, column] = True
    edge = [(row, column)]
    while edge:
        y, x = edge.pop()
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= near[0] < height and 0 <= near[1] < width and mask[near] and not patch[near]:
                patch[near] = True
                edge.append(near)
    return patch


def _eroded(mask: Mask) -> Mask:
    wide = np.pad(mask, 1)
    return mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def _seen(colour: str, mask: Mask, unit: int) -> Seen:
    top, bottom, left, right = _bounds(mask)
    height, width = mask.shape
    reach = max(bottom - top, right - left) / 2 / unit
    return Seen(colour, shape_of(mask), (left + right) / 2 / width, (top + bottom) / 2 / height, reach, mask)


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _stretched(mask: Mask) -> Mask:
    top, bottom, left, right = _bounds(mask)
    steps = (np.arange(_GRID) + 0.5) / _GRID
    rows, columns = (top + steps * (bottom - top)).astype(int), (left + steps * (right - left)).astype(int)
    return mask[np.ix_(rows, columns)]


def _forms() -> dict[str, Mask]:
    """Each outline filled over its own bounding box, which spans [-1, 1] both ways with y downwards."""
    steps = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    x: Any
    y: Any
    x, y = np.meshgrid(steps, steps)
    turns = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    star_x, star_y = np.sin(turns) * reach, -np.cos(turns) * reach
    star_y = (star_y - star_y.min()) / np.ptp(star_y) * 2 - 1
    return {
        "circle": x**2 + y**2 <= 1,
        "square": np.ones_like(x, dtype=bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "diamond": np.abs(x) + np.abs(y) <= 1,
        "cross": (np.abs(x) <= 1 / 3) | (np.abs(y) <= 1 / 3),
        "star": _inside(x, y, star_x / np.abs(star_x).max(), star_y),
    }


def _inside(x: NDArray[np.float64], y: NDArray[np.float64], px: NDArray[np.float64], py: NDArray[np.float64]) -> Mask:
    """Even-odd rule: a point is inside when a ray to the right crosses the outline an odd number of times."""
    odd = np.zeros(x.shape, dtype=bool)
    for ax, ay, bx, by in zip(px, py, np.roll(px, -1), np.roll(py, -1), strict=True):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return odd


def _size_of(seen: Seen, shape: str) -> str:
    radius = seen.reach / _REACH[shape]
    return min(_RADII, key=lambda name: abs(np.log(radius / _RADII[name])))


def _is_at(seen: Seen, place: str) -> bool:
    x, y = _PLACES[place]
    return abs(seen.x - x) <= _PLACE_TOLERANCE and abs(seen.y - y) <= _PLACE_TOLERANCE


def _related(first: Seen | None, relation: str, second: Seen | None) -> bool:
    if first is None or second is None:
        return False
    return {
        "above": second.y - first.y > 0.1,
        "below": first.y - second.y > 0.1,
        "to the left of": second.x - first.x > 0.1,
        "to the right of": first.x - second.x > 0.1,
    }[relation]
