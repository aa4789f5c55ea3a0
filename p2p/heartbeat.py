"""Heartbeat: asks every connected peer now and then whether it is there, answers its questions, drops the dead.

    heartbeat = Heartbeat(network, wall_time=time.time)
    await nursery.start(heartbeat.run)

One stream of ``/pasar/ping/1`` for each connection and direction, kept open; when to ask and when to close is
``p2p/pulse.py``'s. A peer that does not speak the protocol says so, and has answered by it. Whoever has something to do
after a sleep of this machine, or a change of its addresses, is told by ``woken``.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from typing import TYPE_CHECKING, Annotated, Protocol

import structlog
import trio

from p2p.admission import RateLimit
from p2p.codec import Size, message
from p2p.errors import PeerFault, Unavailable, Unspoken
from p2p.peer import PeerId, peer_text
from p2p.pulse import PING, Clocks, Pulse, Step
from p2p.scores import Fault, Scores
from p2p.stream import MessageStream
from p2p.transport import Link, Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

TICK = 1.0
FRAME = 64
IDLE = 60.0  # a stream of questions on which none came for so long is over
ASKS_PER_SECOND, ASKS_BURST = 0.5, 5.0
MAX_STREAMS_EACH = 2  # of a peer that asks us; it needs one

log = structlog.get_logger(__name__)

Nonce = Annotated[bytes, Size(16, 16)]


@message("ping", 1)
@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? The nonce is new in each."""

    nonce: Nonce


@message("pong", 1)
@dataclass(frozen=True, slots=True)
class Pong:
    """I am; with the nonce of the question."""

    nonce: Nonce


class ScoredNetwork(Network, Protocol):
    """A network that keeps scores of its peers."""

    scores: Scores


@dataclass(slots=True)
class _Watched:
    link: Link
    pulse: Pulse
    stream: MessageStream | None = None
    asking: trio.CancelScope | None = None


def _nobody_moves() -> object:
    return None


class Heartbeat:
    """Every connection is watched, at most one question each is open, and ``dropped`` counts those closed."""

    def __init__(
        self,
        network: ScoredNetwork,
        *,
        wall_time: Callable[[], float],
        place: Callable[[], object] = _nobody_moves,
        chance: Callable[[], float] = random,
        woken: Callable[[], None] = lambda: None,
        lost: Callable[[PeerId], None] = lambda peer: None,
    ) -> None:
        """``place``: whatever changes when this machine's addresses do. ``lost`` hears of each peer that is dropped."""
        self._network, self._wall_time, self._place, self._chance = network, wall_time, place, chance
        self._woken, self._lost = woken, lost
        self._watched: dict[PeerId, _Watched] = {}
        self._rate = RateLimit(ASKS_PER_SECOND, ASKS_BURST)
        self._answering: Counter[PeerId] = Counter()
        self._nursery: trio.Nursery | None = None
        self.dropped = 0

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        self._network.serve(PING, self._answer)
        async with self._network.subscribe_peers() as changes, trio.open_nursery() as self._nursery:
            for peer in self._network.connected():
                self._watch(peer)
            self._nursery.start_soon(self._beat, self._nursery)
            task_status.started()
            async for change in changes:
                if change.connected:
                    self._watch(change.peer)
                elif change.peer not in self._network.connected():
                    self._leave(change.peer)

    def suspect_all(self) -> None:
        """Assume every connection dead, and ask them all at once."""
        now = trio.current_time()
        for watched in self._watched.values():
            watched.pulse.suspect(now)
        self._woken()

    def _watch(self, peer: PeerId) -> None:
        """Begin with a connection; one that took the place of another begins anew."""
        link = self._network.link(peer)
        watched = self._watched.get(peer)
        if watched is not None and watched.link != link:
            self._leave(peer)
        if link is not None and peer not in self._watched:
            pulse = Pulse(trio.current_time(), dialled=link.dialled, chance=self._chance())
            self._watched[peer] = _Watched(link, pulse)

    def _leave(self, peer: PeerId) -> None:
        watched = self._watched.pop(peer, None)
        if watched is None:
            return
        if watched.asking is not None:
            watched.asking.cancel()
        if watched.stream is not None and self._nursery is not None:
            self._nursery.start_soon(_give_up, watched.stream)

    async def _beat(self, nursery: trio.Nursery) -> None:
        clocks, place = Clocks(trio.current_time(), self._wall_time()), self._place()
        while True:
            await trio.sleep(TICK)
            moved = (now_place := self._place()) != place
            if clocks.jumped(trio.current_time(), self._wall_time()) or moved:
                log.info("connections suspected", reason="our addresses changed" if moved else "the clock jumped")
                place = now_place
                self.suspect_all()
            # Not the changes alone: a connection that is replaced within a moment is no change to anybody else.
            for peer in {*self._watched, *self._network.connected()}:
                self._watch(peer)
                if peer in self._watched:
                    self._look(peer, self._watched[peer], nursery)

    def _look(self, peer: PeerId, watched: _Watched, nursery: trio.Nursery) -> None:
        step = watched.pulse.look(trio.current_time())
        if step is Step.ASK:
            if watched.asking is not None:
                watched.asking.cancel()
            watched.asking = trio.CancelScope()
            nursery.start_soon(self._ask, peer, watched, watched.asking)
        elif step is Step.CLOSE:
            self.dropped += 1
            log.info("peer does not answer", peer=peer_text(peer))
            self._leave(peer)
            self._lost(peer)
            nursery.start_soon(self._drop, peer)

    async def _ask(self, peer: PeerId, watched: _Watched, scope: trio.CancelScope) -> None:
        """One question: on the stream that is kept, or on a new one when that has ended meanwhile."""
        kept, watched.stream = watched.stream, None
        with scope, trio.move_on_after(watched.pulse.patience):
            if kept is not None and await self._ask_on(kept, peer, watched):
                return
            try:
                fresh = MessageStream(await self._network.open(peer, PING), FRAME)
            except Unspoken:
                watched.pulse.answered(trio.current_time())
            except Unavailable as exc:
                log.debug("not asked", peer=peer_text(peer), reason=str(exc))
            else:
                await self._ask_on(fresh, peer, watched)

    async def _ask_on(self, stream: MessageStream, peer: PeerId, watched: _Watched) -> bool:
        """Whether it was answered. Without its answer the stream is given up: no late one meets the next question."""
        answered = False
        try:
            answered = await self._exchange(stream)
        except PeerFault as fault:
            log.info("wrong pong", peer=peer_text(peer), code=fault.code)
            self._network.scores.fault(peer, Fault.PROTOCOL, trio.current_time())
        except Unavailable as exc:
            log.debug("no pong", peer=peer_text(peer), reason=str(exc))
        finally:
            if answered and self._watched.get(peer) is watched:
                watched.stream = stream
                watched.pulse.answered(trio.current_time())
            else:
                await _give_up(stream)
        return answered

    async def _exchange(self, stream: MessageStream) -> bool:
        nonce = secrets.token_bytes(16)
        await stream.send(Ping(nonce))
        said = await stream.receive()
        if said is None:
            return False
        if said != Pong(nonce):
            raise PeerFault("an answer to another question")
        return True

    async def _drop(self, peer: PeerId) -> None:
        try:
            await self._network.disconnect(peer)
        except Unavailable as exc:
            log.debug("not closed in order", peer=peer_text(peer), reason=str(exc))

    async def _answer(self, raw: Stream) -> None:
        peer = raw.peer
        if self._answering[peer] >= MAX_STREAMS_EACH:
            raise PeerFault("more streams of questions than anybody needs")
        self._answering[peer] += 1
        try:
            stream = MessageStream(raw, FRAME)
            while (said := await stream.receive(timeout=IDLE)) is not None:
                now = trio.current_time()
                if self._network.link(peer) is None:
                    raise Unavailable("a connection that we do not know of: to be given up")
                if not isinstance(said, Ping) or not self._rate.allow(peer, now):
                    raise PeerFault("no question, or too many")
                if peer in self._watched:
                    self._watched[peer].pulse.heard(now)
                with trio.fail_after(IDLE):
                    await stream.send(Pong(said.nonce))
        except trio.TooSlowError as exc:
            raise Unavailable("it takes no answer") from exc
        finally:
            self._answering[peer] -= 1
            if not self._answering[peer]:
                del self._answering[peer]


async def _give_up(stream: MessageStream) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        await stream.reset()
