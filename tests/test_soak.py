"""A soak: some hundred jobs of every pipeline, several at a time, while a worker is killed every 20 seconds.

What is promised, and held here: a worker that dies costs nobody a job. Whoever had one there gets it from another
seller or from the worker's successor, under the same id, paid once. Only where two workers in a row died under a job
may it end with a reason, and bidding again brings it. And nothing stays behind: no memory, no file, no process.

``PASAR_SOAK_JOBS`` says how many jobs, 500 if it is not set; ``PASAR_SOAK_KILL_S`` how often a worker is killed.
"""

from __future__ import annotations

import os
import secrets
import signal
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
import trio

from market.bidwire import BidCancelled, JobFailed, JobNews, News
from market.client import Client, Delivered, bid_for, choose_model
from market.config import load_config
from market.instance import claim
from market.lightclient import find_gateways, greeter_of, join
from market.refusal import Refusal
from p2p.errors import PasarError
from p2p.peer import PeerId
from tests.support.bookkeeping import customer_jobs, violations
from tests.support.mixture import PIPELINES, Errand, Mixture
from tests.support.processes import eventually, local_market
from tests.support.soaking import KEEP_S
from tests.support.soaktown import SELLERS, Look, SoakTown

pytestmark = [pytest.mark.prove, pytest.mark.live]
pytest.importorskip("torch")
pytest.importorskip("av")

JOBS = int(os.environ.get("PASAR_SOAK_JOBS", "500"))
KILL_EVERY_S, LOOK_EVERY_S = float(os.environ.get("PASAR_SOAK_KILL_S", "20")), 2.0
AT_ONCE = 6
DEADLINE_MS = 180_000
TRIES = 3
FLAT = 1.05
WARM_UP = 0.5  # part of the jobs after which a node has all it will have
MEASURED_FROM = 200  # jobs: in a shorter soak no worker lives for long enough
SPARE_FILES = 16  # connections that come and go
SHARED = Path("/dev/shm")
SCRIPT = "tests/support/soaking.py"


@dataclass
class Tally:
    """What became of the jobs. ``hidden``: attempts that came to nothing, of which no client heard more than news."""

    done: int = 0
    hidden: int = 0
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    ids: set[bytes] = field(default_factory=set)


class Customer:
    """Bids through one gateway, several errands at a time."""

    def __init__(self, client: Client, gateway: PeerId, mixture: Mixture) -> None:
        self._client, self._gateway, self._mixture, self.tally = client, gateway, mixture, Tally()
        self._numbers = iter(range(JOBS))

    async def work(self) -> None:
        for number in self._numbers:
            await self._have_done(number, self._mixture.errand(number))
            self.tally.done += 1

    async def _have_done(self, number: int, errand: Errand) -> None:
        reasons: list[str] = []
        while len(reasons) < TRIES:
            try:
                reason = await self._once(errand)
            except PasarError as exc:
                reason = f"{type(exc).__name__}: {exc}"
            if not reason:
                self.tally.kinds[errand.pipeline] += 1
                self.tally.refused += reasons
                return
            reasons.append(f"{number} {errand.pipeline}: {reason}")
        self.tally.lost += reasons

    async def _once(self, errand: Errand) -> str:
        """Empty when it was delivered and everything checks; else why not."""
        wish, files = errand.asked.wish, errand.asked.files
        model = choose_model(await self._client.models(self._gateway, errand.pipeline), wish)
        if isinstance(model, Refusal):
            return str(model)
        bid = bid_for(wish, model, errand.pipeline, secrets.token_bytes)
        got = await self._client.bid(self._gateway, bid, self._hear, files=files)
        match got:
            case Delivered():
                heads = [(head.digest, head.size) for head in got.done.artifacts]
                assert heads == [(sha256(data).digest(), len(data)) for data in got.files]
                assert got.done.artifacts[0].media_type == errand.media_type
                assert got.receipt.spec == bid.spec.digest
                self.tally.ids.add(got.done.job_id)
                return ""
            case JobFailed():
                return f"{got.code}: {got.hint}"
            case Refusal():
                return str(got)
            case BidCancelled():
                return "cancelled"

    def _hear(self, news: object) -> None:
        if isinstance(news, JobNews) and news.event is News.RETRIED:
            self.tally.hidden += 1


@pytest.fixture
def town(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[SoakTown]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with local_market(tmp_path, request) as market:
        market.settings["TMPDIR"] = str(temporary)

        def start(role: str, name: str) -> None:
            flags = ("--role", role, "--log-json", "--data-dir", str(market.home / name))
            town.nodes[name] = market.start(*flags, script=SCRIPT)

        town = SoakTown(market, {}, temporary)
        start("gateway", "gateway")
        for name in SELLERS:
            start("orchestrator", name)
        for node in town.nodes.values():
            node.ready()
        yield town


async def every(seconds: float, act: Callable[[], Awaitable[object]]) -> None:
    while True:
        await trio.sleep(seconds)
        await act()


async def soak(town: SoakTown) -> Tally:
    """All of the jobs, with workers dying meanwhile."""
    config = load_config(home=town.market.home, local_port=town.market.port)
    instance = claim(config.home, config.network, "client", None)
    with trio.fail_after(300 + 3 * JOBS):
        async with trio.open_nursery() as nursery:
            overlay = await join(config, instance.path, nursery)
            (gateway, *_) = await find_gateways(overlay)
            client = Client(overlay.host, greeter_of(config), overlay.reach)
            for pipeline in PIPELINES:
                while [one.offers for one in (await client.models(gateway, pipeline)).models] != [len(SELLERS)]:  # noqa: ASYNC110
                    await trio.sleep(0.5)
            customer = Customer(client, gateway, Mixture(town.market.cwd / "asked", DEADLINE_MS))
            nursery.start_soon(every, KILL_EVERY_S, lambda: trio.to_thread.run_sync(town.kill_a_worker))
            nursery.start_soon(every, LOOK_EVERY_S, lambda: town.look(customer.tally.done))
            async with trio.open_nursery() as busy:
                for _ in range(AT_ONCE):
                    busy.start_soon(customer.work)
            nursery.cancel_scope.cancel()
    instance.release()
    return customer.tally


def growth(looks: list[Look]) -> float:
    """What a node took in the end against what it took when it was warm."""
    warm = [look.bytes for look in looks if look.done >= WARM_UP * JOBS]
    part = max(3, len(warm) // 4)
    return statistics.median(warm[-part:]) / statistics.median(warm[:part])


def test_a_soak_loses_nothing_and_leaves_nothing(town: SoakTown) -> None:
    tally = trio.run(soak, town)
    tell(town, tally)
    assert town.killed or JOBS < MEASURED_FROM
    assert tally.lost == []
    assert len(tally.refused) <= len(town.killed) // 2
    assert len(tally.ids) == sum(tally.kinds.values()) == JOBS
    assert set(tally.kinds) == set(PIPELINES)
    assert all(growth(looks) <= FLAT for looks in town.looks.values())
    grown = [life.growth for life in town.lives.values() if life.growth is not None]
    assert grown or JOBS < MEASURED_FROM
    assert max(grown, default=1.0) <= FLAT
    check_what_is_left(town, tally)


def tell(town: SoakTown, tally: Tally) -> None:
    """What happened, for who runs this with ``-s``."""
    print(f"{tally.done} jobs, {len(town.killed)} workers killed, {tally.hidden} attempts hidden", dict(tally.kinds))
    print("refused", tally.refused, "lost", tally.lost)
    for name, looks in town.looks.items():
        print(name, f"{growth(looks):.3f}", [f"{look.bytes / 1e6:.1f}" for look in looks[:: max(1, len(looks) // 12)]])
        print(name, "files and threads", [(look.files, look.threads) for look in looks[:: max(1, len(looks) // 12)]])
    for pid, life in town.lives.items():
        print(life.seller, pid, life.growth, [f"{size / 1e6:.1f}" for size in life.took])


def check_what_is_left(town: SoakTown, tally: Tally) -> None:
    """Each job charged once, books in order; then the nodes end, and with them everything that they had."""
    charged = {
        job for job, (state, _) in customer_jobs(town.folder("gateway") / "journal.db").items() if state == "charged"
    }
    assert charged == tally.ids
    eventually(lambda: not town.left(), "files are left", 3 * KEEP_S, lambda: str(town.left()[:20]))
    for name, looks in town.looks.items():
        first = next(look for look in looks if look.done >= WARM_UP * JOBS)
        node = psutil.Process(town.nodes[name].node)
        assert node.num_fds() <= first.files + SPARE_FILES
        assert [child.status() for child in node.children()].count(psutil.STATUS_ZOMBIE) == 0
        assert len(town.children(name)) == (name in SELLERS)
        assert violations(town.folder(name) / "journal.db") == ()
        assert "Traceback" not in town.nodes[name].errors(), town.nodes[name].tail()
    mine = [psutil.Process(process.node) for process in town.nodes.values()]
    mine += town.workers().values()
    for process in town.nodes.values():
        process.signal(signal.SIGTERM)
    assert [process.wait(90) for process in town.nodes.values()] == [0] * len(town.nodes)
    _, alive = psutil.wait_procs(mine, timeout=30)
    assert not alive
    assert not list(town.market.home.rglob("*.sock"))
    assert town.left() == []
    assert not list(SHARED.glob("*pasar*"))
