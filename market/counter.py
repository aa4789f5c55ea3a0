"""Counter: what all job runs of one gateway share, and what its book has for a bid."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from compute.spec import JobShape, JobSpec
from ledger.customers import CustomerBooks
from ledger.money import Settlement
from market import jobwire as wire
from market.auction import AwardTo
from market.auctioneer import Auctioneer
from market.basket import Basket, Bought
from market.bid import Bid, RestingBids
from market.bookfeed import BookFeed
from market.checks import excluded_by
from market.conversation import now_ms
from market.job import Job
from market.jobinputs import JobInputs, refs_of
from market.jobstore import JobStore
from market.keeping import Keeping
from market.offer import Load
from market.prefilter import Matched, Terms, match
from market.purchase import Purchase
from market.refusal import Rule
from p2p.peer import PeerId


@dataclass(frozen=True, slots=True)
class Counter:
    """What all job runs of one gateway share.

    ``exposures``: what each known seller may owe us, in wei; ``newcomer_room(limit, units)``: what all newcomers
    together may still owe us while a job of so many units may cost so much; ``loads``: how busy the sellers of such a
    job say they are now; ``delivered`` hears of every result that is here.
    """

    feed: BookFeed
    auctioneer: Auctioneer
    basket: Basket
    customers: CustomerBooks
    jobs: JobStore
    results: Keeping
    inputs: Keeping
    resting: RestingBids
    settlement: Settlement
    chance: Callable[[int], bytes]
    exposures: Callable[[], dict[PeerId, int]]
    newcomer_room: Callable[[int, int], int]
    rtts: Callable[[], dict[PeerId, int]]
    loads: Callable[[JobShape], Mapping[PeerId, Load]]
    start: Callable[[Purchase], Awaitable[None]]
    delivered: Callable[[JobSpec, Bought, JobInputs], Awaitable[None]]

    def award(self, job: Job, bid: Bid, to: AwardTo, deadline: int) -> wire.Award:
        """The award of the job's last attempt at this quote."""
        return wire.Award(
            job_id=job.job_id,
            attempt=len(job.attempts),
            settlement=self.settlement,
            quote=to.envelope,
            price=to.quote.price,
            finish_by_ms=min(to.quote.finish_by_ms, wire.MAX_DURATION_MS),
            late_rate=to.quote.late_rate,
            deadline_ms=max(0, deadline - now_ms()),
            slices=0,
            spec=bid.spec,
            inputs=refs_of(bid.spec),
        )

    def may_recover(self, job: Job, matched: Matched, deadline: int, *, paid: bool) -> bool:
        """Whether a seller that had the job may have it again before ``deadline``.

        It is not reached now, is set aside for less than what is left, or was ``paid`` and its key may still come.
        """
        if not job.attempts or Rule.NO_ANSWER in matched.excluded:
            return bool(job.attempts)
        known, now = self.basket.reputation, now_ms()
        until = (known.of(one.seller, now).banned_until for one in job.attempts)
        return paid or (Rule.BANNED in matched.excluded and any(now < at < deadline for at in until))

    def match(self, bid: Bid, limit: int, deadline: int) -> Matched:
        """What the book has for this bid now; a ``limit`` of 0 is still to be chosen.

        A check is done by whom its bid does not exclude, and where there is anybody, from another subnet than theirs.
        """
        named = excluded_by(bid.spec)
        if near := self._near(named, bid.spec.shape):
            found = self._match(bid, limit, deadline, named | near)
            if found.candidates:
                return found
        return self._match(bid, limit, deadline, named)

    def _near(self, named: frozenset[PeerId], shape: JobShape) -> frozenset[PeerId]:
        """Sellers of this very work in the subnets of those named."""
        subnets = {self._subnet(seller, shape) for seller in named} - {None}
        if not subnets:
            return frozenset()
        asks = self.feed.book.asks(shape.pipeline, self.settlement, shape.model)
        return frozenset(PeerId(one.offer.seller) for one in asks if one.subnet in subnets)

    def _subnet(self, seller: PeerId, shape: JobShape) -> bytes | None:
        posting = self.feed.book.posting(seller, shape.pipeline)
        return posting.subnet if posting is not None else None

    def _match(self, bid: Bid, limit: int, deadline: int, without: frozenset[PeerId]) -> Matched:
        now = now_ms()
        terms = Terms(
            shape=bid.spec.shape,
            settlement=self.settlement,
            limit=limit or None,
            deadline_ms=max(1, deadline - now),
            price_of_time=bid.price_of_time,
            small_job=self.basket.small_job,
            newcomer_room=self.newcomer_room(limit, bid.spec.shape.units),
            without=without,
        )
        loads, exposures = self.loads(bid.spec.shape), self.exposures()
        views = self.basket.reputation.views(now, loads=loads, exposures=exposures, rtts=self.rtts())
        return match(self.feed.book, terms, views, self.feed.now())
