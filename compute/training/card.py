"""The model card that goes with an exported folder: what the model is, how it came about, what it cannot do."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """What the card says of the run. Invariant: counts are those of the exported weights, not of a later step."""

    steps: int
    samples: int
    minutes: float
    decoder_decibel: float


def write(folder: Path, run: Run) -> None:
    """Put README.md and LICENSE.txt into the folder."""
    card = _CARD.format(
        steps=run.steps, samples=run.samples, minutes=round(run.minutes), decibel=f"{run.decoder_decibel:.1f}"
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")


LICENSE = """\
The files of this folder are part of Pasar and are licensed under the Apache License, Version 2.0
(http://www.apache.org/licenses/LICENSE-2.0), without warranties or conditions of any kind.
No third-party picture, text or weight went into them.
"""

_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: en
---

# Pasar tiny: a text-to-image model of a very small world

Draws flat shapes on flat backgrounds and simple landscapes from plain English. It exists so that a fresh machine
can run the whole market with a real diffusion model: no download, a few tenths of a second per picture on one CPU
core.

    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained("compute/models/tiny", local_files_only=True)
    pipeline("a red circle on a blue background", width=64, height=64, num_inference_steps=12, guidance_scale=3.0)

- **Size**: sides that are multiples of 8; trained mostly at 64x64, a smaller share up to 256x256. Pictures at 64x64
  are the most faithful.
- **Words**: twelve colours (also as backgrounds), six shapes (circle, square, triangle, diamond, star, cross),
  three sizes, nine positions, above, below, left of, right of; sun, moon, mountain, house, tree, boat over sea,
  grass, desert or snow by day, at sunset or at night. What is not said is medium, in the center, on white. Other
  words are ignored as well as can be.
- **Parts**: CLIP-style text encoder (3 layers of 128), U-Net (96 and 128 channels, cross-attention on both levels)
  over 8x8 patches coded in 24 values, v-prediction DDIM with zero terminal SNR and trailing steps. Half precision
  on disk.
- **Autoencoder**: the encoder is written down from a principal-component fit; the decoder is trained ({decibel} dB
  on fresh 64x64 pictures).
- **Data**: {samples} pictures with captions, drawn by `compute/training` while training. Nothing else.
- **Training**: {steps} steps in {minutes} minutes on shared CPU cores; the weights are a running average.
- **Limits**: no people, no animals, no text, no photographs; small shapes come out soft; exact shapes, and the
  order of two things, are right less often than colours. `python -m benchmarks model` measures all of that.
"""
