"""A job across its attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.job import MOST_NOES, OVER, Job, JobState
from p2p.codec import decode, encode
from p2p.errors import Refused
from p2p.peer import PeerId

ANN, BEN, CID = (PeerId(bytes([n]) * 39) for n in (1, 2, 3))
NEW = Job(b"j" * 32, b"b" * 32, 100)


def test_a_job_is_awarded_accepted_delivered_and_settled() -> None:
    job = NEW.award(ANN, 80)
    assert job.state is JobState.AWARDED
    job = job.accept(1)
    assert job.state is JobState.RUNNING
    job = job.deliver(1, 70, paid=70)
    assert (job.state, job.charge, job.stranded) == (JobState.DELIVERED, 70, {})
    assert job.settle().settle().state is JobState.SETTLED


def test_a_failed_attempt_opens_the_job_to_others_and_to_all_when_none_is_left() -> None:
    job = NEW.award(ANN, 80).accept(1).end(1, "LOST", paid=5)
    assert job.state is JobState.OPEN
    assert job.candidates([ANN, BEN]) == (BEN,)
    job = job.award(BEN, 90).end(2, "SILENT")
    assert job.candidates([ANN, BEN]) == (ANN, BEN)
    assert job.candidates([ANN, BEN, CID]) == (CID,)
    assert job.stranded == {ANN: 5}
    assert job.charge == 0


def test_a_job_is_at_fault_when_two_find_so_or_nobody_is_left_who_did_not_say_no() -> None:
    once = NEW.award(ANN, 80).accept(1).end(1, "BAD_INPUT")
    assert once.is_declined([ANN], more=False)
    assert once.is_declined([], more=False)
    assert not once.is_declined([ANN], more=True)  # who has no place now may have one soon
    assert not once.is_declined([ANN, BEN], more=False)  # one alone may lie
    twice = once.award(BEN, 80).accept(2).end(2, "BAD_INPUT")
    assert twice.is_declined([ANN, BEN, CID], more=True)
    lost = once.award(BEN, 80).accept(2).end(2, "LOST")
    assert not lost.is_declined([ANN, BEN], more=False)
    assert not NEW.is_declined([], more=False)


def test_a_policy_is_one_sellers_own_until_there_were_too_many() -> None:
    job = NEW
    for number in range(1, MOST_NOES + 1):
        job = job.award((ANN, BEN)[number % 2], 80).accept(number).end(number, "POLICY")
        assert job.is_declined([ANN, BEN, CID], more=True) is (number == MOST_NOES)
    assert job.contradicted == frozenset()


def test_who_found_fault_with_what_another_did_is_known() -> None:
    job = NEW.award(ANN, 80).accept(1).end(1, "BAD_INPUT").award(BEN, 90).accept(2)
    assert job.contradicted == frozenset()
    assert job.deliver(2, 90, paid=90).contradicted == {ANN}


def test_a_paid_key_of_an_ended_attempt_is_used_while_the_job_is_open() -> None:
    job = NEW.award(ANN, 80).accept(1).end(1, "NO_KEY", paid=80).award(BEN, 90).accept(2)
    job = job.deliver(1, 80, paid=80)
    assert (job.state, job.result, job.charge) == (JobState.DELIVERED, 1, 80)
    assert job.superfluous is not None
    assert job.superfluous.seller == BEN
    later = job.deliver(2, 90, paid=90)
    assert later.result == 1
    done = later.end(2, "CANCELLED", paid=6, cost=4)
    assert (done.superfluous, done.stranded, done.charge) == (None, {BEN: 2}, 80)


def test_another_body_under_the_same_id_is_refused_and_the_same_is_a_repeat() -> None:
    assert NEW.repeat(b"b" * 32) is NEW
    with pytest.raises(Refused, match="OTHER_BODY"):
        NEW.repeat(b"c" * 32)


def test_no_second_attempt_while_one_is_live_none_past_the_limit_none_after_the_end() -> None:
    with pytest.raises(Refused, match="NOT_OPEN"):
        NEW.award(ANN, 1).award(BEN, 1)
    with pytest.raises(Refused, match="LIMIT"):
        NEW.award(ANN, 101)
    with pytest.raises(Refused, match="NOT_OPEN"):
        NEW.fail("DEADLINE").award(ANN, 1)
    with pytest.raises(Refused, match="NO_RESULT"):
        NEW.fail("DEADLINE").settle()


def test_a_cancel_is_charged_what_it_cost() -> None:
    job = NEW.award(ANN, 80).accept(1).end(1, "CANCELLED", paid=5, cost=3).fail("CANCELLED")
    assert (job.charge, job.stranded, job.is_over) == (3, {ANN: 2}, True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["award", "accept", "end", "deliver", "settle", "fail"]),
        st.integers(0, 4),
        st.integers(0, 120),
        st.sampled_from([ANN, BEN, CID]),
    ),
    max_size=25,
)


@given(STEPS)
def test_whatever_comes_there_is_one_live_attempt_one_result_and_a_charge_within_the_limit(
    steps: list[tuple[str, int, int, PeerId]],
) -> None:
    job = NEW
    for what, number, wei, seller in steps:
        before = job
        try:
            match what:
                case "award":
                    job = job.award(seller, wei)
                case "accept":
                    job = job.accept(number)
                case "end":
                    job = job.end(number, "LOST", paid=wei)
                case "deliver":
                    job = job.deliver(number, wei, paid=wei)
                case "settle":
                    job = job.settle()
                case _:
                    job = job.fail("DEADLINE")
        except Refused:
            assert job is before
        assert job.charge <= job.limit
        assert [one.number for one in job.attempts] == list(range(1, len(job.attempts) + 1))
        assert (job.live is None) == (job.state not in (JobState.AWARDED, JobState.RUNNING))
        if job.live is not None:
            assert all(one.code is not None for one in job.attempts[:-1])
        if before.result is not None:
            assert (job.result, job.charge) == (before.result, before.charge)
        if before.state in OVER:
            assert job.is_over
        assert decode(encode(job)) == job
