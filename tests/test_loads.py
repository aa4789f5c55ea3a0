"""Loads: what is worth saying, and a board that never tells what is stale, old or somebody else's."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from market.loads import CAP, STALE_MS, LoadBoard, aged, worth_saying
from market.offer import Load
from market.reputation import REFUSALS_BELIEVED, Reputation
from p2p.peer import PeerId
from tests.support.market_values import PIPELINE, stranger

LOAD = Load(PIPELINE, 0, 1, 0, 0, ())
SELLERS = [stranger(number) for number in range(4)]

loads = st.builds(
    Load,
    st.sampled_from([PIPELINE, "llm"]),
    st.integers(0, 20),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 100_000),
    st.just(()),
)


@given(st.lists(st.tuples(st.sampled_from(SELLERS), loads, st.integers(0, 2 * STALE_MS)), max_size=30))
def test_a_board_tells_the_highest_number_heard_while_it_is_fresh(told: list[tuple[PeerId, Load, int]]) -> None:
    board, now = LoadBoard(), 0
    last: dict[PeerId, int] = {}
    newest: dict[tuple[str, PeerId], tuple[Load, int]] = {}
    for seller, load, passed in told:
        now += passed
        newer = load.sequence > last.get(seller, -1)
        assert board.heard(seller, load, now) == newer
        if newer:
            last[seller] = load.sequence
            newest[load.pipeline, seller] = load, now
        for pipeline in (PIPELINE, "llm"):
            fresh = {
                who: aged(said, now - at)
                for (name, who), (said, at) in newest.items()
                if name == pipeline and now - at <= STALE_MS
            }
            assert board.loads(pipeline, now) == fresh
            assert all(board.of(who, pipeline, now) == fresh.get(who) for who in SELLERS)


def test_a_new_stream_counts_anew_and_a_seller_left_is_forgotten() -> None:
    board = LoadBoard()
    assert board.heard(SELLERS[0], replace(LOAD, sequence=9), 0)
    board.begin(SELLERS[0])
    assert board.of(SELLERS[0], PIPELINE, 1) is not None, "what was heard stands until it is stale"
    assert board.heard(SELLERS[0], replace(LOAD, free=0), 1)
    assert board.loads(PIPELINE, 1)[SELLERS[0]].free == 0
    board.forget(SELLERS[0])
    assert board.loads(PIPELINE, 1) == {}


def test_hearsay_is_fresh_bounded_and_of_what_was_asked() -> None:
    board = LoadBoard()
    for number in range(2 * CAP):
        board.heard(stranger(number), LOAD, number)
    board.heard(SELLERS[0], replace(LOAD, pipeline="llm", sequence=1), 2 * CAP)
    told = board.hearsay([PIPELINE, PIPELINE], 2 * CAP).loads
    assert len(told) == len({one.seller for one in told}) == CAP
    assert [one.seller for one in told[:2]] == [stranger(2 * CAP - 1), stranger(2 * CAP - 2)], "the freshest first"
    assert board.hearsay([PIPELINE], 2 * CAP + STALE_MS + 1).loads == ()


@given(loads, st.integers(0, 10**6))
def test_what_went_as_was_said_is_no_news(load: Load, passed: int) -> None:
    assert worth_saying(None, load, passed)
    assert not worth_saying(load, aged(load, passed), passed)
    assert worth_saying(load, replace(load, free=load.free + 1), passed)
    assert worth_saying(load, replace(load, warm=(b"m" * 32,)), passed)
    assert worth_saying(load, replace(load, queue_ms=load.queue_ms * 2 + 2000), 0)


def test_a_load_clears_a_refusal_unless_its_word_was_empty_too_often() -> None:
    known = Reputation()
    for refusals in range(REFUSALS_BELIEVED + 2):  # no Load was there before the first
        known.refused(SELLERS[0], 0)
        known.load_arrived(SELLERS[0])
        assert known.view(SELLERS[0], 1).refused_lately == (refusals >= REFUSALS_BELIEVED)
    known.quoted(SELLERS[0])
    known.load_arrived(SELLERS[0])
    assert not known.view(SELLERS[0], 1).refused_lately
    known.unanswered(SELLERS[0], 1)
    known.load_arrived(SELLERS[0])
    assert known.view(SELLERS[0], 2).refused_lately, "a Load is no answer to what was asked"
