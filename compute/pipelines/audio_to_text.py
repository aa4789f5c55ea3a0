"""Audio to text: the bundled listener, or a Whisper model by its folder; words with times, as JSON, SRT and WebVTT.

A long recording is heard in pieces, so that it can be watched and cancelled between two of them. Runs inside a worker;
knows no job id, no socket and no price.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from compute.capability import Dtype
from compute.nets.ears import FRAME, MODEL_TYPE, Ears
from compute.nets.loading import BAD_FILES
from compute.nets.reading import read_words
from compute.pipeline import BrokenOutput, Turn
from compute.pipelines.piecework import Piecework, check_options, one_by_one, only, trial_spec
from compute.soundfile import DEFAULT, RATE, read_sound
from compute.spec import AUDIO_TO_TEXT, Artifact, JobShape, JobSpec
from compute.subtitles import Segment, Transcript, Word, as_json, segments_of, srt, vtt
from p2p.errors import Misconfigured, Refused

JSON, SRT, VTT = "application/json", "application/x-subrip", "text/vtt"
TRIAL_MS = 2000
PIECE = 20 * RATE // FRAME * FRAME  # samples that the bundled listener hears at once
MARGIN = 2 * RATE // FRAME * FRAME  # samples on either side that it hears as well, more than its frames depend on
_MS_PER_FRAME = FRAME * 1000 // RATE
_TORCH_DTYPE = {Dtype.FP32: torch.float32, Dtype.FP16: torch.float16, Dtype.BF16: torch.bfloat16}

Progress = Callable[[int, int], None]
"""Told the samples heard and the samples in all. What it raises (``Cancelled``) ends the work."""


class Listener(Protocol):
    """A model that hears."""

    def words(self, samples: Any, progress: Progress) -> tuple[Segment, ...]:
        """What is said in samples at RATE."""
        ...


class AudioToText:
    """One loaded model. Invariant: holds no state of any job."""

    name = AUDIO_TO_TEXT

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: Dtype) -> AudioToText:
        """Load from a local folder: safetensors only, no code from the folder. Raises Misconfigured."""
        try:
            kind = json.loads((folder / "config.json").read_bytes())["model_type"]
            if kind == MODEL_TYPE:
                return cls(Bundled(Ears.load(folder).to(device, _TORCH_DTYPE[dtype])))
            if kind == "whisper":
                from compute.pipelines.whisper import Whisper

                return cls(Whisper.load(folder, device, _TORCH_DTYPE[dtype]))
        except BAD_FILES as exc:
            raise Misconfigured(f"{folder} cannot be loaded: {type(exc).__name__}: {exc}") from exc
        raise Misconfigured(f"{folder} is a {str(kind)[:40]!r}, which cannot hear")

    def open(self, spec: JobSpec, files: Sequence[bytes]) -> Piecework:
        """Read the sound. Raises Refused for what is none, or is longer than the job was priced for."""
        check_options(spec)
        longest = min(DEFAULT.seconds, -(-spec.shape.length // 1000))  # what goes on longer is not read to its end
        samples = read_sound(only(files), replace(DEFAULT, seconds=longest))
        heard_ms = len(samples) * 1000 // RATE
        if heard_ms > spec.shape.length:
            raise Refused(
                "BAD_INPUT", "milliseconds of sound, more than was said", have=heard_ms, need=spec.shape.length
            )
        return Piecework(lambda progress: artifacts(self.transcribe(samples, progress)))

    def step_together(self, turns: Sequence[Turn[Piecework]]) -> list[Any]:
        """One job after the other."""
        return one_by_one(turns)

    def trial(self, shape: JobShape) -> tuple[JobSpec, tuple[bytes, ...]]:
        """Two seconds of noise: what a first measure is taken of."""
        sound = _noise(TRIAL_MS * RATE // 1000)
        asked = replace(shape, width=0, height=0, length=TRIAL_MS, input_bytes=len(sound))
        return trial_spec(asked, (sound,), "audio/wav"), (sound,)

    def transcribe(self, samples: Any, progress: Progress) -> Transcript:
        """What is said in a vector of samples at RATE, as ``compute/soundfile.py`` reads it. Raises BrokenOutput."""
        with torch.inference_mode():
            segments = self._listener.words(np.asarray(samples, np.float32), progress)
        return Transcript(segments, len(samples) * 1000 // RATE)


class Bundled:
    """The listener that ships with the package: a closed vocabulary, known from its own folder."""

    def __init__(self, ears: Ears) -> None:
        self._ears = ears

    def words(self, samples: Any, progress: Progress) -> tuple[Segment, ...]:
        """Scores piece by piece, joined before they are read, so that no word is cut at a seam."""
        told = []
        for start in range(0, len(samples), PIECE):
            progress(start, len(samples))
            told.append(self._scores(samples, start))
        scores = torch.cat(told)
        progress(len(samples), len(samples))
        if not bool(torch.isfinite(scores).all()):
            raise BrokenOutput("the listener's scores are not finite")
        length_ms = max(1, len(samples) * 1000 // RATE)
        found = read_words(scores, self._ears.config.vocabulary)
        return segments_of(
            Word(
                one.text,
                min(one.first * _MS_PER_FRAME, length_ms - 1),
                min(one.end * _MS_PER_FRAME, length_ms),
                round(min(1.0, one.confidence), 4),
            )
            for one in found
        )

    def _scores(self, samples: Any, start: int) -> Any:
        """Of the frames of one piece, heard with the margins around it."""
        before = min(MARGIN, start)
        piece = samples[start - before : start + PIECE + MARGIN]
        padded = np.pad(piece, (0, -len(piece) % FRAME if len(piece) > RATE else RATE - len(piece)))
        frames = -(-min(PIECE, len(samples) - start) // FRAME)
        return self._ears.hear(padded)[before // FRAME : before // FRAME + frames]


def _noise(samples: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.random.default_rng(0).integers(-1000, 1000, samples).astype("<i2").tobytes())
    return out.getvalue()


def artifacts(transcript: Transcript) -> tuple[Artifact, ...]:
    """The transcript as files: JSON first, then SRT and WebVTT. Where nothing is said SRT is an empty line."""
    return (
        Artifact(JSON, as_json(transcript).encode()),
        Artifact(SRT, (srt(transcript.segments) or "\n").encode()),
        Artifact(VTT, vtt(transcript.segments).encode()),
    )
