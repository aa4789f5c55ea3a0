"""A market of real processes under a soak: which workers are killed, and what nodes and workers take meanwhile."""

from __future__ import annotations

import signal
import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from market.localdoor import knock
from market.modeldoor import ModelsHere, ModelsQuestion
from p2p.errors import PasarError
from tests.support.processes import LocalMarket, Process

SELLERS = ("one", "two")
ONE_EACH = ("pasar-*-tcp-*.lock", "torchinductor_*")  # of a port and of a user, however many jobs there are
SETTLED_S = 8.0  # after all its models are there, a worker's memory is what it will be


@dataclass
class Life:
    """One worker process: bytes that it alone took, each time it was looked at since it had settled."""

    seller: str
    warm_at: float | None = None
    took: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float | None:
        """What it took in the end against what it took when it had settled; None where it was not seen for long."""
        if len(self.took) < 4:
            return None
        return statistics.median(self.took[-2:]) / statistics.median(self.took[:2])


@dataclass(frozen=True)
class Look:
    """What one node had at one moment, ``done`` jobs after the start."""

    done: int
    bytes: int
    files: int
    threads: int


@dataclass
class SoakTown:
    """A gateway, two sellers, their workers. ``temporary`` is where all of them make temporary files."""

    market: LocalMarket
    nodes: dict[str, Process]
    temporary: Path
    killed: list[int] = field(default_factory=list)
    lives: dict[int, Life] = field(default_factory=dict)
    looks: dict[str, list[Look]] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        """The data directory of a node."""
        return self.market.home / name

    def children(self, name: str) -> list[psutil.Process]:
        """The processes that a node has started, but for a development chain, which outlives it."""
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.nodes[name].node).children():
                with suppress(psutil.Error):
                    if "ledger.devchain" not in child.cmdline():
                        found.append(child)
        return found

    def workers(self) -> dict[str, psutil.Process]:
        """The worker of each seller that has one just now."""
        found = {}
        for name in SELLERS:
            for child in self.children(name):
                with suppress(psutil.Error):
                    if "compute.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                        found[name] = child
        return found

    def kill_a_worker(self) -> None:
        """Of the seller whose turn it is, if that has all its models by now; else of the other one, if that has.

        On a machine on which a worker starts slowly none would else ever do a job.
        """
        workers = {name: worker for name, worker in self.workers().items() if self._is_warm(worker)}
        turn = SELLERS[len(self.killed) % len(SELLERS)]
        victim = workers.get(turn) or next(iter(workers.values()), None)
        if victim is not None:
            self.killed.append(victim.pid)
            with suppress(psutil.Error):
                victim.send_signal(signal.SIGKILL)

    async def look(self, done: int) -> None:
        """What everything takes now."""
        workers = await trio.to_thread.run_sync(self._look_at_nodes, done)
        for seller, worker in workers.items():
            life = self.lives.setdefault(worker.pid, Life(seller))
            with suppress(psutil.Error, PasarError):
                if life.warm_at is None and await self._all_warm(seller):
                    life.warm_at = trio.current_time()
                if life.warm_at is not None and trio.current_time() - life.warm_at > SETTLED_S:
                    life.took.append(await trio.to_thread.run_sync(_own_bytes, worker))

    def left(self) -> list[Path]:
        """Files that nobody needs once all jobs are delivered and forgotten."""
        found = [
            path for path in self.temporary.rglob("*") if not path.match(ONE_EACH[0]) and not path.match(ONE_EACH[1])
        ]
        for name in self.nodes:
            for kept in ("results", "inputs", "sealed"):
                found += self.folder(name).glob(f"{kept}/*")
            found += [path for path in self.folder(name).rglob("*") if path.suffix in (".new", ".fresh", ".part")]
        return found

    def _is_warm(self, worker: psutil.Process) -> bool:
        life = self.lives.get(worker.pid)
        return life is not None and life.warm_at is not None

    async def _all_warm(self, seller: str) -> bool:
        answer = await knock(self.folder(seller), ModelsQuestion(), 5)
        return isinstance(answer, ModelsHere) and all(one.place == "warm" for one in answer.models)

    def _look_at_nodes(self, done: int) -> dict[str, psutil.Process]:
        for name, process in self.nodes.items():
            with suppress(psutil.Error):
                node = psutil.Process(process.node)
                look = Look(done, _own_bytes(node), node.num_fds(), node.num_threads())
                self.looks.setdefault(name, []).append(look)
        return self.workers()


def _own_bytes(process: psutil.Process) -> int:
    """What would be free if it ended: pages that others have too are theirs."""
    return int(process.memory_full_info().uss)
