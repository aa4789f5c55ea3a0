"""Small jobs of every pipeline that has a bundled model, one kind after the other, each time a little different."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    UPSCALE,
    Option,
)
from market.client import Wish
from tests.support.bad_media import SPEECH, picture
from tests.support.town import inputs_of

PIPELINES = (TEXT_TO_IMAGE, AUDIO_TO_TEXT, IMAGE_TO_TEXT, IMAGE_TO_VIDEO, SEGMENT_ANYTHING, UPSCALE)
PROMPTS = ("a red circle", "a blue square on white", "the sea at sunset", "a green triangle and a yellow star")
SIDES = (48, 64, 80)
SPOKEN_MS = 10_000


@dataclass(frozen=True, slots=True)
class Errand:
    """One job as a client asks for it, and what its first file must be."""

    pipeline: str
    wish: Wish
    files: tuple[bytes, ...]
    media_type: str


def errand(number: int, deadline_ms: int) -> Errand:
    """The job of this number; the same number is the same job."""
    plain = Wish("", steps=1, guidance=0, seed=number, deadline_ms=deadline_ms, wait=True)
    side = SIDES[number // 6 % len(SIDES)]
    still = picture(side)
    seen = replace(plain, width=side, height=side, inputs=inputs_of((still,)))
    match PIPELINES[number % len(PIPELINES)]:
        case kind if kind == TEXT_TO_IMAGE:
            drawn = replace(plain, prompt=PROMPTS[number % len(PROMPTS)], steps=2 + number % 5)
            return Errand(kind, replace(drawn, guidance=4000 if number % 4 else 0), (), "image/png")
        case kind if kind == AUDIO_TO_TEXT:
            told = replace(plain, length=SPOKEN_MS, inputs=inputs_of((SPEECH,), "audio/wav"))
            return Errand(kind, told, (SPEECH,), "application/json")
        case kind if kind == IMAGE_TO_VIDEO:
            moved = replace(seen, length=4, options=(Option("motion", "pan-left"),))
            return Errand(kind, moved, (still,), "video/mp4")
        case kind if kind == SEGMENT_ANYTHING:
            pointed = replace(seen, options=(Option("points", f"[[{side // 2}, {side // 2}]]"),))
            return Errand(kind, pointed, (still,), "application/json")
        case kind if kind == UPSCALE:
            return Errand(kind, replace(seen, width=2 * side, height=2 * side), (still,), "image/png")
    return Errand(IMAGE_TO_TEXT, seen, (still,), "application/json")
