"""Pace: what our own clock saw of one attempt: when its seller last said a word on the work, and how long that took.

A seller signs its own times, and nobody can check them; what we wait for is measured here. Pure: times are seconds of a
steady clock; knows no message.
"""

from __future__ import annotations

from collections.abc import Hashable

STALL_TIMES, STALL_LEAST_S = 3, 10.0  # of the seller's own finish-by without a word on the work, and it is given up


class Pace:
    """``begun`` is when the award was taken, ``word_at`` when the work was last seen to move."""

    def __init__(self, finish_by_ms: int) -> None:
        self.patience_s = max(STALL_LEAST_S, STALL_TIMES * finish_by_ms / 1000)
        self.begun: float | None = None
        self.word_at = 0.0
        self.sealed_at: float | None = None
        self.stalled = False
        self._seen: Hashable = None

    def taken(self, now: float) -> None:
        """The award was accepted."""
        self.begun = self.word_at = now

    def saw(self, work: Hashable, now: float) -> None:
        """How far the work is; what is as it was before is no word."""
        if work != self._seen:
            self._seen, self.word_at = work, now

    def run_ms(self, signed_ms: int, queued_ms: int) -> int:
        """How long the work took: what the seller signed, or what our clock saw of it, less its queue, if that is more.

        A seller that is slow and signs that it was fast is measured as slow; one that signs more is believed.
        """
        if self.begun is None or self.sealed_at is None:
            return signed_ms
        return max(signed_ms, int((self.sealed_at - self.begun) * 1000) - queued_ms)
