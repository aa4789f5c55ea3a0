"""A safety checker that really learned something: a tiny vision transformer to which much red is unsafe.

Import only where torch is: it imports the libraries.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

SIDE = 16
LABELS = ("normal", "nsfw")
STEPS = 50


def trained_checker(folder: Path) -> Path:
    """Trained for a second or two on plain pictures: those that are mostly red are its second class."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    random = np.random.default_rng(0)
    config = ViTConfig(
        image_size=SIDE, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        id2label=dict(enumerate(LABELS)), label2id={label: at for at, label in enumerate(LABELS)},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(STEPS):
        pictures, truth = _batch(random)
        torch.nn.functional.cross_entropy(model(pictures).logits, truth).backward()
        adam.step()
        adam.zero_grad()
    model.eval().save_pretrained(folder)
    eyes = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(eyes))
    return folder


def _batch(random: Any, count: int = 32) -> tuple[Any, Any]:
    """Plain colours with a little noise, in [-1, 1]; red ones are of class 1."""
    colours = random.uniform(0, 1, (count, 3, 1, 1))
    red = np.arange(count) % 2 == 0
    colours[red] = colours[red] * 0.3 + np.array([0.7, 0.0, 0.0])[:, None, None]
    colours[~red, 0] *= 0.4
    noisy = colours + random.normal(0, 0.05, (count, 3, SIDE, SIDE))
    return torch.from_numpy((noisy * 2 - 1).astype(np.float32)), torch.from_numpy(red.astype(np.int64))


def plain_png(colour: str, side: int = 64) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()
