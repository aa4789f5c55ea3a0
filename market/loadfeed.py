"""LoadFeed: the gateway's end of ``/pasar/load/1``: follows the sellers it may use, and knows how busy they are now.

    book, reputation -> following.choose -> one stream per seller -> LoadBoard -> views of the prefilter

A stream that breaks, falls silent or breaks a rule is opened again later, each time later; ``met`` hears of each seller
that answers on one. Whoever opens such a stream to us gets what we heard, once. What a Load means for an auction is the
business of scoring.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from compute.spec import JobShape
from ledger.money import Settlement
from market.bookfeed import BookFeed
from market.controls import Reach
from market.conversation import now_ms
from market.following import MODELS, choose, models, ranked
from market.hello import Greeter
from market.loads import GAP_MS, STALE_MS, LoadAsk, LoadBoard, LoadsHeard
from market.offer import Load
from market.protocol import LOAD
from market.reputation import Reputation
from market.scoring import Chance
from p2p.admission import RateLimit
from p2p.errors import PasarError, PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.stream import MessageStream
from p2p.transport import Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

CHOOSE_S, CHOOSE_AT_LEAST_S = 1.0, 10.0  # how often whom to follow is thought over
BACK_OFF_S, MAX_BACK_OFF_S = 1.0, 60.0
TRIES, ASIDE_MS, MAX_ASIDE = 3, 600_000, 4096  # in vain, and the place is another seller's for so long
STEADY_S = 30.0  # a stream that lasted so long begins with the shortest back-off again
OPENING, OPEN_S = 8, 10.0  # streams that are being opened at once, and how long each may take
MET = 1024  # sellers with a record that are looked at
# Loads of one stream. What left five a second is read all at once by a machine that stood still for two minutes, and
# no seller is to blame for that.
PER_SECOND, BURST = 2 * 1000 / GAP_MS, 600.0
ASKS_PER_SECOND, ASKS_BURST = 1.0, 10.0  # of one peer that wants to hear what we heard
ASK_S = 10.0


@dataclass(slots=True)
class _Followed:
    """One seller we follow: which pipelines, and what wakes a back-off early."""

    pipelines: tuple[str, ...]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    connected: trio.Event = field(default_factory=trio.Event)
    loads: int = 0  # that were heard


class LoadFeed:
    """At most one stream per seller, for at most ``CAP`` sellers of each pipeline."""

    def __init__(
        self,
        network: Network,
        greeter: Greeter,
        reach: Reach,
        feed: BookFeed,
        reputation: Reputation,
        settlement: Settlement,
        chance: Chance,
        salt: bytes,
        met: Callable[[PeerId], None] = lambda seller: None,
    ) -> None:
        self._network, self._greeter, self._reach, self._feed = network, greeter, reach, feed
        self._reputation, self._settlement, self._chance, self._salt = reputation, settlement, chance, salt
        self._met = met
        self.board = LoadBoard()
        self._followed: dict[PeerId, _Followed] = {}
        self._wanted: dict[str, OrderedDict[bytes, None]] = {}
        self._aside: dict[PeerId, int] = {}
        self._told = (0, 0)
        self._offers_changed = trio.Event()
        self._opening = trio.Semaphore(OPENING)
        self._asks = RateLimit(ASKS_PER_SECOND, ASKS_BURST)

    def loads(self, shape: JobShape) -> dict[PeerId, Load]:
        """Every fresh Load for a job of this shape; that there is such a job decides whom to follow, too."""
        wanted = self._wanted.setdefault(shape.pipeline, OrderedDict()) if self._is_kept(shape) else OrderedDict()
        wanted[shape.model] = None
        wanted.move_to_end(shape.model)
        if len(wanted) > MODELS:
            wanted.popitem(last=False)
        return self.board.loads(shape.pipeline, now_ms())

    def followed(self) -> frozenset[PeerId]:
        """Whose Loads we ask for."""
        return frozenset(self._followed)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled."""
        self._network.serve(LOAD, self._accept)
        async with trio.open_nursery() as nursery, self._network.subscribe_peers() as changes:
            nursery.start_soon(self._choose_again, nursery)
            nursery.start_soon(self._hear_of_offers)
            task_status.started()
            async for change in changes:
                known = self._followed.get(change.peer)
                if change.connected and known is not None:
                    known.connected.set()
                elif change.connected and change.peer in self._aside:
                    del self._aside[change.peer]
                    self._offers_changed.set()

    # -- whom to follow ----------------------------------------------------------------------------------------------

    async def _choose_again(self, nursery: trio.Nursery) -> None:
        while True:
            self._offers_changed = trio.Event()
            self._choose(nursery)
            await trio.sleep(CHOOSE_S)
            with trio.move_on_after(CHOOSE_AT_LEAST_S - CHOOSE_S):
                await self._offers_changed.wait()

    async def _hear_of_offers(self) -> None:
        while True:
            await self._feed.changed()
            self._offers_changed.set()

    def _choose(self, nursery: trio.Nursery) -> None:
        now = now_ms()
        self._aside = {seller: until for seller, until in self._aside.items() if until > now}
        views = {seller: self._reputation.view(seller, now) for seller in self._reputation.recent(MET)}
        chosen: dict[PeerId, list[str]] = {}
        for pipeline in self._feed.pipelines:
            book, wanted = self._feed.book, reversed(self._wanted.get(pipeline, OrderedDict()))
            on_offer = models(book, pipeline, self._settlement, wanted)
            rankings = [ranked(book, pipeline, self._settlement, model, views, self._aside) for model in on_offer]
            for seller in choose(rankings, self._followed.keys(), self._salt):
                chosen.setdefault(seller, []).append(pipeline)
        for seller, known in tuple(self._followed.items()):
            if tuple(chosen.get(seller, ())) != known.pipelines:
                self._leave(seller)
        for seller, pipelines in chosen.items():
            if seller not in self._followed and seller != self._network.peer:
                followed = self._followed[seller] = _Followed(tuple(pipelines))
                nursery.start_soon(self._keep, seller, followed)
        told = len(self._followed), sum(1 for known in self._followed.values() if known.loads)
        if told != self._told:
            self._told = told
            log.info("following loads", sellers=told[0], heard=told[1])

    def _leave(self, seller: PeerId) -> None:
        self._followed.pop(seller).scope.cancel()
        self.board.forget(seller)

    # -- one stream --------------------------------------------------------------------------------------------------

    async def _keep(self, seller: PeerId, followed: _Followed) -> None:
        """Keep a stream with this seller until it is followed no more."""
        back_off, in_vain = BACK_OFF_S, 0
        with followed.scope:
            while True:
                began, before = trio.current_time(), followed.loads
                reason = await self._until_lost(seller, followed)
                in_vain = in_vain + 1 if followed.loads == before else 0
                if self._reputation.view(seller, now_ms()).banned:
                    back_off = MAX_BACK_OFF_S  # the next choice leaves it out
                    self._offers_changed.set()
                elif in_vain >= TRIES and len(self._aside) < MAX_ASIDE:
                    self._aside[seller] = now_ms() + ASIDE_MS
                    self._offers_changed.set()
                elif trio.current_time() - began >= STEADY_S:
                    back_off = BACK_OFF_S
                log.debug("load stream lost", seller=peer_text(seller), reason=reason, again_in_s=back_off)
                followed.connected = trio.Event()
                with trio.move_on_after(back_off * (500 + self._chance.randrange(1000)) / 1000):
                    await followed.connected.wait()
                    await trio.sleep(BACK_OFF_S / 2)  # a connection that comes and goes is no reason to hurry
                back_off = min(MAX_BACK_OFF_S, 2 * back_off)

    async def _until_lost(self, seller: PeerId, followed: _Followed) -> str:
        """Open a stream and listen; why it ended."""
        try:
            async with await self._open(seller) as stream:
                await self._listen(stream, followed)
        except PeerFault as fault:
            log.warning("a fault in a load", seller=peer_text(seller), reason=str(fault))
            self._reputation.fault(seller, now_ms())
            return str(fault)
        except PasarError as exc:
            return str(exc)
        return "closed"

    async def _open(self, seller: PeerId) -> MessageStream:
        async with self._opening:
            with trio.move_on_after(OPEN_S):
                await self._reach(seller)
                return MessageStream(await self._network.open(seller, LOAD))
        raise Unavailable("not reached in time")

    async def _listen(self, stream: MessageStream, followed: _Followed) -> None:
        """Take Loads until the stream ends or falls silent. Raises Unavailable, PeerFault."""
        await self._greeter.say(stream, LoadAsk(followed.pipelines))
        await self._greeter.hear(stream)
        self.board.begin(stream.peer)
        self._met(stream.peer)
        rate = RateLimit(PER_SECOND * len(followed.pipelines), BURST * len(followed.pipelines))
        while (said := await stream.receive(timeout=STALE_MS / 1000)) is not None:
            if not isinstance(said, Load):
                raise PeerFault(f"{type(said).__name__} on a load stream")
            if said.pipeline not in followed.pipelines:
                raise PeerFault("a Load of a pipeline that was not asked for")
            if not rate.allow(stream.peer, trio.current_time()):
                raise PeerFault("more Loads than five a second")
            self._take(stream.peer, said, followed)

    def _take(self, seller: PeerId, load: Load, followed: _Followed) -> None:
        if self._feed.book.posting(seller, load.pipeline) is None:
            self.board.forget(seller)  # withdrawn or over, and the next choice leaves it out
            return
        before = self.board.of(seller, load.pipeline, now_ms())
        if not self.board.heard(seller, load, now_ms()):
            raise PeerFault("a Load whose number is not above the last one")
        followed.loads += 1
        log.debug("load heard", seller=peer_text(seller), free=load.free, queue=load.queue, warm=len(load.warm))
        if followed.loads == 1:
            self._offers_changed.set()  # it is worth a line that one more is heard
        if load.free:
            self._reputation.load_arrived(seller)
            if before is None or not before.free:
                self._feed.stir()  # a bid that waits for a place may have one

    # -- whoever asks us ---------------------------------------------------------------------------------------------

    async def _accept(self, raw: Stream) -> None:
        """Tell what we heard, once: somebody wants to look at the market."""
        stream = MessageStream(raw)
        try:
            await self._greeter.greet(stream)
            ask = await stream.receive(timeout=ASK_S)
            if not isinstance(ask, LoadAsk):
                raise PeerFault(f"{type(ask).__name__} on a load stream")
            if not self._asks.allow(raw.peer, trio.current_time()):
                raise Refused("TOO_MANY", "once, and then left alone")
            await stream.send(self.board.hearsay(ask.pipelines, now_ms()))
            await stream.aclose()
        except (Refused, Unavailable) as exc:
            log.debug("not told of loads", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()

    def _is_kept(self, shape: JobShape) -> bool:
        return shape.pipeline in self._feed.pipelines


async def ask_loads(network: Network, greeter: Greeter, gateway: PeerId, pipelines: tuple[str, ...]) -> LoadsHeard:
    """What a connected gateway has heard of these pipelines. Raises Unavailable, Refused, PeerFault."""
    async with MessageStream(await network.open(gateway, LOAD)) as stream:
        await greeter.greet(stream)
        await stream.send(LoadAsk(pipelines))
        heard = await stream.receive(timeout=ASK_S)
    if not isinstance(heard, LoadsHeard):
        raise Unavailable("no gateway that says what it heard")
    return heard
