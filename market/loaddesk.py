"""LoadDesk: the seller's end of ``/pasar/load/1``. Tells the gateways that asked how busy it is now.

One look serves all followers; each is told on change, at most five times a second, and once a second when nothing
changes. Only the newest Load is ever on its way: who reads slowly hears less, who does not read is let go. Knows no
job; the orchestrator says how busy it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog
import trio

from market.hello import Greeter
from market.loads import BEAT_MS, GAP_MS, LoadAsk, worth_saying
from market.offer import Load
from market.protocol import LOAD
from p2p.admission import RateLimit
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text
from p2p.stream import MessageStream
from p2p.transport import Network, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

LOOK_S = 0.05
ASK_S = 10.0  # for the one ask, after the hello
WRITE_S = 3.0  # that one Load may take to leave: longer, and nobody reads it
MAX_FOLLOWERS = 128
ASKS_PER_SECOND, ASKS_BURST = 1.0, 10.0  # of one gateway


@dataclass(slots=True)
class _Follower:
    """One gateway that is told; cancelling ``scope`` lets it go."""

    pipelines: tuple[str, ...]
    favoured: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class LoadDesk:
    """At most one follower per gateway and ``MAX_FOLLOWERS`` in all.

    ``look`` says how busy a pipeline is, None for one that is not on offer. When all places are taken, a follower that
    ``favours`` says no to makes way for one that it says yes to.
    """

    def __init__(
        self,
        network: Network,
        greeter: Greeter,
        *,
        look: Callable[[str], Load | None],
        favours: Callable[[PeerId], bool],
    ) -> None:
        self._network, self._greeter, self._look, self._favours = network, greeter, look, favours
        self._followers: dict[PeerId, _Follower] = {}
        self._asks = RateLimit(ASKS_PER_SECOND, ASKS_BURST)
        self._said: dict[str, tuple[Load, float]] = {}
        self._version = 0
        self._changed, self._wanted = trio.Event(), trio.Event()

    def followers(self) -> frozenset[PeerId]:
        """Whom we tell."""
        return frozenset(self._followers)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for changes as long as anybody follows. Started means: asks are answered."""
        self._network.serve(LOAD, self._accept)
        task_status.started()
        while True:
            await self._wanted.wait()
            self._look_around()
            # Looked at, not waited for: jobs, quotes and models tell nobody of their changes.
            await trio.sleep(LOOK_S)

    # -- what there is to say ----------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        now, news = trio.current_time(), False
        for pipeline in {name for follower in self._followers.values() for name in follower.pipelines}:
            fresh = self._look(pipeline)
            if fresh is None:
                continue
            said, at = self._said.get(pipeline, (None, now))
            if worth_saying(said, fresh, int((now - at) * 1000)):
                self._said[pipeline] = fresh, now
                news = True
        if news:
            self._version += 1
            self._changed.set()
            self._changed = trio.Event()

    def _loads(self, pipelines: tuple[str, ...], sequence: int) -> list[Load]:
        found = [load for name in pipelines if (load := self._look(name)) is not None]
        return [replace(load, sequence=sequence + place) for place, load in enumerate(found)]

    # -- whom we tell ------------------------------------------------------------------------------------------------

    async def _accept(self, raw: Stream) -> None:
        stream = MessageStream(raw)
        try:
            await self._greeter.greet(stream)
            follower = await self._admit(stream)
            try:
                with follower.scope:
                    await self._serve(stream, follower)
            finally:
                self._leave(stream.peer, follower)
            await stream.aclose()
        except (Refused, Unavailable) as exc:
            log.debug("not told of our load", peer=peer_text(raw.peer), reason=str(exc))
            await stream.reset()

    async def _admit(self, stream: MessageStream) -> _Follower:
        """The follower that this stream is. Raises PeerFault, Refused."""
        ask = await stream.receive(timeout=ASK_S)
        if not isinstance(ask, LoadAsk):
            raise PeerFault(f"{type(ask).__name__} on a load stream")
        if not self._asks.allow(stream.peer, trio.current_time()):
            raise Refused("TOO_MANY", "one stream for each gateway, and kept")
        pipelines = tuple(name for name in dict.fromkeys(ask.pipelines) if self._look(name) is not None)
        if not pipelines:
            raise Refused("NOT_OFFERED", "none of these pipelines is on offer here")
        follower = _Follower(pipelines, self._favours(stream.peer))
        before = self._followers.pop(stream.peer, None)
        if before is not None:
            before.scope.cancel()
        elif len(self._followers) >= MAX_FOLLOWERS:
            self._make_way(follower)
        self._followers[stream.peer] = follower
        self._look_around()
        self._wanted.set()
        return follower

    def _make_way(self, follower: _Follower) -> None:
        """Let the oldest follower go that is not favoured. Raises Refused when nobody is, or for no good reason."""
        other = next((peer for peer, known in self._followers.items() if not known.favoured), None)
        if other is None or not follower.favoured:
            raise Refused("TOO_MANY", f"{MAX_FOLLOWERS} gateways follow already")
        self._followers.pop(other).scope.cancel()

    def _leave(self, peer: PeerId, follower: _Follower) -> None:
        if self._followers.get(peer) is follower:
            del self._followers[peer]
        if not self._followers:
            self._wanted = trio.Event()
            self._said.clear()

    async def _serve(self, stream: MessageStream, follower: _Follower) -> None:
        """Tell until the gateway closes the stream, does not read it, or says anything more on it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_until_lost, stream, follower)
            fault = await _closed(stream)
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def _tell_until_lost(self, stream: MessageStream, follower: _Follower) -> None:
        try:
            await self._tell(stream, follower)
        except Unavailable as exc:
            log.debug("follower lost", peer=peer_text(stream.peer), reason=str(exc))
            follower.scope.cancel()

    async def _tell(self, stream: MessageStream, follower: _Follower) -> None:
        sequence = 0
        while True:
            version, began = self._version, trio.current_time()
            loads = self._loads(follower.pipelines, sequence)
            sequence += len(loads)
            with trio.move_on_after(WRITE_S) as writing:
                await stream.send(*loads)
            if writing.cancelled_caught:
                raise Unavailable("the gateway does not read what it asked for")
            await trio.sleep_until(began + GAP_MS / 1000)
            if self._version == version:
                with trio.move_on_at(began + BEAT_MS / 1000):
                    await self._changed.wait()


async def _closed(stream: MessageStream) -> PeerFault | None:
    """Wait for the end of a stream on which nothing more may be said; the fault when something is."""
    try:
        if await stream.receive() is not None:
            return PeerFault("a load stream carries one ask")
    except PeerFault as fault:
        return fault
    except Unavailable:
        pass
    return None
