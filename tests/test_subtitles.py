"""Subtitles: whatever was heard, the files say it once, in order, and cannot be broken by what is in the words."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.subtitles import (
    MAX_SEGMENT_LETTERS,
    MAX_SEGMENT_MS,
    PAUSE_MS,
    Segment,
    Transcript,
    Word,
    as_json,
    segments_of,
    srt,
    vtt,
)

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda text: text.strip())
NASTY = st.sampled_from(
    ["-->", "<b>", "&amp;", "\n\n", "1\n00:00:00,000", "NOTE", "WEBVTT", "a-->b", "\u2028x", "\r\r"]
)


@st.composite
def spoken(draw: st.DrawFn) -> list[Word]:
    at, words = 0, []
    for text in draw(st.lists(TEXTS | NASTY.filter(str.strip), max_size=30)):
        at += draw(st.integers(0, 2000))
        length = draw(st.integers(1, 1500))
        words.append(Word(text, at, at + length, draw(st.floats(0, 1))))
        at += length
    return words


def clock(text: str) -> int:
    hours, minutes, seconds, rest = map(int, re.split("[:,.]", text))
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


@given(spoken())
def test_segments_hold_every_word_once_and_in_order(words: list[Word]) -> None:
    segments = segments_of(words)
    assert [word for segment in segments for word in segment.words] == words
    for segment in segments:
        if len(segment.words) > 1:
            assert segment.end_ms - segment.start_ms <= MAX_SEGMENT_MS
            assert sum(len(word.text) + 1 for word in segment.words) - 1 <= MAX_SEGMENT_LETTERS
            gaps = [two.start_ms - one.end_ms for one, two in zip(segment.words, segment.words[1:], strict=False)]
            assert all(gap < PAUSE_MS for gap in gaps)


@given(spoken())
def test_srt_reads_back_as_it_was_written(words: list[Word]) -> None:
    segments = segments_of(words)
    blocks = srt(segments).split("\n\n") if segments else []
    assert len(blocks) == len(segments)
    for number, (block, segment) in enumerate(zip(blocks, segments, strict=True), 1):
        first, times, text = block.rstrip("\n").split("\n")
        assert first == str(number)
        start, end = times.split(" --> ")
        assert (clock(start), clock(end)) == (segment.start_ms, segment.end_ms)
        assert text == segment.text.replace("-->", "->")
        assert "-->" not in text


@given(spoken())
def test_vtt_reads_back_as_it_was_written(words: list[Word]) -> None:
    segments = segments_of(words)
    head, *blocks = vtt(segments).split("\n\n")
    assert head.strip() == "WEBVTT"
    blocks = [block for block in blocks if block.strip()]
    assert len(blocks) == len(segments)
    for block, segment in zip(blocks, segments, strict=True):
        times, text = block.rstrip("\n").split("\n")
        assert re.fullmatch(r"\d{2,}:[0-5]\d:[0-5]\d\.\d{3} --> \d{2,}:[0-5]\d:[0-5]\d\.\d{3}", times)
        assert [clock(part) for part in times.split(" --> ")] == [segment.start_ms, segment.end_ms]
        assert not set(text) & set("<>")
        assert html.unescape(text) == segment.text


@given(spoken(), st.integers(0, 10**7))
def test_json_holds_everything(words: list[Word], duration: int) -> None:
    told = json.loads(as_json(Transcript(segments_of(words), duration)))
    assert told["duration_ms"] == duration
    back = [Word(**word) for segment in told["segments"] for word in segment["words"]]
    assert back == words


@pytest.mark.parametrize(
    "wrong", [("", 0, 1, 0.5), ("a", 5, 5, 0.5), ("a", -1, 5, 0.5), ("a", 0, 5, 1.5), (" ", 0, 1, 0)]
)
def test_a_word_without_text_or_length_is_none(wrong: tuple[str, int, int, float]) -> None:
    with pytest.raises(ValueError, match="a word has"):
        Word(*wrong)


def test_a_segment_has_words_in_order() -> None:
    with pytest.raises(ValueError, match="in order"):
        Segment(())
    with pytest.raises(ValueError, match="in order"):
        Segment((Word("b", 5, 6, 1.0), Word("a", 1, 2, 1.0)))
    assert srt(()) == ""
