"""A session as stories: ``>>`` what happens, ``<<`` what the machine then wants done, in order, its journal aside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import pytest

from market import jobwire as wire
from market.session import Buying, BuyingState, Selling, SellingState, payment_id
from market.session import commands as cmd
from market.session import events as ev
from market.session.seller import PAY_MS
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.errors import BadSignature, MalformedMessage
from p2p.identity import Identity
from tests.support.session_world import JOB, RECEIPT, award, ref, seal_made

TO = award()
ZERO, ONE, TWO = (payment_id(JOB, 1, n) for n in range(3))
MADE = seal_made(TO, 1600)
CIPHER = MADE.ciphers[0]
SEAL = wire.Seal(JOB, 1, MADE.commitment)
FIRST_SEAL = replace(SEAL, key=MADE.key, receipt=RECEIPT)
KEY = wire.Delivery(JOB, 1, MADE.key, RECEIPT)
SEND = cmd.SendMessage


class Story:
    """``Story(machine) >> event << [commands]``; ``at(ms)`` moves the clock."""

    def __init__(self, machine: Any) -> None:
        self.machine, self.now = machine, 0
        self._out: list[Any] = []

    def at(self, now: int) -> Self:
        self.now = now
        return self

    def __rshift__(self, event: Any) -> Self:
        out = self.machine.handle(event, self.now)
        self.early = [c for c in out if getattr(c, "ahead", False)]
        place = len(self.early)
        assert out[:place] == self.early
        assert any(isinstance(c, cmd.Journal) for c in out[place : place + 1]) == any(c.journal_first for c in out)
        self._out = [c for c in out if not isinstance(c, cmd.Journal)]
        return self

    def __lshift__(self, expected: list[Any]) -> Self:
        assert self._out == expected
        return self

    def into(self, state: Any) -> Self:
        assert self.machine.state is state
        return self


def told(message: Any) -> cmd.SendMessage:
    return SEND(message, journal_first=True)


def told_at_once(message: Any) -> cmd.SendMessage:
    """Before the record of it."""
    return SEND(message, journal_first=True, ahead=True)


def test_a_seller_that_died_right_after_its_acceptance_has_lost_a_job_and_no_money() -> None:
    to = replace(TO, reservation=b"zero")
    before = Story(Selling()) >> ev.Connected() >> to >> ev.AwardJudged(params=b"p")
    assert before.early == [told_at_once(wire.Acceptance(JOB, 1, 100, b"p"))]
    gateway = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded(b"cached") >> ev.PaymentReady(ZERO, b"zero")
    gateway >> wire.Acceptance(JOB, 1, 100, b"p") << []  # nothing is paid on the strength of it
    gateway >> ev.Disconnected()
    gateway >> ev.Connected() << [SEND(wire.Resume(JOB, 1)), told(wire.Tickets(JOB, 1, ZERO, b"zero"))]
    seller = Story(Selling()) >> ev.Connected()  # the record did not reach the disk
    seller >> wire.Resume(JOB, 1) << [SEND(wire.Closure(JOB, 1, wire.UNKNOWN))]
    gateway >> wire.Closure(JOB, 1, wire.UNKNOWN) << [cmd.Close(wire.UNKNOWN, 0, 0)]
    assert gateway.machine.paid == 0


# -- the seller ------------------------------------------------------------------------------------------------------


def working(to: wire.Award = TO, judged: ev.AwardJudged | None = None) -> Story:
    """A seller whose work has begun, at 0, covered by a reservation."""
    story = Story(Selling()) >> ev.Connected() >> to >> (judged or ev.AwardJudged(params=b"p"))
    story >> wire.Tickets(JOB, 1, ZERO, b"zero") >> ev.PaymentJudged(ZERO, b"v0", 100)
    return story.into(SellingState.WORKING)


def sealed(**judged: Any) -> Story:
    story = working(judged=ev.AwardJudged(params=b"p", **judged)).at(1000) >> ev.WorkDone() >> MADE
    if judged.get("first"):
        story >> ev.ReceiptSigned(RECEIPT)
    return story.into(SellingState.SEALED)


def test_a_picture_is_sold() -> None:
    story = Story(Selling()) >> ev.Connected() << []
    story >> TO << [cmd.JudgeAward(TO)]
    story >> ev.AwardJudged(params=b"p") << [told(wire.Acceptance(JOB, 1, 100, b"p"))]
    story >> wire.Tickets(JOB, 1, ZERO, b"zero") << [cmd.CreditPayment(ZERO, b"zero")]
    (
        story
        >> ev.PaymentJudged(ZERO, b"v0", 100)
        << [
            SEND(wire.TicketsVerdict(JOB, 1, ZERO, b"v0")),
            SEND(wire.Start(JOB, 1)),
            cmd.StartWork(TO, 0),
        ]
    )
    for eta_ms in (5000, 4000):  # the model loads
        story >> ev.Stepped(0, 4, eta_ms) << [SEND(wire.Progress(JOB, 1, 0, 4, eta_ms))]
    story >> ev.Stepped(1, 4, 900) << [SEND(wire.Progress(JOB, 1, 1, 4, 900))]
    story >> ev.Stepped(0, 4, 100) << []
    story >> ev.PreviewMade(1, "image/png", b"px") << [SEND(wire.Preview(JOB, 1, 1, "image/png", b"px"))]
    story >> ev.WorkDone() << [cmd.SealArtifacts(1600, 0)]
    story >> MADE << [told(SEAL), cmd.SendBlob(CIPHER.blob)]
    story >> wire.Tickets(JOB, 1, ONE, b"one") << [cmd.CreditPayment(ONE, b"one")]
    (
        story
        >> ev.PaymentJudged(ONE, b"v1", 1600)
        << [
            SEND(wire.TicketsVerdict(JOB, 1, ONE, b"v1")),
            cmd.SignReceipt(1600, 1600),
        ]
    )
    story >> ev.ReceiptSigned(RECEIPT) << [cmd.Debit(1600), cmd.Close(wire.DONE, 1600, 1600), told(KEY)]
    story >> wire.Closure(JOB, 1, wire.DONE) << []
    story.into(SellingState.CLOSED)
    story.at(600_000) >> ev.Ticked() << [cmd.Forget()]
    assert story.machine.wake_at is None


def test_a_seal_claims_no_credit_that_another_attempt_could_count_on_during_the_work() -> None:
    """Else two attempts of one gateway hold the same wei, and the second one, paid in full, waits for its key."""
    story = Story(Selling()) >> ev.Connected() >> TO >> ev.AwardJudged(params=b"p", cover=1500)
    assert story.into(SellingState.WORKING).machine.held == 100
    story >> ev.WorkDone() >> MADE
    assert story.into(SellingState.SEALED).machine.held == 100
    story >> wire.Tickets(JOB, 1, ONE, b"one") >> ev.PaymentJudged(ONE, b"v1", 1600)
    assert story.into(SellingState.RECEIPTING).machine.held == 1600


def test_a_reservation_that_comes_with_the_award_saves_a_round() -> None:
    to = replace(TO, reservation=b"zero")
    story = Story(Selling()) >> ev.Connected() >> to
    (
        story
        >> ev.AwardJudged(params=b"p")
        << [
            told_at_once(wire.Acceptance(JOB, 1, 100, b"p")),
            cmd.CreditPayment(ZERO, b"zero"),
        ]
    )


def test_credit_that_is_left_over_counts_as_the_reservation() -> None:
    story = Story(Selling()) >> ev.Connected() >> TO >> ev.AwardJudged(params=b"p", cover=100)
    story << [told_at_once(wire.Acceptance(JOB, 1, 0, b"p")), SEND(wire.Start(JOB, 1)), cmd.StartWork(TO, 0)]
    assert story.machine.held == 100


def test_an_unfunded_gateway_learns_the_deposit_that_is_needed_and_hears_it_again() -> None:
    story = Story(Selling()) >> ev.Connected() >> TO
    no = wire.JobRefusal(JOB, 1, wire.UNFUNDED, 5, 1000, "deposit more", b"p")
    (
        story
        >> ev.AwardJudged(wire.UNFUNDED, 5, 1000, "deposit more", b"p")
        << [
            SEND(no),
            cmd.Close(wire.UNFUNDED, hint="deposit more"),
        ]
    )
    story >> TO << [SEND(no)]


def test_the_same_award_gets_the_same_answer_and_another_body_is_refused() -> None:
    story = Story(Selling()) >> ev.Connected() >> TO >> ev.AwardJudged(params=b"p")
    story >> TO << [SEND(wire.Acceptance(JOB, 1, 100, b"p"))]
    (
        story
        >> replace(TO, reservation=b"zero")
        << [
            SEND(wire.Acceptance(JOB, 1, 100, b"p")),
            cmd.CreditPayment(ZERO, b"zero"),
        ]
    )
    story >> replace(TO, price=1) << [SEND(wire.JobRefusal(JOB, 1, wire.OTHER_BODY))]
    story.into(SellingState.COVERING)


def test_inputs_must_be_here_before_the_work_starts() -> None:
    to = award(inputs=(ref("a"), ref("b")), price=0)
    story = Story(Selling()) >> ev.Connected() >> to >> ev.AwardJudged()
    story.into(SellingState.COVERING) >> ev.BlobReceived(ref("a").blob) << []
    story >> ev.BlobReceived(b"?" * 16) << []
    story >> wire.Resume(JOB, 1) << [SEND(wire.Acceptance(JOB, 1, 0, b"", (wire.BlobHave(ref("a").blob, b"\x07"),)))]
    story >> ev.BlobReceived(ref("b").blob) << [SEND(wire.Start(JOB, 1)), cmd.StartWork(to, 0)]


@pytest.mark.parametrize(("at", "price"), [(20_999, 1600), (21_000, 1560), (60_000, 0), (59_999, 40)])
def test_each_full_late_second_costs_the_late_rate(at: int, price: int) -> None:
    story = working().at(at) >> ev.WorkDone()
    story << [cmd.SealArtifacts(price, at - 20_000)]


def test_what_is_ready_after_the_deadline_is_not_sealed() -> None:
    story = working().at(60_001) >> ev.WorkDone()
    story << [cmd.CancelWork(), SEND(wire.Failure(JOB, 1, wire.DEADLINE)), cmd.Close(wire.DEADLINE)]


def test_a_cancel_costs_nothing_before_the_start_and_at_most_the_reservation_after_it() -> None:
    stop = wire.Cancellation(JOB, 1, wire.CANCELLED)
    early = Story(Selling()) >> ev.Connected() >> TO >> ev.AwardJudged(params=b"p")
    early >> stop << [SEND(wire.Closure(JOB, 1, wire.CANCELLED)), cmd.Close(wire.CANCELLED)]
    little = working() >> ev.Stepped(1, 100, 1) >> stop
    little << [
        cmd.CancelWork(),
        cmd.Debit(16),
        SEND(wire.Closure(JOB, 1, wire.CANCELLED, 16)),
        cmd.Close(wire.CANCELLED, 16, 16),
    ]
    much = working() >> ev.Stepped(99, 100, 1) >> stop
    assert cmd.Debit(100) in much._out
    late = (working() >> ev.Stepped(99, 100, 1)).at(20_001) >> stop
    late << [cmd.CancelWork(), SEND(wire.Closure(JOB, 1, wire.CANCELLED)), cmd.Close(wire.CANCELLED)]


def test_after_the_seal_there_is_no_cancel() -> None:
    story = sealed() >> wire.Cancellation(JOB, 1, wire.CANCELLED) << []
    story.into(SellingState.SEALED)


def test_a_gateway_that_has_every_byte_and_does_not_pay_is_at_fault_but_may_still_pay() -> None:
    story = sealed() >> ev.BlobSent(CIPHER.blob) << []
    assert story.machine.wake_at == 11_000
    story.at(11_000) >> ev.Ticked() << [cmd.Fault(wire.UNPAID)]
    story >> ev.Ticked() << []
    story >> ev.PaymentJudged(ONE, b"v1", 1600)
    story.into(SellingState.RECEIPTING)


def test_a_gateway_that_was_never_reached_is_at_no_fault() -> None:
    story = sealed() >> ev.Disconnected() << []
    story.at(601_000) >> ev.Ticked() << [cmd.Close(wire.UNPAID), cmd.Forget()]


def test_a_newcomer_gives_key_and_receipt_with_the_seal_and_is_paid_after() -> None:
    story = working(judged=ev.AwardJudged(params=b"p", first=True)) >> ev.WorkDone()
    story >> MADE << [cmd.SignReceipt(1600, 100)]
    story >> ev.ReceiptSigned(RECEIPT) << [told(FIRST_SEAL), cmd.SendBlob(CIPHER.blob)]
    (
        story
        >> ev.PaymentJudged(ONE, b"v1", 1600)
        << [
            SEND(wire.TicketsVerdict(JOB, 1, ONE, b"v1")),
            cmd.Debit(1600),
            cmd.Close(wire.DONE, 1600, 1600),
        ]
    )


def test_a_gateway_that_closes_with_the_newcomers_key_in_its_hands_is_at_fault() -> None:
    story = sealed(first=True) >> wire.Closure(JOB, 1, wire.WRONG_KEY)
    story << [cmd.Fault(wire.UNPAID), cmd.Close(wire.UNPAID)]


def test_a_gateway_that_closes_with_the_bytes_in_its_hands_and_time_to_pay_is_at_fault() -> None:
    story = sealed() >> ev.BlobSent(CIPHER.blob)
    story.at(60_000 - PAY_MS - 1) >> wire.Closure(JOB, 1, wire.DEADLINE)
    story << [cmd.Fault(wire.UNPAID), cmd.Close(wire.UNPAID)]


def test_a_seal_that_was_on_its_way_at_the_deadline_is_nobodys_fault() -> None:
    story = sealed() >> ev.BlobSent(CIPHER.blob)
    story.at(60_000 - 5) >> wire.Closure(JOB, 1, wire.DEADLINE) << [cmd.Close(wire.DEADLINE)]


def test_a_payment_that_was_credited_while_the_attempt_closed_is_told() -> None:
    story = Story(Selling()) >> ev.Connected() >> award() >> ev.AwardJudged(params=b"p")
    story >> wire.Tickets(JOB, 1, ZERO, b"payment")
    story.at(20_000) >> ev.Ticked()
    assert story.machine.state is SellingState.CLOSED
    story >> ev.PaymentJudged(ZERO, b"v0", 100) << [SEND(wire.TicketsVerdict(JOB, 1, ZERO, b"v0"))]


def test_a_streamed_result_is_covered_slice_by_slice() -> None:
    to = award(slices=2)
    story = Story(Selling()) >> ev.Connected() >> to >> ev.AwardJudged(params=b"p")
    story << [told(wire.Acceptance(JOB, 1, 800, b"p"))]
    story >> ev.PaymentJudged(ZERO, b"v0", 800)
    assert cmd.StartWork(to, 0) in story._out
    out = ref("s0")
    (
        story
        >> ev.SliceWorked(0, out, b"fresh")
        << [
            SEND(wire.SliceOutput(JOB, 1, 0, out, 800)),
            cmd.Debit(800),
            cmd.SendBlob(out.blob),
            SEND(wire.Due(JOB, 1, 1, 800, b"fresh")),
        ]
    )
    story.into(SellingState.PAUSED) >> ev.SliceWorked(0, out) << []
    story >> ev.PaymentJudged(ONE, b"v1", 1599)
    story.into(SellingState.PAUSED) >> ev.PaymentJudged(ONE, b"v1", 1600)
    assert cmd.StartWork(to, 1) in story._out
    story >> ev.SliceWorked(1, ref("s1"))
    assert story._out[-1] == cmd.SignReceipt(1600, 1600)
    story >> ev.ReceiptSigned(RECEIPT)
    assert told(wire.Delivery(JOB, 1, None, RECEIPT)) in story._out


def test_the_seller_works_on_without_its_gateway_and_gives_up_at_the_finish_it_promised() -> None:
    story = (working() >> ev.Disconnected()).at(5000) >> ev.Stepped(1, 4, 900) << []
    assert story.machine.wake_at == 20_000
    story.at(20_000) >> ev.Ticked() << [cmd.CancelWork(), cmd.Close(wire.LOST)]


def test_a_gateway_that_comes_back_finds_the_seal_and_gets_only_the_chunks_it_lacks() -> None:
    story = sealed() >> ev.Disconnected() >> ev.Connected()
    (
        story
        >> wire.Resume(JOB, 1, 0, (wire.BlobHave(CIPHER.blob, b"\x03"),))
        << [
            SEND(SEAL),
            cmd.SendBlob(CIPHER.blob, b"\x03"),
        ]
    )


def test_no_cover_in_ten_seconds_gives_the_place_away() -> None:
    story = Story(Selling()) >> ev.Connected() >> TO >> ev.AwardJudged(params=b"p")
    story.at(10_000) >> ev.Ticked() << [SEND(wire.Failure(JOB, 1, wire.UNCOVERED)), cmd.Close(wire.UNCOVERED)]


def test_a_closed_attempt_answers_why() -> None:
    story = working() >> ev.WorkFailed(wire.POLICY, "not here")
    no = wire.Failure(JOB, 1, wire.POLICY, "not here")
    story << [cmd.CancelWork(), SEND(no), cmd.Close(wire.POLICY, hint="not here")]
    for late in (wire.Tickets(JOB, 1, ONE, b"one"), wire.Resume(JOB, 1), TO):
        story >> late << [SEND(wire.Closure(JOB, 1, wire.POLICY))]


def test_nothing_is_earned_by_a_seller_that_lost_the_result_before_its_receipt() -> None:
    story = sealed() >> ev.PaymentJudged(ONE, b"v1", 1600)
    story >> ev.WorkFailed(wire.FAILED) << [SEND(wire.Failure(JOB, 1, wire.FAILED)), cmd.Close(wire.FAILED)]


# -- the buyer -------------------------------------------------------------------------------------------------------


def running(to: wire.Award = TO) -> Story:
    """A buyer whose job has begun, at 0, its reservation credited."""
    story = Story(Buying.of(to)) >> ev.Connected() >> ev.Awarded(b"cached") >> ev.PaymentReady(ZERO, b"zero")
    story >> wire.Acceptance(JOB, 1, 0, b"p") >> wire.TicketsVerdict(JOB, 1, ZERO, b"v0")
    story >> ev.PaymentSettled(ZERO, b"v0", 100) >> wire.Start(JOB, 1)
    return story.into(BuyingState.RUNNING)


def paying() -> Story:
    story = running() >> SEAL >> ev.BlobReceived(CIPHER.blob)
    return story.into(BuyingState.PAYING)


def test_a_picture_is_bought() -> None:
    story = Story(Buying.of(TO)) >> ev.Connected() << []
    story >> ev.Awarded() << [told(TO)]
    story >> wire.Acceptance(JOB, 1, 100, b"p") << [cmd.Pay(ZERO, 100, 100, b"p")]
    story >> ev.PaymentReady(ZERO, b"zero") << [told(wire.Tickets(JOB, 1, ZERO, b"zero"))]
    story >> wire.TicketsVerdict(JOB, 1, ZERO, b"v0") << [cmd.SettlePayment(ZERO, b"v0")]
    story >> ev.PaymentSettled(ZERO, b"v0", 100) << []
    story >> wire.Start(JOB, 1) << []
    story >> wire.Progress(JOB, 1, 0, 4, 9000) << [cmd.Report(0, 4, 9000)]
    story >> wire.Progress(JOB, 1, 0, 4, 8900) << []  # a liar could say every millisecond
    story >> wire.Progress(JOB, 1, 0, 4, 8000) << [cmd.Report(0, 4, 8000)]
    story >> wire.Progress(JOB, 1, 2, 4, 900) << [cmd.Report(2, 4, 900)]
    story >> wire.Progress(JOB, 1, 1, 4, 950) << []
    story >> wire.Progress(JOB, 1, 0, 4, 10) << []
    story >> wire.Preview(JOB, 1, 2, "image/png", b"px") << [cmd.ShowPreview(2, "image/png", b"px")]
    story >> SEAL << []
    story >> ev.BlobReceived(CIPHER.blob) << [cmd.Pay(ONE, 1500, 1600, b"sealed-params")]
    story >> ev.PaymentReady(ONE, b"one") << [told(wire.Tickets(JOB, 1, ONE, b"one"))]
    story >> KEY << [cmd.OpenSeal(MADE.commitment, MADE.key, RECEIPT)]
    (
        story
        >> ev.Opened()
        << [
            cmd.Deliver(RECEIPT),
            cmd.Debit(1600),
            SEND(wire.Closure(JOB, 1, wire.DONE)),
            cmd.Close(wire.DONE, 1600, 100),
        ]
    )


def test_with_params_at_hand_the_award_carries_its_reservation() -> None:
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded(b"cached") << [cmd.Pay(ZERO, 100, 100, b"cached")]
    story >> ev.PaymentReady(ZERO, b"zero") << [told(replace(TO, reservation=b"zero"))]
    story >> wire.Acceptance(JOB, 1, 100, b"p") << []


def test_params_that_do_not_serve_any_more_leave_the_award_bare_and_its_payment_id_unused() -> None:
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded(b"stale") >> ev.PaymentDeclined(ZERO) << [told(TO)]
    story >> wire.Acceptance(JOB, 1, 100, b"p") << [cmd.Pay(ONE, 100, 100, b"p")]


def test_params_that_expired_while_bytes_came_are_asked_for_by_an_empty_payment() -> None:
    story = paying() >> ev.PaymentDeclined(ONE) << [SEND(wire.Tickets(JOB, 1, ONE, b""))]
    story >> wire.TicketsVerdict(JOB, 1, ONE, b"", 1500, b"fresh") << [cmd.Pay(ONE, 1500, 1600, b"fresh")]
    for _ in range(2):
        story >> ev.PaymentDeclined(ONE) >> wire.TicketsVerdict(JOB, 1, ONE, b"", 1500, b"fresher")
        story.machine._set(payments=tuple(replace(p, params=b"old") for p in story.machine.record.payments))
    story >> ev.PaymentDeclined(ONE)
    story.into(BuyingState.CLOSED)


def test_a_refused_payment_is_replaced_only_on_a_signed_verdict_and_once_for_each() -> None:
    story = paying() >> ev.PaymentReady(ONE, b"one")
    no = wire.TicketsVerdict(JOB, 1, ONE, b"no", 1500, b"fresh")
    story >> no << [cmd.SettlePayment(ONE, b"no")]
    story >> ev.PaymentSettled(ONE, b"no", 0, refused=True) << [cmd.Pay(ONE, 1500, 1600, b"fresh", 1)]
    story >> ev.PaymentReady(ONE, b"one again") << [told(wire.Tickets(JOB, 1, ONE, b"one again"))]
    story >> no << [cmd.SettlePayment(ONE, b"no")]
    story >> ev.PaymentSettled(ONE, b"no", 0, refused=True) << []


def test_what_a_verdict_leaves_short_is_topped_up_and_never_past_the_price() -> None:
    story = paying() >> ev.PaymentReady(ONE, b"one") >> wire.TicketsVerdict(JOB, 1, ONE, b"half", 10**9, b"fresh")
    story >> ev.PaymentSettled(ONE, b"half", 900) << [cmd.Pay(TWO, 600, 1600, b"fresh")]
    story >> ev.PaymentReady(TWO, b"two") >> wire.TicketsVerdict(JOB, 1, TWO, b"ok", 10**9, b"fresh")
    story >> ev.PaymentSettled(TWO, b"ok", 600) << []


def test_credit_from_before_that_another_job_used_is_paid_in_tickets() -> None:
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded(b"cached") >> ev.PaymentReady(ZERO, b"zero")
    story >> wire.Acceptance(JOB, 1, 0, b"p") >> wire.TicketsVerdict(JOB, 1, ZERO, b"v0")
    story >> ev.PaymentSettled(ZERO, b"v0", 70) >> wire.Start(JOB, 1)  # the seller counted 30 that were there
    story >> SEAL >> ev.BlobReceived(CIPHER.blob) << [cmd.Pay(ONE, 1500, 1600, b"sealed-params")]
    story >> ev.PaymentReady(ONE, b"one") >> wire.TicketsVerdict(JOB, 1, ONE, b"v1", 30, b"fresh")
    story >> ev.PaymentSettled(ONE, b"v1", 1500) << [cmd.Pay(TWO, 30, 1600, b"fresh")]
    story >> ev.PaymentReady(TWO, b"two") >> wire.TicketsVerdict(JOB, 1, TWO, b"v2", 10**9, b"fresh")
    story >> ev.PaymentSettled(TWO, b"v2", 30) << []  # never past the price


def test_a_newcomers_result_is_opened_and_delivered_before_it_is_paid() -> None:
    story = running() >> FIRST_SEAL << []
    story >> ev.BlobReceived(CIPHER.blob) << [cmd.OpenSeal(MADE.commitment, MADE.key, RECEIPT)]
    story >> ev.Opened() << [cmd.Deliver(RECEIPT), cmd.Pay(ONE, 1500, 1600, b"sealed-params")]
    story >> ev.PaymentReady(ONE, b"one") >> wire.TicketsVerdict(JOB, 1, ONE, b"v1")
    (
        story
        >> ev.PaymentSettled(ONE, b"v1", 1500)
        << [
            cmd.Debit(1600),
            SEND(wire.Closure(JOB, 1, wire.DONE)),
            cmd.Close(wire.DONE, 1600, 1600),
        ]
    )


def test_a_newcomers_wrong_key_is_a_fault_with_proof_and_costs_nothing_more() -> None:
    story = running() >> FIRST_SEAL >> ev.BlobReceived(CIPHER.blob)
    (
        story
        >> ev.Opened(wire.WRONG_KEY, b"proof")
        << [
            cmd.Fault(wire.WRONG_KEY, b"proof"),
            SEND(wire.Closure(JOB, 1, wire.WRONG_KEY)),
            cmd.Close(wire.WRONG_KEY, 0, 100),
        ]
    )


def test_a_commitment_above_the_quote_is_a_fault_with_proof() -> None:
    greedy = seal_made(TO, 1561, late_ms=1000).commitment
    story = running() >> wire.Seal(JOB, 1, greedy)
    assert story._out[0] == cmd.Fault(wire.OVERPRICED, encode(greedy))
    fair = running() >> wire.Seal(JOB, 1, seal_made(TO, 1560, late_ms=1000).commitment)
    fair.into(BuyingState.RECEIVING)


def test_lateness_that_the_seller_does_not_own_up_to_is_measured() -> None:
    story = running().at(25_000) >> SEAL
    story << [cmd.Measure("lateness_ms", 5000)]


def test_nothing_is_paid_for_what_was_sealed_after_the_deadline() -> None:
    story = running().at(60_001) >> SEAL
    story << [SEND(wire.Closure(JOB, 1, wire.DEADLINE)), cmd.Close(wire.DEADLINE, 0, 100)]
    story >> SEAL << [SEND(wire.Closure(JOB, 1, wire.DEADLINE))]


def test_paid_and_no_key_in_ten_seconds_of_connection_is_a_fault_and_a_late_key_is_still_used() -> None:
    story = paying() >> ev.PaymentReady(ONE, b"one") >> wire.TicketsVerdict(JOB, 1, ONE, b"v1")
    story >> ev.PaymentSettled(ONE, b"v1", 1500)
    story.at(9999) >> ev.Ticked() << []
    (
        story.at(10_000)
        >> ev.Ticked()
        << [
            cmd.Fault(wire.NO_KEY),
            SEND(wire.Closure(JOB, 1, wire.NO_KEY)),
            cmd.Close(wire.NO_KEY, 0, 1600),
        ]
    )
    story >> ev.Disconnected() >> ev.Connected() << [SEND(wire.Resume(JOB, 1))]
    story >> KEY << [cmd.OpenSeal(MADE.commitment, MADE.key, RECEIPT)]
    story >> ev.Opened() << [cmd.Debit(1600), cmd.Deliver(RECEIPT, late=True)]


def test_an_unpaid_key_of_a_closed_attempt_is_not_used() -> None:
    story = running() >> wire.Failure(JOB, 1, wire.FAILED) << [cmd.Close(wire.FAILED, 0, 100)]
    story >> KEY << [SEND(wire.Closure(JOB, 1, wire.FAILED))]


@pytest.mark.parametrize(("left", "grace"), [(60_000, 8000), (20_000, 5000)])
def test_a_lost_stream_is_waited_for_at_most_eight_seconds_or_a_quarter_of_what_is_left(left: int, grace: int) -> None:
    story = running(award(deadline_ms=left)) >> ev.Disconnected() << []
    assert story.machine.wake_at == grace
    story.at(grace) >> ev.Ticked() << [cmd.Close(wire.LOST, 0, 100)]
    story >> ev.Connected() << [SEND(wire.Closure(JOB, 1, wire.LOST))]


def test_a_new_stream_repeats_the_tickets_byte_for_byte() -> None:
    story = paying() >> ev.PaymentReady(ONE, b"one") >> ev.Disconnected()
    have = (wire.BlobHave(CIPHER.blob, b"\x07"),)
    (
        story
        >> ev.Connected(have)
        << [
            SEND(wire.Resume(JOB, 1, 0, have)),
            told(wire.Tickets(JOB, 1, ONE, b"one")),
        ]
    )


def test_silence_after_an_award_is_not_waited_for() -> None:
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded()
    story.at(5000) >> ev.Ticked() << [SEND(wire.Closure(JOB, 1, wire.SILENT)), cmd.Close(wire.SILENT)]


def test_a_refusal_comes_with_everything_it_said() -> None:
    no = wire.JobRefusal(JOB, 1, wire.UNFUNDED, 5, 1000, "deposit more", b"p")
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded()
    story >> no << [cmd.Close(wire.UNFUNDED, 0, 0, "deposit more", no)]


def test_a_cancel_waits_for_its_cost_and_believes_it_up_to_the_reservation() -> None:
    story = running() >> ev.CancelAsked() << [told(wire.Cancellation(JOB, 1, wire.CANCELLED))]
    story >> wire.Closure(JOB, 1, wire.CANCELLED, 10**9) << [cmd.Debit(100), cmd.Close(wire.CANCELLED, 100, 100)]


def test_what_a_cancel_costs_may_rest_on_credit_from_before() -> None:
    """The seller has 60 of ours from another job, asks 40 more, and earns the whole reservation: so we book it too."""
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded() >> wire.Acceptance(JOB, 1, 40, b"p")
    story >> ev.PaymentReady(ZERO, b"zero") >> wire.TicketsVerdict(JOB, 1, ZERO, b"v0")
    story >> ev.PaymentSettled(ZERO, b"v0", 40) >> wire.Start(JOB, 1) >> ev.CancelAsked()
    story >> wire.Closure(JOB, 1, wire.CANCELLED, 100) << [cmd.Debit(100), cmd.Close(wire.CANCELLED, 100, 40)]


def test_a_seal_that_crosses_the_cancel_is_paid_for() -> None:
    story = running() >> ev.CancelAsked() >> SEAL
    story.into(BuyingState.RECEIVING) >> ev.CancelAsked() << [cmd.RefuseCancel()]


def test_at_the_deadline_the_work_is_cancelled() -> None:
    story = running().at(60_000) >> ev.Ticked() << [told(wire.Cancellation(JOB, 1, wire.DEADLINE))]
    story >> wire.Closure(JOB, 1, wire.CANCELLED) << [cmd.Close(wire.DEADLINE, 0, 100)]


def test_slices_are_handed_on_in_order_and_each_next_one_is_covered_once() -> None:
    story = running(award(slices=4))
    second, first = wire.SliceOutput(JOB, 1, 1, ref("s1"), 800), wire.SliceOutput(JOB, 1, 0, ref("s0"), 400)
    story >> second << []
    story >> first << []
    story >> wire.Due(JOB, 1, 1, 400, b"fresh") << []
    (
        story
        >> ev.BlobReceived(ref("s0").blob)
        << [
            cmd.DeliverSlice(0, ref("s0").blob),
            cmd.Debit(400),
            cmd.Pay(ONE, 400, 400, b"fresh"),
        ]
    )
    story >> wire.Due(JOB, 1, 1, 400, b"fresh") << []


def test_a_slice_charged_above_the_price_is_a_fault() -> None:
    story = running(award(slices=4)) >> wire.SliceOutput(JOB, 1, 0, ref("s0"), 401)
    assert story._out[0] == cmd.Fault(wire.OVERPRICED)


# -- restarts --------------------------------------------------------------------------------------------------------


def reborn(story: Story, away_ms: int = 0) -> Story:
    """The machine as a restart finds it, on a clock that begins at 0 again."""
    again = Story(type(story.machine).restore(story.machine.snapshot(story.now), 0, away_ms))
    return again >> ev.Restarted()


def test_restarted_with_the_award_out_the_same_award_goes_again() -> None:
    story = Story(Buying.of(TO)) >> ev.Connected() >> ev.Awarded()
    again = reborn(story) << []
    again >> ev.Connected() << [told(TO)]


def test_restarted_with_the_payment_unsigned_it_is_asked_for_again_under_the_same_id() -> None:
    again = reborn(paying()) << [cmd.Pay(ONE, 1500, 1600, b"sealed-params")]
    again >> ev.PaymentReady(ONE, b"one") << [told(wire.Tickets(JOB, 1, ONE, b"one"))]


def test_restarted_after_delivery_the_result_is_delivered_again() -> None:
    story = paying() >> ev.PaymentReady(ONE, b"one") >> KEY >> ev.Opened()
    reborn(story) << [cmd.Debit(1600), cmd.Deliver(RECEIPT), cmd.Close(wire.DONE, 1600, 100)]


def test_a_restarted_seller_attaches_to_its_work_and_its_lateness_counts_on() -> None:
    story = working().at(15_000) >> ev.Stepped(1, 4, 900)
    again = reborn(story, away_ms=4000) << [cmd.StartWork(TO, 0)]
    again.at(2000) >> ev.WorkDone() << [cmd.SealArtifacts(1560, 1000)]


def test_a_restarted_seller_has_seal_and_key_still() -> None:
    again = reborn(sealed()) >> ev.Connected() >> wire.Resume(JOB, 1) << [SEND(SEAL), cmd.SendBlob(CIPHER.blob)]
    again >> ev.PaymentJudged(ONE, b"v1", 1600) >> ev.ReceiptSigned(RECEIPT)
    last = reborn(again) << [cmd.Debit(1600), cmd.Close(wire.DONE, 1600, 1600)]
    last >> ev.Connected() >> wire.Resume(JOB, 1) << [SEND(SEAL), cmd.SendBlob(CIPHER.blob), told(KEY)]


# -- signatures ------------------------------------------------------------------------------------------------------


def test_what_the_seller_signs_must_be_signed_by_it_for_this_attempt() -> None:
    seller, other = Identity(b"\x01" * 32), Identity(b"\x02" * 32)
    bound = wire.Commitment(JOB, 1, (wire.SealedArtifact("image/png", ref("a"), ref("b")),), 5, 0, b"")
    wire.authenticate(wire.Seal(JOB, 1, sign(bound, seller)), seller.peer)
    with pytest.raises(BadSignature):
        wire.authenticate(wire.Seal(JOB, 1, sign(bound, other)), seller.peer)
    with pytest.raises(MalformedMessage):
        wire.authenticate(wire.Seal(JOB, 2, sign(bound, seller)), seller.peer)
    key = sign(wire.SealKey(JOB, 2, b"k" * 32), seller)
    with pytest.raises(MalformedMessage):
        wire.authenticate(wire.Delivery(JOB, 1, key, Signed(b"r", bytes(65))), seller.peer)
