"""Trains the decoder of the picture code, beside or before the denoiser: it depends on the code alone.

Knows pictures and their codes, no captions.
"""

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from diffusers import AutoencoderTiny

from compute.training import autoencoder
from compute.training.captions import example
from compute.training.world import render

_BATCH: Final = 24
_RATE: Final = 1.0e-3
_CODE_NOISE: Final = 0.05  # a denoiser never hits a code exactly
_SAVE_EVERY_S: Final = 240.0
_PRINT_EVERY: Final = 100


def train(work: Path, code: autoencoder.PatchCode, minutes: float, say: Callable[[str], None] = print) -> None:
    """Train for this many wall minutes, resuming where `work` left off; `work/vae` holds the newest decoder."""
    torch.manual_seed(0)
    vae = autoencoder.build(code)
    decoder = vae.decoder.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    step, seconds = _resume(work, vae, optimiser)
    saved, budget, quality = seconds, minutes * 60, 0.0
    while seconds < budget:
        start = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (1 - seconds / budget) / 0.6))
        quality += (_step(vae, code, optimiser, step) - quality) * 0.05
        step += 1
        seconds += time.monotonic() - start
        if step % _PRINT_EVERY == 0:
            say(f"step {step}  {quality:.2f} dB  {step / seconds:.1f} steps/s  {(budget - seconds) / 60:.1f} min left")
        if seconds - saved > _SAVE_EVERY_S:
            _save(work, vae, optimiser, step, seconds)
            saved = seconds
    _save(work, vae, optimiser, step, seconds)
    say(f"step {step}: {evaluate(vae):.2f} dB on fresh pictures")


@torch.no_grad()
def evaluate(vae: AutoencoderTiny, side: int = 64, count: int = 128) -> float:
    """Peak signal-to-noise ratio, in dB, of encoding and decoding pictures no training step has drawn."""
    rng = Random("decoder evaluation")
    batch = autoencoder.to_tensor([render(example(rng).canvas, side, side) for _ in range(count)])
    back = vae.decode(vae.encode(batch).latents).sample.clamp(-1, 1)
    return _decibel((back - batch).square().mean().item())


def _step(vae: AutoencoderTiny, code: autoencoder.PatchCode, optimiser: torch.optim.Optimizer, step: int) -> float:
    """One optimiser step; returns the quality of its batch in dB. The loss adds slopes, for sharp edges."""
    rng = Random(f"decoder:{step}")
    side, count = (128, _BATCH // 4) if step % 5 == 4 else (64, _BATCH)
    batch = autoencoder.to_tensor([render(example(rng).canvas, side, side) for _ in range(count)])
    latents = code.encode(batch)
    latents = (latents + torch.randn_like(latents) * _CODE_NOISE) / vae.config.scaling_factor
    with torch.autocast("cpu", torch.bfloat16):
        back = vae.decoder(latents.contiguous(memory_format=torch.channels_last))
    error = back.float() - batch
    slopes = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    square = error.square().mean()
    optimiser.zero_grad()
    (error.abs().mean() + 2 * square + 0.3 * slopes).backward()
    torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
    optimiser.step()
    return _decibel(square.item())


def _decibel(square: float) -> float:
    return 10 * math.log10(4.0 / max(square, 1e-12))


def _save(work: Path, vae: AutoencoderTiny, optimiser: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state: dict[str, Any] = {
        "counters": (step, seconds), "decoder": vae.decoder.state_dict(), "optimiser": optimiser.state_dict()
    }  # fmt: skip
    torch.save(state, work / "decoder.new")
    os.replace(work / "decoder.new", work / "decoder.pt")
    vae.save_pretrained(work / "vae.new", safe_serialization=True)
    shutil.rmtree(work / "vae", ignore_errors=True)
    (work / "vae.new").rename(work / "vae")


def _resume(work: Path, vae: AutoencoderTiny, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    path = work / "decoder.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    vae.decoder.load_state_dict(state["decoder"])
    optimiser.load_state_dict(state["optimiser"])
    step, seconds = state["counters"]
    return int(step), float(seconds)
