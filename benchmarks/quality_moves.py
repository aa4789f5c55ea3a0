"""The upscaler and the image-to-video model, judged on pictures kept out of their training. Parts of ``quality``.

Knows models as folders and films as arrays.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks import motioncheck
from benchmarks.report import Say, goal
from compute.capability import Dtype
from compute.likeness import psnr
from compute.modelfolder import bundled

MOVER, UPSCALER = "tiny-mover", "tiny-upscaler"
_PICTURES: Final = 60
_TEXTURES: Final = 40

Found: TypeAlias = tuple[dict[str, Any], list[dict[str, Any]]]
Pixels: TypeAlias = NDArray[np.uint8]


def image_to_video(say: Say) -> Found:
    """Stills with things kept out of training, told to move; what moved is read off the pixels."""
    from compute.pipelines.image_to_video import ImageToVideo, Wish

    mover = ImageToVideo.load(bundled(MOVER), device="cpu", dtype=Dtype.FP32)
    found = motioncheck.rates(lambda still, prompt: list(mover.take_apart(still, Wish(prompt)).frames()))
    goals = [
        goal("direction right", found["direction right"], ">=", 0.95),
        goal("amount right", found["amount right"], ">=", 0.90),
        goal("what was not told to move stays", found["others stay"], ">=", 0.90),
        goal("the first frame is the still, dB", found["first frame, dB at least"], ">=", 40.0),
        goal(
            "change between frames over what is meant",
            found["change between frames, most over what is meant"],
            "<=",
            1.5,
        ),
    ]
    return found, goals


def upscale(say: Say) -> Found:
    """Pictures halved and enlarged again, against bicubic; drawn at other sizes and seeds than in training."""
    from compute.pipelines.upscale import Upscale

    upscaler = Upscale.load(bundled(UPSCALER), device="cpu", dtype=Dtype.FP32)
    gains = {"x2": [], "x4": [], "x2, world": [], "x2, textures": []}  # type: dict[str, list[float]]
    for kind, picture in [("world", one) for one in _world()] + [("textures", one) for one in _textures()]:
        for factor in (2, 4):
            small = _reduced(picture, factor)
            gain = psnr(upscaler.enlarge(small, factor), picture) - psnr(_bicubic(small, factor), picture)
            gains[f"x{factor}"].append(gain)
            if factor == 2:
                gains[f"x2, {kind}"].append(gain)
    found = {f"mean dB over bicubic, {name}": round(float(np.mean(many)), 2) for name, many in gains.items()}
    return found, [goal(name, value, ">=", 1.0) for name, value in found.items()]


def _world() -> list[Pixels]:
    """Flat pictures of combinations kept out of training, and landscapes, at a size that is not trained at."""
    from compute.training import captions, scenes
    from compute.training.world import render

    rng = Random("quality, enlarged")
    drawn: list[Pixels] = []
    while len(drawn) < _PICTURES:
        made = rng.choice((captions.single, captions.pair))(rng)
        if captions.is_held_out(made):
            drawn.append(render(made.canvas, 192, 160))
        if len(drawn) % 3 == 2:
            drawn.append(render(scenes.scene(rng)[1], 192, 160))
    return drawn


def _textures() -> list[Pixels]:
    from compute.training.textures import texture

    rng = Random("quality, textures")
    return [texture(rng, 192, 160) for _ in range(_TEXTURES)]


def _reduced(picture: Pixels, factor: int) -> Pixels:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).reduce(factor), dtype=np.uint8)


def _bicubic(picture: Pixels, factor: int) -> Pixels:
    from PIL import Image

    image = Image.fromarray(picture)
    size = (image.width * factor, image.height * factor)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.uint8)
