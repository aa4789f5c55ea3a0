"""A seal opens with its key, in its place, whole; and with nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.jobwire import Commitment
from market.sealing import SEGMENT, TAG, WrongKey, context, open_all, seal, sealed_artifact, unseal

KEY = bytes(range(32))
JOB = b"j" * 32
HERE = context(JOB, 1, 0)


@given(st.binary(max_size=4096))
def test_what_was_sealed_opens(plain: bytes) -> None:
    assert unseal(KEY, seal(KEY, plain, HERE), HERE) == plain


@pytest.mark.parametrize("length", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT])
def test_segments_meet_at_their_edges(length: int) -> None:
    plain = bytes(i % 251 for i in range(256)) * (length // 256 + 1)
    cipher = seal(KEY, plain[:length], HERE)
    assert len(cipher) == length + TAG * max(1, -(-length // SEGMENT))
    assert unseal(KEY, cipher, HERE) == plain[:length]


@given(st.binary(min_size=1, max_size=512), st.integers(0, 2**16), st.integers(1, 255))
def test_a_changed_byte_is_found(plain: bytes, place: int, change: int) -> None:
    cipher = bytearray(seal(KEY, plain, HERE))
    cipher[place % len(cipher)] ^= change
    with pytest.raises(WrongKey):
        unseal(KEY, bytes(cipher), HERE)


@pytest.mark.parametrize("place", [context(JOB, 2, 0), context(JOB, 1, 1), context(b"k" * 32, 1, 0)])
def test_a_seal_opens_in_no_other_place(place: bytes) -> None:
    with pytest.raises(WrongKey):
        unseal(KEY, seal(KEY, b"picture", HERE), place)


def test_segments_cannot_be_dropped_swapped_or_cut() -> None:
    step = SEGMENT + TAG
    cipher = seal(KEY, bytes(3 * SEGMENT), HERE)
    one, two, three = cipher[:step], cipher[step : 2 * step], cipher[2 * step :]
    for wrong in (one + two, one + three, two + one + three, one + one + three, three, b"", cipher[:-1]):
        with pytest.raises(WrongKey):
            unseal(KEY, wrong, HERE)


def test_a_commitment_binds_every_file() -> None:
    files = [b"one", b"two"]
    ciphers = [seal(KEY, data, context(JOB, 1, index)) for index, data in enumerate(files)]
    named = tuple(sealed_artifact("image/png", p, c) for p, c in zip(files, ciphers, strict=True))
    commitment = Commitment(JOB, 1, named, 5, 0, b"")
    assert open_all(KEY, commitment, ciphers) == files
    with pytest.raises(WrongKey):
        open_all(KEY, commitment, ciphers[:1])
    with pytest.raises(WrongKey):
        open_all(KEY, commitment, ciphers[::-1])
    other = [seal(KEY, b"cat", context(JOB, 1, 0)), ciphers[1]]
    with pytest.raises(WrongKey):
        open_all(KEY, commitment, other)
