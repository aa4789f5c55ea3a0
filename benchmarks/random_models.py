"""Models with random weights, of sizes that the bundled one does not have. What they draw is noise; its price is real.

Knows no benchmark. Imports torch when it builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compute.offline import go_offline, hush

_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
_CROSS, _PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


@dataclass(frozen=True, slots=True)
class Size:
    """``channels`` of the levels of the UNet, all with attention but the last; ``latent``: the side it is made for."""

    latent: int
    channels: tuple[int, ...]
    layers: int
    width: int
    heads: int
    text_layers: int
    tokens: int
    vae: tuple[int, ...]


SATURATING = Size(24, (96, 192, 256), 1, 128, 4, 2, 32, (32,) * 4)  # one request fills a CPU core
STABLE_DIFFUSION = Size(64, (320, 640, 1280, 1280), 2, 768, 8, 12, 77, (128, 256, 512, 512))  # that of version 1.5


def build(folder: Path, size: Size, *, half: bool = False) -> Path:
    """Write a folder that a worker can serve."""
    go_offline()
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    hush()
    torch.manual_seed(0)
    kinds = [*[_CROSS] * (len(size.channels) - 1), _PLAIN]
    unet = UNet2DConditionModel(
        sample_size=size.latent,
        block_out_channels=size.channels,
        layers_per_block=size.layers,
        down_block_types=tuple(down for down, _ in kinds),
        up_block_types=tuple(up for _, up in reversed(kinds)),
        cross_attention_dim=size.width,
        attention_head_dim=size.heads,
        norm_num_groups=16,
    )
    tokenizer, words = _text(size)
    pipeline = StableDiffusionPipeline(
        vae=_vae(size),
        text_encoder=words,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    (pipeline.to(torch.float16) if half else pipeline).save_pretrained(folder, safe_serialization=True)
    return folder


def _vae(size: Size) -> Any:
    from diffusers import AutoencoderKL, AutoencoderTiny

    if size is STABLE_DIFFUSION:
        return AutoencoderKL(
            block_out_channels=size.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
    return AutoencoderTiny(
        encoder_block_out_channels=size.vae,
        decoder_block_out_channels=size.vae,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )


def _text(size: Size) -> tuple[Any, Any]:
    """A tokenizer of single letters, and an encoder for it."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    vocab = {word: i for i, word in enumerate([*letters, *(c + "</w>" for c in letters), "<start>", "<end>"])}
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=[],
        model_max_length=size.tokens,
        unk_token="<end>",
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
    )
    config = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.heads,
        max_position_embeddings=size.tokens,
        bos_token_id=vocab["<start>"],
        eos_token_id=vocab["<end>"],
        pad_token_id=vocab["<end>"],
    )
    return tokenizer, CLIPTextModel(config)
