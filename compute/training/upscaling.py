"""Trains the doubler of pictures on drawn ones that were halved: the little world and procedural textures.

Knows pictures only, no captions and no benchmark.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from compute.pipelines.upscale import WEIGHTS, Doubler, Pixels
from compute.training.autoencoder import to_tensor
from compute.training.captions import example
from compute.training.course import Course, Measured
from compute.training.textures import texture
from compute.training.world import render

_RATE: Final = 2e-3
_FINEST: Final = 50.0  # dB
_COUNT: Final = 16
_PATCH: Final = 64  # pixels of a side, doubled; cut from pictures twice as large
Batch = tuple[torch.Tensor, torch.Tensor]


def examples(step: int) -> Batch:
    """Small patches and what they were halved from. The same step gives the same, in any process."""
    rng = Random(f"upscaling:{step}")
    pairs = [_pair(rng) for _ in range(_COUNT)]
    return to_tensor([small for small, _ in pairs]), to_tensor([large for _, large in pairs])


def halved(picture: Pixels, smooth: bool = False) -> Pixels:
    """Half the size: the mean of four pixels, or a bicubic window."""
    image = Image.fromarray(picture)
    if not smooth:
        return np.asarray(image.reduce(2), dtype=np.uint8)
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC), dtype=np.uint8)


def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean absolute error with a share of squares: absolute errors alone leave rare edges behind."""
    small, large = batch
    error = net(small.contiguous(memory_format=torch.channels_last)) - large
    return error.abs().mean() + 2 * error.square().mean()


def course(work: Path, minutes: float, say: Callable[[str], None] = print) -> Course:
    """The run that makes the upscaler."""
    torch.manual_seed(0)
    return Course(
        work=work,
        minutes=minutes,
        model=Doubler().to(memory_format=torch.channels_last),
        loss=lambda model, step: loss(model, examples(step)),
        measure=measure,
        export=export,
        rate=_RATE,
        say=say,
    )


@torch.no_grad()
def measure(net: nn.Module) -> Measured:
    """How many dB the network is above bicubic on pictures that no step has drawn."""
    rng, rates = Random("upscaling, measured"), {}
    for name, drawn in (("world", _world), ("textures", texture)):
        pictures = [drawn(rng, 128, 128) for _ in range(24)]
        large, small = to_tensor(pictures), to_tensor([halved(one) for one in pictures])
        smooth = functional.interpolate(small, scale_factor=2.0, mode="bicubic", align_corners=False)
        rates[f"{name}, mean dB over bicubic"] = (_decibels(net(small), large) - _decibels(smooth, large)).mean().item()
    return Measured(sum(rates.values()), rates)


def export(net: nn.Module, folder: Path) -> None:
    """Write the weights in half precision."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, folder / WEIGHTS)


def _pair(rng: Random) -> tuple[Pixels, Pixels]:
    side = rng.choice((_PATCH, 2 * _PATCH, 2 * _PATCH))
    picture = (_world if rng.random() < 0.6 else texture)(rng, side, side)
    top, left = (rng.randrange(0, side - _PATCH + 1, 2) for _ in range(2))
    large = picture[top : top + _PATCH, left : left + _PATCH]
    return halved(large, smooth=rng.random() < 0.2), large


def _world(rng: Random, width: int, height: int) -> Pixels:
    return render(example(rng).canvas, width, height)


def _decibels(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Of each picture, at most _FINEST: on a plain ground bicubic is exact, and nobody sees the rest."""
    return 10 * torch.log10(4 / (made.clamp(-1, 1) - truth).square().mean((1, 2, 3))).clamp(max=_FINEST / 10)
