"""Reputation: shares with a prior, speeds as measured, bans that grow and end, all of it decaying."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market.offer import Load
from market.reputation import (
    BAN_MS,
    HALF_LIFE_MS,
    MAX_BAN_MS,
    MAX_STRANGERS,
    NEWCOMER_JOBS,
    REFUSED_MS,
    UNREACHABLE_MS,
    Reputation,
)
from market.scoring import PRIOR_PPM, UNKNOWN
from tests.support.market_values import MODEL, PIPELINE, stranger

SELLER, OTHER = stranger(1), stranger(2)


def test_a_stranger_is_what_the_prefilter_takes_it_for() -> None:
    assert Reputation().view(SELLER, 5) == UNKNOWN
    assert len(Reputation().views(0)) == 0


def test_the_share_starts_from_four_of_five() -> None:
    known = Reputation()
    assert known.of(SELLER, 0).delivered_ppm == PRIOR_PPM
    known.delivered(SELLER, 0)
    assert known.of(SELLER, 0).delivered_ppm == 5_000_000 // 6
    known.failed(SELLER, 0)
    assert known.of(SELLER, 0).delivered_ppm == 5_000_000 // 7


@given(st.lists(st.booleans(), max_size=40))
def test_the_share_stays_a_share_and_counts_each_job(outcomes: list[bool]) -> None:
    known = Reputation()
    for good in outcomes:
        before = known.of(SELLER, 0).delivered_ppm
        known.delivered(SELLER, 0) if good else known.failed(SELLER, 0)
        after = known.of(SELLER, 0).delivered_ppm
        assert (after >= before) if good else (after < before)
    record = known.of(SELLER, 0)
    assert 0 < record.delivered_ppm < 1_000_000
    assert record.newcomer == (len(outcomes) < NEWCOMER_JOBS)


def test_it_decays_to_the_prior_but_nobody_becomes_a_newcomer_again() -> None:
    known = Reputation()
    for _ in range(6):
        known.failed(SELLER, 0)
    bad = known.of(SELLER, 0).delivered_ppm
    half = known.of(SELLER, HALF_LIFE_MS).delivered_ppm
    assert bad < half < PRIOR_PPM
    late = known.of(SELLER, 30 * HALF_LIFE_MS)
    assert late.delivered_ppm == PRIOR_PPM
    assert not late.newcomer


def test_speed_is_measured_per_model_and_smoothed() -> None:
    known = Reputation()
    known.delivered(SELLER, 0, model=MODEL, units=1_000_000, run_ms=1000)
    assert known.view(SELLER, 0).speeds == {MODEL: 1_000_000}
    known.delivered(SELLER, 0, model=MODEL, units=2_000_000, run_ms=1000)
    assert known.view(SELLER, 0).speeds == {MODEL: 1_250_000}
    known.delivered(SELLER, 0, model=MODEL, units=5, run_ms=0)
    assert known.view(SELLER, 0).speeds == {MODEL: 1_250_000}


def test_lateness_is_smoothed_and_forgiven() -> None:
    known = Reputation()
    known.delivered(SELLER, 0, late_ms=4000)
    assert known.view(SELLER, 0).late_ms == 1000
    for _ in range(40):
        known.delivered(SELLER, 0)
    assert known.view(SELLER, 0).late_ms == 0


def test_bans_double_and_proof_bans_for_a_day() -> None:
    known = Reputation()
    known.fault(SELLER, 0)
    assert known.view(SELLER, BAN_MS - 1).banned
    assert not known.view(SELLER, BAN_MS).banned
    known.fault(SELLER, BAN_MS)
    assert known.view(SELLER, 3 * BAN_MS - 1).banned
    assert not known.view(SELLER, 3 * BAN_MS).banned
    known.fault(OTHER, 0, proof=True)
    assert known.view(OTHER, MAX_BAN_MS - 1).banned
    for _ in range(40):
        known.fault(OTHER, 0)
    assert not known.view(OTHER, MAX_BAN_MS).banned, "a day is the most"


def test_who_is_caught_loses_everything_it_had() -> None:
    known = Reputation()
    for _ in range(20):
        known.delivered(SELLER, 0)
    assert not known.view(SELLER, 0).newcomer
    known.caught(SELLER, 0)
    view = known.view(SELLER, 0)
    assert (view.banned, view.newcomer) == (True, True)
    assert view.delivered_ppm < 200_000
    assert known.view(SELLER, MAX_BAN_MS - 1).banned
    assert not known.view(SELLER, MAX_BAN_MS).banned
    assert known.view(SELLER, MAX_BAN_MS).newcomer


def test_a_refusal_is_remembered_two_seconds_or_until_a_newer_load() -> None:
    known = Reputation()
    known.refused(SELLER, 100)
    assert known.view(SELLER, 100 + REFUSED_MS - 1).refused_lately
    assert not known.view(SELLER, 100 + REFUSED_MS).refused_lately
    assert known.of(SELLER, 100).delivered_ppm == PRIOR_PPM, "busy is not a fault"
    known.load_arrived(SELLER)
    known.load_arrived(OTHER)
    assert not known.view(SELLER, 101).refused_lately


def test_of_many_who_ask_at_once_for_one_place_nobody_doubts_the_next_load() -> None:
    known = Reputation()
    for job in range(20):
        now = 100 * job
        known.refused(SELLER, now)
        known.quoted(SELLER)
        for _ in range(7):
            known.refused(SELLER, now)
        assert known.view(SELLER, now).refused_lately
        known.load_arrived(SELLER)
        assert not known.view(SELLER, now).refused_lately


def test_names_that_never_had_a_job_are_few() -> None:
    known = Reputation()
    known.delivered(SELLER, 0)
    known.fault(OTHER, 0)
    for number in range(MAX_STRANGERS + 10):
        known.unanswered(stranger(1000 + number), 1, lost=True)
    assert len(known) == MAX_STRANGERS + 2
    assert SELLER in known.sellers()
    assert OTHER in known.sellers()
    assert stranger(1000) not in known.sellers()
    assert known.view(stranger(1000 + MAX_STRANGERS), 1).refused_lately
    known.failed(stranger(1010), 2)
    for number in range(MAX_STRANGERS):
        known.refused(stranger(5000 + number), 2)
    assert stranger(1010) in known.sellers(), "a job makes a name for good"


def test_who_delivers_has_a_place_again() -> None:
    known = Reputation()
    known.refused(SELLER, 0)
    known.delivered(SELLER, 1)
    assert not known.view(SELLER, 1).refused_lately


def test_views_join_what_others_know() -> None:
    known = Reputation()
    known.delivered(SELLER, 0)
    load = Load(PIPELINE, 1, 1, 0, 0, ())
    views = known.views(0, loads={OTHER: load}, exposures={SELLER: 7}, rtts={OTHER: 30})
    assert set(views) == {SELLER, OTHER}
    assert (views[SELLER].exposure_wei, views[SELLER].load) == (7, None)
    assert (views[OTHER].load, views[OTHER].rtt_ms, views[OTHER].exposure_wei) == (load, 30, None)
    assert stranger(9) not in views


def test_the_untouched_longest_is_forgotten_first_and_the_banned_last() -> None:
    known = Reputation(capacity=2)
    known.fault(SELLER, 0)
    known.delivered(OTHER, 0)
    known.delivered(stranger(3), 0)
    assert len(known) == 2
    assert known.view(SELLER, 0).banned
    assert known.of(OTHER, 0).measured == 0


def test_who_cannot_be_dialled_twice_is_unreachable_for_a_while() -> None:
    known = Reputation()
    known.unanswered(SELLER, 0, lost=True)
    known.unanswered(SELLER, 1, lost=True)  # another auction, at the same time
    assert known.view(SELLER, 2).refused_lately
    assert not known.view(SELLER, 2).unreachable
    known.unanswered(SELLER, REFUSED_MS, lost=True)
    assert known.view(SELLER, REFUSED_MS + 1).unreachable
    again = 3 * REFUSED_MS
    assert not known.view(SELLER, again).unreachable, "to be tried again"
    for _ in range(20):
        known.unanswered(SELLER, again, lost=True)
        assert known.view(SELLER, again).unreachable
        again += UNREACHABLE_MS
    assert not known.view(SELLER, again).unreachable
    assert known.of(SELLER, again).faults == known.of(SELLER, again).jobs == 0


def test_silence_takes_longer_than_a_broken_line_and_an_answer_ends_it() -> None:
    known = Reputation()
    times = range(0, 10 * REFUSED_MS, REFUSED_MS)
    marks = []
    for now in times:
        known.unanswered(SELLER, now)
        marks.append(known.view(SELLER, now).unreachable)
    assert marks[:6] == [False] * 5 + [True]
    known.answered(SELLER)
    known.answered(OTHER)
    assert not known.view(SELLER, times[-1]).unreachable
    assert len(known) == 1
