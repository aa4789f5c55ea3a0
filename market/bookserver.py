"""BookServer: hands our book to whoever asks on ``/pasar/book/1`` and ``/pasar/book/2``, within bounds.

Everything is read from the book at the moment of the answer; only the sums of one session are of one moment, so that
they stay true to each other. Knows no asker's side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog
import trio

from market.book import OrderBook
from market.bookwire import MAX_PAGE, PAGE_BYTES, BookAsk, BookPage, Page, SpanAsk, Sums, SumsAsk, Want
from market.hello import Greeter
from market.protocol import BOOK, BOOK_1
from market.reconcile import Snapshot, within
from p2p.admission import RateLimit
from p2p.envelope import Signed
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.stream import MessageStream
from p2p.transport import Network, Stream

log = structlog.get_logger(__name__)

PAGE_TIMEOUT_S = 10.0
PAGES_PER_SECOND, PAGES_BURST = 10.0, 200.0  # that one neighbour may ask for
SNAPSHOT_COST = 10.0  # pages
SNAPSHOTS = 4  # sessions with sums at the same time
SLICE = 256  # offers between two breaths: about half a millisecond


class BookServer:
    """At most ``SNAPSHOTS`` sessions hold sums; a page is never longer than a frame."""

    def __init__(self, network: Network, greeter: Greeter, book: OrderBook) -> None:
        self._network, self._greeter, self._book = network, greeter, book
        self._asks = RateLimit(PAGES_PER_SECOND, PAGES_BURST)
        self._snapshots = 0

    def serve(self) -> None:
        """Answer from now on."""
        self._network.serve(BOOK, self._accept)
        self._network.serve(BOOK_1, self._accept)

    async def _accept(self, raw: Stream) -> None:
        stream, session = MessageStream(raw), _Session()
        try:
            await self._greeter.greet(stream)
            while (ask := await stream.receive(timeout=PAGE_TIMEOUT_S)) is not None:
                await stream.send(await self._answer(raw.peer, session, ask))
            await stream.aclose()
        except (Refused, Unavailable) as exc:
            log.debug("book hand-over ended", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()
        finally:
            self._snapshots -= session.snapshot is not None

    async def _answer(self, peer: PeerId, session: _Session, ask: object) -> object:
        fresh = isinstance(ask, SumsAsk) and session.snapshot is None
        if not self._asks.allow(peer, trio.current_time(), SNAPSHOT_COST if fresh else 1.0):
            raise Refused("TOO_MANY", "a book is asked for page by page, and then left alone")
        match ask:
            case BookAsk():
                return BookPage(self._book.page(ask.pipeline, ask.after, ask.most))
            case SpanAsk():
                sellers = (one for one in self._book.sellers(ask.pipeline, ask.span.after) if within(ask.span, one))
                return self._page(ask.pipeline, sellers)
            case Want():
                return self._page(ask.pipeline, sorted(set(ask.sellers)))
            case SumsAsk():
                if fresh:
                    await self._begin(session, ask)
                return session.describe(ask)
        raise PeerFault(f"{type(ask).__name__} on a book stream")

    async def _begin(self, session: _Session, ask: SumsAsk) -> None:
        if self._snapshots >= SNAPSHOTS:
            raise Refused("TOO_MANY", "others are being told sums now")
        self._snapshots += 1
        session.pipeline, session.salt, session.snapshot = ask.pipeline, ask.salt, Snapshot(ask.salt)
        await fill(session.snapshot, self._book, ask.pipeline)

    def _page(self, pipeline: str, sellers: Iterable[PeerId]) -> Page:
        offers: list[Signed] = []
        room, last = PAGE_BYTES, None
        for seller in sellers:
            envelope = self._book.envelope(seller, pipeline)
            if envelope is None:
                continue
            room -= len(envelope.payload) + 128
            if offers and (room < 0 or len(offers) == MAX_PAGE):
                return Page(tuple(offers), last)
            offers.append(envelope)
            last = seller
        return Page(tuple(offers), None)


@dataclass(slots=True)
class _Session:
    """One stream, and the sums that it was told: of one pipeline, under one salt."""

    pipeline: str = ""
    salt: bytes = b""
    snapshot: Snapshot | None = None

    def describe(self, ask: SumsAsk) -> Sums:
        if self.snapshot is None or (ask.pipeline, ask.salt) != (self.pipeline, self.salt):
            raise PeerFault("sums of two kinds in one stream")
        return Sums(tuple(self.snapshot.describe(span) for span in ask.spans))


async def fill(snapshot: Snapshot, book: OrderBook, pipeline: str) -> None:
    """Take the book as it is, with a breath now and then: the event loop is everybody's."""
    for number, seller in enumerate(book.sellers(pipeline), 1):
        envelope = book.envelope(seller, pipeline)
        if envelope is not None:
            snapshot.add(seller, envelope.payload)
        if not number % SLICE:
            await trio.lowlevel.checkpoint()
