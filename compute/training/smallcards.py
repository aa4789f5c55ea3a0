"""The model cards of the small bundled models, from what their run measured. Knows folders and rates, no training."""

import shutil
from pathlib import Path
from typing import Final

from compute.training.card import LICENSE
from compute.training.course import Standing


def publish(name: str, export: Path, to: Path, standing: Standing) -> None:
    """Put the best export of a run in its place, with README.md and LICENSE.txt."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(export, to)
    rates = "\n".join(f"| {what} | {value:.3f} |" for what, value in standing.rates.items())
    card = _CARDS[name] + _COMMON.format(
        rates=rates, steps=standing.step, minutes=round(standing.seconds / 60), name=name
    )
    (to / "README.md").write_text(card, encoding="utf-8")
    (to / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")
    for path in to.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


_COMMON: Final = """\
## What it was measured to do

On examples that are held out of training, while it was trained (the best average of the run is this one):

| what | rate |
|---|---|
{rates}

`python -m benchmarks quality` measures it again, on other held-out examples and through the pipeline.

## How it was made

`python -m compute.training small {name}`: {steps} steps in {minutes} minutes of one shared CPU core. The weights are a
running average, in half precision. No third-party picture, text, sound or weight is in it. Apache License 2.0.
"""

_CARDS: Final = {
    "listener": """\
---
license: apache-2.0
pipeline_tag: automatic-speech-recognition
language: en
---

# Pasar tiny listener: a small vocabulary, as a synthesiser says it

Depthwise convolutions over 40 log-mel bands, letters out, trained with CTC; what it spells is read as the nearest word
of the vocabulary in `config.json`: colours, shapes, places and things of the rendered world, numbers, commands.

- **Data**: sentences put together by `compute/training/utterances.py` and said by espeak-ng in 35 English voices at
  110 to 185 words a minute, with silence, hiss and other loudness. One sentence in eight is held out by a hash.
- **Limits**: it has never heard a person. Other words than those of its vocabulary come out as the nearest of them, or
  not at all. For people's voices load a Whisper model in its place.

""",
    "describer": """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-to-text
language: en
---

# Pasar tiny describer: says what a picture of the little world shows

A `VisionEncoderDecoderModel`: a Swin encoder that sees 64x64 pixels and a GPT-2 decoder of two layers, whole words as
tokens.

- **Data**: pictures drawn by `compute/training/world.py`, told by `compute/training/telling.py` in one plain wording.
  One in eight combinations of colour, shape and background is held out by a hash.
- **Limits**: it says of every picture that it is one of that world. A photograph gets a sentence that means nothing.

""",
    "segmenter": """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: mask-generation
---

# Pasar tiny segmenter: the pixels of the thing that is pointed at

A `SamModel` at a very small size: it sees 64x64 pixels, and answers points and boxes with a mask of 64x64.

- **Data**: pictures drawn by `compute/training/world.py` with the mask of every thing
  (`compute/training/things.py`). One in eight combinations of colour, shape and background is held out by a hash.
- **Limits**: flat pictures with a few things. Edges are as fine as a 64th of the longer side. One mask for each
  prompt.

""",
    "mover": """\
---
license: apache-2.0
pipeline_tag: image-to-video
language: en
---

# Pasar tiny mover: a still of the little world starts to move as it is told

A text encoder (that of the bundled text-to-image model, with the words of motion added) and a small U-Net over
pixels take the still apart, once: what moves, what lies behind it, what hides it, how the light changes. Frames are
put together from the still itself, so the first frame is the still and nothing flickers. 1.8 M parameters.

- **Words**: the camera pans left, right, up, down; zooms in and out; a shape drifts; the boat sails; sun and moon
  set; two of these at once; slowly, fast. No word of motion: the camera creeps in.
- **Data**: clips drawn by `compute/training/world.py` after `compute/training/motions.py`, with every layer known
  exactly. Combinations of colour, shape and background held out of the other models are held out here.
- **Limits**: flat things move as wholes and straight; what was hidden or outside the picture is guessed as plain
  background. It looks at a still at about 64 pixels; larger ones keep their own pixels, but small parts get lost.

""",
    "upscaler": """\
---
license: apache-2.0
pipeline_tag: image-to-image
---

# Pasar tiny upscaler: twice the size, sharper than bicubic

What ten convolutions add to a bicubic x2. 78 thousand parameters. Four times is twice twice.

- **Data**: pictures drawn by `compute/training/world.py` and textures drawn by `compute/training/textures.py`, halved.
- **Limits**: it makes edges sharp; it does not invent detail, and takes noise for detail.

""",
}
