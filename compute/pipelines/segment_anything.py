"""Segment anything: which pixels belong to the thing that is pointed at or boxed in, by a SAM model of any size.

The picture is looked at once, then asked as often as there are prompts; the work can be cancelled between two of them.
Runs inside a worker; knows no job id, no socket and no price.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from transformers import SamModel

from compute.capability import Dtype
from compute.imagefile import PictureLimits, read_picture
from compute.nets.loading import BAD_FILES
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import Piecework, check_options, check_size, one_by_one, only, trial_picture
from compute.spec import SEGMENT_ANYTHING, Artifact, JobShape, JobSpec
from p2p.errors import Misconfigured, Refused

JSON, PNG = "application/json", "image/png"
LIMITS: Final = PictureLimits()
MAX_PROMPTS: Final = 16
MAX_POINTS: Final = 16  # of one prompt
_TORCH_DTYPE = {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}

Progress = Callable[[int, int], None]
"""Told the prompts answered and all of them. What it raises (``Cancelled``) ends the work."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the picture, in pixels from its top left, on the thing or (``inside`` false) off it."""

    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """Around the thing, in pixels from the picture's top left."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing that is asked for: by points, by a box, or by both."""

    points: tuple[Point, ...] = ()
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Segmented:
    """The answer to one prompt: a (height, width) array of bools, the overlap with the truth that the model expects
    of it (0 to 1), and the smallest box around it; None when the mask is empty.
    """

    mask: Any
    score: float
    box: tuple[int, int, int, int] | None


def read_prompt(points: str = "", labels: str = "", box: str = "") -> Prompt:
    """A prompt from JSON texts, as Livepeer's API writes them: ``[[x, y], ...]``, ``[1, 0, ...]``, ``[x, y, x, y]``.

    Without labels all points are on the thing. Raises Refused ``BAD_PROMPT``.
    """
    places, inside, edges = _numbers(points, 2), _numbers(labels, 0), _numbers(box, 0)
    inside = inside or [1] * len(places)
    if len(inside) != len(places) or set(inside) - {0, 1} or len(edges) not in (0, 4):
        raise Refused("BAD_PROMPT", "points, labels and box do not agree")
    told = tuple(Point(float(x), float(y), on == 1) for (x, y), on in zip(places, inside, strict=True))
    return Prompt(told, Box(*map(float, edges)) if edges else None)


def _numbers(text: str, width: int) -> list[Any]:
    """A list of numbers, or with a width of lists of that many; empty for no text."""
    try:
        told = json.loads(text or "[]")
    except (ValueError, RecursionError) as exc:
        raise Refused("BAD_PROMPT", "no JSON") from exc
    rows = told if isinstance(told, list) and len(told) <= MAX_POINTS else [None]
    flat = [row if width else [row] for row in rows]
    if not all(isinstance(row, list) and len(row) == max(1, width) and all(map(_is_number, row)) for row in flat):
        raise Refused("BAD_PROMPT", "no list of numbers, or too long a one", need=MAX_POINTS)
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31


def check(prompts: Sequence[Prompt], width: int, height: int) -> None:
    """Raises Refused ``BAD_PROMPT`` for what cannot be asked of a picture of this size, before anything is computed."""
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise Refused("BAD_PROMPT", "prompts", have=len(prompts), need=MAX_PROMPTS)
    for prompt in prompts:
        if len(prompt.points) > MAX_POINTS:
            raise Refused("BAD_PROMPT", "points of one prompt", have=len(prompt.points), need=MAX_POINTS)
        box = prompt.box
        if box is None and not any(point.inside for point in prompt.points):
            raise Refused("BAD_PROMPT", "neither a box nor a point on the thing")
        corners = [] if box is None else [(box.left, box.top), (box.right, box.bottom)]
        places = [*corners, *((point.x, point.y) for point in prompt.points)]
        if not all(math.isfinite(x) and math.isfinite(y) and 0 <= x <= width and 0 <= y <= height for x, y in places):
            raise Refused("BAD_PROMPT", "a place outside of the picture")
        if box is not None and not (box.left < box.right and box.top < box.bottom):
            raise Refused("BAD_PROMPT", "a box without an inside")


class SegmentAnything:
    """One loaded model. Invariant: holds no state of any job."""

    name = SEGMENT_ANYTHING

    def __init__(self, model: Any, mean: Sequence[float], deviation: Sequence[float], *, padded: bool = True) -> None:
        self._model, self._mean, self._deviation = model, np.float32(mean), np.float32(deviation)
        self._padded = padded
        self._side = int(model.config.vision_config.image_size)

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> SegmentAnything:
        """Load from a local folder: safetensors only, no code from the folder. Raises Misconfigured."""
        try:
            model = SamModel.from_pretrained(
                folder, dtype=_TORCH_DTYPE[dtype], use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
            told = json.loads((folder / "preprocessor_config.json").read_bytes())
            mean, deviation = list(map(float, told["image_mean"])), list(map(float, told["image_std"]))
            if len(mean) != 3 or len(deviation) != 3 or not all(deviation):
                raise ValueError("the model's pictures are out of bounds")
        except BAD_FILES as exc:
            raise Misconfigured(f"{folder} cannot be loaded: {type(exc).__name__}: {exc}") from exc
        return cls(model.to(device).eval(), mean, deviation, padded=told.get("do_pad") is not False)

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read picture and prompts: options ``points``, ``labels`` and ``box``, see ``read_prompt``. Raises Refused."""
        check_options(spec, "box", "labels", "points")
        prompts = [read_prompt(spec.option("points"), spec.option("labels"), spec.option("box"))]
        picture = read_picture(only(files), LIMITS)
        check_size(spec.shape, *picture.size)
        check(prompts, *picture.size)
        return Piecework(lambda progress: artifacts(self.segment(picture, prompts, progress)))

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[Any]:
        """One job after the other."""
        return one_by_one(turns)

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """The middle of a gray picture: what a first measure is taken of."""
        return trial_picture(shape, points="[[32, 32]]")

    @torch.inference_mode()
    def segment(self, picture: Image.Image, prompts: Sequence[Prompt], progress: Progress) -> tuple[Segmented, ...]:
        """One answer for each prompt, in their order. Raises Refused and BrokenOutput."""
        check(prompts, picture.width, picture.height)
        progress(0, len(prompts))
        seen = self._model.get_image_embeddings(self._see(picture))
        found = []
        for prompt in prompts:
            found.append(self._answer(seen, prompt, picture.size))
            progress(len(found), len(prompts))
        return tuple(found)

    def _see(self, picture: Image.Image) -> Any:
        """The picture as the square that the model wants: in its top left, or (a model without padding) all over it."""
        width, height = self._fitted(picture.size)
        small = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        square: Any = np.zeros((self._side, self._side, 3), np.float32)
        square[:height, :width] = (np.asarray(small, np.float32) / 255 - self._mean) / self._deviation
        weights = next(self._model.parameters())
        return torch.from_numpy(square).permute(2, 0, 1)[None].to(weights.device, weights.dtype)

    def _fitted(self, size: tuple[int, int]) -> tuple[int, int]:
        if not self._padded:
            return self._side, self._side
        scale = self._side / max(size)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _answer(self, seen: Any, prompt: Prompt, size: tuple[int, int]) -> Segmented:
        told = self._model(image_embeddings=seen, multimask_output=False, **self._asked(prompt, size, seen))
        logits = told.pred_masks[0, 0].float()
        if not bool(torch.isfinite(logits).all()):
            raise BrokenOutput("the mask is not finite")
        width, height = self._fitted(size)
        square = torch.nn.functional.interpolate(logits[None], (self._side, self._side), mode="bilinear")
        whole = torch.nn.functional.interpolate(square[..., :height, :width], (size[1], size[0]), mode="bilinear")
        mask = (whole[0, 0] > 0).cpu().numpy()
        return Segmented(mask, round(min(1.0, max(0.0, told.iou_scores.float().item())), 4), box_of(mask))

    def _asked(self, prompt: Prompt, size: tuple[int, int], seen: Any) -> dict[str, Any]:
        """The prompt in the model's own pixels."""
        across, down = (self._side / (max(size) if self._padded else side) for side in size)
        asked: dict[str, Any] = {}
        if prompt.points:
            places = [[point.x * across, point.y * down] for point in prompt.points]
            asked["input_points"] = seen.new_tensor([[places]])
            asked["input_labels"] = torch.tensor([[[int(p.inside) for p in prompt.points]]], device=seen.device)
        if prompt.box is not None:
            box = prompt.box
            edges = [box.left * across, box.top * down, box.right * across, box.bottom * down]
            asked["input_boxes"] = seen.new_tensor([[edges]])
        return asked


def box_of(mask: Any) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the pixels that are set, the last two exclusive; None when none is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def artifacts(found: Sequence[Segmented]) -> tuple[Artifact, ...]:
    """One JSON file with scores and boxes, then a PNG for each mask: white on the thing, black off it."""
    told = [{"score": one.score, "box": one.box} for one in found]
    return (Artifact(JSON, json.dumps({"segments": told}).encode()), *(Artifact(PNG, _png(one.mask)) for one in found))


def _png(mask: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, format="PNG", compress_level=6)
    return out.getvalue()
