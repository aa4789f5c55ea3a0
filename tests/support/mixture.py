"""Small jobs of every pipeline that has a bundled model, one kind after the other, each time a little different."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    TRANSCODE,
    UPSCALE,
    VERIFY_STEP,
)
from market import rolekit
from market.asking import Asked, ask
from market.client import Wish
from tests.support.bad_media import SPEECH, picture
from tests.support.films import film

PIPELINES = tuple(name for name in rolekit.PIPELINES if name != VERIFY_STEP)  # a check is made of another job
PROMPTS = ("a red circle", "a blue square on white", "the sea at sunset", "a green triangle and a yellow star")
SIDES = (64, 80, 96)
FRAMES = 4


@dataclass(frozen=True, slots=True)
class Errand:
    """One job as a client asks for it, and what its first file must be."""

    pipeline: str
    asked: Asked
    media_type: str


class Mixture:
    """The files are made once, in ``folder``."""

    def __init__(self, folder: Path, deadline_ms: int) -> None:
        self._folder, self._deadline_ms = folder, deadline_ms
        folder.mkdir(parents=True)
        for side in SIDES:
            (folder / f"{side}.png").write_bytes(picture(side))
        (folder / "said.wav").write_bytes(SPEECH)
        (folder / "film.mp4").write_bytes(film([frame / 10 for frame in range(8)], width=160, height=96))

    def errand(self, number: int) -> Errand:
        """The job of this number; the same number is the same job."""
        pipeline, turn = PIPELINES[number % len(PIPELINES)], number // len(PIPELINES)
        wish = Wish(PROMPTS[turn % 4], seed=number, deadline_ms=self._deadline_ms, wait=True, steps=2 + turn % 5)
        wish = replace(wish, length=FRAMES if pipeline == IMAGE_TO_VIDEO else 0)
        still = self._folder / f"{SIDES[turn % 3]}.png"
        file, options, media_type = {
            TEXT_TO_IMAGE: (None, (), "image/png"),
            IMAGE_TO_IMAGE: (still, ("strength=0.6",), "image/png"),
            UPSCALE: (still, (), "image/png"),
            IMAGE_TO_VIDEO: (still, ("motion=pan-left",), "video/mp4"),
            IMAGE_TO_TEXT: (still, (), "application/json"),
            SEGMENT_ANYTHING: (still, ("points=[[32,32]]",), "application/json"),
            AUDIO_TO_TEXT: (self._folder / "said.wav", (), "application/json"),
            TRANSCODE: (self._folder / "film.mp4", ("renditions=80x48@60k",), "video/mp4"),
        }[pipeline]
        return Errand(pipeline, ask(pipeline, wish, file, options), media_type)
