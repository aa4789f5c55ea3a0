"""The worker's job board, against a model that only remembers what was promised."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from compute.jobboard import KEEP_MS, MAX_JOBS, JobBoard, State
from p2p.errors import Refused
from tests.support.job_specs import job_id, job_spec

SPEC = job_spec(b"m" * 32)
OTHER = job_spec(b"m" * 32, seed=8)
A, B, C = job_id("a"), job_id("b"), job_id("c")


def state_of(board: JobBoard[str], job: bytes) -> State | None:
    found = board.find(job)
    return found.state if found else None


def running(board: JobBoard[str], job: bytes = A) -> None:
    board.submit(job, SPEC)
    taken = board.take()
    assert taken is not None
    assert taken.job_id == job


def test_jobs_run_in_order_of_arrival_and_once() -> None:
    board = JobBoard[str]()
    for job in (A, B, A, C, B):
        board.submit(job, SPEC)
    order = []
    while taken := board.take():
        order.append(taken.job_id)
        board.end(taken.job_id, "done", 1, 0)
    assert order == [A, B, C]


def test_the_same_id_attaches_and_another_spec_conflicts() -> None:
    board = JobBoard[str]()
    running(board)
    board.progress(A, 3, 4, 50)
    assert board.submit(A, SPEC).step == 3
    with pytest.raises(Refused, match="CONFLICT"):
        board.submit(A, OTHER)
    board.end(A, "done", 1, 0)
    assert board.submit(A, SPEC).outcome == "done"
    assert board.take() is None


def test_a_job_is_due_when_somebody_said_so() -> None:
    board = JobBoard[str]()
    board.expect(A, 5)  # nobody knows it yet
    assert board.submit(A, SPEC).due is None
    board.expect(A, 7)
    assert board.submit(A, SPEC).due == 7


def test_a_result_is_kept_for_a_minute() -> None:
    board = JobBoard[str]()
    running(board)
    board.end(A, "done", 1, 1000)
    board.expire(1000 + KEEP_MS - 1)
    assert board.keeps
    board.expire(1000 + KEEP_MS)
    assert not board.keeps
    assert board.submit(A, SPEC).state is State.QUEUED


def test_a_passing_fault_may_be_tried_again_and_a_final_one_not() -> None:
    board = JobBoard[str]()
    running(board)
    board.end(A, "full", 0, 0, passing=True)
    assert board.submit(A, SPEC).state is State.QUEUED
    assert board.take() is not None
    board.end(A, "refused", 0, 0)
    assert board.submit(A, SPEC).state is State.ENDED


def test_a_cancelled_job_is_forgotten_and_its_outcome_dropped() -> None:
    board = JobBoard[str]()
    board.submit(A, SPEC)
    board.cancel(A)
    assert board.take() is None
    running(board, B)
    board.cancel(B)
    assert board.cancelled(B)
    assert not board.end(B, "too late", 1, 0)
    assert not board.keeps
    board.cancel(C)


def test_a_cancel_can_be_withdrawn_while_it_has_not_taken_effect() -> None:
    board = JobBoard[str]()
    running(board)
    board.submit(B, SPEC)
    board.cancel(A)
    assert board.submit(A, SPEC).state is State.RUNNING
    assert not board.cancelled(A)
    assert board.end(A, "done", 1, 0)


def test_the_queue_and_the_kept_bytes_are_bounded() -> None:
    board = JobBoard[str](keep_bytes=10)
    for number in range(MAX_JOBS):
        board.submit(number.to_bytes(32, "big"), SPEC)
    with pytest.raises(Refused, match="BUSY"):
        board.submit(A, SPEC)
    for now in range(3):
        taken = board.take()
        assert taken is not None
        board.end(taken.job_id, "done", 6, now)
    kept = [n for n in range(3) if state_of(board, n.to_bytes(32, "big"))]
    assert kept == [2]


def test_calls_out_of_turn_change_nothing() -> None:
    board = JobBoard[str]()
    board.submit(A, SPEC)
    for call in (
        lambda: board.progress(A, 1, 4, 1),
        lambda: board.end(A, "done", 1, 0),
        lambda: board.progress(B, 1, 4, 1),
    ):
        with pytest.raises(KeyError):
            call()
    assert state_of(board, A) is State.QUEUED


class Board(RuleBasedStateMachine):
    """Any order of calls: a few jobs at a time, and an answer that was given stays the answer."""

    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        self.board = JobBoard[int](keep_ms=100)
        self.now = 0
        self.on_device: list[bytes] = []
        self.answers: dict[bytes, int] = {}

    @rule(target=jobs, number=st.integers(0, 5))
    def name(self, number: int) -> bytes:
        return job_id(f"job {number}")

    @rule(job=jobs)
    def submit(self, job: bytes) -> None:
        found = self.board.submit(job, SPEC)
        assert found.state is not State.CANCELLING
        if found.state is State.ENDED:
            assert found.outcome == self.answers[job]

    @rule()
    def take(self) -> None:
        if len(self.on_device) < 3 and (taken := self.board.take()):
            self.on_device.append(taken.job_id)

    @rule(passing=st.booleans(), place=st.integers(0, 2))
    def end(self, passing: bool, place: int) -> None:
        if place < len(self.on_device):
            job = self.on_device.pop(place)
            if self.board.end(job, self.now, 1, self.now, passing=passing):
                self.answers[job] = self.now

    @rule(job=jobs)
    def cancel(self, job: bytes) -> None:
        self.board.cancel(job)
        found = self.board.find(job)
        assert found is None or found.state is State.CANCELLING

    @rule(passed=st.integers(1, 60))
    def wait(self, passed: int) -> None:
        self.now += passed
        self.board.expire(self.now)

    @invariant()
    def only_the_device_runs(self) -> None:
        jobs = getattr(self, "board", JobBoard[int]())._jobs
        busy = [j for j, job in jobs.items() if job.state in (State.RUNNING, State.CANCELLING)]
        assert sorted(busy) == sorted(getattr(self, "on_device", []))
        assert all((job.outcome is not None) == (job.state is State.ENDED) for job in jobs.values())


TestBoard = Board.TestCase
