"""Jobs that a seller's machine refuses: who is believed, who is asked next, and what it does to whose name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from compute.spec import JobSpec
from compute.work import JobResult, Step
from market.bidwire import JobFailed
from market.client import Delivered, Ending
from market.conversation import now_ms
from market.gateway import Gateway
from market.reputation import Record
from p2p.errors import Refused
from tests.support.marketplace import Marketplace, Place, marketplace


class Picky(NoopWorker):
    """Finds fault with every job."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code, self.asked = code, 0

    async def generate(
        self,
        job_id: bytes,
        spec: JobSpec,
        on_step: Callable[[Step], None],
        files: Sequence[bytes] = (),
        *,
        due_ms: int = 0,
    ) -> JobResult:
        self.asked += 1
        raise Refused(self.code, "not that one", have=1, need=2)


async def sold(market: Marketplace, gateway: Place, *machines: Any) -> tuple[Ending, list[Place]]:
    """How one bid ends where these sell, the first one cheapest."""
    sellers = [await market.orchestrator(2 + n, (1 + n) * 1_000_000, machine) for n, machine in enumerate(machines)]
    client, _ = await market.client(9)
    bid = await market.bid(client, gateway.key.peer, prefer="price", limit=10**9)
    return await client.bid(gateway.key.peer, bid, lambda news: None), sellers


def known_of(gateway: Place, seller: Place) -> Record:
    assert isinstance(gateway.role, Gateway)
    assert gateway.books.standing(seller.key.address).faults == 0
    return gateway.role.reputation.of(seller.key.peer, now_ms())


@pytest.mark.parametrize(("code", "said"), [("BAD_SOUND", "BAD_INPUT"), ("SOUND_UNSERVED", "POLICY")])
async def test_where_nobody_else_is_there_one_no_is_enough(tmp_path: Path, code: str, said: str) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway, machine = await market.gateway(1), Picky(code)
            got, (seller,) = await sold(market, gateway, machine)
            assert isinstance(got, JobFailed)
            assert (got.code, got.hint, got.charged) == (said, f"{code}: not that one", 0)
            assert machine.asked == 1
            assert known_of(gateway, seller).jobs == 0


async def test_a_fault_that_two_find_is_one_and_nobody_is_blamed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway, machines = await market.gateway(1), [Picky("BAD_PICTURE"), Picky("PICTURE_TOO_LARGE")]
            got, sellers = await sold(market, gateway, *machines)
            assert isinstance(got, JobFailed)
            assert got.code == "BAD_INPUT"
            assert set(got.tried) == {seller.key.peer for seller in sellers}
            assert [machine.asked for machine in machines] == [1, 1]
            assert [known_of(gateway, seller).jobs for seller in sellers] == [0, 0]


async def test_who_finds_fault_with_what_another_does_has_failed_a_job(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway, liar = await market.gateway(1), Picky("BAD_PICTURE")
            got, (first, second) = await sold(market, gateway, liar, NoopWorker())
            assert isinstance(got, Delivered)
            assert got.done.orchestrator == second.key.peer
            assert known_of(gateway, first).failed_in_row == liar.asked
            assert known_of(gateway, second).failed_in_row == 0


async def test_what_one_lacks_another_has(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            got, (first, second) = await sold(market, gateway, Picky("SOUND_UNSERVED"), NoopWorker())
            assert isinstance(got, Delivered)
            assert got.done.orchestrator == second.key.peer
            assert known_of(gateway, first).failed_in_row == 0


async def test_a_machine_that_lacks_what_it_offers_has_failed(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway, broken = await market.gateway(1), Picky("BROKEN_MODEL")
            got, (first, _) = await sold(market, gateway, broken, NoopWorker())
            assert isinstance(got, Delivered)
            assert known_of(gateway, first).failed_in_row == broken.asked
