"""Reconcile: what a neighbour's book has and ours lacks, found by comparing sums over spans of sellers.

    Snapshot.describe      one side: a span in parts with a sum each, or its few offers one by one
    Descent                the other: drops what is equal, goes on into what differs, ends with whom to ask for

Range-based set reconciliation after Aljoscha Meyer, "Range-Based Set Reconciliation" (SRDS 2023, arXiv:2212.13567),
in its one-way form: the asker alone compares. The sum of a span is its count and the sum of its offers' digests modulo
2**256, hashed; digests are keyed with a salt of the answerer's that is soon another one, so that nobody can make
offers whose sums agree. A neighbour that lies about its sums wastes a bounded number of spans and hides what it could
have kept silent about anyhow. Pure; knows no stream and no signature.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise

from market.bookwire import MAX_ITEMS, MAX_SPANS, PARTS, Described, Item, Part, Span
from p2p.errors import PeerFault
from p2p.peer import PeerId

WHOLE = Span(None, None)
MAX_ASKED = 2048  # spans of one session
MAX_DEPTH = 8  # sixteen parts each time: more offers than there can be
MAX_LACKING = 8192  # sellers that one session may ask for
_MODULUS = 2**256


class Snapshot:
    """One side's offers at one moment, by seller. ``add`` in the order of sellers, then ask."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._sellers: list[PeerId] = []
        self._digests: list[bytes] = []
        self._sums = [0]

    def __len__(self) -> int:
        return len(self._sellers)

    def add(self, seller: PeerId, payload: bytes) -> None:
        """One more offer. Raises ValueError when its seller does not come after the last one."""
        if self._sellers and seller <= self._sellers[-1]:
            raise ValueError("sellers are added in their order, each once")
        digest = blake2b(payload, key=self._salt, digest_size=32).digest()
        self._sellers.append(seller)
        self._digests.append(digest[:16])
        self._sums.append((self._sums[-1] + int.from_bytes(digest, "big")) % _MODULUS)

    def holds(self, item: Item) -> bool:
        """Whether this very offer is here."""
        at = bisect_right(self._sellers, item.seller) - 1
        return at >= 0 and self._sellers[at] == item.seller and self._digests[at] == item.digest

    def part(self, span: Span) -> Part:
        """Count and sum of a span."""
        return self._part(*self._bounds(span), span.until)

    def describe(self, span: Span) -> Described:
        """A span in parts of about equal size, or its offers where these are few."""
        low, high = self._bounds(span)
        if high - low <= MAX_ITEMS:
            items = (Item(self._sellers[at], self._digests[at]) for at in range(low, high))
            return Described((), tuple(items))
        cuts = [low + (high - low) * part // PARTS for part in range(PARTS + 1)]
        ends = [self._sellers[cut - 1] for cut in cuts[1:-1]]
        pieces = zip(pairwise(cuts), [*ends, span.until], strict=True)
        return Described(tuple(self._part(a, b, until) for (a, b), until in pieces), ())

    def _bounds(self, span: Span) -> tuple[int, int]:
        low = 0 if span.after is None else bisect_right(self._sellers, span.after)
        high = len(self._sellers) if span.until is None else bisect_right(self._sellers, span.until)
        return low, max(low, high)

    def _part(self, low: int, high: int, until: PeerId | None) -> Part:
        total = (self._sums[high] - self._sums[low]) % _MODULUS
        counted = total.to_bytes(32, "big") + (high - low).to_bytes(8, "big")
        return Part(until, high - low, blake2b(counted, key=self._salt, digest_size=16).digest())


class Descent:
    """One session of the asker. ``ask`` while it gives spans, tell ``heard`` what was answered; then take the rest.

    ``lacking``: sellers whose offer the neighbour has and we have not, or another one. ``pages``: spans of which we
    have so little that asking for all of them costs less than comparing on.
    """

    def __init__(self, own: Snapshot) -> None:
        self._own = own
        self._waiting: deque[tuple[Span, int]] = deque([(WHOLE, 0)])
        self._asked: list[tuple[Span, int]] = []
        self.spans = 0
        self.lacking: list[PeerId] = []
        self.pages: list[Span] = []

    def ask(self) -> tuple[Span, ...]:
        """The next spans to be described; none when everything was compared, or enough was."""
        room = min(MAX_SPANS, MAX_ASKED - self.spans, len(self._waiting))
        self._asked = [self._waiting.popleft() for _ in range(max(0, room))]
        self.spans += len(self._asked)
        return tuple(span for span, _ in self._asked)

    def heard(self, described: Sequence[Described]) -> None:
        """What the neighbour holds in the spans last asked for. Raises PeerFault for what describes none of them."""
        if len(described) != len(self._asked):
            raise PeerFault(f"{len(described)} spans described where {len(self._asked)} were asked for")
        for (span, depth), told in zip(self._asked, described, strict=True):
            if told.parts and told.items:
                raise PeerFault("a span in parts and in offers")
            _check_items(span, told.items)
            lacking = (item.seller for item in told.items if not self._own.holds(item))
            self.lacking += list(lacking)[: MAX_LACKING - len(self.lacking)]
            for sub, theirs in _subspans(span, told.parts):
                self._compare(sub, theirs, depth + 1)
        self._asked = []

    def _compare(self, span: Span, theirs: Part, depth: int) -> None:
        ours = self._own.part(span)
        if not theirs.offers or ours.sum == theirs.sum:
            return
        if not ours.offers or (theirs.offers > MAX_ITEMS and 2 * ours.offers < theirs.offers):
            self.pages.append(span)
        elif depth < MAX_DEPTH:
            self._waiting.append((span, depth))


def within(span: Span, seller: PeerId) -> bool:
    """Whether a seller belongs to a span."""
    return (span.after is None or span.after < seller) and (span.until is None or seller <= span.until)


def joined(spans: Iterable[Span]) -> list[Span]:
    """The same sellers in as few spans, in order: those that touch become one."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda span: span.after or b""):
        if found and found[-1].until is not None and found[-1].until == span.after:
            found[-1] = Span(found[-1].after, span.until)
        else:
            found.append(span)
    return found


def _check_items(span: Span, items: Sequence[Item]) -> None:
    if not all(within(span, item.seller) for item in items):
        raise PeerFault("an offer outside its span")
    if any(one.seller >= two.seller for one, two in pairwise(items)):
        raise PeerFault("offers of a span out of order")


def _subspans(span: Span, parts: Sequence[Part]) -> Iterator[tuple[Span, Part]]:
    """The parts with their spans. Raises PeerFault unless they cover the span, in order, and no part is all of it."""
    if not parts:
        return
    if parts[-1].until != span.until or len(parts) < 2:
        raise PeerFault("parts that do not cover their span")
    after = span.after
    for part in parts[:-1]:
        rest = Span(after, span.until)
        if part.until is None or part.until == span.until or not within(rest, part.until):
            raise PeerFault("parts of a span out of order")
        yield Span(after, part.until), part
        after = part.until
    yield Span(after, span.until), parts[-1]
