"""Scores are whole wei and monotone; the draw asks few, of different places, and newcomers now and then."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from market.bid import Prefer
from market.book import Posting
from market.scoring import BAND, Candidate, draw, score
from p2p.peer import Address
from tests.support.market_values import UNSIGNED, offer, stranger

amounts = st.integers(0, 2**100)


def candidate(
    number: int, value: int, *, newcomer: bool = False, subnet: bytes | None = None, payout: int | None = None
) -> Candidate:
    made = offer(stranger(number), payout=Address((payout or number).to_bytes(20, "big")), price=value)
    return Candidate(Posting(made, UNSIGNED, subnet), value, None, value, newcomer, 800_000, 0, None)


@given(amounts, amounts, st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_score_never_beats_the_price_and_grows_with_each_part(price: int, time: int, finish: int, share: int) -> None:
    base = score(price, time, finish, share)
    assert base >= price
    assert score(price + 1, time, finish, share) > base
    assert score(price, time, finish + 1000, share) >= base
    assert share == 0 or score(price, time, finish, share - 1) >= base
    assert score(price, 0, finish, 10**6) == price


def test_whoever_says_it_is_full_is_asked_last() -> None:
    chance = random.Random(3)
    full = [replace(candidate(number, number), full=True) for number in range(1, 5)]
    free = [candidate(number, 1000 + number) for number in range(10, 12)]
    for prefer in Prefer:
        assert set(draw([*full, *free], prefer, chance)) == set(free)
        assert len(draw(full, prefer, chance)) == 3


def test_who_waits_is_not_spent_on_strangers() -> None:
    chance = random.Random(4)
    ghosts = [candidate(number, number) for number in range(1, 5)]
    there = replace(candidate(9, 10**6), rtt_ms=20, full=True)
    for prefer in Prefer:
        assert draw([*ghosts, there], prefer, chance, strangers=False) == [there]
        assert draw(ghosts, prefer, chance, strangers=False) == []
        assert set(draw([*ghosts, there], prefer, chance)) <= set(ghosts), "who does not wait takes what there is"
    new = [replace(one, newcomer=True) for one in ghosts]
    asked = sum(bool(draw(new, Prefer.SPEED, chance, strangers=False)) for _ in range(4000))
    assert 120 < asked < 280, "one auction of twenty is for newcomers still"


def test_an_auction_in_numbers() -> None:
    assert score(1000, 60, 2500, 800_000) == 1000 + 150 + 200
    assert score(1, 1, 1, 999_999) == 3, "each part is rounded up"


candidates = st.lists(
    st.tuples(
        st.integers(0, 50), st.booleans(), st.sampled_from([None, b"a", b"b", b"c"]), st.sampled_from([None, 7, 8])
    ),
    max_size=14,
).map(lambda rows: [candidate(n + 1, v, newcomer=f, subnet=s, payout=p) for n, (v, f, s, p) in enumerate(rows)])


@given(candidates, st.sampled_from(Prefer), st.randoms(use_true_random=False))
def test_a_draw_is_small_distinct_and_of_the_candidates(
    pool: list[Candidate], prefer: Prefer, chance: random.Random
) -> None:
    drawn = draw(pool, prefer, chance)
    assert len(drawn) <= 3
    assert bool(drawn) == bool(pool)
    assert all(one in pool for one in drawn)
    subnets = [one.posting.subnet for one in drawn if one.posting.subnet is not None]
    payouts = [one.posting.offer.payout for one in drawn]
    assert len(set(subnets)) == len(subnets)
    assert len(set(payouts)) == len(payouts)


def asked_in(pool: list[Candidate], auctions: int = 2000) -> Counter[int]:
    chance, asked = random.Random(3), Counter[int]()
    for _ in range(auctions):
        asked.update(one.price for one in draw(pool, Prefer.SPEED, chance))
    return asked


def test_prefer_speed_spreads_evenly_over_eight_that_are_as_good_and_no_further() -> None:
    asked = asked_in([replace(candidate(n, n), score=10**6 + n) for n in range(1, 21)])
    assert set(asked) == set(range(1, BAND + 1))
    assert min(asked.values()) > 0.9 * 2000 * 3 / BAND


def test_prefer_speed_asks_the_near_ones_more_often_and_the_far_ones_still() -> None:
    asked = asked_in([replace(candidate(n, n), score=1000 + 100 * (n - 1)) for n in range(1, 21)])
    assert set(asked) == set(range(1, BAND + 1))
    often = [asked[n] for n in range(1, BAND + 1)]
    assert often == sorted(often, reverse=True)
    assert 0.5 * 2000 < often[0] < 0.9 * 2000, "the best is no seller that everybody asks"
    assert often[-1] > 0.05 * 2000


@given(st.lists(st.integers(0, 2**130), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_no_score_is_too_small_or_too_large_to_be_drawn(scores: list[int], chance: random.Random) -> None:
    pool = [candidate(n + 1, score) for n, score in enumerate(scores)]
    assert len(draw(pool, Prefer.SPEED, chance)) == min(3, len(pool))
    assert draw([], Prefer.SPEED, chance) == []


def test_prefer_price_asks_the_three_cheapest() -> None:
    pool = [candidate(n, n) for n in range(1, 21)]
    assert [one.price for one in draw(pool, Prefer.PRICE, random.Random(3))] == [1, 2, 3]


def test_one_auction_of_twenty_keeps_a_place_for_a_newcomer() -> None:
    pool = [candidate(n, n, newcomer=n > 15) for n in range(1, 21)]
    chance = random.Random(5)
    with_newcomer = sum(any(one.newcomer for one in draw(pool, Prefer.SPEED, chance)) for _ in range(4000))
    assert 120 < with_newcomer < 280


def test_a_single_candidate_is_drawn_whatever_chance_says() -> None:
    assert draw([candidate(1, 5)], Prefer.SPEED, random.Random(1)) == [candidate(1, 5)]
