"""The gateway's end of a session: from an Award to a result that is opened, checked and paid for.

    IDLE -> (RESERVING) -> AWARDED -> ACCEPTED -> RUNNING -> RECEIVING -> PAYING -> OPENING -> CLOSED
                                                                    \\-> OPENING -> PAYING ->/  a seller who moves first
    slice by slice: RUNNING -> OPENING (the Receipt) -> CLOSED          a cancel: CANCELLING -> CLOSED
    every state may close; the whole table is in docs/session.md

No payment is decided twice, all of them together stay within the price, and nothing is paid for bytes that are not
here. Pure: keys, signatures, tickets and bytes belong to the shell. Knows no auction and no ledger.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compute.spec import MAX_STEPS
from market.jobwire import (
    CANCELLED,
    DEADLINE,
    DONE,
    FAILED,
    LOST,
    NO_KEY,
    OVERPRICED,
    SILENT,
    Acceptance,
    Cancellation,
    Closure,
    Commitment,
    Delivery,
    Due,
    Failure,
    JobRefusal,
    Preview,
    Progress,
    Resume,
    Seal,
    SliceOutput,
    Start,
    TicketsVerdict,
)
from market.session import events as ev
from market.session.buyer import LIVE, Buyer
from market.session.commands import (
    Close,
    Command,
    Debit,
    Deliver,
    Fault,
    Measure,
    RefuseCancel,
    Report,
    SendBlob,
    ShowPreview,
)
from market.session.money import first_due, late_price, reservation
from market.session.records import BuyingState as S
from market.session.table import Row, Table
from p2p.codec import decode_as, encode

MAX_BLOBS = 32


class Buying(Buyer):
    """The machine itself: pays for what is here, once, and at most the price."""

    # -- award and acceptance ----------------------------------------------------------------------------------------

    def _award_now(self, awarded: ev.Awarded, now: int) -> list[Command]:
        """The award goes out, with the first payment when TicketParams are at hand."""
        self._set(awarded_at=now, params=awarded.params, lost_at=None if self.record.connected else now)
        due = first_due(self.award.price, self.award.slices)
        if not awarded.params or not due:
            return self._send_award(now)
        self._set(state=S.RESERVING, covered=1)
        return self._pay(due)

    def _send_award(self, now: int) -> list[Command]:
        self._set(state=S.AWARDED, waited_at=now if self.record.connected else None)
        return self._say(self.award, journal_first=True)

    def _reserved(self, ready: ev.PaymentReady, now: int) -> list[Command]:
        """The award goes out with its reservation."""
        line = self._line(ready.payment_id)
        if line is None:
            return []
        self._set_line(replace(line, payment=ready.payment))
        self._set(award=replace(self.award, reservation=ready.payment))
        return self._send_award(now)

    def _unreserved(self, declined: ev.PaymentDeclined, now: int) -> list[Command]:
        """Without a lawful first payment the award goes out bare, and is covered when the seller asks."""
        if declined.code:
            return self._end(declined.code)
        self._set(payments=(), params=b"", covered=0)
        return self._send_award(now)

    def _award_again(self, up: ev.Connected, now: int) -> list[Command]:
        """No answer yet: the same award again."""
        self._up(up, now)
        return self._send_award(now)

    def _accepted(self, said: Acceptance, now: int) -> list[Command]:
        """Cover what is due, once, and send the inputs that are missing there."""
        self._set(state=S.ACCEPTED if self.state is S.AWARDED else self.state, params=said.params or self.record.params)
        chunks = {h.blob: h.chunks for h in said.have}
        out: list[Command] = [SendBlob(i.blob, chunks.get(i.blob, b"")) for i in self.award.inputs]
        if said.due and not self.record.payments:
            self._set(covered=1)
            out += self._pay(min(said.due, first_due(self.award.price, self.award.slices)))
        return out

    def _refused(self, said: JobRefusal, now: int) -> list[Command]:
        """Declined before anything began: on to the next Quote."""
        return self._end(said.code, say=False, hint=said.hint, refusal=said)

    # -- work --------------------------------------------------------------------------------------------------------

    def _running(self, said: Start, now: int) -> list[Command]:
        """From here on a cancel is not free."""
        self._set(state=S.RUNNING)
        return []

    def _progress(self, said: Progress, now: int) -> list[Command]:
        """Steps are reported once, and in order; before the first, a loading model as its time gets shorter."""
        self._set(state=S.RUNNING)
        if not said.step and not self.record.progress and self._comes_nearer(said.eta_ms):
            return [Report(0, said.steps, said.eta_ms)]
        if not self.record.progress < said.step <= MAX_STEPS:
            return []
        self._set(progress=said.step)
        return [Report(said.step, said.steps, said.eta_ms)]

    def _preview(self, said: Preview, now: int) -> list[Command]:
        """A preview is shown."""
        self._set(state=S.RUNNING)
        return [ShowPreview(said.step, said.media_type, said.data)]

    def _output(self, said: SliceOutput, now: int) -> list[Command]:
        """Slices are handed on in order, each when its bytes are here."""
        if said.slice != len(self.record.outputs) or said.slice >= self.award.slices:
            return []
        if said.total > self._slice_total(said.slice + 1):
            return [*self._fault(OVERPRICED), *self._end(OVERPRICED)]
        self._set(state=S.RUNNING, outputs=(*self.record.outputs, said))
        return self._hand_on()

    def _due(self, said: Due, now: int) -> list[Command]:
        """The next slice is covered when all before it were handed on."""
        self._set(state=S.RUNNING, asked=said.slice, asked_amount=said.amount, params=said.params or self.record.params)
        return self._cover_slice()

    def _blob(self, received: ev.BlobReceived, now: int) -> list[Command]:
        """Whole bytes are noted; the last ones of a slice or of the seal move things on."""
        blobs = self.record.blobs
        if received.blob in blobs or len(blobs) == MAX_BLOBS:
            return []
        self._set(blobs=(*blobs, received.blob))
        if self.state is S.RECEIVING:
            return self._take(now)
        return self._hand_on() if self.state in LIVE else []

    # -- seal, key, result -------------------------------------------------------------------------------------------

    def _sealed(self, said: Seal, now: int) -> list[Command]:
        """A seal within price and deadline is received; there is no cancel any more."""
        if self.award.slices:
            return []
        if now > self._deadline_at:
            return self._end(DEADLINE)
        bound = decode_as(Commitment, said.commitment.payload)
        if bound.price > late_price(self.award.price, self.award.late_rate, bound.late_ms):
            return [*self._fault(OVERPRICED, encode(said.commitment)), *self._end(OVERPRICED)]
        ciphers = tuple(a.cipher for a in bound.artifacts)
        self._set(state=S.RECEIVING, seal=said, price=bound.price, ciphers=ciphers, code=None)
        self._set(params=bound.params or self.record.params)
        if said.key is not None and said.receipt is not None:
            self._set(delivery=Delivery(*self._name, said.key, said.receipt))
        late = max(0, now - self._deadline_at + self.award.deadline_ms - self.award.finish_by_ms)
        off = late - bound.late_ms
        measured: list[Command] = [Measure("lateness_ms", off)] if off > 1000 + self.record.rtt_ms else []
        return [*measured, *self._take(now)]

    def _take(self, now: int) -> list[Command]:
        """With all bytes here: open when the key is known, else pay for it."""
        if not self._all_here:
            return []
        if self.record.delivery is not None:
            self._set(state=S.OPENING)
            return self._open()
        return self._pay_price(now)

    def _pay_price(self, now: int) -> list[Command]:
        self._set(state=S.PAYING, paid=True, waited_at=None if self.record.price or not self.record.connected else now)
        return self._pay(self.record.price - self.committed) if self.record.price else []

    def _keep_delivery(self, said: Delivery, now: int) -> list[Command]:
        """A key that overtook its seal or its bytes waits; a streamed result ends with its Receipt."""
        if self.record.delivery is None and (said.key is None) == bool(self.award.slices):
            self._set(delivery=said)
        return self._open_streamed()

    def _delivered(self, said: Delivery, now: int) -> list[Command]:
        """The key is here: open."""
        if self.record.delivered or said.key is None:
            return []
        self._set(delivery=said, state=S.OPENING, waited_at=None)
        return self._open()

    def _opened(self, opened: ev.Opened, now: int) -> list[Command]:
        """What opens to the committed digests is delivered, then paid if it is not; what does not is a fault."""
        r = self.record
        if r.delivery is None:
            return []
        if opened.code:
            return [*self._fault(opened.code, opened.proof), *self._end(opened.code)]
        owed = bool(r.price) and not r.paid and not self.award.slices
        self._set(delivered=True)
        return [Deliver(r.delivery.receipt), *(self._pay_price(now) if owed else self._done())]

    def _late_key(self, said: Delivery, now: int) -> list[Command]:
        """A closed attempt takes nothing but a key it has paid for."""
        r = self.record
        if not r.paid or r.delivered or said.key is None or not self._all_here or r.fault not in (None, NO_KEY):
            return self._closed_answer(said, now)
        self._set(delivery=said)
        return self._open()

    def _opened_late(self, opened: ev.Opened, now: int) -> list[Command]:
        """A paid key of a closed attempt is offered to the job, which may have another result by now."""
        r = self.record
        if r.delivery is None or r.delivered:
            return []
        if opened.code:
            return self._fault(opened.code, opened.proof)
        self._set(delivered=True, debited=max(r.debited, r.price))
        return [Debit(self.record.debited), Deliver(r.delivery.receipt, late=True), *self._unsettled()]

    # -- cancel, loss, ends ------------------------------------------------------------------------------------------

    def _cancel(self, asked: ev.CancelAsked, now: int) -> list[Command]:
        """Stop; what it costs, the seller says."""
        return self._stop(CANCELLED, now)

    def _stop(self, code: str, now: int) -> list[Command]:
        self._set(state=S.CANCELLING, code=code, cancelled_at=now)
        return self._say(Cancellation(*self._name, code), journal_first=True)

    def _cancel_free(self, asked: ev.CancelAsked, now: int) -> list[Command]:
        """Nothing has left yet."""
        return self._end(CANCELLED, say=False)

    def _cancel_late(self, asked: ev.CancelAsked, now: int) -> list[Command]:
        """After the seal there is no cancel."""
        return [RefuseCancel()]

    def _cost(self, said: Closure, now: int) -> list[Command]:
        """A cancel costs what the seller says, at most the reservation."""
        cost = min(said.cost, reservation(self.award.price), self.committed + self._rested - self.record.debited)
        self._set(debited=self.record.debited + max(0, cost))
        debit: list[Command] = [Debit(self.record.debited)] if cost > 0 else []
        return debit + self._end(self.record.code or CANCELLED, say=False)

    def _failed(self, said: Failure, now: int) -> list[Command]:
        """Failed work is not paid."""
        code = self.record.code if self.state is S.CANCELLING else said.code
        return self._end(code or _their(said.code), say=False, hint=said.hint)

    def _ended(self, said: Closure | Failure, now: int) -> list[Command]:
        """The seller has closed; with our full payment in its hands and no key in ours that is a fault."""
        if self.record.delivered:
            return self._done() if self._paid_up else self._end(DONE, say=False)
        broken = self._fault(NO_KEY) if self.record.paid and self.paid else []
        return broken + self._end(_their(said.code), say=False)

    def _closed_answer(self, said: Any, now: int) -> list[Command]:
        """A closed attempt answers that it is closed, and pays nothing."""
        return [] if self._owed_a_key else self._say(Closure(*self._name, self.record.code or DONE))

    def _tick(self, ticked: ev.Ticked, now: int) -> list[Command]:
        """The deadline, a lost stream, silence, a cost or a key that did not come."""
        passed = [code for code, at in self._deadlines().items() if now >= at]
        if not passed:
            return []
        if self.record.delivered:
            return self._end(DONE)
        if self.state in LIVE and passed == [DEADLINE] and self.record.connected:
            return self._stop(DEADLINE, now)
        broken = self._fault(NO_KEY) if NO_KEY in passed else []
        return broken + self._end(passed[-1])

    def _up(self, up: ev.Connected, now: int) -> list[Command]:
        """A stream is there."""
        self._set(connected=True, rtt_ms=up.rtt_ms, lost_at=None)
        return []

    def _resume(self, up: ev.Connected, now: int) -> list[Command]:
        """Say what is here, and repeat the tickets that have no verdict."""
        waits = self.record.paid and all(line.payment for line in self.record.payments)
        self._set(waited_at=now if waits else None)
        return [*self._up(up, now), *self._resumption(up)]

    def _cancel_again(self, up: ev.Connected, now: int) -> list[Command]:
        """The cancellation may have been lost."""
        self._up(up, now)
        return self._say(Cancellation(*self._name, self.record.code or CANCELLED))

    def _closed_up(self, up: ev.Connected, now: int) -> list[Command]:
        """Pay what was delivered, ask for what was paid; else let the seller know that it need not go on."""
        self._up(up, now)
        if self._owed_a_key:
            return self._say(Resume(*self._name, self.record.worked, up.have))
        owed = self._unsettled() if self.record.delivered else []
        return owed or self._closed_answer(None, now)

    @property
    def _owed_a_key(self) -> bool:
        r = self.record
        sent = all(line.payment for line in r.payments)  # a verdict may be lost, and the key given all the same
        return r.paid and not r.delivered and self._all_here and sent and r.fault in (None, NO_KEY)

    def _down(self, down: ev.Disconnected, now: int) -> list[Command]:
        """A lost stream is no failure until it is lost for too long."""
        lost_at = now if self.record.lost_at is None else self.record.lost_at
        self._set(connected=False, lost_at=lost_at, waited_at=None)
        return []

    def _again(self, restarted: ev.Restarted, now: int) -> list[Command]:
        """Repeat what may not have been done: debit, signature, opening, delivery, the end."""
        r = self.record
        self._set(lost_at=now, waited_at=None)
        out: list[Command] = [Debit(r.debited)] if r.debited else []
        if r.state is S.OPENING:
            out += self._open() if r.seal is not None else self._open_streamed()
        if r.delivered and r.delivery is not None:
            out.append(Deliver(r.delivery.receipt, late=r.state is S.CLOSED and r.code != DONE))
        if r.state is not S.CLOSED:
            return out + self._unsigned()
        out += [Fault(r.fault, r.proof)] if r.fault else []
        return [*out, Close(r.code or DONE, r.debited, self.paid)]


def _their(code: str) -> str:
    """Why a seller says that an attempt without a result is over; what only we can know is no reason of theirs."""
    return FAILED if code in (DONE, CANCELLED, DEADLINE, LOST, SILENT) else code


_OUT = (*LIVE, S.RECEIVING, S.PAYING, S.OPENING)
_EARLY = (*LIVE, S.CANCELLING)

Buying.table = Table(
    (
        Row((S.IDLE,), ev.Awarded, Buying._award_now, (S.RESERVING, S.AWARDED)),
        Row((S.RESERVING,), ev.PaymentReady, Buying._reserved, (S.AWARDED,)),
        Row((S.RESERVING,), ev.PaymentDeclined, Buying._unreserved, (S.AWARDED, S.CLOSED)),
        Row((S.AWARDED, S.ACCEPTED), Acceptance, Buying._accepted, (S.ACCEPTED,)),
        Row((S.AWARDED,), JobRefusal, Buying._refused, (S.CLOSED,)),
        Row((S.AWARDED, S.ACCEPTED), Start, Buying._running, (S.RUNNING,)),
        Row(LIVE, Progress, Buying._progress, (S.RUNNING,)),
        Row(LIVE, Preview, Buying._preview, (S.RUNNING,)),
        Row(LIVE, SliceOutput, Buying._output, (S.RUNNING, S.OPENING, S.CLOSED)),
        Row(LIVE, Due, Buying._due, (S.RUNNING,)),
        Row((*_EARLY, S.RECEIVING), ev.BlobReceived, Buying._blob, (S.PAYING, S.OPENING)),
        Row(_EARLY, Seal, Buying._sealed, (S.RECEIVING, S.PAYING, S.OPENING, S.CLOSED)),
        Row((*LIVE, S.RECEIVING), Delivery, Buying._keep_delivery, (S.OPENING,)),
        Row((S.PAYING,), Delivery, Buying._delivered, (S.OPENING,)),
        Row((S.CLOSED,), Delivery, Buying._late_key),
        Row((S.OPENING,), ev.Opened, Buying._opened, (S.PAYING, S.CLOSED)),
        Row((S.CLOSED,), ev.Opened, Buying._opened_late),
        Row(_OUT, ev.PaymentReady, Buying._send_tickets),
        Row(_OUT, ev.PaymentDeclined, Buying._declined, (S.CLOSED,)),
        Row((*_OUT, S.CANCELLING, S.CLOSED), TicketsVerdict, Buying._verdict),
        Row(_OUT, ev.PaymentSettled, Buying._settled, (S.CLOSED,)),
        Row((S.CANCELLING, S.CLOSED), ev.PaymentSettled, Buying._credited_late),
        Row((S.RESERVING,), ev.CancelAsked, Buying._cancel_free, (S.CLOSED,)),
        Row(LIVE, ev.CancelAsked, Buying._cancel, (S.CANCELLING,)),
        Row((S.RECEIVING, S.PAYING, S.OPENING), ev.CancelAsked, Buying._cancel_late),
        Row(_EARLY, Failure, Buying._failed, (S.CLOSED,)),
        Row((S.CANCELLING,), Closure, Buying._cost, (S.CLOSED,)),
        Row((*LIVE, S.RECEIVING, S.PAYING), Closure, Buying._ended, (S.CLOSED,)),
        Row((S.PAYING,), Failure, Buying._ended, (S.CLOSED,)),
        *(
            Row((S.CLOSED,), said, Buying._closed_answer)
            for said in (Acceptance, Start, Progress, SliceOutput, Due, Seal)
        ),
        Row(
            (S.RESERVING, *LIVE, S.CANCELLING, S.RECEIVING, S.PAYING), ev.Ticked, Buying._tick, (S.CANCELLING, S.CLOSED)
        ),
        Row((S.IDLE, S.RESERVING, S.OPENING), ev.Connected, Buying._up),
        Row((S.AWARDED,), ev.Connected, Buying._award_again),
        Row((S.ACCEPTED, S.RUNNING, S.RECEIVING, S.PAYING), ev.Connected, Buying._resume),
        Row((S.CANCELLING,), ev.Connected, Buying._cancel_again),
        Row((S.CLOSED,), ev.Connected, Buying._closed_up),
        Row(tuple(S), ev.Disconnected, Buying._down),
        Row((S.RESERVING, *_OUT, S.CANCELLING, S.CLOSED), ev.Restarted, Buying._again),
    )
)
