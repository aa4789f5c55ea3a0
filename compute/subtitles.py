"""What was said, and when: words, segments, and their text as SubRip (SRT), WebVTT and JSON.

Times are whole milliseconds from the beginning. Pure; knows no sound and no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

PAUSE_MS = 700  # a silence this long ends a segment
MAX_SEGMENT_MS = 6_000
MAX_SEGMENT_LETTERS = 84  # two lines of a screen


@dataclass(frozen=True, slots=True)
class Word:
    """One word. Invariant: it ends after it starts, and confidence is 0 to 1."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float

    def __post_init__(self) -> None:
        if not (0 <= self.start_ms < self.end_ms and 0.0 <= self.confidence <= 1.0 and self.text.strip()):
            raise ValueError("a word has text, a length and a confidence")


@dataclass(frozen=True, slots=True)
class Segment:
    """What is shown at once. Invariant: at least one word, in the order of their starts."""

    words: tuple[Word, ...]

    def __post_init__(self) -> None:
        starts = [word.start_ms for word in self.words]
        if not starts or starts != sorted(starts):
            raise ValueError("a segment has words in order")

    @property
    def text(self) -> str:
        """The words in one line."""
        return " ".join(" ".join(word.text.split()) for word in self.words)

    @property
    def start_ms(self) -> int:
        return self.words[0].start_ms

    @property
    def end_ms(self) -> int:
        return max(word.end_ms for word in self.words)


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that was heard in a recording of this length."""

    segments: tuple[Segment, ...]
    duration_ms: int

    @property
    def text(self) -> str:
        """The whole text, a line for a segment."""
        return "\n".join(segment.text for segment in self.segments)


def segments_of(words: Iterable[Word]) -> tuple[Segment, ...]:
    """Words in order, cut at pauses, and where a segment grows too long to be read at once."""
    segments: list[Segment] = []
    current: list[Word] = []
    for word in words:
        if current and _ends(current, word):
            segments.append(Segment(tuple(current)))
            current = []
        current.append(word)
    if current:
        segments.append(Segment(tuple(current)))
    return tuple(segments)


def srt(segments: Sequence[Segment]) -> str:
    """SubRip. Nothing in the text can end a cue or begin another."""
    cues = (
        f"{number}\n{_clock(one.start_ms, ',')} --> {_clock(one.end_ms, ',')}\n{_unbroken(one.text)}\n"
        for number, one in enumerate(segments, 1)
    )
    return "\n".join(cues)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT, with what would be markup escaped."""
    cues = (f"{_clock(one.start_ms, '.')} --> {_clock(one.end_ms, '.')}\n{_escaped(one.text)}\n" for one in segments)
    return "\n".join(["WEBVTT\n", *cues])


def as_json(transcript: Transcript) -> str:
    """Everything, for programs: segments with their words."""
    segments = [
        {"start_ms": one.start_ms, "end_ms": one.end_ms, "text": one.text, "words": [asdict(w) for w in one.words]}
        for one in transcript.segments
    ]
    whole = {"text": transcript.text, "duration_ms": transcript.duration_ms, "segments": segments}
    return json.dumps(whole, ensure_ascii=False)


def _ends(current: Sequence[Word], word: Word) -> bool:
    last = max(one.end_ms for one in current)
    letters = sum(len(one.text) + 1 for one in current) + len(word.text)
    too_long = word.end_ms - current[0].start_ms > MAX_SEGMENT_MS or letters > MAX_SEGMENT_LETTERS
    return word.start_ms - last >= PAUSE_MS or too_long


def _clock(milliseconds: int, comma: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{comma}{rest:03d}"


def _unbroken(text: str) -> str:
    return text.replace("-->", "->")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
