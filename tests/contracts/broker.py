"""What every Broker does, whatever it is made of: each check takes a fresh one with rounds of 100 s."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.broker import Broker, BrokerTerms, Reverted, SenderInfo
from ledger.ticket import CERTAIN, Winner, wins
from p2p.peer import Address
from tests.contracts.chains import START, key, signed, ticket_of

TERMS = BrokerTerms(round_length=100, validity=2, unlock_period=3)
ALICE, BOB, CAROL = key(1), key(2), key(3)
KEYS = (CAROL, ALICE, BOB)  # the first one sends redemptions, for whomever
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
ORDER = 2 * HALF_ORDER + 1


def winner(broker: Broker, face: int, *, nonce: int = 1, chance: int = CERTAIN, now: int = START) -> Winner:
    """A ticket of Alice's for Bob in the current round, initialised before."""
    number = TERMS.round_at(now)
    hash_ = broker.round_hash(number)
    assert hash_ is not None
    ticket, rand = ticket_of(ALICE.address, BOB.address, face, (number, hash_), nonce=nonce, chance=chance)
    return signed(ticket, rand, ALICE)


def refused(broker: Broker, ticket: Winner, text: str, now: int = START) -> None:
    """The broker says exactly ``text``, alone and in a batch, and nothing changed."""
    before = broker.info(ALICE.address), broker.fees_of(BOB.address), broker.is_used(ticket.ticket_hash)
    with pytest.raises(Reverted) as caught:
        broker.redeem(ticket, now)
    assert caught.value.text == text
    assert broker.redeem_batch([ticket], now) == [False]
    assert (broker.info(ALICE.address), broker.fees_of(BOB.address), broker.is_used(ticket.ticket_hash)) == before


def check_a_winning_ticket_is_paid_from_the_deposit_once(broker: Broker) -> None:
    broker.fund(ALICE.address, 1000, 500, START)
    ticket = winner(broker, 300)
    broker.redeem(ticket, START)
    assert broker.info(ALICE.address) == SenderInfo(700, 500, 0)
    assert broker.fees_of(BOB.address) == 300
    assert broker.is_used(ticket.ticket_hash)
    refused(broker, ticket, "ticket is used")


def check_a_face_is_paid_whole_or_not_at_all(broker: Broker) -> None:
    broker.fund(ALICE.address, 100, 50, START)
    text = "sender deposit and reserve insufficient to cover ticket face value"
    refused(broker, winner(broker, 151), text)
    refused(broker, winner(broker, 2**256 - 1), text)
    broker.redeem(winner(broker, 130), START)
    assert broker.info(ALICE.address) == SenderInfo(0, 20, 0)
    too_much = winner(broker, 21, nonce=2)
    refused(broker, too_much, text)
    broker.fund(ALICE.address, 1, 0, START)
    broker.redeem(too_much, START)  # it was not burnt: with the money there, it is paid
    assert broker.info(ALICE.address) == SenderInfo(0, 0, 0)
    assert broker.fees_of(BOB.address) == 151


def check_a_batch_passes_over_what_fails(broker: Broker) -> None:
    broker.fund(ALICE.address, 100, 0, START)
    one, two, three = (winner(broker, face, nonce=n) for n, face in ((1, 40), (2, 70), (3, 60)))
    assert broker.redeem_batch([one, one, two, three], START) == [True, False, False, True]
    assert broker.fees_of(BOB.address) == 100
    assert broker.info(ALICE.address).deposit == 0


def check_losing_tickets_are_not_paid(broker: Broker) -> None:
    broker.fund(ALICE.address, 1000, 0, START)
    refused(broker, winner(broker, 10, chance=0), "ticket did not win")
    even = CERTAIN // 2
    drawn = [winner(broker, 10, nonce=n, chance=even) for n in range(1, 9)]
    won = [wins(w.signature, w.rand, even) for w in drawn]
    assert len(set(won)) == 2
    assert broker.redeem_batch(drawn, START) == won


def check_signatures_are_the_sender_s_and_in_one_form(broker: Broker) -> None:
    broker.fund(ALICE.address, 1000, 0, START)
    good = winner(broker, 10)
    r, s, v = good.signature[:32], good.signature[32:64], good.signature[64]
    high = (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    for signature, text in (
        (good.signature[:64], "INVALID_SIGNATURE_LENGTH"),
        (good.signature + b"\0", "INVALID_SIGNATURE_LENGTH"),
        (r + high + bytes([55 - v]), "ECDSA: invalid signature 's' value"),
        (r + s + bytes([v - 27]), "ECDSA: invalid signature"),
        (r + s + bytes([55 - v]), "invalid signature over ticket hash"),
        (signed(good.ticket, good.rand, BOB).signature, "invalid signature over ticket hash"),
    ):
        refused(broker, replace(good, signature=signature), text)
    for changed in (replace(good.ticket, face_value=11), replace(good.ticket, nonce=2)):
        refused(broker, replace(good, ticket=changed), "invalid signature over ticket hash")
    broker.redeem(good, START)


def check_fields_of_a_ticket(broker: Broker) -> None:
    broker.fund(ALICE.address, 1000, 0, START)
    good = winner(broker, 10)
    nobody = Address(bytes(20))
    length = "invalid length for ticket auxData: must be 64 bytes"
    unknown = "ticket creationRound does not have a block hash"
    for changed, text in (
        (replace(good.ticket, recipient=nobody), "ticket recipient is null address"),
        (replace(good.ticket, sender=nobody), "ticket sender is null address"),
        (replace(good.ticket, creation_round=0, creation_round_hash=bytes(32)), length),
        (replace(good.ticket, creation_round=good.ticket.creation_round + 1), unknown),
        (
            replace(good.ticket, creation_round_hash=b"\x01" * 32),
            "ticket creationRoundBlockHash invalid for creationRound",
        ),
    ):
        refused(broker, signed(changed, good.rand, ALICE), text)
    refused(broker, replace(good, rand=b"\x05" * 32), "recipientRand does not match recipientRandHash")


def check_tickets_expire(broker: Broker) -> None:
    broker.fund(ALICE.address, 1000, 0, START)
    one, two = winner(broker, 10), winner(broker, 10, nonce=2)
    broker.redeem(one, START + 100)  # the round after its own is within the validity of two
    refused(broker, two, "ticket is expired", START + 200)


def check_a_sender_leaves_after_the_unlock_period(broker: Broker) -> None:
    for call, text in (
        (broker.unlock, "sender deposit and reserve are zero"),
        (broker.cancel_unlock, "no unlock in progress"),
        (broker.withdraw, "sender deposit and reserve are zero"),
    ):
        says(text, call, ALICE.address, START)
    broker.fund(ALICE.address, 100, 50, START)
    says("no unlock in progress", broker.withdraw, ALICE.address, START)
    broker.unlock(ALICE.address, START)
    over = TERMS.round_at(START) + 3
    assert broker.info(ALICE.address) == SenderInfo(100, 50, over)
    says("unlock already initiated", broker.unlock, ALICE.address, START)
    says("account is locked", broker.withdraw, ALICE.address, START + 200)
    late = winner_in_round_of(broker, START + 200)
    broker.redeem(late, START + 200)  # until then its tickets are good
    after = START + 300
    other = winner_in_round_of(broker, after, nonce=9)
    refused(broker, other, "sender is unlocked", after)
    assert broker.withdraw(ALICE.address, after) == 140
    assert broker.info(ALICE.address) == SenderInfo()


def check_only_the_sender_s_own_funding_cancels_an_unlock(broker: Broker) -> None:
    broker.fund(ALICE.address, 100, 0, START)
    broker.unlock(ALICE.address, START)
    broker.fund(ALICE.address, 1, 2, START, by=BOB.address)
    assert broker.info(ALICE.address) == SenderInfo(101, 2, TERMS.round_at(START) + 3)
    broker.fund(ALICE.address, 1, 0, START)
    assert broker.info(ALICE.address) == SenderInfo(102, 2, 0)
    broker.unlock(ALICE.address, START)
    broker.cancel_unlock(ALICE.address, START)
    assert broker.info(ALICE.address).withdraw_round == 0


def check_earnings_can_be_taken_out_once(broker: Broker) -> None:
    broker.fund(ALICE.address, 100, 0, START)
    broker.redeem(winner(broker, 60), START)
    says("insufficient fees to withdraw", broker.withdraw_fees, BOB.address, 61, START)
    broker.withdraw_fees(BOB.address, 60, START)
    assert broker.fees_of(BOB.address) == 0
    says("insufficient fees to withdraw", broker.withdraw_fees, BOB.address, 1, START)


def winner_in_round_of(broker: Broker, now: int, *, nonce: int = 1) -> Winner:
    broker.fund(CAROL.address, 1, 0, now)  # anybody's transaction initialises the round
    return winner(broker, 10, nonce=nonce, now=now)


def says(text: str, call: object, *arguments: object) -> None:
    assert callable(call)
    with pytest.raises(Reverted) as caught:
        call(*arguments)
    assert caught.value.text == text


CHECKS = tuple(check for name, check in sorted(globals().items()) if name.startswith("check_"))
