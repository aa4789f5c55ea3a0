"""Who makes the next step: earliest deadline first, and nobody waits two rounds, whatever the deadlines are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compute.batching import (
    LEAST_GAIN,
    MAX_OPEN,
    SIZES,
    Batching,
    crowded,
    fitting,
    gain_at,
    gains_of,
    limit_of,
    worthwhile,
)

A, B, C, D = (bytes([n]) for n in range(4))
FOREVER = 10**12


def steps(batching: Batching, count: int, cost: int = 1) -> list[tuple[bytes, ...]]:
    made = []
    for _ in range(count):
        made.append(batching.next_step())
        batching.stepped(made[-1], cost)
    return made


def joined(limit: int, **dues: int) -> Batching:
    batching = Batching()
    for name, due in dues.items():
        batching.join(name.encode(), "group", due, limit, 1)
    return batching


def test_whoever_fits_shares_every_step() -> None:
    assert steps(joined(4, a=3, b=2, c=1), 2) == [(b"c", b"b", b"a")] * 2
    assert Batching().next_step() == ()


def test_without_a_gain_from_batches_the_steps_interleave() -> None:
    made = steps(joined(1, a=1, b=2), 12)
    assert all(len(step) == 1 for step in made)
    assert made.count((b"a",)) > made.count((b"b",)) >= 4  # the first due gets more, the other is not left waiting


def test_those_due_first_share_the_step() -> None:
    assert joined(2, a=30, b=10, c=20).next_step() == (b"b", b"c")


def test_a_job_joins_and_leaves_between_any_two_steps() -> None:
    batching = joined(2, a=1)
    assert steps(batching, 1) == [(b"a",)]
    batching.join(b"b", "group", 2, 2, 1)
    assert steps(batching, 1) == [(b"a", b"b")]
    batching.leave(b"a")
    batching.leave(b"nobody")
    assert steps(batching, 1) == [(b"b",)]
    batching.leave(b"b")
    assert len(batching) == 0
    assert batching.next_step() == ()


def test_groups_do_not_mix_and_a_short_step_waits_no_round_of_long_ones() -> None:
    batching = Batching()
    batching.join(b"large", "large", 1, 1, 1000)
    batching.join(b"small", "small", FOREVER, 8, 10)
    made = []
    for _ in range(6):
        made.append(batching.next_step())
        batching.stepped(made[-1], 1000 if made[-1] == (b"large",) else 10)
    assert made[:2] == [(b"large",), (b"small",)]


def test_a_batch_that_was_too_large_stays_smaller() -> None:
    batching = joined(8, a=1, b=2, c=3, d=4)
    batching.narrow(b"a", 2)
    assert len(batching.next_step()) == 2
    batching.narrow(b"a", 4)
    assert len(batching.next_step()) == 2
    batching.narrow(b"a", 0)
    assert len(batching.next_step()) == 1


COSTS = {"small": 3, "middle": 10, "large": 70}
LIMITS = {"small": 4, "middle": 2, "large": 1}


class Fairness(RuleBasedStateMachine):
    """Jobs of three groups come and go with any deadlines. What a step of a group takes does not change."""

    def __init__(self) -> None:
        super().__init__()
        self.batching = Batching()
        self.groups: dict[bytes, str] = {}
        self.waits: dict[bytes, tuple[int, int]] = {}  # how long, and the longest round meanwhile
        self.number = 0

    def round(self) -> int:
        counts = {group: list(self.groups.values()).count(group) for group in COSTS}
        return sum(-(-counts[group] // LIMITS[group]) * cost for group, cost in COSTS.items())

    @rule(group=st.sampled_from(sorted(COSTS)), due=st.integers(0, 5), often=st.booleans())
    def join(self, group: str, due: int, often: bool) -> None:
        self.number += 1
        job = self.number.to_bytes(4, "big")
        self.groups[job], self.waits[job] = group, (0, 0)
        self.batching.join(job, group, due if often else FOREVER, LIMITS[group], COSTS[group])

    @precondition(lambda self: self.groups)
    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        job = sorted(self.groups)[which % len(self.groups)]
        del self.groups[job], self.waits[job]
        self.batching.leave(job)

    @precondition(lambda self: self.groups)
    @rule(times=st.integers(1, 30))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.waits = {job: (wait, max(most, self.round())) for job, (wait, most) in self.waits.items()}
            made = self.batching.next_step()
            (group,) = {self.groups[job] for job in made}
            assert len(set(made)) == len(made) <= LIMITS[group]
            same = [job for job in self.groups if self.groups[job] == group]
            assert len(made) == min(len(same), LIMITS[group])  # no place in a step stays empty
            for job in made:
                wait, most = self.waits[job]
                assert wait < 2 * most
                self.waits[job] = 0, 0
            cost = COSTS[group]
            self.waits = {j: (w if j in made else w + cost, m) for j, (w, m) in self.waits.items()}
            self.batching.stepped(made, cost)

    @invariant()
    def nobody_waits_two_rounds(self) -> None:
        assert self.batching.round() == self.round()
        for wait, most in self.waits.values():
            assert wait == 0 or wait < 2 * max(most, self.round())


TestFairness = Fairness.TestCase
TestFairness.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=len(SIZES)))
def test_gains_end_at_the_first_size_that_does_not_pay(rates: list[float]) -> None:
    gains = gains_of(rates)
    assert gains[0] == 100
    assert 1 <= len(gains) <= len(rates)
    assert all(larger * 100 >= smaller * LEAST_GAIN for smaller, larger in pairwise(gains))
    assert limit_of(gains) == SIZES[len(gains) - 1]
    assert 1 <= worthwhile(gains) <= limit_of(gains) <= MAX_OPEN


@given(alone=st.integers(1, 10**6), jobs=st.integers(1, 40))
def test_more_company_never_makes_a_job_faster(alone: int, jobs: int) -> None:
    gains = (100, 150, 220, 260)
    assert crowded(alone, 1, gains) == alone
    assert alone <= crowded(alone, jobs, gains) <= alone * jobs
    if jobs > 8:
        assert crowded(alone, jobs + 1, gains) >= crowded(alone, jobs, gains)


def test_what_holds_for_small_samples_is_cut_for_large_ones() -> None:
    gains = (100, 150, 220, 260)
    assert fitting(gains, 64 * 64, 64 * 64) == fitting(gains, 32 * 32, 64 * 64) == gains
    assert fitting(gains, 128 * 128, 64 * 64) == (100, 150)
    assert fitting(gains, 1024 * 1024, 64 * 64) == (100,)
    assert [gain_at(jobs, gains) for jobs in (1, 2, 3, 4, 7, 8, 30)] == [100, 150, 150, 220, 220, 260, 260]


@pytest.mark.parametrize(
    ("gains", "jobs"),
    [((100,), 1), ((100, 109), 1), ((100, 110), 2), ((100, 158, 209, 224, 241), 4), ((100, 105, 200), 1)],
)
def test_places_are_worth_it_while_each_doubling_earns_a_tenth(gains: tuple[int, ...], jobs: int) -> None:
    assert worthwhile(gains) == jobs


@pytest.mark.parametrize(("rates", "gains"), [([10, 15, 15.5, 30], (100, 150)), ([10, 10], (100,)), ([], (100,))])
def test_gains_in_percent(rates: list[float], gains: tuple[int, ...]) -> None:
    assert gains_of(rates) == gains
