"""A seller offers no more places than its machine has: what ran second in one place would be late."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from benchmarks.noop_worker import NoopWorker
from market.orchestrator import Orchestrator
from tests.support.market_values import PIPELINE
from tests.support.marketplace import marketplace


@pytest.mark.parametrize(("asked", "runs", "offered"), [(2, 1, 1), (2, 4, 2), (1, 1, 1)])
async def test_places_are_those_that_the_machine_has(tmp_path: Path, asked: int, runs: int, offered: int) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            seller = (await market.orchestrator(2, 2_000_000, NoopWorker(slots=runs), slots=asked)).role
            assert isinstance(seller, Orchestrator)
            offer = seller.offering.current(PIPELINE)
            assert offer is not None
            assert offer.slots == offered
