"""For ``tolerance``: runs of one model that commit to their latents, honest ones and others, and how far each lies off.

Everything goes through the pipeline's own functions, as a device calls them. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from compute.capability import Dtype
from compute.modelfolder import bundled
from compute.pipelines.text_to_image import TextToImage
from compute.replaying import distance
from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec
from compute.work import Replay


@dataclass(frozen=True, slots=True)
class Committed:
    """The latents before the first step and after each, in the order of the trace, and the picture."""

    latents: tuple[Any, ...]
    pixels: Any


@dataclass(frozen=True, slots=True)
class Apart:
    """How far a committed run lies from the job as it was paid for: noise, each step from those before it, picture."""

    start: Replay
    steps: tuple[Replay, ...]
    picture: Replay


def load(dtype: Dtype) -> TextToImage:
    """The bundled model in one number format."""
    return TextToImage.load(bundled(), device="cpu", dtype=dtype)


def spec(prompt: str, side: int, steps: int, guidance: int, seed: int) -> JobSpec:
    """A job of it. The model's hash does not matter here."""
    shape = JobShape(TEXT_TO_IMAGE, bytes(32), side, side, steps, guidance > 1000)
    return JobSpec(shape, prompt, "", guidance, seed, bytes(16))


def commit(model: TextToImage, job: JobSpec, company: int = 0, since: tuple[int, Any] | None = None) -> Committed:
    """Run a job, in a batch with so many others, or go on from the latents after some of its steps."""
    run = model.open(job)
    others = [model.open(replace(job, prompt=f"a blue square {n}", seed=job.seed + n + 1)) for n in range(company)]
    first, latents = since or (0, run.start())
    states, beside = [latents], [other.start() for other in others]
    for index in range(first, job.shape.steps):
        turns = [(run, states[-1], index), *((o, state, index) for o, state in zip(others, beside, strict=True))]
        latents, *beside = model.step_together(turns)
        states.append(latents)
    return Committed(tuple(states), run.pixels(states[-1]))


def apart(model: TextToImage, paid: JobSpec, claim: Committed, first: int = 0) -> Apart:
    """What a check of every step finds, made by ``model`` for the job that was paid."""
    run = model.open(paid)
    ours = [torch.as_tensor(state).to(run.start().dtype) for state in claim.latents]
    steps = []
    for index in range(first, paid.shape.steps):
        before, after = ours[index - first], ours[index + 1 - first]
        steps.append(distance(run.step(before, index), after, after - before))
    white = torch.from_numpy(claim.pixels.astype(np.float32) / 255)
    picture = torch.from_numpy(run.pixels(ours[-1]).astype(np.float32) / 255)
    noise = distance(run.start(), ours[0], ours[0]) if not first else Replay(0, 0)
    return Apart(noise, tuple(steps), distance(picture, white, torch.ones_like(white)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def coarser(model: TextToImage, change: Callable[[Any], Any]) -> TextToImage:
    """The same model with every weight matrix of its denoiser changed. Changes ``model``."""
    for weights in model.parts.unet.parameters():
        if weights.ndim > 1:
            weights.data.copy_(change(weights.data))
    return model


def quantised(bits: int) -> Callable[[Any], Any]:
    """Weights as whole numbers of so many bits, a scale for each row: what makes a model smaller and faster."""
    most = 2 ** (bits - 1) - 1

    def change(weights: Any) -> Any:
        rows = weights.float().flatten(1)
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
        return ((rows / scale).round() * scale).reshape(weights.shape)

    return change


def shaken(share: float) -> Callable[[Any], Any]:
    """Weights of another training: each moved by noise of this share of their spread."""
    generator = torch.Generator().manual_seed(0)

    def change(weights: Any) -> Any:
        noise = torch.randn(weights.shape, generator=generator)
        return weights.float() + noise * weights.float().std() * share

    return change


def left_out(model: TextToImage, paid: JobSpec, claim: Committed) -> list[Replay]:
    """For each step in turn: what a check of it finds when it was not made, and the latents before it stand twice."""
    run = model.open(paid)
    return [distance(run.step(state, index), state, state - state) for index, state in enumerate(claim.latents[:-1])]


def stretched(short: Committed, steps: int) -> Committed:
    """A run of fewer steps, shown as one of ``steps``: between two of its latents lies what lies between them."""
    have = len(short.latents) - 1
    states = []
    for place in range(steps + 1):
        at = place * have / steps
        low = min(int(at), have - 1)
        part = at - low
        states.append(short.latents[low] * (1 - part) + short.latents[low + 1] * part)
    return Committed(tuple(states), short.pixels)


def worst(found: Sequence[Replay]) -> Replay:
    """The largest of each kind."""
    return Replay(max(one.max_diff_nano for one in found), max(one.relative_ppm for one in found))


def best(found: Sequence[Replay]) -> Replay:
    """The smallest of each kind."""
    return Replay(min(one.max_diff_nano for one in found), min(one.relative_ppm for one in found))
