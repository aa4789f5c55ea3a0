"""The network of the bundled listener: depthwise convolutions over log-mel features, letters out, trained with CTC.

A frame out covers FRAME samples. What a frame says depends on about a second around it, so a long recording can be
heard in pieces that overlap. Knows its own folder (config.json, model.safetensors), no audio format and no training.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import nn

from compute.nets.logmel import HOP, log_mel

MODEL_TYPE: Final = "pasar-ears"
FRAME: Final = 4 * HOP  # samples: 40 ms
BLANK: Final = 0  # the class that means: no letter here
GAP: Final = "|"  # the letter between two words
LETTERS: Final = "_" + GAP + "abcdefghijklmnopqrstuvwxyz'"
MAX_WIDTH, MAX_BLOCKS, MAX_BANDS, MAX_WORDS = 1024, 64, 128, 65_536


@dataclass(frozen=True, slots=True)
class EarsConfig:
    """The shape of the network, and the words it was taught."""

    vocabulary: tuple[str, ...]
    bands: int = 40
    width: int = 144
    blocks: int = 6
    reach: int = 11  # frames that one block sees

    def __post_init__(self) -> None:
        known = 1 <= self.width <= MAX_WIDTH and 1 <= self.blocks <= MAX_BLOCKS and 1 <= self.bands <= MAX_BANDS
        if not known or not 1 <= self.reach <= 63 or not 1 <= len(self.vocabulary) <= MAX_WORDS:
            raise ValueError("a size of the listener is out of bounds")
        if not all(word and set(word) <= set(LETTERS[2:]) for word in self.vocabulary):
            raise ValueError("a word of the vocabulary has letters that the listener lacks")


class Ears(nn.Module):
    """(n, bands, 4t) features to (n, t, letters) scores."""

    def __init__(self, config: EarsConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_in = nn.Conv1d(config.bands, config.width, 5, 2, 2)
        self.halve = nn.Conv1d(config.width, config.width, 5, 2, 2)
        self.blocks = nn.ModuleList(_Block(config.width, config.reach) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.conv_out = nn.Linear(config.width, len(LETTERS))

    def forward(self, features: Any) -> Any:
        """Scores before the softmax; a last piece shorter than a frame counts as one."""
        hidden = nn.functional.gelu(self.halve(nn.functional.gelu(self.conv_in(features)))).transpose(1, 2)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.conv_out(self.norm(hidden))

    def hear(self, samples: Any) -> Any:
        """Log-probabilities (t, letters) of one piece of sound at 16 kHz."""
        weights = self.conv_in.weight
        features = log_mel(samples, self.config.bands).to(weights.device, weights.dtype)
        return self(features[None])[0].float().log_softmax(-1).cpu()

    def save(self, folder: Path) -> None:
        """Write the folder; weights in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"model_type": MODEL_TYPE, **asdict(self.config)}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        halves = {name: value.detach().half().contiguous() for name, value in self.state_dict().items()}
        save_file(halves, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Ears:
        """Read the folder. Raises one of BAD_FILES (``compute/nets/loading.py``) for what is none."""
        stored = json.loads((folder / "config.json").read_text())
        if stored.pop("model_type") != MODEL_TYPE:
            raise ValueError("config.json names another kind of model")
        made = cls(EarsConfig(**{**stored, "vocabulary": tuple(stored["vocabulary"])}))
        made.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        return made.eval()


class _Block(nn.Module):
    """Each band of the hidden state looks along time, then the bands look at each other."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.along_conv_in = nn.Conv1d(width, width, reach, padding=reach // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Any) -> Any:
        along = self.along_conv_in(hidden.transpose(1, 2)).transpose(1, 2)
        return self.narrow(nn.functional.gelu(self.wide(self.norm(along))))
