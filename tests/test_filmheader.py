"""What an MP4 says of its pictures, read without a codec; whatever else is given is no film, and no surprise."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.filmheader import FilmSize, claimed_film

pytest.importorskip("av")

from tests.support.films import film, sound_only, steady

PLAIN = film(steady(45), sound="aac")


def test_sides_pictures_and_length_are_read() -> None:
    assert claimed_film(PLAIN) == FilmSize(320, 180, 45, 1500)


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(100), sound_only(1.0, "mp4", "aac"), film(steady(5), form="matroska"),
        film(steady(5), form="mpegts"), b"\x00\x00\x00\x01moov" + b"\xff" * 8,
        struct.pack(">I4s", 0, b"moov") + struct.pack(">I4s", 8, b"trak") * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_plain_mp4_is_none(data: bytes) -> None:
    assert claimed_film(data) is None


@given(st.integers(0, len(PLAIN)))
def test_a_film_that_is_cut_off_is_none_or_the_same(end: int) -> None:
    assert claimed_film(PLAIN[:end]) in (None, FilmSize(320, 180, 45, 1500))


HEAD = PLAIN.index(b"moov")


@given(st.integers(HEAD, len(PLAIN) - 1), st.binary(min_size=1, max_size=40))
def test_a_damaged_head_gives_numbers_or_nothing(at: int, bad: bytes) -> None:
    found = claimed_film(PLAIN[:at] + bad + PLAIN[at + len(bad) :])
    assert found is None or min(found.width, found.height, found.frames) > 0


@given(st.binary(max_size=400))
def test_noise_is_no_film(data: bytes) -> None:
    assert claimed_film(data) is None
