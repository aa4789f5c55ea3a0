"""Pace: a seller that does nothing is known by our own clock, and so is one that signs times it did not keep."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market.pace import STALL_LEAST_S, STALL_TIMES, Pace


def test_patience_follows_the_sellers_own_word() -> None:
    assert Pace(1000).patience_s == STALL_LEAST_S
    assert Pace(60_000).patience_s == STALL_TIMES * 60


def test_the_same_again_is_no_word() -> None:
    pace = Pace(1000)
    pace.taken(5.0)
    pace.saw(("running", 0), 6.0)
    pace.saw(("running", 0), 9.0)
    assert pace.word_at == 6.0
    pace.saw(("running", 1), 9.5)
    assert pace.word_at == 9.5


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1000), st.floats(0, 1000))
def test_a_signed_time_is_never_believed_below_what_we_saw(signed: int, queued: int, begun: float, took: float) -> None:
    pace = Pace(1000)
    assert pace.run_ms(signed, queued) == signed
    pace.taken(begun)
    pace.sealed_at = begun + took
    seen = int((pace.sealed_at - begun) * 1000)
    assert pace.run_ms(signed, queued) == max(signed, seen - queued)
