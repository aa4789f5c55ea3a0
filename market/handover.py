"""HandOver: one session with a neighbour's book on ``/pasar/book/2``: take what we lack, believe nothing.

    little of our own        pages from the one end to the other, the next one asked for while this one is verified
    much of our own          sums, down to where the books differ; then pages of what is missing, or single offers

Every envelope is verified as if it had been gossiped, a few at a time, so that the event loop goes on. Where the
neighbour speaks ``/pasar/book/1`` only, its one bounded list is taken. Knows no schedule.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import trio

from market.book import OrderBook, open_offer
from market.bookserver import PAGE_TIMEOUT_S, fill
from market.bookwire import MAX_WANTED, PAGE, BookAsk, BookPage, Page, Span, SpanAsk, Sums, SumsAsk, Want
from market.hello import Greeter
from market.offer import Offer
from market.protocol import BOOK, BOOK_1
from market.reconcile import WHOLE, Descent, Snapshot, joined, within
from p2p.codec import decode_as
from p2p.envelope import Signed
from p2p.errors import PasarError, PeerFault, Unavailable, UnknownMessage
from p2p.peer import PeerId
from p2p.stream import MessageStream
from p2p.transport import Network

MAX_HANDED_OVER = 3_000  # in one list; above it the books are compared
MAX_TAKEN = 16_384  # envelopes of one session, good or not
LITTLE = 32  # offers of our own, up to which a list costs less than sums
BREATH = 8  # envelopes between two breaths: about a millisecond

T = TypeVar("T")


class Taker(Protocol):
    """Whoever keeps what a hand-over brings; ``market/bookfeed.py`` is one."""

    @property
    def book(self) -> OrderBook:
        """What it has already."""
        ...

    def take(self, offer: Offer, envelope: Signed) -> bool:
        """Keep an offer whose signature was checked, if it is good here; whether it was new."""
        ...

    def told(self, pipeline: str) -> None:
        """A few more offers of a pipeline were taken."""
        ...


async def hand_over(network: Network, greeter: Greeter, peer: PeerId, taker: Taker, pipelines: Iterable[str]) -> int:
    """Take what we lack of a connected neighbour's book; how many offers were new and good.

    Raises Unavailable, Refused, PeerFault; what was taken before that stays.
    """
    taken = 0
    for pipeline in pipelines:  # a stream each: sums are of one pipeline
        stream, version = await open_books(network, greeter, peer)
        async with stream:
            session = HandOver(stream, pipeline, taker)
            await (session.run() if version > 1 else session.run_1())
            taken += session.taken
    return taken


async def open_books(network: Network, greeter: Greeter, peer: PeerId) -> tuple[MessageStream, int]:
    """A greeted book stream of the newest version the neighbour speaks, and which. Raises Unavailable, Refused."""
    try:
        raw, version = await network.open(peer, BOOK), 2
    except Unavailable:
        raw, version = await network.open(peer, BOOK_1), 1
    stream = MessageStream(raw)
    try:
        await greeter.greet(stream)
    except BaseException:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await stream.reset()
        raise
    return stream, version


class HandOver:
    """One pipeline of one session. ``taken`` counts what was new and good, ``seen`` all envelopes that came."""

    def __init__(self, stream: MessageStream, pipeline: str, taker: Taker) -> None:
        self._stream, self._pipeline, self._taker = stream, pipeline, taker
        self.taken = self.seen = 0

    async def run(self) -> None:
        """Everything that the neighbour has and we lack, within bounds. Raises Unavailable, PeerFault."""
        whole = False
        if len(self._taker.book.sellers(self._pipeline, None, LITTLE + 1)) <= LITTLE:
            whole = await self.pages(WHOLE, MAX_HANDED_OVER)
        if not whole:
            await self._compare()

    async def run_1(self) -> None:
        """The one list of version 1, in which what is wrong is passed over."""
        after: PeerId | None = None
        while self.seen < MAX_HANDED_OVER:
            page = await self._ask(BookAsk(self._pipeline, after, PAGE), BookPage)
            for envelope in page.offers:
                with suppress(PeerFault):
                    await self._verify((envelope,), WHOLE)
            last = _last_seller(page.offers)
            if len(page.offers) < PAGE or last is None or (after is not None and last <= after):
                break
            after = last

    async def pages(self, span: Span, most: int = MAX_TAKEN) -> bool:
        """The offers of a span, page by page, at most ``most``; whether that was all of them."""
        most = min(self.seen + most, MAX_TAKEN)
        await self._stream.send(SpanAsk(self._pipeline, span))
        while True:
            page = await self._receive(Page)
            here = span if page.last is None else Span(span.after, page.last)
            if page.last is not None and not (page.offers and within(span, page.last)):
                raise PeerFault("a page that does not come to an end")
            more = page.last is not None and self.seen + len(page.offers) < most
            if more:  # on its way while this one is verified
                span = Span(page.last, span.until)
                await self._stream.send(SpanAsk(self._pipeline, span))
            await self._verify(page.offers, here)
            if not more:
                return page.last is None

    async def _compare(self) -> None:
        told = await self._ask(SumsAsk(self._pipeline, (WHOLE,)), Sums)
        salt, own = told.salt, Snapshot(told.salt)
        await fill(own, self._taker.book, self._pipeline)
        descent = Descent(own)
        descent.ask()
        descent.heard(told.spans)
        while spans := descent.ask():
            told = await self._ask(SumsAsk(self._pipeline, spans), Sums)
            if told.salt != salt:
                raise PeerFault("sums under another salt in the same session")
            descent.heard(told.spans)
        for span in joined(descent.pages):
            if self.seen < MAX_TAKEN:
                await self.pages(span)
        await self._single(descent.lacking)

    async def _single(self, sellers: list[PeerId]) -> None:
        """The offers of these sellers, as many in a page as fit."""
        while sellers and self.seen < MAX_TAKEN:
            wanted, sellers = tuple(sorted(set(sellers[:MAX_WANTED]))), sellers[MAX_WANTED:]
            page = await self._ask(Want(self._pipeline, wanted), Page)
            await self._verify(page.offers, WHOLE, frozenset(wanted))
            if page.last is not None and page.offers:
                sellers = [*wanted[bisect_right(wanted, page.last) :], *sellers]

    async def _verify(self, offers: Sequence[Signed], span: Span, wanted: Set[PeerId] | None = None) -> None:
        """Take what is good. Raises PeerFault for what no neighbour that verifies could have."""
        for envelope in offers:
            self.seen += 1
            if self._taker.book.holds(envelope):
                continue
            if not self.seen % BREATH:
                await trio.lowlevel.checkpoint()
            try:
                offer = open_offer(envelope)
            except UnknownMessage:
                continue
            if offer.pipeline != self._pipeline or not within(span, offer.seller):
                raise PeerFault("an offer that was not asked for")
            if wanted is not None and offer.seller not in wanted:
                raise PeerFault("an offer that was not asked for")
            self.taken += self._taker.take(offer, envelope)
        self._taker.told(self._pipeline)

    async def _ask(self, ask: Any, kind: type[T]) -> T:
        await self._stream.send(ask)
        return await self._receive(kind)

    async def _receive(self, kind: type[T]) -> T:
        said = await self._stream.receive(timeout=PAGE_TIMEOUT_S)
        if said is None:
            raise Unavailable("the neighbour did not hand its book over")
        if not isinstance(said, kind):
            raise PeerFault(f"{type(said).__name__} where {kind.__name__} belongs")
        return said


def _last_seller(envelopes: Sequence[Signed]) -> PeerId | None:
    """Who wrote the last envelope of a page; None when that cannot be read, which ends the asking."""
    if not envelopes:
        return None
    try:
        return decode_as(Offer, envelopes[-1].payload).seller
    except PasarError:
        return None
