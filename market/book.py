"""OrderBook: the newest live offer of each seller and pipeline, on shelves that a prefilter can count by bisection.

The same set of offers gives the same book in whatever order it arrives. Bytes that are wrong in themselves are
rejected; what is relative (late, repeated, of another network, from the future) is ignored. Two different offers under
one serial both go, neither counts, and the pair is kept as proof. Pure: ``now`` is the calendar in seconds; the
subnet of a seller is told by the caller, who alone knows it. Knows no bid and no score.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from compute.spec import Quality
from ledger.money import Settlement
from market.offer import MAX_OFFER, Limits, ModelOffer, Offer
from p2p.codec import decode_as
from p2p.envelope import Signed, open_signed
from p2p.errors import BadSignature, MalformedMessage, PeerFault, UnknownMessage
from p2p.peer import PeerId
from p2p.transport import Verdict

CAPACITY = 100_000
CLOCK_TOLERANCE = 120  # seconds that two honest calendars may differ
MAX_PROOFS = 256
MAX_SHARED = 4096  # values that offers have in common; strangers may name as many as they like
ENVELOPE = 79  # bytes that an envelope adds to a payload of more than 255 bytes, so that nothing longer is kept

T = TypeVar("T")
Key = tuple[PeerId, str]
Ask = tuple[int, PeerId]


@dataclass(frozen=True, slots=True)
class Posting:
    """One seller's newest offer for a pipeline, as published. ``barred``: two offers claim this serial."""

    offer: Offer
    envelope: Signed
    subnet: bytes | None = None
    barred: bool = False

    @property
    def live(self) -> bool:
        return not self.barred and not self.offer.withdrawn


class Profile(NamedTuple):
    """What the offers on one shelf have in common: all that decides for a job, save price and our own measure."""

    limits: Limits
    quality: Quality
    strength: int
    speed: int
    load_ms: int


def claimed_speed(speed: int) -> int:
    """A claimed speed as predictions use it: rounded down to eight steps per octave, so that shelves stay few."""
    shift = max(0, speed.bit_length() - 4)
    return speed >> shift << shift


def profile_of(offer: Offer, entry: ModelOffer) -> Profile:
    """The shelf that one model of an offer stands on. Loading time is rounded up, as speed is rounded down."""
    load = 0 if entry.warm else -claimed_speed(-(-entry.load_ms // 1000)) * -1000
    return Profile(entry.limits, entry.quality, offer.strength, claimed_speed(entry.speed), load)


class OrderBook:
    """At most ``capacity`` postings; of one seller and pipeline only the newest serial, never one past its time."""

    def __init__(self, network: str, capacity: int = CAPACITY) -> None:
        self.network, self.capacity = network, capacity
        self.subnet_of: Callable[[PeerId], bytes | None] = lambda seller: (
            None
        )  # where a connection shows a seller to be
        self.proofs: list[tuple[Signed, Signed]] = []
        self._postings: dict[Key, Posting] = {}
        self._live: Counter[tuple[str | Settlement, ...]] = Counter()
        self._shelves: dict[tuple[str, Settlement, bytes], dict[Profile, list[Ask]]] = {}
        self._sellers: dict[str, list[PeerId]] = {}  # of each pipeline, sorted, for pages
        self._expiry: list[tuple[int, Key, int]] = []
        self._payloads: set[bytes] = set()
        self._shared: dict[Any, Any] = {}
        self._measured: set[PeerId] = set()
        self._crowds: dict[bytes, dict[Key, None]] = {}  # never-measured postings by subnet, in order of arrival

    def __len__(self) -> int:
        return len(self._postings)

    def judge(self, data: bytes, now: int, pipeline: str | None = None, subnet: bytes | None = None) -> Verdict:
        """The fate of an envelope off the wire, by gossip (on the topic of ``pipeline``) or by hand-over."""
        try:
            envelope = decode_as(Signed, data, MAX_OFFER)
            offer = open_offer(envelope)
        except UnknownMessage:
            return Verdict.IGNORE
        except PeerFault:
            return Verdict.REJECT
        if pipeline is not None and offer.pipeline != pipeline:
            return Verdict.IGNORE
        return self.post(offer, envelope, now, subnet)

    def post(self, offer: Offer, envelope: Signed, now: int, subnet: bytes | None = None) -> Verdict:
        """The same for an offer whose signature was checked: ``envelope`` holds it and its seller signed."""
        if offer.network != self.network or offer.issued_at > now + CLOCK_TOLERANCE or _over(offer) <= now:
            return Verdict.IGNORE
        key = (offer.seller, offer.pipeline)
        known = self._postings.get(key)
        subnet = subnet or self.subnet_of(offer.seller)
        if known is None:
            if not self._room(key, subnet, now):
                return Verdict.IGNORE
        elif offer.serial == known.offer.serial and offer != known.offer:
            return self._equivocated(key, known, offer, envelope)
        elif offer.serial <= known.offer.serial:
            return Verdict.IGNORE
        else:
            self._remove(key)
            subnet = subnet or known.subnet
        self._insert(key, Posting(self._thrifty(offer), envelope, subnet))
        return Verdict.ACCEPT

    def expire(self, now: int) -> None:
        """Drop what is past its time, with the tolerance for clocks."""
        while self._expiry and self._expiry[0][0] <= now:
            _, key, serial = heappop(self._expiry)
            known = self._postings.get(key)
            if known is not None and known.offer.serial == serial and _over(known.offer) <= now:
                self._remove(key)

    def measured(self, seller: PeerId) -> None:
        """A job of this seller was measured: it is no longer among the first to go when the book is full."""
        if seller in self._measured:
            return
        self._measured.add(seller)
        for crowd in self._crowds.values():
            for key in [key for key in crowd if key[0] == seller]:
                del crowd[key]

    @property
    def measured_sellers(self) -> set[PeerId]:
        """Whom a job was bought of."""
        return self._measured

    def take_proofs(self) -> list[tuple[Signed, Signed]]:
        """The pairs found since this was asked last."""
        taken, self.proofs = self.proofs, []
        return taken

    def locate(self, seller: PeerId, pipeline: str, subnet: bytes) -> None:
        """The subnet that a connection to this seller showed."""
        known = self._postings.get((seller, pipeline))
        if known is not None and known.subnet != subnet:
            self._remove((seller, pipeline))
            self._insert((seller, pipeline), replace(known, subnet=subnet))

    def holds(self, envelope: Signed) -> bool:
        """Whether this very offer stands here, its signature checked when it came."""
        return envelope.payload in self._payloads

    def posting(self, seller: PeerId, pipeline: str) -> Posting | None:
        """The live posting of one seller."""
        known = self._postings.get((seller, pipeline))
        return known if known is not None and known.live else None

    def postings(self) -> Iterator[Posting]:
        """Every live posting, in no order."""
        return (posting for posting in self._postings.values() if posting.live)

    def asks(self, pipeline: str, settlement: Settlement, model: bytes) -> list[Posting]:
        """Live postings of one model, the cheapest first; ties by seller, so that every node agrees."""
        shelves = self.shelves(pipeline, settlement, model).values()
        return [self._postings[peer, pipeline] for _, peer in sorted(ask for shelf in shelves for ask in shelf)]

    def known(self, *within: str | Settlement) -> int:
        """How many live postings there are: in all, of a pipeline, of a pipeline and settlement."""
        return self._live[within]

    def shelves(self, pipeline: str, settlement: Settlement, model: bytes) -> Mapping[Profile, list[Ask]]:
        """Price per million and seller, sorted, by profile. Read it, do not keep it."""
        return self._shelves.get((pipeline, settlement, model), {})

    def models(self, pipeline: str, settlement: Settlement, most: int = 4096) -> list[bytes]:
        """Models on offer, among the first ``most`` shelves of the book, the longest known first."""
        return [key[2] for key in islice(self._shelves, most) if key[:2] == (pipeline, settlement)]

    def page(self, pipeline: str, after: PeerId | None, most: int = 32) -> tuple[Signed, ...]:
        """Envelopes for a newcomer's book, by seller id, so that a page is asked for by the last one seen."""
        return tuple(self._postings[peer, pipeline].envelope for peer in self.sellers(pipeline, after, most))

    def sellers(self, pipeline: str, after: PeerId | None = None, most: int = CAPACITY) -> list[PeerId]:
        """Whoever has an offer here, also one that is barred, by id."""
        sellers = self._sellers.get(pipeline, [])
        start = 0 if after is None else bisect_right(sellers, after)
        return sellers[start : start + most]

    def envelope(self, seller: PeerId, pipeline: str) -> Signed | None:
        """A seller's newest offer as it was gossiped, also a barred one."""
        known = self._postings.get((seller, pipeline))
        return None if known is None else known.envelope

    def _equivocated(self, key: Key, known: Posting, offer: Offer, envelope: Signed) -> Verdict:
        """Both go, and none of that serial comes back. It costs the seller; who passed it on had seen one of them."""
        if not known.barred and len(self.proofs) < MAX_PROOFS:
            self.proofs.append((known.envelope, envelope))
        if not known.barred or offer.expires_at > known.offer.expires_at:
            latest = max((known.offer, known.envelope), (offer, envelope), key=lambda pair: pair[0].expires_at)
            self._remove(key)
            self._insert(key, Posting(*latest, known.subnet, barred=True))
        return Verdict.IGNORE

    def _room(self, key: Key, subnet: bytes | None, now: int) -> bool:
        """Whether a new key fits. When full, the latest of the most crowded subnet of never-measured sellers goes."""
        if len(self._postings) >= self.capacity:
            self.expire(now)
        if len(self._postings) < self.capacity:
            return True
        crowds = {name: len(crowd) for name, crowd in self._crowds.items() if crowd}
        if key[0] not in self._measured:
            name = subnet or b""
            crowds[name] = crowds.get(name, 0) + 1
        if not crowds:
            return False
        largest = max(crowds, key=lambda name: crowds[name])
        if key[0] not in self._measured and crowds[largest] == crowds[subnet or b""]:
            return False  # it would be the first to go itself
        self._remove(next(reversed(self._crowds[largest])))
        return True

    def _thrifty(self, offer: Offer) -> Offer:
        """The same offer, what it has in common with others held once."""
        same = self._same
        models = tuple(
            replace(entry, name=same(entry.name), model=same(entry.model), dtype=same(entry.dtype))
            for entry in offer.models
        )
        return replace(
            offer,
            network=self.network,
            settlement=same(offer.settlement),
            pipeline=same(offer.pipeline),
            models=models,
            verification=same(offer.verification),
        )

    def _same(self, value: T) -> T:
        if len(self._shared) >= MAX_SHARED:
            self._shared.clear()
        known: T = self._shared.setdefault(value, value)
        return known

    def _insert(self, key: Key, posting: Posting) -> None:
        offer = posting.offer
        self._postings[key] = posting
        self._payloads.add(posting.envelope.payload)
        insort(self._sellers.setdefault(offer.pipeline, []), offer.seller)
        heappush(self._expiry, (_over(offer), key, offer.serial))
        if len(self._expiry) > 2 * len(self._postings) + 1024:  # refreshes leave stale entries
            self._expiry = [(_over(p.offer), k, p.offer.serial) for k, p in self._postings.items()]
            heapify(self._expiry)
        if key[0] not in self._measured:
            self._crowds.setdefault(posting.subnet or b"", {})[key] = None
        if posting.live:
            self._count(offer, 1)
            for entry in offer.models:
                shelves = self._shelves.setdefault((offer.pipeline, offer.settlement, entry.model), {})
                insort(shelves.setdefault(profile_of(offer, entry), []), (offer.price, offer.seller))

    def _remove(self, key: Key) -> None:
        posting = self._postings.pop(key)
        self._payloads.discard(posting.envelope.payload)
        offer = posting.offer
        sellers = self._sellers[offer.pipeline]
        del sellers[bisect_left(sellers, offer.seller)]
        if not sellers:
            del self._sellers[offer.pipeline]
        crowd = self._crowds.get(posting.subnet or b"", {})
        crowd.pop(key, None)
        if not crowd:
            self._crowds.pop(posting.subnet or b"", None)
        if posting.live:
            self._count(offer, -1)
            for entry in offer.models:
                self._unshelve(offer, entry)

    def _unshelve(self, offer: Offer, entry: ModelOffer) -> None:
        name, profile = (offer.pipeline, offer.settlement, entry.model), profile_of(offer, entry)
        shelf = self._shelves[name][profile]
        del shelf[bisect_left(shelf, (offer.price, offer.seller))]
        if not shelf:
            del self._shelves[name][profile]
        if not self._shelves[name]:
            del self._shelves[name]

    def _count(self, offer: Offer, step: int) -> None:
        names: tuple[tuple[str | Settlement, ...], ...] = ((), (offer.pipeline,), (offer.pipeline, offer.settlement))
        for name in names:
            self._live[name] += step
            if not self._live[name]:
                del self._live[name]


def open_offer(envelope: Signed) -> Offer:
    """The offer inside, signed by its seller. Raises PeerFault, UnknownMessage."""
    if len(envelope.payload) + ENVELOPE > MAX_OFFER:
        raise MalformedMessage(f"an offer of {len(envelope.payload)} bytes")
    offer, author = open_signed(envelope, Offer)
    if author != offer.seller:
        raise BadSignature("an offer signed by somebody else")
    return offer


def _over(offer: Offer) -> int:
    return offer.expires_at + CLOCK_TOLERANCE
