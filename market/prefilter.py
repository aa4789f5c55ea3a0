"""Prefilter: which known offers can serve a job, and how many each rule excluded. Exact, local, nothing is asked.

Offers nobody here ever met stand on shelves of equal profile, sorted by price, and are counted a shelf at a time by
bisection; the few sellers we know first-hand are judged one by one, taken out of what was counted for their shelf.
Every offer is counted once: the exclusions and the eligible sum to the offers known. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice

from compute.spec import JobShape
from ledger.money import MAX_WEI, MILLION, Settlement, price_for
from market.bid import time_price
from market.book import Ask, OrderBook, Posting, Profile, profile_of
from market.offer import unfit
from market.refusal import Code, Refusal, Rule, hint_for, listed
from market.scoring import PRIOR_PPM, UNKNOWN, Candidate, View, finish_ms, predicted_ms, score
from p2p.peer import PeerId

SMALL_JOB = 20_000_000  # units
SMALL_JOB_DEVELOPMENT = 1_000_000_000
MAX_ROUNDS = 4  # of one auction, each with one offer of a subnet at most
_KEPT = 12  # candidates never met, by score and again by price
_LOOKED_AT = 128  # among them those of one crowded subnet


@dataclass(frozen=True, slots=True)
class Terms:
    """What the prefilter needs of a bid. ``limit`` is the most a seller may get, None before it is known.

    ``price_of_time`` None is a tenth of the limit over the deadline. ``newcomer_room`` is what all newcomers together
    may still owe us.
    """

    shape: JobShape
    settlement: Settlement
    limit: int | None
    deadline_ms: int
    price_of_time: int | None = None
    small_job: int = SMALL_JOB
    newcomer_room: int = MAX_WEI
    without: frozenset[PeerId] = frozenset()

    @property
    def time_wei(self) -> int:
        """Wei per second of waiting."""
        if self.price_of_time is not None:
            return self.price_of_time
        return 0 if self.limit is None else time_price(self.limit, self.deadline_ms)


@dataclass(frozen=True, slots=True)
class Matched:
    """The outcome: ``eligible`` offers, the best of them as ``candidates``, and the counts of all others.

    ``cheapest`` is the price of the cheapest offer that fails no rule but price, or else of the cheapest that could do
    such a job at all; None when there is none. ``usual``: the cheapest of those who delivered before and could do
    such a job, else of those who serve it and are there. ``waiting``: excluded offers that may serve it a little later;
    ``soon``: of these, the offers of sellers that are there.
    """

    terms: Terms
    known: int
    eligible: int
    excluded: Mapping[Rule, int]
    candidates: tuple[Candidate, ...]
    cheapest: int | None
    waiting: int
    usual: int | None = None
    soon: int = 0

    @property
    def sellers(self) -> frozenset[PeerId]:
        """Whose offers the candidates are."""
        return frozenset(one.seller for one in self.candidates)

    def refusal(self) -> Refusal:
        """Why nobody is asked, with the counts and what to change."""
        limit, cheapest = self.terms.limit or 0, self.cheapest or 0
        code = Code.NO_OFFERS if self.known == self.excluded.get(Rule.PIPELINE, 0) else Code.NO_MATCH
        if code is Code.NO_MATCH and self.waiting:
            code = Code.BUSY
        elif code is Code.NO_MATCH and self.excluded.get(Rule.NO_ANSWER, 0):
            code = Code.NO_ANSWER
        hint = hint_for(self.excluded, cheapest, limit)
        return Refusal(code, self.known, listed(self.excluded), cheapest, limit, hint)


def prefilter(book: OrderBook, terms: Terms, views: Mapping[PeerId, View], now: int) -> Matched:
    """Judge every live offer for these terms. ``views``: the sellers we know; ``now``: the calendar in seconds.

    Without a limit every price passes, and ``cheapest`` tells what to make of that.
    """
    book.expire(now)
    if terms.without:  # counted one by one, whether we met them or not
        views = dict.fromkeys(terms.without, UNKNOWN) | dict(views)
    return _Sieve(book, terms, views).run()


def match(book: OrderBook, terms: Terms, views: Mapping[PeerId, View], now: int) -> Matched:
    """``prefilter``, where a bid without a limit gets one: twice what the likely cheapest asks.

    An offer near nothing costs nothing to publish, and must not set the limit that keeps everybody else out.
    """
    found = prefilter(book, terms, views, now)
    if terms.limit is not None or found.cheapest is None:
        return found
    return prefilter(book, replace(terms, limit=default_limit(found.usual or found.cheapest)), views, now)


def default_limit(cheapest: int) -> int:
    """The limit of a bid that gave none."""
    return min(MAX_WEI, 2 * cheapest)


def seller_limit(limit: int, margin_ppm: int) -> int:
    """What of a customer's limit a seller may get, the gateway's margin on top kept inside it."""
    return limit * MILLION // (MILLION + margin_ppm)


class _Sieve:
    """One pass over the shelves of one pipeline, settlement and model."""

    def __init__(self, book: OrderBook, terms: Terms, views: Mapping[PeerId, View]) -> None:
        self.book, self.terms, self.views, self.shape = book, terms, views, terms.shape
        self.units = terms.shape.units
        self.dearest = MAX_WEI if terms.limit is None else terms.limit * MILLION // self.units
        self.excluded: Counter[Rule] = Counter()
        self.candidates: list[Candidate] = []
        self.open: list[tuple[list[Ask], int | None]] = []  # shelves that serve, each with its predicted finish
        self.eligible = self.waiting = self.soon = 0
        self.serving: list[int] = []  # prices that fail no rule but price, the lowest of each shelf
        self.there: list[int] = []  # the same of sellers that are connected, or answered before
        self.proven: list[int] = []  # and of those that have delivered
        self.able: list[int] = []  # the same of those that could do such a job at all

    def run(self) -> Matched:
        shape, settlement = self.shape, self.terms.settlement
        known, of_pipeline = self.book.known(), self.book.known(shape.pipeline)
        here = self.book.known(shape.pipeline, settlement)
        shelves = self.book.shelves(shape.pipeline, settlement, shape.model)
        self.excluded[Rule.PIPELINE] = known - of_pipeline
        self.excluded[Rule.SETTLEMENT] = of_pipeline - here
        self.excluded[Rule.MODEL] = here - sum(map(len, shelves.values()))
        for profile, shelf in shelves.items():
            self._shelf(profile, shelf)
        self.candidates += self._strangers()
        for posting, view in self._met():
            self._one(posting, view)
        best = min(self.serving, default=None)
        cheapest = best if best is not None else min(self.able, default=None)
        excluded = {rule: self.excluded[rule] for rule in Rule if self.excluded[rule]}
        usual = min(self.proven or self.there, default=None)
        return Matched(
            self.terms, known, self.eligible, excluded, tuple(self.candidates), cheapest, self.waiting, usual, self.soon
        )

    def _met(self) -> Iterator[tuple[Posting, View]]:
        for seller in self.views:
            posting = self.book.posting(seller, self.shape.pipeline)
            if posting is not None and posting.offer.settlement == self.terms.settlement:
                yield posting, self.views[seller]

    def _static(self, profile: Profile) -> Rule | None:
        return unfit(self.shape, profile.limits, profile.quality, profile.strength)

    def _shelf(self, profile: Profile, shelf: list[Ask]) -> None:
        """Count a whole shelf as if nobody on it were known, and look at the cheapest of those who are not."""
        rule = self._static(profile)
        if rule is not None:
            self.excluded[rule] += len(shelf)
            return
        self.able.append(price_for(self.units, shelf[0][0]))
        finish = finish_ms(self.units, profile.speed, profile.load_ms, 0)
        for rule, count in self._levels(shelf, finish):
            self._count(rule, count)
        if self._unmet_rule(0, finish) is not None:
            return
        first = next((price for price, seller in shelf if seller not in self.views), None)
        if first is not None and self._unmet_rule(first, finish) is None:
            self.serving.append(price_for(self.units, first))
        self.open.append((shelf, finish))

    def _levels(self, shelf: list[Ask], finish: int | None) -> Iterator[tuple[Rule | None, int]]:
        within = bisect_right(shelf, self.dearest, key=lambda ask: ask[0])
        yield Rule.PRICE, len(shelf) - within
        rule = self._unmet_rule(0, finish)
        if rule is not None:
            yield rule, within
            return
        room = bisect_right(shelf, self._room(), hi=within, key=lambda ask: ask[0])
        yield Rule.EXPOSURE, within - room
        yield None, room

    def _unmet_rule(self, price: int, finish: int | None) -> Rule | None:
        """What excludes a seller nobody here met, its price within the limit. The order is that of the counts."""
        if finish is not None and finish > self.terms.deadline_ms:
            return Rule.FINISH
        if self.units > self.terms.small_job or price > self._room():
            return Rule.EXPOSURE
        return None

    def _room(self) -> int:
        """The highest price per million that what newcomers may still owe us covers."""
        return self.terms.newcomer_room * MILLION // self.units

    def _strangers(self) -> Iterator[Candidate]:
        """The best by score and the cheapest of those nobody here met: enough for every draw of one auction."""
        taken: set[PeerId] = set()
        for by_price in (False, True):
            near: Counter[bytes] = Counter()
            kept = 0
            heads = merge(*(self._ranked(shelf, finish, by_price) for shelf, finish in self.open))
            for _, seller, finish in islice(heads, _LOOKED_AT):
                posting = self.book.posting(seller, self.shape.pipeline)
                assert posting is not None
                subnet, payout = posting.subnet or seller, posting.offer.payout
                if near[subnet] == MAX_ROUNDS or near[payout] == MAX_ROUNDS:
                    continue
                near[subnet] += 1
                near[payout] += 1
                if seller not in taken:
                    taken.add(seller)
                    yield self._candidate(posting, UNKNOWN, finish)
                kept += 1
                if kept == _KEPT:
                    break

    def _ranked(self, shelf: list[Ask], finish: int | None, by_price: bool) -> Iterator[tuple[int, PeerId, int | None]]:
        """A shelf's strangers within the limits, best first: on one shelf the cheapest is also the best."""
        highest, time_wei = min(self.dearest, self._room()), self.terms.time_wei
        waited = self.terms.deadline_ms if finish is None else finish
        for price, seller in shelf:
            if price > highest:
                return
            if seller not in self.views:
                wei = price_for(self.units, price)
                yield wei if by_price else score(wei, time_wei, waited, UNKNOWN.delivered_ppm), seller, finish

    def _one(self, posting: Posting, view: View) -> None:
        """Take a seller we know out of its shelf's count, and judge it by what we know."""
        offer = posting.offer
        entry = offer.entry(self.shape.model)
        if entry is None:
            return
        profile = profile_of(offer, entry)
        if self._static(profile) is not None:
            return
        counted = Rule.PRICE if offer.price > self.dearest else None
        claimed = finish_ms(self.units, profile.speed, profile.load_ms, 0)
        self._count(counted or self._unmet_rule(offer.price, claimed), -1)
        if offer.seller in self.terms.without:
            self._count(Rule.WITHOUT, 1)
            return
        if view.delivered_ppm > PRIOR_PPM and not view.banned:  # busy now or not: what it asks is what such a job costs
            self.proven.append(offer.price_of(self.shape))
        finish = predicted_ms(self.shape, entry, view, profile.load_ms)
        rule = self._met_rule(offer.price_of(self.shape), finish, view)
        if rule in (None, Rule.PRICE) and self._beside_price(offer.price_of(self.shape), finish, view) is None:
            self._serves(offer.price_of(self.shape), view)
        self._count(rule, 1)
        if rule is None:
            self.candidates.append(self._candidate(posting, view, finish))
        elif rule is Rule.REFUSED_LATELY or (rule is Rule.FINISH and self._only_queued(finish, view)):
            self.waiting += 1
            self.soon += view.rtt_ms is not None

    def _serves(self, price: int, view: View) -> None:
        self.serving.append(price)
        if view.rtt_ms is not None:
            self.there.append(price)

    def _met_rule(self, price: int, finish: int | None, view: View) -> Rule | None:
        if view.banned:
            return Rule.BANNED
        if self.terms.limit is not None and price > self.terms.limit:
            return Rule.PRICE
        return self._beside_price(price, finish, view)

    def _beside_price(self, price: int, finish: int | None, view: View) -> Rule | None:
        if view.banned:
            return Rule.BANNED
        if finish is not None and finish > self.terms.deadline_ms:
            return Rule.FINISH
        exposed = self.units > self.terms.small_job if view.exposure_wei is None else price > view.exposure_wei
        if exposed or (view.newcomer and price > self.terms.newcomer_room):
            return Rule.EXPOSURE
        if view.unreachable:
            return Rule.NO_ANSWER
        return Rule.REFUSED_LATELY if view.refused_lately else None

    def _only_queued(self, finish: int | None, view: View) -> bool:
        queue = view.load.queue_ms if view.load is not None else 0
        return finish is not None and finish - queue <= self.terms.deadline_ms

    def _count(self, rule: Rule | None, count: int) -> None:
        if rule is None:
            self.eligible += count
        else:
            self.excluded[rule] += count

    def _candidate(self, posting: Posting, view: View, finish: int | None) -> Candidate:
        price = posting.offer.price_of(self.shape)
        waited = self.terms.deadline_ms if finish is None else finish
        worth = score(price, self.terms.time_wei, waited, view.delivered_ppm)
        full = view.load is not None and not view.load.free
        return Candidate(
            posting, price, finish, worth, view.newcomer, view.delivered_ppm, view.late_ms, view.rtt_ms, full
        )
