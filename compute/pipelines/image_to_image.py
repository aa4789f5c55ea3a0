"""Image to image: a picture drawn over by a text-to-image model, as far as the option ``strength`` says.

The picture is coded, put under as much noise as belongs to a later step of the schedule, and denoised from there with
the words of the prompt. ``strength`` 1 starts from noise alone, near 0 the picture hardly changes. The steps of the job
are those that are really run: of a schedule of steps / strength, the last ones. It works on a loaded text-to-image
model, and its jobs share steps with those that are drawn from words. Runs inside a worker; knows no job id, no socket
and no price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from compute.capability import Dtype
from compute.catalog import MAX_DRAWN_OVER
from compute.imagefile import PictureLimits, read_picture
from compute.nets.weights import TORCH_DTYPE
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import check_options, number, only
from compute.pipelines.text_to_image import OPTIONS, Denoising, TextToImage
from compute.samplers import Tail
from compute.spec import IMAGE_TO_IMAGE, JobShape, JobSpec
from p2p.errors import Refused

LIMITS = PictureLimits(bytes=MAX_DRAWN_OVER)
STRENGTH = 0.6  # where nobody says how strong


class ImageToImage:
    """One loaded text-to-image model. Invariant: holds no state of any job."""

    name = IMAGE_TO_IMAGE

    def __init__(self, model: TextToImage) -> None:
        self._model = model

    @classmethod
    def on(cls, loaded: TextToImage) -> ImageToImage:
        """The pipeline on a model that is loaded already."""
        return cls(loaded)

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> ImageToImage:
        """Load from a local folder, as text-to-image does. Raises Misconfigured."""
        return cls(TextToImage.load(folder, device=device, dtype=dtype))

    def open(self, spec: JobSpec, files: Sequence[bytes] = ()) -> DrawingOver:
        """Prepare one job: its words, its part of the schedule, its picture. Raises Refused.

        Without a picture only its steps can be run again, not its start.
        """
        check_options(spec, *OPTIONS, "strength")
        strength = number(spec, "strength", STRENGTH)
        if not 0 <= strength <= 1:
            raise Refused("BAD_INPUT", f"strength is 0 to 1, not {strength:.6g}")
        steps, schedule = spec.shape.steps, self._model.schedule
        drawn = self._model.open(replace(spec, options=()))
        whole = schedule.sampler(length_of(steps, strength, schedule.longest))
        sampler = Tail(whole, len(whole.timesteps) - steps)
        run = DrawingOver(self._model, spec, sampler, drawn.encoded, None)
        return replace(run, coded=self._code(read_picture(only(files), LIMITS), run)) if files else run

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """Not asked: the device measures the model by what it draws from words."""
        return self._model.trial(shape)

    def step_together(self, turns: Sequence[Turn[Denoising]]) -> list[Any]:
        """As drawing from words does, and together with it."""
        return self._model.step_together(turns)

    @torch.inference_mode()
    def _code(self, picture: Image.Image, run: DrawingOver) -> Any:
        """The latents of the picture, in the size of the result."""
        size = run.spec.shape.width, run.spec.shape.height
        fitted = picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(fitted, np.float32) / 255).permute(2, 0, 1)[None]
        vae = self._model.parts.vae
        told = vae.encode((2 * pixels - 1).to(self._model.device, TORCH_DTYPE[self._model.dtype]))
        latents = told.latents if hasattr(told, "latents") else told.latent_dist.mode()
        if tuple(latents.shape) != run.latent_shape or not bool(torch.isfinite(latents).all()):
            raise BrokenOutput("the coded picture is not finite, or of another size")
        return latents * vae.config.scaling_factor


@dataclass(frozen=True, slots=True)
class DrawingOver(Denoising):
    """One job on one model; its first latents hold a picture. ``coded`` is None where that is not here."""

    coded: Any

    def start(self) -> Any:
        """The picture under the noise of the seed. Raises Refused without a picture."""
        if self.coded is None:
            raise Refused("BAD_INPUT", "this pipeline works on one file", have=0, need=1)
        return self.sampler.noised(self.coded, self.noise(), 0)


def length_of(steps: int, strength: float, longest: int) -> int:
    """How many steps the whole schedule has, so that its last ``steps``, which are run, are ``strength`` of it."""
    return longest if steps > strength * longest else max(steps, round(steps / strength))
