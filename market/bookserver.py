"""BookServer: hands our book to whoever asks on ``/pasar/book/1`` and ``/pasar/book/2``, within bounds.

Pages are read from the book at the moment of the answer. Sums are of one moment for a whole session, so that they stay
true to each other, and of the same moment for all sessions that begin within some seconds: they are dear. Knows no
asker's side.
"""

from __future__ import annotations

import secrets
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
MOMENT_S = 10.0  # how long the sums of one moment are told to whoever begins
SESSION_S = 60.0  # of one stream, so that few moments are kept
SLICE = 256  # offers between two breaths: about half a millisecond


@dataclass(frozen=True, slots=True)
class _Moment:
    """The sums of one pipeline at one moment, under a salt of their own."""

    salt: bytes
    sums: Snapshot
    at: float


class BookServer:
    """Sums are taken at most once in ``MOMENT_S`` for each pipeline; a page is never longer than a frame."""

    def __init__(self, network: Network, greeter: Greeter, book: OrderBook) -> None:
        self._network, self._greeter, self._book = network, greeter, book
        self._asks = RateLimit(PAGES_PER_SECOND, PAGES_BURST)
        self._moments: dict[str, _Moment] = {}
        self._taking = trio.Lock()

    def serve(self) -> None:
        """Answer from now on."""
        self._network.serve(BOOK, self._accept)
        self._network.serve(BOOK_1, self._accept)

    async def _accept(self, raw: Stream) -> None:
        stream, session = MessageStream(raw), _Session()
        try:
            await self._greeter.greet(stream)
            with trio.move_on_after(SESSION_S):
                while (ask := await stream.receive(timeout=PAGE_TIMEOUT_S)) is not None:
                    await stream.send(await self._answer(raw.peer, session, ask))
            await stream.aclose()
        except (Refused, Unavailable) as exc:
            log.debug("book hand-over ended", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()

    async def _answer(self, peer: PeerId, session: _Session, ask: object) -> object:
        if not self._asks.allow(peer, trio.current_time()):
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
                if session.moment is None:
                    session.pipeline, session.moment = ask.pipeline, await self._moment(ask.pipeline)
                return session.describe(ask)
        raise PeerFault(f"{type(ask).__name__} on a book stream")

    async def _moment(self, pipeline: str) -> _Moment:
        """The sums of now, or of a little while ago."""
        async with self._taking:
            known, now = self._moments.get(pipeline), trio.current_time()
            if known is not None and now - known.at <= MOMENT_S:
                return known
            salt = secrets.token_bytes(16)
            moment = _Moment(salt, Snapshot(salt), now)
            await fill(moment.sums, self._book, pipeline)
            self._moments = {name: one for name, one in self._moments.items() if now - one.at <= MOMENT_S}
            if len(moment.sums):
                self._moments[pipeline] = moment
            return moment

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
    """One stream, and the sums that it is told: of one pipeline and one moment."""

    pipeline: str = ""
    moment: _Moment | None = None

    def describe(self, ask: SumsAsk) -> Sums:
        if self.moment is None or ask.pipeline != self.pipeline:
            raise PeerFault("sums of two pipelines in one stream")
        return Sums(self.moment.salt, tuple(self.moment.sums.describe(span) for span in ask.spans))


async def fill(snapshot: Snapshot, book: OrderBook, pipeline: str) -> None:
    """Take the book as it is, with a breath now and then: the event loop is everybody's."""
    for number, seller in enumerate(book.sellers(pipeline), 1):
        envelope = book.envelope(seller, pipeline)
        if envelope is not None:
            snapshot.add(seller, envelope.payload)
        if not number % SLICE:
            await trio.lowlevel.checkpoint()
