"""A market in memory with one real worker process, in a thread of its own: many tests look at the same one."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import psutil
import trio

from compute.spec import Input
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from market.bid import Bid
from market.client import Client, Ending, Wish, bid_for, choose_model
from market.conversation import now_ms
from market.gateway import Gateway
from market.refusal import Refusal
from market.reputation import Record
from p2p.memory import MemoryNode
from tests.support.marketplace import Marketplace, Place, marketplace

START_S = 240.0
T = TypeVar("T")


def inputs_of(files: Sequence[bytes], media_type: str = "image/png") -> tuple[Input, ...]:
    """Files as a wish names them."""
    return tuple(Input(media_type, len(data), sha256(data).digest()) for data in files)


@dataclass
class Town:
    """One gateway, one seller, one client; ``failures`` of the nodes are what they held against whom."""

    folder: Path
    models: tuple[Path, ...]
    pipelines: tuple[str, ...]
    ready: threading.Event = field(default_factory=threading.Event)
    broken: BaseException | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.ready.wait(START_S)
        assert self.broken is None, self.broken

    def end(self) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run something in the market's own loop."""
        return trio.from_thread.run(work, *args, trio_token=self._token)

    def bid(self, pipeline: str, wish: Wish, files: Sequence[bytes] = ()) -> Ending:
        """How a bid ends."""
        return self.call(self._bid, pipeline, wish, files)

    async def form(self, pipeline: str, wish: Wish) -> Bid:
        """The bid for a wish. In the market's loop."""
        model = choose_model(await self.client.models(self.gateway.key.peer, pipeline), wish)
        assert not isinstance(model, Refusal), model
        return bid_for(wish, model, pipeline, self.market.random.randbytes)

    @property
    def record(self) -> Record:
        """What the gateway has measured of the seller."""
        assert isinstance(self.gateway.role, Gateway)
        known, seller = self.gateway.role.reputation, self.seller.key.peer
        return trio.from_thread.run_sync(lambda: known.of(seller, now_ms()), trio_token=self._token)

    @property
    def worker_peak(self) -> int:
        """The most memory that the worker ever took, in bytes, where the system says so."""
        assert self.worker.pid is not None
        told = Path(f"/proc/{self.worker.pid}/status")
        if not told.exists():
            return int(psutil.Process(self.worker.pid).memory_info().rss)
        return next(int(line.split()[1]) * 1024 for line in told.read_text().splitlines() if line.startswith("VmHWM"))

    async def _bid(self, pipeline: str, wish: Wish, files: Sequence[bytes]) -> Ending:
        with trio.fail_after(120):
            bid = await self.form(pipeline, wish)
            return await self.client.bid(self.gateway.key.peer, bid, lambda news: None, files=files)

    def _run(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as exc:
            self.broken = exc
            self.ready.set()

    async def _live(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        config = WorkerConfig(self.folder / "node", self.models, device="cpu", threads=1, ping_s=0.2)
        self.worker = Worker(config)
        with trio.CancelScope() as self._scope:
            async with marketplace(self.folder, pipelines=self.pipelines) as self.market:
                await self._build(self.market)
                self.ready.set()
                await trio.sleep_forever()

    async def _build(self, market: Marketplace) -> None:
        with trio.fail_after(START_S):
            await market._nursery.start(self.worker.run)
            self.gateway: Place = await market.gateway(1)
            self.seller: Place = await market.orchestrator(2, price=2_000_000, machine=self.worker)
            self.client: Client
            self.seat: MemoryNode
            self.client, self.seat = await market.client(3)
            while not all(entry.warm for entry in self.worker.capability().models):  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
