"""JobRun: one bid's way at the gateway, from its arrival to a result, a refusal or an honest failure.

    match -> auction -> purchase -> delivered
      ^                    | ended without a result
      +--- again, without that seller; resting while nobody has a place; until the bid's deadline

A run belongs to the gateway, not to the client's stream: a client that vanishes has not cancelled. What must survive a
restart is in the journal before it matters. Knows no stream of the client's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from ledger.journal import Begun
from market import jobwire as wire
from market.auction import Auction, AwardTo, Buyer
from market.basket import BROKEN, Bought
from market.bid import Bid
from market.bidwire import BidCancelled, JobDone, JobNews, News
from market.bulletin import Bulletin
from market.conversation import now_ms
from market.counter import Counter
from market.job import Job
from market.jobinputs import JobInputs
from market.jobstore import TakenBid
from market.keeping import name_of
from market.outcome import Clock, Outcome, done, ended, failed
from market.prefilter import Matched
from market.purchase import Purchase
from market.receipt import spec_in
from market.refusal import Code, Refusal, simple
from market.session import Buying
from p2p.envelope import digest_of
from p2p.errors import Refused, Unavailable
from p2p.peer import PeerId, peer_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

REST_S = 0.3


class JobRun:
    """``outcome`` is set once, with ``over``; the ``bulletin`` grows until then."""

    def __init__(
        self,
        counter: Counter,
        job_id: bytes,
        client: PeerId,
        bid: Bid,
        *,
        free: bool,
        job: Job | None = None,
        age_ms: int = 0,
    ) -> None:
        self._c, self.job_id, self.client, self.bid, self._free = counter, job_id, client, bid, free
        self.job = job or Job(job_id, digest_of(bid), bid.limit)
        self.bulletin = Bulletin(previews=bool(bid.spec.option("previews")))
        self.outcome: Outcome | None = None
        self.over = trio.Event()
        self._clock = Clock(now_ms() - age_ms)
        self._deadline = self._clock.arrived + bid.deadline_ms
        self._purchases: list[Purchase] = []
        self._cancelled, self._reserved, self._on_disk = trio.Event(), trio.Event(), trio.Event()
        self._patient, self._tired = False, False
        self.inputs = JobInputs(counter.inputs, name_of(job_id), bid.spec)
        self.log = log.bind(job=job_id.hex()[:16])

    @classmethod
    def restored(cls, counter: Counter, taken: TakenBid) -> JobRun:
        """The run of a bid that an earlier life of this process took; ``resume`` goes on with it."""
        job, age = taken.job, taken.age_ms
        return cls(counter, job.job_id, taken.client, taken.bid, free=taken.free, job=job, age_ms=age)

    def recall(self, done: JobDone) -> None:
        """The outcome is known from before: a client that comes back after a restart gets it again."""
        same = spec_in(done.receipt) == self.bid.spec.digest
        self._finish(done if same else simple(Code.CONFLICT, "another bid had this id", limit_wei=self.bid.limit))

    def piece_of(self, index: int) -> Callable[[int, int], Awaitable[bytes]]:
        """How a file of the result is read: results lie on disk until somebody takes them."""
        return partial(self._c.results.read, name_of(self.job_id), index)

    # -- what the client's stream asks -------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client wants it no more; what that costs is in the outcome."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            for purchase in self._purchases:
                purchase.cancel()

    # -- the way -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until there is an outcome. Started means: it is in the journal, or it was refused."""
        matched = self._match()
        self.job = replace(self.job, limit=matched.terms.limit or 0)
        if not matched.candidates and not self._may_rest(matched):
            self._finish(matched.refusal())
            task_status.started()
            return
        first = [matched]
        del matched  # see _until_done
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take, nursery.cancel_scope, task_status)
            await self._conclude(await self._until_done(first))

    async def _take(self, whole: trio.CancelScope, task_status: TaskStatus[None]) -> None:
        """Take the bid in, on the disk with its first award where that comes soon; sellers are asked meanwhile."""
        try:
            refusal = await self._reserve()
        except Refused as exc:
            refusal = simple(Code.NO_CREDIT, exc.hint, limit_wei=self.job.limit)
        if refusal is not None:
            self._finish(refusal)
            whole.cancel()
        else:
            self._on_disk.set()
        task_status.started()

    async def resume(self, purchases: list[Purchase]) -> None:
        """Go on after a restart: first what was under way, then as ever. The book may still be empty."""
        self._purchases += purchases
        self._patient = True
        await self.inputs.restore()
        self._reserved.set()
        self._on_disk.set()
        for purchase in purchases:
            await purchase.over.wait()
            await self._take_stock(purchase)
        if self.job.live is not None:  # awarded on disk, and no session was begun for it
            self.job = self.job.end(self.job.live.number, wire.LOST)
        outcome = await self._delivered()
        last = self.job.attempts[-1] if self.job.attempts else None
        if outcome is None and last is not None and last.code == wire.CANCELLED:
            await self._conclude(await self._cancelled_at(last.cost))
        else:
            await self._conclude(outcome or await self._until_done([self._match()]))

    async def _reserve(self) -> Refusal | None:
        """Set the customer's money aside, and put the bid on disk with it. Raises Refused without that money."""
        await trio.lowlevel.checkpoint()  # sellers are asked first, and have time to answer meanwhile
        row = self._c.jobs.row(self.job, self.client, self.bid, self._free)
        begun = await self._c.customers.begin_reserve(
            self.job_id, peer_text(self.client), self.job.limit, free=self._free, also=row
        )
        if (await begun.applied()).state != "reserved":
            return simple(Code.CONFLICT, "this very bid was over before; bid anew", limit_wei=self.job.limit)
        self._reserved.set()  # an award is written after it, and leaves when both are on disk
        await begun.kept()
        await trio.lowlevel.checkpoint()  # whoever sends an award first: the client knows that it has a gateway
        return None

    async def _until_done(self, first: list[Matched]) -> Outcome:
        """Auction after auction. What the book had is taken out of ``first`` and let go of before every rest.

        It names hundreds of sellers, and hundreds of bids may wait.
        """
        matched = first.pop()
        while True:
            if (late := await self._delivered()) is not None:
                return late
            if self._cancelled.is_set():
                return await self._given_back(BidCancelled(self.job_id, 0))
            if now_ms() >= self._deadline:
                return await self._nobody()
            here = await self.inputs.arrive(self._deadline / 1000, self._cancelled)
            if here and (outcome := await self._once(matched) or await self._declined(matched)) is not None:
                return outcome
            del matched
            if self._tired:
                await self._rest()
            matched = self._match()

    async def _once(self, matched: Matched) -> Outcome | None:
        """One auction and what follows; None to go on with another, ``_tired`` where a rest comes first."""
        self._tired = False
        if not matched.candidates:
            self._tired = self._may_rest(matched) or self._patient or self._may_recover(matched)
            return None if self._tired else await self._nobody()
        self.bulletin.tell(JobNews(self.job_id, News.AUCTION, wei=self.job.limit))
        with trio.CancelScope() as scope:
            won = await self._auction(matched, scope)
        if scope.cancelled_caught:
            return None
        if isinstance(won, Refusal):
            self._tired = won.code is Code.BUSY
            return None if self._tired else await self._nobody()
        return await self._follow(self._purchases[-1])

    async def _auction(self, matched: Matched, scope: trio.CancelScope) -> AwardTo | Refusal:
        c = self._c
        us, waits = c.basket.signer.peer, self.bid.wait or self._patient
        buyer = Buyer(us, c.basket.greeter.network, c.settlement, self.bid.prefer, self._deadline, waits)
        without = matched.sellers - set(self.job.candidates(matched.sellers))
        auction = Auction(buyer, matched, c.chance(16), without=without)
        quotes: list[tuple[PeerId, int]] = []

        def quoted(seller: PeerId, price: int) -> None:
            quotes.append((seller, price))
            self.bulletin.tell(JobNews(self.job_id, News.QUOTED, seller, wei=price))

        async def stop_when_cancelled() -> None:
            await self._cancelled.wait()
            if not self._purchases or self._purchases[-1].over.is_set():
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_cancelled)
            won = await c.auctioneer.hold(auction, self._give, self._take_back, quoted)
            nursery.cancel_scope.cancel()
        for seller, price in quotes:  # logged when nobody waits any more
            self.log.info("quoted", seller=peer_text(seller), price=price)
        return won

    async def _give(self, award_to: AwardTo) -> bool:
        """Award the job; whether the seller took it."""
        if not self._reserved.is_set():
            await self._reserved.wait()
        if self._cancelled.is_set():
            return False
        try:
            self.job = self.job.award(award_to.seller, award_to.quote.price)
        except Refused as exc:
            self.log.warning("not awarded", code=exc.code)
            return False
        await self._keep()  # handed in before the session's own record, without which no award leaves
        award = self._c.award(self.job, self.bid, award_to, self._deadline)
        purchase = Purchase(
            self._c.basket, award_to.seller, Buying.of(award), self.bulletin.tell, asked_at=award_to.asked_at
        )
        self.inputs.offer_to(purchase.parcels)
        self._purchases.append(purchase)
        await self._c.start(purchase)
        purchase.begin()
        if self._cancelled.is_set():  # while the job was written down
            purchase.cancel()
        await purchase.decided.wait()
        if purchase.accepted.is_set():
            self._clock.accepted = now_ms()
            self.job = self.job.accept(award.attempt)
            return True
        await self._take_stock(purchase)
        return False

    async def _take_back(self) -> None:
        """Nobody has answered the award for too long: it ends here, whatever its seller says later."""
        live = self.job.live
        if live is not None:
            self.job = self.job.end(live.number, wire.SILENT)
            await self._keep()
        if self._purchases and not self._purchases[-1].decided.is_set():
            self._purchases[-1].cancel()

    async def _follow(self, purchase: Purchase) -> Outcome | None:
        async with trio.open_nursery() as nursery:
            for earlier in self._purchases[:-1]:
                nursery.start_soon(self._make_way, earlier, purchase)
            await purchase.over.wait()
            nursery.cancel_scope.cancel()
        await self._take_stock(purchase)
        outcome = await self._delivered()
        if outcome is not None:
            return outcome
        last = purchase.ended
        if self._cancelled.is_set() and last is not None and last.code == wire.CANCELLED:
            return await self._cancelled_at(last.cost)
        if last is not None and last.code == BROKEN:  # ours, with any seller
            return await self._given_back(failed(self.job, Code.FAILED.value, last.hint))
        self.bulletin.tell(JobNews(self.job_id, News.RETRIED, purchase.seller))
        self.log.info("attempt ended without a result", code=last.code if last else "")
        return None

    async def _make_way(self, earlier: Purchase, later: Purchase) -> None:
        """A paid key of an attempt that had ended: the job has its result, and the attempt under way is superfluous."""
        await earlier.deliver()
        later.cancel()

    async def _rest(self) -> None:
        """Wait for a place: until the book changes, or a little while, and our turn has come."""
        self._c.resting.add(self.job_id, self.client, self.bid, self.job.limit, self._clock.arrived)
        try:
            while not self._cancelled.is_set() and now_ms() < self._deadline:
                with trio.move_on_after(REST_S):
                    await self._c.feed.changed()
                if self.job_id in self._c.resting.up():
                    break
        finally:
            self._c.resting.remove(self.job_id)

    # -- ends --------------------------------------------------------------------------------------------------------

    async def _take_stock(self, purchase: Purchase) -> None:
        """Write down what an attempt came to."""
        number, came = purchase.award.attempt, purchase.ended
        if purchase.accepted.is_set():
            self.job = self.job.accept(number)
        if purchase.bought is None and came is not None:
            before, self.job = self.job, self.job.end(number, came.code, came.paid, came.cost)
            if self.job != before:
                await self._keep()

    async def _delivered(self) -> Outcome | None:
        """The first result there is, also of an attempt that had ended when its paid key came."""
        for purchase in self._purchases:
            if purchase.bought is not None:
                return await self._deliver(purchase, purchase.bought)
            if purchase.over.is_set():  # also of one taken back as silent: its acceptance may have come late
                await self._take_stock(purchase)
        return None

    async def _deliver(self, purchase: Purchase, bought: Bought) -> Outcome:
        """Keep the result, charge for it once, and only then call it done."""
        paid = purchase.ended.paid if purchase.ended is not None else 0
        self.job = self.job.deliver(purchase.award.attempt, bought.inside.price, paid)
        for seller in self.job.contradicted:
            self._c.basket.reputation.failed(seller, now_ms())
        transfer = 0 if purchase.sealed_at is None else now_ms() - int(purchase.sealed_at * 1000)
        result = done(self.job, bought, paid, auction_ms=self._clock.auction_ms, transfer_ms=transfer)
        try:
            await self._c.results.put(name_of(self.job_id), result, [file.data for file in bought.files])
        except Unavailable as exc:
            return await self._given_back(failed(self.job, Code.FAILED.value, str(exc)))
        await self._c.customers.charge(self.job_id, self.job.charge)
        self.job = self.job.settle()
        await self._c.delivered(self.bid.spec, bought, self.inputs)
        return result

    async def _cancelled_at(self, cost: int) -> Outcome:
        self.job = self.job.fail(wire.CANCELLED)
        if not cost:
            return await self._given_back(BidCancelled(self.job_id, 0))
        await self._c.customers.charge(self.job_id, self.job.charge)  # before the row goes: after a restart, once more
        return BidCancelled(self.job_id, self.job.charge)

    async def _nobody(self) -> Outcome:
        """Nobody does it in the time that is left. The reason is the one that holds for the bid's whole time."""
        why = ended(self._c.match(self.bid, self.job.limit, now_ms() + self.bid.deadline_ms), self.job.limit)
        if now_ms() >= self._deadline:
            why = replace(why, code=Code.DEADLINE)
        elif self.job.attempts and why.code is not Code.DEADLINE:
            why = replace(why, code=Code.FAILED)
        self.job = self.job.fail(why.code.value)
        if not self.job.attempts:
            return await self._given_back(why)
        return await self._given_back(failed(self.job, why.code.value, why.hint))

    async def _given_back(self, outcome: Outcome) -> Outcome:
        """Over without a result: it must not begin again after a restart, which gives back what is left reserved."""
        await self._on_disk.wait()
        await self._c.jobs.drop(self.job_id)
        await self._c.customers.give_back(self.job_id)
        return outcome

    async def _conclude(self, outcome: Outcome) -> None:
        """Everything about the outcome is on disk: tell it, and let go of what led to it."""
        self._finish(outcome)
        await self._c.jobs.drop(self.job_id)
        await self.inputs.drop()
        for purchase in self._purchases:
            purchase.taken.set()
        self._purchases.clear()  # and the bytes they hold

    def _finish(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.log.info("job over", outcome=type(outcome).__name__, attempts=len(self.job.attempts))
        self.over.set()
        self.bulletin.end()

    # -- small things ------------------------------------------------------------------------------------------------

    async def _keep(self) -> Begun[None]:
        return await self._c.jobs.put(self.job)

    def _match(self) -> Matched:
        return self._c.match(self.bid, self.job.limit, self._deadline)

    async def _declined(self, matched: Matched) -> Outcome | None:
        """What it comes to when the last no was enough, before the work or after it."""
        last = self._purchases[-1].ended if self._purchases else None
        enough = self.job.is_declined(matched.sellers, more=bool(matched.waiting))
        return await self._given_back(failed(self.job, last.code, last.hint)) if last and enough else None

    def _may_rest(self, matched: Matched) -> bool:
        return self.bid.wait or bool(matched.waiting)

    def _may_recover(self, matched: Matched) -> bool:
        paid = any(one.session.record.paid for one in self._purchases)
        return self._c.may_recover(self.job, matched, self._deadline, paid=paid)
