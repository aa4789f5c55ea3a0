"""Purchase: the gateway's side of one attempt at one job; carries out what the buying machine commands.

The machine decides, this acts: dials the seller and dials again, signs tickets, checks verdicts, opens the seal,
checks every digest and the Receipt. ``outcome`` is the attempt's result. Knows no auction and no client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from compute.spec import Artifact
from ledger.sending import SendingBooks
from ledger.ticket import PaymentVerdict, TicketParams
from market import jobwire as wire
from market.bidwire import JobNews, News
from market.conversation import Conversation, closing
from market.hello import Greeter
from market.opening import check_receipt, unsealed
from market.parcels import Parcels
from market.protocol import JOB
from market.receipt import Receipt, countersign
from market.reputation import Reputation
from market.session import Buying, BuyingState, commands, events
from market.sessionstore import SessionStore
from p2p.codec import decode_as, encode
from p2p.envelope import Signed, Signer, open_from
from p2p.errors import PasarError, PeerFault, Refused, Unavailable
from p2p.peer import PeerId, address_of, peer_text
from p2p.stream import JOB_FRAME, MessageStream
from p2p.transport import Network

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

REDIAL_S = 0.25
REDIAL_MOST_S = 2.0
LATE_KEY_S = 30.0  # how long a closed attempt still takes a key that it paid for
MAX_FAULTY_STREAMS = 3
TAKEN = (
    *(BuyingState.ACCEPTED, BuyingState.RUNNING, BuyingState.RECEIVING),
    *(BuyingState.PAYING, BuyingState.OPENING),
)
ASK_AFRESH = {
    *("PARAMS_EXPIRED", "PARAMS_DROPPED", "PARAMS_NOT_MINE"),
    *("NONCE_EXHAUSTED", "BATCH_TOO_LARGE", "TICKET_TOO_LARGE"),
}
TICKETS_PER_PRICE = 4  # at least: what one ticket is worth beyond what is due is lent to its seller
# Ends after an acceptance that are not the seller's doing: our client's, our own money's, or a lawful no.
EXCUSED = {
    *(wire.CANCELLED, wire.UNCOVERED, wire.POLICY, wire.BAD_INPUT),
    *("EXPOSURE", "SENDER_UNFUNDED", "SENDER_UNLOCKING"),
}


@dataclass(frozen=True, slots=True)
class Basket:
    """What all purchases of one gateway share. ``small_job`` is in units."""

    signer: Signer
    network: Network
    greeter: Greeter
    books: SendingBooks
    reputation: Reputation
    store: SessionStore
    reach: Callable[[PeerId], Awaitable[None]]
    rtts: Callable[[PeerId], int]
    small_job: int
    terms: dict[PeerId, tuple[float, TicketParams]] = field(default_factory=dict)
    reached: Callable[[str], None] = lambda point: None


@dataclass(frozen=True, slots=True)
class Bought:
    """A result that is here, opened, checked; ``receipt`` is countersigned. ``paid`` is what tickets were credited."""

    files: tuple[Artifact, ...]
    receipt: bytes
    inside: Receipt
    price: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How the attempt was closed. ``cost`` is what was earned by the seller, ``paid`` what it credited in all."""

    code: str
    hint: str = ""
    cost: int = 0
    paid: int = 0


class Purchase:
    """``decided`` when the award was taken or the attempt ended; a late key may bring ``bought`` after ``over``."""

    def __init__(self, basket: Basket, seller: PeerId, session: Buying, tell: Callable[[JobNews], None]) -> None:
        self._b, self.seller, self.session, self._tell = basket, seller, session, tell
        self.award = session.award
        self.recipient = address_of(seller)
        self.parcels = Parcels()
        self.talk = Conversation(session, seller, self.parcels, self._perform, buying=True, after=self._notice)
        self.accepted, self.decided, self.over = trio.Event(), trio.Event(), trio.Event()
        self.bought: Bought | None = None
        self.ended: Ended | None = None
        self.started_at: float | None = None
        self.sealed_at: float | None = None
        self._opened: tuple[Artifact, ...] = ()
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
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_connected)
            task_status.started()
            try:
                await self.talk.run()
            except PasarError as exc:  # one attempt must not end the gateway
                self.log.error("a purchase broke off", error=type(exc).__name__, reason=str(exc))
                self.ended = self.ended or Ended(wire.FAILED)
                self.decided.set()
                self.over.set()
            self._nursery.cancel_scope.cancel()

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
            except PasarError as exc:
                self.log.debug("job stream lost", reason=str(exc))
            if faulty >= MAX_FAULTY_STREAMS:
                await trio.sleep_forever()  # the machine's own deadline ends the attempt
            await trio.sleep(pause)
            pause = min(REDIAL_MOST_S, pause * 2)

    async def _connect(self) -> None:
        await self._b.reach(self.seller)
        stream = MessageStream(await self._b.network.open(self.seller, JOB), JOB_FRAME)
        try:
            await self._b.greeter.say(stream)
            rtt_ms = self._b.rtts(self.seller)
            await self.talk.attach(stream, rtt_ms=rtt_ms, greet=lambda: self._b.greeter.hear(stream))
        finally:
            await closing(stream)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _perform(self, command: commands.Command) -> None:
        match command:
            case commands.Journal(record=record):
                await self._b.store.put(self.seller, self.award.job_id, self.award.attempt, record)
            case commands.Pay():
                await self._pay(command)
            case commands.SettlePayment(payment_id=payment_id, verdict=verdict):
                await self._settle(payment_id, verdict)
            case commands.OpenSeal(commitment=commitment, key=key, receipt=receipt):
                await self._open(commitment, key, receipt)
            case commands.Deliver(receipt=receipt):
                self._deliver(receipt)
            case commands.Debit(total=total):
                self._owed_debit = total
                await self._debit()
            case commands.Report(step=step, steps=steps, eta_ms=eta_ms):
                self.started_at = self.started_at or trio.current_time()
                self._news(News.STEP, step=step, steps=steps, eta_ms=eta_ms)
            case commands.Measure(kind=kind, value=value):
                self.log.info("measured", kind=kind, value=value)
            case commands.Fault(code=code, proof=proof):
                await self._fault(code, proof)
            case commands.Close():
                await self._close(command)

    def _notice(self) -> None:
        """Tell what the machine has come to know."""
        record = self.session.record
        if record.state in TAKEN and not self.accepted.is_set():
            self.accepted.set()
            self.decided.set()
            self._news(News.AWARDED, wei=self.award.price)
        if record.seal is not None and self.sealed_at is None:
            self.sealed_at = trio.current_time()
            self._news(News.SEALED, wei=record.price)

    async def _pay(self, pay: commands.Pay) -> None:
        if not pay.params:
            self.talk.post(events.PaymentDeclined(pay.payment_id))
            return
        try:
            params = decode_as(TicketParams, pay.params)
            if params.value > max(1, self.award.price // TICKETS_PER_PRICE):
                raise Refused("TICKET_TOO_LARGE", have=self.award.price, need=params.value)
            payment = await self._b.books.pay(
                pay.payment_id,
                self.recipient,
                pay.amount,
                params,
                job_id=self.award.job_id,
                exposure=self._exposure(),
            )
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
        self._b.reached("tickets-signed")

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
        refs = self.session.record.ciphers
        ciphers = [whole for ref in refs if (whole := self.parcels.get(ref)) is not None]
        try:
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
        except PasarError as exc:
            self.log.warning("the seal does not hold", reason=str(exc))
            self.talk.post(events.Opened(wire.WRONG_KEY, encode(key)))
            return
        self._opened = files
        self._news(News.OPENED)
        self.talk.post(events.Opened())

    def _deliver(self, receipt: Signed) -> None:
        if not self._opened:  # after a restart: opened once already, and kept with the job's results
            return
        inside = open_from(receipt, Receipt, self.seller)
        self.bought = Bought(self._opened, countersign(receipt, self._b.signer), inside, self.award.price)
        self.log.info("delivered", price=inside.price, run_ms=inside.times.run_ms)

    # -- ends --------------------------------------------------------------------------------------------------------

    async def _fault(self, code: str, proof: bytes) -> None:
        self.log.warning("fault of the seller", code=code, proof=bool(proof))
        self._b.reputation.fault(self.seller, int(trio.current_time() * 1000), proof=bool(proof))
        await self._b.books.record_fault(self.recipient)

    async def _close(self, close: commands.Close) -> None:
        await self._debit()
        await self._b.books.release(self.recipient, self.award.job_id)
        await self._measure(close)
        self.ended = Ended(close.code, close.hint, close.cost, close.paid)
        self.log.info("purchase closed", code=close.code, paid=close.paid, spent=close.cost)
        self.decided.set()
        self.over.set()
        waits_for_key = self.session.record.paid and not self.session.record.delivered
        if waits_for_key and self._nursery is not None:
            self._nursery.start_soon(self._forget_later)
        else:
            await self._forget()

    async def _forget_later(self) -> None:
        await trio.sleep(LATE_KEY_S)
        await self._forget()

    async def _forget(self) -> None:
        await self._b.store.drop(self.seller, self.award.job_id, self.award.attempt)
        self.talk.finish()

    async def _measure(self, close: commands.Close) -> None:
        now, reputation, record = int(trio.current_time() * 1000), self._b.reputation, self.session.record
        if record.delivered and self.bought is not None:
            times, shape = self.bought.inside.times, self.award.spec.shape
            reputation.delivered(self.seller, now, model=shape.model, units=shape.units, run_ms=times.run_ms)
            await self._b.books.record_delivered(self.recipient)
        elif close.code == wire.LOST and self.accepted.is_set():
            # what it was paid stays as credit with it, and never is the customer's
            reputation.fault(self.seller, now)
            await self._b.books.record_fault(self.recipient)
        elif close.refusal is not None:
            reputation.refused(self.seller, now)
        elif close.code in (wire.LOST, wire.SILENT) or (self.accepted.is_set() and close.code not in EXCUSED):
            reputation.failed(self.seller, now)

    def _known_params(self) -> TicketParams | None:
        """TicketParams of this seller that live long enough to be used now."""
        known = self._b.terms.get(self.seller)
        if known is None:
            return None
        age_ms = (trio.current_time() - known[0]) * 1000
        return known[1] if age_ms < known[1].lives_for_ms // 2 else None

    def _news(self, event: News, *, step: int = 0, steps: int = 0, wei: int = 0, eta_ms: int = 0) -> None:
        self._tell(JobNews(self.award.job_id, event, self.seller, step, steps, wei, eta_ms))
