"""BookFeed: keeps an order book from gossip, and whole by what neighbours hand over.

The book judges what arrives; this shell brings it there: from the topics, from the first neighbours as soon as they are
connected, and from a few of them every minute, because gossip promises nothing. A neighbour is not trusted: every
envelope is verified. It also expires what is over, and wakes whoever waits for a change. Knows no auction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog
import trio

from market.book import OrderBook
from market.bookserver import BookServer
from market.handover import hand_over
from market.hello import Greeter
from market.neighbours import Neighbours
from market.offer import Offer
from market.protocol import offers_topic
from p2p.envelope import Signed
from p2p.errors import PasarError, PeerFault, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.transport import Gossip, Network, Verdict

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

TAKE_OVER_S = 30.0  # for a neighbour's whole book, however slowly it pages
HEDGE_S, HEDGE_OFFERS = 1.0, 100  # the next neighbour is asked, too, when the first gives fewer in so long
LOOK_S = 0.5  # for a neighbour to ask, while nobody has handed a book over
RECONCILE_S, NEIGHBOURS = 60.0, 2  # in so long, so many of them are compared with
MOST_ASKED = 4  # at the same time
EXPIRE_EVERY_S = 5.0


class BookFeed:
    """The book never holds an offer whose signature and bounds were not checked here or in gossip.

    ``caught_up`` is set when the first neighbour has handed its book over.
    """

    def __init__(
        self,
        network: Network,
        gossip: Gossip,
        greeter: Greeter,
        pipelines: Iterable[str],
        wall_time: Callable[[], float],
    ) -> None:
        self._book = OrderBook(greeter.network)
        self._network, self._gossip, self._greeter = network, gossip, greeter
        self.pipelines = tuple(pipelines)
        self._wall_time = wall_time
        self._changed = trio.Event()
        self._known: dict[str, int] = {}
        self._taken = 0
        self._neighbours = Neighbours()
        self._asking: set[PeerId] = set()
        self.caught_up = trio.Event()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: every topic is joined and newcomers are served."""
        BookServer(self._network, self._greeter, self.book).serve()
        for pipeline in self.pipelines:
            await self._gossip.join(offers_topic(self._greeter.network, pipeline), self._judge(pipeline))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_whole, nursery)
            task_status.started()
            while True:
                await trio.sleep(EXPIRE_EVERY_S)
                self.book.expire(self.now())

    @property
    def book(self) -> OrderBook:
        """What is known of the market."""
        return self._book

    def now(self) -> int:
        """The calendar in seconds, as offers count it."""
        return int(self._wall_time())

    async def changed(self) -> None:
        """Wait until an offer was accepted, or a place came free."""
        await self._changed.wait()

    def stir(self) -> None:
        """Wake whoever waits for a change: an offer, or a place that a Load says is free."""
        self._changed.set()
        self._changed = trio.Event()

    def post(self, data: bytes, pipeline: str) -> Verdict:
        """Let the book judge an envelope off the wire, and wake whoever waits when it is taken."""
        verdict = self.book.judge(data, self.now(), pipeline)
        if verdict is Verdict.ACCEPT:
            self.told(pipeline)
        return verdict

    def take(self, offer: Offer, envelope: Signed) -> bool:
        """Keep an offer whose signature was checked, if it is good here; whether it was new. Wakes nobody."""
        accepted = self.book.post(offer, envelope, self.now()) is Verdict.ACCEPT
        self._taken += accepted
        return accepted

    def told(self, pipeline: str) -> None:
        """Offers of a pipeline were taken: wake whoever waits, and log how many there are."""
        if (offers := self.book.known(pipeline)) != self._known.get(pipeline, 0):
            self._known[pipeline] = offers
            log.info("offers known", pipeline=pipeline, offers=offers)
        self.stir()

    def _judge(self, pipeline: str) -> Callable[[PeerId, bytes], Verdict]:
        def judge(_: PeerId, data: bytes) -> Verdict:
            return self.post(data, pipeline)

        return judge

    # -- neighbours --------------------------------------------------------------------------------------------------

    async def take_over(self, peer: PeerId) -> int:
        """Take what we lack of a connected neighbour's book; how many offers were new and good.

        Raises Unavailable, Refused, PeerFault; what was taken before that stays.
        """
        began = trio.current_time()
        with trio.move_on_after(TAKE_OVER_S):
            taken = await hand_over(self._network, self._greeter, peer, self, self.pipelines)
            took = int((trio.current_time() - began) * 1000)
            log.info("book taken over", neighbour=peer_text(peer), offers=taken, took_ms=took)
            return taken
        raise Unavailable("the neighbour took too long to hand its book over")

    async def _keep_whole(self, nursery: trio.Nursery) -> None:
        """The whole book from whoever is connected first; then what gossip lost, from a few neighbours now and then."""
        while not self.caught_up.is_set():
            async with self._network.subscribe_peers() as changes:
                done = self._ask_next(nursery)
                if done is not None:
                    await self._done_or_slow(done)
                else:
                    with trio.move_on_after(LOOK_S):
                        await changes.receive()
        while True:
            await trio.sleep(RECONCILE_S / NEIGHBOURS)
            self._ask_next(nursery)

    async def _done_or_slow(self, done: trio.Event) -> None:
        """Wait for a session as long as it brings what a busy machine can verify."""
        before = -HEDGE_OFFERS
        while not done.is_set() and self._taken - before >= HEDGE_OFFERS:
            before = self._taken
            with trio.move_on_after(HEDGE_S):
                await done.wait()

    def _ask_next(self, nursery: trio.Nursery) -> trio.Event | None:
        """Ask the neighbour that was not asked for longest; set when it gave what it had. None: nobody is there."""
        free = self._network.connected() - self._asking
        peer = self._neighbours.next(free, trio.current_time()) if len(self._asking) < MOST_ASKED else None
        if peer is None:
            return None
        done = trio.Event()
        self._asking.add(peer)
        nursery.start_soon(self._take_quietly, peer, done)
        return done

    async def _take_quietly(self, peer: PeerId, done: trio.Event) -> None:
        try:
            await self.take_over(peer)
            self._neighbours.gave(peer)
            self.caught_up.set()
        except PeerFault as fault:
            log.warning("a fault in a book", neighbour=peer_text(peer), reason=str(fault))
            self._neighbours.set_aside(peer, trio.current_time(), fault=True)
        except PasarError as exc:
            log.debug("a neighbour's book was not to be had", peer=peer_text(peer), reason=str(exc))
            self._neighbours.set_aside(peer, trio.current_time())
        finally:
            self._asking.discard(peer)
            done.set()
