"""BookFeed: keeps an order book from gossip, and hands it over to newcomers on ``/pasar/book/1``.

The book judges what arrives; this shell brings it there from the topics and from a neighbour's hand-over, expires what
is over, and wakes whoever waits for a change. A neighbour is not trusted: every envelope of a page is verified as if
it had been gossiped. Knows no auction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import structlog
import trio

from market.book import OrderBook
from market.hello import Greeter
from market.offer import Offer
from market.protocol import BOOK, offers_topic
from p2p.admission import RateLimit
from p2p.codec import Name, Range, Size, encode, message
from p2p.envelope import Signed, open_signed
from p2p.errors import PasarError, PeerFault, Refused, Unavailable
from p2p.peer import PeerId, WirePeer, peer_text
from p2p.stream import MessageStream
from p2p.transport import Gossip, Network, Stream, Verdict

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

PAGE = 32  # envelopes of at most 4 KiB each: half a control frame
MAX_HANDED_OVER = 3_000  # one list, bounded; above it two neighbours will have to reconcile
PAGE_TIMEOUT_S = 10.0
TAKE_OVER_S = 30.0  # for a neighbour's whole book, however slowly it pages
PAGES_PER_SECOND, PAGES_BURST = 10.0, 200.0  # that one neighbour may ask for
EXPIRE_EVERY_S = 5.0


@message("book-ask", 1)
@dataclass(frozen=True, slots=True)
class BookAsk:
    """Offers of ``pipeline`` by sellers whose id comes after ``after``, in that order; at most ``most``."""

    pipeline: Name
    after: WirePeer | None
    most: Annotated[int, Range(1, PAGE)]


@message("book-page", 1)
@dataclass(frozen=True, slots=True)
class BookPage:
    """Envelopes as they were gossiped. A page shorter than asked for is the last."""

    offers: Annotated[tuple[Signed, ...], Size(0, PAGE)]


class BookFeed:
    """The book never holds an offer whose signature and bounds were not checked here or in gossip."""

    def __init__(
        self,
        network: Network,
        gossip: Gossip,
        greeter: Greeter,
        pipelines: Iterable[str],
        wall_time: Callable[[], float],
    ) -> None:
        self.book = OrderBook(greeter.network)
        self._network, self._gossip, self._greeter = network, gossip, greeter
        self.pipelines = tuple(pipelines)
        self._wall_time = wall_time
        self._changed = trio.Event()
        self._asks = RateLimit(PAGES_PER_SECOND, PAGES_BURST)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: every topic is joined and newcomers are served."""
        self._network.serve(BOOK, self._hand_over)
        for pipeline in self.pipelines:
            await self._gossip.join(offers_topic(self._greeter.network, pipeline), self._judge(pipeline))
        task_status.started()
        while True:
            await trio.sleep(EXPIRE_EVERY_S)
            self.book.expire(self.now())

    def now(self) -> int:
        """The calendar in seconds, as offers count it."""
        return int(self._wall_time())

    async def changed(self) -> None:
        """Wait until an offer was accepted, or a place came free."""
        await self._changed.wait()

    def post(self, data: bytes, pipeline: str) -> Verdict:
        """Let the book judge an envelope off the wire, and wake whoever waits when it is taken."""
        before = self.book.known(pipeline)
        verdict = self.book.judge(data, self.now(), pipeline)
        if (offers := self.book.known(pipeline)) != before:
            log.info("offers known", pipeline=pipeline, offers=offers)
        if verdict is Verdict.ACCEPT:
            self.stir()
        return verdict

    def stir(self) -> None:
        """Wake whoever waits for a change: an offer, or a place that a Load says is free."""
        self._changed.set()
        self._changed = trio.Event()

    def _judge(self, pipeline: str) -> Callable[[PeerId, bytes], Verdict]:
        def judge(_: PeerId, data: bytes) -> Verdict:
            return self.post(data, pipeline)

        return judge

    async def take_over(self, peer: PeerId) -> int:
        """Ask a connected neighbour for its book; how many of its offers were new and good.

        Raises Unavailable, Refused, PeerFault; what was taken before that stays.
        """
        with trio.move_on_after(TAKE_OVER_S):
            taken = 0
            async with MessageStream(await self._network.open(peer, BOOK)) as stream:
                await self._greeter.greet(stream)
                for pipeline in self.pipelines:
                    taken += await self._take_pipeline(stream, pipeline)
            log.info("book taken over", neighbour=peer_text(peer), offers=taken)
            return taken
        raise Unavailable("the neighbour took too long to hand its book over")

    async def _take_pipeline(self, stream: MessageStream, pipeline: str) -> int:
        taken, seen, after = 0, 0, None
        while seen < MAX_HANDED_OVER:
            envelopes = await ask_page(stream, pipeline, after)
            taken += sum(self.post(encode(envelope), pipeline) is Verdict.ACCEPT for envelope in envelopes)
            seen += len(envelopes)
            last = last_seller(envelopes)
            if len(envelopes) < PAGE or last is None or (after is not None and last <= after):
                break
            after = last
        return taken

    async def _hand_over(self, raw: Stream) -> None:
        stream = MessageStream(raw)
        try:
            await self._greeter.greet(stream)
            while (ask := await stream.receive(timeout=PAGE_TIMEOUT_S)) is not None:
                if not isinstance(ask, BookAsk):
                    raise PeerFault(f"{type(ask).__name__} on a book stream")
                if not self._asks.allow(raw.peer, trio.current_time()):
                    raise Refused("TOO_MANY", "a book is asked for page by page, and then left alone")
                await stream.send(BookPage(self.book.page(ask.pipeline, ask.after, ask.most)))
            await stream.aclose()
        except (Refused, Unavailable) as exc:
            log.debug("book hand-over ended", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()


async def ask_page(stream: MessageStream, pipeline: str, after: PeerId | None) -> tuple[Signed, ...]:
    """One page from whoever serves the other end. Raises Unavailable, PeerFault."""
    await stream.send(BookAsk(pipeline, after, PAGE))
    page = await stream.receive(timeout=PAGE_TIMEOUT_S)
    if not isinstance(page, BookPage):
        raise Unavailable("the neighbour did not hand its book over")
    return page.offers


def last_seller(envelopes: tuple[Signed, ...]) -> PeerId | None:
    """Who wrote the last envelope of a page; None when that cannot be read, which ends the asking."""
    if not envelopes:
        return None
    try:
        return open_signed(envelopes[-1], Offer)[1]
    except PasarError:
        return None
