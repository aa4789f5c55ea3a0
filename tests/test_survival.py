"""A whole market of real processes in which nodes, workers and supervisors are killed in the middle of a job.

Only the device is pretended, so that a job lasts as long as a test wants.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.bookkeeping import BookPair, book_pair, customer_jobs, violations
from tests.support.model_folders import hollow_model
from tests.support.processes import BidOutcome, LocalMarket, Process, eventually, local_market, news_of, outcome

pytestmark = pytest.mark.live

ROLES = {"gateway": "gateway", "seller": "orchestrator"}
STEPS = 900


@dataclass
class Town:
    """A gateway, at which everybody meets, and the only seller."""

    market: LocalMarket
    nodes: dict[str, Process]

    @property
    def go(self) -> Path:
        """While this file is there the pretended device hurries."""
        return self.market.home / "seller" / "worker" / "traces" / "worker" / "go"

    def journal(self, name: str) -> Path:
        return self.market.home / name / "journal.db"

    def books(self) -> BookPair:
        addresses = {}
        for name, node in self.nodes.items():
            said = json.loads(node.stdout[0].removeprefix("READY "))
            addresses[name] = bytes.fromhex(said["address"].removeprefix("0x"))
        return book_pair(self.journal("gateway"), self.journal("seller"), addresses["gateway"], addresses["seller"])

    def workers(self) -> list[psutil.Process]:
        """Those of this market."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "--socket" in line and any(str(self.market.home) in word for word in line):
                found.append(process)
        return found

    def bid(self, *flags: str, prompt: str = "slow") -> Process:
        """A job that is under way: its first steps are done."""
        self.go.unlink(missing_ok=True)
        for name, node in self.nodes.items():
            eventually(lambda node=node: spares(node) > back(node), f"{name} has no spare", more=node.tail)
        bidding = self.market.bidding(prompt, "--steps", str(STEPS), "--deadline", "600", *flags)
        bidding.said('"step": 10,')
        return bidding

    def again(self, name: str, before: int) -> None:
        """Wait until this node serves again."""
        node = self.nodes[name]
        eventually(lambda: back(node) > before, f"{name} is not back", more=node.tail)


def back(node: Process) -> int:
    """How often a node has come back."""
    return node.errors().count("ready again")


def spares(node: Process) -> int:
    """How often a spare has come to stand by."""
    return node.errors().count("a spare stands by")


def last_step(bidding: Process) -> int:
    return max((one["step"] for one in news_of(bidding) if one["event"] == "step"), default=0)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Generator[Town]:
    folder = tmp_path_factory.mktemp("survival")
    with local_market(folder, request) as market:
        market.settings["PASAR_MODELS"] = str(hollow_model(folder / "model"))
        nodes = {
            name: market.start(
                *("--role", role, "--log-json", "--data-dir", str(market.home / name)),
                script="tests/support/pretending.py",
            )
            for name, role in ROLES.items()
        }
        for node in nodes.values():
            node.ready()
        nodes["gateway"].said('"offers": 1')
        yield Town(market, nodes)


@pytest.fixture(autouse=True)
def nobody_stumbles(town: Town) -> Generator[None]:
    """No traceback on any terminal, one READY from each, and books that never contradict themselves."""
    yield
    for name, node in town.nodes.items():
        assert "Traceback" not in node.errors(), node.tail()
        assert len(node.stdout) == 1
        assert violations(town.journal(name)) == ()


def check(town: Town, got: BidOutcome) -> None:
    """Delivered under one id, by one attempt, paid once; both sides agree to the wei on what was paid and used."""
    assert got.code == 0, got.process.tail()
    job = got.report["job_id"]
    assert {one["job_id"] for one in got.news if one.get("job_id")} == {job}
    assert got.report["tried"] == [got.report["orchestrator"]]
    steps = [one["step"] for one in got.news if one["event"] == "step"]
    assert steps == sorted(set(steps))  # it went on, it did not begin again
    assert customer_jobs(town.journal("gateway"))[bytes.fromhex(job)] == ("charged", got.report["price_wei"])
    eventually(lambda: town.books().agree, f"the books differ: {town.books()}", 30)


def test_the_sellers_node_is_killed_and_its_worker_goes_on(town: Town) -> None:
    (worker,), before = town.workers(), back(town.nodes["seller"])
    bidding = town.bid()
    node = town.nodes["seller"].kill_node()
    town.again("seller", before)
    seen = last_step(bidding)
    eventually(lambda: last_step(bidding) > seen, "the job does not go on", more=bidding.tail)
    assert [one.pid for one in town.workers()] == [worker.pid]
    assert worker.is_running()
    assert town.nodes["seller"].node != node
    town.go.touch()
    check(town, outcome(bidding))


@pytest.mark.prove
def test_the_gateways_node_is_killed_and_the_client_gets_its_picture(town: Town) -> None:
    before = back(town.nodes["gateway"])
    bidding = town.bid()
    town.nodes["gateway"].kill_node()
    town.again("gateway", before)
    seen = last_step(bidding)
    eventually(lambda: last_step(bidding) > seen, "the job does not go on", more=bidding.tail)
    town.go.touch()
    check(town, outcome(bidding))


@pytest.mark.prove
def test_both_nodes_are_killed_at_once(town: Town) -> None:
    before = {name: back(node) for name, node in town.nodes.items()}
    bidding = town.bid()
    for node in town.nodes.values():
        node.kill_node()
    for name, times in before.items():
        town.again(name, times)
    town.go.touch()
    check(town, outcome(bidding))


def test_a_worker_killed_in_a_job_is_replaced_and_the_job_is_done_all_the_same(town: Town) -> None:
    (worker,) = town.workers()
    bidding = town.bid()
    town.go.touch()  # the second time it does not take so long
    worker.kill()
    got = outcome(bidding)
    assert got.code == 0, got.process.tail()
    assert got.report["tried"] == [got.report["orchestrator"]]  # nobody else is there to be asked
    # run again where it was, once: its gateway has nothing to do about it
    assert [one["event"] for one in got.news if one["event"] in ("retried", "sealed")] == ["sealed"]
    (other,) = town.workers()
    assert other.pid != worker.pid
    assert customer_jobs(town.journal("gateway"))[bytes.fromhex(got.report["job_id"])] == (
        *("charged", got.report["price_wei"]),
    )
    eventually(lambda: town.books().explained, f"the books differ: {town.books()}", 30)


def test_without_its_supervisor_a_node_finishes_its_job_and_leaves_nothing_behind(town: Town) -> None:
    seller = town.nodes["seller"]
    bidding = town.bid()
    left = [psutil.Process(seller.node), *town.workers()]
    os.kill(seller._child.pid, signal.SIGKILL)
    seller.said("stopping: finishing what is under way")
    town.go.touch()
    got: Any = outcome(bidding)
    check(town, got)
    gone, alive = psutil.wait_procs(left, timeout=60)
    assert not alive, [one.cmdline() for one in alive]
    assert len(gone) == 2
