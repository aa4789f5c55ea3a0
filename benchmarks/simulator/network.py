"""The network of a simulation: ``p2p/memory.py`` with a delay of its own for every link, and ears on every stream.

Bytes of one stream stay in order, as TCP keeps them; two streams overtake each other. Several partitions may hold at a
time. Everything that is said goes to ``said``, and all of it into the trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from random import Random

import trio

from p2p.envelope import Signer
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.peer import PeerId
from p2p.pipe import BUFFER, Pipe, PipeStream
from p2p.transport import Remote

Said = Callable[[PeerId, PeerId, int, bytes], None]  # who says what to whom on which stream


class World(MemoryNetwork):
    """Every link has a delay that is drawn once and jitters by half, unless all are ``alike``; ``slow`` adds to it."""

    def __init__(
        self, chance: Random, latency: float, loss: float, reorder: float, said: Said, *, alike: bool = False
    ) -> None:
        super().__init__(seed=chance.getrandbits(32), latency=latency, loss=loss, reorder=reorder)
        self._chance, self.said, self._alike = chance, said, alike
        self._links: dict[tuple[PeerId, PeerId], float] = {}
        self._islands: dict[object, frozenset[PeerId]] = {}
        self.slow: dict[PeerId, float] = {}
        self.streams = count()

    def node(self, who: PeerId | Signer, ip: str = "127.0.0.1") -> MemoryNode:
        peer = who if isinstance(who, bytes) else who.peer
        if peer in self.nodes and self.nodes[peer].alive:
            raise ValueError("this peer runs already")
        self.nodes[peer] = Seat(self, peer, f"/ip4/{ip}/tcp/{20_000 + len(self.nodes)}", ip)
        return self.nodes[peer]

    def delay(self, one: PeerId, other: PeerId) -> float:
        """How long the next bytes are under way."""
        if self._alike:
            return self.latency
        link = self._links.get((one, other))
        if link is None:
            link = self._links[one, other] = self._links[other, one] = self.latency * (0.5 + self._chance.random())
        jitter = 0.75 + self._chance.random() / 2
        return link * jitter * max(self.slow.get(one, 1.0), self.slow.get(other, 1.0))

    def isolate(self, name: object, island: frozenset[PeerId]) -> None:
        """Cut these off from everybody else until ``rejoin`` of the same name."""
        self._islands[name] = island
        self._divide()

    def rejoin(self, name: object) -> None:
        self._islands.pop(name, None)
        self._divide()

    async def until_reached(self, one: PeerId, other: PeerId) -> None:
        """At once where nothing is in the way."""
        if not self.reach(one, other):
            await super().until_reached(one, other)

    def _divide(self) -> None:
        """Two peers reach each other when no island has one of them alone."""
        groups: dict[tuple[bool, ...], list[PeerId]] = {}
        for peer in self.nodes:
            groups.setdefault(tuple(peer in island for island in self._islands.values()), []).append(peer)
        self.partition(*groups.values())


class Seat(MemoryNode):
    """One peer, whose streams have delays of their own."""

    _network: World

    def _pair(self, other: MemoryNode) -> tuple[PipeStream, PipeStream]:
        network = self._network
        reach = partial(network.until_reached, self.peer, other.peer)
        there = _Link(partial(network.delay, self.peer, other.peer), reach)
        back = _Link(partial(network.delay, other.peer, self.peer), reach)
        number = next(network.streams)
        ours = _Ear(other.peer, Remote(other._ip), back, there, self._streams.discard)
        theirs = _Ear(self.peer, Remote(self._ip), there, back, other._streams.discard)
        ours.told = partial(network.said, self.peer, other.peer, number)
        theirs.told = partial(network.said, other.peer, self.peer, number)
        self._streams.add(ours)
        other._streams.add(theirs)
        return ours, theirs


class _Link(Pipe):
    """A pipe whose latency is asked anew for every write; it does what ``Pipe`` does in fewer steps."""

    def __init__(self, delay: Callable[[], float], reach: Callable[[], Awaitable[None]]) -> None:
        super().__init__(0.0, reach)
        self._delay = delay

    async def put(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._broken or self._ended or self._held + len(data) > BUFFER:
            self._latency = self._delay()
            await super().put(data)
            return
        self._held += len(data)
        self._items.append((trio.current_time() + self._delay(), data))
        self._waiting.unpark_all()

    async def take(self, most: int) -> bytes:
        while not (self._items or self._broken or self._ended):
            await self._waiting.park()
        return await super().take(most)


class _Ear(PipeStream):
    """An end of a stream that tells what is said on it."""

    told: Callable[[bytes], None]

    async def send(self, data: bytes) -> None:
        self.told(data)
        await super().send(data)
