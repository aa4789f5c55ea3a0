"""Hearing with a Whisper model of the library's own classes, window by window.

Whisper tells the times of its segments; those of the words inside one are spread over it by their letters. The next
window begins where the last whole segment ended, so that no sentence is cut. Knows no job and no file format.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from compute.soundfile import RATE
from compute.subtitles import Segment, Word

if TYPE_CHECKING:
    from compute.pipelines.audio_to_text import Progress

LEAST_STEP_MS: Final = 1_000  # a window always moves on by this, whatever the model says


class Whisper:
    """One loaded model. Holds no state of any recording."""

    def __init__(self, model: Any, tokenizer: Any, features: Any) -> None:
        self._model, self._tokenizer, self._features = model, tokenizer, features

    @classmethod
    def load(cls, folder: Path, device: str, dtype: Any) -> Whisper:
        """From a local folder, safetensors only. Raises what the library raises on bad files."""
        local = {"local_files_only": True, "trust_remote_code": False}
        model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=dtype, use_safetensors=True, **local)
        return cls(
            model.to(device).eval(),
            AutoTokenizer.from_pretrained(folder, **local),
            WhisperFeatureExtractor.from_pretrained(folder, **local),
        )

    def words(self, samples: Any, progress: Progress) -> tuple[Segment, ...]:
        """What is said in samples at RATE."""
        window = int(self._features.n_samples)
        found: list[Segment] = []
        start = 0
        while start < len(samples):
            progress(start, len(samples))
            length_ms = min(window, len(samples) - start) * 1000 // RATE
            told = self._hear(samples[start : start + window])
            heard = [one for one in told if 0 <= one[0] < one[1]]
            last = start + window >= len(samples)
            whole = heard if last or len(heard) < 2 else heard[:-1]  # the last one may go on in the next window
            found += [made for one in whole if (made := _segment(*one, start * 1000 // RATE, length_ms))]
            moved_ms = length_ms if last or len(heard) < 2 else max(LEAST_STEP_MS, whole[-1][1])
            start += max(1, min(moved_ms, length_ms) * RATE // 1000)
        progress(len(samples), len(samples))
        return tuple(found)

    def _hear(self, samples: Any) -> list[tuple[int, int, str]]:
        """Start and end in milliseconds of the window, and text."""
        made = self._features(samples, sampling_rate=RATE, return_tensors="np")
        weights = self._model.get_input_embeddings().weight
        features = weights.new_tensor(np.asarray(made.input_features))
        told = self._model.generate(
            features, return_timestamps=True, return_segments=True, do_sample=False, num_beams=1
        )
        return [
            (
                round(float(one["start"]) * 1000),
                round(float(one["end"]) * 1000),
                self._tokenizer.decode(one["tokens"], skip_special_tokens=True),
            )
            for one in told["segments"][0]
        ]


def _segment(start_ms: int, end_ms: int, text: str, offset_ms: int, length_ms: int) -> Segment | None:
    """The segment at its place in the recording; None when nothing is said in it."""
    words = text.split()
    end_ms = min(end_ms, length_ms)
    if not words or end_ms - start_ms < len(words):
        return None
    letters = np.cumsum([0, *(len(word) for word in words)])
    edges = [start_ms + int(at) * (end_ms - start_ms) // int(letters[-1]) for at in letters]
    return Segment(
        tuple(
            Word(word, offset_ms + first, offset_ms + max(first + 1, end), 1.0)
            for word, first, end in zip(words, edges, edges[1:], strict=False)
        )
    )
