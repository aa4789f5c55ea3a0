"""What a gateway's record means: its name, its deadlines, its payments, and how it ends.

The rules that change the record are in ``buying.py``. Pure; knows no auction and no ledger.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from market.jobwire import (
    DEADLINE,
    DONE,
    LOST,
    MAX_DURATION_MS,
    NO_KEY,
    PAYMENT_REFUSED,
    SILENT,
    Award,
    Closure,
    JobRefusal,
    Resume,
    Tickets,
    TicketsVerdict,
)
from market.session import events as ev
from market.session.commands import Close, Command, Debit, DeliverSlice, Fault, OpenSeal, Pay, SettlePayment
from market.session.money import first_due, payment_id, slice_total
from market.session.records import BuyingRecord, PaymentLine
from market.session.records import BuyingState as S
from market.session.table import Machine
from p2p.peer import keccak256

ANSWER_MS = 5_000  # from the award to an answer
CANCEL_MS = 10_000  # from a cancellation to its cost
RECEIVE_MS = 10_000  # past the deadline, for the bytes of what was sealed before it
KEY_MS = 10_000  # on a live stream, from the payment to the key
PAYING_MS = 60_000  # past the deadline, however often the stream breaks
GRACE_MS = 8_000  # without a stream, at most; and at most a quarter of what is left
MAX_REPLACED = 3  # times that one payment is signed anew, and that TicketParams are asked for it
MAX_TOPPED = 8  # payments beyond those that the award foresees; MAX_PAYMENTS holds all of them
NEARER = 16  # a loading model is reported again when a sixteenth of its time has gone

LIVE = (S.AWARDED, S.ACCEPTED, S.RUNNING)
_WAITS = (*LIVE, S.RECEIVING, S.PAYING)


class Buyer(Machine[BuyingRecord]):
    """One attempt at one job, as the buyer sees it."""

    record_class = BuyingRecord
    _loads_ms = 2 * MAX_DURATION_MS  # what was last reported of a loading model; a restart may report once more

    @classmethod
    def of(cls, award: Award) -> Self:
        """A session for an award that is decided but not sent; its first event is ``Awarded``."""
        return cls(BuyingRecord(award))

    @property
    def wake_at(self) -> int | None:
        """When ``Ticked`` is due, if nothing else happens."""
        return min(self._deadlines().values(), default=None)

    def _comes_nearer(self, eta_ms: int) -> bool:
        """Whether a loading model is worth a report: a part of its time has gone, so a liar has a few hundred."""
        nearer = eta_ms < self._loads_ms - self._loads_ms // NEARER
        if nearer:
            self._loads_ms = eta_ms
        return nearer

    @property
    def award(self) -> Award:
        return self.record.award

    @property
    def paid(self) -> int:
        """What the seller has credited in this attempt, as far as its verdicts have come."""
        return sum(line.credited for line in self.record.payments)

    @property
    def committed(self) -> int:
        """What this attempt's payments take of the price."""
        return sum(line.committed for line in self.record.payments)

    @property
    def _rested(self) -> int:
        """What of the first cover rests on credit from before: the seller asked for so much less."""
        due, lines = first_due(self.award.price, self.award.slices), self.record.payments
        return due - lines[0].amount if lines else due

    @property
    def _name(self) -> tuple[bytes, int]:
        return (self.award.job_id, self.award.attempt)

    @property
    def _deadline_at(self) -> int:
        at = self.record.awarded_at
        if at is None:
            raise AssertionError("nothing was awarded yet")
        return at + self.award.deadline_ms

    def _deadlines(self) -> dict[str, int]:
        """Every time that means something in this state, by the code of what then happens."""
        r = self.record
        if r.awarded_at is None or r.state in (S.OPENING, S.CLOSED):
            return {}
        if r.state is S.CANCELLING:
            return {r.code or DEADLINE: (r.cancelled_at or 0) + CANCEL_MS}
        slack = {S.RECEIVING: RECEIVE_MS, S.PAYING: PAYING_MS}.get(r.state, 0)
        found = {DEADLINE: self._deadline_at + slack}
        if r.lost_at is not None and r.state in _WAITS:
            found[LOST] = r.lost_at + min(GRACE_MS, max(0, self._deadline_at - r.lost_at) // 4)
        if r.state is S.AWARDED and r.waited_at is not None:
            found[SILENT] = r.waited_at + ANSWER_MS
        if r.state is S.PAYING and r.waited_at is not None:
            found[NO_KEY] = r.waited_at + KEY_MS
        return found if not r.delivered else {DEADLINE: found[DEADLINE]}  # then only our own tickets are open

    # -- payments ----------------------------------------------------------------------------------------------------

    def _pay(self, amount: int) -> list[Command]:
        """Decide one more payment; never past the price, whatever is asked."""
        r = self.record
        amount = max(0, min(amount, self.award.price - self.committed))
        cover = max(amount, self.committed + amount - r.debited)
        line = PaymentLine(payment_id(*self._name, r.ordinal), amount, cover, r.params)
        self._set(payments=(*r.payments, line), ordinal=r.ordinal + 1)
        return [_command(line)]

    def _line(self, payment: bytes) -> PaymentLine | None:
        return next((line for line in self.record.payments if line.payment_id == payment), None)

    def _set_line(self, changed: PaymentLine) -> None:
        lines = self.record.payments
        self._set(payments=tuple(changed if line.payment_id == changed.payment_id else line for line in lines))

    @property
    def _target(self) -> int:
        """What all payments together should come to for now."""
        if self.record.paid:
            return self.record.price
        if self.award.slices:
            return self._slice_total(max(1, self.record.covered))
        return first_due(self.award.price, 0)

    def _unsigned(self) -> list[Command]:
        return [_command(line) for line in self.record.payments if not line.payment]

    def _ask_params(self, line: PaymentLine) -> list[Command] | None:
        """An empty payment asks for fresh TicketParams; None when that was tried as often as is sensible."""
        if line.asked == MAX_REPLACED:
            return None
        self._set_line(replace(line, asked=line.asked + 1))
        return self._say(Tickets(*self._name, line.payment_id, b""))

    def _unsettled(self) -> list[Command]:
        """Tickets that have no verdict yet, byte for byte as they were; and the questions for TicketParams."""
        said: list[Command] = []
        for line in self.record.payments:
            if (line.payment or line.asked) and not line.settled:
                said += self._say(Tickets(*self._name, line.payment_id, line.payment), journal_first=True)
        return said

    @property
    def _paid_up(self) -> bool:
        """Whether the seller has said of the last payment that nothing is missing."""
        lines = self.record.payments
        return all(line.settled for line in lines) or (lines[-1].settled and not lines[-1].need)

    def _send_tickets(self, ready: ev.PaymentReady, now: int) -> list[Command]:
        """Signed tickets leave, once signed always the same."""
        line = self._line(ready.payment_id)
        if line is None or line.payment:
            return []
        self._set_line(replace(line, payment=ready.payment))
        self._set(waited_at=now if self.record.paid and self.record.connected else self.record.waited_at)
        return self._say(Tickets(*self._name, line.payment_id, ready.payment), journal_first=True)

    def _declined(self, declined: ev.PaymentDeclined, now: int) -> list[Command]:
        """Ask for fresh TicketParams, or end what cannot be paid."""
        line = self._line(declined.payment_id)
        if line is None or line.payment:
            return []
        asked = None if declined.code else self._ask_params(line)
        return self._end(declined.code or PAYMENT_REFUSED) if asked is None else asked

    def _verdict(self, said: TicketsVerdict, now: int) -> list[Command]:
        """A verdict is checked by the books; one on nothing brings the TicketParams that were asked."""
        line = self._line(said.payment_id)
        if line is None or line.settled:
            return []
        self._set(params=said.params or self.record.params)
        if bool(line.payment) != bool(said.verdict):
            return []  # TicketParams for what is signed by now, or a verdict on what is being replaced
        if line.payment:
            self._set_line(replace(line, need=said.need))
            return [SettlePayment(said.payment_id, said.verdict)]
        if not said.params or said.params == line.params or self.state in (S.CANCELLING, S.CLOSED):
            return []
        fresh = replace(line, params=said.params)
        self._set_line(fresh)
        return [_command(fresh)]

    def _settled(self, settled: ev.PaymentSettled, now: int) -> list[Command]:
        """Credited, replaced on the seller's signed word, or topped up; never past what is due."""
        line = self._line(settled.payment_id)
        if line is None or line.settled or not line.payment:
            return []
        if settled.refused:
            return self._replace(line, keccak256(settled.verdict))
        self._set_line(replace(line, settled=True, credited=settled.credited))
        if line.need and self.record.paid:
            self._count_what_came()
        short = min(line.need, self._target - self.committed)
        if short <= 0:
            return self._done() if self.record.delivered and self._paid_up else []
        if self.record.topped == MAX_TOPPED:
            return self._end(PAYMENT_REFUSED)
        self._set(topped=self.record.topped + 1)
        return self._pay(short)

    def _count_what_came(self) -> None:
        """Earlier payments may rest on credit from before, which another attempt was first to use: they are worth what
        tickets brought.
        """
        for line in self.record.payments:
            if line.settled and line.credited < line.amount:
                self._set_line(replace(line, need=line.need or line.amount - line.credited))

    def _replace(self, line: PaymentLine, verdict: bytes) -> list[Command]:
        if verdict in line.spent:
            return []  # a repeat about the payment that was replaced, not about the one that is out now
        if line.replaced == MAX_REPLACED:
            return self._end(PAYMENT_REFUSED)
        spent = (*line.spent, verdict)
        fresh = replace(line, payment=b"", params=self.record.params, replaced=line.replaced + 1, spent=spent)
        self._set_line(fresh)
        self._set(waited_at=None)
        return [_command(fresh)]

    def _credited_late(self, settled: ev.PaymentSettled, now: int) -> list[Command]:
        """What a cancelled or closed attempt had credited is still known; nothing is replaced."""
        line = self._line(settled.payment_id)
        if line is None or line.settled or (settled.refused and keccak256(settled.verdict) in line.spent):
            return []
        need = line.amount if settled.refused else line.need
        self._set_line(replace(line, settled=True, credited=settled.credited, need=need))
        if not self.record.delivered or not self._paid_up or self.award.slices:
            return []
        self._set(debited=max(self.record.debited, self.record.price))
        return [Debit(self.record.debited)]

    # -- slices and bytes --------------------------------------------------------------------------------------------

    def _hand_on(self) -> list[Command]:
        """Every slice that is next in order and whole; then cover for the one after, if it was asked."""
        out: list[Command] = []
        while (index := self.record.worked) < len(self.record.outputs):
            piece = self.record.outputs[index]
            if piece.output.blob not in self.record.blobs:
                break
            self._set(worked=index + 1, debited=max(self.record.debited, piece.total))
            out += [DeliverSlice(index, piece.output.blob), Debit(self.record.debited)]
        return out + self._cover_slice() + self._open_streamed()

    def _slice_total(self, worked: int) -> int:
        return slice_total(self.award.price, self.award.slices, worked)

    def _cover_slice(self) -> list[Command]:
        r = self.record
        next_one = 0 < r.asked == r.worked < self.award.slices
        if not next_one or r.asked < r.covered:
            return []
        self._set(covered=r.asked + 1)
        return self._pay(min(r.asked_amount, self._slice_total(r.asked + 1) - self.committed))

    def _open_streamed(self) -> list[Command]:
        r = self.record
        if not self.award.slices or r.worked < self.award.slices or r.delivery is None:
            return []
        self._set(state=S.OPENING)
        return [OpenSeal(None, None, r.delivery.receipt)]

    def _open(self) -> list[Command]:
        r = self.record
        if r.seal is None or r.delivery is None:
            raise AssertionError("no seal, or no key")
        return [OpenSeal(r.seal.commitment, r.delivery.key, r.delivery.receipt)]

    @property
    def _all_here(self) -> bool:
        return self.record.seal is not None and {c.blob for c in self.record.ciphers} <= set(self.record.blobs)

    # -- what is said, and ends --------------------------------------------------------------------------------------

    def _resumption(self, up: ev.Connected) -> list[Command]:
        return [*self._say(Resume(*self._name, self.record.worked, up.have)), *self._unsettled()]

    def _fault(self, code: str, proof: bytes = b"") -> list[Command]:
        self._set(fault=code, proof=proof)
        return [Fault(code, proof)]

    def _done(self) -> list[Command]:
        self._set(debited=max(self.record.debited, self.record.price))
        return [Debit(self.record.debited), *self._end(DONE)]

    def _end(self, code: str, *, say: bool = True, hint: str = "", refusal: JobRefusal | None = None) -> list[Command]:
        """The attempt is over; what was paid and not delivered stays as credit with this seller."""
        self._set(state=S.CLOSED, code=code, lost_at=None, waited_at=None)
        said = self._say(Closure(*self._name, code)) if say else []
        return [*said, Close(code, self.record.debited, self.paid, hint, refusal)]


def _command(line: PaymentLine) -> Pay:
    return Pay(line.payment_id, line.amount, line.cover, line.params, line.replaced)
