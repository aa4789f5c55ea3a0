"""Policy: which jobs an operator does not take, by the words of their prompts. Nobody's fault, and unpaid.

A word is looked for as a whole word, in any spelling of its letters; a pattern is a regular expression, searched in the
same text. A stranger chooses the text, so a pattern whose search could take long is no pattern here. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from re import _constants as codes  # type: ignore[attr-defined]  # the library's own reading of a pattern
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from compute.spec import MAX_PROMPT, JobSpec
from p2p.errors import Misconfigured

MAX_WORDS, MAX_WORD = 1024, 64
MAX_PATTERNS, MAX_PATTERN = 32, 256
MAX_WAYS = 4 * (MAX_PROMPT + 1)  # in which one pattern may be tried at one place of a text
REASON = "this operator takes no job with such words"
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)


@dataclass(frozen=True)
class Policy:
    """Words and patterns as an operator wrote them. Raises Misconfigured for what is too much, or too slow."""

    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.words) > MAX_WORDS or len(self.patterns) > MAX_PATTERNS:
            raise Misconfigured(f"safety: at most {MAX_WORDS} words and {MAX_PATTERNS} patterns")
        for word in self.words:
            if not plain(word) or len(word) > MAX_WORD:
                raise Misconfigured(f"safety: {word[:80]!r} is no word of 1 to {MAX_WORD} letters")
        for pattern in self.patterns:
            _check(pattern)

    def refuses(self, spec: JobSpec) -> str:
        """Why this job is not taken, empty when it is. What shall not be in a picture is no reason."""
        if not self.words and not self.patterns:
            return ""
        text = plain(spec.prompt)
        found = any(f" {word} " in f" {text} " for word in self._plain_words)
        found = found or any(pattern.search(text) for pattern in self._compiled)
        return REASON if found else ""

    @cached_property
    def _plain_words(self) -> tuple[str, ...]:
        return tuple(plain(word) for word in self.words)

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(pattern) for pattern in self.patterns)


EVERYTHING = Policy()  # is taken: no word and no pattern


def plain(text: str) -> str:
    """Small letters and digits in the simplest form that Unicode has for them, everything else one space."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(sign for sign in folded if not unicodedata.combining(sign))
    if len(bare) > 2 * len(text) + MAX_WORD:  # there are signs that stand for a whole sentence
        bare = text.casefold()
    return " ".join("".join(sign if sign.isalnum() else " " for sign in bare).split())


def _check(pattern: str) -> None:
    """Raises Misconfigured for what is no pattern, or one that a text could hold up."""
    if not 1 <= len(pattern) <= MAX_PATTERN:
        raise Misconfigured(f"safety: a pattern has 1 to {MAX_PATTERN} signs")
    try:
        ways = _ways(parser.parse(pattern))
    except (re.error, RecursionError, OverflowError) as exc:
        raise Misconfigured(f"safety: {pattern[:80]!r} is no pattern: {exc}") from exc
    if ways > MAX_WAYS:
        raise Misconfigured(f"safety: {pattern[:80]!r} could take long: one open repeat, and few choices, are enough")


def _ways(parts: Iterable[tuple[Any, Any]]) -> int:
    """How many ways there are to try a pattern at one place: those of its parts, one after the other."""
    total = 1
    for code, told in parts:
        total = min(total * _ways_of(code, told), MAX_WAYS + 1)
    return total


def _ways_of(code: Any, told: Any) -> int:
    if code in _REPEATS:
        least, most, inner = told
        within, times = _ways(inner), min(int(most), MAX_PROMPT)
        if within > 1:
            return MAX_WAYS + 1 if times > 1 else within + 1  # a choice within a repeat is made again each time
        return times - int(least) + 1
    if code is codes.BRANCH:
        return sum(_ways(branch) for branch in told[1])
    if code is codes.SUBPATTERN:
        return _ways(told[3])
    if code in (codes.ASSERT, codes.ASSERT_NOT):
        return _ways(told[1])
    if code in (codes.GROUPREF, codes.GROUPREF_EXISTS, getattr(codes, "ATOMIC_GROUP", None)):
        return MAX_WAYS + 1
    return 1
