"""RFQ and Quote, and Quoting: how a seller answers without promising a place twice.

A Quote is signed and binds: price, finish and hold are durations from its arrival on the asker's clock. Held quotes
never exceed the free places. Who gets a hold: a gateway with a known deposit that awards more than one in twenty of
its last hundred quotes; a newcomer gateway gets two at a time. Everybody else gets an indicative quote (hold 0), which
may win like any other, only the place is not kept. Pure: time is ``now`` in milliseconds; knows no job and no stream.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from compute.spec import JobShape
from ledger.money import Amount, Settlement
from market.offer import NetworkName, Offer
from p2p.admission import RateLimit
from p2p.codec import U32, U64, Hash, Range, Size, message
from p2p.envelope import digest_of
from p2p.peer import PeerId, WirePeer

MAX_HOLD_MS = 2000
RFQ_PER_SECOND = 20
QUOTES_COUNTED = 100
AWARDS_OWED = 5  # more than so many of the last QUOTES_COUNTED, else no hold
NEWCOMER_HOLDS = 2
HOLDS_EACH = 16  # places that one gateway holds at a time, however well it is known
NEWCOMER_CHANCES = 20  # quotes to a gateway that never awarded one, before it gets no more holds
MAX_INDICATIVE = 512  # open quotes without a place; the oldest goes first
MAX_OPEN_EACH = 64  # of them, for one gateway
MAX_GATEWAYS = 4096
LATE_WORD_MS = 10_000  # a word on a held quote may come so long after its time and still be a word
MAX_OVER = 1024  # held quotes that are over and wait for such a word; the oldest is judged first
LATE_PARTS = 60  # a full late second costs at least this part of the price
MAX_FINISH_MS = 48 * 3600 * 1000


@message("rfq", 2)
@dataclass(frozen=True, slots=True)
class RFQ:
    """What would a job of this shape cost? Never the prompt, an input or the limit.

    ``hold_ms``: how long the asker needs the place kept. ``take_at`` above 0: a Quote at or below it is awarded.
    """

    nonce: Annotated[bytes, Size(16, 16)]
    network: NetworkName
    settlement: Settlement
    shape: JobShape
    hold_ms: Annotated[int, Range(0, MAX_HOLD_MS)]
    take_at: Amount = 0

    @property
    def digest(self) -> bytes:
        """32 bytes that name this RFQ in its Quote."""
        return digest_of(self)


def late_rate_for(price: int) -> int:
    """The least that a full late second takes off the price, rounded up."""
    return -(-price // LATE_PARTS)


@message("quote", 1)
@dataclass(frozen=True, slots=True)
class Quote:
    """The seller's word, to be signed: ``price`` for the RFQ's shape, sealed within ``finish_by_ms`` of the award.

    ``hold_ms`` 0 is indicative. ``taken``: at or below ``take_at``, so it is awarded already.
    """

    rfq: Hash
    network: NetworkName
    settlement: Settlement
    seller: WirePeer
    gateway: WirePeer
    price: Amount
    finish_by_ms: Annotated[int, Range(1, MAX_FINISH_MS)]
    hold_ms: Annotated[int, Range(0, MAX_HOLD_MS)]
    late_rate: Amount
    offer_serial: U64
    queue: U32
    taken: bool = False

    def __post_init__(self) -> None:
        if self.late_rate < late_rate_for(self.price):
            raise ValueError("the late rate is below a sixtieth of the price")
        if self.taken and not self.hold_ms:
            raise ValueError("taken without a place")

    @property
    def digest(self) -> bytes:
        """32 bytes that name this Quote in Award and Receipt; what the seller's signature covers."""
        return digest_of(self)


class Decline(StrEnum):
    """Why a seller does not quote. None of them is a fault."""

    BUSY = "BUSY"
    NOT_OFFERED = "NOT_OFFERED"
    OTHER_SETTLEMENT = "OTHER_SETTLEMENT"
    TOO_MANY = "TOO_MANY"
    DRAINING = "DRAINING"
    UNFUNDED = "UNFUNDED"


@message("quote-refusal", 1)
@dataclass(frozen=True, slots=True)
class QuoteRefusal:
    """No quote for this RFQ."""

    rfq: Hash
    code: Decline


@message("release", 1)
@dataclass(frozen=True, slots=True)
class Release:
    """The asker does not want the place kept any longer."""

    rfq: Hash


@dataclass(frozen=True, slots=True)
class Places:
    """What the seller has at this moment: ``free`` places beyond running jobs, the queue, and what this job takes."""

    free: int
    queue: int
    queue_ms: int
    run_ms: int
    most_queued: int = 0


@dataclass(slots=True)
class _Gateway:
    """What became of the last quotes to one gateway: True where it awarded."""

    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=QUOTES_COUNTED))


@dataclass(frozen=True, slots=True)
class Hold:
    """A place kept for one quote until ``until``. An indicative quote has one too, with ``place`` False."""

    gateway: PeerId
    quote: Quote
    shape: JobShape
    until: int
    place: bool


class Quoting:
    """A seller's open quotes, bounded. ``held`` never exceeds the free places of the answer that added to it."""

    def __init__(self, seller: PeerId, network: str, settlement: Settlement, *, grace_ms: int = 300) -> None:
        self.seller, self.network, self.settlement = seller, network, settlement
        self._grace = grace_ms  # our clock started earlier than the asker's, who counts from arrival
        self._open: OrderedDict[bytes, Hold] = OrderedDict()
        self._gateways: OrderedDict[PeerId, _Gateway] = OrderedDict()
        self._rate = RateLimit(RFQ_PER_SECOND, RFQ_PER_SECOND, MAX_GATEWAYS)
        self._over: OrderedDict[bytes, tuple[PeerId, int]] = OrderedDict()  # whose held quote, and when it is judged
        self._unclaimed: deque[PeerId] = deque(maxlen=MAX_INDICATIVE)

    def held(self, now: int) -> int:
        """Places kept at ``now``."""
        return len(self.held_shapes(now))

    def held_shapes(self, now: int) -> list[JobShape]:
        """What the places kept at ``now`` are for."""
        self.expire(now)
        return [hold.shape for hold in self._open.values() if hold.place]

    def answer(
        self, rfq: RFQ, gateway: PeerId, offer: Offer | None, places: Places, now: int, *, funded: bool
    ) -> Quote | QuoteRefusal:
        """A Quote to sign, or why not. ``offer`` is our own live one for the pipeline; ``funded``: a known deposit.

        The same RFQ again gets the same Quote while it is open.
        """
        digest = rfq.digest
        if not self._rate.allow(gateway, now / 1000):
            return QuoteRefusal(digest, Decline.TOO_MANY)
        self.expire(now)
        known = self._open.get(digest)
        if known is not None and known.gateway == gateway:
            return known.quote
        refused = self._refused(rfq, offer, places, now)
        if refused is not None or offer is None or known is not None:
            return QuoteRefusal(digest, refused or Decline.BUSY)
        place = funded and places.free > self.held(now) and self._deserves_hold(gateway)
        quote = self._quote(rfq, digest, gateway, offer, places, place)
        until = now + (quote.hold_ms if place else MAX_HOLD_MS) + self._grace
        self._open[digest] = Hold(gateway, quote, rfq.shape, until, place)
        if not place:
            self._bound_indicative(gateway)
        return quote

    def find(self, rfq: bytes, gateway: PeerId, now: int) -> Hold | None:
        """The open quote of this gateway to that RFQ, and the shape it is for."""
        hold = self._open.get(rfq)
        return hold if hold is not None and hold.gateway == gateway and now < hold.until else None

    def award(self, rfq: bytes, gateway: PeerId, free: int, now: int) -> Quote | None:
        """The Quote that this award takes, which closes it; None when it is unknown, over, or no place is left.

        ``free`` as in ``Places``: the places not yet taken by running jobs, held ones included.
        """
        self.expire(now)
        hold = self._open.get(rfq)
        if hold is None or hold.gateway != gateway:
            return None
        room = free > 0 if hold.place else free > self.held(now)
        if not room:
            return None
        del self._open[rfq]
        self._note(gateway, awarded=True)
        return hold.quote

    def release(self, rfq: bytes, gateway: PeerId, now: int) -> None:
        """The gateway chose another. Unknown and repeated releases are nothing."""
        self.expire(now)
        self.spoke(rfq, gateway)
        hold = self._open.get(rfq)
        if hold is not None and hold.gateway == gateway:
            del self._open[rfq]
            self._note(gateway, awarded=False)

    def spoke(self, rfq: bytes, gateway: PeerId) -> None:
        """A word on a quote came late, an award or a release: its place was not forgotten, only the way was slow."""
        over = self._over.get(rfq)
        if over is not None and over[0] == gateway:
            del self._over[rfq]

    def expire(self, now: int) -> None:
        """Forget what is over; a quote that ran out counts as one that was not awarded."""
        for digest in [digest for digest, hold in self._open.items() if hold.until <= now]:
            over = self._open.pop(digest)
            self._note(over.gateway, awarded=False)
            if over.place:
                self._over[digest] = over.gateway, over.until + LATE_WORD_MS
        while self._over and (len(self._over) > MAX_OVER or next(iter(self._over.values()))[1] <= now):
            _, (gateway, _) = self._over.popitem(last=False)
            self._unclaimed.append(gateway)

    def take_unclaimed(self) -> list[PeerId]:
        """Whose held places ran out, neither taken nor let go, with no word since: each is told once."""
        taken = list(self._unclaimed)
        self._unclaimed.clear()
        return taken

    def award_share(self, gateway: PeerId) -> tuple[int, int]:
        """Awards among the last quotes to a gateway, and how many those are."""
        known = self._gateways.get(gateway)
        return (sum(known.outcomes), len(known.outcomes)) if known else (0, 0)

    def _refused(self, rfq: RFQ, offer: Offer | None, places: Places, now: int) -> Decline | None:
        if rfq.settlement != self.settlement or rfq.network != self.network:
            return Decline.OTHER_SETTLEMENT
        if offer is None or offer.unfit(rfq.shape) is not None:
            return Decline.NOT_OFFERED
        if places.free <= self.held(now) and places.queue >= places.most_queued:
            return Decline.BUSY
        return None

    def _deserves_hold(self, gateway: PeerId) -> bool:
        awards, counted = self.award_share(gateway)
        open_now = sum(hold.place for hold in self._open.values() if hold.gateway == gateway)
        if counted < QUOTES_COUNTED:
            return open_now < NEWCOMER_HOLDS and (awards > 0 or counted < NEWCOMER_CHANCES)
        return awards > AWARDS_OWED and open_now < HOLDS_EACH

    def _bound_indicative(self, gateway: PeerId) -> None:
        """Forget the oldest of this gateway's, then the oldest of all, when there are too many. No place is freed."""
        indicative = [digest for digest, hold in self._open.items() if not hold.place]
        own = [digest for digest in indicative if self._open[digest].gateway == gateway]
        if len(own) > MAX_OPEN_EACH:
            del self._open[own[0]]
        elif len(indicative) > MAX_INDICATIVE:
            del self._open[indicative[0]]

    def _quote(self, rfq: RFQ, digest: bytes, gateway: PeerId, offer: Offer, places: Places, place: bool) -> Quote:
        price = offer.price_of(rfq.shape)
        predicted = places.queue_ms + places.run_ms
        return Quote(
            rfq=digest,
            network=self.network,
            settlement=self.settlement,
            seller=self.seller,
            gateway=gateway,
            price=price,
            finish_by_ms=min(MAX_FINISH_MS, predicted + predicted // 4 + 1000),  # room for a neighbour's work
            hold_ms=max(1, rfq.hold_ms) if place else 0,
            late_rate=late_rate_for(price),
            offer_serial=offer.serial,
            queue=places.queue,
            taken=place and rfq.take_at > 0 and price <= rfq.take_at,
        )

    def _note(self, gateway: PeerId, *, awarded: bool) -> None:
        known = self._gateways.setdefault(gateway, _Gateway())
        self._gateways.move_to_end(gateway)
        known.outcomes.append(awarded)
        if len(self._gateways) > MAX_GATEWAYS:
            self._gateways.popitem(last=False)
