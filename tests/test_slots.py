"""A seller offers no more places than its machine has: what ran second in one place would be late."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from benchmarks.noop_worker import MODEL, NoopWorker
from compute.spec import JobShape
from market.orchestrator import Orchestrator
from tests.support.market_values import PIPELINE
from tests.support.marketplace import marketplace


@pytest.mark.parametrize(("asked", "runs", "offered"), [(2, 1, 1), (2, 4, 2), (1, 1, 1), (None, 3, 3)])
async def test_places_are_those_that_the_machine_has(
    tmp_path: Path, asked: int | None, runs: int, offered: int
) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            seller = (await market.orchestrator(2, 2_000_000, NoopWorker(slots=runs), slots=asked)).role
            assert isinstance(seller, Orchestrator)
            offer = seller.offering.current(PIPELINE)
            assert offer is not None
            assert offer.slots == offered


class Sharing(NoopWorker):
    """Jobs that run at the same time slow each other down."""

    def crowded_ms(self, shape: JobShape, jobs: int) -> int:
        return self.capability().predict_ms(shape) * jobs


async def test_a_promise_holds_when_every_place_is_taken(tmp_path: Path) -> None:
    shape = JobShape(PIPELINE, MODEL, 64, 64, 4, True)
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            machine = Sharing(step_s=0.1, slots=8)
            seller = (await market.orchestrator(2, 2_000_000, machine, slots=3)).role
            assert isinstance(seller, Orchestrator)
            assert seller._places(shape).run_ms == 3 * machine.capability().predict_ms(shape)


class Measured(NoopWorker):
    """Finds out late what it gains from company."""

    worth = 1

    def places(self, shape: JobShape, beside: Sequence[JobShape]) -> int:
        return max(0, self.worth - len(beside))


async def test_an_offer_says_more_places_once_the_machine_has_measured_itself(tmp_path: Path) -> None:
    shape = JobShape(PIPELINE, MODEL, 64, 64, 4, True)
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            machine = Measured(slots=16)
            seller = (await market.orchestrator(2, 2_000_000, machine, slots=None)).role
            assert isinstance(seller, Orchestrator)
            assert seller._places(shape).free == 1
            machine.worth = 4
            while (offer := seller.offering.current(PIPELINE)) is None or offer.slots != 4:  # noqa: ASYNC110 - it looks itself
                await trio.sleep(0.01)
            load = seller._load(PIPELINE)
            assert load is not None
            assert load.free == seller._places(shape).free == 4
