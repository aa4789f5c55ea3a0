"""Sender and recipient over real journals: anything is lost, repeated, late or stolen, and either side is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.auditor import audit
from ledger.recipient import first_use
from ledger.ticket import Payment, PaymentVerdict, Statement, TicketCode, TicketParams, payment_digest, payment_id
from p2p.codec import decode_as, encode
from p2p.errors import Refused
from tests.support.ledger_values import ALICE, BOB, Market, drive, scratch

jobs = st.integers(0, 2)
PRICES = st.integers(1, 10**9)


def job_id(number: int) -> bytes:
    return bytes([number]) * 32


def statement_of(verdict: PaymentVerdict) -> Statement:
    return decode_as(Statement, verdict.statement.payload)


class Payments(RuleBasedStateMachine):
    """What is asserted is what the model alone remembers: every byte that either side ever let out."""

    @initialize()
    def start(self) -> None:
        self._folder = scratch()
        self.market = Market(Path(self._folder.name))
        self.params: list[TicketParams] = []
        self.payments: list[Payment] = []  # honest ones, in the order in which they were signed
        self.sent: dict[bytes, Payment] = {}  # and stolen ones, by digest
        self.verdicts: list[PaymentVerdict] = []
        self.current: dict[bytes, Payment] = {}
        self.refused: set[bytes] = set()  # digests whose refusal reached the sender
        self.too_old: set[bytes] = set()  # params from before a kill of the sender
        self.public: set[bytes] = set()  # params whose rand is on chain

    def teardown(self) -> None:
        if hasattr(self, "market"):
            self.market.close()
            self._folder.cleanup()

    @rule(price=PRICES, tickets=st.integers(1, 3), certain=st.booleans())
    def ask(self, price: int, tickets: int, certain: bool) -> None:
        asked = drive(self.market.receiving.params_for(ALICE.address, price, tickets=tickets, certain=certain))
        self.params.append(asked)

    @precondition(lambda self: self.params)
    @rule(data=st.data(), amount=PRICES, job=jobs, slice_=st.integers(0, 1))
    def pay(self, data: st.DataObject, amount: int, job: int, slice_: int) -> None:
        """Under any params that ever came, the newest most often."""
        params = data.draw(st.sampled_from(self.params[-3:] + self.params))
        self._pay(params, min(amount, 6 * params.value), job, slice_)

    @rule(price=PRICES, job=jobs, slice_=st.integers(0, 1), twice=st.booleans())
    def pay_in_full(self, price: int, job: int, slice_: int, twice: bool) -> None:
        """The whole way at once, so that runs get far."""
        self.ask(price, 2, False)
        self._pay(self.params[-1], price, job, slice_)
        for _ in range(1 + twice):
            self._arrive(self.payments[-1])
            self._settle(self.verdicts[-1])

    @precondition(lambda self: self.payments)
    @rule(data=st.data())
    def payment_arrives(self, data: st.DataObject) -> None:
        self._arrive(data.draw(st.sampled_from(self.payments)))

    @precondition(lambda self: self.payments)
    @rule(data=st.data(), name=st.binary(min_size=32, max_size=32))
    def tickets_arrive_under_another_name(self, data: st.DataObject, name: bytes) -> None:
        self._arrive(replace(data.draw(st.sampled_from(self.payments)), payment_id=name))

    @precondition(lambda self: self.verdicts)
    @rule(data=st.data())
    def verdict_arrives(self, data: st.DataObject) -> None:
        self._settle(data.draw(st.sampled_from(self.verdicts)))

    @rule(job=jobs, attempt=st.integers(1, 2), share=st.integers(1, 4), ours=st.booleans())
    def debit(self, job: int, attempt: int, share: int, ours: bool) -> None:
        if ours:
            amount = self.market.sending.credit_with(BOB.address) // share
            drive(self.market.sending.debit(BOB.address, job_id(job), attempt, amount))
        else:
            amount = self.market.receiving.credit_of(ALICE.address) // share
            drive(self.market.receiving.debit(ALICE.address, job_id(job), attempt, amount))

    @rule(job=jobs)
    def release(self, job: int) -> None:
        drive(self.market.sending.release(BOB.address, job_id(job)))

    @rule(seconds=st.sampled_from([1, 2, 11]))
    def time_passes(self, seconds: int) -> None:
        self.market.clock.now += seconds

    @rule(back=st.sampled_from([0, 0, 9]))
    def redeem(self, back: int) -> None:
        """And perhaps the calendar is put back afterwards."""
        winners = drive(self.market.receiving.winners())
        assert all(w.ripe_at_ms <= self.market.clock.now * 1000 for w in winners)
        hashes = [w.ticket_hash for w in winners]
        drive(self.market.receiving.submitting(hashes))
        drive(self.market.receiving.confirmed(hashes, b"t" * 32))
        self.public |= {w.ticket.rand_hash for w in winners}
        self.market.clock.now -= back if winners else 0

    @rule(clean=st.sampled_from([True, True, False]))
    def sender_restarts(self, clean: bool) -> None:
        self.market.journal_out.restart(clean=clean)
        self.market.new_sending()
        if not clean:
            self.too_old |= {p.params.params_id for p in self.payments if p.tickets}

    @rule(clean=st.booleans())
    def recipient_restarts(self, clean: bool) -> None:
        self.market.journal_in.restart(clean=clean)
        self.market.new_receiving()

    @invariant()
    def the_books_balance(self) -> None:
        for journal in (self.market.journal_in, self.market.journal_out):
            assert journal.database.run(audit) == ()

    @invariant()
    def no_chance_is_signed_twice(self) -> None:
        made = {encode(p): p for p in self.payments}.values()
        chances = [(p.params.params_id, t.nonce) for p in made for t in p.tickets]
        assert len(chances) == len(set(chances))

    @invariant()
    def credit_is_what_each_good_ticket_was_worth_once(self) -> None:
        worth: dict[tuple[bytes, int], int] = {}
        answered = {statement_of(v).payment_digest: v for v in self.verdicts}
        for digest, verdict in answered.items():
            payment = self.sent[digest]
            for ticket, code in zip(payment.tickets, verdict.codes, strict=True):
                if code is TicketCode.OK:
                    assert (payment.params.params_id, ticket.nonce) not in worth
                    worth[payment.params.params_id, ticket.nonce] = payment.params.value
        received, paid = self._account("in"), self._account("out")
        assert received == sum(worth.values())
        assert paid <= received
        assert self.market.sending.credit_with(BOB.address) <= paid

    def _pay(self, params: TicketParams, amount: int, job: int, slice_: int) -> None:
        name = payment_id(job_id(job), 1, slice_)
        before = self.current.get(name)
        try:
            payment = drive(self.market.sending.pay(name, BOB.address, amount, params, job_id=job_id(job)))
        except Refused as refused:
            if refused.code not in ("PARAMS_EXPIRED", "PARAMS_DROPPED"):
                raise
            return
        if before is not None and before != payment:
            assert payment_digest(before) in self.refused, "replaced without leave"
        if before != payment and payment.tickets:
            assert payment.params.params_id not in self.too_old
        self.current[name] = payment
        self.payments.append(payment)

    def _arrive(self, payment: Payment) -> None:
        verdict = drive(self.market.receiving.receive(ALICE.address, payment))
        digest = payment_digest(payment)
        self.sent[digest] = payment
        if verdict.credited and verdict not in self.verdicts:
            assert payment.params.params_id not in self.public
            assert self.market.clock.now * 1000 < first_use(payment.params, ALICE.address).ripe_at_ms
        if statement_of(verdict).payment_digest != digest:
            assert verdict.credited, "another payment's verdict is given only for one that was credited"
        self.verdicts.append(verdict)

    def _settle(self, verdict: PaymentVerdict) -> None:
        drive(self.market.sending.settle(BOB.address, verdict, BOB.address))
        if not verdict.credited:
            self.refused.add(statement_of(verdict).payment_digest)

    def _account(self, side: str) -> int:
        journal = self.market.journal_in if side == "in" else self.market.journal_out
        row = journal.database.db.execute("SELECT credit FROM accounts WHERE side = ?", (side,)).fetchone()
        return 0 if row is None else int.from_bytes(row[0], "big")


Payments.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPayments = Payments.TestCase
