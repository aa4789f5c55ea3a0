"""Several devices in truth: two workers with real models, and a market of processes whose seller has a guest."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path

import psutil
import pytest
import trio

from compute.digestcache import DigestCache
from compute.fleet import Fleet
from compute.joinkey import KEY_FILE
from compute.modelfolder import bundled
from compute.served import read_folders
from compute.work import JobResult
from market.config import load_config
from market.devices import worker_configs
from tests.contracts.worker import ignore, until
from tests.support.job_specs import job_id, job_spec
from tests.support.processes import LocalMarket, Process, eventually, free_port_pair, local_market

pytestmark = [pytest.mark.live, pytest.mark.prove]
PRETENDING = "tests/support/pretending.py"


async def test_two_real_devices_work_at_the_same_time_and_make_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    configs = worker_configs(load_config(home=tmp_path, threads=1), tmp_path, ("cpu", "cpu"))
    machine = Fleet(configs, partial(read_folders, (bundled("tiny"),), DigestCache(tmp_path / "digests.json")), 1)
    results: dict[bytes, JobResult] = {}
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.run)
            spec = job_spec(machine.capability().models[0].model, steps=40)
            await until(lambda: all(w.connected and w.capability().models[0].warm for w in machine.workers))
            both = trio.Event()

            async def one(job: bytes) -> None:
                results[job] = await machine.generate(job, spec, ignore)

            async with trio.open_nursery() as jobs:
                for name in "ab":
                    jobs.start_soon(one, job_id(name))
                await until(lambda: results or all(worker.queue_depth == 1 for worker in machine.workers))
                both.set()
            assert len({worker.pid for worker in machine.workers}) == 2
            nursery.cancel_scope.cancel()
    first, second = results.values()
    assert first.artifacts == second.artifacts


@pytest.fixture
def market(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[LocalMarket]:
    with local_market(tmp_path, request) as market:
        market.role("bootstrap").ready()
        market.role("gateway").ready()
        yield market


def worker_of(process: Process) -> psutil.Process | None:
    """The worker process below one of ours."""
    below = psutil.Process(process._child.pid).children(recursive=True)
    return next((child for child in below if any("pretend_worker" in word for word in child.cmdline())), None)


def test_a_seller_with_a_guest_serves_while_either_worker_is_killed(market: LocalMarket) -> None:
    home, port = market.home / "seller", free_port_pair()
    flags = ("--role", "orchestrator", "--data-dir", str(home), "--device", "cpu", "--device", f"127.0.0.1:{port}")
    seller = market.start(*flags, script=PRETENDING)
    seller.ready()
    guest = market.start(
        *("worker", "--connect", f"127.0.0.1:{port}", "--key", str(home / KEY_FILE)),
        *("--name", "far", "--data-dir", str(market.home / "far")),
        script=PRETENDING,
    )
    guest.said("connected to")
    seller.said("worker of another host came")
    assert market.bid("slow", "--steps", "4").code == 0
    for owner in (seller, guest):
        worker = eventually(lambda owner=owner: worker_of(owner), "no worker", more=owner.tail)
        worker.kill()
        for bidding in [market.bidding("slow", "--steps", "8", "--deadline", "60") for _ in range(2)]:
            assert bidding.wait() == 0, bidding.tail()
        again = eventually(lambda owner=owner: worker_of(owner), "it was not started again", more=owner.tail)
        assert again.pid != worker.pid
    far = worker_of(guest)
    guest.end()
    assert far is not None
    eventually(lambda: not far.is_running() or far.status() == psutil.STATUS_ZOMBIE, "the guest left its worker behind")
    assert market.bid("slow", "--steps", "4").code == 0
    for process in (seller, guest):
        assert "Traceback" not in process.errors(), process.tail()
