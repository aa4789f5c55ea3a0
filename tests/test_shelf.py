"""The shelf of models: what is loaded, kept, put out and refused, as stories and over random histories."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from compute.shelf import LEAST_STAY_MS, MEND_MS, STAY, Command, Decline, Evict, Load, Place, Shelf
from p2p.errors import Refused

A, B, C = b"a", b"b", b"c"
LONG = STAY * 20_000


def shelf(budget: int, *, eager: bool = False, pinned: bytes = b"", **costs: int) -> Shelf:
    made = Shelf(budget)
    for name, cost in costs.items():
        made.add(name.encode(), cost, eager=eager, pinned=name.encode() in pinned)
    return made


def warm(made: Shelf, model: bytes, now: int = 0, job: bytes = b"") -> None:
    """Have a model loaded by a job that has come and gone, or still waits when it is named."""
    made.want(model, job or b"first", now)
    assert made.decide(now)[-1] == Load(model)
    made.loaded(model, made.cost(model), 1000, now)
    assert made.decide(now) == []
    if not job:
        made.begin(model, b"first")
        made.leave(model, b"first")


def test_a_cold_model_is_loaded_for_the_job_that_asks() -> None:
    made = shelf(10, a=4)
    assert made.decide(0) == []
    made.want(A, b"1", 5)
    assert made.eta_ms(A, 5) > 0
    assert made.decide(5) == [Load(A)]
    assert made.decide(6) == []  # it is under way
    assert not made.may_begin(A)
    made.loaded(A, 5, 700, 705)
    assert made.decide(705) == []
    assert (made.cost(A), made.eta_ms(A, 705), made.place(A)) == (5, 0, Place.WARM)
    assert made.begin(A, b"1") == 700
    with pytest.raises(KeyError):
        made.begin(A, b"1")
    made.want(A, b"2", 800)
    assert made.begin(A, b"2") == 0


def test_the_least_recently_used_makes_way() -> None:
    made = shelf(10, a=4, b=4, c=4)
    for model in (A, B):
        warm(made, model)
    made.want(A, b"1", 1)
    made.begin(A, b"1")
    made.leave(A, b"1")
    made.want(C, b"2", 2)
    assert made.decide(2) == [Evict(B), Load(C)]


def test_the_budget_is_used_to_its_last_byte_and_no_further() -> None:
    for budget, commands in ((8, [Load(B)]), (7, [Evict(A), Load(B)])):
        made = shelf(budget, a=4, b=4)
        warm(made, A)
        made.want(B, b"1", 1)
        assert made.decide(1) == commands
    made = shelf(8, a=4, b=4)
    warm(made, A)
    made.want(B, b"1", 1)
    assert made.decide(1) == [Load(B)]
    made.loaded(B, 5, 1, 2)
    assert made.decide(2) == [Evict(A)]


def test_a_pinned_model_is_loaded_first_and_stays() -> None:
    made = shelf(10, pinned=B, a=6, b=6)
    assert made.decide(0) == [Load(B)]
    made.loaded(B, 6, 1, 1)
    assert made.decide(1) == []
    with pytest.raises(Refused, match="NO_ROOM") as told:
        made.want(A, b"1", 2)
    assert (told.value.have, told.value.need) == (4, 6)
    made.pin(B, False, 3)
    made.want(A, b"1", 3)
    assert made.decide(3) == [Evict(B), Load(A)]


def test_a_running_model_is_waited_for_until_it_has_stayed_long_enough() -> None:
    made = shelf(10, a=6, b=6)
    warm(made, A, job=b"1")
    made.begin(A, b"1")
    made.want(B, b"2", 0)
    made.want(A, b"3", 1)
    assert made.decide(2) == []
    assert made.may_begin(A)
    assert made.decide(LONG) == []  # it runs
    assert not made.may_begin(A)  # but nothing new of it begins
    made.leave(A, b"1")
    assert made.decide(LONG) == [Evict(A), Load(B)]
    made.loaded(B, 6, 1000, LONG + 1)
    assert made.decide(LONG + 1) == []
    made.begin(B, b"2")
    made.leave(B, b"2")
    assert made.decide(LONG + 2) == [Evict(B), Load(A)]  # the third job still waits


def test_two_that_do_not_fit_together_work_longer_than_they_load() -> None:
    """Both have jobs without an end: whoever is warm stays for STAY loads of the other."""
    made, now, load_ms, loads, served = shelf(10, a=6, b=6), 0, 3_000, 0, {A: 0, B: 0}
    running: bytes | None = None
    for model in (A, B):
        made.want(model, b"0", now)
    while now < 600_000:
        if running:
            made.leave(running, b"%d" % served[running])
            served[running] += 1
        for command in made.decide(now):
            if isinstance(command, Load):
                loads, now = loads + 1, now + load_ms
                made.loaded(command.model, 6, load_ms, now)
                assert made.decide(now) == []
        running = next((model for model in (A, B) if made.may_begin(model)), None)
        if running:
            made.begin(running, b"%d" % served[running])
            made.want(running, b"%d" % (served[running] + 1), now)
        now += 500
    assert min(served.values()) > 300
    assert 10 < loads < 600_000 / (STAY * load_ms) + 2
    assert loads * load_ms < 600_000 / (STAY + 1) * 1.3


def test_a_model_loaded_for_a_job_serves_it_before_it_goes() -> None:
    made = shelf(10, a=6, b=6)
    warm(made, A, job=b"1")
    made.want(B, b"2", 1)
    assert made.decide(10 * LONG) == []
    made.leave(A, b"1")  # given up
    assert made.decide(10 * LONG) == [Evict(A), Load(B)]


def test_who_waits_longest_is_not_overtaken() -> None:
    made = shelf(10, a=6, b=6, c=1)
    warm(made, A, job=b"1")
    made.begin(A, b"1")
    made.want(B, b"2", 1)
    made.want(C, b"3", 2)
    assert made.decide(3) == []


def test_a_load_that_cost_more_than_was_guessed_is_made_good() -> None:
    made = shelf(10, a=4, b=4)
    warm(made, A)
    made.want(B, b"1", 1)
    assert made.decide(1) == [Load(B)]
    made.loaded(B, 9, 1, 2)
    assert made.decide(2) == [Evict(A)]
    assert made.may_begin(B)


def test_a_load_too_large_beside_a_running_model_goes_and_waits() -> None:
    made = shelf(10, a=4, b=4)
    warm(made, A, job=b"1")
    made.begin(A, b"1")
    made.want(B, b"2", 1)
    assert made.decide(1) == [Load(B)]
    made.loaded(B, 9, 1, 2)
    assert made.decide(2) == [Evict(B)]
    assert made.decide(3) == []
    made.leave(A, b"1")
    assert made.decide(4) == [Evict(A), Load(B)]


def test_a_load_that_does_not_fit_beside_the_pinned_is_declined() -> None:
    made = shelf(10, pinned=A, a=4, b=4)
    made.decide(0)
    made.loaded(A, 4, 1, 0)
    made.decide(0)
    made.want(B, b"1", 1)
    assert made.decide(1) == [Load(B)]
    made.loaded(B, 8, 1, 2)
    assert made.decide(2) == [
        Evict(B),
        Decline((b"1",), "NO_ROOM", "the pinned models leave too little memory for it", 6, 8),
    ]


def test_one_larger_than_the_budget_is_loaded_alone() -> None:
    made = shelf(10, a=4, b=40)
    warm(made, A)
    made.want(B, b"1", 1)
    assert made.decide(1) == [Evict(A), Load(B)]
    made.loaded(B, 41, 1, 2)
    assert made.decide(2) == []
    assert made.may_begin(B)


def test_eager_models_are_loaded_while_there_is_room_and_nobody_waits() -> None:
    made = shelf(10, eager=True, a=6, b=6, c=4)
    assert made.decide(0) == [Load(A)]
    made.want(C, b"1", 1)
    made.loaded(A, 6, 1, 2)
    assert made.decide(2) == [Load(C)]
    made.loaded(C, 4, 1, 3)
    assert made.decide(3) == []
    assert made.place(B) is Place.COLD


def test_a_broken_model_is_refused_and_one_that_may_mend_is_tried_again() -> None:
    made = shelf(10, a=6, b=2)
    for model, mends in ((A, False), (B, True)):
        made.want(model, b"1", 0)
        assert made.decide(0) == [Load(model)]
        assert made.failed(model, "why", 1, mends=mends) == (b"1",)
        with pytest.raises(Refused, match="why"):
            made.want(model, b"1", 2)
    with pytest.raises(Refused, match="BROKEN"):
        made.want(A, b"1", MEND_MS + 1)
    made.want(B, b"1", MEND_MS + 1)
    assert made.decide(MEND_MS + 1) == [Load(B)]
    with pytest.raises(Refused, match="NO_MODEL"):
        made.want(b"x", b"1", 0)


def test_an_eta_counts_what_is_before_it() -> None:
    made = shelf(100, a=1, b=1, c=1)
    for model, took in ((A, 4_000), (B, 2_000), (C, 1_000)):
        made.want(model, b"1", 0)
        made.decide(0)
        made.loaded(model, 100, took, 0)
        made.decide(0)
        made.leave(model, b"1")
    made.want(B, b"1", 10)
    assert made.decide(10) == [Evict(C), Load(B)]
    made.want(A, b"2", 11)
    made.want(C, b"3", 12)
    assert sorted(made.waiting()) == [(A, b"2"), (B, b"1"), (C, b"3")]
    assert [made.eta_ms(model, 510) for model in (B, A, C)] == [1_500, 5_500, 6_500]


COSTS = st.integers(1, 5)  # close to the budgets, so that sums meet them


class Histories(RuleBasedStateMachine):
    """Random models, jobs, lies about sizes, and time. The shell is played by the rules."""

    @initialize(budget=st.integers(3, 8), costs=st.lists(COSTS, min_size=2, max_size=5), pinned=st.integers(-1, 4))
    def begin(self, budget: int, costs: list[int], pinned: int) -> None:
        self.shelf, self.now, self.job = Shelf(budget), 0, 0
        self.names = [bytes([65 + n]) for n in range(len(costs))]
        self.pinned: set[bytes] = set()
        self.warm: dict[bytes, int] = {}  # by the last use, the oldest first
        self.loading: bytes | None = None
        self.running: dict[bytes, set[bytes]] = {name: set() for name in self.names}
        self.waiting: dict[bytes, set[bytes]] = {name: set() for name in self.names}
        for n, (name, cost) in enumerate(zip(self.names, costs, strict=True)):
            self.shelf.add(name, cost, pinned=n == pinned, eager=bool(n % 2))
            if n == pinned:
                self.pinned.add(name)

    def carry_out(self) -> None:
        for command in self.shelf.decide(self.now):
            self.obey(command)

    def obey(self, command: Command) -> None:
        match command:
            case Evict():
                assert not self.running[command.model], "a running model was put out"
                fresh = command.model == getattr(self, "fresh", None)
                assert command.model not in self.pinned or fresh, "a pinned model was put out"
                idle = [m for m in self.warm if not self.running[m] and not self.waiting[m] and m not in self.pinned]
                if not self.waiting[command.model] and command.model not in self.pinned:
                    assert idle[0] == command.model, "not the least recently used"
                del self.warm[command.model]
            case Load():
                assert self.loading is None
                assert command.model not in self.warm
                self.loading = command.model
            case Decline():
                for waiting in self.waiting.values():
                    waiting.difference_update(command.jobs)

    @rule(which=st.integers(0, 4))
    def want(self, which: int) -> None:
        name = self.names[which % len(self.names)]
        self.job += 1
        job = b"%d" % self.job
        try:
            self.shelf.want(name, job, self.now)
        except Refused:
            return
        self.waiting[name].add(job)
        self.carry_out()

    @precondition(lambda self: self.loading)
    @rule(cost=COSTS, took=st.integers(1, 5_000))
    def load_ends(self, cost: int, took: int) -> None:
        assert self.loading
        name, self.loading, self.fresh = self.loading, None, self.loading
        self.now += took
        self.shelf.loaded(name, cost, took, self.now)
        self.warm[name] = cost
        self.carry_out()
        self.fresh = None

    @precondition(lambda self: self.loading)
    @rule(mends=st.booleans())
    def load_fails(self, mends: bool) -> None:
        assert self.loading
        name, self.loading = self.loading, None
        assert set(self.shelf.failed(name, "why", self.now, mends=mends)) == self.waiting[name]
        self.waiting[name].clear()
        self.carry_out()

    @rule(which=st.integers(0, 4))
    def start(self, which: int) -> None:
        name = self.names[which % len(self.names)]
        if self.waiting[name] and self.shelf.may_begin(name):
            job = self.waiting[name].pop()
            self.shelf.begin(name, job)
            self.running[name].add(job)
            self.warm[name] = self.warm.pop(name)
            self.carry_out()

    @rule(which=st.integers(0, 4), waiting=st.booleans())
    def finish(self, which: int, waiting: bool) -> None:
        name = self.names[which % len(self.names)]
        jobs = self.waiting[name] if waiting else self.running[name]
        if jobs:
            self.shelf.leave(name, jobs.pop())
            if not waiting:
                self.warm[name] = self.warm.pop(name)
            self.carry_out()

    @rule(which=st.integers(0, 4), pinned=st.booleans())
    def pin(self, which: int, pinned: bool) -> None:
        name = self.names[which % len(self.names)]
        try:
            self.shelf.pin(name, pinned, self.now)
        except Refused:
            return
        (self.pinned.add if pinned else self.pinned.discard)(name)
        self.carry_out()

    @rule(ms=st.sampled_from([1, 500, LEAST_STAY_MS, LONG]))
    def wait(self, ms: int) -> None:
        self.now += ms
        self.carry_out()

    @invariant()
    def what_is_loaded_fits_or_is_one(self) -> None:
        if hasattr(self, "shelf") and self.loading is None:
            assert sum(self.warm.values()) <= self.shelf.budget or len(self.warm) <= 1
            assert {m for m in self.names if self.shelf.place(m) is Place.WARM} == set(self.warm)

    def teardown(self) -> None:
        """From any state: when running jobs end and loads cost what they cost before, no job waits for ever."""
        if not hasattr(self, "shelf"):
            return
        for _ in range(200):
            if self.loading:
                self.load_ends_as_known()
            for name in self.names:
                for job in list(self.running[name]):
                    self.running[name].discard(job)
                    self.shelf.leave(name, job)
                    self.warm[name] = self.warm.pop(name)
                self.carry_out()
                while self.waiting[name] and self.shelf.may_begin(name):
                    job = self.waiting[name].pop()
                    self.shelf.begin(name, job)
                    self.running[name].add(job)
                    self.warm[name] = self.warm.pop(name)
            self.now += LONG
            self.carry_out()
        assert not any(self.waiting.values()), "a job waits for ever"

    def load_ends_as_known(self) -> None:
        assert self.loading
        name, self.loading, self.fresh = self.loading, None, self.loading
        self.warm[name] = self.shelf.cost(name)
        self.shelf.loaded(name, self.shelf.cost(name), 1, self.now)
        self.carry_out()
        self.fresh = None


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
