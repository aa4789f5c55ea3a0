"""Trains the bundled listener on utterances of espeak-ng, and measures its word error rate on sentences held out.

Knows the network by its interface and the data by `utterances`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from compute.nets.ears import GAP, LETTERS, Ears, EarsConfig
from compute.nets.logmel import FLOOR_DECADES, log_mel
from compute.nets.reading import read_words
from compute.training import utterances
from compute.training.course import Course, Measured
from compute.training.utterances import Utterance

_UTTERANCES: Final = 9_000
_HELD_OUT: Final = 300
_BATCH: Final = 24
_RATE: Final = 2e-3
_SILENCE: Final = -1.5  # about what log_mel gives for nothing at all

Pair = tuple[Any, Any]  # features (bands, t), letters (n,)


def course(work: Path, minutes: float, say: Callable[[str], None]) -> Course:
    """The run of the listener; utterances are made on first use and kept in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = Ears(EarsConfig(vocabulary=utterances.VOCABULARY))
    say(f"{sum(p.numel() for p in model.parameters())} parameters; making or loading {_UTTERANCES} utterances")
    spoken = utterances.load_or_make(work / "utterances.npz", _UTTERANCES, "training")
    kept_away = utterances.load_or_make(work / "held_out.npz", _HELD_OUT, "held out", kept_away=True)
    pairs = [_pair(one, model.config.bands) for one in spoken]
    say(f"{sum(len(one.wave) for one in spoken) / utterances.RATE / 60:.0f} minutes of sound")
    return Course(
        work=work,
        minutes=minutes,
        model=model,
        loss=lambda net, step: _loss(net, pairs, step),
        measure=lambda net: measure(net, kept_away),
        export=lambda net, folder: net.save(folder),
        rate=_RATE,
        say=say,
    )


def measure(model: Ears, spoken: Sequence[Utterance]) -> Measured:
    """Word error rate: edits over words, of greedy reading with the vocabulary."""
    edits = words = whole = 0
    with torch.inference_mode():
        for one in spoken:
            heard = [word.text for word in read_words(model.hear(one.wave), model.config.vocabulary)]
            wanted = one.text.split()
            found = edit_distance(wanted, heard)
            edits, words, whole = edits + found, words + len(wanted), whole + (found == 0)
    return Measured(-edits / words, {"word error rate": edits / words, "whole sentences right": whole / len(spoken)})


def edit_distance(wanted: Sequence[str], got: Sequence[str]) -> int:
    """The fewest words put in, taken out or exchanged that turn one into the other."""
    row = list(range(len(got) + 1))
    for index, one in enumerate(wanted, 1):
        corner, row[0] = row[0], index
        for place, two in enumerate(got, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (one != two))
    return row[-1]


def letters(text: str) -> list[int]:
    """The classes of a sentence."""
    return [LETTERS.index(letter) for letter in text.replace(" ", GAP)]


def _pair(one: Utterance, bands: int) -> Pair:
    return log_mel(one.wave, bands).half(), torch.tensor(letters(one.text))


def _loss(model: nn.Module, pairs: Sequence[Pair], step: int) -> torch.Tensor:
    rng = Random(f"listening:{step}")
    picked = [pairs[index] for index in rng.sample(range(len(pairs)), _BATCH)]
    if step % 3 == 2:  # one after the other, as in a long recording: other voice, other loudness, other hiss
        picked = [_joined(one, two, rng) for one, two in zip(picked[::2], picked[1::2], strict=True)]
    lengths = torch.tensor([(features.shape[1] + 3) // 4 for features, _ in picked])
    batch = torch.full((len(picked), picked[0][0].shape[0], max(features.shape[1] for features, _ in picked)), _SILENCE)
    for row, (features, _) in zip(batch, picked, strict=True):
        row[:, : features.shape[1]] = _disturbed(features.float(), rng)
    told = model(batch).log_softmax(-1).transpose(0, 1)
    wanted = torch.cat([classes for _, classes in picked])
    counts = torch.tensor([len(classes) for _, classes in picked])
    return nn.functional.ctc_loss(told, wanted, lengths.clamp(max=len(told)), counts, zero_infinity=True)


def _joined(one: Pair, two: Pair, rng: Random) -> Pair:
    """Two utterances with some silence between them, and the floor that features of both together would have."""
    silence = torch.full((one[0].shape[0], rng.randint(0, 100)), _SILENCE, dtype=one[0].dtype)
    whole = torch.cat([one[0], silence, two[0]], 1)
    floored = whole.clamp(min=whole.max() - FLOOR_DECADES / 4)
    return floored, torch.cat([one[1], torch.tensor([LETTERS.index(GAP)]), two[1]])


def _disturbed(features: Any, rng: Random) -> Any:
    """Some noise, another loudness, and a few bands and moments taken out."""
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(features.shape, np.float32)
    features = features + torch.from_numpy(noise) * rng.choice((0.0, 0.05, 0.1)) + rng.uniform(-0.15, 0.15)
    low, at = rng.randrange(features.shape[0]), rng.randrange(features.shape[1])
    features[low : low + rng.randint(0, 5)] = features.mean()
    features[:, at : at + rng.randint(0, 8)] = features.mean()
    return features
