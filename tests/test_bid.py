"""Bids, job ids, and the bids that rest: best paid per unit first, then by turns of clients; bounded per client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bid import (
    AT_ONCE,
    LONGEST,
    MAX_DEADLINE_MS,
    RESTING_PER_CLIENT,
    Bid,
    Prefer,
    RestingBids,
    job_id,
    time_price,
)
from market.refusal import Code, Refusal, Rule, hint_for, listed, simple
from p2p.codec import decode, encode
from p2p.errors import MalformedMessage
from tests.support.market_values import shape, spec, stranger

CLIENT, GATEWAY = stranger(1), stranger(2)


def bid(number: int = 0, steps: int = 20, deadline_ms: int = 1000) -> Bid:
    return Bid(number.to_bytes(16, "big"), spec(shape=shape(steps=steps)), 0, deadline_ms)


def job(number: int) -> bytes:
    return job_id(GATEWAY, CLIENT, number.to_bytes(16, "big"))


def test_a_job_id_depends_on_each_of_its_parts() -> None:
    ids = {job(1), job(2), job_id(CLIENT, GATEWAY, (1).to_bytes(16, "big"))}
    assert len(ids) == 3
    assert all(len(one) == 32 for one in ids)
    assert job(1).hex() == "4a86d734692b01050464c2ce04480214fcf6aa1c9d506289fe6864d9061898a3"
    with pytest.raises(ValueError, match="two peer ids"):
        job_id(GATEWAY, CLIENT, b"short")


def test_a_bid_round_trips_and_its_bounds_hold() -> None:
    full = Bid(b"\x01" * 16, spec(), 10**18, MAX_DEADLINE_MS, 5, Prefer.PRICE, True)
    for value in (bid(), full):
        assert decode(encode(value)) == value
    with pytest.raises(ValueError, match="deadline_ms"):
        encode(Bid(b"\x01" * 16, spec(), 1, 0))
    with pytest.raises(MalformedMessage):
        decode(encode(full)[:-1])


@given(st.integers(0, 10**24), st.integers(1, MAX_DEADLINE_MS))
def test_waiting_out_the_deadline_costs_a_tenth_of_the_limit(limit: int, deadline_ms: int) -> None:
    assert time_price(limit, deadline_ms) * deadline_ms <= limit * 100
    assert (time_price(limit, deadline_ms) + 1) * deadline_ms > limit * 100


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10**6)), max_size=20))
def test_the_best_paid_per_unit_is_first_then_who_came_first(rows: list[tuple[int, int]]) -> None:
    resting = RestingBids()
    for number, (steps, limit) in enumerate(rows):
        client = stranger(100 + number)
        assert resting.add(job(number), client, bid(number, steps), limit, number) is None
    best = resting.best()
    assert len(best) == len(rows)
    ranks = [(-(one.limit * 10**6 // one.bid.spec.shape.units), one.since) for one in best]
    assert ranks == sorted(ranks)


def test_of_equals_every_client_has_one_turn_before_anybody_has_two() -> None:
    resting = RestingBids()
    for number in range(10):
        resting.add(job(number), CLIENT, bid(number), 1, number)
    resting.add(job(50), GATEWAY, bid(50), 1, 100)
    assert [one.job for one in resting.best()[:3]] == [job(0), job(50), job(1)]
    resting.remove(job(50))
    resting.add(job(50), GATEWAY, bid(50), 1, 100)
    assert [one.job for one in resting.best()[:3]] == [job(0), job(50), job(1)], "in vain once, and no later for that"


@given(st.integers(7, 40), st.data())
def test_nobody_who_waits_is_passed_over_for_ever(count: int, data: st.DataObject) -> None:
    resting = RestingBids(per_client=count)
    limits = data.draw(st.lists(st.integers(0, 10**9), min_size=count, max_size=count))
    for number, limit in enumerate(limits):
        resting.add(job(number), CLIENT, bid(number), limit, number)
    looked = set()
    for _ in range(count):
        up = resting.up()
        assert up >= {one.job for one in resting.best()[:AT_ONCE]}
        assert len(up) <= AT_ONCE + LONGEST
        looked |= up
        for one in sorted(up):  # in vain
            entry = resting.remove(one)
            assert entry is not None
            resting.add(one, CLIENT, entry.bid, entry.limit, entry.since)
    assert looked == {job(number) for number in range(count)}


def test_at_most_so_many_of_one_client() -> None:
    resting = RestingBids()
    for number in range(RESTING_PER_CLIENT):
        assert resting.add(job(number), CLIENT, bid(number), 1, 0) is None
    assert resting.add(job(0), CLIENT, bid(0), 1, 0) is None, "it rests already"
    refused = resting.add(job(99), CLIENT, bid(99), 1, 0)
    assert refused is not None
    assert refused.code is Code.TOO_MANY
    assert resting.add(job(99), GATEWAY, bid(99), 1, 0) is None
    assert resting.remove(job(3)) is not None
    assert resting.remove(job(3)) is None
    assert resting.add(job(98), CLIENT, bid(98), 1, 0) is None


def test_the_whole_is_bounded_too() -> None:
    resting = RestingBids(capacity=1)
    assert resting.add(job(1), CLIENT, bid(), 1, 0) is None
    refused = resting.add(job(2), GATEWAY, bid(), 1, 0)
    assert refused is not None
    assert refused.code is Code.BUSY


def test_a_bid_rests_until_its_deadline() -> None:
    resting = RestingBids()
    resting.add(job(1), CLIENT, bid(deadline_ms=100), 1, 50)
    resting.add(job(2), CLIENT, bid(deadline_ms=500), 1, 50)
    assert resting.expire(149) == ()
    assert [one.job for one in resting.expire(150)] == [job(1)]
    assert [one.job for one in resting.best()] == [job(2)]
    resting.expire(10**9)
    assert (len(resting), resting._of_client, resting._order) == (0, {}, [])


def test_a_refusal_travels_with_its_counts() -> None:
    counts = {Rule.PRICE: 2, Rule.MODEL: 40, Rule.FINISH: 0}
    refusal = Refusal(Code.NO_MATCH, 42, listed(counts), 10, 5, hint_for(counts, 10, 5))
    assert decode(encode(refusal)) == refusal
    assert refusal.counts == {"model": 40, "price": 2}
    assert str(refusal) == "NO_MATCH: raise the limit: the cheapest asks 10 wei, the limit is 5 wei (model 40, price 2)"
    assert simple(Code.NO_CREDIT, "x" * 999).hint == "x" * 400


def test_every_rule_has_a_hint() -> None:
    hints = {hint_for({rule: 1}, 0, 0) for rule in Rule}
    assert len(hints) == len(Rule)
    assert all(len(hint) <= 400 for hint in hints)
