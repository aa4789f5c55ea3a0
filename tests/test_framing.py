"""Frames: however the bytes are cut, the same frames come out; a bad length ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import MalformedMessage
from p2p.framing import FrameDecoder, frame


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_cuts_do_not_matter(payloads, data):
    stream = b"".join(map(frame, payloads))
    decoder, got = FrameDecoder(50), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += decoder.feed(stream[:cut])
        stream = stream[cut:]
    assert got == payloads
    assert decoder.clean


@given(st.binary(min_size=1, max_size=50), st.data())
def test_an_end_inside_a_frame_is_not_clean(payload, data):
    decoder = FrameDecoder(50)
    assert list(decoder.feed(frame(payload)[: data.draw(st.integers(1, len(payload) + 3))])) == []
    assert not decoder.clean


@pytest.mark.parametrize("length", [0, 11, 2**32 - 1])
def test_a_bad_length_is_refused_before_anything_is_kept(length):
    decoder = FrameDecoder(10)
    with pytest.raises(MalformedMessage):
        list(decoder.feed(length.to_bytes(4, "big") + b"x" * 100))
    with pytest.raises(MalformedMessage):
        list(decoder.feed(frame(b"good")))
    assert not decoder.clean


def test_frames_before_the_bad_one_are_still_given():
    decoder, got = FrameDecoder(10), []
    with pytest.raises(MalformedMessage):
        got.extend(decoder.feed(frame(b"good") + bytes(4)))
    assert got == [b"good"]
