"""Pricing: an orchestrator's price list on the machine that it has.

Costs come from the cost book; one that nobody knew yet is taken from the machine, and written down there. Knows no
offer and no buyer.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from compute.capability import Capability
from compute.costbook import CostBook
from compute.spec import TEXT_TO_IMAGE
from market.prices import PriceList, dearest

log = structlog.get_logger(__name__)


class Pricing:
    """``device`` names where the machine runs its models, once it knows. Costs of one device are one list."""

    def __init__(self, prices: PriceList, book: CostBook, device: Callable[[], str]) -> None:
        self._prices, self._book, self._device = prices, book, device

    async def learn(self, capability: Capability) -> None:
        """Write down what was measured for the first time."""
        device = self._device()
        for entry in capability.models:
            if entry.unit_ps and not self._book.of(device, entry.pipeline, entry.model):
                await trio.to_thread.run_sync(self._book.put, device, entry.pipeline, entry.model, entry.unit_ps)
                log.info("unit measured", pipeline=entry.pipeline, model=entry.name, picoseconds=entry.unit_ps)

    def ask(self, pipeline: str, capability: Capability) -> int:
        """Wei for a million units of a pipeline, now."""
        device = self._book.known(self._device())
        known = ((e.pipeline, self._book.of(device, e.pipeline, e.model)) for e in capability.models)
        costs = dearest(known)
        costs.setdefault(TEXT_TO_IMAGE, self._book.reference(device))
        return self._prices.of(pipeline, costs)
