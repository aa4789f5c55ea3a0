"""Tickets against what the real contract and go-livepeer made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.cover import Cover, Round
from ledger.recipient import ParamsUse, Recipient
from ledger.ticket import (
    CERTAIN,
    Payment,
    PaymentVerdict,
    SignedNonce,
    Statement,
    Ticket,
    TicketCode,
    TicketParams,
    check_signature,
    expected_value,
    payment_id,
    signing_digest,
    ticket_hash,
    ticket_value,
    win_prob_for,
    wins,
)
from p2p.codec import decode, encode
from p2p.envelope import Signed, sign
from p2p.peer import keccak256, parse_address
from tests.support.ledger_values import ALICE, BOB, MALLORY, SETTLEMENT, Key

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "tickets.json").read_text())
CONTRACT = VECTORS["contractVectors"]


def number(text: str | int) -> int:
    return int(text, 0) if isinstance(text, str) else text


def ticket_of(vector: dict[str, Any]) -> Ticket:
    aux = bytes.fromhex(vector["auxData"][2:])
    return Ticket(
        parse_address(vector["recipient"]),
        parse_address(vector["sender"]),
        number(vector["faceValue"]),
        number(vector["winProb"]),
        number(vector["senderNonce"]),
        bytes.fromhex(vector["recipientRandHash"][2:]),
        int.from_bytes(aux[:32], "big"),
        aux[32:] or bytes(32),
    )


@pytest.mark.parametrize("vector", CONTRACT + VECTORS["goLivepeerHashVectors"], ids=lambda v: v["name"])
def test_hash_is_the_contracts(vector: dict[str, Any]) -> None:
    assert ticket_hash(ticket_of(vector)).hex() == vector["ticketHash"][2:]


@pytest.mark.parametrize("vector", CONTRACT, ids=lambda v: v["name"])
def test_digest_signature_and_draw_are_the_contracts(vector: dict[str, Any]) -> None:
    ticket, signature = ticket_of(vector), bytes.fromhex(vector["sig"][2:])
    rand = bytes.fromhex(vector["recipientRand"][2:])
    assert signing_digest(ticket_hash(ticket)).hex() == vector["eip191Digest"][2:]
    assert keccak256(signature + rand).hex() == vector["winHash"][2:]
    assert wins(signature, rand, ticket.win_prob) is vector["win"]
    if vector["contract"] == "accepted":
        assert check_signature(ticket_hash(ticket), signature, ticket.sender) is TicketCode.OK
        assert Key(number(vector["senderKey"])).sign(signing_digest(ticket_hash(ticket))) == signature


GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "vectors" / "ledger-v1.json").read_text())
CODE_OF = {
    "invalid signature over ticket hash": TicketCode.SIG_SIGNER,
    "ECDSA: invalid signature 's' value": TicketCode.SIG_HIGH_S,
    "ECDSA: invalid signature": TicketCode.SIG_V,
}


@pytest.mark.parametrize("vector", [v for v in CONTRACT if v["revert"] in CODE_OF], ids=lambda v: v["name"])
def test_what_the_contract_refuses_is_refused_for_the_same_reason(vector: dict[str, Any]) -> None:
    ticket, signature = ticket_of(vector), bytes.fromhex(vector["sig"][2:])
    assert check_signature(ticket_hash(ticket), signature, ticket.sender) is CODE_OF[vector["revert"]]


STATE_OF = {
    "recipientRand does not match recipientRandHash": TicketCode.PARAMS_NOT_MINE,
    "ticket is expired": TicketCode.ROUND_EXPIRED,
    "sender is unlocked": TicketCode.SENDER_UNLOCKING,
    "sender deposit and reserve insufficient to cover ticket face value": TicketCode.SENDER_UNFUNDED,
    "ticket creationRoundBlockHash invalid for creationRound": TicketCode.ROUND_HASH_MISMATCH,
}


@pytest.mark.parametrize("vector", [v for v in CONTRACT if v["revert"] in STATE_OF], ids=lambda v: v["name"])
def test_what_the_chain_refuses_is_refused_before_it_is_credited(vector: dict[str, Any]) -> None:
    """The recipient's rule beside each revert: the vector's ticket on a chain that would answer with it."""
    ticket, code = ticket_of(vector), STATE_OF[vector["revert"]]
    recipient = Recipient(SETTLEMENT, ticket.recipient, b"s" * 32)
    held = Cover(ticket.face_value, 0)
    now = Round(ticket.creation_round, ticket.creation_round_hash)
    if code is TicketCode.ROUND_EXPIRED:
        now = Round(ticket.creation_round + 2, b"\1" * 32)
    elif code is TicketCode.ROUND_HASH_MISMATCH:
        now = Round(ticket.creation_round, b"\1" * 32)
    elif code is TicketCode.SENDER_UNLOCKING:
        held = Cover(ticket.face_value, 0, withdraw_round=now.number)
    elif code is TicketCode.SENDER_UNFUNDED:
        held = Cover(int(vector["depositBefore"]), int(vector["reserveBefore"]))
    params = params_like(ticket)
    if code is not TicketCode.PARAMS_NOT_MINE:
        params = issued(recipient, params, ticket.sender)
    use = ParamsUse(ticket.sender, 2)
    assert recipient.refusal(params, ticket.sender, use=use, cover=held, round_=now, now_ms=1) is code


def params_like(ticket: Ticket) -> TicketParams:
    return TicketParams(
        SETTLEMENT,
        ticket.recipient,
        ticket.face_value,
        ticket.win_prob,
        ticket.rand_hash,
        bytes(32),
        ticket.creation_round,
        ticket.creation_round_hash,
        5000,
    )


def issued(recipient: Recipient, params: TicketParams, sender: Any) -> TicketParams:
    return replace(params, rand_hash=keccak256(recipient.rand_of(params, sender)))


def test_go_livepeers_signature_verifies() -> None:
    [vector] = VECTORS["goLivepeerSigVectors"]
    message, signature = bytes.fromhex(vector["message"][2:]), bytes.fromhex(vector["sig"][2:])
    assert check_signature(message, signature, parse_address(vector["signer"])) is TicketCode.OK


def test_a_bad_signature_says_why() -> None:
    digest = keccak256(b"ticket")
    good = ALICE.sign(signing_digest(digest))
    assert check_signature(digest, good, ALICE.address) is TicketCode.OK
    assert check_signature(digest, good[:64], ALICE.address) is TicketCode.SIG_LENGTH
    assert check_signature(digest, good + b"\0", ALICE.address) is TicketCode.SIG_LENGTH
    assert check_signature(digest, good[:64] + b"\0", ALICE.address) is TicketCode.SIG_V
    assert check_signature(digest, good, BOB.address) is TicketCode.SIG_SIGNER
    assert check_signature(digest, MALLORY.sign(signing_digest(digest)), ALICE.address) is TicketCode.SIG_SIGNER
    assert check_signature(digest, ALICE.sign(digest), ALICE.address) is TicketCode.SIG_SIGNER


@given(st.binary(min_size=65, max_size=65))
def test_no_bytes_break_the_check(signature: bytes) -> None:
    assert check_signature(bytes(32), signature, ALICE.address) is not TicketCode.OK


@given(st.integers(1, 2**128 - 1), st.data())
def test_value_survives_the_probability(face: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, face))
    prob = win_prob_for(face, value)
    assert ticket_value(face, prob) == value
    assert 0 <= prob <= CERTAIN
    assert expected_value(face, prob) - value < Fraction(1, 2**100)
    assert (prob == CERTAIN) == (value == face)


def params(**changes: Any) -> TicketParams:
    plain: dict[str, Any] = {
        "settlement": SETTLEMENT,
        "recipient": BOB.address,
        "face_value": 4000,
        "win_prob": CERTAIN // 4,
        "rand_hash": b"\1" * 32,
        "seed": b"\2" * 32,
        "creation_round": 7,
        "creation_round_hash": b"\3" * 32,
        "lives_for_ms": 5000,
    }
    return TicketParams(**(plain | changes))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(0, 2**128 - 1), st.integers(0, CERTAIN))
def test_hashes_of_a_batch_are_those_of_its_tickets(nonces: list[int], face: int, prob: int) -> None:
    asked = params(face_value=face, win_prob=prob)
    singly = tuple(ticket_hash(asked.ticket(ALICE.address, n)) for n in nonces)
    assert asked.hashes(ALICE.address, tuple(nonces)) == singly


def test_messages_round_trip() -> None:
    asked = params()
    payment = Payment(b"\4" * 32, asked, tuple(SignedNonce(n, b"\5" * 65) for n in range(100)))
    statement = Statement(
        SETTLEMENT, ALICE.address, BOB.address, b"e" * 16, 3, 10**30, 5, b"\4" * 32, b"\6" * 32, 10**20
    )
    verdict = PaymentVerdict(b"\4" * 32, (TicketCode.OK, TicketCode.NONCE_REPLAY), 7, 9, 0, asked, sign(statement, BOB))
    for value in (asked, payment, statement, verdict):
        assert decode(encode(value)) == value


def test_a_batch_of_more_than_a_hundred_is_no_message() -> None:
    with pytest.raises(ValueError, match="outside"):
        encode(Payment(b"\4" * 32, params(), tuple(SignedNonce(n, b"\5" * 65) for n in range(101))))


def test_golden_bytes() -> None:
    """Version 1 on the wire, for ever."""
    statement = Statement(SETTLEMENT, ALICE.address, BOB.address, b"e" * 16, 3, 10**30, 5, b"\4" * 32, b"\6" * 32, 9)
    payment = Payment(b"\4" * 32, params(), (SignedNonce(1, b"\5" * 65),))
    verdict = PaymentVerdict(b"\4" * 32, (TicketCode.OK,), 7, 9, 0, params(), Signed(b"x", bytes(65)))
    values = {"ticket-params": params(), "payment": payment, "statement": statement, "payment-verdict": verdict}
    assert {name: encode(value).hex() for name, value in values.items()} == GOLDEN
    assert {name: decode(bytes.fromhex(data)) for name, data in GOLDEN.items()} == values


def test_payment_ids_differ_in_every_part() -> None:
    ids = {payment_id(j, a, s, t) for j in (b"\1" * 32, b"\2" * 32) for a in (1, 2) for s in (0, 1) for t in (0, 1)}
    assert len(ids) == 16
