"""Text to image with a diffusers Stable Diffusion model: encode the words, take noise from the seed, denoise, decode.

The loop is written out instead of calling the pipeline object, because each step must stand alone: it can be watched,
cancelled, committed to, run again by somebody else, and shared with other jobs that are at other steps of theirs. For
that the sampler has to be a function of the latents and the index only (``compute/samplers.py``). Runs inside a worker;
knows no job id, no socket and no price.
"""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from compute.capability import Dtype
from compute.nets.loading import BAD_FILES
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import check_options
from compute.samplers import Sampler
from compute.schedule import Schedule
from compute.spec import TEXT_TO_IMAGE, Artifact, JobShape, JobSpec
from compute.trace import FINISHED, MAX_LEAF
from p2p.errors import Misconfigured, Refused

PNG = "image/png"
OPTIONS = ("previews",)  # read by the device: compute/previewing.py
GLIMPSE_SIDE = 64  # pixels
KEPT_TEXTS = 64  # encoded: nearly all jobs have the same negative prompt, and many differ in their seeds only
_TORCH_DTYPE = {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}


class TextToImage:
    """One loaded model. Invariant: holds no state of any job, so jobs may be interleaved step by step."""

    name = TEXT_TO_IMAGE

    def __init__(self, parts: Any, device: str, dtype: Dtype) -> None:
        """Raises Misconfigured for a schedule that is not served."""
        self.parts, self.device, self.dtype = parts, device, dtype
        self.schedule = Schedule(type(parts.scheduler).__name__, parts.scheduler.config)
        self._words = lru_cache(KEPT_TEXTS)(self._encode)  # each text alone, so that its bits are always the same

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> TextToImage:
        """Load from a local folder: safetensors only, no code from the folder. Raises Misconfigured."""
        try:
            parts = StableDiffusionPipeline.from_pretrained(
                folder,
                dtype=_TORCH_DTYPE[dtype],
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
            )
        except BAD_FILES as exc:
            raise Misconfigured(f"{folder} cannot be loaded: {type(exc).__name__}: {exc}") from exc
        parts.set_progress_bar_config(disable=True)
        if device == "cpu":
            parts.vae.to(memory_format=torch.channels_last)  # its convolutions are a sixth to a third faster so
        return cls(parts.to(device, _TORCH_DTYPE[dtype]), device, dtype)

    @torch.inference_mode()
    def open(self, spec: JobSpec, files: Sequence[bytes] = ()) -> Denoising:
        """Prepare one job: its schedule and its encoded words. Raises Refused, as for a schedule the model lacks."""
        check_options(spec, *OPTIONS)
        sampler = self.schedule.sampler(spec.shape.steps)
        words = self._words(spec.prompt)
        encoded = torch.cat([self._words(spec.negative_prompt), words]) if spec.shape.guided else words
        return Denoising(self, spec, sampler, encoded)

    def _encode(self, text: str) -> Any:
        return self.parts.encode_prompt(text, self.device, 1, False)[0]

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """Two steps without words."""
        return JobSpec(shape, "", "", 2000, 0, bytes(16)), ()

    @torch.inference_mode()
    def step_together(self, turns: Sequence[Turn[Denoising]]) -> list[Any]:
        """The latents after one step of each job, from one evaluation of the model: two rows where guided, else one."""
        rows, times = [], list[float]()
        for job, latents, index in turns:
            count = len(job.encoded)
            rows += [job.sampler.shown(latents, index)] * count
            times += [job.sampler.timesteps[index]] * count
        words = torch.cat([job.encoded for job, _, _ in turns])
        told = self.parts.unet(
            torch.cat(rows), torch.tensor(times, device=self.device), encoder_hidden_states=words, return_dict=False
        )[0]
        shares = zip(turns, told.split([len(job.encoded) for job, _, _ in turns]), strict=True)
        return [job.sampler.after(latents, job.guide(own), index) for (job, latents, index), own in shares]


@dataclass(frozen=True, slots=True)
class Denoising:
    """One job on one model: pure functions from latents to latents. They are tensors of (1, channels, h, w)."""

    model: TextToImage
    spec: JobSpec
    sampler: Sampler
    encoded: Any

    @property
    def dtype(self) -> Dtype:
        """The number format of the latents."""
        return self.model.dtype

    def timestep_of(self, index: int) -> int:
        """What the model is told next after ``index`` steps, its whole part where it is none."""
        return int(self.sampler.timesteps[index]) if index < self.spec.shape.steps else FINISHED

    @property
    def group(self) -> Hashable:
        """Jobs of this model with the same latents and as many words can make a step together."""
        return self.latent_shape, tuple(self.encoded.shape[1:])

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """The one shape of this job's latents. Raises Refused when a leaf of the trace could not hold them."""
        factor = self.model.parts.vae_scale_factor
        shape = self.spec.shape
        found = (1, int(self.model.parts.unet.config.in_channels), shape.height // factor, shape.width // factor)
        if found[1] * found[2] * found[3] * self.dtype.size > MAX_LEAF:
            raise Refused("SIDE_TOO_LARGE", "the latents exceed what a trace may hold")
        return found

    def start(self) -> Any:
        """x_T: the noise, as large as the schedule has it first."""
        return self.noise(self.sampler.first_scale)

    def noise(self, scale: Any = 1.0) -> Any:
        """From the seed, drawn as fp32 on the CPU whatever the device, so that everybody gets the same."""
        generator = torch.Generator("cpu").manual_seed(self.spec.seed)
        noise = torch.randn(self.latent_shape, generator=generator, dtype=torch.float32)
        return (noise * scale).to(self.model.device, _TORCH_DTYPE[self.dtype])

    def step(self, latents: Any, index: int) -> Any:
        """The latents after step ``index``. One model evaluation, or two in one batch when guided."""
        return self.model.step_together([(self, latents, index)])[0]

    def guide(self, told: Any) -> Any:
        """What the model told of this job's rows, as one: away from what it says without the words."""
        if not self.spec.shape.guided:
            return told
        without, with_words = told.chunk(2)
        return without + (self.spec.guidance / 1000) * (with_words - without)

    def finish(self, latents: Any) -> tuple[Artifact, ...]:
        """x_0 as files: one PNG. Raises BrokenOutput when the latents or the picture are not finite."""
        return (Artifact(PNG, encode_png(self.pixels(latents))),)

    @torch.inference_mode()
    def pixels(self, latents: Any) -> Any:
        """x_0 decoded to an array of bytes (height, width, 3)."""
        vae = self.model.parts.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0][0].float()
        if not bool(torch.isfinite(decoded).all()):
            raise BrokenOutput("the decoded picture is not finite")
        scaled = (decoded / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        return (scaled * 255).round().astype(np.uint8)

    def glimpse(self, before: Any, after: Any, index: int) -> Any:
        """What the model saw at step ``index``, of a few cells of latents on each side: decoded fast at any size."""
        latents = self.sampler.picture(before, after, index)
        most = max(1, GLIMPSE_SIDE // self.model.parts.vae_scale_factor)
        share = min(1.0, most / max(latents.shape[2:]))
        size = [max(1, round(cells * share)) for cells in latents.shape[2:]]
        return self.pixels(torch.nn.functional.interpolate(latents.float(), size, mode="area").to(latents.dtype))

    def to_bytes(self, latents: Any) -> bytes:
        """Raw little-endian numbers in the dtype of the denoising."""
        flat = latents.detach().cpu().contiguous().view(torch.int32 if self.dtype is Dtype.FP32 else torch.int16)
        raw: bytes = flat.numpy().astype("<i4" if self.dtype is Dtype.FP32 else "<i2", copy=False).tobytes()
        return raw

    def from_bytes(self, raw: bytes, dtype: Dtype) -> Any:
        """Latents that somebody committed to, in our own dtype. Raises Refused when they have another size."""
        count = int(np.prod(self.latent_shape))
        if len(raw) != count * dtype.size:
            raise Refused("BAD_LATENTS", "not the size of this job's latents", have=len(raw), need=count * dtype.size)
        whole = np.frombuffer(raw, "<i4" if dtype is Dtype.FP32 else "<i2").copy()
        latents = torch.from_numpy(whole).view(_TORCH_DTYPE[dtype]).reshape(self.latent_shape)
        return latents.to(self.model.device, _TORCH_DTYPE[self.dtype])


def encode_png(pixels: Any) -> bytes:
    """The same bytes for the same pixels; nothing in the file but the picture."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=6)
    return out.getvalue()


def decode_png(data: bytes, width: int, height: int) -> Any:
    """Pixels of a picture as delivered. Raises Refused unless it is a PNG of exactly this size."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.size != (width, height):
                raise Refused("BAD_PICTURE", "not the size that was asked for")
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise Refused("BAD_PICTURE", "no readable PNG") from exc
