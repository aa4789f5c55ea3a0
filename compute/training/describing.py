"""Trains the bundled describer, a small Swin encoder and a GPT-2 decoder of the library's classes, on told pictures.

Knows pictures and what should be said of them by `telling`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    SwinConfig,
    SwinModel,
    VisionEncoderDecoderModel,
    ViTImageProcessorPil,
)

from compute.training.autoencoder import to_tensor
from compute.training.captions import RELATIONS, Example
from compute.training.course import Course, Measured
from compute.training.telling import told_example
from compute.training.world import COLOURS, SHAPES, render

SIDE: Final = 64
_WORDS: Final = 40  # positions of the decoder
_BATCH: Final = 24
_RATE: Final = 2e-3
_SHAPE_WEIGHT: Final = 4.0
_HELD_OUT: Final = 240
_SPECIAL: Final = ("<pad>", "<start>", "<end>", "<unknown>")
_FINE: Final = ("embed", "wte", "wpe", "lm_head", "bias_table")


def course(work: Path, minutes: float, say: Callable[[str], None]) -> Course:
    """The run of the describer; pictures are drawn as they are needed."""
    torch.manual_seed(0)
    words = tokenizer()
    model = network(words)
    say(f"{sum(p.numel() for p in model.parameters())} parameters, {len(words)} words")
    rng = Random("describing, held out")
    kept_away = [told_example(rng, kept_away=True) for _ in range(_HELD_OUT)]
    return Course(
        work=work,
        minutes=minutes,
        model=model,
        loss=lambda net, step: _loss(net, words, step),
        measure=lambda net: measure(net, words, kept_away),
        export=lambda net, folder: export(net, words, folder),
        rate=_RATE,
        fine=_FINE,
        say=say,
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """Each word of what is ever told is one token, counted on many tellings."""
    rng = Random("describing, words")
    seen = {word for _ in range(20_000) for word in told_example(rng).caption.replace(",", " ,").split()}
    seen.update(word for relation in RELATIONS for word in relation.split())  # also those that telling turns round
    vocabulary = {word: index for index, word in enumerate((*_SPECIAL, *sorted(seen)))}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unknown>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unknown>"
    )


def network(words: PreTrainedTokenizerFast) -> VisionEncoderDecoderModel:
    """An untrained describer of about a million parameters."""
    eyes = SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=64, depths=[1, 2], num_heads=[2, 4], window_size=4, mlp_ratio=2.0,
        drop_path_rate=0.0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, use_absolute_embeddings=True,
    )  # fmt: skip
    tongue = GPT2Config(
        vocab_size=len(words), n_positions=_WORDS, n_embd=128, n_inner=256, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, add_cross_attention=True,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    model = VisionEncoderDecoderModel(encoder=SwinModel(eyes, add_pooling_layer=False), decoder=GPT2LMHeadModel(tongue))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = words.bos_token_id
        config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    model.generation_config.max_length = _WORDS
    return model


def measure(model: Any, words: PreTrainedTokenizerFast, examples: Sequence[Example]) -> Measured:
    """How many of the colours, shapes and backgrounds that are there are told."""
    batch = to_tensor([render(one.canvas, SIDE, SIDE) for one in examples])
    with torch.inference_mode():
        told = words.batch_decode(model.generate(batch, do_sample=False, num_beams=1), skip_special_tokens=True)
    right: dict[str, list[bool]] = {}
    for example, text in zip(examples, told, strict=True):
        for kind, verdicts in judge(text, example).items():
            right.setdefault(kind, []).extend(verdicts)
    rates = {kind: sum(verdicts) / len(verdicts) for kind, verdicts in right.items()}
    return Measured(sum(rates.values()), rates)


def judge(text: str, example: Example) -> dict[str, list[bool]]:
    """Per kind of fact, one verdict for each time it is true of the picture; things may be told in any order."""
    said = text.replace(",", " ").split()
    shapes = {one: two for one, two in pairwise(said) if one in COLOURS and two in SHAPES}
    verdicts: dict[str, list[bool]] = {"background": [(example.background, "background") in pairwise(said)]}
    for thing in example.things:
        verdicts.setdefault("colour", []).append(thing.colour in shapes)
        verdicts.setdefault("shape", []).append(shapes.get(thing.colour) == thing.shape)
    return verdicts


def export(model: Any, words: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that the library loads by itself; weights in half precision."""
    half = VisionEncoderDecoderModel(config=model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.half().save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    eyes = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    eyes.save_pretrained(folder)


def _loss(model: nn.Module, words: PreTrainedTokenizerFast, step: int) -> torch.Tensor:
    rng = Random(f"describing:{step}")
    examples = [told_example(rng) for _ in range(_BATCH)]
    batch = to_tensor([render(one.canvas, SIDE, SIDE) for one in examples])
    coded = words([f"{one.caption} <end>" for one in examples], padding=True, return_tensors="pt")
    scores = model(pixel_values=batch, labels=coded.input_ids).logits
    each = nn.functional.cross_entropy(scores.transpose(1, 2), coded.input_ids, reduction="none")
    weights = coded.attention_mask.float()
    for shape in SHAPES:  # one word of many, and the one that is hardest to see
        weights[coded.input_ids == words.convert_tokens_to_ids(shape)] = _SHAPE_WEIGHT
    return (each * weights).sum() / weights.sum()
