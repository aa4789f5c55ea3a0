"""The prefilter against a plain loop over all offers: the same counts, the same cheapest, nobody eligible lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.spec import Quality, Verification
from ledger.money import MILLION, Settlement, price_for
from market.book import OrderBook, claimed_speed, profile_of
from market.offer import Load, Offer
from market.prefilter import SMALL_JOB, Terms, default_limit, match, prefilter, seller_limit
from market.refusal import Code, Rule
from market.scoring import View, predicted_ms, score
from p2p.peer import Address, PeerId
from tests.support.market_values import (
    MODEL,
    NOW,
    OTHER_MODEL,
    OTHER_SETTLEMENT,
    PIPELINE,
    SETTLEMENT,
    book_of,
    model_offer,
    offer,
    shape,
    stranger,
)

TERMS = Terms(shape(), SETTLEMENT, limit=10**6, deadline_ms=60_000)


@st.composite
def some_offers(draw: st.DrawFn) -> list[Offer]:
    made = []
    for number in range(draw(st.integers(0, 10))):
        entry = model_offer(
            model=draw(st.sampled_from([MODEL, MODEL, MODEL, OTHER_MODEL])),
            max_side=draw(st.sampled_from([64, 256])),
            quality=draw(st.sampled_from(Quality)),
            warm=draw(st.booleans()),
            speed=draw(st.sampled_from([0, 30_000, 163_840, 1_000_000])),
        )
        made.append(
            offer(
                stranger(number),
                model=entry,
                price=draw(st.integers(0, 12)) * 10**5,
                settlement=draw(st.sampled_from([SETTLEMENT, SETTLEMENT, OTHER_SETTLEMENT])),
                pipeline=draw(st.sampled_from([PIPELINE, PIPELINE, PIPELINE, "llm"])),
                verification=draw(st.sampled_from([(Verification.TRACE,), (Verification.NONE,)])),
                payout=Address(bytes([number]) * 20),
            )
        )
    return made


def some_views() -> st.SearchStrategy[dict[PeerId, View]]:
    load = st.builds(
        Load,
        st.just(PIPELINE),
        st.just(1),
        st.just(1),
        st.just(0),
        st.integers(0, 9000),
        st.sampled_from([(), (MODEL,)]),
    )
    view = st.builds(
        View,
        newcomer=st.booleans(),
        banned=st.booleans(),
        refused_lately=st.booleans(),
        unreachable=st.booleans(),
        delivered_ppm=st.integers(0, MILLION),
        speeds=st.sampled_from([{}, {MODEL: 50_000}, {MODEL: 10**9}]),
        late_ms=st.integers(0, 500),
        load=st.none() | load,
        exposure_wei=st.none() | st.integers(0, 200_000),
    )
    return st.dictionaries(st.integers(0, 11).map(stranger), view, max_size=8)


some_terms = st.builds(
    Terms,
    shape=st.builds(
        shape,
        width=st.sampled_from([64, 128]),
        steps=st.integers(1, 40),
        quality=st.sampled_from(Quality),
        verification=st.sampled_from(Verification),
    ),
    settlement=st.sampled_from([SETTLEMENT, SETTLEMENT, OTHER_SETTLEMENT]),
    limit=st.none() | st.integers(0, 400_000),
    deadline_ms=st.integers(100, 20_000),
    price_of_time=st.none() | st.integers(0, 10**6),
    small_job=st.sampled_from([100_000, SMALL_JOB]),
    newcomer_room=st.integers(0, 10**6),
    without=st.sets(st.integers(0, 11).map(stranger), max_size=2).map(frozenset) | st.just(frozenset()),
)


def plainly(made: Offer, terms: Terms, view: View) -> Rule | None:
    """The rules one after the other, for one offer."""
    if made.pipeline != terms.shape.pipeline:
        return Rule.PIPELINE
    if made.settlement != terms.settlement:
        return Rule.SETTLEMENT
    rule = made.unfit(terms.shape)
    if rule is not None:
        return rule
    if made.seller in terms.without:
        return Rule.WITHOUT
    if view.banned:
        return Rule.BANNED
    price = made.price_of(terms.shape)
    if terms.limit is not None and price > terms.limit:
        return Rule.PRICE
    return beside_price(made, terms, view)


def beside_price(made: Offer, terms: Terms, view: View) -> Rule | None:
    price, entry = made.price_of(terms.shape), made.entry(terms.shape.model)
    assert entry is not None
    if made.seller in terms.without:
        return Rule.WITHOUT
    if view.banned:
        return Rule.BANNED
    finish = predicted_ms(terms.shape, entry, view, profile_of(made, entry).load_ms)
    if finish is not None and finish > terms.deadline_ms:
        return Rule.FINISH
    if view.exposure_wei is None:
        if terms.shape.units > terms.small_job:
            return Rule.EXPOSURE
    elif price > view.exposure_wei:
        return Rule.EXPOSURE
    if view.newcomer and price > terms.newcomer_room:
        return Rule.EXPOSURE
    if view.unreachable:
        return Rule.NO_ANSWER
    return Rule.REFUSED_LATELY if view.refused_lately else None


@given(some_offers(), some_terms, some_views())
def test_the_same_as_a_plain_loop(made: list[Offer], terms: Terms, views: dict[PeerId, View]) -> None:
    found = prefilter(book_of(*made), terms, views, NOW)
    rules = {one.seller: plainly(one, terms, views.get(one.seller, View())) for one in made}
    excluded = Counter(rule for rule in rules.values() if rule is not None)
    assert dict(found.excluded) == dict(excluded)
    assert sum(found.excluded.values()) + found.eligible == found.known == len(made)
    assert {one.seller for one in found.candidates} == {seller for seller, rule in rules.items() if rule is None}
    for one in found.candidates:
        assert one.price == one.posting.offer.price_of(terms.shape)
        assert terms.limit is None or one.price <= terms.limit
        waited = terms.deadline_ms if one.finish_ms is None else one.finish_ms
        assert one.score == score(one.price, terms.time_wei, waited, one.delivered_ppm)
    able = [o for o in made if o.settlement == terms.settlement and o.unfit(terms.shape) is None]
    serving = [o for o in able if beside_price(o, terms, views.get(o.seller, View())) is None]
    assert found.cheapest == min((o.price_of(terms.shape) for o in serving or able), default=None)


def test_of_many_strangers_the_best_and_the_cheapest_are_candidates() -> None:
    fast = [offer(stranger(n), model=model_offer(speed=10**7), price=10**6 + n) for n in range(100, 200)]
    slow = [offer(stranger(n), model=model_offer(speed=10**5), price=10**5 + n) for n in range(100)]
    terms = replace(TERMS, price_of_time=10**6)
    found = prefilter(book_of(*fast, *slow), terms, {}, NOW)
    names = {one.seller for one in found.candidates}
    assert found.eligible == 200
    assert {stranger(n) for n in range(3)} <= names, "the cheapest"
    assert {stranger(n) for n in range(100, 108)} <= names, "the best by score"
    assert len(names) < 50


def test_a_crowd_of_one_subnet_does_not_hide_the_rest() -> None:
    crowd = [offer(stranger(n), price=10) for n in range(100)]
    others = [offer(stranger(n), price=20) for n in range(100, 104)]
    book = book_of(*crowd, *others, subnets={one.seller: b"\x0a\x00\x01" for one in crowd})
    names = {one.seller for one in prefilter(book, TERMS, {}, NOW).candidates}
    assert {one.seller for one in others} <= names


def test_refusals_say_what_to_change() -> None:
    asked = prefilter(OrderBook("test"), TERMS, {}, NOW).refusal()
    assert (asked.code, asked.known, asked.counts) == (Code.NO_OFFERS, 0, {})
    book = book_of(offer(stranger(1), price=2_000_000), offer(stranger(2), settlement=OTHER_SETTLEMENT))
    dear = prefilter(book, replace(TERMS, limit=1000), {}, NOW).refusal()
    assert (dear.code, dear.counts) == (Code.NO_MATCH, {"settlement": 1, "price": 1})
    assert (dear.cheapest_wei, dear.limit_wei) == (327_680, 1000)
    assert dear.hint == "raise the limit: the cheapest asks 327680 wei, the limit is 1000 wei"
    late = prefilter(book, replace(TERMS, deadline_ms=10), {}, NOW).refusal()
    assert (late.code, late.counts["finish"]) == (Code.NO_MATCH, 1)
    other = replace(TERMS, settlement=Settlement(5, Address(b"\x05" * 20)))
    assert prefilter(book, other, {}, NOW).refusal().counts == {"settlement": 2}
    elsewhere = prefilter(book, replace(TERMS, shape=shape(pipeline="llm")), {}, NOW).refusal()
    assert (elsewhere.code, elsewhere.counts) == (Code.NO_OFFERS, {"pipeline": 2})


def test_what_passes_by_itself_is_busy_and_not_a_mismatch() -> None:
    book = book_of(offer(stranger(1)))
    refused = prefilter(book, TERMS, {stranger(1): View(refused_lately=True)}, NOW)
    assert (refused.waiting, refused.refusal().code) == (1, Code.BUSY)
    full = View(load=Load(PIPELINE, 1, 0, 9, 10**6, (MODEL,)))
    assert prefilter(book, TERMS, {stranger(1): full}, NOW).refusal().code is Code.BUSY
    banned = prefilter(book, TERMS, {stranger(1): View(banned=True)}, NOW)
    assert banned.refusal().code is Code.NO_MATCH


def test_a_bid_without_a_limit_gets_twice_the_cheapest() -> None:
    book = book_of(*(offer(stranger(n), price=n * 10**6) for n in (1, 2, 3)))
    found = match(book, replace(TERMS, limit=None), {}, NOW)
    assert found.terms.limit == default_limit(163_840) == 327_680
    assert (found.eligible, found.excluded) == (2, {Rule.PRICE: 1})
    assert match(OrderBook("test"), replace(TERMS, limit=None), {}, NOW).cheapest is None


@given(st.integers(0, 10**18), st.integers(0, 2 * MILLION))
def test_price_and_margin_stay_within_the_customers_limit(limit: int, margin: int) -> None:
    seller = seller_limit(limit, margin)
    assert seller + seller * margin // MILLION <= limit


@pytest.mark.parametrize(("speed", "expected"), [(0, None), (10**6, 164)])
def test_a_prediction_rounds_up_and_admits_ignorance(speed: int, expected: int | None) -> None:
    found = prefilter(book_of(offer(stranger(1), model=model_offer(speed=speed))), TERMS, {}, NOW)
    [one] = found.candidates
    exact = None if expected is None else -(-163_840 * 1000 // claimed_speed(speed))
    assert one.finish_ms == exact
    assert one.newcomer


def test_the_room_for_newcomers_ends_exactly_at_a_price() -> None:
    book = book_of(*(offer(stranger(n), price=10**6 + n * 7) for n in range(3)))
    price = sorted(posting.offer.price_of(TERMS.shape) for posting in book.postings())
    for room, eligible in [(price[0] - 1, 0), (price[0], 1), (price[1] - 1, 1), (price[1], 2), (price[2], 3)]:
        found = prefilter(book, replace(TERMS, newcomer_room=room), {}, NOW)
        assert (found.eligible, found.excluded.get(Rule.EXPOSURE, 0)) == (eligible, 3 - eligible)
        assert found.cheapest == price[0]


def test_an_offer_near_nothing_sets_no_limit() -> None:
    """Whoever delivered says what such a job costs, also while it is busy; else whoever is there."""
    honest, fake, stuffed = (stranger(n) for n in (1, 2, 3))
    book = book_of(offer(honest, price=1000), offer(fake, price=1), offer(stuffed, price=1))
    units = shape().units
    asked = replace(TERMS, limit=None)
    seen = View(rtt_ms=10)
    busy = View(rtt_ms=10, newcomer=False, delivered_ppm=900_000, refused_lately=True)
    assert match(book, asked, {}, NOW).terms.limit == 2 * price_for(units, 1)
    assert match(book, asked, {honest: seen}, NOW).terms.limit == 2 * price_for(units, 1000)
    assert match(book, asked, {honest: busy, fake: seen}, NOW).terms.limit == 2 * price_for(units, 1000)
    banned = replace(busy, banned=True)
    assert match(book, asked, {honest: banned, fake: seen}, NOW).terms.limit == 2 * price_for(units, 1)
