"""Model folders for tests: one that only looks like a model, and one with random weights that really runs."""

from __future__ import annotations

import json
from pathlib import Path

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def hollow_model(folder: Path, weights: bytes = b"weights") -> Path:
    """What the catalogue reads, and nothing that a library could load."""
    parts = {"unet": {"sample_size": 8}, "vae": {"block_out_channels": [8] * 4}, "scheduler": SCHEDULER}
    folder.mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    for part, config in parts.items():
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config))
        index[part] = ["diffusers", part]
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(as_safetensors(weights))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def as_safetensors(data: bytes) -> bytes:
    """A file of one tensor with these bytes."""
    header = json.dumps({"t": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def random_model(folder: Path) -> Path:
    """A Stable Diffusion model of a few thousand random weights. Imports torch."""
    from compute.offline import go_offline, hush

    go_offline()
    import torch
    from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    hush()
    torch.manual_seed(0)
    letters = [chr(c) for c in range(33, 127)]
    vocab = {word: i for i, word in enumerate([*letters, *(c + "</w>" for c in letters), "<start>", "<end>"])}
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=[],
        model_max_length=16,
        unk_token="<end>",
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
    )
    words = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=vocab["<start>"],
        eos_token_id=vocab["<end>"],
        pad_token_id=vocab["<end>"],
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        latent_channels=4,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(words),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
