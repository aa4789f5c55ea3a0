"""The whole network in one process: streams, gossip and discovery without a socket, for tests and simulations.

    network = MemoryNetwork(seed=7, latency=0.02, loss=0.01)
    node = network.node(signer_or_peer_id)       # implements Network, Gossip and Discovery
    await nursery.start(node.run)

Streams keep every byte in order and take ``latency`` each way. Gossip may be lost, late and out of order.
``partition`` holds bytes back until ``heal``, as TCP does, and so does ``freeze`` for one node until ``thaw``: whoever
closes a connection meanwhile does so for himself. ``kill`` breaks a node's streams and connections. All chance comes
from the seed, all time from trio's clock, so that a mock clock makes a market run in milliseconds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import trio

from p2p.admission import MAX_GOSSIP, GossipGate, judged
from p2p.envelope import Signer
from p2p.errors import Unavailable, Unspoken
from p2p.inbox import Inboxes
from p2p.peer import PeerId, peer_text
from p2p.pipe import Pipe, PipeStream
from p2p.pulse import PING
from p2p.scores import Fault, Scores
from p2p.transport import Acceptor, Judge, Link, PeerAddrs, PeerChange, Published, Remote, Stream, Verdict

if TYPE_CHECKING:
    from trio_typing import TaskStatus

DIAL_TIMEOUT = 10.0
MAX_STREAMS = 64


class MemoryNetwork:
    """Every node made by ``node`` can dial every other that runs, unless a partition is between them."""

    def __init__(self, *, seed: int = 0, latency: float = 0.0, loss: float = 0.0, reorder: float = 0.0) -> None:
        self.latency, self.loss, self.reorder = latency, loss, reorder
        self.nodes: dict[PeerId, MemoryNode] = {}
        self.providers: dict[bytes, dict[PeerId, None]] = {}
        self._random = Random(seed)
        self._side: dict[PeerId, int] = {}
        self._frozen: set[PeerId] = set()
        self.numbers = count(1)
        self._healed = trio.Event()

    def node(self, who: PeerId | Signer, ip: str = "127.0.0.1") -> MemoryNode:
        """A new node; it is reachable while its ``run`` runs."""
        peer = who if isinstance(who, bytes) else who.peer
        if peer in self.nodes and self.nodes[peer].alive:
            raise ValueError("this peer runs already")
        self.nodes[peer] = MemoryNode(self, peer, f"/ip4/{ip}/tcp/{20_000 + len(self.nodes)}", ip)
        return self.nodes[peer]

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Cut the network: only peers of one group reach each other; all who are not named are one more group."""
        self._side = {peer: number for number, group in enumerate(groups, start=1) for peer in group}
        self.heard()

    def heal(self) -> None:
        """End every partition; what was held back arrives."""
        self.partition()

    def freeze(self, peer: PeerId) -> None:
        """Stop a node as SIGSTOP would, seen from outside: connected with everybody, and silent."""
        self._frozen.add(peer)

    def thaw(self, peer: PeerId) -> None:
        """Let it go on; what it was sent arrives."""
        self._frozen.discard(peer)
        self.heard()

    def heard(self) -> None:
        """Wake whoever waits for a change of reach."""
        self._healed.set()
        self._healed = trio.Event()

    def reach(self, one: PeerId, other: PeerId) -> bool:
        return self._side.get(one, 0) == self._side.get(other, 0) and not self._frozen & {one, other}

    async def until_reached(self, one: PeerId, other: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        while not self.reach(one, other):
            await self._healed.wait()

    def kill(self, peer: PeerId) -> None:
        """End a node as ``kill -9`` would: its tasks stop and its streams break."""
        self.nodes[peer].kill()

    def lost(self) -> bool:
        return self._random.random() < self.loss

    def gossip_delay(self) -> float:
        late = self._random.random() < self.reorder
        return self.latency * (1.0 + self._random.random()) + (10 * (self.latency or 0.01) if late else 0.0)


class MemoryNode:
    """One peer of a ``MemoryNetwork``. It has a connection with a peer exactly while both list each other."""

    def __init__(self, network: MemoryNetwork, peer: PeerId, addr: str, ip: str) -> None:
        self._network, self._peer, self._addr, self._ip = network, peer, addr, ip
        self.alive = False
        self.scores = Scores()
        self.failures: list[Exception] = []
        self._nursery: trio.Nursery | None = None
        self._acceptors: dict[str, Acceptor] = {}
        self._connected: dict[PeerId, Link] = {}
        self._streams: set[PipeStream] = set()
        self._judges: dict[str, Judge] = {}
        self._gate = GossipGate()
        self._inboxes: Inboxes[Published] = Inboxes()
        self._changes: Inboxes[PeerChange] = Inboxes()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be reachable until cancelled or killed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self.alive = nursery, True
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.kill()

    def kill(self) -> None:
        """Stop at once; idempotent."""
        self.alive = False
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            self._nursery = None
        for peer in tuple(self._connected):
            self._drop(peer)
        for peers in self._network.providers.values():
            peers.pop(self._peer, None)

    # Network

    @property
    def peer(self) -> PeerId:
        return self._peer

    def addrs(self) -> tuple[str, ...]:
        return (f"{self._addr}/p2p/{peer_text(self._peer)}",)

    def connected(self) -> frozenset[PeerId]:
        return frozenset(self._connected)

    def link(self, peer: PeerId) -> Link | None:
        return self._connected.get(peer)

    def subscribe_peers(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerChange]]:
        """Connections as they come and go."""
        return self._changes.subscribe("")

    async def connect(self, target: PeerAddrs) -> None:
        """Connect both ways. Raises Unavailable when nobody answers at these addresses within ten seconds."""
        if target.peer == self._peer:
            raise Unavailable("a node does not dial itself")
        with trio.move_on_after(DIAL_TIMEOUT):
            await self._network.until_reached(self._peer, target.peer)
            await trio.sleep(2 * self._network.latency)
            other = self._network.nodes.get(target.peer)
            if other is None or not other.alive or other._addr not in target.addrs or not self.alive:
                raise Unavailable("nobody answers there")
            now = trio.current_time()
            if self.scores.graylisted(target.peer, now) or other.scores.graylisted(self._peer, now):
                raise Unavailable("shut out for now")
            if target.peer not in self._connected or self._peer not in other._connected:
                number = next(self._network.numbers)
                self._join(other, Link(number, dialled=True))
                other._join(self, Link(number, dialled=False))
            return
        raise Unavailable("nobody answered in time")

    async def open(self, peer: PeerId, protocol: str) -> Stream:
        """A stream over the existing connection. Raises Unavailable."""
        with trio.move_on_after(DIAL_TIMEOUT):
            await self._network.until_reached(self._peer, peer)
            await trio.sleep(2 * self._network.latency)
            other = self._network.nodes.get(peer)
            if other is None or peer not in self._connected or other._nursery is None:
                raise Unavailable("not connected")
            if self._connected[peer].number != getattr(other.link(self._peer), "number", 0):
                self._drop(peer)  # the far end had closed it, out of our sight
                raise Unavailable("the peer knows this connection no more")
            acceptor = other._acceptors.get(protocol)
            if acceptor is None:
                raise Unspoken(f"{protocol} is not served there")
            if self._count(peer) >= MAX_STREAMS + (protocol == PING):
                raise Unavailable(f"{MAX_STREAMS} streams are open with this peer")
            ours, theirs = self._pair(other)
            other._nursery.start_soon(other._accept, acceptor, theirs)
            return ours
        raise Unavailable("no answer in time")

    def serve(self, protocol: str, acceptor: Acceptor) -> None:
        self._acceptors[protocol] = acceptor

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self._drop(peer)

    def report(self, peer: PeerId, fault: Fault, what: str = "") -> None:
        """Write down what a peer did wrong; at the graylist its connection ends."""
        if self.scores.fault(peer, fault, trio.current_time()) <= self.scores.graylist:
            self._drop(peer)

    def _join(self, other: MemoryNode, link: Link) -> None:
        replaced = other.peer in self._connected
        self._connected[other.peer] = link
        if replaced:
            self._break_streams(other.peer)
        else:
            self._changes.deliver("", PeerChange(other.peer, connected=True))

    def _drop(self, peer: PeerId) -> None:
        """Close a connection; the far end sees it, unless nothing of ours reaches it now."""
        other = self._network.nodes.get(peer)
        self._forget(peer)
        if other is not None and (self._network.reach(self._peer, peer) or not self.alive):
            other._forget(self._peer)

    def _forget(self, peer: PeerId) -> None:
        if self._connected.pop(peer, None) is not None:
            self._changes.deliver("", PeerChange(peer, connected=False))
            self._break_streams(peer)

    def _break_streams(self, peer: PeerId) -> None:
        for stream in tuple(self._streams):
            if stream.peer == peer:
                stream.break_off()

    def _count(self, peer: PeerId) -> int:
        return sum(stream.peer == peer for stream in self._streams)

    def _pair(self, other: MemoryNode) -> tuple[PipeStream, PipeStream]:
        reach = partial(self._network.until_reached, self._peer, other.peer)
        there, back = Pipe(self._network.latency, reach), Pipe(self._network.latency, reach)
        ours = PipeStream(other.peer, Remote(other._ip), back, there, self._streams.discard)
        theirs = PipeStream(self._peer, Remote(self._ip), there, back, other._streams.discard)
        self._streams.add(ours)
        other._streams.add(theirs)
        return ours, theirs

    async def _accept(self, acceptor: Acceptor, stream: PipeStream) -> None:
        try:
            await acceptor(stream)
            await stream.aclose()
        except Exception as exc:  # as on the real host: one stream's fault ends that stream and nothing else
            self.failures.append(exc)
            await stream.reset()

    # Gossip

    async def join(self, topic: str, judge: Judge) -> None:
        await trio.lowlevel.checkpoint()
        self._judges[topic] = judge

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not 1 <= len(data) <= MAX_GOSSIP:
            raise ValueError(f"a gossiped message has 1 to {MAX_GOSSIP} bytes")
        for node in tuple(self._network.nodes.values()):
            if node is self or node._nursery is None or topic not in node._judges:
                continue
            if self._network.reach(self._peer, node.peer) and not self._network.lost():
                delay = self._network.gossip_delay()
                node._nursery.start_soon(node._hear, self._peer, topic, data, delay)

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Published]]:
        return self._inboxes.subscribe(topic)

    async def _hear(self, forwarder: PeerId, topic: str, data: bytes, delay: float) -> None:
        await trio.sleep(delay)
        now = trio.current_time()
        if self.scores.graylisted(forwarder, now):
            return
        verdict = self._gate.admit(forwarder, topic, data, now)
        if verdict is Verdict.ACCEPT:
            verdict = judged(self._judges[topic], forwarder, data)
        if verdict is Verdict.ACCEPT:
            self._inboxes.deliver(topic, Published(forwarder, data))
        elif verdict is Verdict.REJECT:
            self.scores.fault(forwarder, Fault.REJECTED, now)

    # Discovery

    async def provide(self, key: bytes) -> None:
        await trio.sleep(self._network.latency)
        self._network.providers.setdefault(key, {})[self._peer] = None

    async def find(self, key: bytes, most: int = 20) -> tuple[PeerAddrs, ...]:
        await trio.sleep(2 * self._network.latency)
        found = (
            PeerAddrs(peer, (self._network.nodes[peer]._addr,))
            for peer in self._network.providers.get(key, {})
            if peer != self._peer and self._network.reach(self._peer, peer)
        )
        return tuple(found)[:most]


@asynccontextmanager
async def running(*nodes: MemoryNode) -> AsyncGenerator[None]:
    """Run ``nodes`` while the block runs."""
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        try:
            yield
        except Exception as exc:  # the caller's own: to leave as itself, not in the nursery's group
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
