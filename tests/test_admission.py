"""The gate of gossip, and token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.admission import MAX_GOSSIP, GossipGate, RateLimit, judged
from p2p.errors import BadSignature, MalformedMessage, UnknownMessage
from p2p.peer import peer_of
from p2p.transport import Verdict

ONE, TWO = (peer_of(bytes([2 + n]) + bytes(32)) for n in range(2))
TOPIC = "pasar/test/offers"


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5), st.floats(0.1, 5))
def test_no_stretch_of_time_lets_more_through_than_burst_and_rate(gaps, burst, rate):
    limit, now, passed = RateLimit(rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        if limit.allow("k", now):
            passed.append(now)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - start) + 1e-6


def test_keys_have_budgets_of_their_own_and_a_clock_may_stand_still_or_go_back():
    limit = RateLimit(1, 2)
    assert [limit.allow("a", 0) for _ in range(3)] == [True, True, False]
    assert limit.allow("b", 0)
    assert not limit.allow("a", -10)
    assert limit.allow("a", 1)


def test_the_number_of_keys_is_bounded():
    limit = RateLimit(1, 1, most_keys=3)
    for key in range(10):
        limit.allow(key, 0.0)
    assert len(limit) == 3
    assert not limit.allow(9, 0.0)


def test_keys_that_have_all_their_budget_again_are_forgotten():
    limit = RateLimit(1, 2)
    for key in range(100):
        limit.allow(key, 0.0)
    for second in range(1, 60):
        limit.allow("busy", float(second))
    assert set(limit._buckets) == {"busy"}
    assert not RateLimit(1, 1).allow("a", 0.0, 2)


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_limit_that_lets_nothing_through_is_our_mistake(wrong):
    with pytest.raises(ValueError, match="lets something"):
        RateLimit(*wrong)


def test_the_gate_rejects_sizes_and_ignores_repeats():
    gate = GossipGate(window=10)
    assert gate.admit(ONE, TOPIC, b"x" * MAX_GOSSIP, 0) is Verdict.ACCEPT
    assert gate.admit(ONE, TOPIC, b"x" * (MAX_GOSSIP + 1), 0) is Verdict.REJECT
    assert gate.admit(ONE, TOPIC, b"", 0) is Verdict.REJECT
    assert gate.admit(ONE, TOPIC, b"offer", 0) is Verdict.ACCEPT
    assert gate.admit(TWO, TOPIC, b"offer", 9) is Verdict.IGNORE
    assert gate.admit(TWO, "pasar/test/other", b"offer", 9) is Verdict.ACCEPT
    assert gate.admit(TWO, TOPIC, b"offer", 10) is Verdict.ACCEPT


def test_what_is_over_the_rate_may_still_come_by_somebody_else():
    gate = GossipGate(per_second=1, burst=1)
    assert gate.admit(ONE, TOPIC, b"1", 0) is Verdict.ACCEPT
    assert gate.admit(ONE, TOPIC, b"2", 0) is Verdict.IGNORE
    assert gate.admit(TWO, TOPIC, b"2", 0) is Verdict.ACCEPT


def test_the_memory_of_contents_is_bounded():
    gate = GossipGate(most_remembered=5, per_second=1000, burst=1000)
    for number in range(100):
        assert gate.admit(ONE, TOPIC, b"%d" % number, 0) is Verdict.ACCEPT
    assert len(gate._seen) <= 5
    assert gate.admit(ONE, TOPIC, b"99", 0) is Verdict.IGNORE


@pytest.mark.parametrize(
    ("raises", "verdict"),
    [
        (UnknownMessage("offer", 9), Verdict.IGNORE),
        (MalformedMessage("no offer"), Verdict.REJECT),
        (BadSignature("not the author"), Verdict.REJECT),
    ],
)
def test_what_a_judge_raises_is_a_verdict(raises, verdict):
    def judge(_forwarder, _data):
        raise raises

    assert judged(judge, ONE, b"") is verdict


def test_a_bug_in_a_judge_stays_a_bug():
    def judge(_forwarder, _data):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        judged(judge, ONE, b"")
