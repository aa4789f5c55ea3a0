"""Scores: faults cost, time heals, and the book of them is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.peer import PeerId, peer_of
from p2p.scores import COST, GRAYLIST, HALF_LIFE, Fault, Scores


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


def test_every_fault_has_a_cost():
    assert set(COST) == set(Fault)
    assert all(cost > 0 for cost in COST.values())


def test_a_fault_heals_by_half_each_half_life():
    scores = Scores()
    scores.fault(peer(1), Fault.MALFORMED, 100.0)
    assert scores.score(peer(1), 100.0) == -COST[Fault.MALFORMED]
    assert scores.score(peer(1), 100.0 + HALF_LIFE) == pytest.approx(-COST[Fault.MALFORMED] / 2)
    assert scores.score(peer(2), 100.0) == 0.0


def test_repeated_faults_lead_to_the_graylist_and_time_leads_out():
    scores, count = Scores(), 0
    while not scores.graylisted(peer(1), 0.0):
        scores.fault(peer(1), Fault.REJECTED, 0.0)
        count += 1
    assert count == -GRAYLIST / COST[Fault.REJECTED]
    assert scores.faults(peer(1)) == {Fault.REJECTED: count}
    assert not scores.graylisted(peer(1), HALF_LIFE)


def test_one_fault_alone_graylists_nobody_but_an_equivocator():
    for kind in set(Fault) - {Fault.EQUIVOCATED}:
        scores = Scores()
        scores.fault(peer(1), kind, 0.0)
        assert not scores.graylisted(peer(1), 0.0)
    scores = Scores()
    scores.fault(peer(1), Fault.EQUIVOCATED, 0.0)
    assert scores.graylisted(peer(1), HALF_LIFE - 1)


@given(st.lists(st.tuples(st.sampled_from(Fault), st.floats(0, 2000)), max_size=20))
def test_a_score_is_never_above_zero_nor_below_the_sum_of_faults(faults):
    scores, now = Scores(), 0.0
    for kind, gap in faults:
        now += gap
        scores.fault(peer(1), kind, now)
        assert -sum(COST[kind] for kind, _ in faults) - 1e-6 <= scores.score(peer(1), now) <= 0
        assert scores.score(peer(1), now + 1) >= scores.score(peer(1), now)


def test_the_number_of_peers_is_bounded():
    scores = Scores(most=3)
    for number in range(10):
        scores.fault(peer(number), Fault.FLOOD, float(number))
    assert len(scores) == 3
    assert scores.score(peer(9), 9.0) < 0
    assert scores.score(peer(0), 9.0) == 0
