"""Purchase: the gateway's side of one attempt at one job; carries out what the buying machine commands.

The machine decides, this acts: dials the seller and dials again, signs tickets, checks verdicts, opens the seal,
checks every digest and the Receipt. ``outcome`` is the attempt's result. Knows no auction and no client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
import trio

from compute.spec import Artifact
from ledger.journal import Begun
from ledger.ticket import PaymentVerdict, TicketParams
from market import jobwire as wire
from market.aftermath import Aftermath
from market.basket import ASK_AFRESH, BROKEN, Basket, Bought, Ended
from market.bidwire import JobNews, JobPreview, News
from market.conversation import Conversation, closing
from market.keeping import name_of
from market.opening import check_receipt, unsealed
from market.pace import Pace
from market.parcels import Parcels
from market.receipt import Receipt, countersign
from market.session import Buying, BuyingState, commands, events
from market.sessionstore import Counted
from p2p.codec import decode_as, encode
from p2p.envelope import Signed, open_from
from p2p.errors import PasarError, PeerFault, Refused
from p2p.peer import PeerId, address_of, peer_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

REDIAL_S = 0.25
REDIAL_MOST_S = 2.0
LAST_VERDICT_S = 3.0  # how long a result waits for the verdict on its payment, when the key came first
LATE_KEY_S = 30.0  # how long a closed attempt still takes a key that it paid for
MAX_FAULTY_STREAMS = 3
TAKEN = (
    *(BuyingState.ACCEPTED, BuyingState.RUNNING, BuyingState.RECEIVING),
    *(BuyingState.PAYING, BuyingState.OPENING),
)
AT_WORK = (BuyingState.ACCEPTED, BuyingState.RUNNING)
TICKETS_PER_PRICE = 4  # at least: what one ticket is worth beyond what is due is lent to its seller


class Purchase:
    """``decided`` when the award was taken or the attempt ended; a late key may bring ``bought`` after ``over``.

    What was bought is not forgotten before somebody says ``taken``: until then a restart opens it again.
    """

    def __init__(
        self,
        basket: Basket,
        seller: PeerId,
        session: Buying,
        tell: Callable[[JobNews | JobPreview], None],
        *,
        counted: Counted = Counted.NOTHING,
        asked_at: int | None = None,
    ) -> None:
        """``asked_at``: when the quote was asked for, on our steady clock; None after a restart."""
        self._b, self.seller, self.session, self._tell = basket, seller, session, tell
        self.award = session.award
        self._pace = Pace(self.award.finish_by_ms)
        self._aftermath = Aftermath(basket, seller, self.award, counted, self._pace, asked_at)
        self.recipient = address_of(seller)
        self.parcels = Parcels()
        self.talk = Conversation(
            session,
            seller,
            self.parcels,
            self._perform,
            self._keep,
            buying=True,
            known=lambda event: self._notice_taken(),
            after=self._notice,
            reached=basket.reached,
        )
        self.accepted, self.decided, self.over, self.taken = (trio.Event() for _ in range(4))
        self.bought: Bought | None = None
        self.ended: Ended | None = None
        self._hidden_ms = 0  # late by our clock, and not by the seller's own
        self.sealed_at: float | None = None
        self._opened: tuple[Artifact, ...] = ()
        self._kept = False
        self._changed = trio.Event()
        self._owed_debit: int | None = None
        self._nursery: trio.Nursery | None = None
        name = self.award.job_id.hex()[:16]
        self.log = log.bind(job=name, attempt=self.award.attempt, seller=peer_text(seller)[-8:])

    def begin(self) -> None:
        """Award the job, with a reservation when TicketParams of this seller are at hand."""
        params = self._known_params()
        self.talk.post(events.Awarded(encode(params) if params is not None and self.award.price else b""))

    def cancel(self) -> None:
        """The client wants it no more."""
        self.talk.post(events.CancelAsked())

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the attempt is over, and a little longer when a paid key is still to come."""
        await self._restore_ciphers()
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_connected)
            self._nursery.start_soon(self._give_up_stalled)
            task_status.started()
            try:
                await self.talk.run()
            except PasarError as exc:  # one attempt must not end the gateway
                self.log.error("a purchase broke off", error=type(exc).__name__, reason=str(exc))
                self.ended = self.ended or Ended(BROKEN, str(exc)[:200])
                self.decided.set()
                self.over.set()
            self._nursery.cancel_scope.cancel()

    async def _give_up_stalled(self) -> None:
        """Take the job back from a seller that took it, stays connected, and does nothing for too long."""
        await self.accepted.wait()
        while self.session.state in AT_WORK:
            left = self._pace.word_at + self._pace.patience_s - trio.current_time()
            if left <= 0:
                self.log.warning("given up: no word on the work", seconds=int(self._pace.patience_s))
                self._pace.stalled = True
                return self.cancel()
            await trio.sleep(left)

    # -- the stream --------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        pause, faulty = REDIAL_S, 0
        while True:
            try:
                await self._connect()
                pause = REDIAL_S
            except (PeerFault, Refused) as fault:
                faulty += 1
                self.log.warning("the seller broke the rules", code=fault.code, reason=str(fault))
                if faulty == MAX_FAULTY_STREAMS and isinstance(fault, PeerFault):
                    await self._aftermath.fault(fault.code, b"")
            except PasarError as exc:
                self.log.debug("job stream lost", reason=str(exc))
            if faulty >= MAX_FAULTY_STREAMS:
                await trio.sleep_forever()  # the machine's own deadline ends the attempt
            await trio.sleep(pause)
            pause = min(REDIAL_MOST_S, pause * 2)

    async def _connect(self) -> None:
        stream, greet = await self._b.streams.take(self.seller)
        try:
            await self.talk.attach(stream, rtt_ms=self._b.rtts(self.seller), greet=greet)
        finally:
            await closing(stream)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _keep(self, record: bytes) -> Begun[None]:
        return await self._b.store.put(self.seller, self.award.job_id, self.award.attempt, record)

    async def _perform(self, command: commands.Command) -> None:
        match command:
            case commands.Pay():
                await self._pay(command)
            case commands.SettlePayment(payment_id=payment_id, verdict=verdict):
                await self._settle(payment_id, verdict)
            case commands.OpenSeal(commitment=commitment, key=key, receipt=receipt):
                await self._open(commitment, key, receipt)
            case commands.Deliver(receipt=receipt):
                await self._deliver(receipt)
            case commands.Debit(total=total):
                self._owed_debit = total
                await self._debit()
            case commands.Report(step=step, steps=steps, eta_ms=eta_ms):
                self._news(News.STEP, step=step, steps=steps, eta_ms=eta_ms)
            case commands.ShowPreview(step=step, data=data):
                self._tell(JobPreview(self.award.job_id, step, data))
            case commands.Measure(kind=kind, value=value):  # of kinds there is lateness alone
                self.log.info("measured", kind=kind, value=value)
                self._hidden_ms = value
            case commands.Fault(code=code, proof=proof):
                await self._aftermath.fault(code, proof)
            case commands.Close():
                await self._close(command)

    def _notice_taken(self) -> None:
        """Tell that the seller has the job as soon as it says so; what it is paid for that may follow."""
        if self.session.state in TAKEN and not self.accepted.is_set():
            self._pace.taken(trio.current_time())
            self.accepted.set()
            self.decided.set()
            self._news(News.AWARDED, wei=self.award.price)

    def _notice(self) -> None:
        """Tell what the machine has come to know."""
        self._changed.set()
        self._changed = trio.Event()
        record = self.session.record
        self._pace.saw((record.state, record.progress), trio.current_time())
        if record.seal is not None and self.sealed_at is None:
            self.sealed_at = self._pace.sealed_at = trio.current_time()
            self._news(News.SEALED, wei=record.price)

    async def _keep_ciphers(self) -> None:
        """Sealed bytes are on disk before anything is paid for them, and before the key that opens them is used."""
        record = self.session.record
        if self._kept or record.seal is None:
            return
        ciphers = [whole for ref in record.ciphers if (whole := self.parcels.get(ref)) is not None]
        if len(ciphers) == len(record.ciphers):
            await self._b.keeping.put(self._name, record.seal.commitment, ciphers)
            self._kept = True

    async def _restore_ciphers(self) -> None:
        refs = self.session.record.ciphers
        found = await self._b.keeping.get(self._name, Signed) if refs else None
        if found is not None and len(found[1]) == len(refs):
            self._kept = True
            for ref, data in zip(refs, found[1], strict=True):
                self.parcels.keep(ref, data)

    @property
    def _name(self) -> str:
        return name_of(self.award.job_id, self.award.attempt)

    @property
    def _all_settled(self) -> bool:
        return all(line.settled for line in self.session.record.payments if line.payment)

    async def deliver(self) -> None:
        """Wait until there is a result; for ever when there will be none."""
        await self._until(lambda: self.bought is not None)

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self._changed.wait()

    async def _pay(self, pay: commands.Pay) -> None:
        await self._keep_ciphers()
        if not pay.params:
            self.talk.post(events.PaymentDeclined(pay.payment_id))
            return
        try:
            params = decode_as(TicketParams, pay.params)
            if params.value > max(1, self.award.price // TICKETS_PER_PRICE):
                raise Refused("TICKET_TOO_LARGE", have=self.award.price, need=params.value)
            begun = await self._b.books.begin_payment(
                pay.payment_id,
                self.recipient,
                pay.amount,
                params,
                job_id=self.award.job_id,
                exposure=self._exposure(),
            )
            payment = await begun.applied()
            self.talk.await_disk(begun)
        except Refused as exc:
            self.log.info("not paid under these params", code=exc.code, have=exc.have, need=exc.need)
            self.talk.post(events.PaymentDeclined(pay.payment_id, "" if exc.code in ASK_AFRESH else exc.code[:32]))
            return
        except PasarError as exc:
            self.log.warning("no ticket params", reason=str(exc))
            self.talk.post(events.PaymentDeclined(pay.payment_id, "BAD_PARAMS"))
            return
        self._b.terms[self.seller] = (trio.current_time(), params)
        self.talk.post(events.PaymentReady(pay.payment_id, encode(payment)))

    def _exposure(self) -> int:
        """What this seller may owe us, in wei: its standing in units at the price of this job."""
        limit = self._b.books.exposure(self.recipient, self._b.small_job)
        return -(-self.award.price * limit // self.award.spec.shape.units)

    async def _settle(self, payment_id: bytes, data: bytes) -> None:
        try:
            verdict = decode_as(PaymentVerdict, data)
            if verdict.payment_id != payment_id:
                raise PeerFault("a verdict on another payment")
            credited = await self._b.books.settle(self.recipient, verdict, self.recipient)
        except PasarError as exc:
            self.log.warning("no verdict", reason=str(exc))
            return
        if credited:
            self._news(News.PAID, wei=credited)
        if verdict.params is not None:
            self._b.terms[self.seller] = (trio.current_time(), verdict.params)
        refused = not credited and bool(verdict.codes)
        self.talk.post(events.PaymentSettled(payment_id, data, credited, refused))
        await self._debit()

    async def _debit(self) -> None:
        """Book what the seller has earned; a result that came before its payment is booked after it."""
        if self._owed_debit is None:
            return
        try:
            await self._b.books.debit(self.recipient, self.award.job_id, self.award.attempt, self._owed_debit)
            self._owed_debit = None
        except Refused as exc:
            self.log.debug("booked after the payment", have=exc.have, need=exc.need)

    async def _open(self, commitment: Signed | None, key: Signed | None, receipt: Signed) -> None:
        if commitment is None or key is None:
            self.talk.post(events.Opened(wire.FAILED))  # a streamed result: no pipeline of this version makes one
            return
        await self._keep_ciphers()
        try:
            self._opened = await self._unsealed(commitment, key, receipt)
        except PasarError as exc:
            self.log.warning("the seal does not hold", reason=str(exc))
            self.talk.post(events.Opened(wire.WRONG_KEY, encode(key)))
            return
        self._news(News.OPENED)
        self.talk.post(events.Opened())

    async def _unsealed(self, commitment: Signed, key: Signed, receipt: Signed) -> tuple[Artifact, ...]:
        """What was sealed, every digest and the Receipt checked. Raises PeerFault."""
        refs = self.session.record.ciphers
        ciphers = [whole for ref in refs if (whole := self.parcels.get(ref)) is not None]
        files = await trio.to_thread.run_sync(unsealed, commitment, key, ciphers, self.award.spec, self.seller)
        check_receipt(
            receipt,
            files,
            self.award,
            network=self._b.greeter.network,
            gateway=self._b.signer.peer,
            seller=self.seller,
            price=self.session.record.price,
        )
        return files

    async def _deliver(self, receipt: Signed) -> None:
        seal, delivery = self.session.record.seal, self.session.record.delivery
        if not self._opened and seal is not None and delivery is not None and delivery.key is not None:
            try:  # after a restart: it held once already
                self._opened = await self._unsealed(seal.commitment, delivery.key, receipt)
            except PasarError as exc:
                self.log.error("what was delivered cannot be opened any more", reason=str(exc))
                return
        inside = open_from(receipt, Receipt, self.seller)
        self.bought = Bought(self._opened, countersign(receipt, self._b.signer), inside, self.award.price)
        self.log.info("delivered", price=inside.price, run_ms=inside.times.run_ms)

    # -- ends --------------------------------------------------------------------------------------------------------

    async def _close(self, close: commands.Close) -> None:
        await self._debit()
        await self._b.books.release(self.recipient, self.award.job_id)
        bought = self.bought if self.session.record.delivered else None
        await self._aftermath.close(close, bought, self._late_ms(), accepted=self.accepted.is_set())
        code = wire.SILENT if self._pace.stalled and close.code == wire.CANCELLED else close.code
        self.ended = Ended(code, close.hint, close.cost, close.paid)
        self.decided.set()
        if self._nursery is not None:
            self._nursery.start_soon(self._end, close)

    async def _end(self, close: commands.Close) -> None:
        """Say what it came to. Forget it when nobody needs it: a result must be taken, a paid key may still come."""
        if self.bought is not None:
            with trio.move_on_after(LAST_VERDICT_S):
                await self._until(lambda: self._all_settled)
        self.ended = replace(self.ended or Ended(close.code), cost=close.cost, paid=self.session.paid)
        self.log.info("purchase closed", code=self.ended.code, paid=self.session.paid, spent=close.cost)
        self.over.set()
        if self.talk.attached:  # what it says of a payment may be right behind its close
            with trio.move_on_after(LAST_VERDICT_S):
                await self._until(lambda: self._all_settled)
        with trio.move_on_after(LATE_KEY_S):
            if self.session.record.paid and self.bought is None:
                await self.deliver()
            if self.bought is not None:
                await self._until(lambda: self._all_settled)
        if self.bought is not None:
            await self.taken.wait()
        await self._b.store.drop(self.seller, self.award.job_id, self.award.attempt)
        await self._b.keeping.drop(self._name)
        self.talk.finish()
        self.talk.post(events.Ticked())  # what ``run`` waits for

    def _late_ms(self) -> int:
        """How late the result was sealed: what the seller signed, and what our clock has beyond that."""
        seal = self.session.record.seal
        return self._hidden_ms + (0 if seal is None else decode_as(wire.Commitment, seal.commitment.payload).late_ms)

    def _known_params(self) -> TicketParams | None:
        """TicketParams of this seller that live long enough to be used now."""
        known = self._b.terms.get(self.seller)
        if known is None:
            return None
        age_ms = (trio.current_time() - known[0]) * 1000
        return known[1] if age_ms < known[1].lives_for_ms // 2 else None

    def _news(self, event: News, *, step: int = 0, steps: int = 0, wei: int = 0, eta_ms: int = 0) -> None:
        self._tell(JobNews(self.award.job_id, event, self.seller, step, steps, wei, eta_ms))
