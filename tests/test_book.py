"""The order book: a set of offers gives one book; verdicts; expiry; capacity; counts that agree with the postings."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from market.book import CLOCK_TOLERANCE, MAX_SHARED, OrderBook, claimed_speed
from market.offer import Offer
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.peer import PeerId
from p2p.transport import Verdict
from tests.support.market_values import (
    MODEL,
    NETWORK,
    NOW,
    OTHER_MODEL,
    OTHER_SETTLEMENT,
    PIPELINE,
    SETTLEMENT,
    UNSIGNED,
    Key,
    book_of,
    model_offer,
    offer,
    signed_offer,
    stranger,
)

offers = st.builds(
    lambda seller, serial, price, slots, model, settlement, pipeline: offer(
        stranger(seller),
        serial=serial,
        price=price,
        slots=slots,
        model=model_offer(model=model, speed=price * 1000),
        settlement=settlement,
        pipeline=pipeline,
    ),
    st.integers(0, 5),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(0, 2),
    st.sampled_from([MODEL, OTHER_MODEL]),
    st.sampled_from([SETTLEMENT, OTHER_SETTLEMENT]),
    st.sampled_from([PIPELINE, "llm"]),
)


def seen(book: OrderBook) -> dict[tuple[PeerId, str], Offer]:
    return {(p.offer.seller, p.offer.pipeline): p.offer for p in book.postings()}


@given(st.lists(offers, max_size=12), st.randoms(use_true_random=False))
def test_the_book_forgets_the_order_of_arrival(posted: list[Offer], chance: random.Random) -> None:
    shuffled = [*posted, *posted[:3]]
    chance.shuffle(shuffled)
    one, other = book_of(*posted), book_of(*shuffled)
    assert seen(one) == seen(other)
    for pipeline in (PIPELINE, "llm"):
        assert one.asks(pipeline, SETTLEMENT, MODEL) == other.asks(pipeline, SETTLEMENT, MODEL)
        assert one.known(pipeline) == other.known(pipeline)


@given(st.lists(offers, max_size=12))
def test_the_newest_serial_counts_and_counts_agree(posted: list[Offer]) -> None:
    book = book_of(*posted)
    live = list(book.postings())
    for posting in live:
        key = (posting.offer.seller, posting.offer.pipeline)
        rivals = [o for o in posted if (o.seller, o.pipeline) == key]
        assert posting.offer.serial == max(o.serial for o in rivals)
        assert all(o == posting.offer for o in rivals if o.serial == posting.offer.serial)
    assert book.known() == len(live)
    for settlement in (SETTLEMENT, OTHER_SETTLEMENT):
        named = [p for p in live if p.offer.settlement == settlement and p.offer.pipeline == PIPELINE]
        assert book.known(PIPELINE, settlement) == len(named)
        for model in (MODEL, OTHER_MODEL):
            asks = book.asks(PIPELINE, settlement, model)
            assert sorted(a.offer.seller for a in asks) == sorted(p.offer.seller for p in named if p.offer.entry(model))
            assert [a.offer.price for a in asks] == sorted(a.offer.price for a in asks)


@given(st.lists(offers, max_size=12))
def test_an_expired_book_is_empty(posted: list[Offer]) -> None:
    book = book_of(*posted)
    book.expire(NOW + 900 + CLOCK_TOLERANCE)
    assert (len(book), book.known(), list(book.postings())) == (0, 0, [])
    assert (book._shelves, book._crowds, book._sellers, +book._live) == ({}, {}, {}, {})


def test_verdicts_of_bytes() -> None:
    key, book = Key(1), OrderBook(NETWORK)
    made, envelope = signed_offer(key)
    data = encode(envelope)
    assert book.judge(b"\xc1", NOW) is Verdict.REJECT
    assert book.judge(b"\x93" + b"\0" * 5000, NOW) is Verdict.REJECT
    assert book.judge(encode(made), NOW) is Verdict.REJECT
    assert book.judge(encode(Signed(envelope.payload, b"\x01" * 65)), NOW) is Verdict.REJECT
    assert book.judge(encode(sign(made, Key(2))), NOW) is Verdict.REJECT, "signed by another than the seller"
    newer = encode(envelope).replace(b"offer\x02", b"offer\x03")
    assert newer != data
    assert book.judge(newer, NOW) is Verdict.IGNORE, "a version we do not speak"
    assert book.judge(data, NOW, "llm") is Verdict.IGNORE, "another topic's offer"
    assert len(book) == 0
    assert book.judge(data, NOW, PIPELINE) is Verdict.ACCEPT
    assert book.judge(data, NOW) is Verdict.IGNORE


def test_what_is_relative_is_ignored() -> None:
    book = OrderBook(NETWORK)
    late = NOW + 900 + CLOCK_TOLERANCE
    for made, now in [
        (offer(stranger(1)), late),
        (offer(stranger(1)), NOW - CLOCK_TOLERANCE - 1),
        (offer(stranger(1), network="main"), NOW),
    ]:
        assert book.post(made, UNSIGNED, now) is Verdict.IGNORE
    assert book.post(offer(stranger(1)), UNSIGNED, late - 1) is Verdict.ACCEPT
    assert book.post(offer(stranger(2)), UNSIGNED, NOW - CLOCK_TOLERANCE) is Verdict.ACCEPT


def test_two_offers_under_one_serial_are_proof_and_neither_counts() -> None:
    key, book = Key(1), OrderBook(NETWORK)
    one, other = signed_offer(key, price=1)[1], signed_offer(key, price=2)[1]
    assert book.judge(encode(one), NOW) is Verdict.ACCEPT
    assert book.judge(encode(other), NOW) is Verdict.IGNORE, "who passed it on had seen one of them"
    assert book.proofs == [(one, other)]
    assert book.known() == 0
    assert book.judge(encode(one), NOW) is Verdict.IGNORE
    assert book.judge(encode(other), NOW) is Verdict.IGNORE
    assert book.judge(encode(signed_offer(key, serial=2)[1]), NOW) is Verdict.ACCEPT
    assert book.known() == 1


def test_a_withdrawal_is_kept_so_that_the_old_offer_does_not_come_back() -> None:
    book = book_of(offer(stranger(1)))
    assert book.post(offer(stranger(1), serial=2, slots=0), UNSIGNED, NOW) is Verdict.ACCEPT
    assert book.post(offer(stranger(1)), UNSIGNED, NOW) is Verdict.IGNORE
    assert (book.known(), len(book)) == (0, 1)


def test_when_full_the_most_crowded_subnet_of_the_never_measured_goes_first() -> None:
    crowd = {stranger(n): b"\x0a\x00\x01" for n in range(1, 4)}
    subnets = {**crowd, stranger(4): b"\x0a\x00\x02"}
    book = book_of(*(offer(peer) for peer in subnets), subnets=subnets, capacity=4)
    book.measured(stranger(3))
    assert book.post(offer(stranger(5)), UNSIGNED, NOW, b"\x0a\x00\x03") is Verdict.ACCEPT
    assert {p.offer.seller for p in book.postings()} == {stranger(n) for n in (1, 3, 4, 5)}
    assert book.post(offer(stranger(6)), UNSIGNED, NOW, b"\x0a\x00\x01") is Verdict.IGNORE, "it is of the crowd"
    assert len(book) == 4
    for number in (1, 4, 5):
        book.measured(stranger(number))
    assert book.post(offer(stranger(7)), UNSIGNED, NOW, b"\x0a\x00\x04") is Verdict.IGNORE


def test_pages_go_through_the_whole_book_once() -> None:
    envelopes = {key.peer: signed_offer(key)[1] for key in map(Key, range(7))}
    book = OrderBook(NETWORK)
    for envelope in envelopes.values():
        book.judge(encode(envelope), NOW)
    read: list[Signed] = []
    after = None
    while page := book.page(PIPELINE, after, 3):
        read += page
        after = max(peer for peer, envelope in envelopes.items() if envelope in page)
    assert read == [envelopes[peer] for peer in sorted(envelopes)]
    assert book.page("llm", None) == ()


@given(st.integers(0, 2**48))
def test_a_claimed_speed_is_rounded_down_by_an_eighth_at_most(speed: int) -> None:
    assert speed * 7 // 8 <= claimed_speed(speed) <= speed
    assert claimed_speed(claimed_speed(speed)) == claimed_speed(speed)


def test_what_offers_have_in_common_is_held_once() -> None:
    book = OrderBook(NETWORK)
    for number in range(3):
        name = "".join(["a mo", "del"])  # as from the wire: equal, and another object each time
        book.post(offer(stranger(number), serial=number + 1, model=model_offer(name=name)), UNSIGNED, NOW)
    one, two, three = (posting.offer for posting in book.postings())
    assert one.models[0].name is two.models[0].name is three.models[0].name
    assert one.settlement is two.settlement is three.settlement
    for number in range(2 * MAX_SHARED):
        book.post(offer(stranger(9), serial=10 + number, model=model_offer(name=str(number))), UNSIGNED, NOW)
    assert len(book._shared) <= MAX_SHARED
