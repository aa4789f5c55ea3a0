"""Sale: the orchestrator's side of one attempt at one job; carries out what the selling machine commands.

The machine decides, this acts: judges the award against our own quote, credits tickets, has the work done, seals it,
signs the Receipt. One Sale lives from the award until nothing of it need be kept. Knows no offer and no auction.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from compute.spec import Verification
from compute.work import PREVIEW_TYPE, Step
from ledger.journal import Also, Begun
from ledger.ticket import Payment
from market import jobwire as wire
from market.conversation import Conversation, now_ms
from market.declining import declined
from market.jobinputs import JobInputs
from market.keeping import Finished, KeptWork, inputs_of, name_of
from market.parcels import Parcels
from market.quote import Quote
from market.receipt import PROTOCOL, Receipt, Times, digests_of
from market.reputation import NEWCOMER_JOBS
from market.sealing import context, seal, sealed_artifact
from market.session import Selling, SellingState, commands, events
from market.sessionstore import Counted
from market.shop import Shop
from p2p.codec import decode_as, encode
from p2p.envelope import sign
from p2p.errors import MalformedMessage, PasarError, PeerFault, Refused, Unavailable, UnknownMessage
from p2p.peer import PeerId, address_of, peer_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

TRACE_KEPT_MS = 600_000
LUCKLESS_JOBS = 2  # delivered to a gateway on a development chain while no ticket has won here: docs/adr/0009
UNPAID_YET = (SellingState.SEALING, SellingState.SEALED, SellingState.RECEIPTING)
FINISHED = (SellingState.DELIVERED, SellingState.CLOSED)
IN_WORK = (SellingState.COVERING, SellingState.WORKING, SellingState.PAUSED)


class Sale:
    """One conversation, one machine. ``run`` ends when the attempt is forgotten."""

    def __init__(
        self,
        shop: Shop,
        gateway: PeerId,
        session: Selling,
        name: tuple[bytes, int],
        counted: Counted = Counted.NOTHING,
    ) -> None:
        """``counted``: what an earlier life of this process has counted of it."""
        self._counted = counted
        self._shop, self.gateway, self.session, self.name = shop, gateway, session, name
        self.sender = address_of(gateway)
        self.parcels = Parcels()
        us, reached = shop.signer.peer, shop.reached
        ours = session, us, self.parcels, self._perform, self._keep
        known, after = self._heard, self._log_taken
        self.talk = Conversation(*ours, buying=False, known=known, after=after, reached=reached)
        self._coming: dict[bytes, int] = {}  # credit that is ours by payment, until the machine has heard of it
        self.log = log.bind(job=name[0].hex()[:16], attempt=name[1], gateway=peer_text(gateway)[-8:])
        self._taken, self._unlogged = False, dict[str, int]()
        self.ready_at: int | None = None  # when its work will be done, as its steps tell
        self._finished: Finished | None = None
        self._working: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._awarded_at = int(shop.wall_time() * 1000)

    @property
    def in_work(self) -> bool:
        """Whether this sale takes one of our places: from the award that took it until the work is done."""
        judging = self.session.state is SellingState.JUDGING
        return self._taken if judging else self.session.state in IN_WORK

    @property
    def held(self) -> int:
        """Credit of this gateway that no other sale may count on: what it paid for one job is not another's."""
        return self.session.held + sum(self._coming.values())

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.PaymentJudged):
            self._coming.pop(event.payment_id, None)

    @property
    def is_busy(self) -> bool:
        """Whether stopping now would lose work, or leave a gateway waiting for what it has paid."""
        going = self.session.state is SellingState.DELIVERED and self.talk.attached
        return self.in_work or going or self.session.state in UNPAID_YET

    @property
    def is_owed(self) -> bool:
        """Whether this sale took work that the gateway has not paid: it counts towards its exposure."""
        return self.in_work or self.session.state in UNPAID_YET

    @property
    def is_finished(self) -> bool:
        """Whether it takes no place and holds no credit, now and for good."""
        return self.session.state in FINISHED

    @property
    def is_over(self) -> bool:
        """Whether nothing but the memory of this sale is left."""
        return self.session.state is SellingState.CLOSED

    async def leave(self) -> None:
        """Forget it before its time, and end ``run``."""
        await self._forget()
        self.talk.post(events.Ticked())  # what ``run`` waits for

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the attempt is over and forgotten. Leaving stops its work."""
        await self._restore_parcels()
        async with trio.open_nursery() as self._nursery:
            try:
                await self.talk.run(task_status=task_status)
            except PasarError as exc:  # one sale must not end the others
                self.log.error("a sale broke off", error=type(exc).__name__, reason=str(exc))
            self._nursery.cancel_scope.cancel()

    async def _keep(self, record: bytes) -> Begun[None]:
        return await self._shop.store.put(self.gateway, *self.name, record)

    async def _perform(self, command: commands.Command) -> None:
        match command:
            case commands.JudgeAward(award=award):
                self.talk.post(await self._judge(award))
            case commands.CreditPayment(payment_id=payment_id, payment=payment):
                await self._credit(payment_id, payment)
            case commands.OfferParams(payment_id=payment_id):
                self.talk.post(events.ParamsOffered(payment_id, await self._params_if_any()))
            case commands.StartWork(award=award):
                self._start(award)
            case commands.CancelWork():
                if self._working is not None:
                    self._working.cancel()
            case commands.SealArtifacts(price=price, late_ms=late_ms):
                await self._seal(price, late_ms)
            case commands.SignReceipt(price=price, paid=paid):
                await self._receipt(price, paid)
            case commands.Debit(total=total):
                await self._debit(total)
            case commands.Fault(code=code):
                self.log.warning("the gateway broke the rules", code=code)
                await self._count_fault()
            case commands.Close():
                await self._close(command)
            case commands.Forget():
                await self._forget()

    # -- the award ---------------------------------------------------------------------------------------------------

    async def _judge(self, award: wire.Award) -> events.AwardJudged:
        shop = self._shop
        if award.settlement != shop.settlement:
            return events.AwardJudged(wire.UNFUNDED, hint="we settle elsewhere")
        try:
            code, hint = shop.desk.take(award, self.gateway)
        except PeerFault as exc:
            code, hint = wire.OTHER_BODY, str(exc)[:200]
        if code:
            return events.AwardJudged(code, hint=hint)
        self._taken = True
        if reason := shop.policy.refuses(award.spec):
            return events.AwardJudged(wire.POLICY, hint=reason)
        units, standing = award.spec.shape.units, shop.books.standing(self.sender)
        owed = shop.owed(self.sender, self.name)
        if owed + units > standing.limit(shop.small_job):
            need, have = owed + units, standing.limit(shop.small_job)
            return events.AwardJudged("EXPOSURE", have, need, "a smaller job first: exposure grows with each delivered")
        try:
            await shop.look_up(self.sender)
        except Unavailable as exc:
            self.log.info("cover not read; the last known counts", reason=str(exc))
        try:
            params = await self._first_params(award.price)
        except Refused as exc:
            return events.AwardJudged(wire.UNFUNDED, exc.have, exc.need, exc.hint[:200])
        except Unavailable as exc:
            return events.AwardJudged(wire.BUSY, hint=str(exc)[:200])
        newcomer = standing.delivered < NEWCOMER_JOBS and not standing.faults
        first = newcomer and units <= shop.small_job and not owed  # one at a time: the next when that is paid
        self._unlogged = {"units": units, "price": award.price, "first": first}
        return events.AwardJudged(params=params, cover=self._cover(), first=first)

    def _log_taken(self) -> None:
        if self._unlogged and self.session.state is not SellingState.JUDGING:  # the acceptance is out
            self.log.info("award taken", **self._unlogged)
            self._unlogged = {}

    async def _params(self, price: int) -> bytes:
        """Fresh TicketParams for this gateway, encoded; none for a free job. Raises Refused, Unavailable."""
        if not price:
            return b""
        return encode(await self._shop.books.params_for(self.sender, price, certain=self._certain()))

    async def _first_params(self, price: int) -> bytes:
        """``_params`` for an acceptance, on disk with the record of it, which is handed in later."""
        if not price:
            return b""
        begun = await self._shop.books.begin_params(self.sender, price, certain=self._certain())
        return encode(await begun.applied())

    async def _params_if_any(self) -> bytes:
        """Fresh TicketParams, or none: the gateway asks again when it has none that serve."""
        try:
            return await self._params(self.session.award.price)
        except (Refused, Unavailable) as exc:
            self.log.info("no ticket params", reason=str(exc))
            return b""

    def _certain(self) -> bool:
        """Whether luck is helped on, on a development chain: LUCKLESS_JOBS for this gateway, and no win here yet."""
        books = self._shop.books
        sold_without = self._shop.development and books.standing(self.sender).delivered >= LUCKLESS_JOBS
        certain = sold_without and not books.has_won
        if certain:
            self.log.info("tickets sure to win", reason="no ticket has won here yet")
        return certain

    async def _credit(self, payment_id: bytes, data: bytes) -> None:
        try:
            payment = decode_as(Payment, data)
            if payment.payment_id != payment_id:
                raise PeerFault("a payment under another id than it says")
        except (MalformedMessage, UnknownMessage, PeerFault) as exc:
            self.log.warning("no payment", reason=str(exc))
            return
        coming = partial(self._coming.__setitem__, payment_id)
        verdict = await self._shop.books.receive(self.sender, payment, coming)
        params = encode(verdict.params) if verdict.params is not None else b""
        self.log.info("tickets credited", tickets=len(payment.tickets), credited=verdict.credited)
        self.talk.post(events.PaymentJudged(payment_id, encode(verdict), self._cover(), params))

    def _cover(self) -> int:
        """What the gateway has with us for this attempt: credit no other sale holds, and what we debited already."""
        return self._shop.spare(self.sender, self.name) + self.session.record.debited

    # -- the work ----------------------------------------------------------------------------------------------------

    def _start(self, award: wire.Award) -> None:
        if self._working is None and self._nursery is not None:
            self._nursery.start_soon(self._work, award)

    async def _work(self, award: wire.Award) -> None:
        """Have the job done; a cancelled one leaves nothing."""
        with trio.CancelScope() as self._working:
            try:
                self._finished = await self._generate(award)
            except Refused as exc:
                self.talk.post(events.WorkFailed(*declined(exc)))
            except Unavailable as exc:
                self.log.warning("worker lost", reason=str(exc))
                self.talk.post(events.WorkFailed(wire.FAILED, "the worker was lost"))
            else:
                self.talk.post(events.WorkDone())
        self._working = None

    async def _generate(self, award: wire.Award) -> Finished:
        wall, started = self._shop.wall_time, 0

        def on_step(step: Step) -> None:
            nonlocal started
            if step.preview:
                self.talk.post(events.PreviewMade(step.step, PREVIEW_TYPE, step.preview))
                return
            self.ready_at = now_ms() + step.eta_ms
            if not step.loading:
                started = started or int(wall() * 1000)
            if step.step or step.loading:
                self.talk.post(events.Stepped(step.step, step.steps, step.eta_ms))

        self.log.info("work started")
        due_ms = max(1, award.finish_by_ms - int(wall() * 1000) + self._awarded_at)
        inputs = JobInputs(self._shop.keeping, inputs_of(*self.name), award.spec)
        files = await inputs.files(self.parcels)
        result = await self._shop.machine.generate(award.job_id, award.spec, on_step, files, due_ms=due_ms)
        done = int(wall() * 1000)
        started = min(started or done, done)
        queued_ms = max(0, started - self._awarded_at)
        return Finished(result, Times(self._awarded_at, started, done, queued_ms, result.run_ms))

    # -- seal, Receipt -----------------------------------------------------------------------------------------------

    async def _seal(self, price: int, late_ms: int) -> None:
        award, finished = self.session.award, self._finished
        if finished is None:  # restarted between the work and the seal: the worker has it still, or does it again
            try:
                finished = self._finished = await self._generate(award)
            except (Refused, Unavailable) as exc:
                self.talk.post(events.WorkFailed(wire.FAILED, str(exc)[:200]))
                return
        key, files = secrets.token_bytes(32), finished.result.artifacts
        bound = [context(*self.name, index) for index in range(len(files))]
        ciphers = [
            await trio.to_thread.run_sync(seal, key, file.data, place) for file, place in zip(files, bound, strict=True)
        ]
        named = tuple(sealed_artifact(f.media_type, f.data, c) for f, c in zip(files, ciphers, strict=True))
        work = KeptWork(
            finished.result.dtype.value,
            finished.result.trace_root,
            digests_of([(f.media_type, f.data) for f in files]),
            finished.times,
            finished.result.safety,
        )
        await self._shop.keeping.put(name_of(*self.name), work, ciphers)
        terms = await self._params_if_any()
        commitment = sign(wire.Commitment(*self.name, named, price, late_ms, terms), self._shop.signer)
        self._offer_ciphers([file.cipher for file in named])
        self._finished = None  # on disk now, sealed
        secret = sign(wire.SealKey(*self.name, key), self._shop.signer)
        self.talk.post(events.SealMade(commitment, tuple(file.cipher for file in named), secret))
        self.log.info("sealed", files=len(files), price=price, late_ms=late_ms)

    async def _receipt(self, price: int, paid: int) -> None:
        kept, award, shop = await self._kept(), self.session.award, self._shop
        if kept is None:
            self.talk.post(events.WorkFailed(wire.FAILED, "the sealed result is lost"))
            return
        work, _ = kept
        traced = award.spec.shape.verification is Verification.TRACE
        receipt = Receipt(
            protocol=PROTOCOL,
            network=shop.network,
            settlement=shop.settlement,
            job_id=award.job_id,
            attempt=award.attempt,
            gateway=self.gateway,
            sender=self.sender,
            orchestrator=shop.signer.peer,
            quote=decode_as(Quote, award.quote.payload).digest,
            spec=award.spec.digest,
            pipeline=award.spec.shape.pipeline,
            model=award.spec.shape.model,
            dtype=work.dtype,
            seed=award.spec.seed,
            steps=award.spec.shape.steps,
            artifacts=work.artifacts,
            trace_root=work.trace_root if traced else None,
            trace_kept_until=work.times.sealed_at + TRACE_KEPT_MS if traced else 0,
            price=price,
            paid=paid,
            times=work.times,
            safety=work.safety,
        )
        self.talk.post(events.ReceiptSigned(sign(receipt, shop.signer)))

    # -- ends --------------------------------------------------------------------------------------------------------

    async def _debit(self, total: int) -> None:
        try:
            await self._shop.books.debit(self.sender, *self.name, total)
        except Refused as exc:
            self.log.error("a debit without credit", code=exc.code, have=exc.have, need=exc.need)

    async def _close(self, close: commands.Close) -> None:
        self.log.info("sale closed", code=close.code, cost=close.cost, earned=close.paid)
        if close.code == wire.DONE and Counted.CLOSE not in self._counted:
            self._counted |= Counted.CLOSE
            await self._shop.books.record_delivered(self.sender, self._mark(Counted.CLOSE))
        elif close.code == wire.UNCOVERED:
            self._shop.desk.lapsed(self.gateway)
        if self.session.record.refusal is not None:
            await self._forget()  # a refused award leaves nothing behind; the same one again is judged again

    async def _count_fault(self) -> None:
        if Counted.FAULT not in self._counted:
            self._counted |= Counted.FAULT
            await self._shop.books.record_fault(self.sender, self._mark(Counted.FAULT))

    def _mark(self, what: Counted) -> Also:
        return self._shop.store.mark(self.gateway, *self.name, what)

    async def _forget(self) -> None:
        self.parcels.forget()
        for kept in (name_of(*self.name), inputs_of(*self.name)):
            await self._shop.keeping.drop(kept)
        await self._shop.store.drop(self.gateway, *self.name)
        self.talk.finish()

    async def _restore_parcels(self) -> None:
        if self.session.record.seal is not None:
            self._offer_ciphers(self.session.record.ciphers)

    async def _kept(self) -> tuple[KeptWork, list[bytes]] | None:
        return await self._shop.keeping.get(name_of(*self.name), KeptWork)

    def _offer_ciphers(self, ciphers: Sequence[wire.BlobRef]) -> None:
        for index, ref in enumerate(ciphers):
            self.parcels.offer(ref, partial(self._shop.keeping.read, name_of(*self.name), index))
