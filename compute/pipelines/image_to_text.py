"""Image to text: what a picture shows, in a sentence, by the bundled describer or another VisionEncoderDecoder.

Runs inside a worker; knows no job id, no socket and no price.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, StoppingCriteria, StoppingCriteriaList, VisionEncoderDecoderModel

from compute.capability import Dtype
from compute.imagefile import PictureLimits, read_picture
from compute.nets.loading import BAD_FILES
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import Piecework, check_options, check_size, one_by_one, only, trial_picture
from compute.spec import IMAGE_TO_TEXT, Artifact, JobShape, JobSpec
from p2p.errors import Misconfigured

JSON = "application/json"
LIMITS: Final = PictureLimits()
MAX_TOKENS: Final = 64
MAX_INPUT_SIDE: Final = 1024  # of what a model's folder says that it sees
_TORCH_DTYPE = {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}

Progress = Callable[[int, int], None]
"""Told the tokens said and the most there can be. What it raises (``Cancelled``) ends the work."""


@dataclass(frozen=True, slots=True)
class Description:
    """A sentence, and how sure the model was of it: the geometric mean of its tokens' probabilities, 0 to 1."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Eyes:
    """How a model wants its pictures, from its ``preprocessor_config.json``. Sides are pixels."""

    width: int
    height: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Eyes:
        """Raises one of BAD_FILES for what is none."""
        told = json.loads((folder / "preprocessor_config.json").read_bytes())
        size = told["size"]
        sides = (size, size) if isinstance(size, int) else _sides(size)
        mean, deviation = tuple(map(float, told["image_mean"])), tuple(map(float, told["image_std"]))
        if not all(1 <= side <= MAX_INPUT_SIDE for side in sides) or len(mean) != 3 or len(deviation) != 3:
            raise ValueError("the model's pictures are out of bounds")
        return cls(*sides, mean, deviation)

    def see(self, picture: Image.Image) -> Any:
        """The picture as the model wants it: (1, 3, height, width)."""
        small = picture.convert("RGB").resize((self.width, self.height), Image.Resampling.BILINEAR)
        scaled = (np.asarray(small, np.float32) / 255 - np.float32(self.mean)) / np.float32(self.deviation)
        return torch.from_numpy(scaled).permute(2, 0, 1)[None]


def _sides(size: Mapping[str, int]) -> tuple[int, int]:
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    return int(size["width"]), int(size["height"])


class ImageToText:
    """One loaded model. Invariant: holds no state of any job."""

    name = IMAGE_TO_TEXT

    def __init__(self, model: Any, tokenizer: Any, eyes: Eyes) -> None:
        self._model, self._tokenizer, self._eyes = model, tokenizer, eyes

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> ImageToText:
        """Load from a local folder: safetensors only, no code from the folder. Raises Misconfigured."""
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            model = VisionEncoderDecoderModel.from_pretrained(
                folder, dtype=_TORCH_DTYPE[dtype], use_safetensors=True, **local
            )
            tokenizer, eyes = AutoTokenizer.from_pretrained(folder, **local), Eyes.read(folder)
        except BAD_FILES as exc:
            raise Misconfigured(f"{folder} cannot be loaded: {type(exc).__name__}: {exc}") from exc
        return cls(model.to(device).eval(), tokenizer, eyes)

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read the picture. Raises Refused for what is none, or has another size than the job was priced for."""
        check_options(spec)
        picture = read_picture(only(files), LIMITS)
        check_size(spec.shape, *picture.size)
        return Piecework(lambda progress: artifacts(self.describe(picture, progress)))

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[Any]:
        """One job after the other."""
        return one_by_one(turns)

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """A gray picture: what a first measure is taken of."""
        return trial_picture(shape)

    @torch.inference_mode()
    def describe(self, picture: Image.Image, progress: Progress) -> Description:
        """The likeliest word each time, up to the model's end or MAX_TOKENS. Raises BrokenOutput."""
        weights = next(self._model.parameters())
        told = self._model.generate(
            self._eyes.see(picture).to(weights.device, weights.dtype),
            do_sample=False,
            num_beams=1,
            max_length=min(MAX_TOKENS, int(self._model.generation_config.max_length or MAX_TOKENS)),
            output_logits=True,
            return_dict_in_generate=True,
            stopping_criteria=StoppingCriteriaList([_Watched(progress)]),
        )
        said = told.sequences[0, -len(told.logits) :]
        scores = torch.cat(told.logits).float().log_softmax(-1)
        if not bool(torch.isfinite(scores.max(-1).values).all()):
            raise BrokenOutput("the describer's scores are not finite")
        sure = scores.gather(1, said[:, None]).mean().exp().item()
        text = " ".join(self._tokenizer.decode(said, skip_special_tokens=True).replace(" ,", ",").split())
        return Description(text, round(min(1.0, sure), 4))


class _Watched(StoppingCriteria):
    """Calls back after each token; stops nothing itself."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        self._progress(int(input_ids.shape[1]), MAX_TOKENS)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def artifacts(description: Description) -> tuple[Artifact, ...]:
    """The description as one JSON file."""
    return (Artifact(JSON, json.dumps(asdict(description), ensure_ascii=False).encode()),)
