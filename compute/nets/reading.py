"""From letter scores to words with times: the best letter of each frame, then the nearest word of a closed vocabulary.

Knows frames, not seconds and not sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compute.nets.ears import BLANK, GAP, LETTERS


@dataclass(frozen=True, slots=True)
class ReadWord:
    """One word from frame ``first`` up to ``end``, and how sure the listener was of its letters."""

    text: str
    first: int
    end: int
    confidence: float


def read_words(scores: Any, vocabulary: Sequence[str]) -> list[ReadWord]:
    """The words of log-probabilities (t, letters). Each is in the vocabulary; what is near none of it is left out."""
    known = frozenset(vocabulary)
    words = []
    for spelt, first, end in _runs(scores.argmax(-1).tolist()):
        text = spelt if spelt in known else _nearest(scores[max(0, first - 1) : end + 1], spelt, vocabulary)
        if text:
            sure = float(scores[first:end].max(-1).values.exp().mean())
            words.append(ReadWord(text, first, end, sure))
    return words


def _runs(best: Sequence[int]) -> list[tuple[str, int, int]]:
    """Letters between gaps, with the frames of the first and after the last of them."""
    runs: list[tuple[str, int, int]] = []
    spelt, first, end, before = "", 0, 0, BLANK
    for frame, letter in enumerate([*best, LETTERS.index(GAP)]):
        if LETTERS[letter] == GAP:
            if spelt:
                runs.append((spelt, first, end))
            spelt = ""
        elif letter != BLANK:
            first = first if spelt else frame
            spelt += LETTERS[letter] if letter != before or not spelt else ""
            end = frame + 1
        before = letter
    return runs


def _nearest(scores: Any, spelt: str, vocabulary: Sequence[str]) -> str:
    """The word that explains these frames best, when it shares more than half of its letters with what was spelt."""
    words = [word for word in vocabulary if len(word) <= len(scores) and _alike(word, spelt)]
    if not words:
        return ""
    lengths = torch.tensor([len(word) for word in words])
    wanted = torch.tensor([LETTERS.index(letter) for word in words for letter in word])
    frames = scores[:, None].expand(-1, len(words), -1)
    loss = torch.nn.functional.ctc_loss(
        frames, wanted, torch.full((len(words),), len(scores)), lengths, reduction="none"
    )
    return words[int(loss.argmin())]


def _alike(word: str, spelt: str) -> bool:
    pool = list(spelt)
    shared = 0
    for letter in word:
        if letter in pool:
            pool.remove(letter)
            shared += 1
    return 2 * shared >= max(len(word), len(spelt))
