"""Takes a still apart into what moves, what lies behind it and what hides it; puts frames together from that.

One pass of the network per clip; each frame is then warped from the still itself, so it stays as sharp as the still,
the first frame is the still and nothing flickers. Tensors only: no files, no words, no job.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

WIDTHS: Final = (32, 64, 128)
TEXT_WIDTH: Final = 128
STEERING: Final = ("pan_x", "pan_y", "zoom", "drift_x", "drift_y")
_PARTS: Final = (1, 1, 1, 3, 3, 3)
_NO_TINT: Final = 0.02  # a change of colour below this is none: three levels of 256
_CELL: Final = 2  # the network looks at cells of 2x2 pixels, which costs a quarter and loses none of them


@dataclass(frozen=True, slots=True)
class Layers:
    """Maps over the still, as (n, channels, height, width).

    `moving`, `front` and `marks` are shares in [0, 1]: what moves, what hides it, and what is no background at all.
    `behind` is the still without what moves, `plate` without anything, `tint` the change of colour over the clip.
    """

    moving: torch.Tensor
    front: torch.Tensor
    marks: torch.Tensor
    behind: torch.Tensor
    plate: torch.Tensor
    tint: torch.Tensor


class Block(nn.Module):
    """A residual pair of convolutions that the words scale and shift. Starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.words = nn.Linear(TEXT_WIDTH, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(self, maps: Any, gist: Any) -> Any:
        scale, shift = self.words(gist)[:, :, None, None].chunk(2, 1)
        return maps + self.second(functional.silu(self.first(maps) * (1 + scale) + shift))


class Naming(nn.Module):
    """Each cell looks among the words for the one that names it, by its colour first of all. Starts as nothing."""

    def __init__(self, width: int, inner: int = 64) -> None:
        super().__init__()
        self.cells = nn.Linear(width, inner)
        self.words = nn.Linear(TEXT_WIDTH, 2 * inner)
        self.out = nn.Linear(inner, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, maps: Any, words: Any) -> Any:
        keys, values = self.words(words).chunk(2, -1)
        cells = self.cells(maps.flatten(2).transpose(1, 2))
        found = (cells @ keys.transpose(1, 2) / cells.shape[-1] ** 0.5).softmax(-1) @ values
        return maps + self.out(found).transpose(1, 2).reshape(maps.shape)


class Splitter(nn.Module):
    """A small U-Net over pixels, told by the words what to look for. Sides are multiples of 8.

    It gives unbounded maps: `layers` makes shares and colours of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3 * _CELL**2 + 2, WIDTHS[0], 3, padding=1)
        self.naming = Naming(WIDTHS[0])
        self.down = nn.ModuleList(Block(width) for width in WIDTHS)
        self.narrow = nn.ModuleList(nn.Conv2d(wide, narrow, 3, 2, 1) for wide, narrow in pairwise(WIDTHS))
        self.look = nn.MultiheadAttention(WIDTHS[-1], 4, kdim=TEXT_WIDTH, vdim=TEXT_WIDTH, batch_first=True)
        self.deep = Block(WIDTHS[-1])
        self.widen = nn.ModuleList(nn.Conv2d(narrow, wide, 3, padding=1) for wide, narrow in pairwise(WIDTHS))
        self.up = nn.ModuleList(Block(width) for width in WIDTHS[:-1])
        self.conv_out = nn.Conv2d(WIDTHS[0] + 3 * _CELL**2, sum(_PARTS) * _CELL**2, 3, padding=1)
        self.steer = nn.Sequential(nn.Linear(TEXT_WIDTH, 128), nn.SiLU(), nn.Linear(128, len(STEERING)))

    def forward(self, still: Any, words: Any, gist: Any) -> Any:
        pixels = functional.pixel_unshuffle(still, _CELL)
        maps, kept = self.conv_in(torch.cat([pixels, _places(pixels)], 1)), []
        for level, block in enumerate(self.down):
            maps = block(maps, gist)
            if level == 0:
                maps = self.naming(maps, words)
            if level < len(self.narrow):
                kept.append(maps)
                maps = self.narrow[level](maps)
        cells = maps.flatten(2).transpose(1, 2)
        maps = maps + self.look(cells, words, words, need_weights=False)[0].transpose(1, 2).reshape(maps.shape)
        maps = self.deep(maps, gist)
        for level in reversed(range(len(self.up))):
            maps = functional.interpolate(maps, scale_factor=2.0, mode="nearest")
            maps = self.up[level](self.widen[level](maps) + kept[level], gist)
        return functional.pixel_shuffle(self.conv_out(torch.cat([maps, pixels], 1)), _CELL)


def layers(maps: torch.Tensor) -> Layers:
    """The network's maps in their bounds."""
    moving, front, marks, behind, plate, tint = maps.float().split(_PARTS, 1)
    tint = functional.softshrink(tint, _NO_TINT)
    return Layers(moving.sigmoid(), front.sigmoid(), marks.sigmoid(), behind, plate, tint)


def sharpened(still: torch.Tensor, made: Layers) -> Layers:
    """Layers of a smaller copy, for the still itself: rims are found again from its own pixels.

    In a rim a pixel lies between the colour of what moves and the colour behind it; where, is its share.
    """
    size = (still.shape[2], still.shape[3])
    spread = {name: functional.interpolate(getattr(made, name), size, mode="bilinear") for name in Layers.__slots__}
    soft, behind = spread["moving"], spread["behind"]
    reach = 2 * (still.shape[2] // made.moving.shape[2]) + 1
    sure = (soft > 0.9).float()
    weight = functional.avg_pool2d(sure, reach, 1, reach // 2)
    colour = functional.avg_pool2d(still * sure, reach, 1, reach // 2) / weight.clamp(min=1e-6)
    way = colour - behind
    length = way.square().sum(1, keepdim=True)
    share = ((still - behind) * way).sum(1, keepdim=True) / length.clamp(min=1e-6)
    near = ((soft > 0.05) & (soft < 0.95) & (weight > 0) & (length > 0.02)).float()
    spread["moving"] = near * share.clamp(0, 1) + (1 - near) * (soft > 0.5).float()
    return Layers(**spread)


def compose(still: torch.Tensor, made: Layers, steering: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """The frame after `part` (n values, 0 to 1) of each clip, in [-1, 1]. `steering` is (n, 5), in shares of a side."""
    pan_x, pan_y, zoom, drift_x, drift_y = (steering * part[:, None]).unbind(1)
    camera = _grid(still, torch.stack([pan_x, pan_y], 1), zoom)
    thing = camera - 2 * torch.stack([drift_x, drift_y], 1)[:, None, None, :]
    inside = (camera.abs().amax(-1) <= 1).float()[:, None]
    tint = made.tint * part[:, None, None, None]
    behind = still + _wider(made.moving) * (made.behind - still)  # the rim mixes both, so it goes as well
    plate = still + _wider(made.marks) * (made.plate - still)
    ground = inside * _taken(behind + tint, camera, "border") + (1 - inside) * _taken(plate + tint, camera, "border")
    cut = torch.cat([still - (1 - made.moving) * behind, made.moving], 1)
    cut = _taken(cut, thing, "zeros")
    hidden = _taken(made.front * (1 - _wider(made.moving)), camera, "border").clamp(0, 1)
    return (ground + (1 - hidden) * (cut[:, :3] - cut[:, 3:] * ground)).clamp(-1, 1)


def _grid(still: torch.Tensor, shift: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
    """Where each pixel of a frame is looked up in the still: (n, height, width, 2) in [-1, 1]."""
    height, width = still.shape[2:]
    y, x = torch.meshgrid(_steps(height, still), _steps(width, still), indexing="ij")
    return (torch.stack([x, y], -1)[None] - 2 * shift[:, None, None, :]) / zoom.exp()[:, None, None, None]


def _wider(share: torch.Tensor) -> torch.Tensor:
    """The share, two pixels wider on each side, and firmer: half a share and more is all of it."""
    return (1.8 * functional.max_pool2d(share, 5, 1, 2) - 0.1).clamp(0, 1)


def _taken(maps: torch.Tensor, grid: torch.Tensor, outside: str) -> torch.Tensor:
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def _places(still: torch.Tensor) -> torch.Tensor:
    """Two maps that tell a convolution where it is."""
    height, width = still.shape[2:]
    y, x = torch.meshgrid(_steps(height, still), _steps(width, still), indexing="ij")
    return torch.stack([x, y])[None].expand(len(still), -1, -1, -1)


def _steps(count: int, like: torch.Tensor) -> torch.Tensor:
    return (torch.arange(count, device=like.device, dtype=like.dtype) * 2 + 1) / count - 1
