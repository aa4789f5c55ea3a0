"""Sender and recipient together, over real journals: loss, duplication, order, restarts; and each rule alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.account import Account, Pair
from ledger.auditor import audit, prune
from ledger.cover import Cover
from ledger.money import ETH
from ledger.recipient import Recipient
from ledger.sender import SendingTerms
from ledger.ticket import CERTAIN, Payment, PaymentVerdict, TicketCode, TicketParams, payment_id
from p2p.codec import encode
from p2p.envelope import Signed, sign
from p2p.errors import BadSignature, PeerFault, Refused
from p2p.peer import Address
from tests.support.ledger_values import ALICE, BOB, MALLORY, OTHER, SETTLEMENT, Market, drive, scratch

PRICE = 10**15
JOB = b"\x0a" * 32


@pytest.fixture
def market() -> Iterator[Market]:
    with scratch() as folder:
        made = Market(Path(folder))
        yield made
        made.close()


def ask(market: Market, price: int = PRICE, tickets: int = 4, **more: bool) -> TicketParams:
    return drive(market.receiving.params_for(ALICE.address, price, tickets=tickets, **more))


def pay(market: Market, params: TicketParams, amount: int = PRICE, slice_: int = 0, **more: object) -> Payment:
    more.setdefault("job_id", JOB)
    return drive(market.sending.pay(payment_id(JOB, 1, slice_), BOB.address, amount, params, **more))  # type: ignore[arg-type]


def receive(market: Market, payment: Payment) -> PaymentVerdict:
    return drive(market.receiving.receive(ALICE.address, payment))


def settle(market: Market, verdict: PaymentVerdict) -> int:
    return drive(market.sending.settle(BOB.address, verdict, BOB.address))


def balanced(market: Market) -> bool:
    return market.journal_in.database.run(audit) == () == market.journal_out.database.run(audit)


def code_of(market: Market, payment: Payment) -> set[TicketCode]:
    verdict = receive(market, payment)
    assert verdict.credited == 0
    return set(verdict.codes)


def test_a_job_is_paid_delivered_and_counted_once_on_both_sides(market: Market) -> None:
    payment = pay(market, ask(market))
    assert len(payment.tickets) == 4
    assert market.sending.at_risk(BOB.address) == PRICE
    verdict = receive(market, payment)
    assert set(verdict.codes) == {TicketCode.OK}
    assert settle(market, verdict) == PRICE == market.receiving.credit_of(ALICE.address)
    assert market.sending.credit_with(BOB.address) == 0, "it is claimed by the job"
    for _ in range(2):
        assert drive(market.receiving.debit(ALICE.address, JOB, 1, PRICE)) == 0
        assert drive(market.sending.debit(BOB.address, JOB, 1, PRICE)) == 0
    assert drive(market.sending.spent_on(JOB)) == PRICE
    assert market.sending.at_risk(BOB.address) == 0
    assert balanced(market)


def test_a_repeated_payment_gets_the_same_verdict_and_no_second_credit(market: Market) -> None:
    payment = pay(market, ask(market))
    first = encode(receive(market, payment))
    market.clock.now += 3600
    market.journal_in.restart(clean=False)
    market.new_receiving()
    assert encode(receive(market, payment)) == first
    assert market.receiving.credit_of(ALICE.address) == PRICE


def test_the_same_payment_id_gives_the_same_bytes_also_after_a_crash(market: Market) -> None:
    params = ask(market)
    first = pay(market, params)
    market.journal_out.restart(clean=False)
    market.new_sending()
    assert pay(market, ask(market)) == first


def test_after_a_crash_no_params_from_before_are_signed_again(market: Market) -> None:
    params = ask(market)
    pay(market, params)
    market.journal_out.restart(clean=True)
    market.new_sending()
    assert pay(market, params, slice_=1).tickets[0].nonce == 5, "an orderly end forgets nothing"
    market.journal_out.restart(clean=False)
    market.new_sending()
    with pytest.raises(Refused, match="PARAMS_DROPPED"):
        pay(market, params, slice_=2)


def test_a_restored_file_is_no_orderly_end(market: Market) -> None:
    params = ask(market)
    pay(market, params)
    before, path = market.journal_out.epoch, market.journal_out.path
    market.journal_out.database.close()
    copy = path.read_bytes()
    path.rename(path.with_suffix(".old"))
    path.write_bytes(copy)
    market.journal_out.open()
    market.new_sending()
    assert market.journal_out.epoch != before
    with pytest.raises(Refused, match="PARAMS_DROPPED"):
        pay(market, params, slice_=1)


def test_credit_counts_first_and_is_claimed_by_one_job_only(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    drive(market.sending.release(BOB.address, JOB))
    assert market.sending.credit_with(BOB.address) == PRICE
    assert pay(market, ask(market), PRICE, slice_=1, job_id=b"\x0b" * 32).tickets == ()
    assert market.sending.credit_with(BOB.address) == 0
    assert len(pay(market, ask(market), PRICE, slice_=2, job_id=b"\x0c" * 32).tickets) == 4


def test_a_payment_of_no_tickets_leaves_no_trace(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    drive(market.sending.release(BOB.address, JOB))
    empty = pay(market, ask(market), PRICE, slice_=1)
    verdict = receive(market, empty)
    assert (verdict.codes, verdict.credited, verdict.balance) == ((), 0, PRICE)
    assert settle(market, verdict) == 0
    rows = market.journal_in.database.db.execute("SELECT count(*) FROM payments_in").fetchone()[0]
    assert rows == 1


def test_expired_params_are_refused_with_fresh_ones_and_the_payment_is_made_anew(market: Market) -> None:
    payment = pay(market, ask(market))
    market.clock.now += 11
    verdict = receive(market, payment)
    assert set(verdict.codes) == {TicketCode.PARAMS_EXPIRED}
    assert verdict.params is not None
    assert settle(market, verdict) == 0
    again = pay(market, verdict.params)
    assert again != payment
    assert settle(market, receive(market, again)) == PRICE
    assert settle(market, verdict) == PRICE, "the old refusal, late: nothing changes"
    assert market.receiving.credit_of(ALICE.address) == PRICE
    assert balanced(market)


def test_an_old_refusal_does_not_free_a_payment_to_be_replaced_twice(market: Market) -> None:
    payment = pay(market, ask(market))
    market.clock.now += 11
    verdict = receive(market, payment)
    settle(market, verdict)
    assert verdict.params is not None
    again = pay(market, verdict.params)
    settle(market, verdict)
    assert pay(market, ask(market)) == again


def test_one_payment_id_is_credited_once_whatever_comes_under_it(market: Market) -> None:
    payment = pay(market, ask(market))
    verdict = receive(market, payment)
    other = replace(pay(market, ask(market), slice_=1), payment_id=payment.payment_id)
    assert receive(market, other) == verdict
    assert market.receiving.credit_of(ALICE.address) == PRICE


def test_a_replaced_payment_rests_on_the_credit_of_the_first(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    drive(market.sending.release(BOB.address, JOB))
    job = b"\x0b" * 32
    payment = pay(market, ask(market), PRICE + 8, slice_=1, job_id=job)
    assert payment.value < PRICE
    market.clock.now += 11
    verdict = receive(market, payment)
    assert settle(market, verdict) == 0
    assert verdict.params is not None
    again = pay(market, verdict.params, PRICE + 8, slice_=1, job_id=job)
    assert len(again.tickets) == len(payment.tickets), "the credit is claimed for it already"


def test_the_sender_lets_params_die_on_its_own_clock(market: Market) -> None:
    params = ask(market)
    market.sending.learn(params)
    market.clock.now += 5
    with pytest.raises(Refused, match="PARAMS_EXPIRED"):
        pay(market, params)


def test_each_ticket_of_a_batch_is_judged_alone(market: Market) -> None:
    payment = pay(market, ask(market))
    tickets = list(payment.tickets)
    tickets[1] = replace(tickets[1], signature=MALLORY.sign(bytes(32)))
    tickets[3] = tickets[0]
    verdict = receive(market, replace(payment, tickets=tuple(tickets)))
    ok = TicketCode.OK
    assert verdict.codes == (ok, TicketCode.SIG_SIGNER, ok, TicketCode.NONCE_REPLAY)
    assert settle(market, verdict) == PRICE // 2
    assert balanced(market)


def test_nonces_are_free_of_order_and_spent_once(market: Market) -> None:
    params = ask(market)
    one, two = pay(market, params), pay(market, params, slice_=1, job_id=b"\x0d" * 32)
    assert receive(market, two).credited == receive(market, one).credited == PRICE
    stolen = replace(one, payment_id=b"\x0e" * 32)
    assert code_of(market, stolen) == {TicketCode.NONCE_REPLAY}


def test_params_of_others_are_not_mine(market: Market) -> None:
    params = ask(market)
    payment = pay(market, params)
    cases = {
        TicketCode.PARAMS_NOT_MINE: replace(params, face_value=params.face_value - 1),
        TicketCode.SETTLEMENT_MISMATCH: replace(params, settlement=OTHER),
        TicketCode.RECIPIENT_MISMATCH: replace(params, recipient=MALLORY.address),
    }
    for code, changed in cases.items():
        assert code_of(market, replace(payment, params=changed)) == {code}
    verdict = drive(market.receiving.receive(MALLORY.address, payment))
    assert set(verdict.codes) == {TicketCode.PARAMS_NOT_MINE}, "issued to somebody else"
    assert market.journal_in.database.db.execute("SELECT count(*) FROM payments_in").fetchone() == (0,)


def test_float_stops_what_the_cover_cannot_pay(market: Market) -> None:
    market.cover.covers[ALICE.address] = Cover(PRICE, 0)
    params = ask(market, certain=True)
    assert params.win_prob == CERTAIN
    assert receive(market, pay(market, params)).credited == PRICE
    with pytest.raises(Refused, match="SENDER_UNFUNDED"):
        ask(market)
    more = receive(market, pay(market, params, slice_=1))
    assert set(more.codes) == {TicketCode.FLOAT_EXCEEDED}
    assert more.params is None
    assert more.need > 0


def test_a_sender_that_unlocks_gets_no_new_credit(market: Market) -> None:
    payment = pay(market, ask(market))
    market.cover.covers[ALICE.address] = Cover(ETH, ETH, withdraw_round=2)
    assert code_of(market, payment) == {TicketCode.SENDER_UNLOCKING}
    with pytest.raises(Refused, match="SENDER_UNLOCKING"):
        pay(market, ask(market), slice_=1)


def test_winners_ripen_and_their_params_are_over_once_submitted(market: Market) -> None:
    params = ask(market, certain=True)
    receive(market, pay(market, params))
    assert drive(market.receiving.winners()) == ()
    market.clock.now += 10
    winners = drive(market.receiving.winners())
    assert len(winners) == 4 == drive(market.receiving.won())
    hashes = [w.ticket_hash for w in winners]
    drive(market.receiving.submitting(hashes))
    assert drive(market.receiving.winners()) == ()
    assert len(drive(market.receiving.winners(submitted=True))) == 4
    market.clock.now -= 10
    assert code_of(market, pay(market, params, slice_=1)) == {TicketCode.PARAMS_REDEEMED}
    drive(market.receiving.retry(hashes[:1]))
    drive(market.receiving.confirmed(hashes[1:], b"t" * 32))
    drive(market.receiving.failed(hashes[:2], "ticket is expired"))
    states = dict(market.journal_in.database.db.execute("SELECT ticket_hash, state FROM winners"))
    assert [states[h] for h in hashes] == ["failed", "confirmed", "confirmed", "confirmed"]


def test_about_one_ticket_in_four_wins_without_redemption_costs(market: Market) -> None:
    params = ask(market)
    assert params.face_value == 4 * params.value
    assert abs(params.win_prob * 4 - CERTAIN) < CERTAIN // 10**9


def test_caps_of_the_sender(market: Market) -> None:
    params = ask(market)
    market.sending.terms = SendingTerms(max_face=params.face_value - 1)
    with pytest.raises(Refused, match="FACE_OUT_OF_RANGE"):
        pay(market, params)
    market.sending.terms = SendingTerms(max_ticket_value=params.value - 1)
    with pytest.raises(Refused, match="WINPROB_OUT_OF_RANGE"):
        pay(market, params)
    market.sending.terms = SendingTerms(max_batch_value=params.value)
    with pytest.raises(Refused, match="BATCH_TOO_LARGE"):
        pay(market, params)
    market.sending.terms = SendingTerms()
    with pytest.raises(Refused, match="EXPOSURE"):
        pay(market, params, exposure=PRICE - 1)
    with pytest.raises(Refused, match="WINPROB_OUT_OF_RANGE"):
        pay(market, params, certain=True)
    with pytest.raises(Refused, match="BATCH_TOO_LARGE"):
        pay(market, params, 101 * params.value)
    with pytest.raises(Refused, match="SETTLEMENT_MISMATCH"):
        pay(market, replace(params, settlement=OTHER))
    pay(market, params)
    with pytest.raises(Refused, match="PARAMS_NOT_MINE"):
        pay(market, replace(params, face_value=params.face_value + 1), slice_=1)


def test_a_verdict_must_be_the_recipients_own(market: Market) -> None:
    payment = pay(market, ask(market))
    verdict = receive(market, payment)
    pair = Pair(SETTLEMENT, ALICE.address, BOB.address)
    with pytest.raises(BadSignature):
        drive(market.sending.settle(BOB.address, verdict, MALLORY.address))
    account = Account(verdict.credited, 0, 9)
    forged = pair.statement(account, market.journal_in.epoch, payment.payment_id, bytes(32), verdict.credited)
    with pytest.raises(BadSignature):
        settle(market, replace(verdict, statement=sign(forged, MALLORY)))
    with pytest.raises(PeerFault):
        settle(market, replace(verdict, credited=0))
    assert settle(market, verdict) == PRICE


def test_a_lost_verdict_is_made_good_by_the_next_statement(market: Market) -> None:
    """What was credited and never told is credit all the same, once nobody waits for the verdict any more."""
    lost = pay(market, ask(market), slice_=0)
    receive(market, lost)  # and the answer never arrives
    drive(market.sending.release(BOB.address, JOB))
    market.clock.now += 601
    young = pay(market, ask(market), slice_=1, job_id=b"\x0b" * 32)
    told_young = receive(market, young)  # its verdict is late, its job still waits for it
    newest = pay(market, ask(market), slice_=2, job_id=b"\x0c" * 32)
    assert settle(market, receive(market, newest)) == PRICE
    assert market.sending.credit_with(BOB.address) == PRICE, "the lost one is credit that no job claims"
    assert settle(market, told_young) == PRICE
    assert market.sending.credit_with(BOB.address) == PRICE
    assert market.receiving.credit_of(ALICE.address) == 3 * PRICE
    assert balanced(market)


def test_a_sum_without_room_for_every_open_payment_settles_none(market: Market) -> None:
    """Which of them was credited, the sum alone does not say."""
    receive(market, pay(market, ask(market), slice_=0))
    pay(market, ask(market), slice_=1, job_id=b"\x0b" * 32)  # lost on its way
    market.clock.now += 601
    newest = pay(market, ask(market), slice_=2, job_id=b"\x0c" * 32)
    assert settle(market, receive(market, newest)) == PRICE
    assert market.sending.credit_with(BOB.address) == 0
    assert balanced(market)


def test_debits_stop_at_the_credit(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    for books, peer in ((market.receiving, ALICE.address), (market.sending, BOB.address)):
        with pytest.raises(Refused, match="NO_CREDIT"):
            drive(books.debit(peer, JOB, 1, PRICE + 1))
        assert drive(books.debit(peer, JOB, 1, PRICE // 2)) == PRICE // 2
    assert balanced(market)


def test_another_jobs_claim_is_not_spent(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    with pytest.raises(Refused, match="NO_CREDIT"):
        drive(market.sending.debit(BOB.address, b"\x0f" * 32, 1, 1))


def test_exposure_doubles_with_each_delivery_and_falls_after_a_fault(market: Market) -> None:
    for books, peer in ((market.receiving, ALICE.address), (market.sending, BOB.address)):
        seen = [books.exposure(peer, 10)]
        for _ in range(3):
            drive(books.record_delivered(peer))
            seen.append(books.exposure(peer, 10))
        drive(books.record_fault(peer))
        assert [*seen, books.exposure(peer, 10)] == [10, 20, 40, 80, 10]
    market.new_sending()
    assert market.sending.standing(BOB.address).delivered == 3


def test_a_recipient_that_forgot_believes_only_its_own_signature(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    proof = drive(market.sending.proof(BOB.address))
    assert proof is not None
    market.journal_in.database.close()
    market.journal_in.path.unlink()
    market.journal_in.open()
    market.new_receiving()
    assert market.receiving.credit_of(ALICE.address) == 0
    with pytest.raises(BadSignature):
        drive(market.receiving.adopt(MALLORY.address, proof))
    with pytest.raises(BadSignature):
        drive(market.receiving.adopt(ALICE.address, Signed(proof.payload, ALICE.sign(bytes(32)))))
    assert [drive(market.receiving.adopt(ALICE.address, proof)) for _ in range(2)] == [True, False]
    assert market.receiving.credit_of(ALICE.address) == PRICE
    assert balanced(market)


def test_params_carry_the_cost_of_redemption_as_it_is_now(market: Market) -> None:
    cost = PRICE
    market.receiving.redemption_cost = lambda: cost
    assert ask(market).face_value == 20 * PRICE
    cost = 2 * PRICE
    assert ask(market).face_value == 40 * PRICE


def test_a_statement_that_shrinks_is_a_rollback(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    assert not market.sending.rolled_back(BOB.address)
    market.journal_in.database.close()
    market.journal_in.path.unlink()
    market.journal_in.open()
    market.new_receiving()
    last = pay(market, ask(market, PRICE // 2), PRICE // 2, slice_=1, job_id=b"\x0d" * 32)
    settle(market, receive(market, last))
    assert market.sending.rolled_back(BOB.address)
    with pytest.raises(Refused, match="ROLLED_BACK"):
        pay(market, ask(market), slice_=2)
    assert pay(market, ask(market), slice_=1) == last, "what was signed before is repeated"


def test_what_is_forgotten_is_carried(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    drive(market.receiving.debit(ALICE.address, JOB, 1, PRICE // 2))
    drive(market.sending.debit(BOB.address, JOB, 1, PRICE // 2))
    market.clock.now += 10
    hashes = [w.ticket_hash for w in drive(market.receiving.winners())]
    drive(market.receiving.confirmed(hashes, b"t" * 32))
    for journal in (market.journal_in, market.journal_out):
        journal.database.run(lambda tx: prune(tx, int(market.clock.now * 1000) + 40 * 24 * 3600 * 1000))
        for table in ("payments_in", "payments_out", "debits", "params_in", "params_out"):
            assert journal.database.db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert balanced(market)
    assert market.receiving.credit_of(ALICE.address) == PRICE // 2


def test_a_book_that_was_tampered_with_does_not_balance(market: Market) -> None:
    settle(market, receive(market, pay(market, ask(market))))
    market.journal_in.database.db.execute("DELETE FROM payments_in")
    assert not balanced(market)


async def test_a_large_batch_is_checked_beside_the_event_loop(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    where = []
    plain = Recipient.check

    def check(self: Recipient, payment: Payment, sender: Address) -> object:
        where.append(threading.current_thread() is threading.main_thread())
        return plain(self, payment, sender)

    monkeypatch.setattr(Recipient, "check", check)
    params = ask(market, PRICE, 100)
    for amount, slice_ in ((PRICE, 0), (1, 1)):
        payment = pay(market, params, amount, slice_, job_id=bytes([slice_]) * 32)
        verdict = await market.receiving.receive(ALICE.address, payment)
        assert set(verdict.codes) == {TicketCode.OK}
    assert where == [False, True]
