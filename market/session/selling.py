"""The orchestrator's end of a session: from an Award to a paid, delivered, receipted job.

    IDLE -> JUDGING -> COVERING -> WORKING -> SEALING -> SEALED -> RECEIPTING -> DELIVERED -> CLOSED
                                    |    ^                 (a seller who moves first: SEALED -> DELIVERED)
                                    v    |
                                    PAUSED   slice by slice: WORKING -> RECEIPTING after the last one
    every state but IDLE, SEALING, RECEIPTING may close; the whole table is in docs/session.md

Nothing is worked before its cover is known, and no key leaves before the price is covered, unless this seller moves
first. Pure: keys, signatures, credit and work belong to the shell. Knows no quote and no ledger.
"""

from __future__ import annotations

from dataclasses import replace

from market.jobwire import (
    CANCELLED,
    DEADLINE,
    DONE,
    MAX_DURATION_MS,
    OTHER_BODY,
    UNKNOWN,
    UNPAID,
    Award,
    Cancellation,
    Closure,
    JobRefusal,
    Preview,
    Progress,
    Resume,
    Seal,
    SliceOutput,
    Start,
    Tickets,
    TicketsVerdict,
)
from market.session import events as ev
from market.session.commands import (
    CancelWork,
    Close,
    Command,
    CreditPayment,
    Debit,
    Fault,
    Forget,
    JudgeAward,
    OfferParams,
    SealArtifacts,
    SendBlob,
    SignReceipt,
    StartWork,
)
from market.session.money import cancel_cost, first_due, payment_id, slice_total
from market.session.records import SellingState as S
from market.session.seller import PAY_MS, Seller
from market.session.table import Row, Table


class Selling(Seller):
    """The machine itself: no work before its cover, no key before the price, and at most the price."""

    # -- the award ---------------------------------------------------------------------------------------------------

    def _judge(self, award: Award, now: int) -> list[Command]:
        """An award is judged before anything else."""
        self._set(state=S.JUDGING, award=award, awarded_at=now)
        return [JudgeAward(award)]

    def _unknown(self, said: Resume | Tickets | Cancellation, now: int) -> list[Command]:
        """Nothing of this attempt is known here."""
        return self._say(Closure(said.job_id, said.attempt, UNKNOWN))

    def _answer_award(self, judged: ev.AwardJudged, now: int) -> list[Command]:
        """Refuse with what is needed, or accept, at once where no cover is asked for, and credit what came along."""
        if judged.code:
            said = JobRefusal(*self._name, judged.code, judged.have, judged.need, judged.hint, judged.params)
            self._set(refusal=said)
            return [*self._say(said), *self._close(judged.code, now, hint=judged.hint)]
        due = first_due(self.award.price, self.award.slices)
        self._set(state=S.COVERING, due=due, cover=judged.cover, params=judged.params, first=judged.first, asked_at=now)
        covered = bool(self.award.reservation) or due <= self.spare  # so that nothing is paid on the strength of it
        accepted = self._say(self._acceptance(), journal_first=True, ahead=covered)
        return [*accepted, *self._credit_reservation(), *self._start()]

    def _repeat(self, award: Award, now: int) -> list[Command]:
        """The same body gets the same answer; another body under the same name is refused."""
        if replace(award, reservation=b"") != replace(self.award, reservation=b""):
            return self._say(JobRefusal(*self._name, OTHER_BODY))
        if self.state in (S.IDLE, S.JUDGING):
            return []
        if award.reservation and not self.record.credited:
            self._set(award=award)
            return [*self._stand(0, ()), *self._credit_reservation()]
        return self._stand(0, ())

    def _resume(self, said: Resume, now: int) -> list[Command]:
        """Say where things stand, and send what the other side lacks."""
        return self._stand(said.slices, said.have)

    # -- cover and work ----------------------------------------------------------------------------------------------

    def _credit_reservation(self) -> list[Command]:
        payment = self.award.reservation
        return [CreditPayment(payment_id(*self._name, 0), payment)] if payment else []

    def _credit(self, said: Tickets, now: int) -> list[Command]:
        """Tickets are judged in every open state, also when they come twice; none at all ask for TicketParams."""
        if not said.payment:
            return [OfferParams(said.payment_id)]
        return [CreditPayment(said.payment_id, said.payment)]

    def _judged(self, judged: ev.PaymentJudged, now: int) -> list[Command]:
        """Tell the verdict and what is missing; go on when what is due is covered."""
        self._set(cover=judged.cover, credited=True, params=judged.params or self.record.params)
        r = self.record
        need = max(0, r.due - self.spare)
        said = self._say(
            TicketsVerdict(*self._name, judged.payment_id, judged.verdict, need, r.params if need else b"")
        )
        if r.state is S.COVERING:
            return said + self._start()
        if r.state is S.PAUSED and not need:
            return said + self._work()
        return said + (self._earn(now) if r.state is S.SEALED and not need else [])

    def _judged_late(self, judged: ev.PaymentJudged, now: int) -> list[Command]:
        """What was credited while the attempt was closed is told all the same: it is its payer's credit."""
        return self._say(TicketsVerdict(*self._name, judged.payment_id, judged.verdict))

    def _offer_params(self, offered: ev.ParamsOffered, now: int) -> list[Command]:
        """Fresh TicketParams for a payment that could not be signed under the old ones."""
        self._set(params=offered.params)
        need = max(0, self.record.due - self.spare)
        return self._say(TicketsVerdict(*self._name, offered.payment_id, b"", need, offered.params))

    def _input(self, received: ev.BlobReceived, now: int) -> list[Command]:
        """An input is here; the work starts with the last one, when it is covered."""
        blobs = {i.blob for i in self.award.inputs}
        if received.blob not in blobs or received.blob in self.record.inputs:
            return []
        self._set(inputs=(*self.record.inputs, received.blob))
        return self._start()

    def _start(self) -> list[Command]:
        r = self.record
        if self.spare < r.due or any(i.blob not in r.inputs for i in self.award.inputs):
            return []
        return [*self._say(Start(*self._name)), *self._work()]

    def _work(self) -> list[Command]:
        self._set(state=S.WORKING, asked_at=None)
        return [StartWork(self.award, self.record.slice)]

    def _step(self, stepped: ev.Stepped, now: int) -> list[Command]:
        """A step is told once; before the first, how long it will take is told again: the model loads."""
        last = self.record.progress
        if last is not None and stepped.step <= last.step and (stepped.step or last.step):
            return []
        eta = min(stepped.eta_ms, MAX_DURATION_MS)
        self._set(progress=Progress(*self._name, stepped.step, stepped.steps, eta))
        return self._say(self.record.progress)

    def _preview(self, made: ev.PreviewMade, now: int) -> list[Command]:
        """A preview is shown, and not kept."""
        return self._say(Preview(*self._name, made.step, made.media_type, made.data))

    def _slice(self, worked: ev.SliceWorked, now: int) -> list[Command]:
        """A slice is earned when it is out; the next is worked when it is covered."""
        r = self.record
        if worked.slice != r.slice or not self.award.slices:
            return []
        piece = SliceOutput(*self._name, worked.slice, worked.output, r.debited + r.due)
        self._set(outputs=(*r.outputs, piece), slice=r.slice + 1, debited=piece.total, params=worked.params or r.params)
        out = [*self._say(piece), Debit(piece.total)]
        if r.connected:
            out.append(SendBlob(worked.output.blob))
        r = self.record
        if r.slice == self.award.slices:
            self._set(state=S.RECEIPTING, due=0, price=r.debited)
            return [*out, SignReceipt(r.debited, r.debited)]
        total = slice_total(self.award.price, self.award.slices, r.slice + 1)
        self._set(due=max(0, min(total, self._price_at(now)) - r.debited))
        if self.record.due <= self.spare:
            return [*out, *self._work()]
        self._set(state=S.PAUSED, asked_at=now if r.connected else None)
        return [*out, *self._ask()]

    # -- seal, payment, key ------------------------------------------------------------------------------------------

    def _seal(self, done: ev.WorkDone, now: int) -> list[Command]:
        """The result is sealed at the price of this moment; past the bid's deadline it is worth nothing."""
        if self.award.slices:
            return []
        if now > self._deadline_at:
            return self._give_up(DEADLINE, now)
        self._set(state=S.SEALING, price=self._price_at(now), late_ms=min(self._late_ms(now), MAX_DURATION_MS))
        return self._reseal()

    def _reseal(self) -> list[Command]:
        return [SealArtifacts(self.record.price, self.record.late_ms)]

    def _sealed(self, made: ev.SealMade, now: int) -> list[Command]:
        """The seal goes out; a seller who moves first has the Receipt signed before.

        What its award found beyond the reservation was free all the while, and may be another attempt's by now.
        """
        seal, cover = Seal(*self._name, made.commitment), self.record.debited + self.held
        self._set(seal=seal, key=made.key, ciphers=made.ciphers, due=self.record.price, cover=cover)
        if self.record.first or not self.record.price:
            return [SignReceipt(self.record.price, min(self.spare, self.record.price))]
        return self._seal_out(now)

    def _first_receipt(self, signed: ev.ReceiptSigned, now: int) -> list[Command]:
        """Key and Receipt go out with the seal."""
        if self.record.seal is None:
            return []
        self._set(receipt=signed.receipt, seal=replace(self.record.seal, key=self.record.key, receipt=signed.receipt))
        return self._seal_out(now)

    def _seal_out(self, now: int) -> list[Command]:
        self._set(state=S.SEALED if self.record.price else S.DELIVERED, kept_at=now, sent=(), asked_at=None)
        out = self._say(self.record.seal, journal_first=True)
        out += [SendBlob(c.blob) for c in self.record.ciphers if self.record.connected]
        return out if self.record.price else [*out, *self._finish(now)]

    def _blob_out(self, sent: ev.BlobSent, now: int) -> list[Command]:
        """With the last acknowledged byte the gateway's time to pay begins."""
        acknowledged = {*self.record.sent, sent.blob}
        self._set(sent=tuple(c.blob for c in self.record.ciphers if c.blob in acknowledged))
        if self._all_sent and self.record.connected and self.record.asked_at is None:
            self._set(asked_at=now)
        return []

    def _earn(self, now: int) -> list[Command]:
        r = self.record
        self._set(asked_at=None)
        if r.receipt is not None:
            return self._earned(now)
        self._set(state=S.RECEIPTING, kept_at=None)
        return [SignReceipt(r.price, r.price)]

    def _earned(self, now: int) -> list[Command]:
        self._set(state=S.DELIVERED, debited=self.record.price, due=0)
        return [Debit(self.record.price), *self._finish(now)]

    def _receipted(self, signed: ev.ReceiptSigned, now: int) -> list[Command]:
        """Key and Receipt go out, and are kept for a repeat."""
        self._set(receipt=signed.receipt)
        earned = self._earned(now)
        return [*earned, *self._deliver()]

    # -- ends --------------------------------------------------------------------------------------------------------

    def _failed(self, failed: ev.WorkFailed, now: int) -> list[Command]:
        """Failed work is not paid."""
        return self._give_up(failed.code, now, failed.hint[:200])

    def _cancel(self, said: Cancellation, now: int) -> list[Command]:
        """Free before the start, and for a seller that is late; else the work done, at most the reservation."""
        r, done = self.record, self.record.progress
        cost = cancel_cost(self.award.price, done.step, done.steps) if done and not self._late_ms(now) else 0
        cost = min(cost, r.due, self.spare) if r.state is S.WORKING else 0
        self._set(cost=cost, debited=r.debited + cost)
        stop: list[Command] = [CancelWork()] if r.state is S.WORKING else []
        debit: list[Command] = [Debit(self.record.debited)] if cost else []
        return [*stop, *debit, *self._say(Closure(*self._name, CANCELLED, cost)), *self._close(CANCELLED, now)]

    def _closed(self, said: Closure, now: int) -> list[Command]:
        """The gateway closed the attempt; with the key, or with the bytes and time to pay, in its hands a fault.

        A seal that was on its way past the bid's deadline is nobody's fault, and worth nothing.
        """
        r = self.record
        stop: list[Command] = [CancelWork()] if r.state is S.WORKING else []
        late = said.code == DEADLINE and now + PAY_MS >= self._deadline_at
        had = r.receipt is not None or (self._all_sent and not late)
        taken = r.state is S.SEALED and had and r.fault is None
        fault = self._fault(UNPAID) if taken else []
        code = CANCELLED if said.code == DONE else said.code  # nothing was delivered, whatever it says
        return [*stop, *fault, *self._close(UNPAID if taken else code, now)]

    def _thanked(self, said: Closure, now: int) -> list[Command]:
        """The gateway has all it paid for."""
        self._set(state=S.CLOSED, kept_at=now)
        return []

    def _over(self, said: Award | Resume | Tickets | Cancellation, now: int) -> list[Command]:
        """A closed attempt answers why it is closed."""
        r = self.record
        if isinstance(said, Award) and replace(said, reservation=b"") != replace(self.award, reservation=b""):
            return self._say(JobRefusal(*self._name, OTHER_BODY))
        return self._say(r.refusal or Closure(*self._name, r.code or DONE, r.cost))

    def _tick(self, ticked: ev.Ticked, now: int) -> list[Command]:
        """No cover in 10 s, no gateway at the finish, no result at the deadline: give up."""
        passed = [code for code, at in self._deadlines().items() if now >= at]
        return self._give_up(passed[0], now) if passed else []

    def _tick_kept(self, ticked: ev.Ticked, now: int) -> list[Command]:
        """Not paid 10 s after the last byte is a fault; what was kept for 10 minutes is forgotten."""
        passed = [code for code, at in self._deadlines().items() if now >= at]
        if DONE in passed:
            late: list[Command] = [] if self.state is not S.SEALED else self._close(UNPAID, now)
            if late and self.record.receipt is not None and self.record.fault is None:
                late = [*self._fault(UNPAID), *late]  # it has had the key all the time
            self._set(state=S.CLOSED, kept_at=None)
            return [*late, Forget()]
        if UNPAID in passed:
            return self._fault(UNPAID)
        return []

    def _up(self, up: ev.Connected, now: int) -> list[Command]:
        """A stream is there; the gateway speaks first."""
        asks = self.state in (S.COVERING, S.PAUSED)
        self._set(connected=True, have=up.have, sent=(), asked_at=now if asks else None)
        return []

    def _down(self, down: ev.Disconnected, now: int) -> list[Command]:
        """A lost stream is no failure: work goes on, and what is kept stays."""
        self._set(connected=False, asked_at=None)
        return []

    def _again(self, restarted: ev.Restarted, now: int) -> list[Command]:
        """Repeat what may not have been done: the debit, the work, the seal, the Receipt, the end."""
        r = self.record
        self._set(asked_at=None)
        out: list[Command] = [Debit(r.debited)] if r.debited else []
        out += [Fault(r.fault)] if r.fault else []
        out += [Close(r.code, r.debited, r.debited)] if r.code else []
        if r.state is S.WORKING:
            out.append(StartWork(self.award, r.slice))
        if r.state is S.SEALING:
            out += self._reseal()
        if r.state is S.RECEIPTING:
            out.append(SignReceipt(r.price, r.price))
        return out


_OPEN = (S.COVERING, S.WORKING, S.PAUSED, S.SEALING, S.SEALED, S.RECEIPTING, S.DELIVERED)
_EARLY = (S.JUDGING, S.COVERING, S.WORKING, S.PAUSED)

Selling.table = Table(
    (
        Row((S.IDLE,), Award, Selling._judge, (S.JUDGING,)),
        *(Row((S.IDLE,), said, Selling._unknown) for said in (Resume, Tickets, Cancellation)),
        Row((S.JUDGING,), ev.AwardJudged, Selling._answer_award, (S.COVERING, S.WORKING, S.CLOSED)),
        Row((S.JUDGING, *_OPEN), Award, Selling._repeat),
        Row(_OPEN, Resume, Selling._resume),
        Row(_OPEN, Tickets, Selling._credit),
        Row(_OPEN, ev.PaymentJudged, Selling._judged, (S.WORKING, S.RECEIPTING, S.DELIVERED)),
        Row((S.CLOSED,), ev.PaymentJudged, Selling._judged_late),
        Row(_OPEN, ev.ParamsOffered, Selling._offer_params),
        Row((S.COVERING,), ev.BlobReceived, Selling._input, (S.WORKING,)),
        Row((S.WORKING,), ev.Stepped, Selling._step),
        Row((S.WORKING,), ev.PreviewMade, Selling._preview),
        Row((S.WORKING,), ev.SliceWorked, Selling._slice, (S.PAUSED, S.RECEIPTING)),
        Row((S.WORKING,), ev.WorkDone, Selling._seal, (S.SEALING, S.CLOSED)),
        Row((S.WORKING, S.SEALING, S.RECEIPTING), ev.WorkFailed, Selling._failed, (S.CLOSED,)),
        Row((S.SEALING,), ev.SealMade, Selling._sealed, (S.SEALED,)),
        Row((S.SEALING,), ev.ReceiptSigned, Selling._first_receipt, (S.SEALED, S.DELIVERED)),
        Row((S.SEALED,), ev.BlobSent, Selling._blob_out),
        Row((S.RECEIPTING,), ev.ReceiptSigned, Selling._receipted, (S.DELIVERED,)),
        Row(_EARLY, Cancellation, Selling._cancel, (S.CLOSED,)),
        Row((*_EARLY, S.SEALED), Closure, Selling._closed, (S.CLOSED,)),
        Row((S.DELIVERED,), Closure, Selling._thanked, (S.CLOSED,)),
        *(Row((S.CLOSED,), said, Selling._over) for said in (Award, Resume, Tickets, Cancellation)),
        Row((S.COVERING, S.WORKING, S.PAUSED), ev.Ticked, Selling._tick, (S.CLOSED,)),
        Row((S.SEALED, S.DELIVERED, S.CLOSED), ev.Ticked, Selling._tick_kept, (S.CLOSED,)),
        Row(tuple(S), ev.Connected, Selling._up),
        Row(tuple(S), ev.Disconnected, Selling._down),
        Row((*_OPEN, S.CLOSED), ev.Restarted, Selling._again),
    )
)
