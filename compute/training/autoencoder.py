"""The picture code of the bundled model: an encoder written down from a principal-component fit, and a trained decoder.

The code is linear in 8x8 patches, so the encoder needs no training and costs next to nothing; the decoder learns to
undo it without block edges. Knows pictures only as arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderTiny

from compute.training.world import Pixels

CHANNELS: Final = 24
PATCH: Final = 8
_PATCH_VALUES: Final = 3 * PATCH * PATCH
_SCALING: Final = 4.0  # keeps the code well inside the soft clamp at the entry of the decoder
_WIDTH: Final = 48  # of the decoder; the encoder needs exactly this to carry 4x4 patches unchanged


def to_tensor(pictures: Sequence[Pixels]) -> torch.Tensor:
    """Pictures of one size as a float batch in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pixels(batch: torch.Tensor) -> Pixels:
    """The inverse of to_tensor, as (n, height, width, 3)."""
    return ((batch.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@dataclass(frozen=True, slots=True)
class PatchCode:
    """A linear code of 8x8 patches: `encode` multiplies by `analysis`, `decode` by `synthesis`, around `mean`.

    Invariant: decode(encode(x)) is the best reconstruction of x that any linear code of CHANNELS values has on the fit.
    """

    mean: torch.Tensor
    analysis: torch.Tensor
    synthesis: torch.Tensor

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """The code of a batch of pictures, with a standard deviation of about one."""
        return ((_patches(batch).permute(0, 2, 3, 1) - self.mean) @ self.analysis).permute(0, 3, 1, 2)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """The pictures of a code, with the block edges of a linear code."""
        return _unpatch((code.permute(0, 2, 3, 1) @ self.synthesis + self.mean).permute(0, 3, 1, 2))

    def save(self, path: Path) -> None:
        torch.save({"mean": self.mean, "analysis": self.analysis, "synthesis": self.synthesis}, path)

    @classmethod
    def load(cls, path: Path) -> "PatchCode":
        stored = torch.load(path, weights_only=True)
        return cls(stored["mean"], stored["analysis"], stored["synthesis"])


def fit(batch: torch.Tensor) -> PatchCode:
    """The code that keeps most of these pictures. Strong components are damped, so that colour does not drown form."""
    patches = _patches(batch).permute(0, 2, 3, 1).reshape(-1, _PATCH_VALUES).double()
    mean = patches.mean(0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    deviation, axes = values.flip(0)[:CHANNELS].clamp(min=1e-12).sqrt(), vectors.flip(1)[:, :CHANNELS]
    scale = deviation[0] ** 0.4 * deviation**0.6
    scale = scale * (deviation / scale).square().mean().sqrt()
    return PatchCode(mean.float(), (axes / scale).float(), (axes * scale).T.contiguous().float())


def build(code: PatchCode) -> AutoencoderTiny:
    """A diffusers autoencoder whose encoder is exactly this code; the decoder is untrained."""
    vae = AutoencoderTiny(
        in_channels=3,
        out_channels=3,
        encoder_block_out_channels=(_WIDTH,) * 4,
        decoder_block_out_channels=(_WIDTH,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=(3, 3, 2, 1),
        latent_channels=CHANNELS,
        scaling_factor=_SCALING,
    )
    _write_encoder(vae, code)
    return vae


@torch.no_grad()
def _write_encoder(vae: AutoencoderTiny, code: PatchCode) -> None:
    """Three halvings of the picture that only move values about; the last of them applies the code as well."""
    first, halve1, halve2, halve3, last = (m for m in vae.encoder.layers if isinstance(m, torch.nn.Conv2d))
    for layer in (first, halve1, halve2, halve3, last):
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    for channel in range(3):
        first.weight[channel, channel, 1, 1] = 2.0  # the class hands its encoder pictures in [0, 1]
        first.bias[channel] = -1.0
    for place in range(4):
        dy, dx = divmod(place, 2)
        for layer, count in ((halve1, 3), (halve2, 12)):
            for channel in range(count):
                layer.weight[place * count + channel, channel, 1 + dy, 1 + dx] = 1.0
        halve3.weight[:CHANNELS, :, 1 + dy, 1 + dx] = code.analysis[place * _WIDTH : (place + 1) * _WIDTH].T
    for channel in range(CHANNELS):
        last.weight[channel, channel, 1, 1] = 1.0 / _SCALING
    last.bias.copy_(-(code.mean @ code.analysis) / _SCALING)


def _patches(batch: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        batch = torch.cat([batch[:, :, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)], 1)
    return batch


def _unpatch(batch: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        count, channels, height, width = batch.shape[0], batch.shape[1] // 4, batch.shape[2], batch.shape[3]
        spread = batch.reshape(count, 2, 2, channels, height, width).permute(0, 3, 4, 1, 5, 2)
        batch = spread.reshape(count, channels, height * 2, width * 2)
    return batch
