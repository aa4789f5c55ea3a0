"""A whole market in one process: real roles, real journals, the network in memory, machines that compute nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from benchmarks.noop_worker import MODEL, NoopWorker
from compute.work import Machine
from ledger.cover import Cover, MemoryCover
from ledger.customers import CustomerBooks
from ledger.journal import Journal
from ledger.money import ETH
from ledger.receiving import ReceivingBooks
from ledger.recipient import ReceivingTerms
from ledger.sending import SendingBooks
from market.bid import Bid
from market.bookfeed import BookFeed
from market.client import Client, Wish, bid_for, choose_model
from market.controls import ControlLines
from market.gateway import Gateway, Means
from market.hello import Greeter
from market.inspecting import NO_INSPECTION, Inspection
from market.keeping import Keeping
from market.offering import Terms
from market.orchestrator import Orchestrator, Supplies
from market.policy import EVERYTHING, Policy
from market.prefilter import SMALL_JOB_DEVELOPMENT
from market.pricing import Pricing
from market.refusal import Refusal
from p2p.errors import PasarError, Unavailable
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.peer import PeerId
from p2p.transport import PeerAddrs
from tests.support.market_values import NETWORK, PIPELINE, SETTLEMENT, Key


async def known(_: object) -> None:
    """The covers of this market are known from the start."""


@dataclass
class Place:
    """One node: its signer, its seat in the network, its journal, its role. ``kill`` ends it as SIGKILL would."""

    key: Key
    seat: MemoryNode
    journal: Journal
    scope: trio.CancelScope
    role: Gateway | Orchestrator
    books: SendingBooks | ReceivingBooks
    gone: trio.Event = field(default_factory=trio.Event)

    def kill(self) -> None:
        """Nothing more is said or done; ``gone`` when the next life may begin in the same directory."""
        self.seat.kill()
        self.scope.cancel()


class Marketplace:
    """Builds nodes on one memory network; every sender has a deposit."""

    def __init__(
        self, nursery: trio.Nursery, folder: Path, seed: int = 0, pipelines: tuple[str, ...] = (PIPELINE,)
    ) -> None:
        self.pipelines = pipelines
        self.net = MemoryNetwork(seed=seed)
        self.pipelines = pipelines
        self.cover = MemoryCover()
        self._nursery, self._folder = nursery, folder
        self.random = Random(seed)

    def greeter(self, role: str) -> Greeter:
        return Greeter(NETWORK, role, lambda: SETTLEMENT, time.time)

    def reach(self, seat: MemoryNode) -> Callable[[PeerId], object]:
        async def reach(peer: PeerId) -> None:
            if peer not in seat.connected():
                other = self.net.nodes.get(peer)
                if other is None:
                    raise Unavailable("no such peer")
                await seat.connect(PeerAddrs(peer, (other._addr,)))

        return reach

    async def gateway(
        self,
        number: int,
        reached: Callable[[str], None] = lambda point: None,
        policy: Policy = EVERYTHING,
        inspection: Inspection = NO_INSPECTION,
    ) -> Place:
        key = Key(number)
        self.cover.covers[key.address] = Cover(ETH, ETH)

        async def build(seat: MemoryNode, journal: Journal, nursery: trio.Nursery) -> tuple[Gateway, SendingBooks]:
            greeter = self.greeter("gateway")
            feed = BookFeed(seat, seat, greeter, self.pipelines, time.time)
            lines = ControlLines(seat, greeter, self.reach(seat))
            books = SendingBooks(journal, key, SETTLEMENT, self.cover)
            await books.load()
            means = Means(
                signer=key,
                network=seat,
                greeter=greeter,
                feed=feed,
                lines=lines,
                journal=journal,
                books=books,
                customers=CustomerBooks(journal),
                results=Keeping(self._folder / f"{number}" / "results"),
                inputs=Keeping(self._folder / f"{number}" / "inputs"),
                settlement=SETTLEMENT,
                reach=self.reach(seat),
                small_job=SMALL_JOB_DEVELOPMENT,
                development=True,
                chance=self.random,
                nonce=self.random.randbytes,
                wall_time=time.time,
                reached=reached,
                policy=policy,
                inspection=inspection,
            )
            gateway = Gateway(means)
            await nursery.start(feed.run)
            await nursery.start(lines.run)
            await nursery.start(gateway.run)
            for peer in tuple(seat.connected()):
                with suppress(PasarError):
                    await feed.take_over(peer)
            return gateway, books

        return await self._place(key, number, build)

    async def orchestrator(
        self,
        number: int,
        price: int,
        machine: Machine | None = None,
        slots: int | None = 1,
        reached: Callable[[str], None] = lambda point: None,
        policy: Policy = EVERYTHING,
        pricing: Pricing | None = None,
    ) -> Place:
        key = Key(number)

        async def build(
            seat: MemoryNode, journal: Journal, nursery: trio.Nursery
        ) -> tuple[Orchestrator, ReceivingBooks]:
            greeter = self.greeter("orchestrator")
            feed = BookFeed(seat, seat, greeter, self.pipelines, time.time)
            books = ReceivingBooks(journal, key, SETTLEMENT, ReceivingTerms(lives_for_ms=5000), self.cover)
            await books.load()
            supplies = Supplies(
                signer=key,
                network=seat,
                gossip=seat,
                greeter=greeter,
                feed=feed,
                machine=machine or NoopWorker(),
                journal=journal,
                books=books,
                cover=self.cover,
                look_up=known,
                keeping=Keeping(self._folder / f"{number}" / "sealed"),
                terms=Terms(price, slots, SETTLEMENT, key.address, pricing),
                small_job=SMALL_JOB_DEVELOPMENT,
                development=True,
                wall_time=time.time,
                reached=reached,
                policy=policy,
            )
            orchestrator = Orchestrator(supplies)
            await nursery.start(feed.run)
            await nursery.start(orchestrator.run)
            return orchestrator, books

        return await self._place(key, number, build)

    async def client(self, number: int, ip: str = "127.0.0.1") -> tuple[Client, MemoryNode]:
        key = Key(number)
        seat = self.net.node(key, ip)
        await self._nursery.start(seat.run)
        return Client(seat, self.greeter("client"), self.reach(seat)), seat

    async def bid(self, client: Client, gateway: PeerId, **wish: object) -> Bid:
        """A bid for the model on offer, small and quick unless told otherwise."""
        offered = await client.models(gateway, PIPELINE)
        plain: dict[str, object] = {"prompt": "a red circle", "steps": 4, "deadline_ms": 20_000}
        asked = Wish(**{**plain, **wish})
        model = choose_model(offered, asked)
        assert not isinstance(model, Refusal)
        return bid_for(asked, model, PIPELINE, self.random.randbytes)

    async def _place(self, key: Key, number: int, build: Callable[..., object]) -> Place:
        async def live(*, task_status: trio.TaskStatus[Place]) -> None:
            gone = trio.Event()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    seat = self.net.node(key)
                    journal = Journal(self._folder / f"{number}" / "journal.db")
                    await nursery.start(journal.run)
                    await nursery.start(seat.run)
                    for peer, other in self.net.nodes.items():
                        if other.alive and peer != key.peer:
                            await seat.connect(PeerAddrs(peer, (other._addr,)))
                    role, books = await build(seat, journal, nursery)  # type: ignore[misc]
                    task_status.started(Place(key, seat, journal, scope, role, books, gone))
            gone.set()

        return await self._nursery.start(live)


@asynccontextmanager
async def marketplace(
    folder: Path, seed: int = 0, pipelines: tuple[str, ...] = (PIPELINE,)
) -> AsyncGenerator[Marketplace]:
    """A market that ends with the block."""
    async with trio.open_nursery() as nursery:
        yield Marketplace(nursery, folder, seed, pipelines)
        nursery.cancel_scope.cancel()


__all__ = ["MODEL", "Marketplace", "Place", "marketplace"]
