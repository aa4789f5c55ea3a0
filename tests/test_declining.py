"""What a seller says when its machine refuses: whose matter it is, and the machine's own reason with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.declining import MAX_HINT, declined
from p2p.errors import Refused


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        ("BAD_INPUT", "BAD_INPUT", "why"),
        ("PICTURE_TOO_LARGE", "BAD_INPUT", "PICTURE_TOO_LARGE: why"),
        ("SOUND_UNSERVED", "POLICY", "SOUND_UNSERVED: why"),
        ("POLICY", "POLICY", "why"),
        ("NO_MODEL", "NO_MODEL", "why"),
        ("BUSY", "BUSY", "why"),
    ],
)
def test_whose_matter_it_is(code: str, said: str, hint: str) -> None:
    assert declined(Refused(code, "why")) == (said, hint)


@given(st.text(min_size=1, max_size=48), st.text(max_size=400))
def test_whatever_a_pipeline_says_fits_on_the_wire(code: str, hint: str) -> None:
    said, told = declined(Refused(code, hint))
    assert len(said) <= 32
    assert len(told.encode()) <= MAX_HINT
