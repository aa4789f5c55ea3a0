"""Envelopes: who signed what, and that nothing signed as one thing passes as another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.codec import encode, message
from p2p.envelope import Signed, digest_of, open_from, open_signed, read_signed, sign
from p2p.errors import BadSignature, MalformedMessage, UnknownMessage
from p2p.identity import Identity

ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)


@message("test-promise", 1)
@dataclass(frozen=True, slots=True)
class Promise:
    price: int


@message("test-promise", 2)
@dataclass(frozen=True, slots=True)
class NewerPromise:
    price: int


def test_what_was_signed_is_read_with_its_author():
    signed = sign(Promise(7), ALICE)
    assert open_signed(signed, Promise) == (Promise(7), ALICE.peer)
    assert open_from(signed, Promise, ALICE.peer) == Promise(7)
    assert read_signed(encode(signed), Promise) == (Promise(7), ALICE.peer)


def test_the_bytes_never_change():
    assert digest_of(Promise(7)).hex() == "33a2e54a07714aec182db1b0bd942ea45f35a3e74e183218d52ef0233c7e69c3"
    assert encode(sign(Promise(7), ALICE)).hex() == (
        "94a67369676e656401c41093ac746573742d70726f6d6973650107c441767fd48e9e13928326eecfa007ea6f551e6a17fe08"
        "b1ec6162d78afcbf47bf541cb84bdc342b0c6c96a003aed857033d89b7f636e8f42cbe5b0fc3d389b3c5601c"
    )


def test_another_author_is_noticed():
    with pytest.raises(BadSignature):
        open_from(sign(Promise(7), BOB), Promise, ALICE.peer)


@given(st.integers(0, 64), st.integers(1, 255))
def test_a_changed_signature_is_never_the_authors(place, change):
    signed = sign(Promise(7), ALICE)
    damaged = bytearray(signed.signature)
    damaged[place] ^= change
    with pytest.raises(BadSignature):
        open_from(replace(signed, signature=bytes(damaged)), Promise, ALICE.peer)


def test_a_signature_does_not_carry_over_to_other_content_or_kind():
    signed = sign(Promise(7), ALICE)
    with pytest.raises(BadSignature):
        open_from(replace(signed, payload=encode(Promise(8))), Promise, ALICE.peer)
    with pytest.raises(BadSignature):  # same fields, another version: another domain
        open_from(replace(signed, payload=encode(NewerPromise(7))), NewerPromise, ALICE.peer)
    with pytest.raises(MalformedMessage):
        open_signed(signed, NewerPromise)


def test_the_twin_of_a_signature_is_refused():
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    signed = sign(Promise(7), ALICE)
    s = order - int.from_bytes(signed.signature[32:64], "big")
    twin = signed.signature[:32] + s.to_bytes(32, "big") + bytes([55 - signed.signature[64]])
    with pytest.raises(BadSignature):
        open_signed(replace(signed, signature=twin), Promise)


@given(st.binary(min_size=1, max_size=80), st.binary(min_size=65, max_size=65))
def test_garbage_inside_is_one_of_three_errors(payload, signature):
    with pytest.raises((MalformedMessage, UnknownMessage, BadSignature)):
        open_signed(Signed(payload, signature), Promise)
