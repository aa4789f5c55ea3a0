"""Writes held-out utterances as WAV files with their texts, so that tests need no espeak-ng. Knows no model."""

import json
import wave
from pathlib import Path
from random import Random

import numpy as np

from compute.training.utterances import RATE, Utterance, utterance

_MOST_SECONDS = 3.0


def write(folder: Path, count: int, seed: str) -> None:
    """So many short utterances, every fourth with 16 bits and the others with 8, and ``texts.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, texts = Random(seed), {}
    for index in range(count):
        made = _short(rng)
        name = f"{index:02d}.wav"
        with wave.open(str(folder / name), "wb") as file:
            deep = index % 4 == 0
            file.setnchannels(1)
            file.setsampwidth(2 if deep else 1)
            file.setframerate(RATE)
            file.writeframes(_sixteen(made) if deep else _eight(made))
        texts[name] = made.text
    (folder / "texts.json").write_text(json.dumps(texts, indent=1) + "\n")


def _short(rng: Random) -> Utterance:
    while True:
        made = utterance(rng, kept_away=True)
        if len(made.wave) <= _MOST_SECONDS * RATE:
            return made


def _sixteen(made: Utterance) -> bytes:
    return (made.wave * 32767).astype("<i2").tobytes()


def _eight(made: Utterance) -> bytes:
    return (np.round(made.wave * 127) + 128).astype(np.uint8).tobytes()
