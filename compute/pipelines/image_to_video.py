"""Image to video: a still starts to move as a sentence or a motion setting says.

The words are read once and the still is taken apart once (``layering.py``); then each frame is put together from the
still itself. A frame depends on nothing but its own moment, so it can be made alone, in any order, again. Runs inside a
worker; knows no job id, no socket and no price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from compute.capability import Dtype
from compute.imagefile import PictureLimits, read_picture
from compute.nets.layering import Layers, Splitter, compose, layers, sharpened
from compute.nets.loading import BAD_FILES
from compute.nets.weights import TORCH_DTYPE, fill
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import (
    Piecework,
    Progress,
    check_options,
    check_size,
    number,
    one_by_one,
    only,
    trial_picture,
)
from compute.spec import IMAGE_TO_VIDEO, Artifact, JobShape, JobSpec
from p2p.errors import Misconfigured, Refused

MIN_SIDE, MAX_SIDE = 32, 1024
MIN_FRAMES, MAX_FRAMES = 2, 240
MAX_FPS = 60
MIN_AMOUNT, MAX_AMOUNT = 0.1, 2.0
MAX_PROMPT = 4096
LIMITS: Final = PictureLimits(side=MAX_SIDE, pixels=MAX_SIDE * MAX_SIDE, least_side=MIN_SIDE)
FRAMES, FPS = 16, 8
MP4 = "video/mp4"
# What may be asked for without a sentence. A camera turns to where it pans, so what is seen goes the other way.
MOTIONS: Final = {
    "pan-left": "pan left",
    "pan-right": "pan right",
    "pan-up": "pan up",
    "pan-down": "pan down",
    "zoom-in": "zoom in",
    "zoom-out": "zoom out",
    "sun-sets": "the sun sets",
    "moon-sets": "the moon sets",
    "boat-sails-left": "the boat sails left",
    "boat-sails-right": "the boat sails right",
    "still": "nothing moves",
}
_SEEN_SIDE: Final = 64  # a larger still is looked at in this size; its frames are made at its own
_CELL: Final = 8

Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Wish:
    """How the still shall move: a sentence, one of MOTIONS, or both. ``amount`` 1 is as far as was trained for."""

    prompt: str = ""
    motion: str = ""
    amount: float = 1.0
    frames: int = FRAMES

    def __post_init__(self) -> None:
        if self.motion and self.motion not in MOTIONS:
            raise Refused("BAD_MOTION", f"motions are {', '.join(MOTIONS)}")
        if len(self.prompt.encode(errors="replace")) > MAX_PROMPT:
            raise Refused("PROMPT_TOO_LONG", "bytes", have=len(self.prompt), need=MAX_PROMPT)
        if not MIN_AMOUNT <= self.amount <= MAX_AMOUNT:  # also false for what is no number
            raise Refused("BAD_AMOUNT", f"an amount is {MIN_AMOUNT} to {MAX_AMOUNT}")
        if type(self.frames) is not int or not MIN_FRAMES <= self.frames <= MAX_FRAMES:
            raise Refused("BAD_FRAMES", f"{MIN_FRAMES} to {MAX_FRAMES} frames")

    @property
    def sentence(self) -> str:
        """What the model reads."""
        return ", ".join(filter(None, (MOTIONS.get(self.motion, ""), self.prompt)))


class ImageToVideo:
    """One loaded model. Holds no state of any job."""

    name = IMAGE_TO_VIDEO

    def __init__(self, tokenizer: Any, text: Any, splitter: Splitter, device: str, dtype: Dtype) -> None:
        self._tokenizer, self._text, self._splitter = tokenizer, text, splitter
        self._device, self._dtype = device, TORCH_DTYPE[dtype]

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> ImageToVideo:
        """Load from a local folder: safetensors only, no code from the folder. Raises Misconfigured."""
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            text = CLIPTextModel.from_pretrained(
                folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype=TORCH_DTYPE[dtype]
            )
        except BAD_FILES as exc:
            raise Misconfigured(f"{folder} cannot be loaded: {type(exc).__name__}: {exc}") from exc
        splitter = Splitter()
        fill(splitter, folder / "splitter" / "model.safetensors", device=device, dtype=dtype)
        return cls(tokenizer, text.to(device).eval(), splitter, device, dtype)

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read the still and how it moves: the prompt, and options ``motion``, ``amount``, ``fps``. Raises Refused."""
        check_options(spec, "amount", "fps", "motion", "previews")
        amount, fps = number(spec, "amount", 1.0), number(spec, "fps", FPS)
        wish = Wish(spec.prompt, spec.option("motion"), amount, spec.shape.length)
        still = np.asarray(read_picture(only(files), LIMITS))
        height, width = check(still)
        check_size(spec.shape, width, height)

        latest = [still]

        def frames(progress: Progress) -> Iterator[Pixels]:
            for latest[0] in self.take_apart(still, wish).frames(progress):
                yield latest[0]

        def work(progress: Progress) -> tuple[Artifact, ...]:
            return artifacts(mp4(frames(progress), int(fps)))

        return Piecework(work, latest=lambda: latest[0])

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[Any]:
        """One job after the other."""
        return one_by_one(turns)

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """Four frames of a gray still: what a first measure is taken of."""
        return trial_picture(replace(shape, length=4), motion="pan-left")

    @torch.inference_mode()
    def take_apart(self, picture: Pixels, wish: Wish) -> Moving:
        """Take a still apart. Raises Refused for a still out of bounds, BrokenOutput."""
        height, width = check(picture)
        still = torch.from_numpy(np.array(picture)).to(self._device).permute(2, 0, 1)[None]
        still = still.float() / 127.5 - 1
        ids = self._tokenizer(
            [wish.sentence], padding="max_length", truncation=True, max_length=self._text.config.max_position_embeddings
        )
        read = self._text(torch.tensor(ids.input_ids, device=self._device))
        words, gist = read.last_hidden_state.to(self._dtype), read.pooler_output.to(self._dtype)
        seen = functional.interpolate(still, _seen_size(height, width), mode="bilinear", antialias=True)
        maps = self._splitter(seen.to(self._dtype), words, gist).float()
        steering = self._splitter.steer(gist).float() * wish.amount
        if not bool(torch.isfinite(maps).all() and torch.isfinite(steering).all()):
            raise BrokenOutput("the layers are not finite")
        made = layers(maps)
        if seen.shape != still.shape:
            made = sharpened(still, made)
        return Moving(still, made, steering, wish.frames)


@dataclass(frozen=True, slots=True)
class Moving:
    """A still that was taken apart: any of its frames."""

    still: torch.Tensor
    layers: Layers
    steering: torch.Tensor
    count: int

    @torch.inference_mode()
    def frame(self, index: int) -> Pixels:
        """Frame ``index`` of ``count``; the first is the still."""
        part = torch.full((1,), index / (self.count - 1), device=self.still.device)
        made = compose(self.still, self.layers, self.steering, part)
        return np.asarray(((made[0] + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())

    def frames(self, told: Callable[[int, int], None] = lambda done, of: None) -> Iterator[Pixels]:
        """All frames. ``told(done, of)`` hears of each and may end the work by raising."""
        for index in range(self.count):
            told(index, self.count)
            yield self.frame(index)
        told(self.count, self.count)


def check(picture: Pixels) -> tuple[int, int]:
    """Height and width of a still. Raises Refused."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise Refused("BAD_PICTURE", "three bytes a pixel are needed")
    height, width = picture.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise Refused(
            "BAD_PICTURE", f"sides of {MIN_SIDE} to {MAX_SIDE} pixels", have=max(height, width), need=MAX_SIDE
        )
    return height, width


def mp4(frames: Iterable[Pixels], fps: int = FPS, crf: int = 14) -> bytes:
    """Frames of one size as an H.264 file that every player plays. Raises Refused, Misconfigured without PyAV.

    Odd sides lose their last row or column: the format halves the colours.
    """
    if type(fps) is not int or not 1 <= fps <= MAX_FPS:
        raise Refused("BAD_FPS", f"1 to {MAX_FPS} frames a second")
    try:
        from compute.pipelines.filming import filmed
    except ImportError as exc:
        raise Misconfigured("films need PyAV: pip install 'pasar[video]'") from exc
    return filmed(frames, fps, crf)


def artifacts(film: bytes) -> tuple[Artifact, ...]:
    """The film as one file."""
    return (Artifact(MP4, film),)


def _seen_size(height: int, width: int) -> tuple[int, int]:
    """Sides in whole cells, the shorter one near what the model was trained at. Small stills keep their size."""
    share = min(1.0, _SEEN_SIDE / min(height, width))
    return tuple(max(_CELL, round(side * share / _CELL) * _CELL) for side in (height, width))  # type: ignore[return-value]
