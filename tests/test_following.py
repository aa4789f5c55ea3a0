"""Whom to follow: few, the best, some newcomers, of many places, and the same as before when little changed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from market.following import PER_PLACE, Prospect, choose, models, ranked
from market.scoring import View
from p2p.peer import Address, PeerId
from tests.support.market_values import (
    MODEL,
    OTHER_MODEL,
    OTHER_SETTLEMENT,
    PIPELINE,
    SETTLEMENT,
    book_of,
    model_offer,
    offer,
    stranger,
)

CAP, NEW, SLACK = 12, 3, 2
SALT = b"salt"

prospects = st.lists(
    st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 12)), max_size=50, unique_by=lambda row: row[0]
).map(lambda rows: [Prospect(stranger(n), new, (bytes([place]),)) for n, new, place in rows])
followed = st.sets(st.integers(0, 60)).map(lambda numbers: {stranger(number) for number in numbers})


def chosen(ranking: list[Prospect], before: set[PeerId] = frozenset(), salt: bytes = SALT) -> set[PeerId]:  # type: ignore[assignment]
    return set(choose([ranking], before, salt, CAP, NEW, SLACK))


def alone(ranking: list[Prospect]) -> list[Prospect]:
    """The same with a place each."""
    return [Prospect(one.seller, one.newcomer, (one.seller,)) for one in ranking]


@given(st.lists(prospects, max_size=3), followed)
def test_at_most_cap_of_those_ranked_and_few_of_a_place(rankings: list[list[Prospect]], before: set[PeerId]) -> None:
    found = choose(rankings, before, SALT, CAP, NEW, SLACK)
    known = {one.seller: one for ranking in reversed(rankings) for one in ranking}
    assert len(set(found)) == len(found) <= CAP
    assert set(found) <= known.keys()
    if len({one.seller for ranking in rankings for one in ranking}) <= CAP and len(rankings) == 1:
        spread = Counter(place for one in known.values() for place in one.places)
        assert len(found) == len(known) or max(spread.values()) > PER_PLACE


@given(prospects, followed)
def test_the_best_are_always_in_and_newcomers_have_their_part(ranking: list[Prospect], before: set[PeerId]) -> None:
    ranking = alone(ranking)
    found = chosen(ranking, before)
    assert len(found) == min(CAP, len(ranking))
    assert {one.seller for one in ranking[: CAP - NEW - SLACK]} <= found
    new = {one.seller for one in ranking if one.newcomer}
    assert len(found & new) >= min(NEW, len(new))


@given(prospects, st.integers(0, 49))
def test_a_small_move_changes_nobody(ranking: list[Prospect], at: int) -> None:
    ranking = alone(ranking)
    before = chosen(ranking)
    moved = list(ranking)
    if at + 1 < len(moved):
        moved[at], moved[at + 1] = moved[at + 1], moved[at]
    assert chosen(moved, before) == before


@given(prospects, st.integers(0, 49))
def test_one_that_goes_or_comes_moves_few(ranking: list[Prospect], at: int) -> None:
    ranking = alone(ranking)
    without = [one for number, one in enumerate(ranking) if number != at]
    whole = chosen(ranking)
    assert len(whole ^ chosen(without, whole)) <= 4
    fewer = chosen(without)
    assert len(fewer ^ chosen(ranking, fewer)) <= 4


def test_newcomers_are_drawn_by_what_nobody_else_knows() -> None:
    ranking = [Prospect(stranger(n), newcomer=n >= CAP, places=(bytes([n]),)) for n in range(60)]
    draws = {frozenset(chosen(ranking, salt=bytes([salt])) - {stranger(n) for n in range(CAP)}) for salt in range(8)}
    assert all(len(drawn) == NEW for drawn in draws)
    assert len(draws) > 1, "another gateway draws others"


def test_ranked_by_score_with_those_we_met_at_their_own_measure() -> None:
    cheap, dear, known, banned = (stranger(n) for n in range(4))
    priced = {cheap: 10**6, dear: 10**7, known: 2 * 10**6, banned: 1}
    book = book_of(*(offer(who, price=price, payout=Address(who[-20:])) for who, price in priced.items()))
    views = {known: View(newcomer=False, delivered_ppm=10**6), banned: View(banned=True)}
    found = ranked(book, PIPELINE, SETTLEMENT, MODEL, views)
    assert [one.seller for one in found] == [cheap, known, dear]
    assert [one.newcomer for one in found] == [True, False, True]
    assert ranked(book, PIPELINE, OTHER_SETTLEMENT, MODEL, views) == []


def test_models_asked_for_come_first_and_odd_sizes_do_no_harm() -> None:
    one = offer(stranger(1), model=model_offer(model=MODEL))
    two = [offer(stranger(n), model=model_offer(model=OTHER_MODEL, native_side=9)) for n in (2, 3)]
    book = book_of(one, *two)
    assert models(book, PIPELINE, SETTLEMENT, []) == [OTHER_MODEL, MODEL]
    assert models(book, PIPELINE, SETTLEMENT, [b"\x09" * 32, MODEL]) == [MODEL, OTHER_MODEL]
    assert len(ranked(book, PIPELINE, SETTLEMENT, OTHER_MODEL, {})) == 2
