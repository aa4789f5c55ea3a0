"""The two machines: joined by a bad stream over every row of their tables, and each alone against any sequence."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market import jobwire as wire
from market.session import Buying, BuyingState, Selling, SellingState, payment_id
from market.session import commands as cmd
from market.session import events as ev
from market.session.money import cancel_cost, first_due, late_price, reservation, slice_total, slices_for
from p2p.errors import MalformedMessage
from tests.support.session_world import JOB, RECEIPT, Plan, World, award, ref, seal_made

LEAST, MOST = 300, 4000  # seeds: at least so many, then on until every row was entered


TROUBLES: tuple[dict[str, Any], ...] = (
    {"refuse": 0.4},
    {"partial": 0.4},
    {"decline": 0.5},
    {"decline": 0.7},
    {"decline": 0.5, "decline_code": wire.UNFUNDED},
    {"work_fails": True},
    {"seal_fails": True},
    {"receipt_fails": True},
    {"overprice": 5},
    {"opens": wire.WRONG_KEY},
    {"judged": ev.AwardJudged(wire.UNFUNDED, 0, 5, "fund a deposit", b"p")},
)


def plan_of(dice: Random) -> Plan:
    """A job of some kind, between parties of some kind, with no trouble, or one or two."""
    price = dice.choice((0, 7, 1600, 1600, 1600))
    to = award(
        price=price,
        late_rate=dice.choice((0, -(-price // 60), price)),
        slices=dice.choice((0, 0, 0, 1, 4)),
        finish_by_ms=dice.choice((500, 20_000, 20_000)),
        deadline_ms=dice.choice((5000, 60_000, 60_000)),
        inputs=dice.choice(((), (), (ref("i1"), ref("i2")))),
    )
    judged = ev.AwardJudged(params=b"p", first=dice.random() < 0.3, cover=dice.choice((0, 0, 0, 450, 5000)))
    trouble: dict[str, Any] = {}
    for _ in range(dice.choice((0, 1, 2))):
        trouble |= dice.choice(TROUBLES)
    return replace(Plan(to, params=dice.choice((b"", b"cached")), judged=judged, files=dice.choice((1, 2))), **trouble)


def run(seed: int, wanted: dict[str, set[tuple[str, str]]]) -> World:
    """One job through a storm, which turns to ``wanted`` rows when it can, and then through the calm after it."""
    dice = Random(seed)
    world = World(plan_of(dice), seed)
    world.wanted = wanted
    world.link()
    if dice.random() < 0.2:
        world.drop_link()
    world.tell("buying", ev.Awarded(world.plan.params))
    for _ in range(dice.choice((1, 2, 4))):
        world.steady(dice.choice((0, 0, 2, 5, 10, 15, 20)))
        world.storm(
            steps=dice.choice((2, 5, 10)),
            lose=dice.choice((0, 0.1, 0.3)),
            crash=dice.choice((0, 0, 0.2)),
            jump=dice.choice((0, 0, 0.02, 0.2)),
            cut=dice.choice((0, 0.02, 0.2)),
            echo=dice.choice((0, 0.3, 0.6)),
            lazy=dice.choice(("", "buying", "selling")),
        )
        if dice.random() < 0.1:
            world.tell("buying", ev.CancelAsked())
        if dice.random() < 0.03:
            world.wipe()
    world.calm()
    return world


def test_two_machines_and_a_bad_stream_enter_every_row_and_always_come_to_an_end() -> None:
    missing = {"buying": set(Buying.table.cells), "selling": set(Selling.table.cells)}
    ends: Counter[tuple[str | None, str | None]] = Counter()
    for seed in range(MOST):
        if seed >= LEAST and not any(missing.values()):
            break
        try:
            world = run(seed, missing)
            assert world.over, (world.buying.state, world.selling.state)
        except AssertionError as failed:
            raise AssertionError(f"seed {seed}: {failed}") from failed
        ends[world.buying.record.code, world.selling.record.code] += 1
        for side, rows in world.entered.items():
            missing[side] -= rows
    for name, table in (("buying", Buying.table), ("selling", Selling.table)):
        print(f"\n{name}: {len(table.cells)} rows")
        print("\n".join(table.draw()))
    print(f"\nseeds 0..{sum(ends.values()) - 1}; how they ended:", *ends.most_common(), sep="\n  ")
    assert missing == {"buying": set(), "selling": set()}
    assert ends[wire.DONE, wire.DONE] > sum(ends.values()) / 50


@pytest.mark.parametrize("first", [False, True], ids=["paid-first", "seller-first"])
@pytest.mark.parametrize("slices", [0, 1, 5])
@pytest.mark.parametrize("params", [b"", b"cached"], ids=["bare", "reserved"])
@pytest.mark.parametrize("price", [0, 1, 1600])
def test_without_mishap_every_kind_of_job_is_paid_once_and_delivered(
    first: bool, slices: int, params: bytes, price: int
) -> None:
    to = award(price=price, slices=slices, inputs=(ref("a"),))
    world = World(Plan(to, params=params, judged=ev.AwardJudged(params=b"p", first=first), files=2), 1)
    world.link()
    world.tell("buying", ev.Awarded(params))
    world.calm()
    assert (world.buying.record.code, world.selling.record.code) == (wire.DONE, wire.DONE)
    assert world.debits == {"buying": price, "selling": price}
    assert sum(world.credited.values()) == price
    assert [d.late for d in world.delivered] == [False]
    assert world.faults == {"buying": [], "selling": []}


@pytest.mark.parametrize("side", ["buying", "selling"])
def test_killed_after_any_command_and_restarted_the_books_agree(side: str) -> None:
    """A kill after each single command that either end ever carries out: award, seal, tickets and key among them."""
    for kill in range(100):
        world = World(Plan(), 1)
        world.link()
        world.tell("buying", ev.Awarded(b"cached"))
        left = _calm_but_kill(world, side, kill)
        world.calm()
        assert (world.buying.record.code, world.selling.record.code) == (wire.DONE, wire.DONE), kill
        assert world.debits == {"buying": 1600, "selling": 1600}, kill
        assert sum(world.credited.values()) == 1600, kill
        assert len(world.delivered) >= 1, kill
        if left:
            return
    raise AssertionError("the story has more commands than expected")


def _calm_but_kill(world: World, side: str, kill: int) -> bool:
    """Let things happen in order, and kill ``side`` after its ``kill``-th command; whether it had fewer."""
    carried = 0
    while world.local or world.wire:
        whose = world.local[0][0] if world.local else world.wire[0][0]
        machine = world.machine(whose)
        twin = type(machine).restore(machine.snapshot(world.now), world.now)  # to look ahead, changes nothing
        event = world.local[0][1] if world.local else world.wire[0][1]
        twin.handle(ev.Connected(), world.now)
        count = len(twin.handle(ev.BlobReceived(event) if isinstance(event, bytes) else event, world.now))
        after = kill - carried if whose == side and carried <= kill < carried + count else None
        carried += count if whose == side else 0
        if world.local:
            world.happen(0, after)
        else:
            world.deliver(0, after)
        if after is not None:
            return False
    return True


# -- each machine against anything -----------------------------------------------------------------------------------

TO = award()
FIRST_ID, SECOND_ID = payment_id(JOB, 1, 0), payment_id(JOB, 1, 1)
MADE = seal_made(TO, 1600)
SALE: tuple[Any, ...] = (
    ev.Connected(),
    TO,
    ev.AwardJudged(params=b"p"),
    wire.Tickets(JOB, 1, FIRST_ID, b"one"),
    ev.PaymentJudged(FIRST_ID, b"v1", 100),
    ev.Stepped(1, 2, 500),
    ev.WorkDone(),
    MADE,
    *(ev.BlobSent(c.blob) for c in MADE.ciphers),
    wire.Tickets(JOB, 1, SECOND_ID, b"two"),
    ev.PaymentJudged(SECOND_ID, b"v2", 1600),
    ev.ReceiptSigned(RECEIPT),
    wire.Closure(JOB, 1, wire.DONE),
)
NUISANCE: tuple[Any, ...] = (
    ev.Disconnected(),
    ev.Connected(),
    ev.Ticked(),
    ev.Restarted(),
    wire.Resume(JOB, 1),
    wire.Cancellation(JOB, 1, wire.CANCELLED),
    ev.PaymentJudged(FIRST_ID, b"v1", 99),
    ev.PaymentJudged(SECOND_ID, b"v2", 1599),
    ev.AwardJudged(params=b"p", cover=5),
    replace(TO, price=1),
    replace(TO, job_id=b"x" * 32),
    ev.ReceiptSigned(RECEIPT),
    ev.SliceWorked(0, ref("s")),
    ev.WorkFailed("FAILED"),
)


def muddles(path: tuple[Any, ...], noise: tuple[Any, ...]) -> st.SearchStrategy[list[Any]]:
    """The right order with things left out, said again, said late, and with what nobody expects in between."""
    known = st.sampled_from(path + noise)
    steps = [
        st.one_of(st.just([e]), st.just([e]), st.just([e, e]), st.just([]), known.map(lambda x: [x])) for e in path
    ]
    gaps = [st.one_of(st.just([]), st.just([]), st.just([]), st.lists(known, max_size=2)) for _ in path]
    return st.tuples(*(s for pair in zip(steps, gaps, strict=True) for s in pair)).map(
        lambda parts: list(chain(*parts))
    )


@given(muddles(SALE, NUISANCE), st.lists(st.sampled_from((0, 10, 5000, 30_000)), min_size=1, max_size=5))
def test_no_sequence_makes_the_seller_work_uncovered_or_give_its_key_unpaid(
    events: list[Any], waits: list[int]
) -> None:
    machine, now, cover, debited = Selling(), 0, 0, 0
    for count, event in enumerate(events):
        now += waits[count % len(waits)]
        if isinstance(event, ev.AwardJudged | ev.PaymentJudged):
            cover = max(cover, event.cover)
        for command in machine.handle(event, now):
            if isinstance(command, cmd.StartWork):
                assert cover >= first_due(machine.award.price, 0)
            if isinstance(command, cmd.SendMessage) and isinstance(command.message, wire.Delivery):
                assert cover >= machine.record.price > 0 or machine.record.price == 0
            if isinstance(command, cmd.Debit):
                assert debited <= command.total <= machine.award.price
                debited = command.total


SEALED = wire.Seal(JOB, 1, MADE.commitment)
KEY = wire.Delivery(JOB, 1, MADE.key, RECEIPT)
PURCHASE: tuple[Any, ...] = (
    ev.Connected(),
    ev.Awarded(b"cached"),
    ev.PaymentReady(FIRST_ID, b"one"),
    wire.Acceptance(JOB, 1, 0, b"p"),
    wire.TicketsVerdict(JOB, 1, FIRST_ID, b"v1"),
    ev.PaymentSettled(FIRST_ID, b"v1", 100),
    wire.Start(JOB, 1),
    wire.Progress(JOB, 1, 1, 2, 500),
    SEALED,
    *(ev.BlobReceived(c.blob) for c in MADE.ciphers),
    ev.PaymentReady(SECOND_ID, b"two"),
    wire.TicketsVerdict(JOB, 1, SECOND_ID, b"v2"),
    ev.PaymentSettled(SECOND_ID, b"v2", 1500),
    KEY,
    ev.Opened(),
)
TROUBLE: tuple[Any, ...] = (
    ev.Disconnected(),
    ev.Connected(),
    ev.Ticked(),
    ev.Restarted(),
    ev.CancelAsked(),
    ev.PaymentDeclined(FIRST_ID),
    ev.PaymentDeclined(SECOND_ID),
    wire.TicketsVerdict(JOB, 1, FIRST_ID, b"", 100, b"fresh"),
    wire.TicketsVerdict(JOB, 1, SECOND_ID, b"", 1500, b"fresh"),
    wire.TicketsVerdict(JOB, 1, FIRST_ID, b"bad", 100, b"fresh"),
    wire.TicketsVerdict(JOB, 1, SECOND_ID, b"half", 900, b"fresh"),
    ev.PaymentSettled(FIRST_ID, b"bad", 0, refused=True),
    ev.PaymentSettled(SECOND_ID, b"bad", 0, refused=True),
    ev.PaymentSettled(SECOND_ID, b"half", 600),
    ev.PaymentReady(payment_id(JOB, 1, 2), b"three"),
    wire.Acceptance(JOB, 1, 10**9, b"p"),
    wire.Due(JOB, 1, 1, 10**9, b"p"),
    wire.SliceOutput(JOB, 1, 0, ref("s"), 1),
    wire.Seal(JOB, 1, seal_made(TO, 1601).commitment),
    replace(SEALED, key=MADE.key, receipt=RECEIPT),
    wire.Closure(JOB, 1, wire.DONE, 10**9),
    wire.Failure(JOB, 1, wire.FAILED),
    replace(SEALED, attempt=2),
)


@given(muddles(PURCHASE, TROUBLE), st.lists(st.sampled_from((0, 10, 5000)), min_size=1, max_size=5))
def test_no_sequence_makes_the_buyer_pay_twice_unseen_or_past_the_price(events: list[Any], waits: list[int]) -> None:
    machine, now = Buying.of(TO), 0
    amounts: dict[bytes, int] = {}
    signed: dict[tuple[bytes, int], bytes] = {}
    sent: dict[bytes, set[bytes]] = {}
    refusals: set[tuple[bytes, bytes]] = set()
    for count, event in enumerate(events):
        now += waits[count % len(waits)]
        if isinstance(event, ev.PaymentSettled) and event.refused:
            refusals.add((event.payment_id, event.verdict))
        if isinstance(event, ev.PaymentReady):
            line = next((p for p in machine.record.payments if p.payment_id == event.payment_id), None)
            if line is not None and not line.payment:
                signed[line.payment_id, line.replaced] = event.payment
        for command in machine.handle(event, now):
            if isinstance(command, cmd.Pay):
                assert (command.payment_id, command.replaces) not in signed, "signed twice"
                assert command.replaces <= len([r for r in refusals if r[0] == command.payment_id])
                assert amounts.setdefault(command.payment_id, command.amount) == command.amount
            if isinstance(command, cmd.SendMessage) and isinstance(command.message, wire.Tickets):
                sent.setdefault(command.message.payment_id, set()).add(command.message.payment)
            if isinstance(command, cmd.OpenSeal):
                assert {c.blob for c in MADE.ciphers} <= set(machine.record.blobs)
            if isinstance(command, cmd.Debit):
                assert command.total <= TO.price
        assert machine.committed <= TO.price
        before_bytes = machine.state in (BuyingState.AWARDED, BuyingState.ACCEPTED, BuyingState.RUNNING)
        if before_bytes or machine.state is BuyingState.RECEIVING:
            assert sum(amounts.values()) <= reservation(TO.price) * (1 + machine.record.topped)


@given(muddles(SALE, NUISANCE), st.integers(0, 12), st.integers(-(10**9), 10**9), st.integers(0, 10**6))
def test_a_seller_restored_from_its_record_goes_on_as_if_nothing_was(
    events: list[Any], cut: int, clock: int, away: int
) -> None:
    one = Selling()
    for event in events[:cut]:
        one.handle(event, 1000)
    one.handle(ev.Disconnected(), 1000)
    other = Selling.restore(one.snapshot(1000), clock, away)
    assert other.state is one.state
    for event in events[cut:]:
        said, same = one.handle(event, 1000 + away), other.handle(event, clock)
        assert [c for c in said if not isinstance(c, cmd.Journal)] == [
            c for c in same if not isinstance(c, cmd.Journal)
        ]
    waits = [None if m.wake_at is None else m.wake_at - now for m, now in ((one, 1000 + away), (other, clock))]
    assert waits[0] == waits[1]


@given(st.binary(max_size=300))
def test_a_garbled_record_is_refused_with_one_error(data: bytes) -> None:
    with pytest.raises((MalformedMessage,)):
        Buying.restore(data, 0)


@given(muddles(PURCHASE, TROUBLE))
def test_whatever_would_cost_money_is_journaled_before_it(events: list[Any]) -> None:
    machine = Buying.of(TO)
    for event in events:
        commands = machine.handle(event, 0)
        if any(c.journal_first for c in commands):
            assert isinstance(commands[0], cmd.Journal)
            assert Buying.restore(commands[0].record, 0).record == replace(machine.record, connected=False)


@given(muddles(SALE, NUISANCE), st.booleans())
def test_nothing_but_an_acceptance_that_asks_for_nothing_leaves_before_its_record(
    events: list[Any], with_reservation: bool
) -> None:
    machine = Selling()
    for event in events:
        if with_reservation and isinstance(event, wire.Award):
            event = replace(event, reservation=b"zero")
        commands = machine.handle(event, 0)
        if not any(c.journal_first for c in commands):
            continue
        place = next(n for n, c in enumerate(commands) if isinstance(c, cmd.Journal))
        for early in commands[:place]:
            assert isinstance(early, cmd.SendMessage)
            assert isinstance(early.message, wire.Acceptance)
            assert machine.award.reservation or not early.message.due
        assert Selling.restore(commands[place].record, 0).record == replace(machine.record, connected=False)


def test_a_stray_changes_nothing() -> None:
    machine = Selling()
    for stray in (
        ev.WorkDone(),
        MADE,
        ev.ReceiptSigned(RECEIPT),
        ev.PaymentJudged(FIRST_ID, b"v", 5),
        ev.Ticked(),
        KEY,
    ):
        before = machine.record
        assert machine.handle(stray, 5) == []
        assert machine.entered is None
        assert machine.record is before


def test_the_documented_tables_are_the_real_ones() -> None:
    text = (Path(__file__).parent.parent / "docs" / "session.md").read_text()
    for table in (Selling.table, Buying.table):
        assert "\n".join(table.draw()) in text


def test_every_state_and_every_event_is_in_the_tables() -> None:
    for states, table in ((SellingState, Selling.table), (BuyingState, Buying.table)):
        assert {state for state, _ in table.cells} == {s.value for s in states}
    spoken = {event for _, event in Selling.table.cells | Buying.table.cells}
    assert {cls.__name__ for cls in ev.Event.__args__} <= spoken  # type: ignore[attr-defined]


# -- arithmetic ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**30), st.integers(1, 16))
def test_slices_add_up_to_the_price(price: int, slices: int) -> None:
    totals = [slice_total(price, slices, n) for n in range(slices + 1)]
    assert totals[0] == 0
    assert totals[-1] == price
    assert totals == sorted(totals)


@given(st.integers(0, 10**30), st.integers(0, 10**30), st.integers(0, 10**7))
def test_lateness_never_raises_a_price_and_a_cancel_never_exceeds_the_reservation(
    price: int, rate: int, late: int
) -> None:
    assert 0 <= late_price(price, rate, late) <= price
    assert late_price(price, rate, 999) == price
    assert cancel_cost(price, late, 10**7) <= reservation(price) <= price


@given(st.integers(1, 10**30), st.integers(1, 10**30))
def test_a_slice_stays_within_exposure_until_there_are_sixteen(price: int, exposure: int) -> None:
    slices = slices_for(price, exposure)
    assert 1 <= slices <= 16
    assert slices == 16 or slice_total(price, slices, 1) <= exposure
