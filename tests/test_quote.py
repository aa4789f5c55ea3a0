"""Quotes, and the seller that gives them: no place promised twice, holds only to those who deserve them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.money import MAX_WEI
from market.quote import (
    MAX_HOLD_MS,
    NEWCOMER_HOLDS,
    RFQ,
    RFQ_PER_SECOND,
    Decline,
    Places,
    Quote,
    QuoteRefusal,
    Quoting,
    Release,
    late_rate_for,
)
from p2p.codec import decode, encode
from p2p.envelope import open_from, sign
from p2p.peer import PeerId
from tests.support.market_values import (
    NETWORK,
    OTHER_SETTLEMENT,
    SETTLEMENT,
    Key,
    offer,
    shape,
    stranger,
)

SELLER, GATEWAY = stranger(1), stranger(2)
OFFER = offer(SELLER)
FREE = Places(free=4, queue=0, queue_ms=0, run_ms=1000)


def rfq(number: int = 0, **changes: object) -> RFQ:
    plain = RFQ(number.to_bytes(16, "big"), NETWORK, SETTLEMENT, shape(), hold_ms=700)
    return replace(plain, **changes)


def quoting() -> Quoting:
    return Quoting(SELLER, NETWORK, SETTLEMENT)


def answered(seller: Quoting, asked: RFQ, now: int = 0, gateway: PeerId = GATEWAY, **changes: object) -> Quote:
    places = replace(FREE, **changes)
    got = seller.answer(asked, gateway, OFFER, places, now, funded=True)
    assert isinstance(got, Quote)
    return got


def declined(seller: Quoting, asked: RFQ, now: int = 0, gateway: PeerId = GATEWAY, **changes: object) -> Decline:
    got = seller.answer(asked, gateway, OFFER, replace(FREE, **changes), now, funded=True)
    assert isinstance(got, QuoteRefusal)
    assert got.rfq == asked.digest
    return got.code


def test_a_quote_says_what_the_offer_says() -> None:
    got = answered(quoting(), rfq())
    assert got.price == OFFER.price_of(shape())
    assert got.rfq == rfq().digest
    assert (got.seller, got.gateway, got.offer_serial) == (SELLER, GATEWAY, OFFER.serial)
    assert (got.hold_ms, got.taken) == (700, False)
    assert got.late_rate == late_rate_for(got.price)


def test_the_same_rfq_gets_the_same_quote_and_one_place() -> None:
    seller = quoting()
    assert answered(seller, rfq()) == answered(seller, rfq(), now=10, free=3)
    assert seller.held(10) == 1
    assert declined(seller, rfq(), gateway=stranger(3)) is Decline.BUSY, "a copied nonce gets nothing"


@pytest.mark.parametrize(
    ("asked", "places", "code"),
    [
        (rfq(settlement=OTHER_SETTLEMENT), {}, Decline.OTHER_SETTLEMENT),
        (rfq(network="main"), {}, Decline.OTHER_SETTLEMENT),
        (rfq(shape=shape(model=b"\x09" * 32)), {}, Decline.NOT_OFFERED),
        (rfq(shape=shape(steps=2000)), {}, Decline.NOT_OFFERED),
        (rfq(), {"free": 0}, Decline.BUSY),
        (rfq(), {"free": 0, "queue": 3, "most_queued": 3}, Decline.BUSY),
    ],
)
def test_refusals(asked: RFQ, places: dict[str, int], code: Decline) -> None:
    assert declined(quoting(), asked, **places) is code


def test_no_own_offer_no_quote() -> None:
    got = quoting().answer(rfq(), GATEWAY, None, FREE, 0, funded=True)
    assert got == QuoteRefusal(rfq().digest, Decline.NOT_OFFERED)


def test_a_queue_makes_an_indicative_quote_that_finishes_later() -> None:
    got = answered(quoting(), rfq(), free=0, queue=1, queue_ms=4000, most_queued=2)
    assert got.hold_ms == 0
    assert got.finish_by_ms >= 5000


def test_a_gateway_without_a_known_deposit_gets_an_indicative_quote() -> None:
    got = quoting().answer(rfq(), GATEWAY, OFFER, FREE, 0, funded=False)
    assert isinstance(got, Quote)
    assert got.hold_ms == 0


def test_a_newcomer_gateway_gets_two_holds() -> None:
    seller = quoting()
    holds = [answered(seller, rfq(n)).hold_ms > 0 for n in range(4)]
    assert holds == [True] * NEWCOMER_HOLDS + [False, False]


def test_who_hardly_ever_awards_gets_no_hold_and_who_does_gets_many() -> None:
    for awards, deserves in [(5, False), (6, True)]:
        seller = quoting()
        for number in range(100):
            now = number * 100
            asked = rfq(number)
            answered(seller, asked, now)
            if number < awards:
                assert seller.award(asked.digest, GATEWAY, 4, now) is not None
            else:
                seller.release(asked.digest, GATEWAY, now)
        assert seller.award_share(GATEWAY) == (awards, 100)
        later = [answered(seller, rfq(1000 + n), 10_000).hold_ms > 0 for n in range(4)]
        assert later == [deserves] * 4


def test_a_hold_ends_by_itself_and_a_release_ends_it_at_once() -> None:
    seller = quoting()
    answered(seller, rfq(1))
    answered(seller, rfq(2))
    assert seller.held(0) == 2
    seller.release(rfq(1).digest, stranger(7), 0)
    assert seller.held(0) == 2, "a stranger releases nothing"
    seller.release(rfq(1).digest, GATEWAY, 0)
    seller.release(rfq(1).digest, GATEWAY, 0)
    assert seller.held(0) == 1
    assert seller.held(700) == 1, "the asker's clock started later than ours"
    assert seller.held(MAX_HOLD_MS) == 0
    assert seller.award(rfq(2).digest, GATEWAY, 4, MAX_HOLD_MS) is None


def test_an_award_takes_the_quote_once_and_only_for_its_gateway() -> None:
    seller = quoting()
    got = answered(seller, rfq())
    assert seller.award(got.rfq, stranger(7), 4, 10) is None
    assert seller.award(got.rfq, GATEWAY, 4, 10) == got
    assert seller.award(got.rfq, GATEWAY, 4, 10) is None


def test_an_indicative_quote_wins_only_a_place_that_nobody_holds() -> None:
    seller = quoting()
    answered(seller, rfq(1), gateway=stranger(3))
    loose = seller.answer(rfq(2), GATEWAY, OFFER, FREE, 0, funded=False)
    assert isinstance(loose, Quote)
    assert seller.award(loose.rfq, GATEWAY, 1, 10) is None, "the one free place is held"
    assert seller.award(loose.rfq, GATEWAY, 2, 10) == loose


def test_take_at_is_taken_only_with_a_place_and_at_its_price() -> None:
    price = OFFER.price_of(shape())
    assert answered(quoting(), rfq(take_at=price)).taken
    assert not answered(quoting(), rfq(take_at=price - 1)).taken
    assert not answered(quoting(), rfq(take_at=price), free=0, most_queued=9).taken
    assert not answered(quoting(), rfq()).taken


def test_one_gateway_asks_twenty_times_a_second() -> None:
    seller = quoting()
    for number in range(RFQ_PER_SECOND):
        answered(seller, rfq(number))
    assert declined(seller, rfq(99)) is Decline.TOO_MANY
    assert isinstance(answered(seller, rfq(99), gateway=stranger(3)), Quote)
    assert isinstance(answered(seller, rfq(99), now=1000), Quote)


@given(st.integers(0, 2**32))
def test_held_quotes_never_exceed_the_free_places(seed: int) -> None:
    chance, seller, now, places = random.Random(seed), quoting(), 0, chance_places(seed)
    free, held = places, {}
    for number in range(60):
        now += chance.choice([0, 5, 100, 900])
        gateway = stranger(chance.randrange(2, 6))
        held = {digest: until for digest, until in held.items() if until > now}
        match chance.randrange(4):
            case 0 | 1:
                got = seller.answer(rfq(number), gateway, OFFER, replace(FREE, free=free), now, funded=True)
                if isinstance(got, Quote):
                    assert got.price <= OFFER.price_of(shape())
                    if got.hold_ms:
                        held[got.rfq] = now + got.hold_ms
            case 2 if held:
                digest = chance.choice(sorted(held))
                before = free
                for buyer in (stranger(n) for n in range(2, 6)):
                    if seller.award(digest, buyer, free, now) is not None:
                        free -= 1
                assert free == before - 1, "a held quote is kept: its award finds a place"
                del held[digest]
            case _:
                free = min(places, free + 1)
        assert len(held) <= seller.held(now) <= free or not held


def chance_places(seed: int) -> int:
    return seed % 5


def test_a_quote_cannot_promise_less_for_lateness_than_a_sixtieth() -> None:
    got = answered(quoting(), rfq())
    with pytest.raises(ValueError, match="sixtieth"):
        replace(got, late_rate=got.late_rate - 1)
    with pytest.raises(ValueError, match="without a place"):
        replace(got, taken=True, hold_ms=0)


@given(st.integers(0, MAX_WEI))
def test_sixty_late_seconds_cost_the_whole_price(price: int) -> None:
    assert price <= 60 * late_rate_for(price) < price + 60


def test_messages_round_trip_and_the_signature_names_the_seller() -> None:
    key = Key(4)
    got = replace(answered(quoting(), rfq()), seller=key.peer)
    for value in (rfq(take_at=5), got, QuoteRefusal(b"\x01" * 32, Decline.BUSY), Release(b"\x01" * 32)):
        assert decode(encode(value)) == value
    assert open_from(sign(got, key), Quote, key.peer) == got
