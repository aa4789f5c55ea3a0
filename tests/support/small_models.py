"""Small transformers models with random weights in local folders, as the pipelines of sound and pictures load them.

Import only where torch is: it imports the libraries.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    SamConfig,
    SamImageProcessorPil,
    SamModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

WHISPER_SECONDS = 3  # of its window


def random_whisper(folder: Path) -> Path:
    """One layer each way, letters and times as tokens, a window of three seconds."""
    torch.manual_seed(0)
    letters = [*(chr(code) for code in range(33, 127)), "Ġ"]
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>"]
    times = [f"<|{step * 0.02:.2f}|>" for step in range(WHISPER_SECONDS * 50 + 1)]
    vocabulary = {piece: index for index, piece in enumerate([*letters, *special, *times])}
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(vocabulary), num_mel_bins=40, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_source_positions=WHISPER_SECONDS * 50, max_target_positions=40, pad_token_id=end, bos_token_id=end,
        eos_token_id=end, decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    told = model.generation_config
    told._from_model_config = False  # else the library drops what it did not derive itself
    told.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    told.is_multilingual, told.max_initial_timestamp_index, told.max_length = False, 20, 40
    told.suppress_tokens, told.begin_suppress_tokens = [], []
    model.save_pretrained(folder)
    WhisperTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=special).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=40, chunk_length=WHISPER_SECONDS).save_pretrained(folder)
    return folder


def random_sam(folder: Path) -> Path:
    """SAM as the library builds it (relative positions, windows, three masks), at 64 pixels."""
    torch.manual_seed(0)
    sizes = {"image_size": 64, "patch_size": 8, "hidden_size": 32}
    model = SamModel(
        SamConfig(
            vision_config={
                **sizes, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_pos_feats": 16,
                "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32, "initializer_range": 0.02,
            },
            prompt_encoder_config=sizes,
            mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
