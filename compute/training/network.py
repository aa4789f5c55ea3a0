"""The parts of the bundled model (text encoder, denoiser, schedule) and how they become one diffusers folder.

Knows the shapes of the parts, not how they are trained and not what they are trained on.
"""

import json
import shutil
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from compute.training.autoencoder import CHANNELS
from compute.training.tokens import MAX_TOKENS

TEXT_WIDTH: Final = 128


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder of 0.6 million parameters."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH * 3,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    )


def denoiser() -> UNet2DConditionModel:
    """An untrained U-Net of 5.4 million parameters with cross-attention to the text on both levels."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def schedule() -> DDIMScheduler:
    """v-prediction with a last step of pure noise, so that black and white backgrounds come out black and white."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def prepare_for_training(unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
    """Plain matrix attention: on a CPU the backward pass of the fused kernel is half of the whole step."""
    unet.set_attn_processor(AttnProcessor())
    text.config._attn_implementation = "eager"
    unet.to(memory_format=torch.channels_last)
    unet.train()
    text.train()


def export(
    folder: Path, *, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer, vae: AutoencoderTiny
) -> None:
    """Write the parts as one half-precision diffusers folder; a reader never sees a half-written one."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    # Half precision is for the disk only: a loader that asks for nothing gets single precision in every part.
    rewrite(fresh / "text_encoder" / "config.json", dtype="float32")
    rewrite(fresh / "vae" / "config.json", block_out_channels=None)  # written by the class, refused by its loader
    rewrite(fresh / "unet" / "config.json")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def rewrite(path: Path, **values: str | None) -> None:
    """Set (or, with None, drop) top-level values of a JSON file, and drop the name of the folder it was made in."""
    values["_name_or_path"] = None
    config = {**json.loads(path.read_text(encoding="utf-8")), **values}
    kept = {name: value for name, value in config.items() if name not in values or value is not None}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
