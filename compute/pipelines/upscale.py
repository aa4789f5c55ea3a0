"""Enlarges a picture twice or four times: bicubic interpolation, and what a small network adds to it.

A picture is taken in tiles with as much around each as the network can see, so that memory does not grow with the
picture and no seam shows. Runs inside a worker; knows no file format, no job id and no price.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional

from compute.capability import Dtype
from compute.imagefile import PictureLimits, read_picture
from compute.nets.weights import TORCH_DTYPE, fill
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import (
    Piecework,
    check_options,
    check_size,
    one_by_one,
    only,
    trial_picture,
)
from compute.spec import UPSCALE, Artifact, JobShape, JobSpec
from p2p.errors import Refused

FACTORS = (2, 4)
MIN_SIDE = 4
MAX_PIXELS = 1 << 26  # of the result: 8192 x 8192
TILE = 128
LIMITS = PictureLimits(pixels=MAX_PIXELS // 4, least_side=MIN_SIDE)
WIDTH, BLOCKS = 32, 4
SIGHT = {2: 12, 4: 18}  # how many pixels around a tile have a part in it: one for each convolution, two for bicubic
WEIGHTS = "model.safetensors"

Pixels: TypeAlias = NDArray[np.uint8]


class Doubler(nn.Module):
    """Bicubic x2 plus a residual from a few convolutions at the size of the input. Values in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(BLOCKS))
        self.second = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(BLOCKS))
        self.conv_out = nn.Conv2d(WIDTH, 12, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, small: Any) -> Any:
        maps = self.conv_in(small)
        for first, second in zip(self.first, self.second, strict=True):
            maps = maps + second(functional.relu(first(maps)))
        smooth = functional.interpolate(small, scale_factor=2.0, mode="bicubic", align_corners=False)
        return smooth + functional.pixel_shuffle(self.conv_out(maps), 2)


class Upscale:
    """One loaded model. Holds no state of any job."""

    name = UPSCALE

    def __init__(self, net: Doubler, device: str, dtype: Dtype) -> None:
        self._net, self._device, self._dtype = net, device, TORCH_DTYPE[dtype]

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> Upscale:
        """Load from a local folder: safetensors only. Raises Misconfigured."""
        net = Doubler()
        fill(net, folder / WEIGHTS, device=device, dtype=dtype)
        return cls(net, device, dtype)

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read the picture; option ``factor``, 2 or 4. Raises Refused unless the result has its priced size."""
        check_options(spec, "factor")
        factor = {"": 2, "2": 2, "4": 4}.get(spec.option("factor"), 0)
        picture = np.asarray(read_picture(only(files), LIMITS))
        check(picture, factor)
        check_size(spec.shape, picture.shape[1] * factor, picture.shape[0] * factor)
        return Piecework(lambda progress: artifacts(self.enlarge(picture, factor, progress)))

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[Any]:
        """One job after the other."""
        return one_by_one(turns)

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """A gray picture made twice as large: what a first measure is taken of."""
        return trial_picture(shape, larger=2, factor="2")

    @torch.inference_mode()
    def enlarge(self, picture: Pixels, factor: int, told: Callable[[int, int], None] = lambda done, of: None) -> Pixels:
        """The picture ``factor`` times as wide and high.

        ``told(done, of)`` hears of each tile and may end the work by raising. Raises Refused, BrokenOutput.
        """
        check(picture, factor)
        height, width = picture.shape[:2]
        result = np.empty((height * factor, width * factor, 3), np.uint8)
        places = list(tiles(height, width))
        for done, (top, left, bottom, right) in enumerate(places):
            told(done, len(places))
            made = self._tile(picture, factor, top, left, bottom, right)
            result[top * factor : bottom * factor, left * factor : right * factor] = made
        told(len(places), len(places))
        return result

    def _tile(self, picture: Pixels, factor: int, top: int, left: int, bottom: int, right: int) -> Pixels:
        height, width = picture.shape[:2]
        sight = SIGHT[factor]
        above, before = max(0, top - sight), max(0, left - sight)
        part = picture[above : min(height, bottom + sight), before : min(width, right + sight)]
        values = torch.from_numpy(np.array(part)).to(self._device).permute(2, 0, 1)[None]
        values = (values.float() / 127.5 - 1).to(self._dtype)
        for _ in range(factor // 2):
            values = self._net(values)
        if not bool(torch.isfinite(values).all()):
            raise BrokenOutput("the enlarged picture is not finite")
        y, x = (top - above) * factor, (left - before) * factor
        kept = values[0, :, y : y + (bottom - top) * factor, x : x + (right - left) * factor].float()
        bytes_ = ((kept.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        return np.asarray(bytes_)


def artifacts(picture: Pixels) -> tuple[Artifact, ...]:
    """The picture as one PNG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=6)
    return (Artifact("image/png", out.getvalue()),)


def check(picture: Pixels, factor: int) -> None:
    """Raises Refused for what is no picture, a factor that is none of FACTORS, and a result that would be too large."""
    if factor not in FACTORS:
        raise Refused("BAD_FACTOR", f"a picture is enlarged {' or '.join(map(str, FACTORS))} times")
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise Refused("BAD_PICTURE", "three bytes a pixel are needed")
    height, width = picture.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise Refused("SIDE_TOO_SMALL", f"a side has at least {MIN_SIDE} pixels")
    if height * width * factor * factor > MAX_PIXELS:
        have = height * width * factor * factor
        raise Refused("PICTURE_TOO_LARGE", "pixels of the result", have=have, need=MAX_PIXELS)


def tiles(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, left, bottom and right of each tile; together they cover the picture once."""
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield top, left, min(top + TILE, height), min(left + TILE, width)
