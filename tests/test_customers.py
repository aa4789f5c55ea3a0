"""Customers' money: reserved, charged once or returned, and always there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ledger.auditor import Auditor, audit
from ledger.conservation import BooksBroken, CustomerTotals, PairTotals, WinnerTotals, liability, violations
from ledger.customers import Balance, CustomerBooks
from p2p.errors import Refused
from tests.support.ledger_values import ALICE, Clock, SyncJournal, drive, scratch

JOB = b"\1" * 32


@pytest.fixture
def books() -> Iterator[CustomerBooks]:
    with scratch() as folder:
        journal = SyncJournal(Path(folder) / "j.db")
        yield CustomerBooks(journal, wall_time=Clock())
        assert journal.database.run(audit) == ()
        journal.database.close()


def test_a_job_is_charged_once_and_the_rest_returns(books: CustomerBooks) -> None:
    drive(books.pay_in("ann", 100))
    drive(books.reserve(JOB, "ann", 60))
    assert drive(books.balance("ann")) == Balance(40, 60)
    for _ in range(2):
        job = drive(books.charge(JOB, 40, 5))
        assert (job.price, job.margin, job.state) == (40, 5, "charged")
    assert drive(books.give_back(JOB)).state == "charged"
    assert drive(books.balance("ann")) == Balance(55, 0)
    assert drive(books.pay_out("ann", 55)) == Balance(0, 0)


def test_what_came_to_nothing_returns_whole(books: CustomerBooks) -> None:
    drive(books.pay_in("ann", 100))
    drive(books.reserve(JOB, "ann", 100))
    assert drive(books.open_jobs()) == (JOB,)
    drive(books.give_back(JOB))
    assert drive(books.open_jobs()) == ()
    assert drive(books.balance("ann")) == Balance(100, 0)
    with pytest.raises(Refused, match="JOB_CLOSED"):
        drive(books.charge(JOB, 1))


def test_nobody_spends_what_he_has_not(books: CustomerBooks) -> None:
    drive(books.pay_in("ann", 10))
    with pytest.raises(Refused, match="NO_CREDIT"):
        drive(books.reserve(JOB, "ann", 11))
    drive(books.reserve(JOB, "ann", 10))
    with pytest.raises(Refused, match="NO_CREDIT"):
        drive(books.pay_out("ann", 1))
    with pytest.raises(Refused, match="NO_CREDIT"):
        drive(books.charge(JOB, 10, 1))
    with pytest.raises(Refused, match="JOB_TAKEN"):
        drive(books.reserve(JOB, "bob", 1))
    with pytest.raises(Refused, match="JOB_UNKNOWN"):
        drive(books.charge(b"\2" * 32, 1))


def test_free_jobs_are_counted_and_cost_nothing(books: CustomerBooks) -> None:
    drive(books.reserve(JOB, "loopback", 1000, free=True))
    job = drive(books.charge(JOB, 900))
    assert job.free
    assert job.price == 900
    assert drive(books.balance("loopback")) == Balance(0, 0)


class Customers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = scratch()
        self.journal = SyncJournal(Path(self._folder.name) / "j.db")
        self.books = CustomerBooks(self.journal, wall_time=Clock())

    def teardown(self) -> None:
        self.journal.database.close()
        self._folder.cleanup()

    @rule(who=st.sampled_from("ab"), amount=st.integers(0, 50), out=st.booleans())
    def move(self, who: str, amount: int, out: bool) -> None:
        self.attempt(self.books.pay_out(who, amount) if out else self.books.pay_in(who, amount))

    @rule(job=st.integers(0, 5), who=st.sampled_from("ab"), amount=st.integers(0, 50), free=st.booleans())
    def reserve(self, job: int, who: str, amount: int, free: bool) -> None:
        self.attempt(self.books.reserve(bytes([job]), who, amount, free=free))

    @rule(job=st.integers(0, 5), price=st.integers(0, 50), margin=st.integers(0, 5))
    def charge(self, job: int, price: int, margin: int) -> None:
        self.attempt(self.books.charge(bytes([job]), price, margin))

    @rule(job=st.integers(0, 5))
    def give_back(self, job: int) -> None:
        self.attempt(self.books.give_back(bytes([job])))

    @rule()
    def killed(self) -> None:
        self.journal.restart(clean=False)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.journal.database.run(audit) == ()
        for who in "ab":
            balance = drive(self.books.balance(who))
            assert balance.available >= 0

    def attempt(self, call) -> None:  # type: ignore[no-untyped-def]
        try:
            drive(call)
        except Refused:
            assert self.journal.database.run(audit) == ()


Customers.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCustomers = Customers.TestCase


PAIR = PairTotals("in", "1:0x", ALICE.address, 100, 60, 80, 50, 20, 10, 40)
ANN = CustomerTotals("ann", 100, 10, 50, 50, 40)


@pytest.mark.parametrize(
    ("field", "by", "says"),
    [
        ("credit", 1, "payments"),
        ("payments", 1, "payments"),
        ("debits", -1, "debits"),
        ("carried_debit", 1, "debits"),
        ("claimed", 1, "claims"),
        ("claimed", -41, "negative"),
    ],
)
def test_every_equation_of_a_pair_is_checked(field: str, by: int, says: str) -> None:
    assert violations([PAIR]) == ()
    changed = {name: getattr(PAIR, name) for name in PAIR.__slots__}
    changed[field] += by
    assert any(says in text for text in violations([PairTotals(**changed)]))


def test_every_equation_of_customers_and_winners_is_checked() -> None:
    assert violations([], [ANN]) == ()
    assert liability([ANN]) == 40
    assert "reserved" in violations([], [CustomerTotals("ann", 100, 11, 50, 50, 40)])[0]
    assert "charged" in violations([], [CustomerTotals("ann", 100, 10, 50, 49, 40)])[0]
    assert "never credited" in violations([], [], [WinnerTotals("1:0x", ALICE.address, 1)])[0]
    assert "above credit" in " ".join(violations([PairTotals("in", "1:0x", ALICE.address, 1, 2, 1, 2)]))


async def test_the_auditor_stops_on_the_first_violation(tmp_path: Path, autojump_clock: object) -> None:
    journal = SyncJournal(tmp_path / "j.db")
    auditor = Auditor(journal, wall_time=Clock())
    with pytest.RaisesGroup(pytest.RaisesExc(BooksBroken, match="charged")):
        async with trio.open_nursery() as nursery:
            await nursery.start(auditor.run)
            await trio.sleep(200)
            job = (JOB, "ann", 0, bytes(16), b"\1" * 16, bytes(16), "charged", 0)
            journal.database.db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", job)
            await trio.sleep(3600)
            raise AssertionError("it went on")
    journal.database.close()
