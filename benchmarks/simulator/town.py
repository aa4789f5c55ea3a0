"""A town: the real roles on the simulated network, each node with a disk that outlives it.

Gateways, orchestrators and clients are built from the same parts as in a real process, with another network, journal,
clock and key. A node may be killed at any time and started again on its disk. Knows no schedule.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

import trio

from benchmarks.noop_worker import MODEL, NoopWorker
from benchmarks.simulator.cheap import CheapKey
from benchmarks.simulator.disk import Disk, DiskJournal, DiskKeeping
from benchmarks.simulator.liars import Idle, LyingSeat, change_of, make_dear
from benchmarks.simulator.network import World
from benchmarks.simulator.schedule import Lie
from benchmarks.simulator.trace import Seen, Trace
from compute.capability import Capability
from compute.spec import TEXT_TO_IMAGE, JobShape
from compute.work import Step, WorkerLost
from ledger.cover import Cover, MemoryCover
from ledger.customers import CustomerBooks
from ledger.money import ETH, Settlement
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.sending import SendingBooks
from ledger.ticket import Payment, PaymentVerdict, payment_digest
from market.bookfeed import BookFeed
from market.client import Client
from market.controls import ControlLines
from market.gateway import Gateway, Means
from market.hello import Greeter
from market.offering import Terms
from market.orchestrator import Orchestrator, Supplies
from market.prefilter import SMALL_JOB_DEVELOPMENT
from p2p.errors import PasarError, Unavailable
from p2p.memory import MemoryNode
from p2p.peer import Address, PeerId
from p2p.transport import Network, PeerAddrs

if TYPE_CHECKING:
    from trio_typing import TaskStatus

NETWORK = "simulated"
SETTLEMENT = Settlement(1337, Address(b"\x11" * 20))
EPOCH = 1_800_000_000.0  # calendar seconds at the beginning
PARAMS_LIVE_MS = 5000
NEIGHBOURS_ASKED = 2
SIDE = 64


def units_of(steps: int) -> int:
    """What a job of so many steps costs in units: every job is for one small picture."""
    return JobShape(TEXT_TO_IMAGE, MODEL, SIDE, SIDE, steps, guided=True).units


def wall_time() -> float:
    """The calendar of every node."""
    return EPOCH + trio.current_time()


class Worker(NoopWorker):
    """A machine whose steps take their time, and that says how fast it is. ``die`` ends what it has in work."""

    def __init__(self, step_s: float, slots: int) -> None:
        super().__init__(step_s, slots=slots)
        self._lives = 0

    def capability(self) -> Capability:
        return self._told

    def settle(self, units_per_step: int) -> None:
        """Say a speed at which a job of that many units a step takes as long as it does here."""
        speed = max(1, int(units_per_step / self.step_s))
        plain = super().capability()
        self._told = replace(plain, models=tuple(replace(one, units_per_second=speed) for one in plain.models))

    def die(self) -> None:
        self._lives += 1

    async def _take_steps(self, steps: int, on_step: Callable[[Step], None]) -> None:
        life = self._lives

        def step(done: Step) -> None:
            if self._lives != life:
                raise WorkerLost("killed")
            on_step(done)

        await super()._take_steps(steps, step)


class _Watched(ReceivingBooks):
    """Books whose verdicts are written down."""

    seen: Seen
    name: str

    async def receive(
        self, sender: Address, payment: Payment, credited: Callable[[int], None] = lambda amount: None
    ) -> PaymentVerdict:
        verdict = await super().receive(sender, payment, credited)
        line = self.seen.payments[self.name, sender, payment.payment_id].payloads
        line.setdefault(payment_digest(payment), verdict.credited)
        return verdict


@dataclass(slots=True)
class Node:
    """One node through all its lives. ``role`` and ``books`` are those of the present life."""

    name: str
    key: CheapKey
    disk: Disk
    lie: Lie | None
    build: Callable[[Node, trio.Nursery], Awaitable[None]]
    price: int = 0
    worker: NoopWorker | None = None
    seat: MemoryNode | None = None
    journal: DiskJournal | None = None
    role: Gateway | Orchestrator | None = None
    scope: trio.CancelScope | None = None
    failures: list[Exception] = field(default_factory=list)
    gone: trio.Event = field(default_factory=trio.Event)
    killed: bool = False

    @property
    def honest(self) -> bool:
        return self.lie is None

    @property
    def alive(self) -> bool:
        return self.scope is not None

    def kill(self) -> None:
        """As SIGKILL would: nothing more is said, written or done."""
        if self.scope is None or self.seat is None or self.journal is None:
            return
        self.killed = True
        self.journal.crash()
        self.seat.kill()
        self.scope.cancel()
        self.scope = None


class Town:
    """Every node by its name; ``point`` hears of the named points that nodes pass."""

    def __init__(
        self,
        chance: Random,
        world: World,
        seen: Seen,
        trace: Trace,
        *,
        commit_s: float = 0.0,
        point: Callable[[str, str], None] = lambda name, point: None,
    ) -> None:
        self.world, self.seen, self.trace = world, seen, trace
        self.nodes: dict[str, Node] = {}
        self.names: dict[PeerId, str] = {}
        self.cover = MemoryCover()
        self._chance, self._commit_s, self._point = chance, commit_s, point

    # -- who lives here ----------------------------------------------------------------------------------------------

    def gateway(self, name: str, number: int, lie: Lie | None = None) -> Node:
        node = self._add(name, number, lie, self._build_gateway)
        self.cover.covers[node.key.address] = Cover(ETH, ETH)
        return node

    def orchestrator(self, name: str, number: int, terms: Terms, worker: NoopWorker, lie: Lie | None = None) -> Node:
        async def build(node: Node, nursery: trio.Nursery) -> None:
            await self._build_orchestrator(node, nursery, replace(terms, payout=node.key.address))

        node = self._add(name, number, lie, build)
        node.price = terms.price
        node.worker = Idle(slots=terms.slots or 1) if lie is Lie.IDLE else worker
        return node

    async def client(self, name: str, number: int, nursery: trio.Nursery) -> Client:
        key = CheapKey(number)
        self.names[key.peer] = name
        seat = self.world.node(key)
        await nursery.start(seat.run)
        return Client(seat, self._greeter("client"), self._reach(seat))

    def _add(
        self, name: str, number: int, lie: Lie | None, build: Callable[[Node, trio.Nursery], Awaitable[None]]
    ) -> Node:
        key = CheapKey(number)
        self.names[key.peer] = name
        self.nodes[name] = node = Node(name, key, Disk(name.encode()), lie, build)
        return node

    def honest(self, kind: type[Gateway] | type[Orchestrator]) -> Iterable[Node]:
        return (node for node in self.nodes.values() if node.honest and isinstance(node.role, kind))

    # -- lives -------------------------------------------------------------------------------------------------------

    async def live(self, node: Node, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One life of a node, until it is killed. Started means that its role is."""
        node.gone, node.killed = trio.Event(), False
        try:
            with trio.CancelScope() as node.scope:
                async with trio.open_nursery() as nursery:
                    node.seat = self.world.node(node.key)
                    node.journal = DiskJournal(node.disk, self._pause)
                    await nursery.start(node.journal.run)
                    await nursery.start(node.seat.run)
                    await node.build(node, nursery)
                    self.trace.say(node.name, "is up")
                    task_status.started()
        except Exception as exc:  # nothing but a kill may end a node: what did is the finding of this simulation
            if not node.killed:
                self.seen.fallen[node.name] = _told(exc)
                self.trace.say(node.name, "fell over")
        finally:
            node.scope = None
            if node.seat is not None:
                node.failures += node.seat.failures
            node.gone.set()

    def _pause(self) -> float:
        return self._commit_s * max(0.0, 2 * self._chance.random() - 1)

    def _greeter(self, role: str) -> Greeter:
        return Greeter(NETWORK, role, lambda: SETTLEMENT, wall_time)

    def _reach(self, seat: MemoryNode) -> Callable[[PeerId], Awaitable[None]]:
        async def reach(peer: PeerId) -> None:
            if peer not in seat.connected():
                other = self.world.nodes.get(peer)
                if other is None:
                    raise Unavailable("no such peer")
                await seat.connect(PeerAddrs(peer, (other._addr,)))

        return reach

    def _mouthed(self, node: Node) -> Network:
        assert node.seat is not None
        change = change_of(node.lie, node.key)
        return node.seat if change is None else LyingSeat(node.seat, change)

    def _reached(self, node: Node) -> Callable[[str], None]:
        return lambda point: self._point(node.name, point)

    async def _build_gateway(self, node: Node, nursery: trio.Nursery) -> None:
        assert node.seat is not None
        assert node.journal is not None
        network, greeter, reach = self._mouthed(node), self._greeter("gateway"), self._reach(node.seat)
        feed = BookFeed(node.seat, node.seat, greeter, (TEXT_TO_IMAGE,), wall_time)
        lines = ControlLines(network, greeter, reach)
        books = SendingBooks(node.journal, node.key, SETTLEMENT, self.cover, wall_time=wall_time)
        await books.load()
        means = Means(
            signer=node.key,
            network=network,
            greeter=greeter,
            feed=feed,
            lines=lines,
            journal=node.journal,
            books=books,
            customers=CustomerBooks(node.journal, wall_time=wall_time),
            results=DiskKeeping(node.disk, "results", wall_time),
            inputs=DiskKeeping(node.disk, "inputs", wall_time),
            settlement=SETTLEMENT,
            reach=reach,
            small_job=SMALL_JOB_DEVELOPMENT,
            development=True,
            chance=Random(self._chance.getrandbits(64)),
            nonce=self._chance.randbytes,
            wall_time=wall_time,
            reached=self._reached(node),
        )
        node.role = Gateway(means)
        await nursery.start(feed.run)
        await nursery.start(lines.run)
        await nursery.start(node.role.run)
        nursery.start_soon(self._take_over, node.seat, feed, reach)

    async def _take_over(self, seat: MemoryNode, feed: BookFeed, reach: Callable[[PeerId], Awaitable[None]]) -> None:
        """What every node does when it joins: ask neighbours for their book."""
        others = [node.key.peer for node in self.nodes.values() if node.alive and node.key.peer != seat.peer]
        for peer in others[:NEIGHBOURS_ASKED]:
            with suppress(PasarError):
                await reach(peer)
                await feed.take_over(peer)

    async def _build_orchestrator(self, node: Node, nursery: trio.Nursery, terms: Terms) -> None:
        assert node.seat is not None
        assert node.journal is not None
        assert node.worker is not None
        network, greeter = self._mouthed(node), self._greeter("orchestrator")
        feed = BookFeed(node.seat, node.seat, greeter, (TEXT_TO_IMAGE,), wall_time)
        receiving = ReceivingTerms(lives_for_ms=PARAMS_LIVE_MS)
        books = _Watched(
            node.journal,
            node.key,
            SETTLEMENT,
            receiving,
            self.cover,
            wall_time=wall_time,
            chance=self._chance.randbytes,
        )
        books.seen, books.name = self.seen, node.name
        await books.load()
        node.role = Orchestrator(
            Supplies(
                signer=node.key,
                network=network,
                gossip=node.seat,
                greeter=greeter,
                feed=feed,
                machine=node.worker,
                journal=node.journal,
                books=books,
                cover=self.cover,
                look_up=_known,
                keeping=DiskKeeping(node.disk, "sealed", wall_time),
                terms=terms,
                small_job=SMALL_JOB_DEVELOPMENT,
                development=True,
                wall_time=wall_time,
                reached=self._reached(node),
            )
        )
        if node.lie is Lie.DEAR:
            make_dear(node.role)
        await nursery.start(feed.run)
        await nursery.start(node.role.run)


async def _known(_: object) -> None:
    """The covers of a town are known from the start."""


def _told(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"


__all__ = ["MODEL", "Node", "Town", "Worker", "units_of", "wall_time"]
